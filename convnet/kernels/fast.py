"""The fast kernels for NumPy arrays: compiled code (`compiled`) on slices of the batch, one slice a thread.

What the compiled kernels do not cover (complex numbers, integers, types or shapes that are not alike) falls back to the reference
kernels.
"""
from __future__ import annotations

import functools
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from convnet.kernels import caching, compiled
from convnet.kernels.memory import Pool
from convnet.kernels.reference import Pair, ReferenceKernels, block_position_type, position_type, window_counts
from convnet.kernels.threads import Workers, default_count
from convnet.kernels.tile import padded

Array = np.ndarray
# Fewer values than this are not worth waking a thread for.
WORTH_SHARING = 20_000
# A product of fewer rows wastes part of its last tile, one of fewer terms spends its time on loading and storing sums.
ROWS, TERMS = 48, 256


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
        _, where = self.conv_relu_max_pool(x, w, np.zeros(1, dtype), one, one, two, one)
        self.conv_gather(x, w, one, one, where, two, one)
        self.conv_adjoint(b, w, one, one, (3, 3))
        self.conv_weight_gradient(x, b, two, one, one)
        y, positions = self.max_pool(x, two, one)
        assert positions is not None
        self.max_pool_scatter(y, positions, two, one, (3, 3))
        self.max_pool_gather(x, positions, two, one)
        self.mean_pool_adjoint(self.mean_pool(x, two, one), two, one, (3, 3))
        self.masked(*self.relu(x))
        self.combination([(1.0, x), (2.0, x)])
        self.row_affine(x, self.row_sum(x), self.row_dot(x, x))
        matrix = np.zeros((2, 3), dtype)
        for a, other in ((matrix, np.zeros((3, 2), dtype)), (matrix.T, matrix), (matrix, matrix.T)):
            self.product(a, other)
        self.compile_seconds[dtype] = time.perf_counter() - start
        if self.compile_seconds[dtype] > 1:
            later = "(once; later runs load them from numba's cache)" if not caching.uncached else \
                "(in every process, as numba can write no cache here: NUMBA_CACHE_DIR names a folder for it)"
            print(f"convnet: compiled the kernels for {dtype} in {self.compile_seconds[dtype]:.0f} s {later}", file=sys.stderr)
        return self.compile_seconds[dtype]

    # --- products -----------------------------------------------------------------------------------------------------

    def product(self, a: Array, b: Array) -> Array:
        """Return the matrix product of two 2-D arrays, either of which may be the transpose of a contiguous one."""
        if not _covered(a, b):
            return super().product(a, b)
        (m, k), n = a.shape, b.shape[1]
        if _is_transpose(b):
            y, m_v = self._empty((m, n), a.dtype), padded(m, a.itemsize)
            args = (self._transposed(np.ascontiguousarray(a)), _lattice((n, k)), _flat(b.T), _zeros(m_v, a.dtype), _flat(y),
                    m, k, n, m_v)
            self._run(compiled.dense_adjoint, n, args, m * n * k // 32, 16 * m_v)
            return y
        if not _is_transpose(a):
            return self.dense(a, b, None)
        y, n_v = self._empty((m, n), a.dtype), padded(n, a.itemsize)
        args = (_flat(a.T), _lattice((m, 1)), _columns(b), _zeros(n_v, a.dtype), _flat(y), m, k, n, n_v)
        self._run(compiled.dense_transposed, m, args, m * n)
        return y

    def dense(self, x: Array, weight: Array, bias: Array | None) -> Array:
        """Return ``x weight + bias``."""
        if not _covered(x, weight):
            return super().dense(x, weight, bias)
        (m, k), n = x.shape, weight.shape[1]
        y, n_v = self._empty((m, n), x.dtype), padded(n, x.itemsize)
        block = padded(-(-n // self.threads), x.itemsize)
        args = (_flat(x), _lattice((m, k)), _columns(weight), _row(bias, n, x.dtype), _flat(y), m, k, n, block, n_v)
        self._run(compiled.dense, -(-n // block), args, m * n * k // 32)
        return y

    def _transposed(self, w: Array, outer: int = 1, reverse: bool = False) -> Array:
        """Return the transposes of `outer` matrices stacked in the 2-D array `w`, flat, in rows of whole vectors."""
        rows, columns = w.shape[0] // outer, w.shape[1]
        ldt = padded(rows, w.itemsize)
        w_t = self._empty((outer * columns * ldt,), w.dtype)
        if ldt > rows:
            w_t[:] = 0
        self._run(compiled.transpose, outer, (_flat(w), w_t, outer, rows, columns, ldt, int(reverse)), w.size)
        return w_t

    # --- convolution --------------------------------------------------------------------------------------------------

    def conv(self, x: Array, weight: Array, bias: Array | None, stride: Pair, padding: Pair) -> Array:
        """Return the convolution of images (N, H, W, C) with filters (KH, KW, C, F), as (N, P, Q, F)."""
        if not _covered(x, weight) or x.shape[3] != weight.shape[2]:
            return super().conv(x, weight, bias, stride, padding)
        return self._conv(x, weight.shape, _columns(weight), bias, stride, padding)

    def _conv(self, x: Array, shape: tuple[int, ...], columns: Array, bias: Array | None, stride: Pair, padding: Pair) -> Array:
        """Return the convolution with filters of `shape` whose values lie in rows of whole vectors."""
        plan = self._plan(x, shape, stride, padding, ROWS)
        y = self._empty((len(x), plan.rows, plan.columns, shape[3]), x.dtype)
        args = (plan.group, _flat(x), plan.windows(), columns, _row(bias, shape[3], x.dtype), _flat(y), *plan.sizes)
        self._run(compiled.conv, len(x), args, y.size * 8, plan.room)
        return y

    def _plan(self, x: Array, shape: tuple[int, ...], stride: Pair, padding: Pair, wanted: int) -> _Plan:
        """Return how to convolve images like `x`: as many at a time as have `wanted` windows."""
        (n, height, width, channels), (kh, kw, _, filters) = x.shape, shape
        tall, wide = height + 2 * padding[0], width + 2 * padding[1]
        rows, columns = window_counts((tall, wide), (kh, kw), stride)
        group = max(1, min(wanted // (rows * columns), -(-n // self.threads)))
        room = group * tall * wide * channels if any(padding) else 0
        sizes = (height, width, channels, kh, kw, *padding, rows * columns, filters, padded(filters, x.itemsize))
        return _Plan(group, rows, columns, stride, (tall * wide * channels, wide * channels, channels), room, sizes)

    def conv_adjoint(self, b: Array, weight: Array, stride: Pair, padding: Pair, image: Pair) -> Array:
        """Return the adjoint of `conv` applied to `b` (N, P, Q, F), as images (N, *image, C)."""
        if not _covered(b, weight) or b.shape[3] != weight.shape[3]:
            return super().conv_adjoint(b, weight, stride, padding, image)
        kh, kw, channels, filters = weight.shape
        (n, rows, columns, _) = b.shape
        flat = np.ascontiguousarray(weight).reshape(-1, filters)
        little_more = image[0] * image[1] * padded(channels, b.itemsize) <= 1.5 * rows * columns * channels
        if stride == (1, 1) and padding[0] < kh and padding[1] < kw and little_more:
            # The same map as a convolution with the filters turned round: cheaper where it multiplies few more zeros.
            turned = self._transposed(flat, kh * kw, True)
            return self._conv(b, (kh, kw, filters, channels), turned, None, (1, 1), (kh - 1 - padding[0], kw - 1 - padding[1]))
        run = -(-kw * channels // 4) * 4
        runs = np.zeros((kh, run, filters), b.dtype)
        runs[:, :kw * channels] = flat.reshape(kh, -1, filters)
        x, k_v = self._empty((n, *image, channels), b.dtype), padded(kh * run, b.itemsize)
        args = (_flat(b), _lattice((rows * columns, filters)), self._transposed(runs.reshape(-1, filters)),
                _zeros(k_v, b.dtype), _flat(x), *image, channels, kh, kw, *stride, *padding, rows,
                columns, filters, kw * channels, run, k_v, rows * columns * k_v)
        room = rows * columns * k_v + (image[0] + 2 * padding[0]) * (image[1] + 2 * padding[1]) * channels + run + filters
        self._run(compiled.conv_adjoint, n, args, b.size * 8, room)
        return x

    def conv_weight_gradient(self, a: Array, b: Array, size: Pair, stride: Pair, padding: Pair) -> Array:
        """Return the sum over samples and windows of window of `a` times `b`, as filters (KH, KW, C, F)."""
        if not _covered(a, b):
            return super().conv_weight_gradient(a, b, size, stride, padding)
        return self.conv_gradients(a, b, size, stride, padding)[0]

    def conv_gradients(self, a: Array, b: Array, size: Pair, stride: Pair, padding: Pair) -> tuple[Array, Array]:
        """Return the `conv_weight_gradient` and the `row_sum` of `b`, which is read once for both."""
        if not _covered(a, b):
            return super().conv_gradients(a, b, size, stride, padding)
        shape = (*size, a.shape[3], b.shape[3])
        plan = self._plan(a, shape, stride, padding, TERMS)
        height, width, channels, kh, kw, ph, pw, _, filters, f_v = plan.sizes
        values = _lattice((kh, plan.steps[1]), (kw * channels, 1))
        a_flat, b_flat, zeros = _flat(a), _columns(b), _zeros(f_v, a.dtype)
        parts = self._parts(len(b), b.size * 8)
        sums = self._empty((parts, len(values) + 1, f_v), a.dtype)
        args = (plan.group, a_flat, values, b_flat, zeros, _flat(sums), height, width, channels, kh, kw, *stride, ph, pw,
                plan.rows, plan.columns, f_v)
        self._call(compiled.conv_weight_gradient, len(b), args, parts, plan.room)
        total = sums[0]
        for other in sums[1:]:
            total += other
        return np.ascontiguousarray(total[:-1, :filters]).reshape(shape), total[-1, :filters]

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
        args = (_flat(b), _flat(positions), _flat(x), *image, c, *size, *stride, p, q)
        self._run(compiled.max_pool_scatter, n, args, x.size)
        return x

    def max_pool_gather(self, t: Array, positions: Array, size: Pair, stride: Pair) -> Array:
        """Return the cell of `t` at the position of each window, (N, P, Q, C)."""
        if not _covered(t):
            return super().max_pool_gather(t, positions, size, stride)
        (n, h, w, c), (_, p, q, _) = t.shape, positions.shape
        y = self._empty(positions.shape, t.dtype)
        args = (_flat(t), _flat(positions), _cells(size, w, c), _flat(y), h, w, c, *stride, p, q)
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
    ) -> tuple[Array, Array]:
        """Return convolution, ReLU and maximum over windows, and the maxima's positions; where none is positive, no cell's."""
        x, weight = _alike(x, weight)
        plan = self._plan(x, weight.shape, stride, padding, ROWS)
        filters = weight.shape[3]
        counts = window_counts((plan.rows, plan.columns), window, step)
        shape = (len(x), *counts, filters)
        y, where = (self._empty(shape, kind) for kind in (x.dtype, block_position_type(window)))
        args = (plan.group, _flat(x), plan.windows(), _columns(weight), _row(bias, filters, x.dtype), _flat(y), _flat(where),
                *plan.sizes, plan.room, plan.columns, *window, *step, *counts)
        maps = plan.rows * plan.columns * filters
        self._run(compiled.conv_relu_max_pool, len(x), args, len(x) * maps * 8, plan.room + plan.group * maps)
        return y, where

    def conv_gather(
        self, t: Array, weight: Array, stride: Pair, padding: Pair, positions: Array, window: Pair, step: Pair
    ) -> Array:
        """Return the convolution of `t` at the position of each window, 0 where that is no cell's."""
        t, weight = _alike(t, weight)
        plan = self._plan(t, weight.shape, stride, padding, ROWS)
        filters = weight.shape[3]
        y = self._empty(positions.shape, t.dtype)
        args = (plan.group, _flat(t), plan.windows(), _columns(weight), _row(None, filters, t.dtype), _flat(positions),
                _cells(window, plan.columns, filters), _flat(y), *plan.sizes, plan.room, plan.columns, *step,
                *positions.shape[1:3])
        maps = plan.rows * plan.columns * filters
        self._run(compiled.conv_gather, len(t), args, len(t) * maps * 8, plan.room + plan.group * maps)
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
        if not (_covered(b) and mask.flags.c_contiguous and mask.shape == b.shape):
            return super().masked(b, mask)
        b = np.ascontiguousarray(b)
        y = self._empty(b.shape, b.dtype)
        self._run(compiled.masked, b.size, (_flat(b), _flat(mask), _flat(y)), b.size // 4)
        return y

    def combination(self, terms: Sequence[tuple[float, Array]]) -> Array:
        """Return the sum of coefficient times array over (coefficient, array) in `terms`."""
        arrays = [a for _, a in terms]
        if len(terms) < 2 or not _covered(*arrays) or any(a.shape != arrays[0].shape for a in arrays):
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
        channels, parts = b.shape[-1], self._parts(b.size // b.shape[-1], b.size // 4)
        sums = np.empty((parts, channels), b.dtype)
        self._call(compiled.row_sum, b.size // channels, (_flat(b), _flat(sums), channels), parts, 0)
        return sums[0] if parts == 1 else sums.sum(axis=0)

    def row_dot(self, a: Array, b: Array, mean: Array | None = None) -> Array:
        """Return the sum of ``(a - mean) (b - mean)`` over all but the last axis, `mean` a vector along it and 0 for None."""
        if not _covered(a, b, a if mean is None else mean):
            return super().row_dot(a, b, mean)
        channels, parts = a.shape[-1], self._parts(a.size // a.shape[-1], a.size // 4)
        sums = np.empty((parts, channels), a.dtype)
        mean = _zeros(channels, a.dtype) if mean is None else _flat(mean)
        self._call(compiled.row_dot, a.size // channels, (_flat(a), _flat(b), mean, _flat(sums), channels), parts, 0)
        return sums[0] if parts == 1 else sums.sum(axis=0)

    def row_affine(
        self, a: Array, shift: Array | None, scale: Array, b: Array | None = None, other: Array | None = None,
        offset: Array | None = None,
    ) -> Array:
        """Return ``scale (a - shift) + other b + offset``, all but `a` and `b` vectors along the last axis, None for 0."""
        if not _covered(a, scale, *(given for given in (shift, b, other, offset) if given is not None)):
            return super().row_affine(a, shift, scale, b, other, offset)
        channels, dtype = a.shape[-1], a.dtype
        y, none = self._empty(a.shape, dtype), _zeros(channels, dtype)
        shift, other, offset = (none if vector is None else _flat(vector) for vector in (shift, other, offset))
        args = (_flat(a), shift, _flat(scale), none[:0] if b is None else _flat(b), other, offset, _flat(y), channels)
        self._run(compiled.row_affine, a.size // channels, args, a.size // 4)
        return y

    def accumulate(self, target: Array, keep: float, coefficient: float, x: Array) -> None:
        """Replace `target` by ``keep · target + coefficient · x``."""
        if not (_covered(target, x) and target.flags.c_contiguous and x.shape == target.shape):
            return super().accumulate(target, keep, coefficient, x)
        real, flat = target.dtype.type, _flat(target)
        self._run(compiled.combination, target.size, (real(keep), flat, real(coefficient), _flat(x), flat), target.size // 4)

    # --- running ------------------------------------------------------------------------------------------------------

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self._pool.empty(tuple(map(int, shape)), dtype)

    def _parts(self, total: int, work: int) -> int:
        return max(1, min(self.threads, total)) if work >= WORTH_SHARING else 1

    def _run(self, kernel: Any, total: int, args: tuple[Any, ...], work: int, room: int = 0) -> None:
        self._call(kernel, total, args, self._parts(total, work), room)

    def _call(self, kernel: Any, total: int, args: tuple[Any, ...], parts: int, room: int) -> None:
        dtype = next(a.dtype for a in args if isinstance(a, np.ndarray) and a.dtype.kind == "f")
        if dtype not in self.compile_seconds:
            self.prepare(dtype)
        self._workers.run(kernel, total, args, parts, dtype, room)


class _Plan(NamedTuple):
    """How a convolution runs: images at a time, windows down and across, what the compiled kernels take, and room for padding."""

    group: int
    rows: int
    columns: int
    stride: Pair
    steps: tuple[int, int, int]
    room: int
    sizes: tuple[int, ...]

    def windows(self) -> Array:
        """Return where the windows of `group` images begin in the padded images."""
        image, row, column = self.steps
        return _lattice((self.group, image), (self.rows, self.stride[0] * row), (self.columns, self.stride[1] * column))


def _flat(a: Array) -> Array:
    """Return `a` as a contiguous 1-D array that may be written, the one kind that is compiled for: a view or a copy."""
    whole = np.ascontiguousarray(a)
    return (whole if whole.flags.writeable else whole.copy()).reshape(-1)


def _columns(a: Array) -> Array:
    """Return the rows of `a`, along its last axis, as a flat array with rows of whole vectors."""
    columns = a.shape[-1]
    whole = padded(columns, a.itemsize)
    if whole == columns:
        return _flat(a)
    rows = np.zeros((a.size // columns, whole), a.dtype)
    rows[:, :columns] = a.reshape(-1, columns)
    return rows.reshape(-1)


def _row(bias: Array | None, columns: int, dtype: Any) -> Array:
    """Return a bias of `columns` values, zeros for None, as whole vectors."""
    if bias is None:
        return _zeros(padded(columns, dtype.itemsize), dtype)
    bias = np.asarray(bias, dtype)
    return _columns(bias if bias.shape == (columns,) else np.broadcast_to(bias, (columns,)))


def _alike(x: Array, weight: Array) -> tuple[Array, Array]:
    """Return both in the type of their product."""
    dtype = np.result_type(x, weight)
    return x.astype(dtype, copy=False), weight.astype(dtype, copy=False)


@functools.lru_cache(maxsize=256)
def _zeros(count: int, dtype: Any) -> Array:
    return np.zeros(count, dtype)


def _is_transpose(a: Array) -> bool:
    """Whether `a` is the transpose of a contiguous array and not contiguous itself."""
    return not a.flags.c_contiguous and a.T.flags.c_contiguous


def _covered(*arrays: Array) -> bool:
    """Whether the compiled kernels take these arrays: all float32, or all float64, and not empty."""
    first = arrays[0].dtype
    return first in compiled.FLOATS and all(a.dtype == first and a.size for a in arrays)


@functools.lru_cache(maxsize=256)
def _cells(size: Pair, width: int, channels: int) -> Array:
    """Return where the cells of a window lie from its corner, and a number for positions outside."""
    return np.append(_lattice((size[0], width * channels), (size[1], channels)), 0)


@functools.lru_cache(maxsize=1024)
def _lattice(*axes: tuple[int, int]) -> Array:
    """Return ``sum_a i_a step_a`` for all indices of axes (count, step), the last one fastest."""
    total = np.zeros(1, np.intp)
    for count, step in axes:
        total = np.add.outer(total, np.arange(count, dtype=np.intp) * step).reshape(-1)
    return total
