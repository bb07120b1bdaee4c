"""The networks of paper 004 by name: complex convolutions, moduli and averages, beside the pixels' deviation.

=====================  =================================  =======================
name                   stages: output images, kernel      paper
=====================  =================================  =======================
complex-larger         16 of 3×3, 128 of 2×2, 1024 of     Table 1 (32×32 images)
                       2×2
complex-smaller        16 of 3×3, 64 of 2×2, 256 of 2×2   Table 2 (32×32 images)
complex-128-larger     16 of 5×5, 64, 256 and 1024 of     Table 3 (128×128 images)
                       3×3
complex-128-smaller    16 of 5×5, 64, 256 and 256 of 3×3  Table 4 (128×128 images)
=====================  =================================  =======================

Each stage convolves, takes the modulus and averages over patches of 2×2. Each image's mean is subtracted first, and the
standard deviation of its pixels is one more feature for the classification stage (section 5). MNIST's images of 28×28
are to be padded to 32×32, see `convnet.stage_comparison.padded`.

>>> build("complex-smaller", (32, 32, 1), classes=10, dimension=20).root.output_shape
(10,)
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from convnet.layers import (
    ComplexConv,
    Concatenate,
    Dense,
    Flatten,
    Layer,
    MeanPool,
    Modulus,
    PixelDeviation,
    ScaleInvariantClassifier,
    Sequential,
    SubtractImageMean,
)
from convnet.losses import Loss, ScaleInvariantCost, SoftmaxCrossEntropy
from convnet.names import lookup
from convnet.network import Network

__all__ = ["NAMES", "STAGES", "build", "loss_of"]

STAGES = ("scale-invariant", "logistic")


def build(
    name: str, input_shape: Sequence[int], classes: int, *, stage: str = "scale-invariant", dimension: int | None = None,
    targets: str = "regular", **options: Any,
) -> Network:
    """Return a fresh network of paper 004.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    input_shape : (H, W, C)
    classes : int
    stage : {"scale-invariant", "logistic"}
        Classification stage: the paper's, or ``y = A x`` for multinomial logistic regression (Eq. 8), without a bias
        as well.
    dimension, targets
        Options of `convnet.layers.ScaleInvariantClassifier`; only for that stage.
    options
        Those of `convnet.Network`: seed, dtype, device, initialization.

    Raises
    ------
    ValueError
        If a name is unknown, the images are too small, or `dimension` is given for the other stage.
    """
    features = lookup("network", name, NAMES)(tuple(input_shape))
    if stage not in STAGES:
        raise ValueError(f"stage is {stage!r}; it must be one of {', '.join(STAGES)}")
    if stage == "logistic":
        if dimension not in (None, classes):
            raise ValueError(f"dimension is {dimension}; multinomial logistic regression has {classes}, one per class")
        return Network([*features, Dense(classes, bias=False)], input_shape, **options)
    return Network([*features, ScaleInvariantClassifier(classes, dimension, targets)], input_shape, **options)


def loss_of(stage: str) -> Loss:
    """Return the cost that belongs to a classification stage (paper 004, Eq. 5 and 8)."""
    return lookup("stage", stage, {"scale-invariant": ScaleInvariantCost, "logistic": SoftmaxCrossEntropy})()


def _features(*stages: tuple[int, int]) -> Callable[[tuple[int, ...]], list[Layer]]:
    """Return a function that makes the layers before the classification stage, given (output images, kernel size)."""

    def layers(input_shape: tuple[int, ...]) -> list[Layer]:
        chain: list[Layer] = [SubtractImageMean()]
        for filters, size in stages:
            chain += [ComplexConv(filters, size), Modulus(), MeanPool(2, 2)]
        return [Concatenate([Sequential([*chain, Flatten()]), PixelDeviation()])]

    return layers


NAMES: dict[str, Callable[[tuple[int, ...]], list[Layer]]] = {
    "complex-larger": _features((16, 3), (128, 2), (1024, 2)),
    "complex-smaller": _features((16, 3), (64, 2), (256, 2)),
    "complex-128-larger": _features((16, 5), (64, 3), (256, 3), (1024, 3)),
    "complex-128-smaller": _features((16, 5), (64, 3), (256, 3), (256, 3)),
}
