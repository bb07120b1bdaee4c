"""Compiles the kernels when they are first needed, and launches them."""
from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from convnet.kernels.cuda import source

Array = Any

THREADS = 256
# Kernels number their threads with 32 bits: the last block may go beyond the count by less than its size.
LARGEST = 2**31 - THREADS

DIVISOR = np.dtype([("factor", np.uint32), ("shift", np.int32)])
SIZES = ("n", "h", "w", "c", "p", "q", "kh", "kw", "sh", "sw", "ph", "pw", "f")
DIVIDED_BY = ("h", "w", "c", "p", "q", "kh", "kw", "sh", "sw", "f")
WINDOWS = np.dtype([(name, np.int32) for name in SIZES] + [(f"by_{name}", DIVISOR) for name in DIVIDED_BY])


class Launcher:
    """The compiled kernels of one process.

    Parameters
    ----------
    cupy : module
    """

    def __init__(self, cupy: Any):
        self.cupy = cupy
        self._modules: dict[np.dtype, Any] = {}
        self._kernels: dict[tuple[str, np.dtype], Any] = {}

    def kernel(self, name: str, dtype: np.dtype) -> Any:
        """Return a kernel for arrays of `dtype`; the first one of its type compiles them all."""
        if (name, dtype) not in self._kernels:
            if dtype not in self._modules:
                self._modules[dtype] = self.cupy.RawModule(code=source.text(), options=source.options(dtype))
            self._kernels[name, dtype] = self._modules[dtype].get_function(name)
        return self._kernels[name, dtype]

    def elements(self, name: str, dtype: np.dtype, count: int, *arguments: Any) -> None:
        """Launch a kernel with one thread for each of `count` elements, which is its last argument."""
        grid = (-(-count // THREADS),)
        self.kernel(name, dtype)(grid, (THREADS,), (*arguments, np.int32(count)))

    def blocks(self, name: str, dtype: np.dtype, grid: tuple[int, ...], threads: int, *arguments: Any) -> None:
        """Launch a kernel with a grid of blocks of `threads` threads."""
        self.kernel(name, dtype)(grid, (threads,), arguments)


def suits(*arrays: Array) -> bool:
    """Return whether the kernels can take these arrays: float32 or float64, all alike, and numbered with 32 bits."""
    dtype = arrays[0].dtype
    return dtype in source.REALS and all(a.dtype == dtype and a.size < LARGEST for a in arrays)


@lru_cache(maxsize=256)
def windows(
    images: tuple[int, ...], counts: tuple[int, int], size: tuple[int, int], stride: tuple[int, int],
    padding: tuple[int, int] = (0, 0), filters: int = 1,
) -> np.ndarray:
    """Return the geometry of windows over images (N, H, W, C), as the kernels take it."""
    g = np.zeros(1, WINDOWS)
    for name, number in zip(SIZES, (*images, *counts, *size, *stride, *padding, filters), strict=True):
        g[name] = number
        if name in DIVIDED_BY:
            g[f"by_{name}"] = divisor(number)
    return g


def divisor(number: int) -> tuple[int, int]:
    """Return factor ``f`` and shift ``s`` with ``i // number = f i >> (32 + s)`` for all ``0 <= i < 2^31``.

    A shift of -1 stands for a division by 1 (and by 0, as of an image without channels, which nothing divides by).

    Notes
    -----
    With ``2^(l - 1) < number <= 2^l`` and ``f = ceil(2^(31 + l) / number)``, the error of ``f`` is less than 1 and that of
    the product, after the shift, less than ``i / 2^31 / number`` (Granlund and Montgomery 1994, Theorem 4.2).
    """
    if number <= 1:
        return 0, -1
    bits = (number - 1).bit_length()
    return -(-(1 << (31 + bits)) // number), bits - 1
