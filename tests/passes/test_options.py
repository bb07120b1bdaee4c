"""Bad options, batches and networks are refused by name, before any work."""
import numpy as np
import pytest
from networks import batch, network

from convnet import Batch, Network, train
from convnet.layers import Dense, Sigmoid
from convnet.losses import MeanSquaredError, SoftmaxCrossEntropy, SquaredError
from convnet.optimizers import SGD
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

COEFFICIENTS = {
    "beta": [LossIBP, PredictionIBP, TangentProp], "epsilon": [AdversarialTraining], "sigma": [NoiseInjection],
    "strength": [DoubleBackprop, JacobianRegularizer, HessianFrobenius],
}


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "much", "0.1", True, None], ids=str)
@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in COEFFICIENTS.items() for kind in kinds],
                         ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_coefficients_are_finite_and_not_negative(name, kind, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        kind(value)


@pytest.mark.parametrize("norm", [0, 3, 1.5, True, "1", None, float("inf")], ids=repr)
@pytest.mark.parametrize("kind", [LossIBP, PredictionIBP, TangentProp, AdversarialTraining], ids=lambda kind: kind.__name__)
def test_norm_is_1_or_2(kind, norm):
    with pytest.raises(ValueError, match=r"norm is .* must be 1 .* or 2"):
        kind(0.1, norm)


@pytest.mark.parametrize("make", [
    lambda: PredictionIBP(0.1, at="softmax"), lambda: TangentProp(0.1, at="softmax"),
    lambda: JacobianRegularizer(0.1, at="softmax"),
], ids=["prediction IBP", "tangent propagation", "Jacobian regulariser"])
def test_places_are_logits_and_output(make):
    with pytest.raises(ValueError, match="at is 'softmax'; it must be 'logits' or 'output'"):
        make()


@pytest.mark.parametrize(("make", "words"), [
    (lambda: LossIBP(0.1, exact="no"), "exact is 'no'; it must be True or False"),
    (lambda: PredictionIBP(0.1, exact=1), "exact is 1"),
    (lambda: TangentProp(0.1, exact=None), "exact is None"),
    (lambda: TangentProp(0.1, fast="no"), "fast is 'no'"),
    (lambda: AdversarialTraining(0.1, fast=0), "fast is 0"),
])
def test_flags_are_true_or_false(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(("make", "words"), [
    (lambda: TangentProp(0.1, at="output", fast=True), "at is 'output' with fast=True"),
    (lambda: HessianFrobenius(0.1, "db3"), "variant is 'db3'"),
    (lambda: JacobianRegularizer(0.1, projections=0), "projections is 0"),
    (lambda: JacobianRegularizer(0.1, projections=1.5), "projections is 1.5"),
], ids=["fast at the output", "variant", "no projections", "half a projection"])
def test_other_options(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def run(algorithm, images=None, net=None, loss=None):
    return algorithm.gradients(net or network("softmax inside"), loss or SoftmaxCrossEntropy(), images or batch())


@pytest.mark.parametrize("projections", [4, 7])
def test_projections_that_cost_more_than_all_classes(projections):
    with pytest.raises(ValueError, match=f"projections is {projections}, but all 4 classes"):
        run(JacobianRegularizer(0.1, projections=projections))


@pytest.mark.parametrize("algorithm", [TangentProp(0.1), TangentProp(0.1, fast=True), LossIBP(0.1) + TangentProp(0.1)],
                         ids=["original", "fast", "in a sum"])
def test_tangents_are_needed(algorithm):
    images = batch()
    with pytest.raises(ValueError, match="needs tangents"):
        run(algorithm, Batch(images.images, images.labels))


def test_the_hessian_s_factors_are_those_of_losses_that_take_logits():
    net = Network([Dense(3), Sigmoid()], (4,))
    with pytest.raises(ValueError, match=r"needs logits, but the network ends in Sigmoid\(\)"):
        HessianFrobenius(0.1).gradients(net, MeanSquaredError(), Batch(np.ones((2, 4)), [0, 1]))


@pytest.mark.parametrize("other", [Backprop(), AdversarialTraining(0.1), NoiseInjection(0.1), 0.5], ids=repr)
def test_only_penalties_can_be_added(other):
    with pytest.raises(TypeError, match="is not a penalty and cannot be added"):
        LossIBP(0.1) + other


@pytest.mark.parametrize(("change", "words"), [
    (lambda b: Batch(b.images[:, :-1], b.labels), r"images has the shape \(5, 8, 8, 2\); it must be \(N, 9, 8, 2\)"),
    (lambda b: Batch(b.images, b.labels[:, :3]), "labels has 3 columns, but the network has 4 outputs"),
    (lambda b: Batch(b.images, np.array([0, 1, 2, 3, 4])), "class 4"),
    (lambda b: Batch(b.images, np.array([0, 1, 2, 3, -1])), "class -1"),
    (lambda b: Batch(b.images, np.array([0.0, 1, 2, 3, 3])), "class ids must be whole numbers"),
], ids=["image shape", "columns of labels", "class too high", "class too low", "broken class ids"])
def test_batches_that_do_not_fit(change, words):
    with pytest.raises(ValueError, match=words):
        run(Backprop(), change(batch()))


@pytest.mark.parametrize(("arrays", "words"), [
    ((np.zeros((0, 4)), np.zeros(0, int)), "images is empty"),
    ((np.zeros((3, 4)), np.zeros(2, int)), "images holds 3 samples, but labels holds 2"),
    ((np.zeros((3, 4)), np.zeros((3, 2, 2))), "labels has the shape"),
    ((np.zeros((3, 4)), np.zeros(3, int), np.zeros((3, 4))), "tangents has the shape"),
    ((np.zeros((3, 4)), np.zeros(3, int), np.zeros((3, 2, 5))), "tangents has the shape"),
    ((np.zeros((3, 4)), np.zeros(3, int), np.zeros((2, 2, 4))), "tangents has the shape"),
], ids=["empty", "lengths", "label axes", "tangents without their own axis", "tangents of another shape",
        "tangents of other samples"])
def test_batches_that_contradict_themselves(arrays, words):
    with pytest.raises(ValueError, match=words):
        Batch(*arrays)


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy, "softmax", None])
def test_what_is_not_a_loss(loss):
    with pytest.raises(TypeError, match=r"loss must be one of convnet.losses"):
        Backprop().gradients(network("softmax inside"), loss, batch())


@pytest.mark.parametrize("weights", [[1.0, -1.0, 1, 1], [1.0, float("nan"), 1, 1]], ids=["negative", "not a number"])
def test_class_weights_are_finite_and_not_negative(weights):
    with pytest.raises(ValueError, match="class_weights"):
        SoftmaxCrossEntropy(weights)


def test_class_weights_of_another_number_of_classes():
    with pytest.raises(ValueError, match="class_weights has 3 entries, but there are 4 classes"):
        run(Backprop(), loss=SoftmaxCrossEntropy([1, 2, 3]))


def test_options_make_an_equal_algorithm():
    for algorithm in (LossIBP(0.1, 2, True), PredictionIBP(0.1, 1, "output"), TangentProp(0.2, fast=True),
                      JacobianRegularizer(0.3, projections=2), HessianFrobenius(0.1, "db1"), AdversarialTraining(0.1, 2)):
        assert type(algorithm)(**algorithm.options()) == algorithm


def test_label_vectors_of_the_softmax_must_sum_to_one():
    net = Network([Dense(3)], (4,), dtype="float64")
    images, labels = np.ones((2, 4)), np.array([[0.2, 0.3, 0.5], [0.2, 0.3, 0.1]])
    with pytest.raises(ValueError, match=r"labels of sample 1 sum to 0\.6"):
        Backprop().gradients(net, SoftmaxCrossEntropy(), Batch(images, labels))
    assert Backprop().gradients(net, SquaredError(), Batch(images, labels)).loss > 0
    with pytest.raises(ValueError, match="labels of sample 1 sum to"):
        train(net, (images, labels), Backprop(), SGD(0.1), epochs=1, progress=False)
