"""Loss IBP: the loss is trained to be insensitive to all variations of the input (papers 001/002, section 3.1, Algorithm 1).

Penalty ``R = (1/r) ‖dy_0‖_r^r`` with ``dy_0 = dL/dx`` (Eq. 6).

1. Forward and backward pass: ``y``, ``dy``.
2. Third pass ``t`` from ``t_0 = dR/d(dy_0)``: ``sign(dy_0)`` or ``dy_0``; no biases, the first pass's positions.
3. Published weight gradient of ``R``: ``G(t, dy)``. It holds the output error ``dy_K`` constant. Together with backprop's own
   product this is one: ``G(y + β t, dy)``.

The exact gradient also follows the output error's dependence on the weights. It adds the fourth pass ``s`` from
``s_K = H_L(z) t_K``, with curvature ``k(t, dy)``, and the product ``G(y, s)``.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from convnet.passes.algorithm import Penalty, Run, checked_coefficient, checked_norm, norm_penalty
from convnet.passes.objective import Objective
from convnet.passes.walk import FirstPass, Trace, fourth_pass, third_pass

Array = Any


@dataclass(frozen=True)
class LossIBP(Penalty):
    """Loss invariant backpropagation.

    Parameters
    ----------
    beta : float
        Weight ``β`` of the penalty.
    norm : {1, 2}
        ``r`` in ``(1/r) ‖dL/dx‖_r^r``.
    exact : bool
        False for the published gradient, True for the gradient of the whole objective.

    Notes
    -----
    Papers 001/002, sections 3.1 and 3.3; Eq. 6-8; Algorithm 1.
    """

    beta: float
    norm: int = 1
    exact: bool = False

    needs_input_gradient = True

    def __post_init__(self) -> None:
        checked_coefficient("beta", self.beta)
        checked_norm(self.norm)

    @property
    def coefficient(self) -> float:
        """``β``."""
        return self.beta

    def penalise(self, run: Run, objective: Objective, y: FirstPass, dy: Trace) -> tuple[Array, list[tuple[Trace, Trace]]]:
        """Pass 3; for the exact gradient pass 4."""
        penalty, t_0 = norm_penalty(dy.output, self.norm)
        return penalty, input_gradient_products(objective, y, dy, t_0, self.exact)


def input_gradient_products(
    objective: Objective, y: FirstPass, dy: Trace, t_0: Array, exact: bool
) -> list[tuple[Trace, Trace]]:
    """Return the products that make up ``d/dw R(dy_0)``, given ``t_0 = dR/d(dy_0)``.

    Shared by all penalties on ``dy_0``: Loss IBP, Fast Tangent BP, double backpropagation.
    """
    t = third_pass(y, t_0, to_output=exact)
    if not exact:
        return [(t, dy)]
    s = fourth_pass(y, objective.hessian_product(t.output), [(t, dy)])
    return [(t, dy), (y, s)]
