"""What a training algorithm is: a schedule of passes that ends in one gradient.

`Penalty` is the frame that most of them share: ``objective = L(x) + coefficient · R(x)`` per sample, mean over the batch. It
runs the first and second pass; the penalty adds its own passes and says which traces make its weight gradient.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from convnet import kernels
from convnet.batch import Batch, targets
from convnet.kernels.reference import HostDrawError
from convnet.layers.base import Layer, real_number
from convnet.losses import Loss
from convnet.passes.objective import Objective
from convnet.passes.products import Term, weight_gradients
from convnet.passes.walk import FirstPass, Trace, first_pass, fourth_pass, second_pass, third_pass

if TYPE_CHECKING:
    from convnet.network import Network

Array = Any


@dataclass(frozen=True, eq=False)
class Step:
    """What an algorithm computed for one batch.

    Attributes
    ----------
    loss : scalar
        Mean loss of the batch.
    penalty : scalar
        Mean penalty, without its coefficient; 0 for algorithms without one. Of a sum of penalties, the weighted sum.
    objective : scalar
        What the gradient belongs to: loss plus coefficient times penalty.
    gradients : mapping of str to array
        The full update direction, with the names and shapes of ``net.parameters``.
    flat_gradient : array
        The same numbers as one vector, in the layout of ``net.vector``.
    input_gradient : array or None
        ``dL/dx`` of each sample, where the algorithm computes it.
    outputs : array, (N, K)
        The network's outputs for the batch.
    state : mapping of str to array
        The network's running statistics after this batch, to be put in place by the training loop.
    """

    loss: Array
    penalty: Array
    objective: Array
    gradients: Mapping[str, Array]
    flat_gradient: Array
    input_gradient: Array | None
    outputs: Array
    state: Mapping[str, Array]


class Run:
    """One batch under way: the network, the loss, the batch on the network's device, and what is random about it.

    Parameters
    ----------
    net : Network
    loss : Loss
    batch : Batch
    training : bool
        Whether dropout drops and batch normalisation uses the batch's statistics.
    draw : int or array (1,) of uint64 on the network's device, optional
        What determines all that is random about the batch; by default the next number of the network's generator.
    """

    def __init__(self, net: Network, loss: Loss, batch: Batch, training: bool = True, draw: Any = None):
        if not isinstance(loss, Loss):
            raise TypeError(f"loss must be one of convnet.losses, as in SoftmaxCrossEntropy(), not {loss!r}")
        self.net, self.loss, self.batch, self.training = net, loss, batch, training
        self.x = net.asarray(batch.images)
        self.labels = targets(batch.labels, net.body.output_shape[0], net.dtype, net.xp)
        if batch.labels.ndim == 2 and isinstance(batch.labels, np.ndarray):
            loss.check_labels(batch.labels)
        # One draw for all that is random about the batch: every pass sees the same masks.
        self.draw = int(net.generator.integers(2**63)) if draw is None else draw

    def first(self, x: Array) -> tuple[FirstPass, Objective]:
        """Run a first pass on `x` and return it with the loss of what came out."""
        y = first_pass(self.net.body, x, training=self.training, draw=self.draw)
        return y, Objective(self.net.head, self.loss, y.output, self.labels)

    def normal(self, shape: tuple[int, ...]) -> Array:
        """Return standard normal numbers, determined by the batch's draw and independent of the layers' masks."""
        if kernels.array_module(self.draw) is not np:
            raise HostDrawError("normal numbers are made on the host, and need a draw that is a number")
        key = np.array([self.draw, 2**64 - 1], np.uint64)
        values = np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, self.net.dtype.type)
        return self.net.xp.asarray(values)

    def step(
        self, objective: Objective, first: FirstPass, terms: list[Term], *,
        penalty: Array | None = None, coefficient: float = 1.0, input_gradient: Array | None = None,
    ) -> Step:
        """Run the weight-gradient products and put the step together.

        Parameters
        ----------
        objective : Objective
            Of the first pass on the batch as it is.
        first : FirstPass
            Whose batch statistics count.
        terms : list of (Trace, Trace, float)
        penalty : array, (N,), optional
        coefficient : float
        input_gradient : array, optional
        """
        net = self.net
        flat = net.xp.empty_like(net.vector)
        gradients = net.views(flat)
        total = kernels.of(flat).gradient_sum(flat, gradients)

        def write(layer: Layer, parts: dict[str, Array], scale: float) -> None:
            for name, value in parts.items():
                total.add(f"{net.paths[layer]}.{name}", value, scale)

        weight_gradients(terms, write)
        total.finish(1 / len(self.batch))
        loss, mean_penalty, whole = kernels.of(flat).step_means(objective.value, penalty, coefficient)
        return Step(
            loss=loss, penalty=mean_penalty, objective=whole,
            gradients=MappingProxyType(gradients), flat_gradient=flat, input_gradient=input_gradient,
            outputs=objective.outputs, state=net.updated_state(first.records) if self.training else {},
        )


class Algorithm:
    """Base class of the training algorithms. A subclass is a dataclass of its options and defines `schedule`."""

    def gradients(self, net: Network, loss: Loss, batch: Batch, *, training: bool = True, draw: Any = None) -> Step:
        """Compute the objective and its gradient for one batch. Changes nothing but the network's random generator.

        Parameters
        ----------
        net : Network
        loss : Loss
        batch : Batch
        training : bool
            False for the gradient of the network in inference mode.
        draw : int or array (1,) of uint64 on the network's device, optional
            What determines dropout and noise; by default the next number of the network's generator.

        Raises
        ------
        ValueError
            If the batch does not fit the network, or lacks what the algorithm needs (tangents).
        """
        self.check(batch)
        run = Run(net, loss, batch, training, draw)
        return self.schedule(run)

    def check(self, batch: Batch) -> None:
        """Raise ValueError if the batch lacks what the algorithm needs."""

    def schedule(self, run: Run) -> Step:
        """Run the passes of one batch."""
        raise TypeError(f"{type(self).__name__} defines no schedule")

    def options(self) -> dict[str, Any]:
        """Return the options that make an equal algorithm, as JSON can hold them."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]


class Penalty(Algorithm):
    """``objective = L + coefficient · R``: an algorithm that adds a penalty to plain backpropagation.

    A subclass names its `coefficient` and defines `penalise`. Penalties can be added: ``LossIBP(0.01) + TangentProp(0.1)``
    shares the first and second pass.
    """

    # Whether R needs dL/dx, so that the second pass has to reach the input.
    needs_input_gradient: ClassVar[bool] = False
    # Whether R is a function of dL/dx alone, given by a `seed` method.
    seeded: ClassVar[bool] = False

    @property
    def coefficient(self) -> float:
        """The penalty's weight in the objective."""
        raise TypeError(f"{type(self).__name__} defines no coefficient")

    def penalise(self, run: Run, objective: Objective, y: FirstPass, dy: Trace) -> tuple[Array, list[tuple[Trace, Trace]]]:
        """Run the penalty's own passes.

        Parameters
        ----------
        run : Run
        objective : Objective
            The loss at the logits.
        y, dy : FirstPass, Trace
            First and second pass.

        Returns
        -------
        penalty : array, (N,)
            ``R`` of each sample.
        products : list of (Trace, Trace)
            The pairs whose products make up ``dR/dw``.
        """
        raise TypeError(f"{type(self).__name__} defines no penalise method")

    def contributions(
        self, run: Run, objective: Objective, y: FirstPass, dy: Trace
    ) -> list[tuple[float, Array, list[tuple[Trace, Trace]]]]:
        """Return (coefficient, penalty, products) of each penalty."""
        return [(self.coefficient, *self.penalise(run, objective, y, dy))]

    def schedule(self, run: Run) -> Step:
        """First and second pass, the penalty's passes, all products at the end."""
        y, objective = run.first(run.x)
        dy = second_pass(y, objective.gradient, to_input=self.needs_input_gradient)
        terms: list[Term] = [(y, dy, 1.0)]
        weighted: list[tuple[float, Array]] = []
        for coefficient, penalty, products in self.contributions(run, objective, y, dy):
            terms += [(up, down, coefficient) for up, down in products]
            weighted.append((coefficient, penalty))
        if len(weighted) == 1:
            ((coefficient, penalty),) = weighted
        else:
            coefficient, penalty = 1.0, sum(c * p for c, p in weighted)
        return run.step(objective, y, terms, penalty=penalty, coefficient=coefficient, input_gradient=dy.output)

    def __add__(self, other: Penalty) -> Penalty:
        from convnet.passes.sums import SumOfPenalties

        return SumOfPenalties.of(self, other)


class InputGradientPenalty(Penalty):
    """A penalty ``R(dy_0)`` on the loss's gradient in the input.

    One third pass ``t`` from ``t_0 = dR/d(dy_0)`` gives its weight gradient: ``G(t, dy)`` in the published form, which holds the
    output error ``dy_K`` and the activations in the Jacobians constant. The exact form adds the fourth pass ``s`` from
    ``s_K = H_L(z) t_K``, with curvature ``k(t, dy)``, and the product ``G(y, s)``.
    """

    seeded = True
    exact: bool

    @property
    def needs_input_gradient(self) -> bool:  # type: ignore[override]
        """Exactly where the penalty is seeded."""
        return self.seeded

    def seed(self, run: Run, dy_0: Array) -> tuple[Array, Array]:
        """Return ``R`` of each sample, (N,), and ``t_0 = dR/d(dy_0)``."""
        raise TypeError(f"{type(self).__name__} defines no seed")

    def penalise(self, run: Run, objective: Objective, y: FirstPass, dy: Trace) -> tuple[Array, list[tuple[Trace, Trace]]]:
        """Pass 3; for the exact gradient pass 4."""
        penalty, t_0 = self.seed(run, dy.output)
        return penalty, input_gradient_products(objective, y, dy, t_0, self.exact)


def input_gradient_products(
    objective: Objective, y: FirstPass, dy: Trace, t_0: Array, exact: bool
) -> list[tuple[Trace, Trace]]:
    """Return the pairs whose products make up ``dR/dw`` for a penalty on ``dy_0`` with ``t_0 = dR/d(dy_0)``."""
    t = third_pass(y, t_0, to_output=exact)
    if not exact:
        return [(t, dy)]
    s = fourth_pass(y, objective.hessian_product(t.output), [(t, dy)])
    return [(t, dy), (y, s)]


def norm_penalty(v: Array, r: int) -> tuple[Array, Array]:
    """Return ``(1/r) ‖v‖_r^r`` of each sample and its derivative in `v`.

    For ``r = 1`` the derivative is ``sign(v)``, for ``r = 2`` it is `v` (papers 001/002, Eq. 6 and section 7.1).
    """
    return kernels.of(v).norm_penalty(v, r)


def checked_coefficient(name: str, value: float) -> float:
    """Return `value` as a Python float, which adapts to any number type; raise ValueError unless it is finite and at least 0."""
    return real_number(name, value, 0.0)


def checked_norm(value: int) -> int:
    """Return `value`; raise ValueError unless it is 1 or 2."""
    if value not in (1, 2) or isinstance(value, bool):
        raise ValueError(f"norm is {value!r}; it must be 1 (sign) or 2 (gradient)")
    return int(value)


def checked_place(value: str) -> str:
    """Return `value`; raise ValueError unless it is "logits" or "output"."""
    if value not in ("logits", "output"):
        raise ValueError(f"at is {value!r}; it must be 'logits' or 'output'")
    return value
