"""Faults on purpose: wrong training labels and noisy test images, the same for all algorithms that are compared."""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from convnet.data.dataset import Dataset
from convnet.data.images import blocks


def with_label_noise(dataset: Dataset, fraction: float, seed: int = 0) -> Dataset:
    """Return the data set with a share of its training labels replaced by other classes.

    Parameters
    ----------
    fraction : float
        Share of the training labels that become wrong, in [0, 1]; rounded to whole images.
    seed : int
        Decides which images, and the class each of them gets, uniformly among the others. With the same seed, the
        wrong labels of a smaller fraction are among those of a larger one.

    Raises
    ------
    ValueError
        If the fraction is not in [0, 1], or there is no other class.

    Notes
    -----
    For paper 004's claim (section 4) that a bounded cost withstands mislabelled inputs.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction is {fraction!r}; it must be a share of the labels, from 0 to 1")
    classes = len(dataset.classes)
    if classes < 2:
        raise ValueError("label noise needs at least two classes")
    labels = dataset.train_labels.copy()
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    steps = generator.integers(1, classes, len(labels))
    chosen = order[:round(fraction * len(labels))]
    labels[chosen] = (labels[chosen] + steps[chosen]) % classes
    return replace(dataset, train_labels=labels)


def with_test_noise(dataset: Dataset, sigma: float, seed: int = 0) -> Dataset:
    """Return the data set with Gaussian noise added to its test images.

    Parameters
    ----------
    sigma : float
        Standard deviation in units of full intensity (`Dataset.max_value`, 1 for prepared images), as in papers
        001/002, section 5.3.
    seed : int
        With the same seed, noise of another strength is the same noise scaled.

    Returns
    -------
    Dataset
        Test images in their own floating-point type, or float32 for uint8 images; not clipped.

    Raises
    ------
    ValueError
        If sigma is negative or not finite.
    """
    if not (np.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"sigma is {sigma!r}; it must be a standard deviation, at least 0")
    source = dataset.test_images
    result = np.empty(source.shape, source.dtype if source.dtype.kind == "f" else np.float32)
    generator = np.random.default_rng(seed)
    strength = sigma * float(dataset.max_value or 1.0)
    for block in blocks(source):
        part = result[block]
        part[:] = source[block]
        part += (strength * generator.standard_normal(part.shape, dtype=np.float32)).astype(result.dtype)
    return replace(dataset, test_images=result)
