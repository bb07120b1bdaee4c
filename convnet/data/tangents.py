"""Tangent vectors: how an image changes when it is shifted, scaled or rotated (Simard et al. 1992).

The discrete image is made a smooth function of the plane by a Gaussian,

    s(y, x) = sum_{i,j} I[i, j] φ(y - i) φ(x - j),      φ(u) ~ exp(-u² / 2σ²),  sum over whole u of φ(u) = 1,

and the tangent vector of a transformation with parameter θ is ``d/dθ s(T_θ^{-1} p)`` at θ = 0, a Lie operator on
``s``. With (y, x) in pixels from the centre of the image, rows downwards:

=========  ========================================  ===============================  ==================================
name       the content, as θ grows                   tangent vector                   unit of θ
=========  ========================================  ===============================  ==================================
shift-x    moves to the right                        ``-∂s/∂x``                       pixels
shift-y    moves downwards                           ``-∂s/∂y``                       pixels
scale-x    is stretched horizontally                 ``-x ∂s/∂x``                     relative: width × (1 + θ)
scale-y    is stretched vertically                   ``-y ∂s/∂y``                     relative: height × (1 + θ)
rotation   turns counter-clockwise, as displayed     ``x ∂s/∂y - y ∂s/∂x``            radians
=========  ========================================  ===============================  ==================================

Papers 000, section 4.1, and 001/002, sections 2.1 and 5 (these five, σ = 0.9).
"""
from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
from scipy.ndimage import gaussian_filter1d

from convnet.data.cache import cached_array
from convnet.data.dataset import Dataset
from convnet.data.images import blocks

_OPERATORS: dict[str, Callable[..., np.ndarray]] = {
    "shift-x": lambda dy, dx, y, x: -dx,
    "shift-y": lambda dy, dx, y, x: -dy,
    "scale-x": lambda dy, dx, y, x: -x * dx,
    "scale-y": lambda dy, dx, y, x: -y * dy,
    "rotation": lambda dy, dx, y, x: x * dy - y * dx,
}
TRANSFORMATIONS = tuple(_OPERATORS)

# The Gaussian is cut off where it is below 1e-13 of its peak, so that its derivative is that of a smooth function.
_TRUNCATE = 8.0
_EDGES = ("nearest", "constant", "reflect", "mirror", "wrap")


def tangent_vectors(images: np.ndarray, transformations: Sequence[str] = TRANSFORMATIONS, sigma: float = 0.9,
                    edges: str = "nearest") -> np.ndarray:
    """Return the tangent vectors of images under transformations.

    Parameters
    ----------
    images : array (N, H, W, C)
        Grey or colour images, uint8 or floating point. Channels are smoothed each on its own. Give images from which no
        mean image has been subtracted: it is the content that moves, not the mean (`training_tangents` sees to it).
    transformations : sequence of str
        Names from the table in the module's text.
    sigma : float
        Standard deviation of the Gaussian in pixels.
    edges : {"nearest", "constant", "reflect", "mirror", "wrap"}
        What is assumed outside the image, as in scipy.ndimage: its border value, zero, ...

    Returns
    -------
    array (N, M, H, W, C)
        In the type of floating-point images, else float32.

    Raises
    ------
    ValueError
        If a name is unknown, the images have other axes, or sigma is not positive.
    """
    _check(images, transformations, sigma, edges)
    dtype = images.dtype if images.dtype.kind == "f" else np.dtype(np.float32)
    images = images.astype(dtype, copy=False)

    def smooth(array, axis, order):
        return gaussian_filter1d(array, sigma, axis=axis, order=order, mode=edges, truncate=_TRUNCATE)

    dy = smooth(smooth(images, 1, 1), 2, 0)
    dx = smooth(smooth(images, 1, 0), 2, 1)
    _, height, width, _ = images.shape
    y = (np.arange(height, dtype=dtype) - dtype.type((height - 1) / 2))[:, None, None]
    x = (np.arange(width, dtype=dtype) - dtype.type((width - 1) / 2))[None, :, None]
    return np.stack([_OPERATORS[name](dy, dx, y, x) for name in transformations], axis=1)


def cached_tangent_vectors(images: np.ndarray, folder: str | os.PathLike,
                           transformations: Sequence[str] = TRANSFORMATIONS, sigma: float = 0.9,
                           edges: str = "nearest") -> np.ndarray:
    """Return `tangent_vectors` from a file in `folder`, which is made block by block if it is not there yet.

    Returns
    -------
    array (N, M, H, W, C), memory-mapped, read-only
        The file's name depends on the pixels and on every option, so that one folder serves any number of sets.

    Raises
    ------
    ValueError
        As `tangent_vectors`.
    OSError
        If the file cannot be written; nothing is left behind.
    """
    _check(images, transformations, sigma, edges)
    dtype = images.dtype if images.dtype.kind == "f" else np.dtype(np.float32)
    return cached_array(
        folder, "tangents", images, {"transformations": list(transformations), "sigma": float(sigma), "edges": edges},
        (len(images), len(transformations), *images.shape[1:]), dtype,
        (tangent_vectors(images[block], transformations, sigma, edges) for block in blocks(images)))


def training_tangents(dataset: Dataset, cache: str | os.PathLike | None = None,
                      transformations: Sequence[str] = TRANSFORMATIONS, sigma: float = 0.9,
                      edges: str = "nearest") -> np.ndarray:
    """Return the tangent vectors of a data set's training images, prepared or not, in the units of its images.

    The tangent vector of ``x - m``, an image less the mean image, is that of ``x``: the mean that was subtracted is
    added back before the operators are applied.

    Parameters
    ----------
    dataset : Dataset
    cache : path, optional
        Folder for `cached_tangent_vectors`; without it the tangents are made in memory.
    """
    images = dataset.train_images
    if dataset.mean_image is not None:
        images = images + dataset.mean_image.astype(images.dtype)
    if cache is None:
        return tangent_vectors(images, transformations, sigma, edges)
    return cached_tangent_vectors(images, cache, transformations, sigma, edges)


def _check(images: np.ndarray, transformations: Sequence[str], sigma: float, edges: str) -> None:
    if isinstance(transformations, str) or not len(transformations):
        raise ValueError(f"transformations must be a list of names, not {transformations!r}")
    for name in transformations:
        if name not in _OPERATORS:
            raise ValueError(f"unknown transformation {name!r}; known are {', '.join(TRANSFORMATIONS)}")
    if images.ndim != 4:
        raise ValueError(f"images must have the axes (N, H, W, C), but the shape is {images.shape}")
    if not (np.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma must be a positive number of pixels, not {sigma!r}")
    if edges not in _EDGES:
        raise ValueError(f"edges must be one of {', '.join(_EDGES)}, not {edges!r}")
