"""The few array kernels that are worth writing, behind one small interface.

Layers ask for the kernels that suit their arrays, ``kernels.of(x).conv(...)``, and never name an array library themselves:

- `convnet.kernels.reference`: plain NumPy, to be read; also the fallback where nothing faster is installed;
- `convnet.kernels.fast`: compiled and threaded, for NumPy arrays, where numba is installed (extra ``fast``);
- `convnet.kernels.cuda`: for CuPy arrays.

The choice is made when the first kernel is asked for. The environment variable ``CONVNET_KERNELS`` (``reference`` or
``fast``) and the context manager `using` override it.
"""
from __future__ import annotations

import functools
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_cpu: Any = None
_gpu: Any = None


def array_module(x: Any) -> Any:
    """Return the module whose functions work on `x`: cupy for CuPy arrays, numpy for all else.

    CuPy is never imported here: where an array of its kind exists, it has been.
    """
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(x, cupy.ndarray):
        return cupy
    return np


def of(x: Any) -> Any:
    """Return the kernels for arrays like `x`."""
    return cpu() if array_module(x) is np else gpu()


def cpu() -> Any:
    """Return the kernels in use for NumPy arrays."""
    global _cpu
    if _cpu is None:
        asked = os.environ.get("CONVNET_KERNELS")
        try:
            _cpu = load(asked or available())
        except ImportError as error:
            if asked:
                raise
            # As where NumPy is newer than numba knows.
            warnings.warn(f"the fast kernels cannot be loaded, the plain ones are taken: {error}", stacklevel=2)
            _cpu = load("reference")
    return _cpu


def gpu() -> Any:
    """Return the kernels for CuPy arrays."""
    global _gpu
    if _gpu is None:
        _gpu = load("cuda")
    return _gpu


def available() -> str:
    """Return the name of the fastest CPU kernels that can be loaded here: "fast" or "reference"."""
    return "fast" if importlib.util.find_spec("numba") else "reference"


def load(name: str) -> Any:
    """Return the kernels called `name`: "reference" and "fast" for NumPy arrays, "cuda" for CuPy arrays.

    Raises
    ------
    ValueError
        If `name` is none of these.
    ImportError
        If "fast" is asked for and numba is missing, or "cuda" and CuPy is.
    """
    if name == "reference":
        from convnet.kernels.reference import ReferenceKernels

        return ReferenceKernels()
    if name == "fast":
        return _fast()
    if name == "cuda":
        from convnet.kernels.cuda.kernels import CudaKernels

        return CudaKernels()
    raise ValueError(f"kernels {name!r} do not exist; there are 'reference', 'fast' and 'cuda' (see CONVNET_KERNELS)")


@functools.cache
def _fast() -> Any:
    """Return the fast kernels of this process: they keep threads and memory."""
    from convnet.kernels.fast import FastKernels

    return FastKernels()


@contextmanager
def using(kernels: Any) -> Iterator[Any]:
    """Use `kernels`, an object or a name, for NumPy arrays inside the block."""
    global _cpu
    before = _cpu
    _cpu = load(kernels) if isinstance(kernels, str) else kernels
    try:
        yield _cpu
    finally:
        _cpu = before


def to_numpy(x: Any) -> np.ndarray:
    """Return `x` as a NumPy array, copied from the device if need be."""
    return x if array_module(x) is np else x.get()
