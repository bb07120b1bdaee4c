"""Transposed convolution ("deconvolution"): the adjoint of a convolution, taken as a layer of its own.

``y = c + K^T x``, where ``K`` is the convolution with the same filters, stride and padding that maps images of the
output's shape to images of the input's shape: every input value spreads a filter over its window of the output. All
methods of `Conv` appear again with the two directions exchanged.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

from convnet import kernels
from convnet.layers.base import Array, Builder, Layer, Record, Shape, flag, image_shape, pair, whole_number


@dataclass(eq=False)
class Deconv(Layer):
    """Transposed convolution, ``(N, H, W, C) -> (N, P, Q, filters)`` with ``P = (H - 1)·stride + size - 2·padding``.

    Parameters
    ----------
    filters : int
        Number of output channels F.
    size : int or pair of int
        Rows and columns of a filter.
    stride : int or pair of int
        Step between the windows in the output.
    padding : int or pair of int
        Rows cut off above and below, and columns left and right.
    bias : bool
        Whether a constant is added to each output map.

    Notes
    -----
    ``weight`` has the shape (KH, KW, F, C), that of the convolution it is the adjoint of; ``bias`` (F,).
    Linear: the third pass is the forward pass without the bias (papers 001/002, Theorem 1).
    """

    filters: int
    size: int | tuple[int, int]
    stride: int | tuple[int, int] = 1
    padding: int | tuple[int, int] = 0
    bias: bool = True

    linear = True

    def __post_init__(self) -> None:
        self.filters = whole_number("filters", self.filters, 1)
        self.size = pair("size", self.size, 1)
        self.stride = pair("stride", self.stride, 1)
        self.padding = pair("padding", self.padding, 0)
        self.bias = flag("bias", self.bias)

    def build(self, input_shape: Shape, builder: Builder) -> Shape:
        """Make the filters and the bias."""
        height, width, channels = image_shape(input_shape)
        size, stride = pair("size", self.size, 1), pair("stride", self.stride, 1)
        padding = pair("padding", self.padding, 0)
        rows, columns = (
            (n - 1) * d + s - 2 * p for n, s, d, p in zip((height, width), size, stride, padding, strict=True)
        )
        if min(rows, columns) < 1:
            raise ValueError(f"padding {self.padding} leaves {rows} rows and {columns} columns of the output")
        area, step = math.prod(size), math.prod(stride)
        # On average an output value lies in the windows of area/step input values.
        fan_in, fan_out = max(1, area * channels // step), area * self.filters
        self.parameters = {"weight": builder.weight((*size, self.filters, channels), fan_in, fan_out)}
        if self.bias:
            self.parameters["bias"] = builder.constant((self.filters,), 0.0)
        return rows, columns, self.filters

    def forward(self, x: Array, record: Record) -> Array:
        """Return every `x` spread over its window, plus the bias."""
        y = self.third_pass(x, record)
        return y + self.parameters["bias"] if self.bias else y

    def backward(self, b: Array, record: Record) -> Array:
        """Return the convolution of `b` with the filters."""
        return kernels.of(b).conv(b, self.parameters["weight"], None, self.stride, self.padding)

    def third_pass(self, t: Array, record: Record) -> Array:
        """Return every `t` spread over its window."""
        weight = self.parameters["weight"]
        return kernels.of(t).conv_adjoint(t, weight, self.stride, self.padding, self.output_shape[:2])

    def weight_gradients(self, a: Array, b: Array, constant: float = 1.0) -> dict[str, Array]:
        """Return the sum over samples and windows of window of `b` times `a`; for the bias, `constant` times `b`."""
        gradients = {"weight": kernels.of(b).conv_weight_gradient(b, a, self.size, self.stride, self.padding)}
        if self.bias and constant:
            gradients["bias"] = constant * b.sum(axis=(0, 1, 2))
        return gradients
