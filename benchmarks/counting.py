"""Counts the matrix products of a step, and their operations."""
from __future__ import annotations

import math
from typing import Any

PRODUCTS = ("conv", "conv_adjoint", "conv_weight_gradient", "dense", "product")


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
            if name in ("dense", "product"):
                self.operations += 2 * a.shape[0] * a.shape[1] * b.shape[1]
            else:
                # Outputs of the convolution times the values of one filter.
                outputs, filter_size = {
                    "conv": (result, math.prod(b.shape[:3])), "conv_adjoint": (a, math.prod(b.shape[:3])),
                    "conv_weight_gradient": (b, math.prod(result.shape[:3])),
                }[name]
                self.operations += 2 * outputs.size * filter_size
            return result

        return counted
