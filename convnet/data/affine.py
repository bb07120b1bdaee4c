"""Affine maps of images by bilinear interpolation, and their exact adjoint.

Coordinates are (row, column) pairs measured in pixels from the centre of the image, rows downwards, so that the
identity matrix with a smaller output is a central crop. A matrix maps OUTPUT coordinates to INPUT coordinates:
``p_in = A[:, :2] p_out + A[:, 2]``. With the weights ``w_k`` of the four pixels round ``p_in``,

    y[q] = sum_k w_k(q) x[p_k(q)] + fill · (1 - sum_k w_k(q)),

where pixels outside the input have weight 0. This is affine in ``x``: its Jacobian is the same map with fill 0, and the
adjoint adds ``w_k(q) b[q]`` to pixel ``p_k(q)``.
"""
from __future__ import annotations

import operator
from typing import Any

import numpy as np

from convnet import kernels
from convnet.kernels import array_module

Array = Any  # numpy.ndarray or cupy.ndarray


def affine_matrices(shift=(0.0, 0.0), scale=(1.0, 1.0), rotation=0.0, reflect=False) -> np.ndarray:
    """Return the matrices that move the content of images: shift, then reflect, then scale, then rotate.

    Parameters
    ----------
    shift : pair of floats or arrays (N,)
        Displacement of the content downwards and to the right, in pixels of the input. The window of a crop moves the
        other way.
    scale : pair of floats or arrays (N,)
        Magnification of the content along rows (height) and along columns (width).
    rotation : float or array (N,)
        Angle in radians, counter-clockwise as displayed.
    reflect : bool or array (N,)
        Whether left and right are exchanged.

    Returns
    -------
    array (N, 2, 3), float64
        ``p_in = F^-1 S^-1 R^-1 p_out - shift`` (see the module's text); N is 1 if no argument is an array.
    """
    down, right, height, width, angle, mirrored = np.broadcast_arrays(
        *(np.atleast_1d(np.asarray(value, np.float64)) for value in (*shift, *scale, rotation, reflect)))
    if not (np.isfinite(height) & np.isfinite(width) & (height > 0) & (width > 0)).all():
        raise ValueError("scale must be positive")
    cos, sin = np.cos(angle), np.sin(angle)
    side = np.where(mirrored != 0, -1.0, 1.0)
    return np.stack([np.stack([cos / height, sin / height, -down], axis=-1),
                     np.stack([-side * sin / width, side * cos / width, -right], axis=-1)], axis=-2)


def affine_resample(images: Array, matrices: Array, output_size: tuple[int, int] | None = None,
                    fill: float | Array = 0.0) -> Array:
    """Return images moved by an affine map each, by bilinear interpolation.

    Parameters
    ----------
    images : float or complex array (N, H, W, C), NumPy or CuPy
    matrices : array (N, 2, 3) or (1, 2, 3)
        Output to input coordinates (see `affine_matrices`).
    output_size : (rows, columns), optional
        Size of the result, by default that of the images.
    fill : float or array (C,)
        Value of everything outside the input.

    Returns
    -------
    array (N, rows, columns, C) of the type of `images`

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    images, matrices, size = _checked(images, matrices, output_size, "fc")
    count, height, width, channels = images.shape
    fill = array_module(images).asarray(fill, images.dtype)
    if _compiled(images):
        from convnet.data import affine_compiled

        result = np.empty((count, *size, channels), images.dtype)
        affine_compiled.resample(_plain(images), _plain(matrices), np.full(channels, fill), result)
        return result
    indices, weights = _taps(matrices, count, (height, width), size)
    flat = images.reshape(count * height * width, channels)
    weights = weights.astype(images.dtype)
    outside = (1 - weights.sum(axis=0))[..., None]
    result = outside * fill + sum(
        weight[..., None] * flat.take(index, axis=0) for index, weight in zip(indices, weights, strict=True))
    return result.astype(images.dtype, copy=False).reshape(count, *size, channels)


def affine_resample_adjoint(derivatives: Array, matrices: Array, input_size: tuple[int, int]) -> Array:
    """Return ``J^T b`` for the Jacobian ``J`` of `affine_resample`.

    Parameters
    ----------
    derivatives : float array (N, rows, columns, C), NumPy or CuPy
        Derivatives ``b`` in the resampled images.
    matrices : array (N, 2, 3) or (1, 2, 3)
        Those that were given to `affine_resample`.
    input_size : (H, W)
        Size of its input.

    Returns
    -------
    array (N, H, W, C) of the type of `derivatives`
        On a GPU sums are formed in whole numbers, 2^-50 of the largest term apart, so that they do not depend on the
        order in which they are added.
    """
    derivatives, matrices, size = _checked(derivatives, matrices, input_size, "f")
    xp = array_module(derivatives)
    count, height, width, channels = derivatives.shape
    if _compiled(derivatives):
        from convnet.data import affine_compiled

        result = np.empty((count, *size, channels), derivatives.dtype)
        affine_compiled.adjoint(_plain(derivatives), _plain(matrices), result)
        return result
    indices, weights = _taps(matrices, count, size, (height, width))
    values = derivatives.reshape(count, height * width, channels).astype(np.float64)
    # The largest sum any pixel can receive is max |b| times the number of output pixels (weights are at most 1 in sum).
    unit = xp.abs(values).max() * (height * width * 2.0**-62)
    unit = xp.where(unit == 0, 1.0, unit)
    # CuPy adds at indices in unsigned 64-bit numbers only; they wrap round just as signed ones do.
    total = xp.zeros((count * size[0] * size[1], channels), np.uint64)
    # Where a derivative is not finite, neither is the unit, and so no value of the result.
    with np.errstate(invalid="ignore"):
        for index, weight in zip(indices, weights, strict=True):
            xp.add.at(total, index, xp.rint(weight[..., None] * values / unit).astype(np.int64).view(np.uint64))
    return (total.view(np.int64) * unit).astype(derivatives.dtype).reshape(count, *size, channels)


def _compiled(images: Array) -> bool:
    """Tell whether the compiled functions are in use and suit these arrays."""
    return array_module(images) is np and images.dtype in (np.float32, np.float64) and kernels.cpu().name == "fast"


def _plain(array: np.ndarray) -> np.ndarray:
    """Return `array`, or a copy, of the one kind for which functions are compiled: contiguous and writable."""
    return np.require(array, requirements=["C", "W", "E"])


def _checked(images: Array, matrices: Array, size: tuple[int, int] | None,
             kinds: str) -> tuple[Array, Array, tuple[int, int]]:
    """Return images, matrices (on the images' device, float64) and size, or raise ValueError by name."""
    xp = array_module(images)
    if images.ndim != 4 or images.dtype.kind not in kinds:
        raise ValueError(f"images must be a floating-point array (N, H, W, C), not {images.dtype} of shape "
                         f"{images.shape}")
    matrices = xp.asarray(matrices, np.float64)
    if matrices.shape not in {(len(images), 2, 3), (1, 2, 3)}:
        raise ValueError(f"matrices must be of shape ({len(images)}, 2, 3) or (1, 2, 3), not {matrices.shape}")
    if size is None:
        return images, matrices, images.shape[1:3]
    rows, columns = (operator.index(number) for number in size)
    if rows < 1 or columns < 1:
        raise ValueError(f"the size of an image must be positive, not {size!r}")
    return images, matrices, (rows, columns)


def _taps(matrices: Array, count: int, input_size: tuple[int, int],
          output_size: tuple[int, int]) -> tuple[Array, Array]:
    """Return flat indices and weights, (4, N, rows · columns) each, of the input pixels that make an output pixel."""
    xp = array_module(matrices)
    rows, columns = output_size
    down = (xp.arange(rows) - (rows - 1) / 2)[:, None]
    right = (xp.arange(columns) - (columns - 1) / 2)[None, :]
    along = []
    for axis, length in enumerate(input_size):
        a, b, c = (matrices[:, axis, k, None, None] for k in range(3))
        # Beyond one pixel outside, all weights are 0 anyway; the bound keeps whole numbers small.
        position = a * down + (b * right + (c + (length - 1) / 2))
        position = xp.clip(position, -1.0, float(length)).reshape(len(matrices), -1)
        first = xp.floor(position)
        fraction = position - first
        first = first.astype(np.int64)
        along.append([(xp.clip(index, 0, length - 1), weight * ((index >= 0) & (index < length)))
                      for index, weight in ((first, 1 - fraction), (first + 1, fraction))])
    start = xp.arange(count)[:, None] * (input_size[0] * input_size[1])
    pairs = [(y, x) for y in along[0] for x in along[1]]
    indices = xp.stack([start + (y[0] * input_size[1] + x[0]) for y, x in pairs])
    weights = xp.stack([xp.broadcast_to(y[1] * x[1], indices.shape[1:]) for y, x in pairs])
    return indices, weights
