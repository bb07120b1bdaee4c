"""Random variants of training images: crop or shift, scale, rotation and reflection in one bilinear resampling.

Papers 000, section 7.4, and 001/002, section 5.4, in the terms used here:

>>> cifar = Augmentation(crop=28, shift=2, scale=(0.7, 1.4), reflect=True)
>>> mnist = Augmentation(shift=2, scale=(0.7, 1.4), rotation=18)
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from convnet.data.affine import Array, affine_matrices, affine_resample
from convnet.data.images import blocks
from convnet.kernels import array_module

Key = int | Sequence[int]

# Uniform numbers used per image, always all of them: the same key gives the same shifts with and without rotation.
DRAWS = 6


@dataclass(frozen=True)
class Augmentation:
    """What varies, and how far; each image of a batch gets a draw of its own.

    Parameters
    ----------
    crop : int or pair of ints, optional
        Rows and columns of the result; by default the size of the images.
    shift : float or pair of floats
        Largest displacement from the central position in pixels, along rows and along columns; uniform.
    whole_pixels : bool
        Draw shifts from whole numbers only, so that an image that is only shifted or reflected stays sharp.
    scale : pair of floats
        Range of the magnification, drawn for rows and columns each; uniform in its logarithm, so that halving and
        doubling are equally likely.
    rotation : float
        Largest angle in degrees, in both directions; uniform.
    reflect : bool
        Exchange left and right in every other image, at random.
    fill : float or sequence of floats
        Value of pixels outside the original image, for all channels or one for each.

    Raises
    ------
    ValueError
        If a number makes no sense.
    """

    crop: int | tuple[int, int] | None = None
    shift: float | tuple[float, float] = 0.0
    whole_pixels: bool = False
    scale: tuple[float, float] = (1.0, 1.0)
    rotation: float = 0.0
    reflect: bool = False
    fill: float | tuple[float, ...] = 0.0

    def __post_init__(self):
        put = object.__setattr__
        for name in ("whole_pixels", "reflect"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be True or False")
        if self.crop is not None:
            crop = _pair("crop", self.crop)
            if any(number < 1 or number != int(number) for number in crop):
                raise ValueError(f"crop is {self.crop!r}; it must be a positive whole number of pixels, or a pair")
            put(self, "crop", (int(crop[0]), int(crop[1])))
        shift = _pair("shift", self.shift)
        put(self, "shift", shift)
        if min(shift) < 0:
            raise ValueError(f"shift is {self.shift!r}; it must be the largest displacement in pixels, at least 0")
        if self.whole_pixels and any(number != int(number) for number in shift):
            raise ValueError(f"shift is {self.shift!r}; with whole_pixels it must be a whole number of pixels")
        low, high = _pair("scale", self.scale)
        if not 0 < low <= high:
            raise ValueError(f"scale is {self.scale!r}; it must be a range (low, high) with 0 < low <= high")
        put(self, "scale", (low, high))
        if isinstance(self.rotation, str) or not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation is {self.rotation!r}; it must be the largest angle in degrees, from 0 to 180")
        put(self, "fill", tuple(self.fill) if np.ndim(self.fill) else float(self.fill))
        if not np.isfinite(self.fill).all():
            raise ValueError(f"fill is {self.fill!r}; it must be finite")

    def output_shape(self, input_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape of a result (rows, columns, C) for images of `input_shape` (H, W, C)."""
        height, width, channels = input_shape
        if isinstance(self.fill, tuple) and len(self.fill) != channels:
            raise ValueError(f"fill has {len(self.fill)} values, but the images have {channels} channels")
        rows, columns = (height, width) if self.crop is None else _pair("crop", self.crop)
        return int(rows), int(columns), channels

    def matrices(self, uniform: np.ndarray) -> np.ndarray:
        """Return the maps (see `convnet.data.affine`) that belong to uniform numbers.

        Parameters
        ----------
        uniform : array (N, 6)
            In [0, 1): shift along rows and columns, scale of rows and columns, angle, reflection.

        Returns
        -------
        array (N, 2, 3), float64
        """
        reach = _pair("shift", self.shift)
        if self.whole_pixels:
            shift = [np.floor(uniform[:, k] * (2 * reach[k] + 1)) - reach[k] for k in (0, 1)]
        else:
            shift = [(2 * uniform[:, k] - 1) * reach[k] for k in (0, 1)]
        low, high = self.scale
        scale = [low * (high / low) ** uniform[:, k] for k in (2, 3)]
        angle = (2 * uniform[:, 4] - 1) * math.radians(self.rotation)
        return affine_matrices(shift, scale, angle, self.reflect & (uniform[:, 5] < 0.5))

    def apply(self, images: Array, key: Key) -> Array:
        """Return a random variant of each image.

        Parameters
        ----------
        images : array (N, H, W, C)
            Floating point, NumPy or CuPy; uint8 images become float32 of the same values.
        key : int or sequence of ints
            Seed of the draw, for example (seed, epoch, batch). The same key gives the same variants.

        Returns
        -------
        array (N, rows, columns, C)
        """
        uniform = np.random.default_rng(key).random((len(images), DRAWS))
        return self.resample(images, self.matrices(uniform))

    def central(self, images: Array) -> Array:
        """Return the central crop of each image, without any random factor, for use at test time."""
        parts = [self.resample(images[block], affine_matrices()) for block in blocks(images)]
        return array_module(parts[0]).concatenate(parts)

    def resample(self, images: Array, matrices: np.ndarray, fill: float | None = None) -> Array:
        """Return the images moved by given maps, in this augmentation's size, with `fill` or its own fill value."""
        rows, columns, _ = self.output_shape(images.shape[1:])
        if images.dtype == np.uint8:
            images = images.astype(np.float32)
        return affine_resample(images, matrices, (rows, columns), self.fill if fill is None else fill)


def _pair(name: str, value) -> tuple[float, float]:
    """Return `value` as a pair of finite floats, or raise ValueError."""
    try:
        first, second = (float(number) for number in (value if np.ndim(value) else (value, value)))
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}; it must be a number or a pair of numbers") from None
    if not (math.isfinite(first) and math.isfinite(second)):
        raise ValueError(f"{name} is {value!r}; it must be finite")
    return first, second
