"""The kernel interface for CuPy arrays."""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from convnet import devices
from convnet.kernels.cuda.capture import WARM_UP, Recorder, Replay
from convnet.kernels.cuda.choice import Choices, Way, record_path
from convnet.kernels.cuda.cublas import Cublas, CublasError
from convnet.kernels.cuda.gradient import DeviceGradientSum
from convnet.kernels.cuda.launch import THREADS, Launcher, suits, windows
from convnet.kernels.cuda.products import End, Products
from convnet.kernels.reference import ReferenceKernels, block_position_type, position_type, window_counts

Array = Any
Pair = tuple[int, int]

# To find out how long a product takes: so many runs in a graph, and the best of so many launches.
RUNS, ROUNDS = 20, 5
# As in elementwise.cu.
PAIRS = 8
# Numbers that one launch makes of several arrays, which take memory together; for larger ones a launch more does not count.
TOGETHER = 1 << 24


class CudaKernels(ReferenceKernels):
    """CUDA kernels with the interface of `ReferenceKernels`, for float32 and float64; all else is left to CuPy.

    Sums are taken in a fixed order and no number is added by atomics, so runs repeat bit for bit.

    Attributes
    ----------
    launcher : Launcher
        The compiled kernels.
    cublas_error : str
        Why cuBLAS is not used; empty where it is.
    """

    name = "cuda"

    def __init__(self) -> None:
        import cupy

        self._xp = cupy
        self.launcher = Launcher(cupy)
        cublas, self.cublas_error = None, ""
        try:
            cublas = Cublas(cupy)
        except CublasError as error:
            self.cublas_error = str(error)
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        choices = Choices(record_path(properties["name"].decode()), self._seconds)
        self._products = Products(self.launcher, cublas, choices, devices.tf32_allowed, properties["multiProcessorCount"])

    def measured_products(self) -> dict[str, dict[str, float]]:
        """Return the seconds of each way to compute a product, for the products that this process has measured."""
        return self._products.measured

    # --- products -----------------------------------------------------------------------------------------------------

    def product(self, a: Array, b: Array) -> Array:
        """Return the matrix product of two 2-D arrays."""
        return self._products.matrix(a, b) if suits(a, b) else super().product(a, b)

    def dense(self, x: Array, weight: Array, bias: Array | None) -> Array:
        """Return ``x weight + bias``."""
        return self._products.matrix(x, weight, End(bias)) if suits(x, weight) else super().dense(x, weight, bias)

    def dense_gradients(self, a: Array, b: Array) -> tuple[Array, Array]:
        """Return ``a^T b`` and the `row_sum` of `b`, which one launch computes."""
        if not suits(a, b):
            return super().dense_gradients(a, b)
        return self._products.matrix_and_sums(*self._contiguous(a, b))

    # --- convolution --------------------------------------------------------------------------------------------------

    def conv(self, x: Array, weight: Array, bias: Array | None, stride: Pair, padding: Pair) -> Array:
        """Return the convolution of images (N, H, W, C) with filters (KH, KW, C, F), as (N, P, Q, F)."""
        if not suits(x, weight):
            return super().conv(x, weight, bias, stride, padding)
        return self._conv(x, weight, stride, padding, End(bias))

    def _conv(self, x: Array, weight: Array, stride: Pair, padding: Pair, end: End) -> Array:
        x, weight = self._contiguous(x, weight)
        return self._products.conv(x, weight, _conv_windows(x.shape, weight.shape[:2], stride, padding, weight.shape[3]), end)

    def conv_adjoint(self, b: Array, weight: Array, stride: Pair, padding: Pair, image: Pair) -> Array:
        """Return the adjoint of `conv` applied to `b` (N, P, Q, F), as images (N, *image, C)."""
        if not suits(b, weight):
            return super().conv_adjoint(b, weight, stride, padding, image)
        b, weight = self._contiguous(b, weight)
        g = windows((len(b), *image, weight.shape[2]), b.shape[1:3], weight.shape[:2], stride, padding, weight.shape[3])
        return self._products.conv_adjoint(b, weight, g)

    def conv_weight_gradient(self, a: Array, b: Array, size: Pair, stride: Pair, padding: Pair) -> Array:
        """Return the sum over samples and windows of (window of `a`)* times `b`, as filters (KH, KW, C, F)."""
        if not suits(a, b):
            return super().conv_weight_gradient(a, b, size, stride, padding)
        a, b = self._contiguous(a, b)
        g = _conv_windows(a.shape, size, stride, padding, b.shape[-1])
        return self._products.conv_weight_gradient(a, b, g).reshape(*size, -1, b.shape[-1])

    def conv_gradients(self, a: Array, b: Array, size: Pair, stride: Pair, padding: Pair) -> tuple[Array, Array]:
        """Return the `conv_weight_gradient` and the `row_sum` of `b`, which one launch computes."""
        if not suits(a, b):
            return super().conv_gradients(a, b, size, stride, padding)
        a, b = self._contiguous(a, b)
        gradient, total = self._products.conv_gradients(a, b, _conv_windows(a.shape, size, stride, padding, b.shape[-1]))
        return gradient.reshape(*size, -1, b.shape[-1]), total

    def row_sum(self, b: Array) -> Array:
        """Return the sum of `b` over all but its last axis."""
        return self._products.row_sum(*self._contiguous(b)) if suits(b) else super().row_sum(b)

    def row_dot(self, a: Array, b: Array, mean: Array | None = None) -> Array:
        """Return the sum of ``(a - mean) (b - mean)`` over all but the last axis, `mean` a vector along it and 0 for None."""
        if not suits(a, b, a if mean is None else mean):
            return super().row_dot(a, b, mean)
        a, b = self._contiguous(a, b)
        return self._products.row_sum(b, a, None if mean is None else self._contiguous(mean)[0])

    def row_affine(
        self, a: Array, shift: Array | None, scale: Array, b: Array | None = None, other: Array | None = None,
        offset: Array | None = None,
    ) -> Array:
        """Return ``scale (a - shift) + other b + offset``, all but `a` and `b` vectors along the last axis, None for 0."""
        given = [each for each in (shift, b, other, offset) if each is not None]
        if not suits(a, scale, *given):
            return super().row_affine(a, shift, scale, b, other, offset)
        y = self._xp.empty(a.shape, a.dtype)
        arrays = (None if each is None else self._contiguous(each)[0] for each in (a, shift, scale, b, other, offset))
        self.launcher.elements("row_affine", y.dtype, y.size, *arrays, y, np.int32(a.shape[-1]))
        return y

    # --- pooling ------------------------------------------------------------------------------------------------------

    def max_pool(self, x: Array, size: Pair, stride: Pair, positions: bool = True) -> tuple[Array, Array | None]:
        """Return each window's maximum, (N, P, Q, C), and its position ``k·KW + l`` in the window; the first one wins."""
        if not suits(x):
            return super().max_pool(x, size, stride, positions)
        (x,) = self._contiguous(x)
        g, shape = _pool_windows(x.shape, size, stride)
        y = self._xp.empty(shape, x.dtype)
        where = self._xp.empty(shape, position_type(size)) if positions else None
        self.launcher.elements(_for_positions("max_pool", position_type(size)), x.dtype, y.size, x, y, where, g)
        return y, where

    def max_pool_scatter(self, b: Array, positions: Array, size: Pair, stride: Pair, image: Pair) -> Array:
        """Return images (N, *image, C) with each `b` added at the position of its window."""
        x = self._xp.empty((len(b), *image, b.shape[-1]), b.dtype)
        if not suits(b, x):
            return super().max_pool_scatter(b, positions, size, stride, image)
        (b,) = self._contiguous(b)
        g, _ = _pool_windows(x.shape, size, stride)
        self.launcher.elements(_for_positions("max_pool_scatter", positions.dtype), b.dtype, x.size, b, positions, x, g)
        return x

    def max_pool_gather(self, t: Array, positions: Array, size: Pair, stride: Pair) -> Array:
        """Return the cell of `t` at the position of each window, (N, P, Q, C)."""
        if not suits(t):
            return super().max_pool_gather(t, positions, size, stride)
        (t,) = self._contiguous(t)
        g, shape = _pool_windows(t.shape, size, stride)
        y = self._xp.empty(shape, t.dtype)
        self.launcher.elements(_for_positions("max_pool_gather", positions.dtype), t.dtype, y.size, t, positions, y, g)
        return y

    def mean_pool(self, x: Array, size: Pair, stride: Pair) -> Array:
        """Return each window's mean, (N, P, Q, C)."""
        if not suits(x):
            return super().mean_pool(x, size, stride)
        (x,) = self._contiguous(x)
        g, shape = _pool_windows(x.shape, size, stride)
        y = self._xp.empty(shape, x.dtype)
        self.launcher.elements("mean_pool", x.dtype, y.size, x, y, g)
        return y

    def mean_pool_adjoint(self, b: Array, size: Pair, stride: Pair, image: Pair) -> Array:
        """Return images (N, *image, C) with each `b` spread evenly over its window."""
        x = self._xp.empty((len(b), *image, b.shape[-1]), b.dtype)
        if not suits(b, x):
            return super().mean_pool_adjoint(b, size, stride, image)
        (b,) = self._contiguous(b)
        g, _ = _pool_windows(x.shape, size, stride)
        self.launcher.elements("mean_pool_adjoint", b.dtype, x.size, b, x, g)
        return x

    # --- blocks -------------------------------------------------------------------------------------------------------

    def computes_blocks(self, x: Array) -> bool:
        """Whether `conv_relu_max_pool` and `conv_gather` exist for arrays like `x`."""
        return suits(x)

    def conv_relu_max_pool(
        self, x: Array, weight: Array, bias: Array | None, stride: Pair, padding: Pair, window: Pair, step: Pair
    ) -> tuple[Array, Array]:
        """Return convolution, ReLU and maximum over windows, and the maxima's positions; where none is positive, no cell's.

        The ReLU costs no launch of its own, neither here nor in the later passes.
        """
        maps = self.conv(x, weight, bias, stride, padding)
        if not suits(maps):  # the images do, but the kernels cannot number so many of their maps' cells
            (y, _), (_, where) = self.relu(maps), self.max_pool(maps, window, step)
            y, _ = self.max_pool(y, window, step, positions=False)
            return y, self._xp.where(y > 0, where, math.prod(window)).astype(block_position_type(window))
        g, shape = _pool_windows(maps.shape, window, step)
        kind = block_position_type(window)
        y, where = self._xp.empty(shape, maps.dtype), self._xp.empty(shape, kind)
        self.launcher.elements(_for_positions("relu_max_pool", kind), maps.dtype, y.size, maps, y, where, g)
        return y, where

    def conv_gather(
        self, t: Array, weight: Array, stride: Pair, padding: Pair, positions: Array, window: Pair, step: Pair
    ) -> Array:
        """Return the convolution of `t` at the position of each window, 0 where that is no cell's."""
        return self.max_pool_gather(self.conv(t, weight, None, stride, padding), positions, window, step)

    def fuses_relu(self, x: Array, weight: Array) -> bool:
        """Whether the four methods that follow exist for such arrays."""
        return suits(x, weight)

    def dense_relu(self, x: Array, weight: Array, bias: Array | None) -> tuple[Array, Array]:
        """Return ``max(x weight + bias, 0)`` and where that is positive."""
        mask = self._xp.empty((len(x), weight.shape[1]), bool)
        return self._products.matrix(x, weight, End(bias, mask, rectify=True)), mask

    def dense_masked(self, t: Array, weight: Array, mask: Array) -> Array:
        """Return ``t weight`` where `mask` is true, 0 elsewhere."""
        return self._products.matrix(t, weight, End(mask=mask))

    def conv_relu(
        self, x: Array, weight: Array, bias: Array | None, stride: Pair, padding: Pair
    ) -> tuple[Array, Array]:
        """Return the convolution's positive part and where it is positive."""
        g = _conv_windows(x.shape, weight.shape[:2], stride, padding, weight.shape[3])
        mask = self._xp.empty(tuple(int(g[0][axis]) for axis in ("n", "p", "q", "f")), bool)
        return self._conv(x, weight, stride, padding, End(bias, mask, rectify=True)), mask

    def conv_masked(self, t: Array, weight: Array, stride: Pair, padding: Pair, mask: Array) -> Array:
        """Return the convolution of `t` without a bias where `mask` is true, 0 elsewhere."""
        return self._conv(t, weight, stride, padding, End(mask=mask))

    # --- elementwise --------------------------------------------------------------------------------------------------

    def relu(self, x: Array) -> tuple[Array, Array]:
        """Return ``max(x, 0)`` and where `x` is positive."""
        if not suits(x):
            return super().relu(x)
        (x,) = self._contiguous(x)
        y, mask = self._xp.empty_like(x), self._xp.empty(x.shape, bool)
        self.launcher.elements("relu", x.dtype, x.size, x, y, mask)
        return y, mask

    def masked(self, b: Array, mask: Array) -> Array:
        """Return `b` where `mask` is true, 0 elsewhere."""
        if not suits(b):
            return super().masked(b, mask)
        b, mask = self._contiguous(b, mask)
        y = self._xp.empty_like(b)
        self.launcher.elements("masked", b.dtype, b.size, b, mask, y)
        return y

    def combination(self, terms: Sequence[tuple[float, Array]]) -> Array:
        """Return the sum of coefficient times array over (coefficient, array) in `terms`."""
        if not suits(*(a for _, a in terms)) or not all(isinstance(c, (int, float)) for c, _ in terms):
            return super().combination(terms)
        y, rest = None, list(terms)
        while rest:
            # Four terms at a time; the sum so far is one of them.
            room = 4 if y is None else 3
            part, rest = ([] if y is None else [(1.0, y)]) + rest[:room], rest[room:]
            coefficients = [c for c, _ in part] + [0.0] * (4 - len(part))
            arrays = [*self._contiguous(*(a for _, a in part)), *[None] * (4 - len(part))]
            y = self._xp.empty_like(arrays[0])
            self.launcher.elements("combination", y.dtype, y.size, y, *arrays, *map(y.dtype.type, coefficients))
        return y

    def combinations(self, sums: Sequence[Sequence[tuple[float, Array]]]) -> Iterator[Array]:
        """Yield the `combination` of each of `sums`; where all have two terms, one launch computes `PAIRS` of them."""
        arrays = [a for terms in sums for _, a in terms]
        if not suits(*arrays) or any(len(terms) != 2 for terms in sums):
            yield from super().combinations(sums)
            return
        for part in _groups(sums):
            dtype, missing = arrays[0].dtype, [None] * (PAIRS - len(part))
            table = np.zeros(1, pairs_type(dtype))
            for j, ((first, a), (second, _)) in enumerate(part):
                table["first"][0, j], table["second"][0, j], table["count"][0, j] = first, second, a.size
            made = [self._xp.empty(a.shape, dtype) for (_, a), _ in part]
            given = ([*self._contiguous(*(terms[k][1] for terms in part)), *missing] for k in (0, 1))
            self.launcher.elements("combine_pairs", dtype, int(table["count"].sum()), *made, *missing, *chain(*given), table)
            while made:
                yield made.pop(0)

    # --- the end of a step --------------------------------------------------------------------------------------------

    def gradient_sum(self, vector: Array, parts: Mapping[str, Array]) -> Any:
        """Return what adds up the products of a step in `vector`, whose `parts` are views of it by name."""
        return DeviceGradientSum(self.launcher, vector, parts) if suits(vector) else super().gradient_sum(vector, parts)

    def step_means(self, losses: Array, penalties: Array | None, coefficient: float) -> tuple[Array, Array, Array]:
        """Return the means of losses and penalties, and the first plus `coefficient` times the second."""
        if not suits(losses, losses if penalties is None else penalties):
            return super().step_means(losses, penalties, coefficient)
        dtype, means = losses.dtype, self._xp.empty(3, losses.dtype)
        losses, penalties = (None if a is None else self._xp.ascontiguousarray(a) for a in (losses, penalties))
        self.launcher.blocks("step_means", dtype, (1,), THREADS, losses, penalties, dtype.type(coefficient), means,
                              np.int32(losses.size))
        return means[0], means[1], means[2]

    def norm_penalty(self, v: Array, r: int) -> tuple[Array, Array]:
        """Return ``(1/r) ‖v‖_r^r`` of each sample and its derivative in `v`, for `r` 1 or 2, in one launch."""
        if not suits(v) or v.ndim == 1:
            return super().norm_penalty(v, r)
        (v,) = self._contiguous(v)
        penalty, sign = self._xp.empty(len(v), v.dtype), self._xp.empty_like(v) if r == 1 else None
        self.launcher.blocks("norm_penalty", v.dtype, (len(v),), THREADS, v, penalty, sign, np.int32(v.size // len(v)))
        return penalty, v if sign is None else sign

    # --- loss and randomness ------------------------------------------------------------------------------------------

    def softmax(self, x: Array) -> Array:
        """Return the softmax over the last axis."""
        if not suits(x) or x.ndim != 2:
            return super().softmax(x)
        p = self._xp.empty(x.shape, x.dtype)
        self._softmax(x, None, gradient=p)
        return p

    def cross_entropy(self, z: Array, labels: Array) -> Array:
        """Return ``-sum_k l_k log p_k`` of each row, ``p = softmax(z)``."""
        if not suits(z, labels):
            return super().cross_entropy(z, labels)
        value = self._xp.empty(len(z), z.dtype)
        self._softmax(z, labels, value=value)
        return value

    def cross_entropy_gradient(self, z: Array, labels: Array) -> Array:
        """Return ``p - l``."""
        if not suits(z, labels):
            return super().cross_entropy_gradient(z, labels)
        gradient = self._xp.empty(z.shape, z.dtype)
        self._softmax(z, labels, gradient=gradient)
        return gradient

    def cross_entropy_and_gradient(self, z: Array, labels: Array) -> tuple[Array, Array]:
        """Return `cross_entropy` and `cross_entropy_gradient`, which one launch computes."""
        if not suits(z, labels):
            return super().cross_entropy_and_gradient(z, labels)
        value, gradient = self._xp.empty(len(z), z.dtype), self._xp.empty(z.shape, z.dtype)
        self._softmax(z, labels, value=value, gradient=gradient)
        return value, gradient

    def cross_entropy_hessian_product(self, z: Array, t: Array) -> Array:
        """Return ``p (t - p·t)``."""
        if not suits(z, t):
            return super().cross_entropy_hessian_product(z, t)
        product = self._xp.empty(z.shape, z.dtype)
        self._softmax(z, None, t=t, product=product)
        return product

    def _softmax(self, z: Array, labels: Array | None, t: Array | None = None, value: Array | None = None,
                 gradient: Array | None = None, product: Array | None = None) -> None:
        z, labels, t = (None if a is None else self._contiguous(a)[0] for a in (z, labels, t))
        self.launcher.blocks("softmax_cross_entropy", z.dtype, (len(z),), 32, z, labels, t, value, gradient, product,
                              np.int32(z.shape[1]))

    def dropout_factors(self, shape: tuple[int, ...], dtype: np.dtype, rate: float, draw: Any, stream: int) -> Array:
        """Return 0 with probability `rate` and ``1 / (1 - rate)`` otherwise; `draw` may be an array (1,) on the device."""
        factors = self._xp.empty(shape, dtype)
        if not suits(factors):
            return self._xp.asarray(super().dropout_factors(shape, dtype, rate, int(draw), stream))
        if not isinstance(draw, self._xp.ndarray):
            draw = self._xp.asarray(np.array([draw], np.uint64))
        self.launcher.elements("dropout_factors", factors.dtype, factors.size, draw, np.uint64(stream),
                                np.uint64(round(rate * 2**32)), factors.dtype.type(1 / (1 - rate)), factors)
        return factors

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _contiguous(self, *arrays: Array) -> list[Array]:
        return [self._xp.ascontiguousarray(a) for a in arrays]

    def _seconds(self, way: Way) -> float:
        """Return the seconds that a run of `way` takes on the device, launched in a graph as in a recorded step.

        Launched one by one, most products take the host longer than the device.
        """

        def many() -> None:
            for _ in range(RUNS):
                way()

        cuda, recorder = self._xp.cuda, Recorder(self._xp)
        recorder.wait_for_others()
        replay, found = Replay(recorder, many), []
        for _ in range(WARM_UP + 1):
            replay.run()
        with recorder.stream:
            for _ in range(ROUNDS):
                start, end = cuda.Event(), cuda.Event()
                start.record()
                replay.run()
                end.record()
                end.synchronize()
                found.append(cuda.get_elapsed_time(start, end) / 1000 / RUNS)
        return min(found)


def pairs_type(dtype: np.dtype) -> np.dtype:
    """Return the type of the structure ``Pairs`` of elementwise.cu."""
    return np.dtype([("first", dtype, PAIRS), ("second", dtype, PAIRS), ("count", np.int32, PAIRS)])


def _groups(sums: Sequence[Sequence[tuple[float, Array]]]) -> Iterator[list[Sequence[tuple[float, Array]]]]:
    """Yield `sums` of arrays in groups that one launch can compute."""
    group: list[Sequence[tuple[float, Array]]] = []
    for terms in sums:
        if len(group) == PAIRS or (group and sum(each[0][1].size for each in (*group, terms)) > TOGETHER):
            yield group
            group = []
        group.append(terms)
    yield group


def _conv_windows(images: tuple[int, ...], size: Pair, stride: Pair, padding: Pair, filters: int) -> np.ndarray:
    padded = tuple(i + 2 * p for i, p in zip(images[1:3], padding, strict=True))
    return windows(tuple(images), window_counts(padded, size, stride), tuple(size), tuple(stride), tuple(padding), filters)


def _pool_windows(images: tuple[int, ...], size: Pair, stride: Pair) -> tuple[np.ndarray, tuple[int, ...]]:
    counts = window_counts(images[1:3], size, stride)
    return windows(tuple(images), counts, tuple(size), tuple(stride)), (images[0], *counts, images[3])


def _for_positions(kernel: str, dtype: Any) -> str:
    return f"{kernel}_u{8 * np.dtype(dtype).itemsize}"
