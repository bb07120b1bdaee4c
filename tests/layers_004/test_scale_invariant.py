"""The scale-invariant stage: targets, Eq. 6, 7, 11 and 13, invariance, constraint, stability, every algorithm."""
import math

import numpy as np
import pytest
from references_004 import Case, attached, check_by_differences, check_by_torch, derivative, signed

import convnet
from convnet.layers import (
    ComplexConv,
    Concatenate,
    Dense,
    Flatten,
    MeanPool,
    Modulus,
    PixelDeviation,
    RescaledDense,
    ScaleInvariantClassifier,
    Sequential,
    SphereProjection,
    TargetScores,
)
from convnet.layers.scale_invariant import simplex
from convnet.losses import ScaleInvariantCost
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
    first_pass,
    second_pass,
)

SHAPES = [
    ("regular", 2, 1), ("regular", 3, 2), ("regular", 3, 3), ("regular", 4, 7), ("standard", 3, 3), ("standard", 4, 7),
]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def stage(inputs=6, classes=4, dimension=5, targets="regular", seed=0):
    """Return a network that is the stage alone, in float64."""
    layers = [ScaleInvariantClassifier(classes, dimension, targets)]
    return convnet.Network(layers, (inputs,), seed=seed, dtype="float64")


def cost_and_gradients(net, x, labels):
    """Return the cost of each sample, dc/dA (n, m) of the mean, dc/dx of each sample, and z."""
    first = first_pass(net.root, x)
    targets = np.eye(first.output.shape[1])[labels]
    loss = ScaleInvariantCost()
    b = loss.gradient(first.output, targets)
    step = Backprop().gradients(net, loss, convnet.Batch(x, labels))
    y = x @ net.parameters["0.weight"]
    z = y / np.linalg.norm(y, axis=1, keepdims=True)
    return loss.value(first.output, targets), step.gradients["0.weight"], second_pass(first, b).output, z


# --- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "classes", "dimension"), SHAPES)
def test_targets_are_unit_vertices_of_the_simplex(kind, classes, dimension):
    vertices = simplex(classes, dimension, kind)
    assert vertices.shape == (classes, dimension)
    gram = vertices @ vertices.T
    between = 0 if kind == "standard" else -1 / (classes - 1)
    np.testing.assert_allclose(gram, np.where(np.eye(classes), 1, between), rtol=0, atol=1e-14)
    assert np.linalg.matrix_rank(vertices) == (classes if kind == "standard" else classes - 1)
    if kind == "regular":
        np.testing.assert_allclose(vertices.sum(axis=0), 0, atol=1e-14)


def test_what_is_said_about_bad_options():
    with pytest.raises(ValueError, match=r"dimension is 1; 3 targets of the regular simplex need at least 2"):
        ScaleInvariantClassifier(3, 1)
    with pytest.raises(ValueError, match=r"dimension is 2; 3 targets of the standard simplex need at least 3"):
        ScaleInvariantClassifier(3, 2, targets="standard")
    with pytest.raises(ValueError, match="targets is 'cube'"):
        ScaleInvariantClassifier(3, targets="cube")
    with pytest.raises(ValueError, match="classes is 1"):
        ScaleInvariantClassifier(1)
    with pytest.raises(ValueError, match="bias is True"):
        RescaledDense(3, bias=True)
    with pytest.raises(ValueError, match="put Flatten"):
        convnet.Network([ScaleInvariantClassifier(3)], (2, 2, 1))
    with pytest.raises(ValueError, match="needs flat features"):
        convnet.Network([TargetScores(2), Flatten()], (2, 2, 1))


# --- the stage itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "classes", "dimension"), SHAPES)
def test_the_nearest_target_decides_and_the_loss_is_its_squared_distance(rng, kind, classes, dimension):
    net = stage(classes=classes, dimension=dimension, targets=kind)
    x, labels = signed(rng, (40, 6)), rng.integers(0, classes, 40)
    costs, _, _, z = cost_and_gradients(net, x, labels)
    distances = ((z[:, None] - simplex(classes, dimension, kind)) ** 2).sum(axis=2)
    np.testing.assert_array_equal(net.predict(x), distances.argmin(axis=1))
    np.testing.assert_allclose(costs, distances[np.arange(40), labels], rtol=0, atol=1e-14)
    assert (costs >= -1e-15).all() and (costs <= 4 + 1e-15).all()


def test_equation_13(rng):
    """dc/dA = 2 x (z^T t_j z - t_j)^T / ‖A x‖, in the layout (inputs, outputs)."""
    net, targets = stage(), simplex(4, 5)
    for j in range(4):
        x = signed(rng, (1, 6))
        _, gradient, _, z = cost_and_gradients(net, x, np.array([j]))
        y = x @ net.parameters["0.weight"]
        published = 2 * np.outer(x[0], (z[0] @ targets[j]) * z[0] - targets[j]) / np.linalg.norm(y)
        np.testing.assert_allclose(gradient, published, rtol=0, atol=1e-14)


def test_the_gradient_is_orthogonal_to_the_matrix(rng):
    net = stage()
    _, gradient, _, _ = cost_and_gradients(net, signed(rng, (9, 6)), rng.integers(0, 4, 9))
    products = gradient * net.parameters["0.weight"]
    assert abs(products.sum()) < 1e-14 * np.abs(products).sum()


def test_bound_6_on_the_gradient(rng):
    """‖dc/dx‖ <= 4 ‖A‖/‖A x‖; as ‖(I - z z^T) t‖ <= 1, half of it bounds as well."""
    for seed in range(5):
        net = stage(seed=seed)
        x = signed(rng, (200, 6)) * np.exp(rng.uniform(-20, 20, (200, 1)))
        _, _, dx, _ = cost_and_gradients(net, x, rng.integers(0, 4, 200))
        a = net.parameters["0.weight"].T
        bound = 4 * np.linalg.norm(a, 2) / np.linalg.norm(x @ a.T, axis=1)
        assert (np.linalg.norm(dx, axis=1) <= bound / 2 * (1 + 1e-12)).all()


def test_half_of_bound_6_is_reached(rng):
    """With orthogonal columns of equal norm, and z at a right angle to the target."""
    net = stage(inputs=3, classes=3, dimension=3, targets="standard")
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    net.parameters["0.weight"][...] = rotation
    x = np.array([[0, 2.0, -3.0]]) @ rotation.T
    _, _, dx, z = cost_and_gradients(net, x, np.array([0]))
    assert abs(z[0, 0]) < 1e-15
    assert np.linalg.norm(dx) == pytest.approx(2 / np.linalg.norm(x), rel=1e-13)


@pytest.mark.parametrize("of", ["input", "matrix"])
@pytest.mark.parametrize("factor", [1e-30, 0.3, 7.0, 1e30])
def test_a_positive_factor_changes_nothing_and_a_negative_one_mirrors(rng, of, factor):
    """z(-x) = -z(x), hence c(-x) = 4 - c(x): the paper's "any nonzero real number" holds for positive numbers."""
    net = stage()
    x, labels = signed(rng, (20, 6)), rng.integers(0, 4, 20)
    costs, _, dx, z = cost_and_gradients(net, x, labels)

    def scaled(by):
        if of == "input":
            return cost_and_gradients(net, by * x, labels)
        other = net.copy()
        other.parameters["0.weight"][...] *= by
        return cost_and_gradients(other, x, labels)

    same, _, same_dx, same_z = scaled(factor)
    np.testing.assert_allclose(same, costs, rtol=0, atol=1e-14)
    np.testing.assert_allclose(same_z, z, rtol=0, atol=1e-14)
    mirrored, _, _, mirrored_z = scaled(-factor)
    np.testing.assert_allclose(mirrored, 4 - costs, rtol=0, atol=1e-14)
    np.testing.assert_allclose(mirrored_z, -z, rtol=0, atol=1e-14)
    expected = dx / factor if of == "input" else dx
    np.testing.assert_allclose(same_dx, expected, rtol=1e-11, atol=1e-13 * np.abs(expected).max())


def test_single_precision_keeps_the_direction_of_very_large_and_very_small_inputs(rng):
    net = convnet.Network([ScaleInvariantClassifier(4, 5)], (6,))
    x = signed(rng, (3, 6)).astype("float32")
    expected = net.forward(x)
    assert expected.dtype == np.float32
    for factor in (np.float32(1e-30), np.float32(1e30)):
        np.testing.assert_allclose(net.forward(factor * x), expected, rtol=0, atol=3e-6)


def test_the_zero_input_has_no_direction(rng):
    """z, derivative and curvature are 0 by definition, and the sample neither teaches nor disturbs."""
    net = stage()
    x, labels = signed(rng, (3, 6)), np.array([0, 1, 2])
    x[1] = 0
    step = LossIBP(0.1, norm=2, exact=True).gradients(net, ScaleInvariantCost(), convnet.Batch(x, labels))
    assert np.isfinite(step.flat_gradient).all()
    np.testing.assert_array_equal(step.outputs[1], 0)
    np.testing.assert_array_equal(step.input_gradient[1], 0)
    others = LossIBP(0.1, norm=2, exact=True).gradients(net, ScaleInvariantCost(), convnet.Batch(x[::2], labels[::2]))
    np.testing.assert_allclose(3 * step.flat_gradient, 2 * others.flat_gradient, rtol=1e-13)


def test_the_parts_by_differences(rng):
    for layer, shape in ((SphereProjection(), (5,)), (RescaledDense(4), (5,)), (TargetScores(3), (5,)),
                         (ScaleInvariantClassifier(4, 6), (5,))):
        check_by_differences(Case(attached(layer, shape), signed(rng, (3, *shape))))


def test_the_stage_by_double_backward(rng):
    torch = pytest.importorskip("torch")
    targets = torch.tensor(simplex(4, 6))

    def forward(x, weight):
        y = x @ weight
        return (y / y.norm(dim=1, keepdim=True)) @ targets.T

    check_by_torch(Case(attached(ScaleInvariantClassifier(4, 6), (5,)), signed(rng, (3, 5))), forward)


# --- the constraint ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_matrix_has_frobenius_norm_root_m_from_the_start_and_after_each_application(rng, dtype):
    net = convnet.Network([Dense(3), ScaleInvariantClassifier(4, 7)], (6,), dtype=dtype)
    weight = net.parameters["1.weight"]
    precision = 1e-6 if dtype == "float32" else 1e-14
    assert np.linalg.norm(weight) == pytest.approx(math.sqrt(7), rel=precision)
    free = net.parameters["0.weight"].copy()
    for factor in (1e-25, 3.0, 1e25):
        direction = weight / np.linalg.norm(weight)
        weight *= factor
        net.apply_constraints()
        assert np.linalg.norm(weight) == pytest.approx(math.sqrt(7), rel=precision)
        np.testing.assert_allclose(weight / np.linalg.norm(weight), direction, rtol=10 * precision)
        assert np.shares_memory(weight, net.vector)
    np.testing.assert_array_equal(net.parameters["0.weight"], free)


def test_a_zero_matrix_stays_as_it_is():
    net = stage()
    net.parameters["0.weight"][...] = 0
    net.apply_constraints()
    np.testing.assert_array_equal(net.parameters["0.weight"], 0)


def test_weight_decay_leaves_the_matrix_out():
    net = convnet.Network([Dense(3, bias=False), ScaleInvariantClassifier(4)], (6,))
    views = net.views(net.decay_mask)
    assert (views["0.weight"] == 1).all() and (views["1.weight"] == 0).all()


def test_names_and_files(tmp_path, rng):
    net = convnet.Network([Dense(3), ScaleInvariantClassifier(4, 7, "standard")], (6,), seed=5)
    assert list(net.parameters) == ["0.weight", "0.bias", "1.weight"]
    net.save(tmp_path / "net.npz")
    again = convnet.Network.load(tmp_path / "net.npz")
    x = signed(rng, (3, 6)).astype("float32")
    np.testing.assert_array_equal(again.forward(x), net.forward(x))
    assert again.root.layers[1].options() == {"classes": 4, "dimension": 7, "targets": "standard"}


# --- with every algorithm ---------------------------------------------------------------------------------------------


def complex_net(seed=0):
    """Return a small network of paper 004, float64, smooth everywhere but at zeros."""
    features = [ComplexConv(3, 2), Modulus(), MeanPool(2, 2), ComplexConv(4, 2), Modulus(), Flatten()]
    layers = [Concatenate([Sequential(features), PixelDeviation()]), ScaleInvariantClassifier(3, 5)]
    return convnet.Network(layers, (7, 7, 1), seed=seed, dtype="float64")


EXACT = [
    Backprop(), LossIBP(0.3, norm=2, exact=True), DoubleBackprop(0.2),
    PredictionIBP(0.2, norm=2, exact=True), TangentProp(0.3, norm=2, exact=True),
    TangentProp(0.3, norm=2, fast=True, exact=True), HessianFrobenius(0.2, variant="db1"),
    JacobianRegularizer(0.2), JacobianRegularizer(0.2, at="logits"),
]


@pytest.mark.parametrize("algorithm", EXACT, ids=repr)
def test_exact_gradients_are_those_of_the_objective(rng, algorithm):
    net, loss = complex_net(), ScaleInvariantCost()
    batch = convnet.Batch(signed(rng, (4, 7, 7, 1)), rng.integers(0, 3, 4), signed(rng, (4, 2, 7, 7, 1)))
    step = algorithm.gradients(net, loss, batch)
    start, delta = net.vector.copy(), signed(rng, net.vector.shape)

    def objective(h):
        net.vector[...] = start + h * delta
        return float(algorithm.gradients(net, loss, batch).objective)

    change = derivative(objective, 2e-4)
    assert abs(step.flat_gradient @ delta - change) < 1e-9 * np.abs(step.flat_gradient * delta).sum()


def test_the_exact_gradient_differs_from_the_published_one_by_curvature_alone(rng):
    """The cost is linear in the scores, so that H = 0: all of the difference is curvature of projection and moduli."""
    net, loss = complex_net(), ScaleInvariantCost()
    batch = convnet.Batch(signed(rng, (4, 7, 7, 1)), rng.integers(0, 3, 4))
    published, exact = (LossIBP(0.3, norm=2, exact=e).gradients(net, loss, batch).flat_gradient for e in (False, True))
    plain = Backprop().gradients(net, loss, batch).flat_gradient
    assert np.linalg.norm(exact - published) > 0.1 * np.linalg.norm(exact - plain)
    straight = convnet.Network([Dense(4), Dense(3)], (7,), dtype="float64")
    flat = convnet.Batch(signed(rng, (4, 7)), rng.integers(0, 3, 4))
    published, exact = (LossIBP(0.3, 2, exact=e).gradients(straight, loss, flat).flat_gradient for e in (False, True))
    np.testing.assert_allclose(exact, published, rtol=1e-13)


@pytest.mark.parametrize("algorithm", [
    LossIBP(0.3), PredictionIBP(0.2), TangentProp(0.3), TangentProp(0.3, fast=True), AdversarialTraining(0.1),
    AdversarialTraining(0.1, fast=True), NoiseInjection(0.1),
], ids=repr)
def test_published_forms_run_and_the_matrix_gets_a_gradient_orthogonal_to_it(rng, algorithm):
    """c(x; a A) = c(x; A) for every x: whatever trains on costs alone has a gradient orthogonal to A."""
    net = complex_net()
    batch = convnet.Batch(signed(rng, (4, 7, 7, 1)), rng.integers(0, 3, 4), signed(rng, (4, 2, 7, 7, 1)))
    step = algorithm.gradients(net, ScaleInvariantCost(), batch)
    assert np.isfinite(step.flat_gradient).all()
    assert all(np.abs(gradient).max() > 0 for gradient in step.gradients.values())
    if not hasattr(algorithm, "beta"):
        products = step.gradients["1.weight"] * net.parameters["1.weight"]
        assert abs(products.sum()) < 1e-13 * np.abs(products).sum()


# --- stability --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1e-6, 1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("end_to_end", [False, True])
def test_descent_is_stable_at_every_learning_rate(rng, rate, end_to_end):
    """No NaN and a cost in [0, 4], in single precision, for the matrix alone and for the whole network at one rate."""
    if end_to_end:
        features = [ComplexConv(4, 2), Modulus(), MeanPool(2, 2), ComplexConv(6, 2), Modulus(), Flatten()]
        layers = [Concatenate([Sequential(features), PixelDeviation()]), ScaleInvariantClassifier(3, 5)]
        net = convnet.Network(layers, (7, 7, 1))
    else:
        net = convnet.Network([ScaleInvariantClassifier(3, 5)], (8,))
    x = signed(rng, (60, *net.input_shape)).astype("float32")
    labels = rng.integers(0, 3, 60)
    for _ in range(40):
        chosen = rng.integers(0, 60, 10)
        step = Backprop().gradients(net, ScaleInvariantCost(), convnet.Batch(x[chosen], labels[chosen]))
        net.vector -= np.float32(rate) * step.flat_gradient
        net.apply_constraints()
        costs = 2 - 2 * step.outputs[np.arange(10), labels[chosen]]
        assert (costs >= -1e-6).all() and (costs <= 4 + 1e-6).all()
    assert np.isfinite(net.vector).all()
    assert np.isfinite(net.forward(x)).all()


@pytest.mark.parametrize("norm", [1, 2])
def test_exact_loss_ibp_of_a_whole_network_by_double_backward(rng, norm):
    torch = pytest.importorskip("torch")
    net = complex_net()
    x, labels = signed(rng, (4, 7, 7, 1)), rng.integers(0, 3, 4)
    step = LossIBP(0.4, norm=norm, exact=True).gradients(net, ScaleInvariantCost(), convnet.Batch(x, labels))
    tx = torch.tensor(x, requires_grad=True)
    weights = [torch.tensor(array.copy(), requires_grad=True) for array in net.parameters.values()]
    conv = torch.nn.functional.conv2d
    y = torch.nn.functional.avg_pool2d(conv(tx.permute(0, 3, 1, 2) + 0j, weights[0].permute(3, 2, 0, 1)).abs(), 2)
    y = conv(y + 0j, weights[1].permute(3, 2, 0, 1)).abs().permute(0, 2, 3, 1).flatten(1)
    y = torch.cat([y, tx.flatten(1).std(dim=1, unbiased=False)[:, None]], dim=1) @ weights[2]
    z = y / y.norm(dim=1, keepdim=True)
    cost = ((z - torch.tensor(simplex(3, 5))[labels]) ** 2).sum()
    (dx,) = torch.autograd.grad(cost, tx, create_graph=True)
    total = (cost + 0.4 * (dx.abs() ** norm).sum() / norm) / 4
    for found, expected in zip(step.gradients.values(), torch.autograd.grad(total, weights), strict=True):
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-12 * expected.abs().max().item())
