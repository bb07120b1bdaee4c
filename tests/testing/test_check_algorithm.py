"""The kit for algorithms is itself tested: with planted faults, which it must find and name."""
import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest

from convnet import Batch, Network
from convnet.layers import BatchNorm, Conv, Dense, Flatten, MeanPool, Softmax, Tanh
from convnet.losses import SquaredError
from convnet.passes import (
    AdversarialTraining,
    Algorithm,
    Backprop,
    LossIBP,
    NoiseInjection,
    PredictionIBP,
    TangentProp,
    fourth_pass,
    second_pass,
    third_pass,
)
from convnet.testing import CheckError, check_algorithm
from convnet.testing.algorithms import piecewise_network, random_batch, smooth_network


def named(report):
    """Return the parameters and modes in which gradients failed."""
    return {check.note for check in report.failures if "differences of the objective" in check.name}


def altered(step, **changes):
    """Return a step with other entries; other gradients are written into the flat vector as well."""
    if "gradients" in changes:
        changes["flat_gradient"] = np.concatenate([g.reshape(-1) for g in changes["gradients"].values()])
    return dataclasses.replace(step, **changes)


@dataclass(frozen=True)
class Altered(LossIBP):
    """Exact Loss IBP, with something done to the step at the end."""

    how: object = None

    def gradients(self, net, loss, batch, *, training=True):
        return self.how(super().gradients(net, loss, batch, training=training), batch)


def check(how, **options):
    return check_algorithm(Altered(0.3, exact=True, how=how), raise_on_failure=False, **options)


def one_gradient_scaled(factor):
    return lambda step, batch: altered(step, gradients={
        name: factor * g if name == "0.weight" else g for name, g in step.gradients.items()})


@pytest.mark.parametrize("factor", [
    pytest.param(1.001, id="0.1 % off"), pytest.param(-1.0, id="wrong sign", marks=pytest.mark.slow),
])
def test_factor_in_one_gradient_is_found_and_the_parameter_named(factor):
    report = check(one_gradient_scaled(factor))
    assert {note.split(",")[0] for note in named(report)} == {"0.weight"}
    assert len(named(report)) == 4  # two networks, two modes


@pytest.mark.slow
def test_gradients_summed_over_the_batch():
    report = check(lambda step, batch: altered(step, gradients={
        name: len(batch) * g for name, g in step.gradients.items()}))
    # All of them in both networks and modes, but a bias before batch normalisation, whose gradient is zero in training.
    assert len(named(report)) == 2 * sum(len(net().parameters) for net in (smooth_network, piecewise_network)) - 1


@pytest.mark.slow
@pytest.mark.parametrize(("field", "value", "method"), [
    ("loss", lambda step, batch: len(batch) * step.loss, "loss"),
    ("objective", lambda step, batch: step.loss + step.penalty, "objective"),
    ("penalty", lambda step, batch: 0.3 * step.penalty, "objective"),
    ("input_gradient", lambda step, batch: step.input_gradient / len(batch), "input_gradient"),
], ids=["loss summed", "coefficient missing in the objective", "coefficient counted twice", "input gradient averaged"])
def test_bookkeeping(field, value, method):
    report = check(lambda step, batch: altered(step, **{field: value(step, batch)}))
    assert method in report.faulty


@pytest.mark.parametrize(("gradients", "words"), [
    (lambda g: {name: value for name, value in g.items() if name != "0.bias"}, "0.bias"),
    (lambda g: {name: value.T.copy() if name == "9.weight" else value for name, value in g.items()}, r"\(4, 6\)"),
    (lambda g: dict(reversed(g.items())), "the order"),
    (lambda g: {name: value.astype("float32") for name, value in g.items()}, "float32"),
], ids=["a name is missing", "a shape is wrong", "another order", "another type"])
def test_layout(gradients, words):
    report = check(lambda step, batch: altered(step, gradients=gradients(step.gradients)), net=smooth_network())
    assert report.faulty == ["gradients"]
    with pytest.raises(CheckError, match=words):
        report.raise_if_failed()


def test_flat_gradient_that_differs_from_the_named_ones():
    report = check(lambda step, batch: dataclasses.replace(step, flat_gradient=1.001 * step.flat_gradient))
    assert "names, shapes, types are those of net.parameters" in {c.name for c in report.failures}


# --- dropped terms in the schedules -----------------------------------------------------------------------------------

@dataclass(frozen=True)
class Partial(LossIBP):
    """Claims to be exact, but one term is missing."""

    exact: bool = True
    missing: str = ""

    def penalise(self, run, objective, y, dy):
        penalty, t_0 = self.seed(run, dy.output)
        t = third_pass(y, t_0)
        s = fourth_pass(y, None if self.missing == "Hessian" else objective.hessian_product(t.output),
                        [] if self.missing == "curvature" else [(t, dy)])
        products = {"G(t, dy)": (t, dy), "G(y, s)": (y, s)}
        return penalty, [product for name, product in products.items() if name != self.missing]


@pytest.mark.parametrize("missing", [
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("G(t, dy)", "G(y, s)", "Hessian")), "curvature",
])
def test_dropped_term(missing):
    report = check_algorithm(Partial(0.3, missing=missing), raise_on_failure=False)
    networks = {note.split(", ")[1] for note in named(report)}
    # A piecewise-linear network has no curvature to be missed.
    assert networks == {"smooth network"} | ({"piecewise-linear network"} if missing != "curvature" else set())


def test_complete_schedule_passes():
    assert check_algorithm(Partial(0.3)).ok


@pytest.mark.slow
def test_published_form_that_claims_to_be_exact():
    class Published(LossIBP):
        def penalise(self, run, objective, y, dy):
            penalty, t_0 = self.seed(run, dy.output)
            return penalty, [(third_pass(y, t_0), dy)]

    assert check_algorithm(Published(0.3, exact=True), raise_on_failure=False).faulty == ["gradients"]
    assert check_algorithm(Published(0.3, exact=False)).ok


def test_exact_form_that_claims_to_be_published():
    class Exact(LossIBP):
        def penalise(self, run, objective, y, dy):
            return LossIBP(self.beta, self.norm, exact=True).penalise(run, objective, y, dy)

    report = check_algorithm(Exact(0.3), raise_on_failure=False)
    assert report.faulty == ["gradients"] and "published constants held" in report.failures[0].violation


@pytest.mark.slow
@pytest.mark.parametrize("base", [
    LossIBP(0.3), LossIBP(0.3, 2), PredictionIBP(0.3), PredictionIBP(0.3, 2, "output"), TangentProp(0.3),
    TangentProp(0.3, 2, fast=True),
], ids=repr)
def test_published_form_one_thousandth_off(base):
    class Faulty(type(base)):
        def penalise(self, run, objective, y, dy):
            penalty, products = super().penalise(run, objective, y, dy)
            return penalty, [*products, (scaled(products[-1][0], 1e-3), products[-1][1])]

    def scaled(trace, factor):
        return dataclasses.replace(trace, factors={k: factor * v for k, v in trace.factors.items()})

    faulty = Faulty(**base.options())
    assert check_algorithm(faulty, raise_on_failure=False).faulty == ["gradients"]


def test_third_pass_started_from_the_gradient_in_place_of_its_sign():
    class Faulty(LossIBP):
        def seed(self, run, dy_0):
            penalty, _ = super().seed(run, dy_0)
            return penalty, dy_0

    assert check_algorithm(Faulty(0.3, norm=1), raise_on_failure=False).faulty == ["gradients"]


@pytest.mark.slow
def test_adversarial_pass_with_other_masks():
    class Redrawn(AdversarialTraining):
        def schedule(self, run):
            y, objective = run.first(run.x)
            direction = np.sign(second_pass(y, objective.gradient).output)
            run.draw += 1
            y_star, objective_star = run.first(run.x + self.epsilon * direction)
            dy_star = second_pass(y_star, objective_star.gradient, to_input=False)
            gap = objective_star.value - objective.value
            return run.step(objective, y, [(y_star, dy_star, 1.0)], penalty=gap)

    report = check_algorithm(Redrawn(0.1, fast=True), raise_on_failure=False)
    assert {note.split(", ", 1)[1] for note in named(report)} == {"smooth network, training"}  # dropout is there only


# --- side effects and randomness --------------------------------------------------------------------------------------

def change_images(net, batch):
    batch.images[...] = 0


def change_labels(net, batch):
    batch.labels[0] = batch.labels[1]


def change_weights(net, batch):
    net.vector *= 0.5


def change_statistics(net, batch):
    net.set_state({name: array + 1 for name, array in net.state.items()})


@pytest.mark.slow
@pytest.mark.parametrize("effect", [change_images, change_labels, change_weights, change_statistics],
                         ids=lambda effect: effect.__name__)
def test_side_effects(effect):
    class Careless(Backprop):
        def gradients(self, net, loss, batch, *, training=True):
            step = super().gradients(net, loss, batch, training=training)
            effect(net, batch)
            return step

    report = check_algorithm(Careless(), smooth_network(), raise_on_failure=False)
    assert "nothing given is changed" in {c.name for c in report.failures}


@pytest.mark.slow
def test_randomness_that_is_not_the_network_s():
    class Own(NoiseInjection):
        generator = np.random.default_rng(0)

        def schedule(self, run):
            run.draw = int(self.generator.integers(2**62))
            return super().schedule(run)

    report = check_algorithm(Own(0.1), raise_on_failure=False)
    assert "a copy of the network gives the same, bit for bit" in {c.name for c in report.failures}


def test_double_precision_in_a_float32_network():
    class Upcast(Backprop):
        def gradients(self, net, loss, batch, *, training=True):
            step = super().gradients(net, loss, batch, training=training)
            return dataclasses.replace(step, loss=np.float64(step.loss))

    report = check_algorithm(Upcast(), piecewise_network(), raise_on_failure=False)
    assert report.faulty == ["gradients"] and "loss is float64 in a float32 network" in report.failures[0].violation


def test_exception_in_an_algorithm_is_reported():
    class Broken(Backprop):
        def schedule(self, run):
            raise RuntimeError("no such pass")

    with pytest.raises(CheckError, match=r"gradients: runs violated .*RuntimeError: no such pass"):
        check_algorithm(Broken())


# --- how it is used ---------------------------------------------------------------------------------------------------

def test_algorithm_with_an_objective_of_its_own():
    @dataclass(frozen=True)
    class TwiceTheLoss(Algorithm):
        def schedule(self, run):
            y, objective = run.first(run.x)
            return run.step(objective, y, [(y, second_pass(y, objective.gradient, to_input=False), 2.0)])

    net, batch, loss = smooth_network(), random_batch(smooth_network()), SquaredError()

    def twice(net):
        return 2 * Backprop().gradients(net, loss, batch).loss

    faulty = check_algorithm(TwiceTheLoss(), net, loss, batch, raise_on_failure=False)
    assert faulty.faulty == ["gradients"]
    right = check_algorithm(TwiceTheLoss(), net, loss, batch, objective=twice, raise_on_failure=False)
    assert {c.note for c in right.failures} <= {c.note for c in faulty.failures if "inference" in c.note}


def test_own_network_loss_and_batch_are_used_and_left_as_they_are():
    net = Network([Conv(2, 3), BatchNorm(), Tanh(), MeanPool(2, 1), Flatten(), Dense(3), Softmax()], (6, 5, 1), seed=3,
                  dtype="float64")
    batch = Batch(np.random.default_rng(0).standard_normal((3, 6, 5, 1)), np.array([2, 0, 1]))
    before = net.vector.copy(), net.generator.bit_generator.state, batch.images.copy()
    report = check_algorithm(LossIBP(0.5, 2, exact=True), net, SquaredError(), batch)
    assert report.ok and "SquaredError" in report.subject
    assert np.array_equal(net.vector, before[0]) and np.array_equal(batch.images, before[2])
    assert net.generator.bit_generator.state == before[1]


@pytest.mark.slow
def test_same_seed_gives_the_same_report():
    one, two, other = (check_algorithm(LossIBP(0.3), seed=seed) for seed in (1, 1, 2))
    assert [c.error for c in one.checks] == [c.error for c in two.checks] != [c.error for c in other.checks]


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: check_algorithm(LossIBP), TypeError, "algorithm must be"),
    (lambda: check_algorithm("ibp"), TypeError, "'ibp'"),
    (lambda: check_algorithm(Backprop(), Network([Dense(2)], (3,))), ValueError, "float64"),
], ids=["a class", "a name", "a float32 network"])
def test_bad_calls(call, error, words):
    with pytest.raises(error, match=words):
        call()
