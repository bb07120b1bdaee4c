"""Layers that only rearrange."""
from __future__ import annotations

import math
from dataclasses import dataclass

from convnet.layers.base import Array, Builder, Layer, Record, Shape


@dataclass(eq=False)
class Flatten(Layer):
    """Images as flat features, ``(N, H, W, C) -> (N, H·W·C)``, in row, column, channel order."""

    linear = True

    def build(self, input_shape: Shape, builder: Builder) -> Shape:
        """Count the features."""
        return (math.prod(input_shape),)

    def forward(self, x: Array, record: Record) -> Array:
        """Return `x` with its axes after the first joined."""
        return x.reshape(len(x), -1)

    def backward(self, b: Array, record: Record) -> Array:
        """Return `b` with the input's axes."""
        return b.reshape(len(b), *self.input_shape)

    def third_pass(self, t: Array, record: Record) -> Array:
        """Return `t` with its axes after the first joined (Theorem 1)."""
        return self.forward(t, record)
