"""The multi-class hinge loss and the cost of the scale-invariant stage, as functions of the outputs."""
import numpy as np
import pytest

from convnet import losses
from convnet.losses import MultiClassHinge, ScaleInvariantCost


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def spaced_scores(rng, n=30, classes=4):
    """Return scores whose differences lie at least 0.02 away from each other, from 0 and from ±1."""
    powers = 0.03 + np.array([0.0, 0.11, 0.34, 0.82])[:classes]
    return np.stack([rng.permutation(powers) for _ in range(n)]) * rng.choice([1.0, 4.0], (n, 1))


def by_loops(z, label, margin, form):
    violations = [max(0.0, margin + z[j] - z[label]) for j in range(len(z)) if j != label]
    return max(violations) if form == "max" else sum(violations)


@pytest.mark.parametrize("form", ["max", "sum"])
@pytest.mark.parametrize("margin", [0.5, 1.0])
def test_hinge_is_its_definition_and_its_gradient_the_slope(rng, form, margin):
    z, labels = spaced_scores(rng), rng.integers(0, 4, 30)
    loss, one_hot = MultiClassHinge(margin, form), np.eye(4)[labels]
    expected = [by_loops(row, label, margin, form) for row, label in zip(z, labels, strict=True)]
    np.testing.assert_allclose(loss.value(z, one_hot), expected, rtol=1e-14)
    assert 0 < np.count_nonzero(expected) < 30
    direction = rng.standard_normal(z.shape)
    h = 1e-4
    slope = (loss.value(z + h * direction, one_hot) - loss.value(z - h * direction, one_hot)) / (2 * h)
    np.testing.assert_allclose((loss.gradient(z, one_hot) * direction).sum(axis=1), slope, rtol=0, atol=1e-10)
    assert not loss.hessian_product(z, one_hot, direction).any()


def test_hinge_agrees_with_torch_and_scikit_learn(rng):
    torch, metrics = pytest.importorskip("torch"), pytest.importorskip("sklearn.metrics")
    z, labels = rng.standard_normal((30, 4)), rng.integers(0, 4, 30)
    one_hot = np.eye(4)[labels]
    torch_sum = 4 * torch.nn.functional.multi_margin_loss(torch.tensor(z), torch.tensor(labels), reduction="none")
    np.testing.assert_allclose(MultiClassHinge(form="sum").value(z, one_hot), torch_sum.numpy(), rtol=1e-13)
    mean = metrics.hinge_loss(labels, z, labels=np.arange(4))
    assert MultiClassHinge().value(z, one_hot).mean() == pytest.approx(mean, rel=1e-13)


@pytest.mark.parametrize("form", ["max", "sum"])
def test_soft_labels_and_class_weights_are_weighted_means(rng, form):
    z, soft = spaced_scores(rng), rng.dirichlet(np.ones(4), 30)
    loss, weights = MultiClassHinge(1.0, form), np.array([0.5, 1, 2, 3])
    parts = np.stack([loss.value(z, np.eye(4)[[k] * 30]) for k in range(4)], axis=1)
    np.testing.assert_allclose(loss.value(z, soft), (soft * parts).sum(axis=1), rtol=1e-13)
    one_hot = np.eye(4)[rng.integers(0, 4, 30)]
    weighted = MultiClassHinge(1.0, form, class_weights=weights)
    np.testing.assert_allclose(weighted.gradient(z, one_hot), (one_hot @ weights)[:, None] * loss.gradient(z, one_hot))


@pytest.mark.parametrize("form", ["max", "sum"])
def test_at_a_kink_one_subgradient_is_taken(form):
    """Of equal largest violations the first counts, and a margin that is just met has slope 0."""
    z, one_hot = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), np.array([[1.0, 0, 0], [1, 0, 0]])
    pushed = [[-1.0, 1, 0], [0, 0, 0]] if form == "max" else [[-2.0, 1, 1], [0, 0, 0]]
    np.testing.assert_array_equal(MultiClassHinge(form=form).gradient(z, one_hot), pushed)


def test_scale_invariant_cost_is_the_squared_distance_to_the_target(rng):
    targets = np.linalg.qr(rng.standard_normal((5, 5)))[0][:4]
    z = rng.standard_normal((30, 5))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    labels = rng.integers(0, 4, 30)
    loss, one_hot, scores = ScaleInvariantCost(), np.eye(4)[labels], z @ targets.T
    distances = ((z - targets[labels]) ** 2).sum(axis=1)
    np.testing.assert_allclose(loss.value(scores, one_hot), distances, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(loss.gradient(scores, one_hot), -2 * one_hot)
    assert not loss.hessian_product(scores, one_hot, scores).any()
    q, derivative = loss.hessian_factor(scores, one_hot, 2)
    assert not q.any() and derivative is None


def test_losses_by_name():
    assert losses.by_name("multi-class-hinge") is MultiClassHinge
    assert losses.by_name("scale-invariant") is ScaleInvariantCost
    shown = "MultiClassHinge(margin=0.5, form='sum', class_weights=[1.0, 2.0])"
    assert repr(MultiClassHinge(0.5, "sum", [1, 2])) == shown


def test_what_is_said_about_bad_options():
    with pytest.raises(ValueError, match="margin is 0; it must be a finite number above 0"):
        MultiClassHinge(0)
    with pytest.raises(ValueError, match="form is 'mean'"):
        MultiClassHinge(form="mean")
