"""Layers in a row that are computed together: convolution, ReLU and max pooling; a convolution or dense layer and ReLU.

The layers keep their meaning, their parameters and their traces; a block only spares the trip of the first one's
output to the main memory and back. On a CPU each image is convolved, rectified and pooled while it is in the
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
from convnet.layers.dense import Dense
from convnet.layers.pooling import MaxPool


class LinearBlock(Container):
    """A `Conv` or `Dense` and a `ReLU` of a chain as it is walked, where the kernels rectify what they write."""

    def __init__(self, linear: Conv | Dense, relu: ReLU):
        self.linear, self.relu = linear, relu

    def children(self) -> Iterator[tuple[str, Layer]]:
        """Yield the two layers."""
        yield from (("", self.linear), ("", self.relu))

    def forward(self, x: Array, walk: Any) -> Array:
        """Return ``max(0, y)`` of the first layer's output ``y``, and record where it is positive."""
        k, linear = kernels.of(x), self.linear
        weight, bias = linear.parameters["weight"], linear.parameters.get("bias")
        if not k.fuses_relu(x, weight):
            return walk(self.relu, walk(linear, x))
        walk.note(linear, x)
        walk.record(linear)
        record = walk.record(self.relu)
        if isinstance(linear, Dense):
            y, record.mask = k.dense_relu(x, weight, bias)
        else:
            y, record.mask = k.conv_relu(x, weight, bias, linear.stride, linear.padding)
        return y

    def backward(self, b: Array | None, walk: Any) -> Array | None:
        """Go back through one layer after the other: what passes the ReLU is a factor of the weight gradient."""
        return walk(self.linear, walk(self.relu, b))

    def third_pass(self, t: Array | None, walk: Any) -> Array | None:
        """Return the tangent of the first layer's output where that is positive."""
        linear = self.linear
        if t is None or linear in walk.ends or not kernels.of(t).fuses_relu(t, linear.parameters["weight"]):
            return walk(self.relu, walk(linear, t))
        walk.note(linear, t)
        k, weight, mask = kernels.of(t), linear.parameters["weight"], walk.record(self.relu).mask
        if isinstance(linear, Dense):
            return k.dense_masked(t, weight, mask)
        return k.conv_masked(t, weight, linear.stride, linear.padding, mask)


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
    """Return `layers` with those in a row that can be computed together as one block."""
    walked: list[Layer] = []
    for layer in layers:
        before = walked[-1] if walked else None
        # By their types: subclasses may do other things.
        if type(layer) is ReLU and type(before) in (Conv, Dense):
            walked[-1] = LinearBlock(before, layer)  # type: ignore[arg-type]
        elif type(layer) is MaxPool and isinstance(before, LinearBlock) and type(before.linear) is Conv:
            walked[-1] = ConvBlock(before.linear, before.relu, layer)
        else:
            walked.append(layer)
    return tuple(walked)
