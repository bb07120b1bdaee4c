"""Statistics of an image's pixels: what paper 004, section 5, does to each input image before and beside the network.

"We subtract the mean of the pixel values from each input image", and the standard deviation of the pixel values is one
more feature for the classification stage. Mean and deviation are taken over all ``n = H·W·C`` values of the image.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

from convnet import kernels
from convnet.layers.base import Array, Builder, Layer, Record, Shape


@dataclass(eq=False)
class SubtractImageMean(Layer):
    """Each image less the mean of its own values, ``y = x - mean(x)``: an orthogonal projection, hence symmetric."""

    linear = True
    symmetric_jacobian = True

    def forward(self, x: Array, record: Record) -> Array:
        """Return ``x - mean(x)``."""
        return self.backward(x, record)

    def backward(self, b: Array, record: Record) -> Array:
        """Return ``b - mean(b)``."""
        return b - b.mean(axis=tuple(range(1, b.ndim)), keepdims=True)


@dataclass(eq=False)
class PixelDeviation(Layer):
    """Standard deviation of each image's values as one feature, ``(N, ...) -> (N, 1)``.

    Notes
    -----
    ``σ = sqrt(mean(u²))`` with ``u = x - mean(x)``. The gradient is ``g = u/(n σ)``, so the backward pass
    is ``b g``, the third pass ``g·t``, and the curvature ``k(t, b) = b H t`` with ``H t = ((t - mean(t))/n - (g·t)
    g)/σ``. Of a constant image, ``σ = 0``, derivative and curvature are defined as 0.
    """

    curved = True

    def build(self, input_shape: Shape, builder: Builder) -> Shape:
        """There is one output."""
        return (1,)

    def forward(self, x: Array, record: Record) -> Array:
        """Return ``σ`` and record ``g`` and ``1/σ``."""
        xp = kernels.array_module(x)
        axes = tuple(range(1, x.ndim))
        u = x - x.mean(axis=axes, keepdims=True)
        deviation = xp.sqrt((u * u).mean(axis=axes, keepdims=True))
        # A constant image leaves rounding errors of its own size in u; they have no direction.
        size = xp.abs(x).max(axis=axes, keepdims=True)
        constant = deviation.real <= 4 * xp.finfo(size.dtype).eps * size
        record.inverse = xp.where(constant, 0, 1 / xp.where(constant, 1, deviation))
        record.gradient = u * (record.inverse / math.prod(x.shape[1:]))
        return deviation.reshape(-1, 1)

    def backward(self, b: Array, record: Record) -> Array:
        """Return ``b g``."""
        return record.gradient * _like_images(b, record.gradient)

    def third_pass(self, t: Array, record: Record) -> Array:
        """Return ``g·t``."""
        return (record.gradient * t).sum(axis=tuple(range(1, t.ndim)))[:, None]

    def curvature(self, t: Array, b: Array, record: Record) -> Array:
        """Return ``b ((t - mean(t))/n - (g·t) g)/σ``."""
        g, axes = record.gradient, tuple(range(1, t.ndim))
        along = _like_images(self.third_pass(t, record), g)
        across = (t - t.mean(axis=axes, keepdims=True)) / math.prod(g.shape[1:])
        return _like_images(b, g) * record.inverse * (across - along * g)


def _like_images(feature: Array, images: Array) -> Array:
    """Return one number per sample with as many axes as `images` has."""
    return feature.reshape(-1, *(1,) * (images.ndim - 1))
