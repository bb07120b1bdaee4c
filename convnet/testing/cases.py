"""Layers and algorithms with many options, by readable names: what this package's own tests put through the batteries."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from convnet.layers import (
    BatchNorm,
    ComplexConv,
    Concatenate,
    Conv,
    Deconv,
    Dense,
    Dropout,
    Flatten,
    Jitter,
    Layer,
    LeakyReLU,
    MaxPool,
    MeanPool,
    Modulus,
    PixelDeviation,
    ReLU,
    RescaledDense,
    Residual,
    ScaleInvariantClassifier,
    Sequential,
    Sigmoid,
    Softmax,
    SphereProjection,
    SubtractImageMean,
    Tanh,
    TargetScores,
)
from convnet.passes import (
    AdversarialTraining,
    Algorithm,
    Backprop,
    DoubleBackprop,
    HessianFrobenius,
    JacobianRegularizer,
    LossIBP,
    NoiseInjection,
    PredictionIBP,
    TangentProp,
)


@dataclass(frozen=True)
class LayerCase:
    """A layer to be checked.

    Attributes
    ----------
    make : callable
        Makes a fresh layer.
    input_shape : tuple of int
    complex_input : bool
    """

    make: Callable[[], Layer]
    input_shape: tuple[int, ...]
    complex_input: bool = False


LAYERS: dict[str, LayerCase] = {
    "conv": LayerCase(lambda: Conv(3, 3), (6, 5, 2)),
    "conv 1x1": LayerCase(lambda: Conv(2, 1), (3, 4, 3)),
    "conv, padded": LayerCase(lambda: Conv(3, 3, padding=2), (4, 5, 2)),
    "conv, stride that does not divide": LayerCase(lambda: Conv(3, 3, stride=2), (8, 6, 1)),
    "conv, stride above the size": LayerCase(lambda: Conv(2, 2, stride=3), (9, 8, 2)),
    "conv, pairs": LayerCase(lambda: Conv(2, (4, 2), stride=(2, 3), padding=(1, 0)), (7, 9, 2)),
    "conv, one window": LayerCase(lambda: Conv(4, (5, 4)), (5, 4, 2)),
    "conv, no bias": LayerCase(lambda: Conv(3, 2, bias=False), (4, 4, 3)),
    "transposed conv": LayerCase(lambda: Deconv(2, 3, stride=2, padding=1), (3, 4, 2)),
    "complex conv of real images": LayerCase(lambda: ComplexConv(3, 3), (6, 5, 2)),
    "complex conv of complex images": LayerCase(lambda: ComplexConv(2, (2, 3)), (5, 5, 2), True),
    "dense": LayerCase(lambda: Dense(4), (6,)),
    "dense, no bias": LayerCase(lambda: Dense(7, bias=False), (5,)),
    "dense, one output": LayerCase(lambda: Dense(1), (3,)),
    "rescaled dense": LayerCase(lambda: RescaledDense(4), (6,)),
    "flatten": LayerCase(Flatten, (3, 4, 2)),
    "flatten, flat already": LayerCase(Flatten, (5,)),
    "max pooling": LayerCase(lambda: MaxPool(2, 2), (6, 4, 3)),
    "max pooling, overlapping": LayerCase(lambda: MaxPool(3, 2), (9, 7, 2)),
    "max pooling, stride 1": LayerCase(lambda: MaxPool(3, 1), (5, 6, 2)),
    "max pooling, stride that does not divide": LayerCase(lambda: MaxPool(2, 2), (7, 5, 2)),
    "max pooling, pairs": LayerCase(lambda: MaxPool((3, 2), (1, 3)), (6, 9, 2)),
    "max pooling, one window": LayerCase(lambda: MaxPool((4, 5), 1), (4, 5, 3)),
    "mean pooling": LayerCase(lambda: MeanPool(2, 2), (6, 4, 3)),
    "mean pooling, overlapping": LayerCase(lambda: MeanPool(3, 2), (9, 7, 2)),
    "mean pooling, pairs that do not divide": LayerCase(lambda: MeanPool((3, 2), (2, 3)), (8, 9, 2)),
    "relu": LayerCase(ReLU, (5, 4, 2)),
    "leaky relu": LayerCase(LeakyReLU, (7,)),
    "leaky relu, slope 0.3": LayerCase(lambda: LeakyReLU(0.3), (3, 4, 2)),
    "sigmoid": LayerCase(Sigmoid, (7,)),
    "tanh": LayerCase(Tanh, (4, 3, 2)),
    "softmax": LayerCase(Softmax, (6,)),
    "modulus of complex numbers": LayerCase(Modulus, (4, 3, 2), True),
    "modulus of real numbers": LayerCase(Modulus, (5,)),
    "projection to the sphere": LayerCase(SphereProjection, (5,)),
    "target scores": LayerCase(lambda: TargetScores(3), (4,)),
    "dropout": LayerCase(lambda: Dropout(0.4), (4, 4, 3)),
    "dropout of nothing": LayerCase(lambda: Dropout(0.0), (6,)),
    "batch normalisation of images": LayerCase(BatchNorm, (4, 3, 2)),
    "batch normalisation of features": LayerCase(lambda: BatchNorm(momentum=0.5, epsilon=0.1), (5,)),
    "image less its mean": LayerCase(SubtractImageMean, (4, 3, 2)),
    "jitter": LayerCase(
        lambda: Jitter(crop=(5, 6), shift=1, scale=(0.7, 1.4), rotation=18, reflect=True, fill=0.5), (7, 6, 2)
    ),
    "deviation of the pixels": LayerCase(PixelDeviation, (4, 3, 2)),
    "scale-invariant stage": LayerCase(lambda: ScaleInvariantClassifier(3, 5), (6,)),
    "branches side by side": LayerCase(
        lambda: Concatenate([Sequential([Conv(2, 3), Tanh(), Flatten()]), PixelDeviation(), Flatten()]), (5, 4, 1)
    ),
    "residual, identity shortcut": LayerCase(
        lambda: Residual([Conv(2, 3, padding=1), BatchNorm(), ReLU(), Conv(2, 3, padding=1)]), (5, 4, 2)
    ),
    "residual, projection": LayerCase(
        lambda: Residual([Conv(3, 3, stride=2), Sigmoid()], shortcut=[Conv(3, 3, stride=2, bias=False)]), (7, 6, 2)
    ),
    "residual, two pooled branches": LayerCase(
        lambda: Residual([MaxPool(3, 2), Tanh()], shortcut=[MeanPool(3, 2)]), (7, 5, 2)
    ),
    "residual in a residual": LayerCase(
        lambda: Residual([Dense(4), Residual([Tanh(), Dense(4)]), Softmax(), Dense(5)]), (5,)
    ),
    "chain in a chain": LayerCase(
        lambda: Sequential([Sequential([Conv(2, 3), LeakyReLU(0.2)]), Flatten(), Sequential([Dense(3)])]), (5, 5, 1)
    ),
    "conv, relu and overlapping max pooling in a row": LayerCase(
        lambda: Sequential([Conv(3, (3, 2), stride=(1, 2), padding=1), ReLU(), MaxPool((3, 2), (2, 1))]), (8, 9, 2)
    ),
    "network, piecewise linear": LayerCase(
        lambda: Sequential([Conv(4, 4), ReLU(), MaxPool(3, 2), Conv(5, 3, padding=1), ReLU(), MaxPool(3, 2), Flatten(),
                            Dense(6), ReLU(), Dense(3)]), (14, 14, 1)
    ),
    "network, smooth": LayerCase(
        lambda: Sequential([Conv(3, 3, padding=1), BatchNorm(), Tanh(), MeanPool(3, 2), Dropout(0.3), Flatten(), Dense(5),
                            Sigmoid(), Dense(4), Softmax()]), (7, 7, 2)
    ),
}


def algorithms() -> dict[str, Algorithm]:
    """Return every algorithm in every form, by readable names."""
    found: dict[str, Algorithm] = {"backprop": Backprop()}
    for r in (1, 2):
        for exact in (False, True):
            form = f"r = {r}, {'exact' if exact else 'published'}"
            found[f"loss IBP, {form}"] = LossIBP(0.3, r, exact)
            for at in ("logits", "output"):
                found[f"prediction IBP at the {at}, {form}"] = PredictionIBP(0.3, r, at, exact)
                found[f"tangent propagation at the {at}, {form}"] = TangentProp(0.3, r, at, exact=exact)
            found[f"fast tangent propagation, {form}"] = TangentProp(0.3, r, fast=True, exact=exact)
        for fast in (False, True):
            kind = "fast adversarial" if fast else "adversarial"
            found[f"{kind} training, step along the {'sign' if r == 1 else 'gradient'}"] = AdversarialTraining(0.1, r, fast)
    found["noise injection"] = NoiseInjection(0.2)
    found["double backpropagation"] = DoubleBackprop(0.3)
    found["Jacobian regulariser"] = JacobianRegularizer(0.3)
    found["Frobenius regulariser"] = JacobianRegularizer(0.3, "logits")
    found["Jacobian regulariser, two projections"] = JacobianRegularizer(0.3, projections=2)
    for variant in (None, "db1", "db2"):
        found[f"Hessian-scaled Frobenius regulariser{', ' + variant if variant else ''}"] = HessianFrobenius(0.3, variant)
    found["sum of published and exact penalties"] = (
        LossIBP(0.2) + TangentProp(0.1, 2, fast=True) + DoubleBackprop(0.1) + PredictionIBP(0.2) + JacobianRegularizer(0.1)
    )
    return found
