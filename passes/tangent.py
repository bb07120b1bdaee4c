"""Tangent propagation: insensitivity to known variations, given as tangent vectors ``τ_k`` of each input.

Original (Simard et al. 2012; papers 001/002, section 2.1, Eq. 3): penalty on the predictions,
``R = sum_k ℓ(∇_θ o(x + θ τ_k)) = sum_k ℓ(t^k_o)``. For each tangent a third pass ``t^k`` from ``τ_k`` and a backward pass
``u^k`` from ``ℓ'(t^k_o)``; weight gradient ``sum_k G(t^k, u^k)``. The exact form adds one fourth pass with curvature
``sum_k k(t^k, u^k)``; on piecewise-linear networks with the penalty at the logits it is zero, and published and exact are the
same.

Fast (papers 001/002, section 4.1, Eq. 10): penalty on the loss, ``R = sum_k ℓ(dy_0 · τ_k)``, with the ``ℓ`` of Eq. 3, which
Eq. 10 leaves out. It is a penalty on ``dy_0``, so ONE
third pass from ``t_0 = sum_k ℓ'(dy_0 · τ_k) τ_k`` serves any number of tangents.

Here ``ℓ(v) = (1/r) ‖v‖_r^r``.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from convnet.batch import Batch
from convnet.layers.base import flag
from convnet.layers.containers import added
from convnet.passes.algorithm import (
    InputGradientPenalty,
    Run,
    checked_coefficient,
    checked_norm,
    checked_place,
    norm_penalty,
)
from convnet.passes.objective import Objective
from convnet.passes.walk import FirstPass, Trace, fourth_pass, second_pass, third_pass

Array = Any


@dataclass(frozen=True)
class TangentProp(InputGradientPenalty):
    """Tangent propagation.

    Parameters
    ----------
    beta : float
        Weight ``β`` of the penalty.
    norm : {1, 2}
        ``r`` in ``ℓ(v) = (1/r) ‖v‖_r^r``.
    at : {"logits", "output"}
        What the original form's penalty is about. The papers leave the softmax Jacobian out, hence "logits".
    fast : bool
        True for the penalty on the loss.
    exact : bool
        False for the published gradient, True for the gradient of the whole objective.

    Raises
    ------
    ValueError
        If an option is out of range, or `at` is given with ``fast=True``, which has no predictions to penalise.
    """

    beta: float
    norm: int = 1
    at: str = "logits"
    fast: bool = False
    exact: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", checked_coefficient("beta", self.beta))
        checked_norm(self.norm)
        flag("fast", self.fast)
        flag("exact", self.exact)
        if checked_place(self.at) != "logits" and self.fast:
            raise ValueError(f"at is {self.at!r} with fast=True: the fast form penalises the loss and has no such choice")

    @property
    def coefficient(self) -> float:
        """``β``."""
        return self.beta

    @property
    def seeded(self) -> bool:  # type: ignore[override]
        """Only the fast form is a penalty on ``dL/dx``."""
        return self.fast

    def check(self, batch: Batch) -> None:
        """Raise ValueError if the batch brings no tangents."""
        if batch.tangents is None:
            raise ValueError("tangent propagation needs tangents: pass Batch(images, labels, tangents) with an array "
                             "(N, M, ...), as convnet.data.tangents computes it")

    def seed(self, run: Run, dy_0: Array) -> tuple[Array, Array]:
        """Fast form: return ``sum_k ℓ(dy_0 · τ_k)`` and its derivative ``sum_k ℓ'(dy_0 · τ_k) τ_k``."""
        tangents = self._tangents(run)
        n, m = tangents.shape[:2]
        flat = tangents.reshape(n, m, -1)
        change = (flat * dy_0.reshape(n, 1, -1)).sum(axis=2)  # (N, M): dL/dθ of each tangent
        penalty, slope = norm_penalty(change, self.norm)
        return penalty, (slope[:, :, None] * flat).sum(axis=1).reshape(dy_0.shape)

    def penalise(self, run: Run, objective: Objective, y: FirstPass, dy: Trace) -> tuple[Array, list[tuple[Trace, Trace]]]:
        """Original form: passes 3 and 2 for each tangent, for the exact gradient one pass 4. Fast form: one pass 3."""
        if self.fast:
            return super().penalise(run, objective, y, dy)
        readout = objective.readout(self.at)
        penalty, products, s_k = 0, [], None
        tangents = self._tangents(run)
        for k in range(tangents.shape[1]):
            t = third_pass(y, run.net.xp.ascontiguousarray(tangents[:, k]))
            value, u_o = norm_penalty(readout.third(t.output), self.norm)
            penalty = penalty + value
            products.append((t, second_pass(y, readout.backward(u_o), to_input=False)))
            if self.exact:
                s_k = added(s_k, readout.curvature(t.output, u_o))
        if self.exact:
            products.append((y, fourth_pass(y, s_k, list(products))))
        return penalty, products

    @staticmethod
    def _tangents(run: Run) -> Array:
        return run.net.xp.asarray(run.batch.tangents, dtype=run.net.dtype)
