"""One data set: a training and a test part, validated once, and what every experiment does to it first."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from convnet.data.images import ImageView, blocks, prepared, take, total
from convnet.data.sampling import stratified_indices

# Standardised images are of unit size too; what is this far beyond it has not been divided by its full intensity.
_UNIT_SIZE = 10.0


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A classification data set of images, split into a training and a test part.

    Parameters
    ----------
    name : str
        Name of the set, used in messages and results.
    train_images, test_images : array (N, H, W, C)
        Channels-last images, uint8 or floating point. Memory-mapped arrays stay memory-mapped; an
        `convnet.data.images.ImageView` is taken as it is.
    train_labels, test_labels : array (N,)
        Class ids 0 .. len(classes) - 1; stored as int64.
    classes : tuple of str
        Names of the classes; position is the class id.
    max_value : float, optional
        What stands for full intensity: `prepared` divides by it. By default 255 for uint8 images and 1 for others.
    mean_image : array (H, W, C), optional
        What `prepared` has subtracted, in units of the prepared images; None before that.

    Raises
    ------
    ValueError
        If a part is empty, images and labels differ in number, the images are not of one shape or not finite, or a
        label is not an id of a class.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]
    max_value: float | None = None
    mean_image: np.ndarray | None = None

    def __post_init__(self):
        # The class is frozen for its users; object.__setattr__ stores the checked and converted fields.
        put = object.__setattr__
        put(self, "classes", tuple(str(name) for name in self.classes))
        if not self.classes:
            raise ValueError(f"data set {self.name!r}: classes is empty; give the name of every class")
        for part in ("train", "test"):
            images = _checked_images(getattr(self, f"{part}_images"), f"data set {self.name!r}: {part}_images")
            labels = _checked_labels(getattr(self, f"{part}_labels"), len(self.classes),
                                     f"data set {self.name!r}: {part}_labels")
            if len(images) != len(labels):
                raise ValueError(f"data set {self.name!r}: {len(images)} {part}_images but {len(labels)} "
                                 f"{part}_labels; give one label per image")
            put(self, f"{part}_images", images)
            put(self, f"{part}_labels", labels)
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise ValueError(f"data set {self.name!r}: train_images are of shape {self.train_images.shape[1:]} but "
                             f"test_images of shape {self.test_images.shape[1:]}; both parts need one image shape")
        if self.max_value is None:
            put(self, "max_value", 255.0 if self.train_images.dtype == np.uint8 else 1.0)
        elif not (np.isfinite(self.max_value) and self.max_value > 0):
            raise ValueError(f"data set {self.name!r}: max_value must be a positive number, not {self.max_value!r}")

    def __repr__(self):
        height, width, channels = self.input_shape
        return (f"Dataset({self.name!r}, {len(self.train_labels)} training and {len(self.test_labels)} test images of "
                f"{height}x{width}x{channels}, {len(self.classes)} classes, {self.train_images.dtype})")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape (H, W, C) of one image."""
        return self.train_images.shape[1:]

    def subset(self, size: int | None = None, per_class: int | None = None, seed: int = 0) -> Dataset:
        """Return this set with fewer training images, drawn class by class; the test part stays whole.

        The same seed gives the same images, and a larger subset of the same seed contains the smaller one's images of
        each class, so that algorithms and training set sizes are compared on like data.

        Parameters
        ----------
        size : int, optional
            Number of training images; each class keeps its share, rounded by largest remainder.
        per_class : int, optional
            Number of training images of every class. With neither, all images are kept.
        seed : int
            Seed of the draw.

        Raises
        ------
        ValueError
            If both are given, a number is not positive, or there are not so many images.

        Notes
        -----
        Images keep their order. Subsets by size are those of papers 001/002, section 5.1 (10 000 images), subsets per
        class those of paper 003, section 7.2 (50, 100, 200 and 1000).
        """
        if size is None and per_class is None:
            return self
        chosen = stratified_indices(self.train_labels, size=size, per_class=per_class, seed=seed,
                                    classes=len(self.classes))
        return replace(self, train_images=take(self.train_images, chosen), train_labels=self.train_labels[chosen])

    def prepared(self, dtype: str = "float32", subtract_mean: bool = True) -> Dataset:
        """Return this set with images in [0, 1], less the mean image of the training part.

        Parameters
        ----------
        dtype : str
            Floating-point type of the result. A part that would be larger than 2 GiB is prepared on access
            (`convnet.data.images.ImageView`), so that large memory-mapped sets stay on disk.
        subtract_mean : bool
            Subtract the training part's mean image, one value per pixel and channel, from both parts.

        Raises
        ------
        ValueError
            If `dtype` is not floating point, or `max_value` is not the full intensity of the images: divided by it, a
            pixel is above 10 on average.

        Notes
        -----
        Papers 000, section 7.4, and 001/002, section 5.1. Take a subset first if the mean is to be the subset's.
        """
        kind = np.dtype(dtype)
        if kind.kind != "f":
            raise ValueError(f"dtype must be a floating-point type such as 'float32', not {dtype!r}")
        scale = float(self.max_value or 1.0)
        mean = total(self.train_images) / (len(self.train_images) * scale)
        largest = np.abs(mean).max()
        if largest > _UNIT_SIZE:
            raise ValueError(f"data set {self.name!r}: a pixel of the training images is {largest * scale:.4g} on average, but "
                             f"max_value is {scale:g}: give their full intensity, Dataset(..., max_value=255), or uint8 images")
        if not subtract_mean:
            mean = np.zeros(self.input_shape)
        already = 0 if self.mean_image is None else self.mean_image / scale
        return replace(self, train_images=prepared(self.train_images, kind, scale, mean),
                       test_images=prepared(self.test_images, kind, scale, mean), max_value=1.0,
                       mean_image=already + mean)


def _checked_images(images: ArrayLike | ImageView, what: str) -> Any:
    """Return `images` as an array (N, H, W, C) of finite numbers, or raise ValueError in terms of `what`."""
    try:
        array: Any = images if isinstance(images, (np.ndarray, ImageView)) else np.asarray(images)
    except ValueError as error:
        raise ValueError(f"{what}: the images are not all of one shape; crop or resize them first") from error
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise ValueError(f"{what} must be uint8 or floating point, not {array.dtype}; convert them, for example "
                         "with .astype('float32')")
    if array.ndim != 4:
        hint = "; grey images need a last axis of one channel: images[..., None]" if array.ndim == 3 else ""
        raise ValueError(f"{what} must have the axes (N, H, W, C), but the shape is {array.shape}{hint}")
    if 0 in array.shape:
        raise ValueError(f"{what} is empty: its shape is {array.shape}")
    if array.dtype.kind == "f" and not isinstance(array, ImageView):
        for block in blocks(array):
            good = np.isfinite(array[block]).all(axis=(1, 2, 3))
            if not good.all():
                first = block.start + int(np.argmin(good))
                raise ValueError(f"{what}: image {first} holds NaN or infinite values; remove or repair it")
    return array


def _checked_labels(labels: ArrayLike, classes: int, what: str) -> np.ndarray:
    """Return `labels` as int64 class ids in 0 .. classes - 1, or raise ValueError in terms of `what`."""
    array = np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{what} must be one integer class id per image, but has shape {array.shape} and type "
                         f"{array.dtype}")
    if not len(array):
        raise ValueError(f"{what} is empty")
    wrong = (array < 0) | (array >= classes)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(f"{what}: label {array[first]} of image {first} is not a class id; with {classes} classes "
                         f"labels are 0 to {classes - 1}")
    return array.astype(np.int64)
