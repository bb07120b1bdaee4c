"""The fast kernels for NumPy arrays: compiled code (`compiled`) on slices of the batch, one slice a thread.

Products run single-threaded inside the slices. What the compiled kernels do not cover (complex numbers, integers) falls back
to the reference kernels.
"""
from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import threadpoolctl

from convnet.kernels import blas, compiled
from convnet.kernels.memory import Pool
from convnet.kernels.reference import Pair, ReferenceKernels, position_type, window_counts
from convnet.kernels.threads import Workers, default_count

Array = np.ndarray
NONE = {dtype: np.empty(0, dtype) for dtype in compiled.FLOATS}
# Fewer values than this are not worth waking a thread for.
WORTH_SHARING = 20_000


class FastKernels(ReferenceKernels):
    """Compiled, threaded kernels with the interface of `ReferenceKernels`.

    Parameters
    ----------
    threads : int, optional
        By default ``CONVNET_NUM_THREADS``, ``OMP_NUM_THREADS`` or the number of cores.
    """

    name = "fast"

    def __init__(self, threads: int | None = None):
        self.threads = default_count() if threads is None else threads
        self._workers = Workers(self.threads)
        self._pool = Pool()
        self._lock = threading.Lock()
        self._inside = 0
        self._limit: Any = None
        self.compile_seconds: dict[np.dtype, float] = {}

    def prepare(self, dtype: Any) -> float:
        """Compile all kernels for `dtype`, or load them from numba's cache, and return the seconds that took.

        Called by the first kernel that is asked for. A line on stderr says so when it took more than a second.
        """
        dtype = np.dtype(dtype)
        if self.compile_seconds.get(dtype):
            return self.compile_seconds[dtype]
        self.compile_seconds[dtype] = 0.0  # the kernels below must not come back here
        start = time.perf_counter()
        x, w, one, two = np.zeros((1, 3, 3, 1), dtype), np.zeros((2, 2, 1, 1), dtype), (1, 1), (2, 2)
        b = self.conv(x, w, np.zeros(1, dtype), one, one)
        _, where, mask = self.conv_relu_max_pool(x, w, np.zeros(1, dtype), one, one, two, one)
        self.conv_gather(x, w, one, one, where, mask, two, one)
        self.conv_adjoint(b, w, one, one, (3, 3))
        self.conv_weight_gradient(x, b, two, one, one)
        y, positions = self.max_pool(x, two, one)
        assert positions is not None
        self.max_pool_scatter(y, positions, two, one, (3, 3))
        self.max_pool_gather(x, positions, two, one)
        self.mean_pool_adjoint(self.mean_pool(x, two, one), two, one, (3, 3))
        self.masked(*self.relu(x))
        self.combination([(1.0, x), (2.0, x)])
        self.row_sum(x)
        matrix = np.zeros((2, 3), dtype)
        self.product(matrix.T, self.dense(matrix, np.zeros((3, 2), dtype), None))
        self.compile_seconds[dtype] = time.perf_counter() - start
        if self.compile_seconds[dtype] > 1:
            print(f"convnet: compiled the kernels for {dtype} in {self.compile_seconds[dtype]:.0f} s "
                  "(once; later runs load them from numba's cache)", file=sys.stderr)
        return self.compile_seconds[dtype]

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Hold BLAS to one thread inside the block, since the kernels bring their own; restore its setting after."""
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._limit = _blas().limit(limits=1, user_api="blas")
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._limit.restore_original_limits()

    # --- products -----------------------------------------------------------------------------------------------------

    def product(self, a: Array, b: Array) -> Array:
        """Return the matrix product of two 2-D arrays, either of which may be the transpose of a contiguous one."""
        if not _covered(a, b):
            return super().product(a, b)
        if a.flags.c_contiguous or not a.T.flags.c_contiguous:
            return self.dense(a, b, None)
        (m, k), n = a.shape, b.shape[1]
        y = self._empty((m, n), a.dtype)
        args = (blas.ADDRESS[a.dtype], _flat(a.T), _flat(b), _flat(y), m, k, n)
        self._run(compiled.dense_transposed, m, args, m * n)
        return y

    def dense(self, x: Array, weight: Array, bias: Array | None) -> Array:
        """Return ``x weight + bias``."""
        if not _covered(x, weight):
            return super().dense(x, weight, bias)
        (m, k), n = x.shape, weight.shape[1]
        transposed = not weight.flags.c_contiguous and weight.T.flags.c_contiguous
        w = weight.T if transposed else weight
        y = self._empty((m, n), x.dtype)
        args = (blas.ADDRESS[x.dtype], _flat(x), _flat(w), int(transposed),
                NONE[x.dtype] if bias is None else _flat(bias), _flat(y), m, k, n)
        self._run(compiled.dense, n, args, m * n * k // 32)
        return y

    def _transposed(self, w: Array, outer: int, reverse: bool) -> Array:
        """Return the transposes of `outer` matrices stacked in the 2-D array `w`, as one flat array."""
        rows, columns = w.shape[0] // outer, w.shape[1]
        w_t = self._empty((w.size,), w.dtype)
        self._run(compiled.transpose, outer, (_flat(w), w_t, outer, rows, columns, int(reverse)), w.size)
        return w_t

    # --- convolution --------------------------------------------------------------------------------------------------

    def conv(self, x: Array, weight: Array, bias: Array | None, stride: Pair, padding: Pair) -> Array:
        """Return the convolution of images (N, H, W, C) with filters (KH, KW, C, F), as (N, P, Q, F)."""
        if not _covered(x, weight):
            return super().conv(x, weight, bias, stride, padding)
        geometry, room = _geometry(x.shape, weight.shape, stride, padding)
        y = self._empty((len(x), *geometry[-3:]), x.dtype)
        args = (blas.ADDRESS[x.dtype], _flat(x), _flat(weight), NONE[x.dtype] if bias is None else _flat(bias),
                _flat(y), *geometry)
        self._run(compiled.conv, len(x), args, y.size * 8, room)
        return y

    def conv_adjoint(self, b: Array, weight: Array, stride: Pair, padding: Pair, image: Pair) -> Array:
        """Return the adjoint of `conv` applied to `b` (N, P, Q, F), as images (N, *image, C)."""
        if not _covered(b, weight):
            return super().conv_adjoint(b, weight, stride, padding, image)
        kh, kw, channels, filters = weight.shape
        flat = np.ascontiguousarray(weight).reshape(-1, filters)
        little_more = image[0] * image[1] <= 1.2 * b.shape[1] * b.shape[2]
        if stride == (1, 1) and channels >= 16 and padding[0] < kh and padding[1] < kw and little_more:
            # The same map as a convolution with the filters turned round: cheaper where it multiplies few more zeros.
            turned = self._transposed(flat, kh * kw, True).reshape(kh, kw, filters, channels)
            return self.conv(b, turned, None, (1, 1), (kh - 1 - padding[0], kw - 1 - padding[1]))
        shape = (len(b), *image, channels)
        geometry, room = _geometry(shape, weight.shape, stride, padding)
        x = self._empty(shape, b.dtype)
        args = (blas.ADDRESS[b.dtype], _flat(b), self._transposed(flat, kh, False), _flat(x), *geometry)
        self._run(compiled.conv_adjoint, len(b), args, b.size * 8, room)
        return x

    def conv_weight_gradient(self, a: Array, b: Array, size: Pair, stride: Pair, padding: Pair) -> Array:
        """Return the sum over samples and windows of window of `a` times `b`, as filters (KH, KW, C, F)."""
        if not _covered(a, b):
            return super().conv_weight_gradient(a, b, size, stride, padding)
        shape = (*size, a.shape[3], b.shape[3])
        geometry, room = _geometry(a.shape, shape, stride, padding)
        a, b_flat = _flat(a), _flat(b)
        parts = self._parts(len(b), b.size * 8)
        sums = self._empty((parts, *shape), a.dtype)
        flat = sums.reshape(parts, -1)
        self._workers.run(
            compiled.conv_weight_gradient, len(b),
            lambda part: (blas.ADDRESS[a.dtype], a, b_flat, flat[part], *geometry), parts, a.dtype, room,
        )
        return sums[0] if parts == 1 else sums.sum(axis=0)

    # --- pooling ------------------------------------------------------------------------------------------------------

    def max_pool(self, x: Array, size: Pair, stride: Pair, positions: bool = True) -> tuple[Array, Array | None]:
        """Return each window's maximum, (N, P, Q, C), and its position ``k·KW + l`` in the window; the first one wins."""
        if not _covered(x):
            return super().max_pool(x, size, stride, positions)
        counts = window_counts(x.shape[1:3], size, stride)
        shape = (len(x), *counts, x.shape[3])
        y, where = self._empty(shape, x.dtype), self._empty(shape, position_type(size))
        args = (_flat(x), _flat(y), _flat(where), *x.shape[1:], *size, *stride, *counts)
        self._run(compiled.max_pool, len(x), args, x.size)
        return y, where if positions else None

    def max_pool_scatter(self, b: Array, positions: Array, size: Pair, stride: Pair, image: Pair) -> Array:
        """Return images (N, *image, C) with each `b` added at the position of its window."""
        if not _covered(b):
            return super().max_pool_scatter(b, positions, size, stride, image)
        n, p, q, c = b.shape
        x = self._empty((n, *image, c), b.dtype)
        args = (_flat(b), _flat(positions), _offsets(size, image[1], c), _flat(x), *image, c, *stride, p, q)
        self._run(compiled.max_pool_scatter, n, args, x.size)
        return x

    def max_pool_gather(self, t: Array, positions: Array, size: Pair, stride: Pair) -> Array:
        """Return the cell of `t` at the position of each window, (N, P, Q, C)."""
        if not _covered(t):
            return super().max_pool_gather(t, positions, size, stride)
        (n, h, w, c), (_, p, q, _) = t.shape, positions.shape
        y = self._empty(positions.shape, t.dtype)
        args = (_flat(t), _flat(positions), _offsets(size, w, c), _flat(y), h, w, c, *stride, p, q)
        self._run(compiled.max_pool_gather, n, args, y.size)
        return y

    def mean_pool(self, x: Array, size: Pair, stride: Pair) -> Array:
        """Return each window's mean, (N, P, Q, C)."""
        if not _covered(x):
            return super().mean_pool(x, size, stride)
        counts = window_counts(x.shape[1:3], size, stride)
        y = self._empty((len(x), *counts, x.shape[3]), x.dtype)
        self._run(compiled.mean_pool, len(x), (_flat(x), _flat(y), *x.shape[1:], *size, *stride, *counts), x.size)
        return y

    def mean_pool_adjoint(self, b: Array, size: Pair, stride: Pair, image: Pair) -> Array:
        """Return images (N, *image, C) with each `b` spread evenly over its window."""
        if not _covered(b):
            return super().mean_pool_adjoint(b, size, stride, image)
        n, p, q, c = b.shape
        x = self._empty((n, *image, c), b.dtype)
        self._run(compiled.mean_pool_adjoint, n, (_flat(b), _flat(x), *image, c, *size, *stride, p, q), x.size)
        return x

    # --- blocks -------------------------------------------------------------------------------------------------------

    def computes_blocks(self, x: Array) -> bool:
        """Whether `conv_relu_max_pool` and `conv_gather` exist for arrays like `x`."""
        return _covered(x)

    def conv_relu_max_pool(
        self, x: Array, weight: Array, bias: Array | None, stride: Pair, padding: Pair, window: Pair, step: Pair
    ) -> tuple[Array, Array, Array]:
        """Return convolution, ReLU and maximum over windows: the values, the maxima's positions, where they are positive."""
        geometry, room = _geometry(x.shape, weight.shape, stride, padding)
        *_, rows, columns, filters = geometry
        counts = window_counts((rows, columns), window, step)
        shape = (len(x), *counts, filters)
        y, where, mask = (self._empty(shape, kind) for kind in (x.dtype, position_type(window), np.bool_))
        args = (blas.ADDRESS[x.dtype], _flat(x), _flat(weight), NONE[x.dtype] if bias is None else _flat(bias), _flat(y),
                _flat(where), _flat(mask), *geometry, room, *window, *step, *counts)
        self._run(compiled.conv_relu_max_pool, len(x), args, len(x) * rows * columns * filters * 8,
                  room + rows * columns * filters)
        return y, where, mask

    def conv_gather(
        self, t: Array, weight: Array, stride: Pair, padding: Pair, positions: Array, mask: Array, window: Pair, step: Pair
    ) -> Array:
        """Return the convolution of `t` at the position of each window where `mask` is true, 0 elsewhere."""
        geometry, room = _geometry(t.shape, weight.shape, stride, padding)
        *_, rows, columns, filters = geometry
        y = self._empty(positions.shape, t.dtype)
        args = (blas.ADDRESS[t.dtype], _flat(t), _flat(weight), NONE[t.dtype], _flat(positions), _flat(mask),
                _offsets(window, columns, filters), _flat(y), *geometry, room, *step, *positions.shape[1:3])
        self._run(compiled.conv_gather, len(t), args, len(t) * rows * columns * filters * 8, room + rows * columns * filters)
        return y

    # --- elementwise --------------------------------------------------------------------------------------------------

    def relu(self, x: Array) -> tuple[Array, Array]:
        """Return ``max(x, 0)`` and where `x` is positive."""
        if not _covered(x):
            return super().relu(x)
        y, mask = self._empty(x.shape, x.dtype), self._empty(x.shape, np.bool_)
        self._run(compiled.relu, x.size, (_flat(x), _flat(y), _flat(mask)), x.size // 4)
        return y, mask

    def masked(self, b: Array, mask: Array) -> Array:
        """Return `b` where `mask` is true, 0 elsewhere."""
        if not (_covered(b) and mask.flags.c_contiguous):
            return super().masked(b, mask)
        b = np.ascontiguousarray(b)
        y = self._empty(b.shape, b.dtype)
        self._run(compiled.masked, b.size, (_flat(b), _flat(mask), _flat(y)), b.size // 4)
        return y

    def combination(self, terms: Sequence[tuple[float, Array]]) -> Array:
        """Return the sum of coefficient times array over (coefficient, array) in `terms`."""
        arrays = [a for _, a in terms]
        if len(terms) < 2 or not _covered(*arrays):
            return super().combination(terms)
        y, real = self._empty(arrays[0].shape, arrays[0].dtype), arrays[0].dtype.type
        total, coefficient = arrays[0], terms[0][0]
        for (c, _), a in zip(terms[1:], arrays[1:], strict=True):
            args = (real(coefficient), _flat(total), real(c), _flat(a), _flat(y))
            self._run(compiled.combination, y.size, args, y.size // 4)
            total, coefficient = y, 1.0
        return y

    def row_sum(self, b: Array) -> Array:
        """Return the sum of `b` over all but its last axis."""
        if not _covered(b):
            return super().row_sum(b)
        channels = b.shape[-1]
        y = np.empty(channels, b.dtype)
        self._run(compiled.row_sum, channels, (_flat(b), y, b.size // channels, channels), 0)
        return y

    # --- running ------------------------------------------------------------------------------------------------------

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self._pool.empty(tuple(map(int, shape)), dtype)

    def _parts(self, total: int, work: int) -> int:
        return max(1, min(self.threads, total)) if work >= WORTH_SHARING else 1

    def _run(self, function: Any, total: int, args: tuple[Any, ...], work: int, workspace: int = 0) -> None:
        dtype = next(a.dtype for a in args if isinstance(a, np.ndarray) and a.dtype.kind == "f")
        if dtype not in self.compile_seconds:
            self.prepare(dtype)
        self._workers.run(function, total, lambda part: args, self._parts(total, work), dtype, workspace)


@functools.cache
def _blas() -> threadpoolctl.ThreadpoolController:
    """Return the controller of the BLAS libraries that are loaded; looking for them takes milliseconds."""
    return threadpoolctl.ThreadpoolController()


def _flat(a: Array) -> Array:
    """Return `a` as a contiguous 1-D array: a view where it is contiguous, a copy where not."""
    return np.ascontiguousarray(a).reshape(-1)


def _covered(*arrays: Array) -> bool:
    """Whether the compiled kernels take these arrays: all float32, or all float64, and not empty."""
    first = arrays[0].dtype
    return first in compiled.FLOATS and all(a.dtype == first and a.size for a in arrays)


def _geometry(x: Sequence[int], w: Sequence[int], stride: Pair, padding: Pair) -> tuple[tuple[int, ...], int]:
    """Return H, W, C, KH, KW, SH, SW, PH, PW, P, Q, F and the size of an unfolded image."""
    (_, height, width, channels), (kh, kw, _, filters) = x, w
    counts = window_counts((height + 2 * padding[0], width + 2 * padding[1]), (kh, kw), stride)
    groups = -(-((counts[0] - 1) * stride[0] + kh) // stride[0])
    room = stride[0] * groups * counts[1] * kw * channels
    return (height, width, channels, kh, kw, *stride, *padding, *counts, filters), room


@functools.lru_cache(maxsize=256)
def _offsets(size: Pair, width: int, channels: int) -> Array:
    """Return where the cells of a window lie from its first cell, in values."""
    return np.array([(k * width + l) * channels for k, l in np.ndindex(*size)], np.intp)
