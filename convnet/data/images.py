"""Large image arrays: walked in blocks, and prepared on access instead of in memory."""
from __future__ import annotations

import mmap
import operator
from collections.abc import Iterator
from typing import Any

import numpy as np

_BLOCK_BYTES = 1 << 25
# What may be made in memory without being asked: more is prepared on access.
_MEMORY_BYTES = 1 << 31


def blocks(images: Any) -> Iterator[slice]:
    """Yield slices of samples of at most about 32 MB each, so that sets larger than memory are never read whole.

    Parameters
    ----------
    images : array (N, ...) or `ImageView`
        The pages of a file that is mapped for reading are given back after each block.
    """
    sample_bytes = max(1, int(np.prod(images.shape[1:])) * images.dtype.itemsize)
    step = max(1, _BLOCK_BYTES // sample_bytes)
    for start in range(0, len(images), step):
        yield slice(start, min(start + step, len(images)))
        _give_back(images)


def _give_back(images: Any) -> None:
    """Take the pages of a file mapped for reading out of this process's memory; the next access maps them again."""
    while isinstance(images, ImageView):
        images = images.source
    # Of a private mapping, changes would be lost.
    if isinstance(images, np.memmap) and images.mode == "r" and hasattr(mmap, "MADV_DONTNEED"):
        mapping = images._mmap  # type: ignore[attr-defined]
        if mapping is not None:
            mapping.madvise(mmap.MADV_DONTNEED)


class ImageView:
    """Images that are picked, scaled and centred when they are indexed: ``source[rows] / scale - mean``.

    It stands for an array wherever samples are taken from its first axis (``view[3]``, ``view[10:20]``,
    ``view[indices]``), and becomes one with `numpy.asarray`.

    Parameters
    ----------
    source : array (N, H, W, C)
        Usually memory-mapped.
    rows : int array, optional
        The samples of `source` that belong to the view, in order; by default all.
    dtype : dtype, optional
        Type of the result, by default that of `source`.
    scale : float
        Divisor.
    mean : array (H, W, C), optional
        Subtracted after the division.
    """

    def __init__(self, source: np.ndarray, rows: np.ndarray | None = None, dtype: Any = None, scale: float = 1.0,
                 mean: np.ndarray | None = None):
        self.source, self.rows, self.scale, self.mean = source, rows, scale, mean
        self.dtype = np.dtype(source.dtype if dtype is None else dtype)
        self.shape = (len(source) if rows is None else len(rows), *source.shape[1:])
        self.ndim = len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the array that this stands for."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        first, rest = (index[0], index[1:]) if isinstance(index, tuple) else (index, ())
        if isinstance(first, (int, np.integer)):
            return self[np.array([range(len(self))[operator.index(first)]])][(0, *rest)]
        picked = self.source[first if self.rows is None else self.rows[first]]
        return scaled(picked, self.dtype, self.scale, self.mean)[(slice(None), *rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("these images are made on access: an array of them is always a copy")
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def __repr__(self) -> str:
        return f"ImageView(shape={self.shape}, dtype={self.dtype})"


def scaled(images: np.ndarray, dtype: np.dtype, scale: float = 1.0, mean: np.ndarray | None = None) -> np.ndarray:
    """Return ``images / scale - mean`` in `dtype`; never the memory of `images` itself."""
    result = np.array(images, dtype)
    if scale != 1.0:
        result /= dtype.type(scale)
    if mean is not None:
        result -= mean.astype(dtype)
    return result


def take(images: Any, rows: np.ndarray) -> Any:
    """Return the images at `rows`: an array, or a view where an array would be too large."""
    if len(rows) * images[:1].nbytes <= _MEMORY_BYTES:
        return images[rows]
    if isinstance(images, ImageView):
        chosen = rows if images.rows is None else images.rows[rows]
        return ImageView(images.source, chosen, images.dtype, images.scale, images.mean)
    return ImageView(images, rows)


def prepared(images: Any, dtype: np.dtype, scale: float, mean: np.ndarray | None) -> Any:
    """Return ``images / scale - mean``: an array, or a view where an array would be too large."""
    if len(images) * int(np.prod(images.shape[1:])) * dtype.itemsize > _MEMORY_BYTES:
        return ImageView(images, None, dtype, scale, mean)
    result = np.empty(images.shape, dtype)
    for block in blocks(images):
        result[block] = scaled(images[block], dtype, scale, mean)
    return result


def total(images: Any) -> np.ndarray:
    """Return the sum of all images, (H, W, C) in float64."""
    result = np.zeros(images.shape[1:])
    for block in blocks(images):
        result += images[block].sum(axis=0, dtype=np.float64)
    return result
