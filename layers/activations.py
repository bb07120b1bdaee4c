"""Elementwise nonlinearities: ``y_j = f(x_j)``.

Their Jacobian is diagonal, hence symmetric: the third pass is the backward method (papers 001/002, Theorem 2). The
curvature is ``k(t, b) = f''(x) t b``; it is zero for the piecewise-linear ones.
"""
from __future__ import annotations

from dataclasses import dataclass

from convnet import kernels
from convnet.layers.base import Array, Layer, Record, real_number


@dataclass(eq=False)
class ReLU(Layer):
    """Rectified linear unit, ``max(x, 0)``, with slope 0 at 0."""

    symmetric_jacobian = True

    def forward(self, x: Array, record: Record) -> Array:
        """Return ``max(x, 0)`` and record where `x` is positive."""
        y, record.mask = kernels.of(x).relu(x)
        return y

    def backward(self, b: Array, record: Record) -> Array:
        """Return `b` where the input was positive, 0 elsewhere."""
        return kernels.of(b).masked(b, record.mask)


@dataclass(eq=False)
class LeakyReLU(Layer):
    """Leaky rectified linear unit: ``x`` where positive, ``slope x`` elsewhere (at 0 too).

    Parameters
    ----------
    slope : float
        Slope for negative inputs, in [0, 1).
    """

    slope: float = 0.01

    symmetric_jacobian = True

    def __post_init__(self) -> None:
        self.slope = real_number("slope", self.slope, 0.0, 1.0)

    def forward(self, x: Array, record: Record) -> Array:
        """Return the leaky rectification and record where `x` is positive."""
        record.mask = x > 0
        return self.backward(x, record)

    def backward(self, b: Array, record: Record) -> Array:
        """Return `b` where the input was positive, ``slope b`` elsewhere."""
        xp = kernels.array_module(b)
        return xp.where(record.mask, b, self.slope * b)


@dataclass(eq=False)
class Sigmoid(Layer):
    """Logistic function, ``y = 1 / (1 + e^-x)``; ``y' = y (1 - y)``, ``y'' = y' (1 - 2 y)``."""

    symmetric_jacobian = True
    curved = True
    readout = True

    def forward(self, x: Array, record: Record) -> Array:
        """Return the sigmoid, as ``(1 + tanh(x / 2)) / 2``, which cannot overflow."""
        xp = kernels.array_module(x)
        y = 0.5 + 0.5 * xp.tanh(0.5 * x)
        record.output = y
        return y

    def backward(self, b: Array, record: Record) -> Array:
        """Return ``y (1 - y) b``."""
        y = record.output
        return y * (1 - y) * b

    def curvature(self, t: Array, b: Array, record: Record) -> Array:
        """Return ``y (1 - y) (1 - 2 y) t b``."""
        y = record.output
        return y * (1 - y) * (1 - 2 * y) * t * b


@dataclass(eq=False)
class Tanh(Layer):
    """Hyperbolic tangent; ``y' = 1 - y²``, ``y'' = -2 y y'``."""

    symmetric_jacobian = True
    curved = True

    def forward(self, x: Array, record: Record) -> Array:
        """Return ``tanh x``."""
        xp = kernels.array_module(x)
        y = xp.tanh(x)
        record.output = y
        return y

    def backward(self, b: Array, record: Record) -> Array:
        """Return ``(1 - y²) b``."""
        return (1 - record.output**2) * b

    def curvature(self, t: Array, b: Array, record: Record) -> Array:
        """Return ``-2 y (1 - y²) t b``."""
        y = record.output
        return -2 * y * (1 - y**2) * t * b
