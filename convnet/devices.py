"""Where arrays live: the CPU with NumPy, or a GPU with CuPy."""
from __future__ import annotations

import warnings
from typing import Any

import numpy as np


class DeviceError(RuntimeError):
    """No usable GPU; the message says what was probed and what failed."""


def array_library(device: str) -> tuple[str, Any]:
    """Return the device's name and its array module.

    Parameters
    ----------
    device : {"cpu", "gpu", "auto"}

    Raises
    ------
    ValueError
        If `device` is none of these.
    DeviceError
        If "gpu" is asked for and cannot be used.
    """
    if device == "cpu":
        return "cpu", np
    if device == "gpu":
        return "gpu", usable_cupy()
    if device == "auto":
        try:
            return "gpu", usable_cupy()
        except DeviceError as error:
            warnings.warn(f"device 'auto': the CPU is used, because {error}", stacklevel=3)
            return "cpu", np
    raise ValueError(f"device is {device!r}; it must be 'cpu', 'gpu' or 'auto'")


def usable_cupy() -> Any:
    """Return the cupy module after a small computation on the device; importing it proves nothing.

    Raises
    ------
    DeviceError
        If CuPy is missing, finds no device, or cannot compute.
    """
    try:
        import cupy
    except ImportError as error:
        raise DeviceError(f"CuPy cannot be imported ({error}): install the extra cuda12 or cuda13, or use device='cpu'") from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
        total = float(cupy.arange(8, dtype=cupy.float32).sum())
    except Exception as error:
        raise DeviceError(f"CuPy {cupy.__version__} is installed, but a sum on its device failed: {error}") from None
    if total != 28.0:
        raise DeviceError(f"CuPy {cupy.__version__} sees {count} device(s), but computed 0 + ... + 7 = {total}")
    return cupy
