"""Penalties on the Jacobian of the network: ``R = sum_c ‖J^T q_c(z)‖²``, ``J = dz/dx`` (paper 003, sections 5.1.2 and 6.2).

========================  ============================  =====================================
regulariser               ``q_c``                       ``R``
========================  ============================  =====================================
Frobenius (FrobReg)       ``e_c``                       ``‖dz/dx‖_F²`` (Eq. 56)
Jacobian (JacReg)         ``J_o^T e_c``, ``o(z)`` the   ``‖do/dx‖_F²`` (Eq. 50)
                          output; ``p_c (e_c - p)``
                          for the softmax
Hessian-scaled Frobenius  ``sum_c q_c q_c^T = H_L``;    ``Tr(J^T H_L J)`` (Eq. 63)
                          ``√p_c (e_c - p)`` for the
                          softmax
========================  ============================  =====================================

For each ``c``: a backward pass ``b`` from ``q_c``, which gives ``R_c = ‖b_0‖²``, and a third pass ``t`` from ``2 b_0``; weight
gradient ``G(t, b)``. One fourth pass for all of them follows the dependence of ``q_c`` and of the Jacobians:
``s_K = sum_c (dq_c/dz)^T t_K`` with curvature ``sum_c k(t, b)``, giving ``G(y, s)``. The gradient is exact; there is no other
published form.

A backward pass carries the rows of all samples at once. Where samples are coupled, by batch normalisation in training mode,
``b_0`` of a sample is the derivative of the whole batch's ``sum_n q_c · z_n`` in its input, cross terms included, as ``dy_0``
is that of the whole batch's loss.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from convnet.layers.base import whole_number
from convnet.layers.containers import added
from convnet.passes.algorithm import Penalty, Run, checked_coefficient, checked_place
from convnet.passes.objective import Objective
from convnet.passes.walk import FirstPass, Trace, fourth_pass, second_pass, third_pass

Array = Any
Products = list[tuple[Trace, Trace]]
# q_c (N, K), and t -> (dq_c/dz)^T t, or None where q_c is constant.
Factor = tuple[Array, Callable[[Array], Array | None] | None]


def squared_rows(y: FirstPass, factors: Sequence[Factor]) -> tuple[Array, list[Trace]]:
    """Return ``sum_c ‖J^T q_c‖²`` of each sample and the backward pass of each ``q_c``."""
    rows = [second_pass(y, q) for q, _ in factors]
    return sum((b.output**2).reshape(len(b.output), -1).sum(axis=1) for b in rows), rows


def row_products(
    y: FirstPass, factors: Sequence[Factor], rows: Sequence[Trace], weights: Sequence[Array | None]
) -> Products:
    """Return the products that make up the weight gradient of ``sum_c ω_c ‖J^T q_c‖²``.

    Parameters
    ----------
    y : FirstPass
    factors, rows : sequence
        As given to and returned by `squared_rows`.
    weights : sequence of array, (N,), or None
        ``ω_c``, held constant; None for 1.
    """
    products: Products = []
    s_k = None
    # Beyond the last weights the tangent counts for q_c's dependence on the logits and for the curvature of what stands there.
    curved_end = any(layer.curved for layer in y.root.exit())
    for (_, derivative), b, weight in zip(factors, rows, weights, strict=True):
        t_0 = 2 * b.output
        if weight is not None:
            t_0 = weight.reshape(-1, *(1,) * (t_0.ndim - 1)) * t_0
        t = third_pass(y, t_0, to_output=curved_end or derivative is not None)
        products.append((t, b))
        if derivative is not None:
            s_k = added(s_k, derivative(t.output))
    return [*products, (y, fourth_pass(y, s_k, list(products)))]


@dataclass(frozen=True)
class JacobianRegularizer(Penalty):
    """Penalty on the squared Frobenius norm of the Jacobian in the input.

    Parameters
    ----------
    strength : float
        Weight ``λ`` of the penalty.
    at : {"output", "logits"}
        Whose Jacobian: "output" is JacReg (paper 003, Eq. 50), "logits" FrobReg (Eq. 56).
    projections : int, optional
        Estimate the norm from so many random directions instead of all K classes:
        ``(K/n) sum_{m=1..n} ‖J_o^T v_m‖²`` with ``v_m`` uniform on the unit sphere, which is unbiased (Hoffman et al. 2019). Each
        sample has its own directions, drawn from the network's generator. Behind batch normalisation in training mode their
        signs average the cross terms between samples away: that estimates ``‖J‖_F²`` of the whole batch, another number than
        without projections.

    Raises
    ------
    ValueError
        If an option is out of range; when used, if `projections` is not below the number of classes.
    """

    strength: float
    at: str = "output"
    projections: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", checked_coefficient("strength", self.strength))
        checked_place(self.at)
        if self.projections is not None:
            whole_number("projections", self.projections, 1)

    @property
    def coefficient(self) -> float:
        """``λ``."""
        return self.strength

    def penalise(self, run: Run, objective: Objective, y: FirstPass, dy: Trace) -> tuple[Array, Products]:
        """Passes 2 and 3 for each class or projection, then one pass 4."""
        readout = objective.readout(self.at)
        n, classes = objective.z.shape
        xp = run.net.xp
        if self.projections is None:
            directions = xp.broadcast_to(xp.eye(classes, dtype=run.net.dtype)[:, None], (classes, n, classes))
        else:
            if self.projections >= classes:
                raise ValueError(f"projections is {self.projections}, but all {classes} classes cost no more: leave it out")
            directions = run.normal((self.projections, n, classes))
            length = xp.sqrt((directions**2).sum(axis=2, keepdims=True))
            directions = directions / length * (classes / self.projections) ** 0.5
        factors: list[Factor] = []
        for v in directions:
            derivative = None if readout.layer is None else (lambda t, v=v: readout.curvature(t, v))
            factors.append((readout.backward(v), derivative))
        penalty, rows = squared_rows(y, factors)
        return penalty, row_products(y, factors, rows, [None] * len(rows))


@dataclass(frozen=True)
class HessianFrobenius(Penalty):
    """Hessian-scaled Frobenius regulariser: ``T = Tr(J^T H J)`` with ``H`` the Hessian of the loss in the logits.

    Parameters
    ----------
    strength : float
        Weight ``λ`` of the penalty.
    variant : {None, "db1", "db2"}
        None: ``R = T`` (paper 003, Eq. 63). "db1": ``R = T + ‖dL/dx‖²`` (Eq. 65). "db2": ``R = T² + ‖dL/dx‖²`` (Eq. 66).

    Raises
    ------
    ValueError
        If an option is out of range; when used, if the network ends in a softmax or sigmoid layer: the Hessian's factors are
        known for the losses that take logits.
    """

    strength: float
    variant: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", checked_coefficient("strength", self.strength))
        if self.variant not in (None, "db1", "db2"):
            raise ValueError(f"variant is {self.variant!r}; it must be None, 'db1' or 'db2'")

    @property
    def coefficient(self) -> float:
        """``λ``."""
        return self.strength

    @property
    def needs_input_gradient(self) -> bool:  # type: ignore[override]
        """Only for the variants with double backpropagation."""
        return self.variant is not None

    def penalise(self, run: Run, objective: Objective, y: FirstPass, dy: Trace) -> tuple[Array, Products]:
        """Passes 2 and 3 for each class, for the variants one more pass 3, then one pass 4."""
        if objective.head is not None:
            raise ValueError("the Hessian-scaled Frobenius regulariser needs logits, but the network ends in "
                             f"{objective.head!r}: leave that layer out and use a loss that contains it (SoftmaxCrossEntropy)")
        factors: list[Factor] = [
            objective.loss.hessian_factor(objective.z, objective.labels, c) for c in range(objective.z.shape[1])
        ]
        trace, rows = squared_rows(y, factors)
        weight = 2 * trace if self.variant == "db2" else None
        penalty = trace * trace if self.variant == "db2" else trace
        if self.variant is None:
            return penalty, row_products(y, factors, rows, [None] * len(rows))
        # ‖dL/dx‖² is one more row, with q = dL/dz: b is the second pass that has been run, dq/dz is the Hessian of the loss.
        loss_row = (dy.output**2).reshape(len(penalty), -1).sum(axis=1)
        factors.append((objective.gradient, objective.hessian_product))
        weights = [*([weight] * len(rows)), None]
        return penalty + loss_row, row_products(y, factors, [*rows, dy], weights)
