"""Sums of penalties: they share the first and second pass, and all penalties on ``dL/dx`` of one form share a third pass.

``R = sum_i c_i R_i``. For penalties on ``dy_0`` the third pass is linear in its start, so it is run once, from
``sum_i c_i dR_i/d(dy_0)``.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from convnet.batch import Batch
from convnet.passes.algorithm import Penalty, Run, input_gradient_products
from convnet.passes.objective import Objective
from convnet.passes.walk import FirstPass, Trace

Array = Any


@dataclass(frozen=True)
class SumOfPenalties(Penalty):
    """Several penalties at once, as ``LossIBP(0.01) + TangentProp(0.1)`` makes it.

    Parameters
    ----------
    parts : tuple of Penalty

    Notes
    -----
    The step's `penalty` is the weighted sum ``sum_i c_i R_i``.
    """

    parts: tuple[Penalty, ...]

    @classmethod
    def of(cls, *penalties: Penalty) -> SumOfPenalties:
        """Return the sum of `penalties`; sums among them are taken apart.

        Raises
        ------
        TypeError
            If one of them is not a penalty: algorithms that change the input or the loss (backprop, adversarial training,
            noise injection) cannot be added.
        """
        parts: list[Penalty] = []
        for penalty in penalties:
            if not isinstance(penalty, Penalty):
                raise TypeError(f"{penalty!r} is not a penalty and cannot be added: LossIBP, PredictionIBP, TangentProp, "
                                "DoubleBackprop, JacobianRegularizer and HessianFrobenius can")
            parts += penalty.parts if isinstance(penalty, SumOfPenalties) else [penalty]
        return cls(tuple(parts))

    @property
    def needs_input_gradient(self) -> bool:  # type: ignore[override]
        """Whether any part does."""
        return any(part.needs_input_gradient for part in self.parts)

    def check(self, batch: Batch) -> None:
        """Raise ValueError if the batch lacks what a part needs."""
        for part in self.parts:
            part.check(batch)

    def contributions(
        self, run: Run, objective: Objective, y: FirstPass, dy: Trace
    ) -> list[tuple[float, Array, list[tuple[Trace, Trace]]]]:
        """Return the parts' contributions; those on ``dy_0`` with the same form come as one."""
        found = []
        for exact in (False, True):
            parts = [part for part in self.parts if part.seeded and part.exact == exact]
            if parts:
                seeds = [(part.coefficient, *part.seed(run, dy.output)) for part in parts]
                penalty = sum(c * value for c, value, _ in seeds)
                t_0 = sum(c * start for c, _, start in seeds)
                found.append((1.0, penalty, input_gradient_products(objective, y, dy, t_0, exact)))
        for part in self.parts:
            if not part.seeded:
                found += part.contributions(run, objective, y, dy)
        return found
