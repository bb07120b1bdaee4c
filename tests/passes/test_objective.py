"""Losses, and the loss behind a last softmax or sigmoid, against numerical derivatives and extreme logits."""
import numpy as np
import pytest

from convnet.layers import Builder, Sigmoid, Softmax
from convnet.losses import (
    BinaryCrossEntropy,
    MeanSquaredError,
    MultiClassHinge,
    ScaleInvariantCost,
    SoftmaxCrossEntropy,
    SquaredError,
)
from convnet.passes.objective import Objective
from convnet.testing.numeric import derivative, signed

LOSSES = {
    "softmax cross-entropy": SoftmaxCrossEntropy(), "squared error": SquaredError(),
    "mean squared error": MeanSquaredError(), "binary cross-entropy": BinaryCrossEntropy(),
    "softmax cross-entropy, class weights": SoftmaxCrossEntropy([0.5, 2.0, 1.0]),
    "mean squared error, class weights": MeanSquaredError([0.5, 2.0, 1.0]),
    "binary cross-entropy, class weights": BinaryCrossEntropy([0.5, 0.0, 1.0]),
    "scale-invariant cost": ScaleInvariantCost(), "hinge of the largest violation": MultiClassHinge(),
    "hinge of all violations": MultiClassHinge(0.7, "sum"),
}
CURVED = [name for name in LOSSES if not name.startswith(("scale", "hinge"))]


def example(seed=0, n=4):
    """Return logits, soft labels and a direction."""
    rng = np.random.default_rng(seed)
    return 1.5 * rng.standard_normal((n, 3)), rng.dirichlet(np.ones(3), n), signed(rng, (n, 3))


def close(found, expected, tolerance=1e-9):
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected) + 1e-12


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_gradient_is_the_derivative_of_the_value_of_each_sample(loss):
    z, labels, t = example()
    close((loss.gradient(z, labels) * t).sum(axis=1), derivative(lambda h: loss.value(z + h * t, labels)))


@pytest.mark.parametrize("name", [name for name in CURVED])
def test_gradient_is_the_complex_step_of_the_value(name):
    z, labels, t = example(1)
    value = LOSSES[name].value(z + 1e-20j * t, labels)
    close((LOSSES[name].gradient(z, labels) * t).sum(axis=1), value.imag / 1e-20, 1e-14)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_hessian_product_is_the_derivative_of_the_gradient(loss):
    z, labels, t = example(2)
    close(loss.hessian_product(z, labels, t), derivative(lambda h: loss.gradient(z + h * t, labels)))


@pytest.mark.parametrize("name", CURVED)
def test_factors_make_up_the_hessian(name):
    loss, (z, labels, t) = LOSSES[name], example(3)
    q = [loss.hessian_factor(z, labels, c)[0] for c in range(3)]
    close(sum(v * (v * t).sum(axis=1, keepdims=True) for v in q), loss.hessian_product(z, labels, t), 1e-13)


@pytest.mark.parametrize("name", CURVED)
@pytest.mark.parametrize("index", range(3))
def test_derivatives_of_the_factors(name, index):
    loss, (z, labels, t) = LOSSES[name], example(4)
    v = signed(np.random.default_rng(5), z.shape)
    _, product = loss.hessian_factor(z, labels, index)
    change = derivative(lambda h: loss.hessian_factor(z + h * v, labels, index)[0])
    found = 0 if product is None else (product(t) * v).sum(axis=1)
    close(found, (change * t).sum(axis=1))


@pytest.mark.parametrize("head", [Softmax, Sigmoid])
@pytest.mark.parametrize("name", CURVED)
def test_loss_behind_a_last_layer(name, head):
    layer = head()
    layer.attach((3,), Builder(np.random.default_rng(0), np.dtype("float64")))
    z, labels, t = example(6)

    def at(h):
        return Objective(layer, LOSSES[name], z + h * t, labels)

    close((at(0).gradient * t).sum(axis=1), derivative(lambda h: at(h).value))
    close(at(0).hessian_product(t), derivative(lambda h: at(h).gradient))


def test_objective_of_one_sample_does_not_depend_on_the_others():
    z, labels, _ = example(7)
    for loss in LOSSES.values():
        whole = loss.value(z, labels)
        for n in range(len(z)):
            assert loss.value(z[n:n + 1], labels[n:n + 1]) == pytest.approx(whole[n:n + 1], rel=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), BinaryCrossEntropy()], ids=["softmax", "binary"])
def test_extreme_logits_give_finite_losses_and_gradients(loss, dtype):
    z = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 1e4]], dtype)
    labels = np.array([[0, 1, 0], [0, 1, 0]], dtype)
    assert np.isfinite(loss.value(z, labels)).all() and loss.value(z, labels).dtype == dtype
    gradient = loss.gradient(z, labels)
    assert np.isfinite(gradient).all() and abs(gradient).max() <= 1
    assert loss.value(z, labels)[0] >= 1e4  # the confident mistake costs what its logits say
    assert np.isfinite(loss.hessian_product(z, labels, np.ones_like(z))).all()


def test_values_of_the_definitions():
    z, labels = np.array([[1.0, 2.0, 4.0]]), np.array([[0.0, 1.0, 0.0]])
    p = np.exp(z) / np.exp(z).sum()
    s = 1 / (1 + np.exp(-z))
    assert SoftmaxCrossEntropy().value(z, labels) == pytest.approx(-np.log(p[:, 1]), rel=1e-14)
    assert SquaredError().value(z, labels) == pytest.approx([(1 + 1 + 16) / 2])
    assert MeanSquaredError().value(z, labels) == pytest.approx([(1 + 1 + 16) / 3])
    expected = -(np.log(1 - s[:, 0]) + np.log(s[:, 1]) + np.log(1 - s[:, 2]))
    assert BinaryCrossEntropy().value(z, labels) == pytest.approx(expected, rel=1e-13)
    assert SquaredError([3.0, 5.0, 7.0]).value(z, labels) == pytest.approx([5 * 9.0])
