"""Matrix products and convolutions on the device, each in two ways: by the own kernels, and by cuBLAS.

The own kernels of a convolution read the windows straight from the images, add the bias as they write, and need no column
matrix but for the adjoint to images of few channels: one or two launches. cuBLAS multiplies faster and needs the column matrix
and a launch more for the bias.
"""
from __future__ import annotations

import math
from typing import Any

import numpy as np

from convnet.kernels.cuda.choice import Choices, Way
from convnet.kernels.cuda.cublas import Cublas
from convnet.kernels.cuda.launch import LARGEST, WINDOWS, Launcher

Array = Any
Pair = tuple[int, int]

# As in product.cu.
TILE, STEP, THREADS = 64, 16, 256
# Images of fewer channels leave most columns of a tile empty: their adjoint is computed by way of the column matrix.
THIN = 16
# A slice of the inner axis holds at least so many steps, or its start and end cost more than it saves.
LEAST_STEPS = 4


class Products:
    """Products of float32 or float64 arrays.

    Parameters
    ----------
    launcher : Launcher
    cublas : Cublas or None
        None where there is no cuBLAS: the own kernels do everything.
    choices : Choices
        Which way to take where there are two.
    tf32 : callable
        Returns whether float32 products may use TF32, which only cuBLAS does here.
    multiprocessors : int
        Of the device.
    """

    def __init__(self, launcher: Launcher, cublas: Cublas | None, choices: Choices, tf32: Any, multiprocessors: int):
        self._launcher, self._cublas, self._choices, self._tf32 = launcher, cublas, choices, tf32
        self._xp = launcher.cupy
        self._blocks = 2 * multiprocessors

    @property
    def measured(self) -> dict[str, dict[str, float]]:
        """Seconds by problem and way, where they were measured in this process."""
        return self._choices.measured

    # --- the operations -----------------------------------------------------------------------------------------------

    def matrix(self, a: Array, b: Array, bias: Array | None = None) -> Array:
        """Return ``a b + bias`` of two 2-D arrays; each may be the transpose of a contiguous one."""
        (m, k), n = a.shape, b.shape[1]
        (a, a_t), (b, b_t) = self._stored(a), self._stored(b)
        letters = "nt"[a_t] + "nt"[b_t]

        def own() -> Array:
            return self._tiled(f"product_{letters}", (a, b), (), m, n, k, bias)

        def cublas() -> Array:
            return self._biased(self._gemm(a, a_t, b, b_t, (m, n)), bias)

        return self._way(f"product {letters} {m}x{k}x{n}", a.dtype, own, cublas)()

    def conv(self, x: Array, weight: Array, bias: Array | None, g: np.ndarray) -> Array:
        """Return the convolution with windows `g`, (N, P, Q, F)."""
        n, p, q, k = self._columns_shape(g)
        filters = weight.shape[-1]

        def own() -> Array:
            return self._tiled("convolution", (x, weight), (g,), n * p * q, filters, k, bias)

        def cublas() -> Array:
            flat = self._columns(x, g).reshape(-1, k)
            return self._biased(self._gemm(flat, False, weight.reshape(k, -1), False, (n * p * q, filters)), bias)

        return self._way(f"conv {_name(g)} f{filters}", x.dtype, own, cublas, n * p * q * k)().reshape(n, p, q, filters)

    def conv_adjoint(self, b: Array, weight: Array, g: np.ndarray) -> Array:
        """Return the adjoint of `conv`, images of the geometry `g`."""
        n, p, q, k = self._columns_shape(g)
        images = tuple(int(g[0][axis]) for axis in ("n", "h", "w", "c"))
        filters = weight.shape[-1]

        def own() -> Array:
            if images[3] < THIN and n * p * q * k < LARGEST:
                return gathered(self._tiled("product_nt", (b, weight), (), n * p * q, k, filters, None))
            cells, inner = math.prod(images[:3]), math.prod(weight.shape[:2]) * filters
            return self._tiled("convolution_adjoint", (b, weight), (g,), cells, images[3], inner, None)

        def cublas() -> Array:
            return gathered(self._gemm(b.reshape(-1, filters), False, weight.reshape(k, -1), True, (n * p * q, k)))

        def gathered(columns: Array) -> Array:
            x = self._xp.empty(images, b.dtype)
            self._launcher.elements("col2im", b.dtype, x.size, columns, x, g)
            return x

        return self._way(f"conv adjoint {_name(g)} f{filters}", b.dtype, own, cublas, n * p * q * k)().reshape(images)

    def conv_weight_gradient(self, a: Array, b: Array, g: np.ndarray) -> Array:
        """Return the sum over windows of (window of `a`) times `b`, (KH·KW·C, F)."""
        n, p, q, k = self._columns_shape(g)
        filters = b.shape[-1]

        def own() -> Array:
            return self._tiled("convolution_weight_gradient", (a, b), (g,), k, filters, n * p * q, None)

        def cublas() -> Array:
            flat = self._columns(a, g).reshape(-1, k)
            return self._gemm(flat, True, b.reshape(-1, filters), False, (k, filters))

        return self._way(f"conv weight gradient {_name(g)} f{filters}", a.dtype, own, cublas, n * p * q * k)()

    def row_sum(self, b: Array, a: Array | None = None, mean: Array | None = None) -> Array:
        """Return the sum of `b`, with an `a` that of ``(a - mean) (b - mean)``, over all but the last axis."""
        columns = b.shape[-1]
        rows = b.size // columns
        # Blocks of 32 columns; a slice of fewer than 64 rows is not worth a block.
        splits = max(1, min(self._blocks // -(-columns // 32), rows // 64))
        slice_ = -(-rows // splits)
        splits = -(-rows // slice_)
        partial = self._xp.empty((splits, columns), b.dtype)
        self._launcher.blocks("row_sums", b.dtype, (-(-columns // 32), splits), THREADS, b, a, mean, partial,
                              np.int32(rows), np.int32(columns), np.int32(slice_))
        return (partial if splits == 1 else self._summed(partial, None)).reshape(columns)

    # --- the two ways -------------------------------------------------------------------------------------------------

    def _way(self, problem: str, dtype: np.dtype, own: Way, cublas: Way, columns: int = 0) -> Way:
        """Return the way to take; `columns` is the size of the column matrix that cuBLAS would need."""
        if self._cublas is None or columns >= LARGEST:
            return own
        if dtype == np.float32 and self._tf32():
            return cublas
        return self._choices.of(f"{problem} {dtype}", {"own": own, "cublas": cublas})

    def _tiled(self, kernel: str, factors: tuple[Array, Array], geometry: tuple[np.ndarray, ...], m: int, n: int, k: int,
               bias: Array | None) -> Array:
        """Return an (m, n) array that a tiled kernel computes, its inner axis cut so that all multiprocessors have work."""
        dtype = factors[0].dtype
        tiles = -(-m // TILE), -(-n // TILE)
        steps = -(-k // STEP)
        splits = max(1, min(self._blocks // math.prod(tiles), steps // LEAST_STEPS))
        slice_ = -(-steps // splits) * STEP
        splits = -(-k // slice_)
        out = self._xp.empty((splits, m, n), dtype)
        self._launcher.blocks(kernel, dtype, (*tiles, splits), THREADS, *factors, bias if splits == 1 else None, out,
                              *geometry, *map(np.int32, (m, n, k, slice_)))
        return out[0] if splits == 1 else self._summed(out, bias)

    def _summed(self, partial: Array, bias: Array | None) -> Array:
        """Return the sum over the first axis, plus `bias` along the last."""
        splits, *shape = partial.shape
        out = self._xp.empty(shape, partial.dtype)
        self._launcher.elements("sum_slices", out.dtype, out.size, partial, bias, out, np.int32(shape[-1]), np.int32(splits))
        return out

    def _gemm(self, a: Array, a_t: bool, b: Array, b_t: bool, shape: tuple[int, int]) -> Array:
        out = self._xp.empty(shape, a.dtype)
        tf32 = a.dtype == np.float32 and self._tf32()
        self._cublas.product(a, a_t, b, b_t, out, tf32)  # type: ignore[union-attr]
        return out

    def _biased(self, y: Array, bias: Array | None) -> Array:
        if bias is not None:
            self._launcher.elements("add_bias", y.dtype, y.size, y, bias, np.int32(y.shape[-1]))
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


def _name(g: np.ndarray) -> str:
    return " ".join(f"{axis}{g[0][axis]}" for axis in WINDOWS.names or ())
