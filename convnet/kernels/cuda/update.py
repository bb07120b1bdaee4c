"""An optimiser's step over all parameters in one launch."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from convnet.kernels.cuda.launch import Launcher
from convnet.optimizers import SGD, AdaGrad, Adam, Optimizer, RMSProp

Array = Any


@dataclass(frozen=True)
class _Formula:
    """A kernel, its options, and the numbers that it takes in step `t` at a learning rate."""

    kernel: str
    options: Callable[[Any], tuple[float | bool, ...]]
    numbers: Callable[[Any, int, float], tuple[float, ...]]


_FORMULAS: dict[type[Optimizer], _Formula] = {
    SGD: _Formula("sgd", lambda o: (o.momentum, o.nesterov), lambda o, t, rate: (rate * (1 - o.dampening),)),
    AdaGrad: _Formula("mean_square", lambda o: (1.0, 1.0, o.epsilon, o.epsilon_inside), lambda o, t, rate: (rate,)),
    RMSProp: _Formula("mean_square", lambda o: (o.decay, 1 - o.decay, o.epsilon, o.epsilon_inside),
                      lambda o, t, rate: (rate,)),
    Adam: _Formula("adam", lambda o: (o.beta1, o.beta2, o.epsilon, o.epsilon_inside),
                   lambda o, t, rate: (rate / (1 - o.beta1**t), 1 / (1 - o.beta2**t))),
}


def has_kernel(optimizer: Optimizer) -> bool:
    """Return whether there is a kernel for `optimizer`; a subclass may do something else."""
    return type(optimizer) in _FORMULAS


class Update:
    """The step of an optimiser that has been started for a network.

    Parameters
    ----------
    launcher : Launcher
    optimizer : Optimizer
        One that `has_kernel`.
    vector : array
        The network's parameters, which change in place.
    """

    def __init__(self, launcher: Launcher, optimizer: Optimizer, vector: Array):
        self._launcher, self._optimizer, self._vector = launcher, optimizer, vector
        self._formula = _FORMULAS[type(optimizer)]
        self.width = len(self._formula.numbers(optimizer, 1, 1.0))
        state, self._decayed, self._rates = optimizer.parts()
        # Without a momentum, SGD keeps no velocity.
        self._state = list(state.values()) or [None]
        real = vector.dtype.type
        self._penalties = np.array([(optimizer.weight_decay, optimizer.l1)], [("decay", real), ("l1", real)])
        self._options = [np.bool_(o) if isinstance(o, bool) else real(o) for o in self._formula.options(optimizer)]

    def table(self, steps: Iterable[int], rate: float) -> np.ndarray:
        """Return the numbers of the steps (counted from 1) at a learning rate, one row for each."""
        rows = [self._formula.numbers(self._optimizer, t, rate) for t in steps]
        return np.array(rows, self._vector.dtype)

    def __call__(self, gradient: Array, numbers: Array, halted: Array) -> None:
        """Move the parameters, with a row of `table` on the device, unless the run has halted."""
        self._launcher.elements(
            self._formula.kernel, self._vector.dtype, self._vector.size, self._vector, gradient, *self._state,
            self._decayed, self._rates, numbers, halted, self._penalties, *self._options)
