"""Convolution by im2col: each window of the image becomes a row, and one matrix product applies all filters.

``y[n, p, q, f] = c[f] + sum_{k, l, c} w[k, l, c, f] x[n, p·stride + k - padding, q·stride + l - padding, c]`` (a
cross-correlation, as in all of the field). Linear: the third pass is the forward pass without the bias, and one bilinear
product serves all weight gradients (papers 001/002, Theorem 1 and section 7.2).
"""
from __future__ import annotations

from dataclasses import dataclass

from convnet import kernels
from convnet.layers.base import Array, Builder, IntOrPair, Layer, Record, Shape, flag, image_shape, pair, whole_number


@dataclass(eq=False)
class Conv(Layer):
    """Convolution, ``(N, H, W, C) -> (N, P, Q, filters)`` with ``P = (H + 2·padding - size) // stride + 1``.

    Parameters
    ----------
    filters : int
        Number of filters F.
    size : int or pair of int
        Rows and columns of a filter.
    stride : int or pair of int
        Step between windows. A stride that does not divide leaves the last rows or columns out.
    padding : int or pair of int
        Zero rows above and below, and columns left and right.
    bias : bool
        Whether a constant is added to each output map.

    Notes
    -----
    ``weight`` has the shape (KH, KW, C, F), ``bias`` (F,).
    """

    filters: int
    size: IntOrPair
    stride: IntOrPair = 1
    padding: IntOrPair = 0
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
        rows, columns = window_counts((height, width), self.size, self.stride, self.padding)
        area = self.size[0] * self.size[1]
        self.parameters = {
            "weight": builder.weight((*self.size, channels, self.filters), area * channels, area * self.filters)
        }
        if self.bias:
            self.parameters["bias"] = builder.constant((self.filters,), 0.0)
        return rows, columns, self.filters

    def forward(self, x: Array, record: Record) -> Array:
        """Return the convolution of `x` with the filters, plus the bias."""
        return kernels.of(x).conv(x, self.parameters["weight"], self.parameters.get("bias"), self.stride, self.padding)

    def backward(self, b: Array, record: Record) -> Array:
        """Return the adjoint of the convolution: every `b` spread over its window."""
        weight = self.parameters["weight"]
        return kernels.of(b).conv_adjoint(b, weight, self.stride, self.padding, self.input_shape[:2])

    def third_pass(self, t: Array, record: Record) -> Array:
        """Return the convolution of `t`: the forward pass without the bias."""
        return kernels.of(t).conv(t, self.parameters["weight"], None, self.stride, self.padding)

    def weight_gradients(self, a: Array, b: Array, constant: float = 1.0) -> dict[str, Array]:
        """Return the sum over samples and windows of window of `a` times `b`; for the bias, `constant` times sum of `b`."""
        k, geometry = kernels.of(b), (self.size, self.stride, self.padding)
        if not (self.bias and constant):
            return {"weight": k.conv_weight_gradient(a, b, *geometry)}
        gradient, total = k.conv_gradients(a, b, *geometry)
        return {"weight": gradient, "bias": total if constant == 1 else constant * total}


def window_counts(
    image: tuple[int, int], size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int] = (0, 0)
) -> tuple[int, int]:
    """Return how many windows fit into an image, down and across.

    Raises
    ------
    ValueError
        If a window is larger than the padded image.
    """
    padded = tuple(i + 2 * p for i, p in zip(image, padding, strict=True))
    if any(s > i for s, i in zip(size, padded, strict=True)):
        raise ValueError(f"a window of {size} is larger than the padded image of {padded}")
    rows, columns = ((i - s) // d + 1 for i, s, d in zip(padded, size, stride, strict=True))
    return rows, columns
