"""Matrix products by cuBLAS, called directly.

CuPy's own cuBLAS calls raise an error while a stream is being captured (cupy/cupy#6290). cuBLAS itself can be captured if its
handle has a workspace of its own, so this module holds a handle and a workspace and calls the library through ctypes.
"""
from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy as np

Array = Any

# What NVIDIA recommends for Hopper; a workspace that is too small only restricts the choice of algorithms.
WORKSPACE_BYTES = 32 << 20
DEFAULT_MATH, TF32_MATH = 0, 3
GEMM = {np.dtype(np.float32): "cublasSgemm_v2", np.dtype(np.float64): "cublasDgemm_v2"}
NUMBER = {np.dtype(np.float32): ctypes.c_float, np.dtype(np.float64): ctypes.c_double}


class CublasError(RuntimeError):
    """cuBLAS is missing, or a call to it failed."""


class Cublas:
    """A cuBLAS handle with its own workspace, for one device and one stream at a time.

    Parameters
    ----------
    cupy : module

    Raises
    ------
    CublasError
        If the library is not installed or cannot be used.
    """

    def __init__(self, cupy: Any):
        self._cupy = cupy
        try:
            from cuda.pathfinder import load_nvidia_dynamic_lib

            self._library = ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
        except (ImportError, RuntimeError, OSError) as error:
            raise CublasError(f"cuBLAS cannot be loaded: {error}") from None
        for name in GEMM.values():
            getattr(self._library, name).argtypes = [
                ctypes.c_void_p, *[ctypes.c_int] * 5, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p,
                ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
        self._handle = ctypes.c_void_p()
        self._check("cublasCreate_v2", self._library.cublasCreate_v2(ctypes.byref(self._handle)))
        weakref.finalize(self, self._library.cublasDestroy_v2, self._handle).atexit = False
        self._workspace = cupy.cuda.alloc(WORKSPACE_BYTES)
        self._stream: int | None = None
        self._math = DEFAULT_MATH
        self._one = {dtype: kind(1) for dtype, kind in NUMBER.items()}
        self._zero = {dtype: kind(0) for dtype, kind in NUMBER.items()}

    def product(self, a: Array, a_transposed: bool, b: Array, b_transposed: bool, out: Array, tf32: bool) -> None:
        """Write the product of two row-major matrices, each stored as it is or as its transpose, to `out` (m, n).

        Parameters
        ----------
        a, b, out : array
            C-contiguous, of one type.
        a_transposed, b_transposed : bool
            Whether `a` holds the left factor's transpose, `b` the right one's.
        tf32 : bool
            Whether float32 factors may be rounded to TF32.
        """
        m, n = out.shape
        k = a.shape[0] if a_transposed else a.shape[1]
        self._use(self._cupy.cuda.get_current_stream().ptr, TF32_MATH if tf32 else DEFAULT_MATH)
        dtype = out.dtype
        # cuBLAS is column-major, where a row-major matrix is its transpose: out^T = b^T a^T.
        status = getattr(self._library, GEMM[dtype])(
            self._handle, int(b_transposed), int(a_transposed), n, m, k, ctypes.addressof(self._one[dtype]),
            b.data.ptr, b.shape[1], a.data.ptr, a.shape[1], ctypes.addressof(self._zero[dtype]), out.data.ptr, n)
        self._check(GEMM[dtype], status)

    def _use(self, stream: int, math: int) -> None:
        if stream != self._stream:
            self._check("cublasSetStream_v2", self._library.cublasSetStream_v2(self._handle, ctypes.c_void_p(stream)))
            # Setting the stream takes the workspace away.
            self._check("cublasSetWorkspace_v2", self._library.cublasSetWorkspace_v2(
                self._handle, ctypes.c_void_p(self._workspace.ptr), ctypes.c_size_t(WORKSPACE_BYTES)))
            self._stream = stream
        if math != self._math:
            self._check("cublasSetMathMode", self._library.cublasSetMathMode(self._handle, math))
            self._math = math

    def _check(self, call: str, status: int) -> None:
        if status:
            self._library.cublasGetStatusString.restype = ctypes.c_char_p
            reason = self._library.cublasGetStatusString(status)
            raise CublasError(f"{call} failed: {reason.decode() if reason else 'status'} ({status})")
