"""Every layer of this family passes the public battery, as a leaf, as a container or in a chain."""
import pytest

from convnet.layers import (
    ComplexConv,
    Concatenate,
    Deconv,
    Dense,
    Flatten,
    MeanPool,
    Modulus,
    PixelDeviation,
    RescaledDense,
    ScaleInvariantClassifier,
    Sequential,
    SphereProjection,
    SubtractImageMean,
    Tanh,
    TargetScores,
)
from convnet.testing import check_layer

LAYERS = {
    "complex convolution": (lambda: ComplexConv(3, (2, 3)), (4, 5, 2)),
    "modulus": (lambda: Modulus(), (3, 4, 2)),
    "complex stages": (lambda: Sequential([ComplexConv(3, 2), Modulus(), MeanPool(2, 2), ComplexConv(2, 1), Modulus()]),
                       (5, 5, 2)),
    "complex chain": (lambda: Sequential([ComplexConv(3, 2), ComplexConv(2, 2), Modulus()]), (5, 5, 2)),
    "transposed convolution": (lambda: Deconv(3, (3, 2), (2, 1), (1, 0)), (4, 5, 2)),
    "sphere": (lambda: SphereProjection(), (5,)),
    "rescaled": (lambda: RescaledDense(4), (5,)),
    "scores": (lambda: TargetScores(3), (4,)),
    "stage": (lambda: ScaleInvariantClassifier(4, 6), (5,)),
    "standard stage": (lambda: ScaleInvariantClassifier(4, targets="standard"), (5,)),
    "mean": (lambda: SubtractImageMean(), (3, 4, 2)),
    "deviation": (lambda: PixelDeviation(), (3, 4, 2)),
    "branches": (lambda: Concatenate([Sequential([Flatten(), Dense(3), Tanh()]), PixelDeviation()]), (3, 4, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_battery(name):
    check_layer(*LAYERS[name])
