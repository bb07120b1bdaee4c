"""Loss IBP: the loss is trained to be insensitive to all variations of the input (papers 001/002, section 3.1, Algorithm 1).

Penalty ``R = (1/r) ‖dy_0‖_r^r`` with ``dy_0 = dL/dx`` (Eq. 6).

1. Forward and backward pass: ``y``, ``dy``.
2. Third pass ``t`` from ``t_0 = dR/d(dy_0)``: ``sign(dy_0)`` or ``dy_0``; no biases, the first pass's positions.
3. Published weight gradient of ``R``: ``G(t, dy)``. It holds the output error ``dy_K`` and the activations in the Jacobians
   constant. Together with backprop's own product this is one: ``G(y + β t, dy)``.

The exact gradient also follows what both owe to the weights. It adds the fourth pass ``s`` from
``s_K = H_L(z) t_K``, with curvature ``k(t, dy)``, and the product ``G(y, s)``.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from convnet.layers.base import flag
from convnet.passes.algorithm import InputGradientPenalty, Run, checked_coefficient, checked_norm, norm_penalty

Array = Any


@dataclass(frozen=True)
class LossIBP(InputGradientPenalty):
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", checked_coefficient("beta", self.beta))
        checked_norm(self.norm)
        flag("exact", self.exact)

    @property
    def coefficient(self) -> float:
        """``β``."""
        return self.beta

    def seed(self, run: Run, dy_0: Array) -> tuple[Array, Array]:
        """Return ``(1/r) ‖dy_0‖_r^r`` and its derivative."""
        return norm_penalty(dy_0, self.norm)


@dataclass(frozen=True)
class DoubleBackprop(InputGradientPenalty):
    """Double backpropagation: penalty ``‖dL/dx‖²`` with its exact gradient (paper 003, Eq. 49; Drucker and LeCun 1992).

    The same as exact Loss IBP with ``r = 2`` and ``β = 2 · strength``.

    Parameters
    ----------
    strength : float
        Weight ``λ`` of the penalty.
    """

    strength: float

    exact = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", checked_coefficient("strength", self.strength))

    @property
    def coefficient(self) -> float:
        """``λ``."""
        return self.strength

    def seed(self, run: Run, dy_0: Array) -> tuple[Array, Array]:
        """Return ``‖dy_0‖²`` and its derivative ``2 dy_0``."""
        half, t_0 = norm_penalty(dy_0, 2)
        return 2 * half, 2 * t_0
