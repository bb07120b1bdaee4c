"""The CUDA sources of this folder as one text, to be compiled for float or for double."""
from __future__ import annotations

from functools import cache
from importlib.resources import files

import numpy as np

# `common` first: the others use what it defines. `product` uses `sums`.
NAMES = ("common", "windows", "sums", "product", "pooling", "elementwise", "loss", "random", "gradient", "update",
         "data")

REALS = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}


@cache
def text() -> str:
    """Return all sources, one after the other."""
    return "\n".join(part(name) for name in NAMES)


def part(name: str) -> str:
    """Return the source called `name`."""
    return (files(__package__) / f"{name}.cu").read_text(encoding="utf-8")


def options(dtype: np.dtype) -> tuple[str, ...]:
    """Return the compiler's options for kernels on arrays of `dtype`."""
    return ("--std=c++17", f"-DREAL={REALS[np.dtype(dtype)]}")
