"""What the CPU and a device must agree on, layer by layer and algorithm by algorithm.

`tests/gpu` runs these comparisons on a GPU, `tests/kernels_cuda` on a stand-in for one, with the same sources.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convnet import Batch, Network
from convnet.kernels import to_numpy
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
    LeakyReLU,
    MaxPool,
    MeanPool,
    Modulus,
    PixelDeviation,
    ReLU,
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
from convnet.losses import (
    BinaryCrossEntropy,
    Loss,
    MeanSquaredError,
    MultiClassHinge,
    ScaleInvariantCost,
    SoftmaxCrossEntropy,
    SquaredError,
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
    first_pass,
    fourth_pass,
    inference,
    second_pass,
    third_pass,
)
from convnet.passes.products import weight_gradients

# Relative to the largest number of each array.
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
DRAW = 2**62 + 12345


@dataclass(frozen=True)
class LayerCase:
    """A chain with one layer of interest."""

    chain: Callable[[], list]
    input_shape: tuple[int, ...]


LAYERS = {
    "conv": LayerCase(lambda: [Conv(5, 3, padding=1)], (7, 6, 3)),
    "conv strided": LayerCase(lambda: [Conv(4, (3, 2), stride=(2, 3), padding=(2, 0), bias=False)], (8, 9, 2)),
    "deconv": LayerCase(lambda: [Deconv(3, 3, stride=2, padding=1)], (4, 5, 2)),
    "complex conv": LayerCase(lambda: [ComplexConv(3, 2), ComplexConv(2, 2), Modulus()], (5, 6, 2)),
    "dense": LayerCase(lambda: [Dense(7)], (11,)),
    "relu": LayerCase(lambda: [ReLU()], (4, 3, 5)),
    "leaky relu": LayerCase(lambda: [LeakyReLU(0.1)], (13,)),
    "sigmoid": LayerCase(lambda: [Sigmoid(), Dense(3)], (5,)),
    "tanh": LayerCase(lambda: [Tanh()], (3, 4, 2)),
    "softmax": LayerCase(lambda: [Softmax(), Dense(3)], (6,)),
    "max pool": LayerCase(lambda: [MaxPool(3, 2)], (8, 7, 3)),
    "max pool apart": LayerCase(lambda: [MaxPool((1, 2), 3)], (7, 7, 2)),
    "mean pool": LayerCase(lambda: [MeanPool((2, 3), (1, 2))], (5, 8, 3)),
    "dropout": LayerCase(lambda: [Dropout(0.3)], (5, 3, 2)),
    "batch norm": LayerCase(lambda: [BatchNorm()], (3, 4, 5)),
    "residual": LayerCase(lambda: [Residual([Conv(4, 3, padding=1), Tanh()], [Conv(4, 1)])], (4, 5, 3)),
    "concatenate": LayerCase(
        lambda: [Concatenate([Dense(2), Sequential([Dense(3), Tanh()]), Sequential([])])], (6,)),
    "jitter": LayerCase(lambda: [Jitter(shift=1.5, rotation=0.2, scale=(0.8, 1.2), reflect=True)], (6, 7, 2)),
    "sphere": LayerCase(lambda: [SphereProjection(), Dense(3)], (6,)),
    "target scores": LayerCase(lambda: [TargetScores(4)], (5,)),
    "scale-invariant": LayerCase(lambda: [ScaleInvariantClassifier(4, 6)], (9,)),
    "image mean": LayerCase(lambda: [SubtractImageMean()], (4, 4, 2)),
    "pixel deviation": LayerCase(lambda: [PixelDeviation(), Dense(2)], (4, 3, 2)),
}


def piecewise_linear() -> list:
    """Return the layers of a small network like that of the papers, with everything that its kernels are for."""
    return [Conv(6, 3), ReLU(), MaxPool(3, 2), Dropout(0.25), Conv(7, 2, padding=1), ReLU(), MeanPool(2, 1), Flatten(),
            Dense(9), ReLU(), Dense(4)]


def smooth() -> list:
    """Return the layers of a small network in which everything has curvature."""
    return [Conv(5, 3, stride=2, padding=1, bias=False), BatchNorm(), Tanh(),
            Residual([Conv(5, 3, padding=1), Sigmoid()]), Flatten(), Dense(4)]


@dataclass(frozen=True)
class AlgorithmCase:
    """An algorithm on a network with a loss."""

    algorithm: Algorithm
    layers: Callable[[], list] = piecewise_linear
    loss: Loss = field(default_factory=SoftmaxCrossEntropy)


ALGORITHMS = {
    "backprop": AlgorithmCase(Backprop()),
    "backprop smooth": AlgorithmCase(Backprop(), smooth, BinaryCrossEntropy()),
    "backprop weighted": AlgorithmCase(Backprop(), smooth, SoftmaxCrossEntropy([1, 2, 0.5, 3])),
    "backprop hinge": AlgorithmCase(Backprop(), smooth, MultiClassHinge()),
    "backprop hinge sum": AlgorithmCase(Backprop(), smooth, MultiClassHinge(form="sum")),
    "backprop head": AlgorithmCase(Backprop(), lambda: [*smooth(), Softmax()], SquaredError()),
    "backprop scale-invariant": AlgorithmCase(
        Backprop(), lambda: [Conv(3, 3), ReLU(), Flatten(), ScaleInvariantClassifier(4)], ScaleInvariantCost()),
    "loss ibp": AlgorithmCase(LossIBP(0.1)),
    "loss ibp 2": AlgorithmCase(LossIBP(0.1, norm=2)),
    "loss ibp exact": AlgorithmCase(LossIBP(0.1, exact=True), smooth),
    "loss ibp exact 2 head": AlgorithmCase(LossIBP(0.1, norm=2, exact=True), lambda: [*smooth(), Sigmoid()],
                                           MeanSquaredError()),
    "prediction ibp": AlgorithmCase(PredictionIBP(0.1)),
    "prediction ibp exact": AlgorithmCase(PredictionIBP(0.1, norm=2, at="output", exact=True), smooth),
    "tangent": AlgorithmCase(TangentProp(0.1, norm=2)),
    "tangent exact": AlgorithmCase(TangentProp(0.1, at="output", exact=True), smooth),
    "tangent fast": AlgorithmCase(TangentProp(0.1, norm=2, fast=True)),
    "tangent fast exact": AlgorithmCase(TangentProp(0.1, fast=True, exact=True), smooth),
    "adversarial": AlgorithmCase(AdversarialTraining(0.05)),
    "adversarial fast": AlgorithmCase(AdversarialTraining(0.05, norm=2, fast=True), smooth),
    "noise": AlgorithmCase(NoiseInjection(0.1)),
    "double backprop": AlgorithmCase(DoubleBackprop(0.1), smooth),
    "jacobian": AlgorithmCase(JacobianRegularizer(0.1), smooth),
    "jacobian of logits": AlgorithmCase(JacobianRegularizer(0.1, at="logits")),
    "jacobian projected": AlgorithmCase(JacobianRegularizer(0.1, projections=2), smooth),
    "hessian": AlgorithmCase(HessianFrobenius(0.1), smooth),
    "hessian db1": AlgorithmCase(HessianFrobenius(0.1, variant="db1"), smooth),
    "sum": AlgorithmCase(LossIBP(0.1) + TangentProp(0.2, fast=True) + PredictionIBP(0.3)),
}

IMAGE = (9, 8, 2)


def compare(name: str, expected: Any, found: Any, dtype: str) -> None:
    """Assert that what a device found is what the CPU expects."""
    if isinstance(expected, Mapping):
        assert expected.keys() == found.keys(), name
        for key in expected:
            compare(f"{name}, {key}", expected[key], found[key], dtype)
        return
    if expected is None:
        assert found is None, name
        return
    expected, found = np.asarray(expected), to_numpy(found)
    assert found.shape == expected.shape and found.dtype == expected.dtype, name
    assert np.isfinite(expected).all(), f"{name} is not finite on the CPU"
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[dtype] * np.abs(expected).max(), err_msg=name)


def networks(layers: Callable[[], list], input_shape: tuple[int, ...], dtype: str) -> tuple[Network, Network]:
    """Return equal networks on the CPU and on the device, with biases that are not zero."""
    made = [Network(layers(), input_shape, seed=3, dtype=dtype, device=device) for device in ("cpu", "gpu")]
    vector = made[0].vector + 0.1 * np.random.default_rng(8).standard_normal(made[0].vector.shape).astype(dtype)
    for net in made:
        net.vector[...] = net.xp.asarray(vector)
        net.apply_constraints()
    return made[0], made[1]


def passes_of(net: Network, arrays: list[np.ndarray], training: bool) -> dict[str, Any]:
    """Return what the four passes and the products of a network give for an input, a tangent and a derivative."""
    x, t, b = (net.xp.asarray(a) for a in arrays)
    y = first_pass(net.root, x, training=training, draw=DRAW)
    up, down = third_pass(y, t), second_pass(y, b)
    curved = fourth_pass(y, b, [(up, down)], to_input=True)
    gradients: dict[str, Any] = {}

    def write(layer, parts, scale):
        gradients.update({f"{net.paths[layer]}.{name}": scale * value for name, value in parts.items()})

    weight_gradients([(y, down, 1.0), (up, down, 0.5)], write)
    return {"first pass": y.output, "second pass": down.output, "third pass": up.output, "fourth pass": curved.output,
            "gradients": gradients, "inference": inference(net.root, x),
            "statistics": net.updated_state(y.records) if training else {}}


def compare_layer(case: LayerCase, dtype: str, training: bool = True) -> None:
    """Compare all passes of a layer."""
    cpu, gpu = networks(lambda: [*case.chain(), Flatten()], case.input_shape, dtype)
    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal((4, *shape)).astype(dtype)
              for shape in (case.input_shape, case.input_shape, cpu.root.output_shape)]
    compare("", passes_of(cpu, arrays, training), passes_of(gpu, arrays, training), dtype)


def batch(samples: int = 5, seed: int = 1) -> Batch:
    """Return random images of the algorithms' networks, with labels and tangents."""
    rng = np.random.default_rng(seed)
    return Batch(rng.standard_normal((samples, *IMAGE)), rng.integers(4, size=samples),
                 rng.standard_normal((samples, 2, *IMAGE)))


def on_device(given: Batch, net: Network) -> Batch:
    """Return a batch whose arrays are on the network's device, in its number type, with labels as vectors."""
    labels = np.eye(net.root.output_shape[0])[given.labels]
    return Batch(*(net.xp.asarray(np.asarray(a, net.dtype)) for a in (given.images, labels, given.tangents)))


def compare_algorithm(case: AlgorithmCase, dtype: str) -> None:
    """Compare an algorithm's steps."""
    cpu, gpu = networks(case.layers, IMAGE, dtype)
    steps = [case.algorithm.gradients(net, case.loss, batch(), draw=DRAW) for net in (cpu, gpu)]
    for name in ("loss", "penalty", "objective", "gradients", "input_gradient", "outputs", "state"):
        expected, found = (getattr(step, name) for step in steps)
        if name == "penalty" and not expected:
            assert not to_numpy(found)
        else:
            compare(name, expected, found, dtype)
