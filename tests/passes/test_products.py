"""What an algorithm runs: products are fused, and no pass or product is run whose result is not used."""
from collections import Counter
from typing import ClassVar

import numpy as np
import pytest

from convnet import Batch, Network
from convnet.layers import Dense, ReLU
from convnet.losses import SoftmaxCrossEntropy
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
    Trace,
)
from convnet.passes.products import fused, members, weight_gradients

CLASSES = 3
# Forward, backward and weight-gradient products of a layer in the middle of the network, backprop's 1 + 1 + 1 first.
COSTS = {
    "backprop": (Backprop(), 1, 1, 1),
    "noise injection": (NoiseInjection(0.1), 1, 1, 1),
    "loss IBP, published: 4/3": (LossIBP(0.1), 2, 1, 1),
    "loss IBP, exact: 2": (LossIBP(0.1, exact=True), 2, 2, 2),
    "double backpropagation: 2": (DoubleBackprop(0.1), 2, 2, 2),
    "fast tangent propagation, published: 4/3 with any number of tangents": (TangentProp(0.1, fast=True), 2, 1, 1),
    "fast tangent propagation, exact: 2": (TangentProp(0.1, fast=True, exact=True), 2, 2, 2),
    "tangent propagation with 5 tangents: 6": (TangentProp(0.1), 6, 6, 6),
    "tangent propagation at the output with 5 tangents, exact": (TangentProp(0.1, at="output", exact=True), 6, 7, 6),
    "prediction IBP, published: 2": (PredictionIBP(0.1), 2, 2, 2),
    "prediction IBP, exact": (PredictionIBP(0.1, exact=True), 3, 3, 3),
    "adversarial training: 2": (AdversarialTraining(0.1), 2, 2, 2),
    "fast adversarial training: 5/3": (AdversarialTraining(0.1, fast=True), 2, 2, 1),
    "Jacobian regulariser": (JacobianRegularizer(0.1), 1 + CLASSES, 2 + CLASSES, 1 + CLASSES),
    "Jacobian regulariser, one projection": (JacobianRegularizer(0.1, projections=1), 2, 3, 2),
    "Hessian-scaled Frobenius regulariser": (HessianFrobenius(0.1), 1 + CLASSES, 2 + CLASSES, 1 + CLASSES),
    "two penalties on the input gradient": (LossIBP(0.1) + TangentProp(0.1, 2, fast=True), 2, 1, 1),
}


class Counted(Dense):
    """A dense layer that counts its products."""

    counts: ClassVar[Counter] = Counter()

    def forward(self, x, record):
        self.counts["forward", self.index] += 1
        return super().forward(x, record)

    def backward(self, b, record):
        self.counts["backward", self.index] += 1
        return super().backward(b, record)

    def third_pass(self, t, record):
        self.counts["forward", self.index] += 1
        return super().third_pass(t, record)

    def weight_gradients(self, a, b, constant=1.0):
        self.counts["product", self.index] += 1
        return super().weight_gradients(a, b, constant)


@pytest.fixture
def counted():
    """Return a network of three counting layers, a batch with five tangents, and the counts."""
    Counted.counts = Counter()
    net = Network([Counted(5), ReLU(), Counted(5), ReLU(), Counted(CLASSES)], (4,), dtype="float64")
    rng = np.random.default_rng(0)
    return net, Batch(rng.standard_normal((6, 4)), np.arange(6) % CLASSES, rng.standard_normal((6, 5, 4))), Counted.counts


@pytest.mark.parametrize(("algorithm", "forward", "backward", "product"), COSTS.values(), ids=COSTS)
def test_cost_of_a_step(counted, algorithm, forward, backward, product):
    net, batch, counts = counted
    algorithm.gradients(net, SoftmaxCrossEntropy(), batch)
    middle = {kind: counts[kind, 2] for kind in ("forward", "backward", "product")}
    assert middle == {"forward": forward, "backward": backward, "product": product}


@pytest.mark.parametrize(("algorithm", "first"), [
    (Backprop(), 0), (LossIBP(0.1), 1), (LossIBP(0.1, exact=True), 1), (AdversarialTraining(0.1), 1),
    (TangentProp(0.1), 0), (TangentProp(0.1, fast=True), 1), (PredictionIBP(0.1), 1),
], ids=repr)
def test_the_first_layer_is_crossed_backward_only_for_the_input_s_gradient(counted, algorithm, first):
    net, batch, counts = counted
    algorithm.gradients(net, SoftmaxCrossEntropy(), batch)
    assert counts["backward", 0] == first


def test_the_third_pass_of_published_loss_ibp_does_not_cross_the_last_layer(counted):
    net, batch, counts = counted
    LossIBP(0.1).gradients(net, SoftmaxCrossEntropy(), batch)
    assert [counts["forward", i] for i in (0, 2, 4)] == [2, 2, 1]


def test_frozen_layers_cost_no_product(counted):
    net, batch, counts = counted
    net.freeze("2")
    step = LossIBP(0.1).gradients(net, SoftmaxCrossEntropy(), batch)
    assert [counts["product", i] for i in (0, 2, 4)] == [1, 0, 1]
    assert not step.gradients["2.weight"].any() and step.gradients["0.weight"].any()


# --- the fusion itself ------------------------------------------------------------------------------------------------

def test_terms_are_grouped_by_the_side_with_fewer_members():
    a, b, c, d = (Trace() for _ in range(4))
    assert fused([(a, c, 1.0), (b, c, 0.5)]) == [([(1.0, a), (0.5, b)], [(1.0, c)])]
    assert fused([(a, c, 1.0), (a, d, 0.5)]) == [([(1.0, a)], [(1.0, c), (0.5, d)])]
    assert len(fused([(a, c, 1.0), (b, d, 0.5)])) == 2
    assert len(fused([(a, c, 1.0), (b, c, 0.5), (a, d, 0.5)])) == 2


@pytest.mark.parametrize("on_the_second", [[("first", 0.7)], [("t0", 0.7), ("t1", 0.2)], [("first", 0.5), ("t1", 0.2)]],
                         ids=["first pass", "tangents only", "half of the first pass"])
def test_fused_products_are_the_sum_of_the_products(on_the_second):
    net = Network([Dense(3)], (4,), dtype="float64")
    layer, = net.paths
    rng = np.random.default_rng(0)
    first = Trace(factors={layer: rng.standard_normal((5, 4))}, constant=1.0)
    tangents = [Trace(factors={layer: rng.standard_normal((5, 4))}) for _ in range(2)]
    downs = [Trace(factors={layer: rng.standard_normal((5, 3))}) for _ in range(2)]
    ups = {"first": first, "t0": tangents[0], "t1": tangents[1]}
    terms = [(first, downs[0], 1.0), (tangents[0], downs[0], 0.3), (tangents[1], downs[0], -2.0)]
    terms += [(ups[name], downs[1], coefficient) for name, coefficient in on_the_second]

    def products(terms):
        found = {"weight": np.zeros((4, 3)), "bias": np.zeros(3)}

        def write(layer, parts, scale):
            for name, value in parts.items():
                found[name] += scale * value

        weight_gradients(terms, write)
        return found

    together = products(terms)
    single = [products([term]) for term in terms]
    for name in together:
        np.testing.assert_allclose(together[name], sum(part[name] for part in single), rtol=1e-13, atol=1e-13)


def test_a_layer_that_no_trace_reached_has_no_member():
    net = Network([Dense(3)], (4,))
    layer, = net.paths
    ((array, _, _),) = members([layer], [(1.0, Trace())])
    assert array is None


def test_members_are_not_changed_by_the_fusion():
    net = Network([Dense(3)], (4,), dtype="float64")
    layer, = net.paths
    arrays = [np.ones((2, 4)), np.full((2, 4), 2.0)]
    traces = [Trace(factors={layer: a}, constant=c) for a, c in zip(arrays, (1.0, 0.0), strict=True)]
    ((combined, scale, constant),) = members([layer], [(1.0, traces[0]), (0.5, traces[1])])
    np.testing.assert_array_equal(scale * combined, np.full((2, 4), 2.0))
    assert constant == scale * 1.0
    np.testing.assert_array_equal(arrays[0], np.ones((2, 4)))
    assert not np.shares_memory(combined, arrays[0])
