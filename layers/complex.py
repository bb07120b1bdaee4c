"""Complex convolution and the modulus (paper 004, section 5): complex arrays, real inner product ``Re(conj(a)·b)``.

A derivative ``b`` in a complex array ``y`` stands for ``dL/dRe(y) + i dL/dIm(y)``, so that ``dL = Re(conj(b)·dy)`` and
a complex weight is descended by subtracting its gradient. The adjoint of ``y = w x`` in this product is ``conj(w) b``,
for a real ``x`` its real part.

A complex number is a pair of reals, and a complex convolution is a real one on twice the channels: ``(u + i v)(p + i
q)`` has the real part ``u p - v q`` and the imaginary part ``u q + v p``. The layer computes it as such, with the real
kernels; for real images a filter's two parts are simply two filters.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from convnet import kernels
from convnet.layers.base import Array, Builder, Layer, Record, Shape, image_shape, pair, whole_number
from convnet.layers.conv import window_counts


@dataclass(eq=False)
class ComplexConv(Layer):
    """Convolution with complex filters: ``(N, H, W, C) -> (N, P, Q, filters)``, ``P = H - size + 1``.

    No bias, no padding, stride 1.

    Parameters
    ----------
    filters : int
        Number of complex filters F.
    size : int or pair of int
        Rows and columns of a filter.

    Notes
    -----
    ``weight`` is complex, (KH, KW, C, F); in ``Network.vector`` each number is two reals. The image may be real or
    complex; the derivative in a real image is real. Linear: the third pass is the forward pass (Theorem 1).
    """

    filters: int
    size: int | tuple[int, int]

    linear = True
    # The output is complex for a real input: there is no imaginary part to take a complex step with.
    analytic = False

    STRIDE: ClassVar[tuple[int, int]] = (1, 1)
    PADDING: ClassVar[tuple[int, int]] = (0, 0)

    def __post_init__(self) -> None:
        self.filters = whole_number("filters", self.filters, 1)
        self.size = pair("size", self.size, 1)

    def build(self, input_shape: Shape, builder: Builder) -> Shape:
        """Make the filters."""
        height, width, channels = image_shape(input_shape)
        size = pair("size", self.size, 1)
        rows, columns = window_counts((height, width), size, self.STRIDE)
        area = math.prod(size)
        shape = (*size, channels, self.filters)
        self.parameters = {"weight": builder.complex_weight(shape, area * channels, area * self.filters)}
        return rows, columns, self.filters

    def forward(self, x: Array, record: Record) -> Array:
        """Return the complex convolution of `x` and record whether `x` is real."""
        record.real_input = x.dtype.kind != "c"
        return self.third_pass(x, record)

    def backward(self, b: Array, record: Record) -> Array:
        """Return the adjoint: every ``conj(w) b`` spread over its window; for a real input the real part."""
        weight = self._real_weight(record.real_input)
        parts = kernels.of(b).conv_adjoint(as_real(b), weight, self.STRIDE, self.PADDING, self.input_shape[:2])
        return parts if record.real_input else as_complex(parts)

    def third_pass(self, t: Array, record: Record) -> Array:
        """Return the complex convolution of `t`."""
        weight = self._real_weight(t.dtype.kind != "c")
        return as_complex(kernels.of(t).conv(as_real(t), weight, None, self.STRIDE, self.PADDING))

    def weight_gradients(self, a: Array, b: Array, constant: float = 1.0) -> dict[str, Array]:
        """Return the sum over samples and windows of ``conj(a) b``, complex."""
        pairs = kernels.of(b).conv_weight_gradient(as_real(a), as_real(b), self.size, self.STRIDE, self.PADDING)
        if a.dtype.kind == "c":
            of_real, of_imaginary = as_complex(pairs[:, :, 0::2]), as_complex(pairs[:, :, 1::2])
            return {"weight": of_real - 1j * of_imaginary}
        return {"weight": as_complex(pairs)}

    def _real_weight(self, real_input: bool) -> Array:
        """Return the filters of the equal real convolution: (KH, KW, C, 2F), for complex images (KH, KW, 2C, 2F)."""
        weight = self.parameters["weight"]
        if real_input:
            return as_real(weight)
        both = kernels.array_module(weight).stack([weight, 1j * weight], axis=3)
        return as_real(both.reshape(*weight.shape[:2], -1, self.filters))


@dataclass(eq=False)
class Modulus(Layer):
    """Absolute value ``y = |x|`` of each complex (or real) number; the output is real.

    Notes
    -----
    With the phase ``p = x/|x|`` the backward pass is ``b p`` and the third pass ``Re(conj(p) t)``. Along ``t`` the phase
    changes by the part of ``t`` across ``p``, over ``|x|``, so the curvature is
    ``k(t, b) = b (t - p Re(conj(p) t))/|x|``. At ``x = 0`` derivative and curvature are defined as 0.
    """

    curved = True
    analytic = False

    def forward(self, x: Array, record: Record) -> Array:
        """Return ``|x|``; record `x` and ``1/|x|``."""
        y = kernels.array_module(x).abs(x)
        if record.kept:
            record.input, record.inverse = x, reciprocal(y)
        return y

    def backward(self, b: Array, record: Record) -> Array:
        """Return ``b p``."""
        return scaled(record.input, b * record.inverse)

    def third_pass(self, t: Array, record: Record) -> Array:
        """Return ``Re(conj(p) t)``."""
        return record.inverse * real_product(record.input, t)

    def curvature(self, t: Array, b: Array, record: Record) -> Array:
        """Return ``b (t - p Re(conj(p) t))/|x|``."""
        along = scaled(record.input, record.inverse * self.third_pass(t, record))
        return scaled(t - along, b * record.inverse)


def reciprocal(y: Array) -> Array:
    """Return ``1/y`` of numbers that are not negative; 0 below the smallest normal number, where it is not finite."""
    xp = kernels.array_module(y)
    tiny = xp.finfo(y.dtype).tiny
    inverse = xp.maximum(y, tiny)
    xp.divide(1, inverse, out=inverse)
    inverse *= y >= tiny
    return inverse


def scaled(x: Array, factor: Array) -> Array:
    """Return `x`, complex or real, times a real `factor`."""
    if x.dtype.kind != "c":
        return x * factor
    xp = kernels.array_module(x)
    # Part by part: a product of a complex with a real array would make the real one complex first.
    out = xp.empty_like(x)
    xp.multiply(x.real, factor, out=out.real)
    xp.multiply(x.imag, factor, out=out.imag)
    return out


def real_product(x: Array, t: Array) -> Array:
    """Return ``Re(conj(x) t)`` by element."""
    if x.dtype.kind != "c":
        return x * t
    product = x.real * t.real
    product += x.imag * t.imag
    return product


def as_real(x: Array) -> Array:
    """Return a complex array (..., C) as pairs of reals (..., 2C), and a real one as it is."""
    if x.dtype.kind != "c":
        return x
    return kernels.array_module(x).ascontiguousarray(x).view(x.real.dtype)


def as_complex(x: Array) -> Array:
    """Return a real array (..., 2C) as a complex one (..., C): the inverse of `as_real`."""
    xp = kernels.array_module(x)
    return xp.ascontiguousarray(x).view(xp.result_type(x.dtype, xp.complex64))
