"""Drawn networks, algorithms and options: every gradient against differences of the objective it belongs to.

Smooth networks have no kinks, but for the penalties' absolute values. For these, and for relu and max pooling, the step of
the differences shrinks until it is shorter than the way to the nearest kink.
"""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convnet import Batch, Network
from convnet.layers import (
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    LeakyReLU,
    MaxPool,
    MeanPool,
    ReLU,
    Residual,
    Sigmoid,
    Softmax,
    Tanh,
)
from convnet.losses import BinaryCrossEntropy, MeanSquaredError, SoftmaxCrossEntropy, SquaredError
from convnet.passes import (
    AdversarialTraining,
    Backprop,
    DoubleBackprop,
    HessianFrobenius,
    JacobianRegularizer,
    LossIBP,
    NoiseInjection,
    PredictionIBP,
    TangentProp,
)
from convnet.testing.numeric import NotDifferentiableError, derivative, signed
from convnet.testing.objectives import objective_of

DRAWN = settings(deadline=None, derandomize=True, database=None)


@st.composite
def convolution(draw, image):
    """Draw a convolution of any stride and padding, and the image behind it."""
    padding = draw(st.tuples(*[st.integers(0, 2)] * 2))
    size = tuple(draw(st.integers(1, min(3, i + 2 * p))) for i, p in zip(image, padding, strict=True))
    stride = tuple(draw(st.integers(1, max(1, min(3, i + 2 * p - s)))) for i, p, s in zip(image, padding, size, strict=True))
    layer = Conv(draw(st.integers(1, 3)), size, stride=stride, padding=padding, bias=draw(st.booleans()))
    return layer, tuple((i + 2 * p - s) // d + 1 for i, p, s, d in zip(image, padding, size, stride, strict=True))


@st.composite
def network(draw, smooth):
    """Draw a network: a few convolutions with activations and pooling, residual blocks, one or two dense layers."""
    activation = st.sampled_from([Sigmoid, Tanh] if smooth else [ReLU, lambda: LeakyReLU(0.2)])
    image = draw(st.tuples(st.integers(4, 7), st.integers(4, 7)))
    shape = (*image, draw(st.integers(1, 2)))
    layers = []
    for _ in range(draw(st.integers(1, 2))):
        layer, image = draw(convolution(image))
        layers.append(layer)
        if draw(st.booleans()):
            layers.append(BatchNorm())
        layers.append(draw(activation)())
        if draw(st.booleans()) and min(image) >= 3:
            size, stride = draw(st.integers(2, 3)), draw(st.integers(1, 2))
            layers.append((MeanPool if smooth or draw(st.booleans()) else MaxPool)(size, stride))
            image = tuple((i - size) // stride + 1 for i in image)
        if draw(st.booleans()):
            filters = next(part.filters for part in reversed(layers) if isinstance(part, Conv))
            shortcut = [Conv(filters, 1, bias=False)] if draw(st.booleans()) else None
            layers.append(Residual([Conv(filters, 3, padding=1), draw(activation)()], shortcut))
    layers.append(Flatten())
    if draw(st.booleans()):
        layers += [Dropout(0.3), Dense(draw(st.integers(2, 5))), draw(activation)()]
    if smooth and draw(st.booleans()):
        layers += [Dense(3), Softmax()]
    layers.append(Dense(3))
    net = Network(layers, shape, seed=draw(st.integers(0, 99)), dtype="float64")
    net.vector += 0.1 * signed(np.random.default_rng(net.seed), net.vector.shape)
    return net


@st.composite
def algorithm(draw):
    """Draw an algorithm with its options, or a sum of penalties."""
    beta, r, exact = draw(st.sampled_from([0.03, 0.5])), draw(st.integers(1, 2)), draw(st.booleans())
    at = draw(st.sampled_from(["logits", "output"]))
    penalties = [
        LossIBP(beta, r, exact), PredictionIBP(beta, r, at, exact), TangentProp(beta, r, at, exact=exact),
        TangentProp(beta, r, fast=True, exact=exact), DoubleBackprop(beta), JacobianRegularizer(beta, at),
        JacobianRegularizer(beta, at, projections=2), HessianFrobenius(beta, draw(st.sampled_from([None, "db1", "db2"]))),
    ]
    others = [Backprop(), AdversarialTraining(0.1, r, draw(st.booleans())), NoiseInjection(0.1)]
    chosen = draw(st.sampled_from(penalties + others))
    return chosen + draw(st.sampled_from(penalties)) if chosen in penalties and draw(st.booleans()) else chosen


@st.composite
def loss(draw):
    """Draw a loss, half of the time with class weights."""
    kind = draw(st.sampled_from([SoftmaxCrossEntropy, SquaredError, MeanSquaredError, BinaryCrossEntropy]))
    return kind(draw(st.sampled_from([None, [0.5, 2.0, 1.0]])))


def images(net, seed, count=3):
    """Return a batch with soft labels and two tangents."""
    rng = np.random.default_rng([seed, 1])
    return Batch(rng.standard_normal((count, *net.input_shape)), rng.dirichlet(np.ones(3), count),
                 rng.standard_normal((count, 2, *net.input_shape)))


def check(net, algorithm, loss, batch, training):
    """Compare gradients along two random directions with differences of the objective.

    Where a kink is so near that there are no differences (and only there), the parameters are moved, at most twice.
    """
    for attempt in range(3):
        net.vector += 0.01 * attempt * signed(np.random.default_rng(attempt), net.vector.shape)
        try:
            slopes = [slope(net.copy(), algorithm, loss, batch, training, seed) for seed in range(2)]
            break
        except NotDifferentiableError:
            continue
    else:
        pytest.fail("three points in a row next to a kink")
    step = algorithm.gradients(net.copy(), loss, batch, training=training)
    for seed, expected in enumerate(slopes):
        found = step.flat_gradient @ direction(net, seed)
        assert abs(found - expected) <= 1e-6 * np.linalg.norm(step.flat_gradient)


def direction(net, seed):
    """Return a direction in the space of the parameters."""
    return signed(np.random.default_rng([seed, 2]), net.vector.shape)


def slope(net, algorithm, loss, batch, training, seed):
    """Return the derivative of the objective that the gradient belongs to, by differences along a direction."""
    value = objective_of(algorithm, net, loss, batch, training)
    start = net.vector.copy()

    def at(h):
        net.vector[...] = start + h * direction(net, seed)
        return value()

    return derivative(at)


@settings(DRAWN, max_examples=12)
@given(network(smooth=True), algorithm(), loss(), st.integers(0, 99), st.booleans())
def test_smooth_networks(net, algorithm, loss, seed, training):
    check(net, algorithm, loss, images(net, seed), training)


@settings(DRAWN, max_examples=12)
@given(network(smooth=False), algorithm(), loss(), st.integers(0, 99), st.booleans())
def test_piecewise_linear_networks(net, algorithm, loss, seed, training):
    check(net, algorithm, loss, images(net, seed), training)


@pytest.mark.slow
@settings(DRAWN, max_examples=150)
@given(st.booleans().flatmap(lambda smooth: network(smooth=smooth)), algorithm(), loss(), st.integers(0, 99), st.booleans())
def test_many_networks(net, algorithm, loss, seed, training):
    check(net, algorithm, loss, images(net, seed), training)


@pytest.mark.slow
@settings(DRAWN, max_examples=60)
@given(st.booleans().flatmap(lambda smooth: network(smooth=smooth)), loss(), st.integers(0, 99), st.integers(1, 2),
       st.floats(0.01, 0.5))
def test_exact_gradients_of_every_network_are_the_change_of_backprop_along_the_input(net, loss, seed, r, beta):
    batch = images(net, seed)

    def gradient(x):
        return Backprop().gradients(net.copy(), loss, Batch(x, batch.labels)).flat_gradient

    step = LossIBP(beta, r, exact=True).gradients(net.copy(), loss, batch)
    v = np.sign(step.input_gradient) if r == 1 else step.input_gradient
    change = derivative(lambda h: gradient(batch.images + h * v))
    expected = gradient(batch.images) + beta * change
    assert np.linalg.norm(step.flat_gradient - expected) <= 1e-6 * np.linalg.norm(expected)
