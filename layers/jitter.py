"""Jitter: random shift, scale, rotation and reflection of images inside the network, as the toolbox had it.

Each image is resampled by an affine map of its coordinates, bilinearly: ``y = A_n x + fill · (1 - A_n 1)``. The map is
drawn by the first pass and is the same on all passes of the batch. It is affine in the image, so the third pass is the
map with fill 0 (Theorem 1) and the backward pass is its adjoint. At inference the centre is taken.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from convnet.data.affine import affine_matrices, affine_resample_adjoint
from convnet.data.augment import DRAWS, Augmentation
from convnet.layers.base import Array, Builder, Layer, Record, Shape, image_shape


@dataclass(eq=False)
class Jitter(Layer):
    """Random variants of images, ``(N, H, W, C) -> (N, rows, columns, C)``.

    Parameters
    ----------
    crop, shift, whole_pixels, scale, rotation, reflect, fill
        As for `convnet.data.augment.Augmentation`.
    """

    crop: Any = None
    shift: Any = 0.0
    whole_pixels: bool = False
    scale: Any = (1.0, 1.0)
    rotation: float = 0.0
    reflect: bool = False
    fill: Any = 0.0

    linear = True

    def __post_init__(self) -> None:
        self._augmentation = Augmentation(**self.options())

    def build(self, input_shape: Shape, builder: Builder) -> Shape:
        """Return the shape of the crop."""
        return self._augmentation.output_shape(image_shape(input_shape))

    def forward(self, x: Array, record: Record) -> Array:
        """Draw the maps and return the moved images."""
        record.matrices = affine_matrices()
        if record.training:
            bits = record.random_bits(len(x) * DRAWS).reshape(len(x), DRAWS)
            record.matrices = self._augmentation.matrices(bits / np.float64(2**32))
        return self._augmentation.resample(x, record.matrices)

    def backward(self, b: Array, record: Record) -> Array:
        """Return ``A_n^T b``."""
        return affine_resample_adjoint(b, record.matrices, self.input_shape[:2])  # type: ignore[index]

    def third_pass(self, t: Array, record: Record) -> Array:
        """Return ``A_n t``: the same map, with fill 0."""
        return self._augmentation.resample(t, record.matrices, fill=0.0)
