"""Identities between algorithms that need no reference, by the place where they stand in the papers."""
from dataclasses import dataclass

import numpy as np
import pytest
from networks import batch, network

from convnet import Batch, Network
from convnet.layers import BatchNorm, Dense, Flatten, Tanh
from convnet.losses import BinaryCrossEntropy, Loss, SoftmaxCrossEntropy, SquaredError
from convnet.passes import (
    AdversarialTraining,
    Backprop,
    DoubleBackprop,
    HessianFrobenius,
    JacobianRegularizer,
    LossIBP,
    NoiseInjection,
    PredictionIBP,
    Run,
    TangentProp,
    second_pass,
    third_pass,
)
from convnet.passes.algorithm import InputGradientPenalty
from convnet.passes.products import weight_gradients
from convnet.testing.numeric import derivative

CHAINS = ["relu, overlapping max pooling", "leaky relu, strides and paddings", "sigmoid, tanh, overlapping mean pooling",
          "softmax inside"]
PIECEWISE = CHAINS[:2]
ANY = [*CHAINS, "residual blocks", "batch normalisation", "all of it"]
LOSS = SoftmaxCrossEntropy()


def steps(net, images, *algorithms, loss=LOSS, training=True):
    """Return the step of each algorithm on copies of one network, which draw the same."""
    return [algorithm.gradients(net.copy(), loss, images, training=training) for algorithm in algorithms]


def extra(net, images, algorithm, loss=LOSS, training=True):
    """Return the gradient of the penalty alone, as one vector."""
    plain, whole = steps(net, images, Backprop(), algorithm, loss=loss, training=training)
    return (whole.flat_gradient - plain.flat_gradient) / algorithm.coefficient


def close(found, expected, tolerance=1e-10):
    """Whether two vectors are equal up to rounding."""
    return np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


# --- what the published forms are -------------------------------------------------------------------------------------

@pytest.mark.parametrize("r", [1, 2])
@pytest.mark.parametrize("make", [
    lambda r: LossIBP(1.0, r), lambda r: PredictionIBP(1.0, r), lambda r: PredictionIBP(1.0, r, "output"),
    lambda r: TangentProp(1.0, r), lambda r: TangentProp(1.0, r, fast=True),
], ids=["loss IBP", "prediction IBP", "prediction IBP at the output", "tangent propagation", "fast tangent propagation"])
@pytest.mark.parametrize("name", CHAINS)
def test_every_weight_times_its_published_gradient_is_r_times_the_penalty(name, make, r):
    # In the reverse (or linearised) chain the penalty is homogeneous of degree r in each weight array: Euler's theorem.
    net, images = network(name), batch()
    step, = steps(net, images, make(r))
    parts = net.views(extra(net, images, make(r)))
    products = {key: float((net.parameters[key] * parts[key]).sum()) for key in parts if key.endswith("weight")}
    assert len(products) >= 3
    for product in products.values():
        np.testing.assert_allclose(product, r * step.penalty, rtol=1e-10)


@pytest.mark.parametrize("algorithm", [LossIBP(1.0), LossIBP(1.0, 2), PredictionIBP(1.0), TangentProp(1.0)], ids=repr)
@pytest.mark.parametrize("name", ANY)
def test_published_forms_leave_the_biases_to_backprop(name, algorithm):
    # Papers 001/002, Algorithm 1: "Initialize the bias derivatives to 0".
    net, images = network(name), batch()
    plain, whole = steps(net, images, Backprop(), algorithm)
    for key in net.parameters:
        if key.endswith("bias"):
            np.testing.assert_allclose(whole.gradients[key], plain.gradients[key], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("r", [1, 2])
@pytest.mark.parametrize("name", PIECEWISE)
def test_on_piecewise_linear_networks_exact_is_published_and_a_backward_pass_from_the_hessian(name, r):
    net, images = network(name), batch()
    published, exact = (extra(net, images, LossIBP(1.0, r, form)) for form in (False, True))
    run = Run(net.copy(), LOSS, images)
    y, objective = run.first(run.x)
    dy_0 = second_pass(y, objective.gradient).output
    t = third_pass(y, np.sign(dy_0) if r == 1 else dy_0)
    s = second_pass(y, objective.hessian_product(t.output))
    own = run.net.views(np.zeros_like(net.vector))

    def write(layer, parts, scale):
        for key, value in parts.items():
            own[f"{run.net.paths[layer]}.{key}"] += scale * value / len(images)

    weight_gradients([(y, s, 1.0)], write)
    difference = np.concatenate([own[key].ravel() for key in net.parameters])
    assert close(exact, published + difference)
    assert all(np.abs(own[key]).max() > 0 for key in own)  # biases included


@pytest.mark.parametrize("r", [1, 2])
@pytest.mark.parametrize("name", ANY)
def test_published_and_exact_are_different_gradients(name, r):
    net, images = network(name), batch()
    published, exact = (extra(net, images, LossIBP(1.0, r, form)) for form in (False, True))
    cosine = published @ exact / np.linalg.norm(published) / np.linalg.norm(exact)
    assert cosine < 0.99


class Linear(Loss):
    """A loss that is linear in the logits: ``L = l·z``."""

    def _value(self, z, labels):
        return (z * labels).sum(axis=1)

    def _gradient(self, z, labels):
        return labels.copy()

    def _hessian_product(self, z, labels, t):
        return np.zeros_like(z)


@pytest.mark.parametrize("algorithm", [LossIBP, TangentProp], ids=["loss IBP", "fast tangent propagation"])
@pytest.mark.parametrize("r", [1, 2])
@pytest.mark.parametrize("name", PIECEWISE)
def test_with_a_loss_linear_in_the_logits_published_is_exact(name, r, algorithm):
    options = {} if algorithm is LossIBP else {"fast": True}
    net, images = network(name), batch()
    published, exact = (extra(net, images, algorithm(1.0, r, exact=form, **options), Linear()) for form in (False, True))
    assert close(published, exact, 1e-12)


@pytest.mark.parametrize("r", [1, 2])
@pytest.mark.parametrize("name", PIECEWISE)
def test_tangent_propagation_at_the_logits_of_a_piecewise_linear_network_is_exact_as_published(name, r):
    net, images = network(name), batch()
    published, exact = (extra(net, images, TangentProp(1.0, r, exact=form)) for form in (False, True))
    assert close(published, exact, 1e-12)


# --- what the exact forms are -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("r", [1, 2])
@pytest.mark.parametrize("name", ANY)
def test_exact_loss_ibp_is_the_change_of_the_gradient_along_the_input(name, r):
    # With v = dR/d(dy_0): dR/dw = v · d(dy_0)/dw = d/dε dL(x + ε v)/dw.
    net, images = network(name), batch()
    dy_0 = steps(net, images, LossIBP(1.0))[0].input_gradient
    v = np.sign(dy_0) if r == 1 else dy_0

    def gradient(h):
        return steps(net, Batch(images.images + h * v, images.labels), Backprop())[0].flat_gradient

    assert close(extra(net, images, LossIBP(1.0, r, exact=True)), derivative(gradient), 1e-7)


@pytest.mark.parametrize("name", ANY)
def test_fast_adversarial_training_less_backprop_tends_to_exact_loss_ibp_not_to_the_published_one(name):
    net, images = network(name), batch()
    plain, = steps(net, images, Backprop())

    def slope(epsilon):
        step, = steps(net, images, AdversarialTraining(epsilon, fast=True))
        return (step.flat_gradient - plain.flat_gradient) / epsilon

    epsilon = 2e-6
    limit = 2 * slope(epsilon / 2) - slope(epsilon)  # the error of first order cancels
    exact, published = (extra(net, images, LossIBP(1.0, 1, form)) for form in (True, False))
    assert close(limit, exact, 1e-6)
    assert not close(limit, published, 0.1)


@pytest.mark.parametrize("name", ANY)
def test_double_backpropagation_is_twice_exact_loss_ibp_with_squares(name):
    net, images = network(name), batch()
    double, loss_ibp = steps(net, images, DoubleBackprop(0.7), LossIBP(1.4, 2, exact=True))
    np.testing.assert_allclose(double.penalty, 2 * loss_ibp.penalty, rtol=1e-13)
    assert close(double.flat_gradient, loss_ibp.flat_gradient, 1e-12)


# --- equivalences (papers 001/002, section 7.5; paper 000, section 7.3) -----------------------------------------------

@dataclass(frozen=True)
class InnerProduct(InputGradientPenalty):
    """Loss IBP with the additional loss ``L~(dy_0) = dy_0 · τ`` for the first tangent."""

    exact: bool = False
    coefficient = 1.0

    def seed(self, run, dy_0):
        tau = run.batch.tangents[:, 0]
        return (dy_0 * tau).reshape(len(dy_0), -1).sum(axis=1), tau


@pytest.mark.parametrize("exact", [False, True], ids=["published", "exact"])
@pytest.mark.parametrize("name", ANY)
def test_section_7_5_fast_tangent_bp_is_loss_ibp_with_an_inner_product_loss(name, exact):
    net, images = network(name), batch(tangents=1)
    change = (steps(net, images, LossIBP(1.0))[0].input_gradient[:, None] * images.tangents).sum(axis=(2, 3, 4))
    # ℓ(v) = |v| is v itself where the tangents point uphill.
    images = Batch(images.images, images.labels, images.tangents * np.sign(change)[:, :, None, None, None])
    fast, inner = steps(net, images, TangentProp(1.0, 1, fast=True, exact=exact), InnerProduct(exact))
    np.testing.assert_allclose(fast.penalty, inner.penalty, rtol=1e-12)
    assert close(fast.flat_gradient, inner.flat_gradient, 1e-12)


@pytest.mark.parametrize("name", ANY)
def test_section_7_5_tangent_bp_through_the_loss_gives_the_same_penalty_and_gradient(name):
    # Original Tangent BP on the prediction "L": t goes forward to R = dy_K·t_K, and u starts from dR/dt_K = dy_K.
    net, images = network(name), batch(tangents=1)
    run = Run(net, LOSS, images)
    y, objective = run.first(run.x)
    t = third_pass(y, images.tangents[:, 0])
    u = second_pass(y, objective.gradient)
    forward = (objective.gradient * t.output).sum(axis=1)
    backward = (u.output * images.tangents[:, 0]).sum(axis=(1, 2, 3))
    if any("running" in key for key in net.state):  # batch normalisation couples the samples: their sum is the same
        forward, backward = forward.sum(), backward.sum()
    np.testing.assert_allclose(forward, backward, rtol=1e-10, atol=1e-13)
    found = run.step(objective, y, [(t, u, 1.0)]).flat_gradient
    net = network(name)
    plain, inner = steps(net, images, Backprop(), InnerProduct())
    assert close(found, inner.flat_gradient - plain.flat_gradient, 1e-9)


@pytest.mark.parametrize("exact", [False, True], ids=["published", "exact"])
@pytest.mark.parametrize("name", ANY)
def test_fast_tangent_propagation_along_the_sign_of_the_gradient_is_loss_ibp(name, exact):
    net, images = network(name), batch()
    dy_0 = steps(net, images, LossIBP(1.0))[0].input_gradient
    signs = Batch(images.images, images.labels, np.sign(dy_0)[:, None])
    fast, loss_ibp = steps(net, signs, TangentProp(0.5, 1, fast=True, exact=exact), LossIBP(0.5, 1, exact))
    np.testing.assert_allclose(fast.penalty, loss_ibp.penalty, rtol=1e-12)
    assert close(fast.flat_gradient, loss_ibp.flat_gradient, 1e-12)


@pytest.mark.parametrize("r", [1, 2])
@pytest.mark.parametrize("at", ["logits", "output"])
@pytest.mark.parametrize("name", ANY)
def test_tangent_propagation_along_the_gradient_is_published_prediction_ibp(name, at, r):
    net, images = network(name), batch()
    dy_0 = steps(net, images, LossIBP(1.0))[0].input_gradient
    along = Batch(images.images, images.labels, dy_0[:, None])
    tangent, prediction, exact = steps(
        net, along, TangentProp(0.5, r, at), PredictionIBP(0.5, r, at), PredictionIBP(0.5, r, at, exact=True))
    np.testing.assert_allclose(tangent.penalty, prediction.penalty, rtol=1e-12)
    assert close(tangent.flat_gradient, prediction.flat_gradient, 1e-12)
    assert not close(tangent.flat_gradient, exact.flat_gradient, 1e-6)


# --- regularisation properties (papers 001/002, sections 7.3 and 7.4; paper 003) --------------------------------------

def test_noise_injection_is_backpropagation_at_noisy_inputs():
    net, images = network("all of it"), batch()
    noise = np.random.Generator(np.random.Philox(key=np.array([7, 2**64 - 1], np.uint64))).standard_normal(images.images.shape)
    expected = Backprop().gradients(net, LOSS, Batch(images.images + 0.3 * noise, images.labels), draw=7)
    found = NoiseInjection(0.3).gradients(net, LOSS, images, draw=7)
    np.testing.assert_allclose(found.flat_gradient, expected.flat_gradient, rtol=1e-12)
    np.testing.assert_allclose([found.loss, found.objective], expected.loss, rtol=1e-13)


@pytest.mark.parametrize("name", ANY)
def test_section_7_3_cauchy_schwarz_bounds_the_gradient_by_the_jacobian_and_the_output_error(name):
    net, images = network(name), batch(count=6)
    for n in range(6):
        one = Batch(images.images[n:n + 1], images.labels[n:n + 1])
        jacobian, double = steps(net, one, JacobianRegularizer(1.0, "logits"), DoubleBackprop(1.0), training=False)
        p = np.exp(jacobian.outputs) / np.exp(jacobian.outputs).sum()
        error = ((p - one.labels) ** 2).sum()
        assert 0 < double.penalty <= jacobian.penalty * error


def test_section_7_3_without_hidden_layers_the_penalty_is_weight_decay_times_the_output_error():
    net = Network([Flatten(), Dense(3)], (4, 3, 1), dtype="float64")
    images = batch(shape=(4, 3, 1), classes=3)
    step, = steps(net, images, LossIBP(1.0, 2))
    p = np.exp(step.outputs) / np.exp(step.outputs).sum(axis=1, keepdims=True)
    rows = (p - images.labels) @ net.parameters["1.weight"].T
    np.testing.assert_allclose(step.penalty, (rows**2).sum() / 2 / len(images), rtol=1e-12)


def test_section_7_3_with_one_output_the_bound_is_attained():
    net = Network([Flatten(), Dense(1)], (4, 3, 1), dtype="float64")
    images = batch(shape=(4, 3, 1), classes=1, count=1)
    images = Batch(images.images, images.labels * 0.3)
    step, jacobian = steps(net, images, DoubleBackprop(1.0), JacobianRegularizer(1.0, "logits"), loss=SquaredError())
    np.testing.assert_allclose(step.penalty, jacobian.penalty * ((step.outputs - 0.3) ** 2).sum(), rtol=1e-12)


class LogLossOfOneNeuron(Loss):
    """``L = -l ln|p| - (1 - l) ln|1 - p|`` of a neuron ``p = w·x + b`` without a transfer function (section 7.4)."""

    def _value(self, z, labels):
        return (-labels * np.log(abs(z)) - (1 - labels) * np.log(abs(1 - z))).sum(axis=1)

    def _gradient(self, z, labels):
        return (z - labels) / (z * (1 - z))

    def _hessian_product(self, z, labels, t):
        return (z**2 - 2 * z * labels + labels) / (z * (1 - z)) ** 2 * t

    def _hessian_factor(self, z, labels, index):
        root = np.sqrt(z**2 - 2 * z * labels + labels) / abs(z * (1 - z))
        return root, lambda t: 0 * t


@pytest.fixture
def neuron():
    """Return a neuron with p in (0.1, 0.9) on its batch, and the batch."""
    rng = np.random.default_rng(3)
    net = Network([Dense(1)], (5,), dtype="float64")
    x = rng.standard_normal((6, 5))
    net.parameters["0.weight"][...] = 0.15 * rng.standard_normal((5, 1))
    net.parameters["0.bias"][...] = 0.5
    images = Batch(x, (rng.random((6, 1)) < 0.5).astype(float))
    assert ((net.forward(x) > 0.1) & (net.forward(x) < 0.9)).all()
    return net, images


def test_section_7_4_the_trace_of_the_hessian_is_the_squared_gradient(neuron):
    net, images = neuron
    trace, double = steps(net, images, HessianFrobenius(1.0), DoubleBackprop(1.0), loss=LogLossOfOneNeuron())
    np.testing.assert_allclose(trace.penalty, double.penalty, rtol=1e-12)


def test_section_7_4_noise_injection_is_the_ibp_penalty_up_to_fourth_order(neuron):
    # E L(x + μ), μ ~ N(0, σ²), is a one-dimensional integral along w: Gauss-Hermite quadrature is exact enough.
    net, images = neuron
    loss, weight = LogLossOfOneNeuron(), net.parameters["0.weight"][:, 0]
    nodes, mass = np.polynomial.hermite_e.hermegauss(24)
    plain, double = steps(net, images, Backprop(), DoubleBackprop(1.0), loss=loss)

    def remainder(sigma):
        moved = [loss.value(net.forward(images.images + sigma * s * weight / np.linalg.norm(weight)), images.labels).mean()
                 for s in nodes]
        return (mass @ moved) / mass.sum() - plain.loss - sigma**2 / 2 * double.penalty

    assert abs(remainder(0.1)) < 0.01 * 0.1**2 / 2 * double.penalty
    np.testing.assert_allclose(remainder(0.1) / remainder(0.05), 16, rtol=0.05)


def test_section_7_4_is_not_so_for_a_sigmoid_neuron(neuron):
    net, images = neuron
    trace, double = steps(net, images, HessianFrobenius(1.0), DoubleBackprop(1.0), loss=BinaryCrossEntropy())
    assert abs(trace.penalty / double.penalty - 1) > 0.05


@pytest.mark.parametrize("name", CHAINS)
def test_hessian_scaled_frobenius_is_the_mean_squared_gradient_over_labels_drawn_from_the_prediction(name):
    # Paper 003, Eq. 62-63: with H = E_{k~p} (e_k - p)(e_k - p)^T, Tr(J^T H J) = E_{k~p} ‖dL_k/dx‖².
    net, images = network(name), batch()
    trace, = steps(net, images, HessianFrobenius(1.0))
    p = np.exp(trace.outputs) / np.exp(trace.outputs).sum(axis=1, keepdims=True)
    mean = 0.0
    for k in range(4):
        step, = steps(net, Batch(images.images, np.full(len(images), k)), LossIBP(1.0))
        mean += (p[:, k] * (step.input_gradient**2).reshape(len(images), -1).sum(axis=1)).mean()
    np.testing.assert_allclose(trace.penalty, mean, rtol=1e-12)


@pytest.mark.parametrize("variant", ["db1", "db2"])
def test_variants_add_double_backpropagation(variant):
    net, images = network("softmax inside"), batch(count=1)
    plain, both, double = steps(net, images, HessianFrobenius(1.0), HessianFrobenius(1.0, variant), DoubleBackprop(1.0))
    expected = plain.penalty if variant == "db1" else plain.penalty**2
    np.testing.assert_allclose(both.penalty, expected + double.penalty, rtol=1e-12)


# --- estimates and sums -----------------------------------------------------------------------------------------------

def test_projections_are_unbiased():
    net = Network([Flatten(), Dense(5), Tanh(), Dense(4)], (3, 2, 1), seed=1, dtype="float64")
    images = batch(shape=(3, 2, 1), count=3)
    exact, = steps(net, images, JacobianRegularizer(1.0))
    plain, = steps(net, images, Backprop())
    draws = [JacobianRegularizer(1.0, projections=2).gradients(net, LOSS, images) for _ in range(800)]
    penalties = np.array([step.penalty for step in draws])
    assert penalties.std() > 0.05 * exact.penalty
    assert abs(penalties.mean() - exact.penalty) < 4 * penalties.std() / np.sqrt(len(draws))
    gradients = np.stack([step.flat_gradient for step in draws])
    wrong = abs(gradients.mean(axis=0) - exact.flat_gradient) / (gradients.std(axis=0) / np.sqrt(len(draws)) + 1e-15)
    assert wrong.max() < 4.5  # 54 parameters: beyond 4.5 deviations with a probability of 0.04 %
    assert not close(exact.flat_gradient, plain.flat_gradient, 0.01)


def test_behind_batch_normalisation_a_row_holds_what_an_input_does_to_the_whole_batch():
    net = Network([Dense(5), BatchNorm(), Tanh(), Dense(4)], (3,), seed=1, dtype="float64")
    rng = np.random.default_rng(4)
    x, ids, step = rng.standard_normal((4, 3)), rng.integers(4, size=4), 1e-5

    def logits(images):
        return Backprop().gradients(net, LOSS, Batch(images, ids)).outputs

    # Of every output of every sample in every input of every sample.
    moves = step * np.eye(12).reshape(12, 4, 3)
    jacobian = np.stack([(logits(x + move) - logits(x - move)) / (2 * step) for move in moves], axis=-1)
    together, apart = (jacobian.sum(axis=0) ** 2).sum() / 4, (jacobian**2).sum() / 4
    found = JacobianRegularizer(1.0, at="logits").gradients(net, LOSS, Batch(x, ids)).penalty
    np.testing.assert_allclose(found, together, rtol=1e-7)
    projected = JacobianRegularizer(1.0, at="logits", projections=3)
    draws = np.array([projected.gradients(net, LOSS, Batch(x, ids)).penalty for _ in range(1500)])
    deviation = draws.std() / np.sqrt(len(draws))
    assert abs(draws.mean() - apart) < 4 * deviation < abs(together - apart) / 5


@pytest.mark.parametrize("name", ["relu, overlapping max pooling", "all of it"])
def test_a_sum_of_penalties_is_the_sum(name):
    net, images = network(name), batch()
    parts = [LossIBP(0.2), LossIBP(0.1, 2, exact=True), DoubleBackprop(0.3), TangentProp(0.2, 2, fast=True), PredictionIBP(0.4),
             TangentProp(0.3, 1, "output", exact=True), JacobianRegularizer(0.1)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    plain, together, *single = steps(net, images, Backprop(), total, *parts)
    expected = plain.flat_gradient + sum(step.flat_gradient - plain.flat_gradient for step in single)
    assert close(together.flat_gradient, expected, 1e-12)
    weighted = sum(part.coefficient * step.penalty for part, step in zip(parts, single, strict=True))
    np.testing.assert_allclose(together.penalty, weighted, rtol=1e-12)
    np.testing.assert_allclose(together.objective, plain.loss + weighted, rtol=1e-12)


@pytest.mark.parametrize("algorithm", [LossIBP(0.0), PredictionIBP(0.0, exact=True), AdversarialTraining(0.0),
                                       AdversarialTraining(0.0, fast=True), DoubleBackprop(0.0)], ids=repr)
def test_a_coefficient_of_zero_is_backprop(algorithm):
    net, images = network("all of it"), batch()
    plain, whole = steps(net, images, Backprop(), algorithm)
    assert close(whole.flat_gradient, plain.flat_gradient, 1e-13)
    assert whole.objective == pytest.approx(plain.loss, rel=1e-13)


def test_adversarial_training_is_the_mean_of_both_gradients():
    net, images = network("all of it"), batch()
    plain, original, fast = steps(net, images, Backprop(), AdversarialTraining(0.2), AdversarialTraining(0.2, fast=True))
    assert close(original.flat_gradient, (plain.flat_gradient + fast.flat_gradient) / 2, 1e-13)
    np.testing.assert_allclose(original.objective, (plain.loss + fast.objective) / 2, rtol=1e-13)
    np.testing.assert_allclose(fast.penalty, fast.objective - plain.loss, rtol=1e-12)
