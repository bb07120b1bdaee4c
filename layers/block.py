"""Convolution, ReLU and max pooling in a row, computed together.

The three layers keep their meaning, their parameters and their traces; a block only spares the trip of the convolution's
output to the main memory and back, four times a pass. Each image is convolved, rectified and pooled while it is in the
cache, and the unpooled map is never stored. Two facts allow it. ReLU is monotone, so the maximum may be taken first:
``y = max(0, max_w c_w)``. And where ``y = 0`` nothing passes in any direction, which a position outside the window says: the
positions are all that the later passes need.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from convnet import kernels
from convnet.layers.activations import ReLU
from convnet.layers.base import Array, Container, Layer
from convnet.layers.conv import Conv
from convnet.layers.pooling import MaxPool


class ConvBlock(Container):
    """A `Conv`, `ReLU` and `MaxPool` of a chain as it is walked, where the kernels can compute them together."""

    def __init__(self, conv: Conv, relu: ReLU, pool: MaxPool):
        self.conv, self.relu, self.pool = conv, relu, pool

    def children(self) -> Iterator[tuple[str, Layer]]:
        """Yield the three layers."""
        yield from (("", self.conv), ("", self.relu), ("", self.pool))

    def forward(self, x: Array, walk: Any) -> Array:
        """Return ``max(0, max_w c_w)`` of each window, and record the positions."""
        k, conv, pool = kernels.of(x), self.conv, self.pool
        if not k.computes_blocks(x):
            return walk(pool, walk(self.relu, walk(conv, x)))
        walk.note(conv, x)
        walk.record(conv)
        record = walk.record(self.pool)
        y, record.block_positions = k.conv_relu_max_pool(
            x, conv.parameters["weight"], conv.parameters.get("bias"), conv.stride, conv.padding, pool.size, pool.stride)
        return y

    def backward(self, b: Array | None, walk: Any) -> Array | None:
        """Put each derivative at its position, and go back through the convolution."""
        pool = self.pool
        positions = getattr(walk.record(pool), "block_positions", None)
        if b is None or positions is None:
            return walk(self.conv, walk(self.relu, walk(pool, b)))
        return walk(self.conv, kernels.of(b).max_pool_scatter(b, positions, pool.size, pool.stride, pool.input_shape[:2]))

    def third_pass(self, t: Array | None, walk: Any) -> Array | None:
        """Return the convolution of the tangent at each position."""
        conv, pool = self.conv, self.pool
        positions = getattr(walk.record(pool), "block_positions", None)
        if t is None or positions is None or conv in walk.ends:
            return walk(pool, walk(self.relu, walk(conv, t)))
        walk.note(conv, t)
        return kernels.of(t).conv_gather(
            t, conv.parameters["weight"], conv.stride, conv.padding, positions, pool.size, pool.stride)


def with_blocks(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return `layers` with each convolution, ReLU and max pooling in a row as one block."""
    walked: list[Layer] = []
    for layer in layers:
        if [type(part) for part in (*walked[-2:], layer)] == [Conv, ReLU, MaxPool]:  # subclasses may do other things
            conv, relu = walked[-2:]
            walked[-2:] = [ConvBlock(conv, relu, layer)]  # type: ignore[arg-type]
        else:
            walked.append(layer)
    return tuple(walked)
