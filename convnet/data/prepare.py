"""The preparations of the papers by name, those that take long kept in a cache."""
from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from convnet.data.cache import cached_array
from convnet.data.contrast import local_contrast_normalization
from convnet.data.dataset import Dataset
from convnet.data.images import ImageView, blocks, scaled
from convnet.names import lookup

# What the papers did: SVHN by local contrast, everything else by the mean image (paper 000, section 7.4).
NORMALIZATIONS = {"mean-image": "[0, 1], less the training part's mean image", "scale": "[0, 1]",
                  "local-contrast": "[0, 1], then local contrast normalisation"}


def usual_normalization(name: str) -> str:
    """Return the normalisation that paper 000 uses for the data set `name`."""
    return "local-contrast" if name.startswith("svhn") else "mean-image"


def prepare(dataset: Dataset, normalization: str | None = None, dtype: str = "float32",
            cache: str | os.PathLike | None = None) -> Dataset:
    """Return a data set prepared for training.

    Parameters
    ----------
    dataset : Dataset
    normalization : {"mean-image", "scale", "local-contrast"}, optional
        By default what paper 000 uses for this data set.
    dtype : str
        Floating-point type of the images that are handed out.
    cache : path, optional
        Folder for images normalised by local contrast. They are kept there in half precision (an error of 5e-4, an
        eighth of the step of 8-bit pixels) and memory-mapped: SVHN with extra takes 3.7 GB of disk and hardly any
        memory. Without it they are made in memory.

    Raises
    ------
    ValueError
        If the normalisation is unknown.
    OSError
        If the cache cannot be written.
    """
    normalization = usual_normalization(dataset.name) if normalization is None else normalization
    lookup("normalization", normalization, NORMALIZATIONS)
    if normalization != "local-contrast":
        return dataset.prepared(dtype, subtract_mean=normalization == "mean-image")
    parts = {part: _normalized(getattr(dataset, part), float(dataset.max_value or 1.0), np.dtype(dtype), cache)
             for part in ("train_images", "test_images")}
    return replace(dataset, **parts, max_value=1.0)


def _normalized(images: Any, scale: float, dtype: np.dtype, cache: str | os.PathLike | None) -> Any:
    """Return images normalised by local contrast, in memory or as a view of a cached array."""
    def made() -> Iterator[np.ndarray]:
        for block in blocks(images):
            yield local_contrast_normalization(scaled(images[block], np.dtype(np.float32), scale))

    if cache is None:
        return np.concatenate([block.astype(dtype, copy=False) for block in made()])
    stored = cached_array(cache, "local-contrast", images, {"scale": scale}, images.shape, np.dtype(np.float16), made())
    return ImageView(stored, None, dtype)
