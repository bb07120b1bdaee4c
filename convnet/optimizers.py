"""Optimisers: how a step's gradient moves the parameters.

All of them work in place on the flat vectors ``net.vector`` and ``step.flat_gradient``, with buffers made once. In the
formulas ``w`` is the parameters, ``g`` the gradient plus ``weight_decay · w + l1 · sign(w)`` (on ``net.decay_mask``
only), ``α`` the learning rate of the moment times ``net.rate_vector``, and all operations are by element.

>>> optimizer = SGD(0.1, momentum=0.9, dampening=0.9)
>>> optimizer.update(net, algorithm.gradients(net, loss, batch))     # doctest: +SKIP
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from convnet import kernels
from convnet.layers.base import flag, real_number

if TYPE_CHECKING:
    from convnet.network import Network
    from convnet.passes.algorithm import Step

Array = Any

__all__ = ["NAMES", "SGD", "AdaGrad", "Adam", "Optimizer", "RMSProp"]


class Optimizer:
    """Base class of the optimisers: the weights' own penalties, buffers, state.

    A subclass is a dataclass of its options, names its `buffers` and defines `change`.

    Parameters
    ----------
    learning_rate : float
        Base learning rate ``α``, positive; a schedule may change it from epoch to epoch.
    weight_decay, l1 : float
        Coefficients of the weights' own penalties, ``weight_decay ‖w‖² / 2 + l1 ‖w‖_1``.
    """

    learning_rate: float
    weight_decay: float
    l1: float

    # Vectors that are kept from step to step, in the layout of net.vector; they start at zero.
    buffers: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if real_number("learning_rate", self.learning_rate, 0.0) == 0:
            raise ValueError(f"learning_rate is {self.learning_rate!r}; it must be positive")
        real_number("weight_decay", self.weight_decay, 0.0)
        real_number("l1", self.l1, 0.0)
        self.steps = 0
        self._vector: Array = None

    # --- use ----------------------------------------------------------------------------------------------------------

    def start(self, net: Network) -> None:
        """Forget what was before and make the buffers for `net`."""
        self._vector = net.vector
        xp = kernels.array_module(net.vector)
        self.steps = 0
        self._state = {name: xp.zeros_like(net.vector) for name in self.buffers}
        self._mask = net.decay_mask if self.weight_decay or self.l1 else None
        self.follow(net)
        # For penalised gradients, and two for whatever the method needs.
        self._free = [xp.empty_like(net.vector) for _ in range(3)]

    def follow(self, net: Network) -> None:
        """Take over which layers are frozen now, and their coefficients."""
        self._rates, self._rate_changes = net.rate_vector, net.rate_changes

    def update(self, net: Network, step: Step, learning_rate: float | None = None) -> None:
        """Move the parameters of `net` by one step.

        Parameters
        ----------
        net : Network
            Its parameters change in place. The first update of a network starts the optimiser for it.
        step : Step
            Of an algorithm; it is not changed.
        learning_rate : float, optional
            What a schedule says for this epoch; by default the base learning rate.
        """
        if self._vector is not net.vector:
            self.start(net)
        if self._rate_changes != net.rate_changes:
            self.follow(net)
        rate = self.learning_rate if learning_rate is None else learning_rate
        xp = kernels.array_module(net.vector)
        self.steps += 1
        g, (total, *free) = step.flat_gradient, self._free
        if self._mask is not None:
            g = self._penalised(net.vector, g, self._mask, total, free[0], xp)
        coefficient, change = self.change(g, rate, list(self._state.values()), free, xp)
        if self._rates is not None:
            change = xp.multiply(change, self._rates, out=free[0])
        kernels.of(net.vector).accumulate(net.vector, 1.0, coefficient, change)

    def parts(self) -> tuple[dict[str, Array], Array | None, Array | None]:
        """Return the buffers, the mask of the weights' own penalties and the parameters' rates, as kernels need them."""
        return self._state, self._mask, self._rates

    def _penalised(self, w: Array, g: Array, mask: Array, total: Array, free: Array, xp: Any) -> Array:
        """Return ``g + weight_decay · w + l1 · sign(w)`` in `total`, the penalties where `mask` is 1."""
        xp.multiply(w, self.weight_decay, out=total)
        if self.l1:
            xp.sign(w, out=free)
            free *= self.l1
            total += free
        total *= mask
        total += g
        return total

    def change(self, g: Array, rate: float, state: Sequence[Array], free: Sequence[Array], xp: Any) -> tuple[float, Array]:
        """Return what is to be added to the parameters, as a coefficient and a vector, and bring `state` up to date.

        Parameters
        ----------
        g : array (n,)
            Gradient, not to be changed.
        rate : float
        state : sequence of array (n,)
            The `buffers`, to be changed in place.
        free : two arrays (n,)
            For intermediate and final results.
        xp : module
            The array module of them all.
        """
        raise TypeError(f"{type(self).__name__} defines no change method")

    # --- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of all that later steps depend on, as NumPy arrays by name.

        Raises
        ------
        ValueError
            If the optimiser has not been started.
        """
        if self._vector is None:
            raise ValueError("the optimiser has no state yet: call start(net) first")
        state = {name: kernels.to_numpy(array).copy() for name, array in self._state.items()}
        return {"steps": np.array(self.steps), **state}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over what `state_dict` returned.

        Raises
        ------
        ValueError
            If the optimiser has not been started, or the state is of another kind of optimiser or network; nothing is
            changed then.
        """
        needed = {name: array.shape for name, array in self.state_dict().items()}
        given = {name: np.shape(array) for name, array in state.items()}
        if given != needed:
            raise ValueError("state of another optimiser or network: "
                             f"{given}, but this {type(self).__name__} needs {needed}")
        self.steps = int(state["steps"])
        for name, array in self._state.items():
            array[...] = kernels.array_module(array).asarray(state[name])


@dataclass(eq=False)
class SGD(Optimizer):
    """Stochastic gradient descent: ``v ← m v + (1 - d) g``, ``w ← w - α v``, with ``v = 0`` at the start.

    Parameters
    ----------
    learning_rate : float
        ``α``.
    momentum : float
        ``m``, in [0, 1).
    dampening : float
        ``d``, in [0, 1); only with a momentum. ``d = m`` gives the authors' momentum, ``v ← m v + (1 - m) g``. The
        first step is damped like all others.
    nesterov : bool
        Step along ``g + m v`` instead of ``v``; needs a momentum and no dampening.
    weight_decay, l1 : float
        Coefficients of the weights' own penalties, as for all optimisers.

    Notes
    -----
    Paper 003, Eq. 7-10. Kept is ``u = v / (1 - d)``, which saves an operation on every number.
    """

    learning_rate: float
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    l1: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        real_number("momentum", self.momentum, 0.0, 1.0)
        real_number("dampening", self.dampening, 0.0, 1.0)
        flag("nesterov", self.nesterov)
        if self.dampening and not self.momentum:
            raise ValueError(f"dampening is {self.dampening} but momentum is 0; dampening needs a momentum")
        if self.nesterov and (not self.momentum or self.dampening):
            raise ValueError("nesterov needs a momentum above 0 and no dampening, "
                             f"but momentum is {self.momentum} and dampening is {self.dampening}")

    @property
    def buffers(self) -> tuple[str, ...]:  # type: ignore[override]
        """The velocity, where there is a momentum."""
        return ("velocity",) if self.momentum else ()

    def change(self, g: Array, rate: float, state: Sequence[Array], free: Sequence[Array], xp: Any) -> tuple[float, Array]:
        """``u ← m u + g``; return ``-α (1 - d) u``."""
        if not state:
            return -rate, g
        u, change = state[0], free[0]
        kernels.of(u).accumulate(u, self.momentum, 1.0, g)
        if not self.nesterov:
            return -rate * (1 - self.dampening), u
        xp.multiply(u, self.momentum, out=change)
        change += g
        return -rate, change


class _Adaptive(Optimizer):
    """What divides by the root of a mean or sum of squares."""

    epsilon: float
    epsilon_inside: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if real_number("epsilon", self.epsilon, 0.0) == 0:
            raise ValueError("epsilon is 0; it must be positive: parameters whose gradient is 0 would be divided by it")
        flag("epsilon_inside", self.epsilon_inside)

    def root(self, square: Array, out: Array, xp: Any) -> Array:
        """Return ``sqrt(square) + ε``, or ``sqrt(square + ε)``, in `out`."""
        if self.epsilon_inside:
            xp.add(square, self.epsilon, out=out)
            return xp.sqrt(out, out=out)
        xp.sqrt(square, out=out)
        out += self.epsilon
        return out


@dataclass(eq=False)
class AdaGrad(_Adaptive):
    """Adaptive gradient: ``Σ ← Σ + g²``, ``w ← w - α g / (sqrt(Σ) + ε)``.

    Parameters
    ----------
    learning_rate : float
        ``α``.
    epsilon : float
        ``ε``, at least 0.
    epsilon_inside : bool
        Divide by ``sqrt(Σ + ε)`` instead.
    weight_decay, l1 : float
        As for `SGD`.

    Notes
    -----
    Paper 003, Eq. 11 and 12; Duchi et al. 2011.
    """

    learning_rate: float = 0.01
    epsilon: float = 1e-10
    epsilon_inside: bool = False
    weight_decay: float = 0.0
    l1: float = 0.0

    buffers = ("square",)

    def change(self, g: Array, rate: float, state: Sequence[Array], free: Sequence[Array], xp: Any) -> tuple[float, Array]:
        """``Σ ← Σ + g²``; return ``-α g / (sqrt(Σ) + ε)``."""
        (square,), change = state, free[0]
        xp.multiply(g, g, out=change)
        square += change
        xp.divide(g, self.root(square, change, xp), out=change)
        return -rate, change


@dataclass(eq=False)
class RMSProp(_Adaptive):
    """Root mean square propagation: ``Σ ← ρ Σ + (1 - ρ) g²``, ``w ← w - α g / (sqrt(Σ) + ε)``.

    Parameters
    ----------
    learning_rate : float
        ``α``.
    decay : float
        ``ρ``, in [0, 1).
    epsilon : float
        ``ε``, at least 0.
    epsilon_inside : bool
        Divide by ``sqrt(Σ + ε)`` instead.
    weight_decay, l1 : float
        As for `SGD`.

    Notes
    -----
    Paper 003, Eq. 13 and 14.
    """

    learning_rate: float = 0.001
    decay: float = 0.9
    epsilon: float = 1e-8
    epsilon_inside: bool = False
    weight_decay: float = 0.0
    l1: float = 0.0

    buffers = ("square",)

    def __post_init__(self) -> None:
        super().__post_init__()
        real_number("decay", self.decay, 0.0, 1.0)

    def change(self, g: Array, rate: float, state: Sequence[Array], free: Sequence[Array], xp: Any) -> tuple[float, Array]:
        """``Σ ← ρ Σ + (1 - ρ) g²``; return ``-α g / (sqrt(Σ) + ε)``."""
        (square,), change = state, free[0]
        moving_square(square, g, self.decay, change, xp)
        xp.divide(g, self.root(square, change, xp), out=change)
        return -rate, change


@dataclass(eq=False)
class Adam(_Adaptive):
    """Adaptive moment estimation, after ``t`` steps:

    ``m ← β₁ m + (1 - β₁) g``, ``v ← β₂ v + (1 - β₂) g²``, ``w ← w - α m̂ / (sqrt(v̂) + ε)`` with ``m̂ = m / (1 - β₁^t)``,
    ``v̂ = v / (1 - β₂^t)``.

    Parameters
    ----------
    learning_rate : float
        ``α``.
    beta1, beta2 : float
        ``β₁`` and ``β₂``, in [0, 1).
    epsilon : float
        ``ε``, at least 0.
    epsilon_inside : bool
        Divide by ``sqrt(v̂ + ε)`` instead, as paper 003 writes it.
    weight_decay, l1 : float
        As for `SGD`.

    Notes
    -----
    Kingma and Ba 2014; paper 003, Eq. 15-19, whose first step is ``t = 1``.
    """

    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    epsilon_inside: bool = False
    weight_decay: float = 0.0
    l1: float = 0.0

    buffers = ("mean", "square")

    def __post_init__(self) -> None:
        super().__post_init__()
        real_number("beta1", self.beta1, 0.0, 1.0)
        real_number("beta2", self.beta2, 0.0, 1.0)

    def change(self, g: Array, rate: float, state: Sequence[Array], free: Sequence[Array], xp: Any) -> tuple[float, Array]:
        """Bring both moments up to date; return ``-α m̂ / (sqrt(v̂) + ε)``."""
        (mean, square), (change, divisor) = state, free
        xp.multiply(g, 1 - self.beta1, out=change)
        mean *= self.beta1
        mean += change
        moving_square(square, g, self.beta2, change, xp)
        xp.multiply(square, 1 / (1 - self.beta2**self.steps), out=divisor)
        self.root(divisor, divisor, xp)
        xp.divide(mean, divisor, out=change)
        return -rate / (1 - self.beta1**self.steps), change


def moving_square(square: Array, g: Array, decay: float, free: Array, xp: Any) -> None:
    """Set `square` to ``decay · square + (1 - decay) g²``."""
    xp.multiply(g, g, out=free)
    free *= 1 - decay
    square *= decay
    square += free


NAMES: dict[str, type[Optimizer]] = {"sgd": SGD, "adagrad": AdaGrad, "rmsprop": RMSProp, "adam": Adam}
