"""Matrix products and convolutions on the device, each in several ways: by the own kernels, and by cuBLAS.

The own kernels of a convolution read the windows straight from the images, add the bias as they write, take the bias's
gradient along with the weights', and need no column matrix but for the adjoint to images of few channels: one launch. cuBLAS
multiplies faster and needs the column matrix, and a launch more for the bias.
"""
from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from convnet.kernels.cuda.choice import Choices, Way
from convnet.kernels.cuda.cublas import Cublas
from convnet.kernels.cuda.launch import LARGEST, SIZES, THREADS, Launcher

Array = Any
Pair = tuple[int, int]


class End(NamedTuple):
    """What is done to a product as it is written: `bias` is added, then it is rectified or masked.

    Attributes
    ----------
    bias : array or None
    mask : array of bool or None
        Takes where the result is positive if it is rectified; else the result is 0 where this is not set.
    rectify : bool
    """

    bias: Array | None = None
    mask: Array | None = None
    rectify: bool = False

    @property
    def ending(self) -> np.int32:
        """The number by which the kernels know what is done after the bias."""
        return np.int32(RECTIFIED if self.rectify else 0 if self.mask is None else MASKED)


NOTHING = End()


class Tiles(NamedTuple):
    """How a kernel of product.cu cuts a result: rows, columns, and the length of a step along the inner axis."""

    rows: int
    columns: int
    step: int


# As in product.cu: by the kind of kernel, tiles for many and for few columns, and threads of a block.
TILES = {False: (Tiles(64, 64, 16), Tiles(128, 32, 16), 256), True: (Tiles(128, 64, 8), Tiles(128, 32, 16), 128)}
PRODUCT = np.dtype([("m", np.int32), ("n", np.int32), ("k", np.int32), ("slice", np.int32),
                    ("ending", np.int32), ("narrow", np.bool_), ("", "V3")])
# As in common.cu.
RECTIFIED, MASKED = 1, 2
# As in sums.cu.
ACROSS, LEVELS = 32, 4
# Images of fewer channels leave most columns of a tile empty: their adjoint is computed by way of the column matrix.
THIN = 16
# A slice of the inner axis has at least this length, or its start and end cost more than it saves.
LEAST = 64


class Products:
    """Products of float32 or float64 arrays.

    Parameters
    ----------
    launcher : Launcher
    cublas : Cublas or None
        None where there is no cuBLAS: the own kernels do everything.
    choices : Choices
        Which way to take where there are several.
    tf32 : callable
        Returns whether float32 products may use TF32, which only cuBLAS does here.
    multiprocessors : int
        Of the device.
    """

    def __init__(self, launcher: Launcher, cublas: Cublas | None, choices: Choices, tf32: Any, multiprocessors: int):
        self._launcher, self._cublas, self._choices, self._tf32 = launcher, cublas, choices, tf32
        self._xp = launcher.cupy
        self._blocks = 2 * multiprocessors
        self._arrived: dict[int, Array] = {}

    @property
    def measured(self) -> dict[str, dict[str, float]]:
        """Seconds by problem and way, where they were measured in this process."""
        return self._choices.measured

    # --- the operations -----------------------------------------------------------------------------------------------

    def matrix(self, a: Array, b: Array, end: End = NOTHING) -> Array:
        """Return ``a b`` of two 2-D arrays; each may be the transpose of a contiguous one."""
        (m, k), n = a.shape, b.shape[1]
        (a, a_t), (b, b_t) = self._stored(a), self._stored(b)
        letters = "nt"[a_t] + "nt"[b_t]

        def own() -> Array:
            return self._tiled(f"product_{letters}", (a, b), (), m, n, k, end)

        def cublas() -> Array:
            return self._finished(self._gemm(a, a_t, b, b_t, (m, n)), end)

        return self._way(f"product {letters} {m}x{k}x{n}", a.dtype, own, cublas)()

    def matrix_and_sums(self, a: Array, b: Array) -> tuple[Array, Array]:
        """Return ``a^T b`` of two matrices with as many rows, and the sums of b's columns."""
        (k, m), n = a.shape, b.shape[1]

        def own() -> tuple[Array, Array]:
            return _parted(self._tiled("product_tn_and_sums", (a, b), (), m + 1, n, k))

        def cublas() -> tuple[Array, Array]:
            return self._gemm(a, True, b, False, (m, n)), self.row_sum(b)

        return self._way(f"product and sums {m}x{k}x{n}", a.dtype, own, cublas)()

    def conv(self, x: Array, weight: Array, g: np.ndarray, end: End = NOTHING) -> Array:
        """Return the convolution with windows `g`, (N, P, Q, F)."""
        n, p, q, k = self._columns_shape(g)
        filters = weight.shape[-1]

        def own(large: bool = False) -> Array:
            return self._tiled("convolution", (x, weight), (g,), n * p * q, filters, k, end, large)

        def cublas() -> Array:
            flat = self._columns(x, g).reshape(-1, k)
            return self._finished(self._gemm(flat, False, weight.reshape(k, -1), False, (n * p * q, filters)), end)

        largest = n * p * q * max(k, filters)
        way = self._way(f"conv {_name(g)}", x.dtype, own, cublas, largest, partial(own, large=True))
        return way().reshape(n, p, q, filters)

    def conv_adjoint(self, b: Array, weight: Array, g: np.ndarray) -> Array:
        """Return the adjoint of `conv`, images of the geometry `g`."""
        n, p, q, k = self._columns_shape(g)
        images = tuple(int(g[0][axis]) for axis in ("n", "h", "w", "c"))
        filters, spaced = weight.shape[-1], g[0]["sh"] > 1 or g[0]["sw"] > 1

        def thin() -> Array:
            return gathered(self._tiled("product_nt", (b, weight), (), n * p * q, k, filters))

        def own(large: bool = False) -> Array:
            cells, inner = math.prod(images[:3]), math.prod(weight.shape[:2]) * filters
            kernel = "convolution_adjoint_spaced" if spaced else "convolution_adjoint"
            return self._tiled(kernel, (b, weight), (g,), cells, images[3], inner, large=large)

        def cublas() -> Array:
            return gathered(self._gemm(b.reshape(-1, filters), False, weight.reshape(k, -1), True, (n * p * q, k)))

        def gathered(columns: Array) -> Array:
            x = self._xp.empty(images, b.dtype)
            self._launcher.elements("col2im", b.dtype, x.size, columns, x, g)
            return x

        if images[3] < THIN and n * p * q * k < LARGEST:
            way = self._way(f"conv adjoint {_name(g)}", b.dtype, thin, cublas, n * p * q * k)
        else:
            large = None if spaced else partial(own, large=True)
            way = self._way(f"conv adjoint {_name(g)}", b.dtype, own, cublas, n * p * q * k, large)
        return way().reshape(images)

    def conv_weight_gradient(self, a: Array, b: Array, g: np.ndarray) -> Array:
        """Return the sum over windows of (window of `a`) times `b`, (KH·KW·C, F)."""
        n, p, q, k = self._columns_shape(g)
        filters = b.shape[-1]

        def own(large: bool = False) -> Array:
            return self._tiled("convolution_weight_gradient", (a, b), (g,), k, filters, n * p * q, large=large)

        def cublas() -> Array:
            flat = self._columns(a, g).reshape(-1, k)
            return self._gemm(flat, True, b.reshape(-1, filters), False, (k, filters))

        return self._way(f"conv weight gradient {_name(g)}", a.dtype, own, cublas, n * p * q * k, partial(own, large=True))()

    def conv_gradients(self, a: Array, b: Array, g: np.ndarray) -> tuple[Array, Array]:
        """Return the weight gradient and the sum of `b` over all windows."""
        n, p, q, k = self._columns_shape(g)
        filters = b.shape[-1]

        def own(large: bool = False) -> tuple[Array, Array]:
            return _parted(self._tiled("convolution_weight_gradient", (a, b), (g,), k + 1, filters, n * p * q, large=large))

        def cublas() -> tuple[Array, Array]:
            flat = self._columns(a, g).reshape(-1, k)
            return self._gemm(flat, True, b.reshape(-1, filters), False, (k, filters)), self.row_sum(b)

        return self._way(f"conv gradients {_name(g)}", a.dtype, own, cublas, n * p * q * k, partial(own, large=True))()

    def row_sum(self, b: Array, a: Array | None = None, mean: Array | None = None) -> Array:
        """Return the sum of `b`, with an `a` that of ``(a - mean) (b - mean)``, over all but the last axis."""
        columns = b.shape[-1]
        rows = b.size // columns
        # A slice of fewer than 64 rows is not worth a block.
        groups = -(-columns // ACROSS)
        splits = max(1, min(self._blocks // groups, rows // 64))
        slice_ = -(-rows // splits)
        splits = -(-rows // slice_)
        out = self._xp.empty(columns, b.dtype)
        self._launcher.blocks("row_sums", b.dtype, (groups, splits), THREADS, b, a, mean, out,
                              *self._shared_sums(groups, splits, THREADS, b.dtype), *map(np.int32, (rows, columns, slice_)))
        return out

    # --- the ways -------------------------------------------------------------------------------------------------

    def _way(self, problem: str, dtype: np.dtype, own: Way, cublas: Way, columns: int = 0, large: Way | None = None) -> Way:
        """Return the way to take.

        Parameters
        ----------
        problem : str
        dtype : numpy.dtype
        own, cublas : callable
        columns : int
            The size of the column matrix that cuBLAS would need, or of the result if that is larger.
        large : callable, optional
            The own kernel with large tiles.
        """
        if dtype == np.float32 and self._tf32() and self._cublas is not None and columns < LARGEST:
            return cublas
        ways = {"own": own} if large is None else {"own": own, "own, large tiles": large}
        if self._cublas is not None and columns < LARGEST:
            ways["cublas"] = cublas
        return own if len(ways) == 1 else self._choices.of(f"{problem} {dtype}", ways)

    def _tiled(self, kernel: str, factors: tuple[Array, Array], geometry: tuple[np.ndarray, ...], m: int, n: int, k: int,
               end: End = NOTHING, large: bool = False) -> Array:
        """Return an (m, n) array that a tiled kernel computes, its inner axis cut so that all multiprocessors have work."""
        dtype = factors[0].dtype
        wide, narrow, threads = TILES[large]
        tile = narrow if n <= narrow.columns else wide
        tiles = -(-m // tile.rows), -(-n // tile.columns)
        steps = -(-k // tile.step)
        splits = max(1, min(self._blocks // math.prod(tiles), steps * tile.step // LEAST))
        slice_ = -(-steps // splits) * tile.step
        splits = -(-k // slice_)
        out = self._xp.empty((m, n), dtype)
        problem = np.zeros(1, PRODUCT)
        for name, value in zip(PRODUCT.names or (), (m, n, k, slice_, end.ending, tile is narrow), strict=False):
            problem[name] = value
        shared = self._shared_sums(math.prod(tiles), splits, tile.rows * tile.columns, dtype)
        self._launcher.blocks(f"{kernel}_large" if large else kernel, dtype, (*tiles, splits), threads, *factors, end.bias, out,
                              end.mask, *shared, *geometry, problem)
        return out

    def _shared_sums(self, parts: int, splits: int, count: int, dtype: np.dtype) -> tuple[Array | None, Array | None]:
        """Return what blocks that share sums need: room for `count` numbers of each block, and counters of who has arrived."""
        if splits == 1:
            return None, None
        # Zeros between launches: those of one stream follow one another, those of two may not share them.
        cuda, stream = self._xp.cuda, self._xp.cuda.get_current_stream().ptr
        if stream not in self._arrived:
            # They outlive the work that is recorded, whose pool must be able to give all its memory back.
            with cuda.using_allocator(self._xp.get_default_memory_pool().malloc):
                # Parts times slices of a sum are no more than there are blocks.
                self._arrived[stream] = self._xp.zeros(self._blocks * (1 + LEVELS), np.uint32)
        return self._xp.empty((parts, splits, count), dtype), self._arrived[stream]

    def _gemm(self, a: Array, a_t: bool, b: Array, b_t: bool, shape: tuple[int, int]) -> Array:
        out = self._xp.empty(shape, a.dtype)
        tf32 = a.dtype == np.float32 and self._tf32()
        self._cublas.product(a, a_t, b, b_t, out, tf32)  # type: ignore[union-attr]
        return out

    def _finished(self, y: Array, end: End) -> Array:
        if end.bias is not None or end.mask is not None:
            self._launcher.elements("finish", y.dtype, y.size, y, end.bias, end.mask, end.ending, np.int32(y.shape[-1]))
        return y

    def _columns_shape(self, g: np.ndarray) -> tuple[int, int, int, int]:
        n, p, q, kh, kw, c = (int(g[0][axis]) for axis in ("n", "p", "q", "kh", "kw", "c"))
        return n, p, q, kh * kw * c

    def _columns(self, x: Array, g: np.ndarray) -> Array:
        columns = self._xp.empty(self._columns_shape(g), x.dtype)
        self._launcher.elements("im2col", x.dtype, columns.size, x, columns, g)
        return columns

    def _stored(self, a: Array) -> tuple[Array, bool]:
        """Return the contiguous array that holds the matrix `a`, and whether it holds its transpose."""
        if a.flags.c_contiguous:
            return a, False
        return (a.T, True) if a.flags.f_contiguous else (self._xp.ascontiguousarray(a), False)


def _parted(whole: Array) -> tuple[Array, Array]:
    """Return all rows but the last, and the last."""
    return whole[:-1], whole[-1]


def _name(g: np.ndarray) -> str:
    return " ".join(f"{axis}{g[0][axis]}" for axis in SIZES)
