"""Pooling: each window of a map becomes one value, its maximum or its mean (the papers' "scaling" layers).

The maximum's positions are found once, on the first pass. The backward pass puts each derivative at its position, the third
pass reads the tangent there, "regardless of what value" it has (papers 001/002, section 7.2): with overlapping windows a
cell may win several times, and both passes respect that. Of equal values the first one, row by row, wins. Both layers are
linear once the positions are known.
"""
from __future__ import annotations

from dataclasses import dataclass

from convnet import kernels
from convnet.layers.base import Array, Builder, IntOrPair, Layer, Record, Shape, image_shape, pair
from convnet.layers.conv import window_counts


@dataclass(eq=False)
class MaxPool(Layer):
    """Maximum over windows, ``(N, H, W, C) -> (N, P, Q, C)`` with ``P = (H - size) // stride + 1``.

    Parameters
    ----------
    size : int or pair of int
        Rows and columns of a window. Windows lie fully inside the image.
    stride : int or pair of int
        Step between windows; smaller than `size` they overlap.
    """

    size: IntOrPair
    stride: IntOrPair

    def __post_init__(self) -> None:
        self.size = pair("size", self.size, 1)
        self.stride = pair("stride", self.stride, 1)

    def build(self, input_shape: Shape, builder: Builder) -> Shape:
        """Work out how many windows there are."""
        height, width, channels = image_shape(input_shape)
        return (*window_counts((height, width), self.size, self.stride), channels)

    def forward(self, x: Array, record: Record) -> Array:
        """Return each window's maximum and record its position in the window."""
        y, record.positions = kernels.of(x).max_pool(x, self.size, self.stride, positions=record.kept)
        return y

    def backward(self, b: Array, record: Record) -> Array:
        """Add each derivative at the position of its window's maximum."""
        return kernels.of(b).max_pool_scatter(b, record.positions, self.size, self.stride, self.input_shape[:2])

    def third_pass(self, t: Array, record: Record) -> Array:
        """Return the tangent at the position of each window's maximum."""
        return kernels.of(t).max_pool_gather(t, record.positions, self.size, self.stride)


@dataclass(eq=False)
class MeanPool(Layer):
    """Mean over windows, ``(N, H, W, C) -> (N, P, Q, C)`` with ``P = (H - size) // stride + 1``.

    Parameters
    ----------
    size, stride : int or pair of int
        As for `MaxPool`.
    """

    size: IntOrPair
    stride: IntOrPair

    linear = True

    def __post_init__(self) -> None:
        self.size = pair("size", self.size, 1)
        self.stride = pair("stride", self.stride, 1)

    def build(self, input_shape: Shape, builder: Builder) -> Shape:
        """Work out how many windows there are."""
        height, width, channels = image_shape(input_shape)
        return (*window_counts((height, width), self.size, self.stride), channels)

    def forward(self, x: Array, record: Record) -> Array:
        """Return each window's mean."""
        return kernels.of(x).mean_pool(x, self.size, self.stride)

    def backward(self, b: Array, record: Record) -> Array:
        """Spread each derivative evenly over its window."""
        return kernels.of(b).mean_pool_adjoint(b, self.size, self.stride, self.input_shape[:2])

    def third_pass(self, t: Array, record: Record) -> Array:
        """Return each window's mean of the tangent (Theorem 1)."""
        return self.forward(t, record)
