"""Where arrays live: the CPU with NumPy, or a GPU with CuPy. And what goes wrong there."""
from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_tf32 = False


class DeviceError(RuntimeError):
    """No usable GPU; the message says what was probed and what failed."""


class DeviceMemoryError(MemoryError):
    """The GPU's memory is too small for what was asked; the message says how large the batch was."""


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
    except Exception as error:
        raise DeviceError(f"CuPy {cupy.__version__} is installed, but asking the driver for its devices failed: {error}; "
                          "use device='cpu'") from None
    try:
        total = float(cupy.arange(8, dtype=cupy.float32).sum())
    except Exception as error:
        raise DeviceError(f"CuPy {cupy.__version__} sees {count} device(s), but a sum on the device failed: {error}; "
                          "use device='cpu'") from None
    if total != 28.0:
        raise DeviceError(f"CuPy {cupy.__version__} sees {count} device(s), but computed 0 + ... + 7 = {total}")
    return cupy


@contextmanager
def memory_errors(batch_size: int) -> Iterator[None]:
    """Turn CuPy's out-of-memory error inside the block into one that names the batch size.

    Parameters
    ----------
    batch_size : int
        Of the batch that is being computed. What was there before the block is left as it was.

    Raises
    ------
    DeviceMemoryError
    """
    try:
        yield
    except MemoryError as error:
        cupy = sys.modules.get("cupy")
        if cupy is None or not isinstance(error, cupy.cuda.memory.OutOfMemoryError):
            raise
        raise DeviceMemoryError(f"the GPU's memory does not hold a batch of {batch_size} images: {error}. "
                                "Use a smaller batch size") from error


def allow_tf32(allowed: bool = True) -> None:
    """Let float32 products on the GPU round their factors to TF32: faster, with 10 bits of mantissa instead of 23.

    Off unless this is called, and refused by gradient checks (`refuse_tf32`). It changes nothing on the CPU or in float64.

    Raises
    ------
    TypeError
        If `allowed` is not a bool.
    """
    global _tf32
    if not isinstance(allowed, bool):
        raise TypeError(f"allowed is {allowed!r}; it must be True or False")
    _tf32 = allowed


def tf32_allowed() -> bool:
    """Return whether float32 products on the GPU may use TF32."""
    return _tf32


def refuse_tf32(what: str) -> None:
    """Raise RuntimeError if TF32 is on; to be called by whatever needs exact products, such as a gradient check."""
    if _tf32:
        raise RuntimeError(f"{what} needs exact products, but TF32 is on: call convnet.devices.allow_tf32(False) first")
