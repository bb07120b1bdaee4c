"""Score, Jacobian and margin of paper 003, Eq. 52-54, where they are known."""
import numpy as np
import pytest

import convnet
from convnet.analysis import jacobian_norms, jacobians, margin_bounds, margins, scores
from convnet.layers import Conv, Dense, Flatten, MaxPool, ReLU, Softmax, Tanh


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def linear(inputs=5, classes=4, seed=0):
    return convnet.Network([Dense(classes)], (inputs,), seed=seed, dtype="float64")


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("head", [[], [Softmax()]], ids=["logits", "softmax"])
def test_scores_are_their_definition_with_or_without_a_softmax_layer(rng, head):
    net = convnet.Network([Dense(4), Tanh(), Dense(3), *head], (5,), dtype="float64")
    x, labels = rng.standard_normal((20, 5)), rng.integers(0, 3, 20)
    out = net.forward(x)
    p = out if head else softmax(out)
    expected = [min(np.sqrt(2) * (row[y] - row[j]) for j in range(3) if j != y) for row, y in zip(p, labels, strict=True)]
    found = scores(net, x, labels)
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    np.testing.assert_array_equal(found > 0, net.predict(x) == labels)


def test_jacobians_are_the_slopes_of_the_probabilities(rng):
    net = convnet.Network([Conv(3, 2), Tanh(), Flatten(), Dense(3)], (3, 4, 1), dtype="float64")
    x, direction = rng.standard_normal((4, 3, 4, 1)), rng.standard_normal((3, 4, 1))
    found = jacobians(net, x)
    assert found.shape == (4, 3, 12)
    h = 1e-3

    def p(k):
        return softmax(net.forward(x + k * h * direction))

    slope = (45 * (p(1) - p(-1)) - 9 * (p(2) - p(-2)) + p(3) - p(-3)) / (60 * h)
    np.testing.assert_allclose(found @ direction.ravel(), slope, rtol=0, atol=1e-11)
    largest = [np.linalg.svd(j, compute_uv=False)[0] for j in found]
    np.testing.assert_allclose(jacobian_norms(net, x), largest, rtol=1e-13)


def test_margins_of_a_linear_network_are_distances_to_planes(rng):
    net = linear()
    x = rng.standard_normal((60, 5))
    labels = net.predict(x)
    labels[:10] = (labels[:10] + 1) % 4
    weight, z = net.parameters["0.weight"], net.forward(x)
    distances = [
        min((z[i, y] - z[i, j]) / np.linalg.norm(weight[:, y] - weight[:, j]) for j in range(4) if j != y)
        for i, y in enumerate(labels)
    ]
    np.testing.assert_allclose(margins(net, x, labels), np.maximum(distances, 0), rtol=1e-9)
    near = margins(net, x, labels, limit=0.2)
    np.testing.assert_array_equal(np.isinf(near), np.array(distances) > 0.2)


def test_margins_of_a_curved_network_are_distances_of_wrong_points(rng):
    """On a line there are two directions: at the distance one of both points is wrong, and on that side none before."""
    net = convnet.Network([Dense(8), Tanh(), Dense(3)], (1,), seed=3, dtype="float64")
    x = np.linspace(-2, 2, 41)[:, None]
    labels = net.predict(x)
    found = margins(net, x, labels, limit=10)
    finite = np.isfinite(found)
    assert finite.sum() > 20
    sides = [net.predict(x + s * (found * (1 + 1e-9))[:, None])[finite] != labels[finite] for s in (-1.0, 1.0)]
    assert (sides[0] | sides[1]).all()
    for i in np.flatnonzero(finite):
        inside = x[i] + np.linspace(0, 1, 200)[:, None] * found[i] * np.array([[-0.999, 0.999]])
        first_wrong = [net.predict(inside[:, k:k + 1]) != labels[i] for k in (0, 1)]
        assert not (first_wrong[0].any() and first_wrong[1].any())


def test_equation_54_holds_with_half_the_printed_right_hand_side(rng):
    """Two classes and a linear network: margin d/‖Δw‖, and sup‖J‖ = √2 ‖Δw‖/4, which the boundary attains."""
    net = linear(classes=2)
    x = rng.standard_normal((50, 5)) * np.logspace(-4, 1, 50)[:, None]
    labels = net.predict(x)
    difference = np.linalg.norm(net.parameters["0.weight"] @ [1, -1])
    exact, supremum = margins(net, x, labels), np.sqrt(2) * difference / 4
    printed = scores(net, x, labels) / supremum
    assert (printed / 2 <= exact * (1 + 1e-9)).all()
    assert (printed > 1.5 * exact)[:20].all()
    np.testing.assert_allclose(printed[0] / 2, exact[0], rtol=1e-6)


def test_margin_bounds_are_between_the_image_alone_and_the_whole_ball(rng):
    net = linear(classes=2)
    x = rng.standard_normal((30, 5))
    labels = net.predict(x)
    difference, z = np.linalg.norm(net.parameters["0.weight"] @ [1, -1]), net.forward(x)
    p = softmax(z)
    alone = scores(net, x, labels) / (2 * np.sqrt(2) * p[:, 0] * p[:, 1] * difference)
    np.testing.assert_allclose(margin_bounds(net, x, labels, np.zeros(30), samples=0), alone, rtol=1e-12)
    ball = scores(net, x, labels) / (2 * np.sqrt(2) * difference / 4)
    found = margin_bounds(net, x, labels, margins(net, x, labels), samples=30)
    assert (found <= alone * (1 + 1e-12)).all() and (found >= ball * (1 - 1e-12)).all()
    assert (found < alone * 0.999).sum() > 10


def test_where_the_jacobian_is_zero_the_bound_is_infinite_with_the_score_s_sign():
    net = convnet.Network([Conv(1, 1), ReLU(), MaxPool(2, 2), Flatten(), Dense(2)], (2, 2, 1), dtype="float64")
    net.parameters["0.weight"][...], net.parameters["0.bias"][...] = 1, -1
    net.parameters["4.bias"][...] = (1, 0)
    dark = np.zeros((2, 2, 2, 1))
    np.testing.assert_array_equal(margin_bounds(net, dark, np.array([0, 1]), np.zeros(2)), [np.inf, -np.inf])


def test_what_is_said_about_bad_arguments(rng):
    net, x = linear(), rng.standard_normal((3, 5))
    with pytest.raises(ValueError, match="one class id for each of 3 images"):
        scores(net, x, np.zeros(2, int))
    with pytest.raises(ValueError, match="holds class 7"):
        scores(net, x, np.full(3, 7))
    with pytest.raises(ValueError, match="limit is 0"):
        margins(net, x, np.zeros(3, int), limit=0)
    with pytest.raises(ValueError, match="radii must hold one finite number"):
        margin_bounds(net, x, np.zeros(3, int), np.full(3, np.inf))
    with pytest.raises(ValueError, match="at least two classes"):
        scores(linear(classes=1), x, np.zeros(3, int))
