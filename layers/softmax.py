"""Softmax over the last axis: ``y_i = e^{x_i} / sum_j e^{x_j}``.

``J = diag(y) - y y^T`` is symmetric (Theorem 2). With ``q(y) = b^T J t = sum_i y_i b_i t_i - (y·b)(y·t)`` the curvature is
``k(t, b) = J dq/dy`` and ``dq/dy = b t - (y·t) b - (y·b) t``.
"""
from __future__ import annotations

from dataclasses import dataclass

from convnet import kernels
from convnet.kernels.reference import softmax_product
from convnet.layers.base import Array, Layer, Record


@dataclass(eq=False)
class Softmax(Layer):
    """Softmax over the last axis, ``(N, K) -> (N, K)``. As a network's last layer it turns logits into probabilities."""

    symmetric_jacobian = True
    curved = True
    readout = True

    def forward(self, x: Array, record: Record) -> Array:
        """Return the softmax, shifted by the row's maximum so that it cannot overflow."""
        y = softmax(x)
        record.output = y
        return y

    def backward(self, b: Array, record: Record) -> Array:
        """Return ``y (b - y·b)``."""
        return softmax_product(record.output, b)

    def curvature(self, t: Array, b: Array, record: Record) -> Array:
        """Return ``J (b t - (y·t) b - (y·b) t)``."""
        y = record.output
        return self.backward(b * t - inner(y, t) * b - inner(y, b) * t, record)


def softmax(x: Array) -> Array:
    """Return the softmax of `x` over its last axis."""
    return kernels.of(x).softmax(x)


def inner(a: Array, b: Array) -> Array:
    """Return the inner product over the last axis, which is kept."""
    return (a * b).sum(axis=-1, keepdims=True)
