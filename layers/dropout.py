"""Dropout: each value is dropped with a given probability, the others are scaled up so that the mean stays.

``y = m x / (1 - rate)`` with a mask ``m`` of zeros and ones. The mask is drawn by the first pass, from the batch's draw and
the layer's place in the network, and is the same on all passes of the batch (papers 001/002, section 7.2). A diagonal,
hence symmetric Jacobian (Theorem 2).
"""
from __future__ import annotations

from dataclasses import dataclass

from convnet import kernels
from convnet.layers.base import Array, Layer, Record, real_number


@dataclass(eq=False)
class Dropout(Layer):
    """Dropout with inverted scaling; the identity at inference.

    Parameters
    ----------
    rate : float
        Probability of being dropped, in [0, 1).
    """

    rate: float

    linear = True
    symmetric_jacobian = True

    def __post_init__(self) -> None:
        self.rate = real_number("rate", self.rate, 0.0, 1.0)

    def forward(self, x: Array, record: Record) -> Array:
        """Draw the mask and return ``m x / (1 - rate)``."""
        record.scale = None
        if record.training and self.rate:
            record.scale = kernels.of(x).dropout_factors(x.shape, x.dtype, self.rate, *record.random_key())
        return self.backward(x, record)

    def backward(self, b: Array, record: Record) -> Array:
        """Return ``m b / (1 - rate)``."""
        return b if record.scale is None else b * record.scale
