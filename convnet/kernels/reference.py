"""The kernels in plain NumPy: the specification that the faster versions are held against, and the fallback.

All of them also run on CuPy arrays. Shapes are channels-last; ``P, Q`` are the rows and columns of windows.
"""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from convnet.kernels import array_module

Array = Any
Pair = tuple[int, int]


class HostDrawError(RuntimeError):
    """Something draws random numbers on the host while a draw lives on the device."""


class ReferenceKernels:
    """NumPy kernels; the methods are the kernel interface."""

    name = "reference"

    # --- products -----------------------------------------------------------------------------------------------------

    def product(self, a: Array, b: Array) -> Array:
        """Return the matrix product of two 2-D arrays."""
        return a @ b

    def dense(self, x: Array, weight: Array, bias: Array | None) -> Array:
        """Return ``x weight + bias``."""
        y = self.product(x, weight)
        if bias is not None:
            y += bias
        return y

    def dense_gradients(self, a: Array, b: Array) -> tuple[Array, Array]:
        """Return ``a^T b`` and the `row_sum` of `b`."""
        return self.product(a.T, b), self.row_sum(b)

    # --- convolution --------------------------------------------------------------------------------------------------

    def conv(self, x: Array, weight: Array, bias: Array | None, stride: Pair, padding: Pair) -> Array:
        """Return the convolution of images (N, H, W, C) with filters (KH, KW, C, F), as (N, P, Q, F)."""
        columns = im2col(x, weight.shape[:2], stride, padding)  # (N, P, Q, KH·KW·C)
        n, p, q, k = columns.shape
        y = self.product(columns.reshape(-1, k), weight.reshape(k, -1))
        if bias is not None:
            y += bias
        return y.reshape(n, p, q, -1)

    def conv_adjoint(self, b: Array, weight: Array, stride: Pair, padding: Pair, image: Pair) -> Array:
        """Return the adjoint of `conv` applied to `b` (N, P, Q, F), as images ``(N, *image, C)``."""
        n, p, q, f = b.shape
        columns = self.product(b.reshape(-1, f), weight.reshape(-1, f).conj().T)
        return col2im(columns.reshape(n, p, q, -1), weight.shape[:2], stride, padding, image)

    def conv_weight_gradient(self, a: Array, b: Array, size: Pair, stride: Pair, padding: Pair) -> Array:
        """Return the sum over samples and windows of (window of `a`)* times `b`, as filters (KH, KW, C, F)."""
        columns = im2col(a, size, stride, padding)
        k, f = columns.shape[-1], b.shape[-1]
        return self.product(columns.reshape(-1, k).conj().T, b.reshape(-1, f)).reshape(*size, -1, f)

    def conv_gradients(self, a: Array, b: Array, size: Pair, stride: Pair, padding: Pair) -> tuple[Array, Array]:
        """Return the `conv_weight_gradient` and the `row_sum` of `b`."""
        return self.conv_weight_gradient(a, b, size, stride, padding), self.row_sum(b)

    # --- pooling ------------------------------------------------------------------------------------------------------

    def max_pool(self, x: Array, size: Pair, stride: Pair, positions: bool = True) -> tuple[Array, Array | None]:
        """Return each window's maximum, (N, P, Q, C), and its position ``k·KW + l`` in the window; the first one wins."""
        xp = array_module(x)
        counts = window_counts(x.shape[1:3], size, stride)
        y = window_cell(x, 0, 0, stride, counts).copy()
        where = xp.zeros(y.shape, position_type(size)) if positions else None
        for place, (k, l) in enumerate(np.ndindex(*size)):
            cell = window_cell(x, k, l, stride, counts)
            # A NaN wins and stays, so that it is seen.
            better = (cell > y) | ((cell != cell) & (y == y))
            y = xp.where(better, cell, y)
            if where is not None:
                where[better] = place
        return y, where

    def max_pool_scatter(self, b: Array, positions: Array, size: Pair, stride: Pair, image: Pair) -> Array:
        """Return images ``(N, *image, C)`` with each `b` added at the position of its window."""
        xp = array_module(b)
        x = xp.zeros((len(b), *image, b.shape[-1]), b.dtype)
        for place, (k, l) in enumerate(np.ndindex(*size)):
            cell = window_cell(x, k, l, stride, b.shape[1:3])
            cell += xp.where(positions == place, b, 0)
        return x

    def max_pool_gather(self, t: Array, positions: Array, size: Pair, stride: Pair) -> Array:
        """Return the cell of `t` at the position of each window, (N, P, Q, C)."""
        xp = array_module(t)
        y = xp.zeros(positions.shape, t.dtype)
        for place, (k, l) in enumerate(np.ndindex(*size)):
            y = xp.where(positions == place, window_cell(t, k, l, stride, positions.shape[1:3]), y)
        return y

    def mean_pool(self, x: Array, size: Pair, stride: Pair) -> Array:
        """Return each window's mean, (N, P, Q, C)."""
        counts = window_counts(x.shape[1:3], size, stride)
        total = sum(window_cell(x, k, l, stride, counts) for k, l in np.ndindex(*size))
        return total / (size[0] * size[1])

    def mean_pool_adjoint(self, b: Array, size: Pair, stride: Pair, image: Pair) -> Array:
        """Return images ``(N, *image, C)`` with each `b` spread evenly over its window."""
        x = array_module(b).zeros((len(b), *image, b.shape[-1]), b.dtype)
        share = b / (size[0] * size[1])
        for k, l in np.ndindex(*size):
            cell = window_cell(x, k, l, stride, b.shape[1:3])
            cell += share
        return x

    # --- blocks -------------------------------------------------------------------------------------------------------

    def computes_blocks(self, x: Array) -> bool:
        """Whether `conv_relu_max_pool` and `conv_gather` exist for arrays like `x`. Not here: the layers say it all."""
        return False

    def fuses_relu(self, x: Array, weight: Array) -> bool:
        """Whether `dense_relu`, `dense_masked`, `conv_relu` and `conv_masked` exist for such arrays. Not on a CPU."""
        return False

    # --- elementwise --------------------------------------------------------------------------------------------------

    def relu(self, x: Array) -> tuple[Array, Array]:
        """Return ``max(x, 0)`` and where `x` is positive."""
        xp = array_module(x)
        return xp.maximum(x, 0), x > 0

    def masked(self, b: Array, mask: Array) -> Array:
        """Return `b` where `mask` is true, 0 elsewhere."""
        return array_module(b).where(mask, b, b.dtype.type(0))

    def combination(self, terms: Sequence[tuple[float, Array]]) -> Array:
        """Return the sum of coefficient times array over (coefficient, array) in `terms`."""
        (coefficient, first), *rest = terms
        total = coefficient * first
        for coefficient, a in rest:
            total += coefficient * a
        return total

    def combinations(self, sums: Sequence[Sequence[tuple[float, Array]]]) -> Iterator[Array]:
        """Yield the `combination` of each of `sums`."""
        # Each when it is asked for: it is still in the cache when it is used.
        return map(self.combination, sums)

    def accumulate(self, target: Array, keep: float, coefficient: float, x: Array) -> None:
        """Replace `target` by ``keep · target + coefficient · x``."""
        if keep != 1:
            target *= keep
        target += x if coefficient == 1 else coefficient * x

    def row_sum(self, b: Array) -> Array:
        """Return the sum of `b` over all but its last axis."""
        return b.sum(axis=tuple(range(b.ndim - 1)))

    def row_dot(self, a: Array, b: Array, mean: Array | None = None) -> Array:
        """Return the sum of ``(a - mean) (b - mean)`` over all but the last axis, `mean` a vector along it and 0 for None."""
        return self.row_sum(a * b if mean is None else (a - mean) * (b - mean))

    def row_affine(
        self, a: Array, shift: Array | None, scale: Array, b: Array | None = None, other: Array | None = None,
        offset: Array | None = None,
    ) -> Array:
        """Return ``scale (a - shift) + other b + offset``, all but `a` and `b` vectors along the last axis, None for 0."""
        y = scale * (a if shift is None else a - shift)
        if b is not None:
            y += other * b
        if offset is not None:
            y += offset
        return y

    # --- the end of a step --------------------------------------------------------------------------------------------

    def gradient_sum(self, vector: Array, parts: Mapping[str, Array]) -> GradientSum:
        """Return what adds up the products of a step in `vector`, whose `parts` are views of it by name."""
        return GradientSum(vector, parts)

    def step_means(self, losses: Array, penalties: Array | None, coefficient: float) -> tuple[Array, Array, Array]:
        """Return the means of losses and penalties, and the first plus `coefficient` times the second."""
        loss = losses.mean()
        penalty = 0 * loss if penalties is None else penalties.mean()
        return loss, penalty, loss + coefficient * penalty

    def norm_penalty(self, v: Array, r: int) -> tuple[Array, Array]:
        """Return ``(1/r) ‖v‖_r^r`` of each sample and its derivative in `v`, for `r` 1 or 2."""
        xp, axes = array_module(v), tuple(range(1, v.ndim))
        if r == 1:
            return xp.abs(v).sum(axis=axes), xp.sign(v)
        return (v * v).sum(axis=axes) / 2, v

    # --- softmax and randomness ---------------------------------------------------------------------------------------

    def softmax(self, x: Array) -> Array:
        """Return the softmax over the last axis, shifted by the row's maximum so that it cannot overflow."""
        # The shift leaves the value unchanged, so its derivative does not matter: with complex steps only the real part shifts.
        e = array_module(x).exp(x - x.real.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)

    def cross_entropy(self, z: Array, labels: Array) -> Array:
        """Return ``-sum_k l_k log p_k`` of each row, ``p = softmax(z)``."""
        xp = array_module(z)
        largest = is_largest(z)
        shifted = z - xp.where(largest, z, 0).sum(axis=-1, keepdims=True)
        others = xp.where(largest, 0, xp.exp(shifted)).sum(axis=-1, keepdims=True)
        return -(labels * (shifted - xp.log1p(others))).sum(axis=-1)

    def cross_entropy_gradient(self, z: Array, labels: Array) -> Array:
        """Return ``p - l``; where `p` is largest, as ``(1 - l) - (1 - p)`` with ``1 - p`` the sum of the others.

        In float32 ``p - 1`` is 0 once the right class leads by 17, and off by percents before: a gradient in the input of another
        direction.
        """
        xp, p, largest = array_module(z), self.softmax(z), is_largest(z)
        others = xp.where(largest, 0, p).sum(axis=-1, keepdims=True)
        return xp.where(largest, (1 - labels) - others, p - labels)

    def cross_entropy_and_gradient(self, z: Array, labels: Array) -> tuple[Array, Array]:
        """Return `cross_entropy` and `cross_entropy_gradient`."""
        return self.cross_entropy(z, labels), self.cross_entropy_gradient(z, labels)

    def cross_entropy_hessian_product(self, z: Array, t: Array) -> Array:
        """Return ``p (t - p·t)``."""
        return softmax_product(self.softmax(z), t)

    def dropout_factors(self, shape: tuple[int, ...], dtype: Any, rate: float, draw: int, stream: int) -> Array:
        """Return 0 with probability `rate` and ``1 / (1 - rate)`` otherwise, determined by `draw` and `stream`."""
        kept = random_bits(draw, stream, math.prod(shape)).reshape(shape) >= round(rate * 2**32)
        return (kept / (1 - rate)).astype(dtype)


def is_largest(x: Array) -> Array:
    """Return where each row of `x`, along its last axis, has its largest value, the first of equal ones."""
    return array_module(x).arange(x.shape[-1]) == x.real.argmax(axis=-1)[..., None]


def softmax_product(p: Array, t: Array) -> Array:
    """Return ``p (t - p·t)``, the Jacobian of the softmax times `t`; where `p` is largest, as minus the sum of the others.

    The sum of each row is 0. There the difference is one of nearly equal numbers as `p` comes near 1.
    """
    xp, largest = array_module(p), is_largest(p)
    others = xp.where(largest, 0, p * (t - (p * t).sum(axis=-1, keepdims=True)))
    return xp.where(largest, -others.sum(axis=-1, keepdims=True), others)


class GradientSum:
    """Adds up the products of a step.

    Parameters
    ----------
    vector : array
        Takes the sum, whatever it held before.
    parts : mapping of str to array
        Views of `vector`.
    """

    def __init__(self, vector: Array, parts: Mapping[str, Array]):
        self._vector, self._parts = vector, parts
        vector.fill(0)

    def add(self, name: str, value: Array, scale: float) -> None:
        """Add ``scale · value`` to the part called `name`."""
        target = self._parts[name]
        target += value if scale == 1 else scale * value

    def finish(self, factor: float) -> None:
        """Multiply the sum by `factor`; nothing is added after that."""
        self._vector *= self._vector.dtype.type(factor)


def random_bits(draw: int, stream: int, count: int) -> np.ndarray:
    """Return `count` uniformly random uint32, the same ones for the same `draw` and `stream`.

    Counter-based (Philox, Salmon et al. 2011): they are the same however often and on whatever device they are made.

    Raises
    ------
    HostDrawError
        If `draw` is an array on a device.
    """
    if array_module(draw) is not np:
        raise HostDrawError("random bits are made on the host, and need a draw that is a number")
    raw = np.random.Philox(key=np.array([draw, stream], np.uint64)).random_raw((count + 1) // 2)
    return raw.view(np.uint32)[:count]


def window_counts(image: Sequence[int], size: Pair, stride: Pair) -> Pair:
    """Return how many windows fit into an image, down and across."""
    return (image[0] - size[0]) // stride[0] + 1, (image[1] - size[1]) // stride[1] + 1


def window_cell(x: Array, k: int, l: int, stride: Pair, counts: Sequence[int]) -> Array:
    """Return a view (N, P, Q, C) of the cell in row `k`, column `l` of every window."""
    rows = slice(k, k + stride[0] * (counts[0] - 1) + 1, stride[0])
    columns = slice(l, l + stride[1] * (counts[1] - 1) + 1, stride[1])
    return x[:, rows, columns]


def im2col(x: Array, size: Pair, stride: Pair, padding: Pair) -> Array:
    """Return every window of the padded images as a row, (N, P, Q, KH·KW·C), in row, column, channel order."""
    xp = array_module(x)
    if any(padding):
        x = xp.pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)))
    counts = window_counts(x.shape[1:3], size, stride)
    cells = [window_cell(x, k, l, stride, counts) for k, l in np.ndindex(*size)]
    return xp.concatenate(cells, axis=-1)


def col2im(columns: Array, size: Pair, stride: Pair, padding: Pair, image: Pair) -> Array:
    """Return the adjoint of `im2col`: images ``(N, *image, C)`` with every row added to its window."""
    n, p, q, k = columns.shape
    cells = columns.reshape(n, p, q, *size, k // (size[0] * size[1]))
    (top, left), (height, width) = padding, image
    x = array_module(columns).zeros((n, height + 2 * top, width + 2 * left, cells.shape[-1]), columns.dtype)
    for row, column in np.ndindex(*size):
        cell = window_cell(x, row, column, stride, (p, q))
        cell += cells[:, :, :, row, column]
    return x[:, top:top + height, left:left + width]


def position_type(size: Pair) -> type[np.unsignedinteger]:
    """Return the smallest unsigned type that can number the cells of a window."""
    return np.uint8 if size[0] * size[1] <= 256 else np.uint32


def block_position_type(size: Pair) -> type[np.unsignedinteger]:
    """Return the smallest unsigned type that can number the cells of a window, and one more number for none of them."""
    return position_type((size[0] * size[1] + 1, 1))
