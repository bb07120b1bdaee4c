"""Every algorithm in both forms against double backward through PyTorch: relative error at most 1e-9 of the gradient's norm."""
import numpy as np
import pytest

pytest.importorskip("torch")

from networks import LAYERS, batch, network
from reference_torch import Reference

from convnet.losses import BinaryCrossEntropy, MeanSquaredError, SoftmaxCrossEntropy, SquaredError
from convnet.passes import (
    AdversarialTraining,
    Backprop,
    DoubleBackprop,
    HessianFrobenius,
    JacobianRegularizer,
    LossIBP,
    PredictionIBP,
    TangentProp,
)
from convnet.testing.cases import algorithms

ALGORITHMS = algorithms()
LOSSES = {
    "softmax cross-entropy": SoftmaxCrossEntropy(),
    "softmax cross-entropy, class weights": SoftmaxCrossEntropy([0.5, 2.0, 1.0, 3.0]),
    "squared error": SquaredError(),
    "squared error, class weights": SquaredError([1.0, 0.2, 2.0, 1.5]),
    "mean squared error": MeanSquaredError(),
    "binary cross-entropy": BinaryCrossEntropy(),
    "binary cross-entropy, class weights": BinaryCrossEntropy([1.0, 0.2, 2.0, 1.5]),
}
HEADS = {"softmax last": SquaredError(), "sigmoid last": MeanSquaredError()}
CORE = ("relu, overlapping max pooling", "all of it")


def compare(algorithm, net, loss, images, training=True):
    """Assert that the engine and the reference agree on everything a step holds."""
    objective, value, penalty, gradients, dx = Reference(net, loss, images, training).step(algorithm)
    step = algorithm.gradients(net, loss, images, training=training)
    for found, expected in ((step.objective, objective), (step.loss, value), (step.penalty, penalty)):
        assert abs(found - expected) <= 1e-11 * max(abs(expected), 1e-3 * abs(value))
    size = np.sqrt(sum((g**2).sum() for g in gradients.values()))
    assert step.gradients.keys() == gradients.keys()
    for name, expected in gradients.items():
        assert np.linalg.norm(step.gradients[name] - expected) <= 1e-9 * size, name
    if step.input_gradient is not None:
        assert np.linalg.norm(step.input_gradient - dx) <= 1e-9 * np.linalg.norm(dx)


def defined(algorithm, name):
    """Whether the Hessian's factors are known, and samples are not coupled: ``H`` is one sample's."""
    return not isinstance(algorithm, HessianFrobenius) or not ("last" in name or "batch" in name or "all" in name)


def cases(names):
    return [pytest.param(name, key, id=f"{key} | {name}") for name in names for key, algorithm in ALGORITHMS.items()
            if defined(algorithm, name)]


@pytest.mark.parametrize(("name", "key"), cases(CORE))
def test_algorithm(name, key):
    compare(ALGORITHMS[key], network(name), SoftmaxCrossEntropy(), batch())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "key"), cases(name for name in LAYERS if name not in CORE))
def test_algorithm_on_other_networks(name, key):
    compare(ALGORITHMS[key], network(name), HEADS.get(name, SoftmaxCrossEntropy()), batch(1))


SOME = {
    "backprop": Backprop(), "loss IBP, published": LossIBP(0.5, 1), "loss IBP, exact": LossIBP(0.5, 2, exact=True),
    "prediction IBP at the output, exact": PredictionIBP(0.5, 1, "output", exact=True),
    "prediction IBP at the output, published": PredictionIBP(0.5, 2, "output"),
    "fast tangent propagation, exact": TangentProp(0.5, 1, fast=True, exact=True),
    "tangent propagation at the output, exact": TangentProp(0.5, 2, "output", exact=True),
    "adversarial training": AdversarialTraining(0.1), "double backpropagation": DoubleBackprop(0.5),
    "Jacobian regulariser": JacobianRegularizer(0.5), "Hessian-scaled Frobenius regulariser": HessianFrobenius(0.5, "db2"),
}


@pytest.mark.parametrize("key", SOME)
@pytest.mark.parametrize("loss", LOSSES)
def test_loss(loss, key):
    compare(SOME[key], network("sigmoid, tanh, overlapping mean pooling", 2), LOSSES[loss], batch(2))


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key in SOME if "Hessian" not in key])
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if "binary" not in loss])
@pytest.mark.parametrize("name", HEADS)
def test_loss_behind_a_softmax_or_sigmoid_layer(name, loss, key):
    compare(SOME[key], network(name, 3), LOSSES[loss], batch(3))


@pytest.mark.parametrize("key", SOME)
def test_class_ids(key):
    compare(SOME[key], network("leaky relu, strides and paddings", 4), SoftmaxCrossEntropy(), batch(4, soft=False))


@pytest.mark.parametrize("key", [key for key in SOME if "Hessian" not in key])
def test_inference_mode(key):
    compare(SOME[key], network("all of it", 5), SoftmaxCrossEntropy(), batch(5), training=False)


@pytest.mark.parametrize("variant", [None, "db1", "db2"])
def test_hessian_trace_with_running_statistics(variant):
    compare(HessianFrobenius(0.5, variant), network("batch normalisation", 6), SoftmaxCrossEntropy(), batch(6), training=False)
