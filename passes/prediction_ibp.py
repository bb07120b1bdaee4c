"""Prediction IBP: the predictions are trained to be insensitive to the variation that changes the loss most.

Penalty ``R = (1/r) ‖∇_ε o(x + ε dy_0)‖_r^r = ℓ(t_o)`` with ``dy_0 = dL/dx`` (papers 001/002, section 3.2, Eq. 9), at the
logits or at the output ``o``.

1. Forward and backward pass: ``y``, ``dy``.
2. Third pass ``t`` from ``t_0 = dy_0`` to the end: ``R = ℓ(t_o)``.
3. Backward pass ``u`` from ``ℓ'(t_o)`` through the linearised network. Published weight gradient: ``G(t, u)``.

The exact gradient also follows how the Jacobian and ``dy_0`` depend on the weights. ``dR/d(dy_0) = u_0``, so the second of
them is a penalty on ``dy_0``: a third pass ``t'`` from ``u_0``, giving ``G(t', dy)``. One fourth pass serves both:
``s_K = H_L(z) t'_K`` (plus the output's curvature), with curvature ``k(t, u) + k(t', dy)``, giving ``G(y, s)``.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from convnet.layers.base import flag
from convnet.layers.containers import added
from convnet.passes.algorithm import Penalty, Run, checked_coefficient, checked_norm, checked_place, norm_penalty
from convnet.passes.objective import Objective
from convnet.passes.walk import FirstPass, Trace, fourth_pass, second_pass, third_pass

Array = Any


@dataclass(frozen=True)
class PredictionIBP(Penalty):
    """Prediction invariant backpropagation.

    Parameters
    ----------
    beta : float
        Weight ``β`` of the penalty.
    norm : {1, 2}
        ``r`` in ``ℓ(v) = (1/r) ‖v‖_r^r``.
    at : {"logits", "output"}
        What the penalty is about. The paper leaves the softmax Jacobian out of the extra passes, hence "logits".
    exact : bool
        False for the published gradient, True for the gradient of the whole objective.

    Notes
    -----
    Papers 001/002, section 3.2, Eq. 9, and section 5 for the softmax.
    """

    beta: float
    norm: int = 1
    at: str = "logits"
    exact: bool = False

    needs_input_gradient = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", checked_coefficient("beta", self.beta))
        checked_norm(self.norm)
        checked_place(self.at)
        flag("exact", self.exact)

    @property
    def coefficient(self) -> float:
        """``β``."""
        return self.beta

    def penalise(self, run: Run, objective: Objective, y: FirstPass, dy: Trace) -> tuple[Array, list[tuple[Trace, Trace]]]:
        """Pass 3, a second pass 2; for the exact gradient another pass 3 and pass 4."""
        readout = objective.readout(self.at)
        t = third_pass(y, dy.output)
        penalty, u_o = norm_penalty(readout.third(t.output), self.norm)
        u = second_pass(y, readout.backward(u_o), to_input=self.exact)
        if not self.exact:
            return penalty, [(t, u)]
        t_prime = third_pass(y, u.output)
        s_k = added(objective.hessian_product(t_prime.output), readout.curvature(t.output, u_o))
        s = fourth_pass(y, s_k, [(t, u), (t_prime, dy)])
        return penalty, [(t, u), (t_prime, dy), (y, s)]
