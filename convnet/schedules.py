"""Learning-rate schedules: the rate of an epoch, from the epoch's number and the optimiser's base rate.

A schedule is any callable ``(epoch, base) -> rate`` with epochs counted from 0.

>>> Exponential(0.98)(80, 0.1)                             # papers 001/002, section 5: 0.1 falls to 0.02 in 80 epochs
0.01986488500820406...
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from convnet.layers.base import real_number, whole_number

__all__ = ["NAMES", "Constant", "Cosine", "Exponential", "Schedule", "Step"]

Schedule = Callable[[int, float], float]


@dataclass(frozen=True)
class Constant:
    """``rate = base``."""

    def __call__(self, epoch: int, base: float) -> float:
        """Return the rate of `epoch`."""
        return base


@dataclass(frozen=True)
class Exponential:
    """``rate = base · decay^epoch``.

    Parameters
    ----------
    decay : float
        ``γ`` in (0, 1]; papers 000-002 use 0.98 and 0.99, and 000 on SVHN 0.9.
    """

    decay: float = 0.98

    def __post_init__(self) -> None:
        _fraction("decay", self.decay)

    def __call__(self, epoch: int, base: float) -> float:
        """Return the rate of `epoch`."""
        return base * self.decay**epoch


@dataclass(frozen=True)
class Step:
    """``rate = base · factor^(epoch // every)``.

    Parameters
    ----------
    every : int
        Epochs between two steps.
    factor : float
        In (0, 1].
    """

    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        whole_number("every", self.every, 1)
        _fraction("factor", self.factor)

    def __call__(self, epoch: int, base: float) -> float:
        """Return the rate of `epoch`."""
        return base * self.factor ** (epoch // self.every)


@dataclass(frozen=True)
class Cosine:
    """``rate = base · (final + (1 - final) (1 + cos(π epoch / epochs)) / 2)``, and ``base · final`` from then on.

    Parameters
    ----------
    epochs : int
        Length of the half wave.
    final : float
        What is left of the base rate at its end, in [0, 1].
    """

    epochs: int
    final: float = 0.0

    def __post_init__(self) -> None:
        whole_number("epochs", self.epochs, 1)
        real_number("final", self.final, 0.0, 1.0, open_high=False)

    def __call__(self, epoch: int, base: float) -> float:
        """Return the rate of `epoch`."""
        wave = (1 + math.cos(math.pi * min(epoch, self.epochs) / self.epochs)) / 2
        return base * (self.final + (1 - self.final) * wave)


def _fraction(name: str, value: float) -> None:
    if real_number(name, value, 0.0, 1.0, open_high=False) == 0:
        raise ValueError(f"{name} is {value!r}; it must be a number in (0, 1]")


NAMES: dict[str, type[Any]] = {"constant": Constant, "exponential": Exponential, "step": Step, "cosine": Cosine}
