"""Counts the matrix products of a step, and their operations."""
from __future__ import annotations

import math
from typing import Any

PRODUCTS = ("conv", "conv_relu_max_pool", "conv_gather", "conv_adjoint", "conv_weight_gradient", "conv_gradients", "dense",
            "product", "dense_gradients")


class CountingKernels:
    """Kernels that count the products they are asked for and leave the work to others.

    Attributes
    ----------
    products : int
    operations : float
        Floating-point operations of the products, two for each multiplication.
    """

    def __init__(self, kernels: Any):
        self._kernels = kernels
        self.products, self.operations = 0, 0.0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._kernels, name)
        if name not in PRODUCTS:
            return method

        def counted(a: Any, b: Any, *rest: Any) -> Any:
            result = method(a, b, *rest)
            self.products += 1
            if name in ("dense", "product", "dense_gradients"):
                self.operations += 2 * a.size * b.shape[1]
            else:
                self.operations += 2 * convolution_multiplications(name, a, b, rest, result)
            return result

        return counted


def convolution_multiplications(name: str, a: Any, b: Any, rest: tuple[Any, ...], result: Any) -> int:
    """Return the number of outputs of the convolution times the number of values of one filter."""
    if name in ("conv_weight_gradient", "conv_gradients"):
        gradient = result if name == "conv_weight_gradient" else result[0]
        return b.size * math.prod(gradient.shape[:3])
    outputs = {"conv": result, "conv_adjoint": a}.get(name)
    if outputs is not None:
        return outputs.size * math.prod(b.shape[:3])
    # Of a block, whose result is pooled: the map before pooling.
    stride, padding = rest[1:3] if name == "conv_relu_max_pool" else rest[:2]
    windows = [(side + 2 * p - size) // step + 1
               for side, size, step, p in zip(a.shape[1:3], b.shape[:2], stride, padding, strict=True)]
    return len(a) * math.prod(windows) * math.prod(b.shape)
