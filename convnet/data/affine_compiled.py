"""Compiled twins of the functions in `convnet.data.affine`, for NumPy arrays of real floats (extra ``fast``: numba).

They release the interpreter, so that batches are made beside a training step, and go over the pixels one by one.
"""
from __future__ import annotations

import math

import numpy as np

from convnet.kernels.caching import compiled as _compiled


@_compiled
def _source(matrix, row, column, size, height, width):
    """Return the input position of an output pixel, held within one pixel outside the input."""
    down, right = row - (size[0] - 1) / 2, column - (size[1] - 1) / 2
    y = matrix[0, 0] * down + (matrix[0, 1] * right + (matrix[0, 2] + (height - 1) / 2))
    x = matrix[1, 0] * down + (matrix[1, 1] * right + (matrix[1, 2] + (width - 1) / 2))
    return min(max(y, -1.0), float(height)), min(max(x, -1.0), float(width))


@_compiled
def resample(images, matrices, fill, out):
    """Write the moved images (N, rows, columns, C) to `out`; `fill` is an array (C,)."""
    count, rows, columns, channels = out.shape
    height, width = images.shape[1], images.shape[2]
    for n in range(count):
        matrix = matrices[n % len(matrices)]
        for r in range(rows):
            for c in range(columns):
                y, x = _source(matrix, r, c, (rows, columns), height, width)
                top, left = math.floor(y), math.floor(x)
                below, beside = y - top, x - left
                for k in range(channels):
                    out[n, r, c, k] = 0
                outside = 1.0
                for i in range(2):
                    for j in range(2):
                        p, q = top + i, left + j
                        if 0 <= p < height and 0 <= q < width:
                            weight = (below if i else 1 - below) * (beside if j else 1 - beside)
                            outside -= weight
                            for k in range(channels):
                                out[n, r, c, k] += images.dtype.type(weight) * images[n, p, q, k]
                for k in range(channels):
                    out[n, r, c, k] += images.dtype.type(outside) * fill[k]


@_compiled
def adjoint(derivatives, matrices, out):
    """Write ``J^T b`` (N, H, W, C) to `out`, with sums in double precision."""
    count, rows, columns, channels = derivatives.shape
    height, width = out.shape[1], out.shape[2]
    total = np.empty((height, width, channels))
    for n in range(count):
        matrix = matrices[n % len(matrices)]
        total[:] = 0
        for r in range(rows):
            for c in range(columns):
                y, x = _source(matrix, r, c, (rows, columns), height, width)
                top, left = math.floor(y), math.floor(x)
                below, beside = y - top, x - left
                for i in range(2):
                    for j in range(2):
                        p, q = top + i, left + j
                        if 0 <= p < height and 0 <= q < width:
                            weight = (below if i else 1 - below) * (beside if j else 1 - beside)
                            for k in range(channels):
                                total[p, q, k] += weight * derivatives[n, r, c, k]
        out[n] = total
