"""Algorithms, and anything else with options, by name."""
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from convnet import passes
from convnet.algorithms import KNOWN, by_spec, candidates, needs_tangents
from convnet.losses import MultiClassHinge, SoftmaxCrossEntropy
from convnet.passes import (
    AdversarialTraining,
    Backprop,
    HessianFrobenius,
    JacobianRegularizer,
    LossIBP,
    PredictionIBP,
    TangentProp,
)
from convnet.specs import Kind, describe, differences, make, split


@pytest.mark.parametrize(("spec", "algorithm"), [
    ("bp", Backprop()),
    ("loss-ibp:beta=0.03,exact=true", LossIBP(0.03, exact=True)),
    (" loss-ibp:beta=3e-2, norm=2 ", LossIBP(0.03, norm=2)),
    ("prediction-ibp:beta=1,at=output", PredictionIBP(1.0, at="output")),
    ("tangent-prop:beta=0.1", TangentProp(0.1)),
    ("fast-tangent-prop:beta=0.1,exact=no", TangentProp(0.1, fast=True)),
    ("at:epsilon=0.1,norm=2", AdversarialTraining(0.1, norm=2)),
    ("fast-at:epsilon=0.1", AdversarialTraining(0.1, fast=True)),
    ("jacobian:strength=2,projections=3", JacobianRegularizer(2.0, projections=3)),
    ("frobenius:strength=2,projections=none", JacobianRegularizer(2.0, at="logits")),
    ("hessian-frobenius:strength=1,variant=db1", HessianFrobenius(1.0, variant="db1")),
])
def test_specs_name_algorithms(spec, algorithm):
    assert by_spec(spec) == algorithm


def test_every_exported_algorithm_has_a_name():
    exported = {value for value in vars(passes).values() if isinstance(value, type) and issubclass(value, passes.Algorithm)}
    assert {kind.type for kind in KNOWN.values()} == exported - {passes.Algorithm, passes.Penalty, passes.SumOfPenalties}


def test_every_combination_of_offered_values_is_a_candidate():
    found = candidates("loss-ibp:beta=0.1|0.2,norm=1|2")
    assert [spec for spec, _ in found] == [f"loss-ibp:beta={beta},norm={norm}" for beta in (0.1, 0.2) for norm in (1, 2)]
    assert found[2][1] == LossIBP(0.2, norm=1)


def test_only_tangent_propagation_needs_tangents():
    values = {"beta": 0.1, "epsilon": 0.1, "sigma": 0.1, "strength": 0.1}
    needing = set()
    for name, kind in KNOWN.items():
        required = [f"{key}={values[key]}" for key in kind.options() if key in values]
        if needs_tangents(by_spec(f"{name}:{','.join(required)}")):
            needing.add(name)
    assert needing == {"tangent-prop", "fast-tangent-prop"}


@pytest.mark.parametrize(("spec", "message"), [
    ("los-ibp:beta=1", "unknown algorithm 'los-ibp'; did you mean 'loss-ibp'"),
    ("loss-ibp", "needs beta: write loss-ibp:beta="),
    ("loss-ibp:bta=1", "unknown loss-ibp option 'bta'; did you mean 'beta'"),
    ("loss-ibp:beta=big", "beta is 'big'; it must be a number"),
    ("loss-ibp:beta=1,norm=1.5", "norm is '1.5'; it must be a whole number"),
    ("loss-ibp:beta=1,exact=ja", "exact is 'ja'; it must be true or false"),
    ("loss-ibp:beta", "option 'beta' has no value"),
    ("loss-ibp:beta=1,beta=2", "given twice"),
    ("loss-ibp:beta=-1", "beta is -1.0"),
    ("fast-at:epsilon=1,fast=false", "unknown fast-at option 'fast'"),
    ("loss-ibp:beta=1|2", "several values"),
    ("", "unknown algorithm ''"),
])
def test_what_a_spec_gets_wrong_is_named(spec, message):
    with pytest.raises(ValueError) as caught:
        by_spec(spec)
    assert message in str(caught.value)


def test_lists_are_split_between_specs_and_not_inside_them():
    assert split("bp,loss-ibp:beta=0.1|0.2,exact=true, at:epsilon=1,noise:sigma=0.1") == [
        "bp", "loss-ibp:beta=0.1|0.2,exact=true", "at:epsilon=1", "noise:sigma=0.1"]


@dataclass(frozen=True)
class Thing:
    """An example with all kinds of options."""

    size: int = 3
    share: float | None = None
    name: str = "x"
    on: bool = False


def test_values_take_the_type_of_their_option():
    kinds = {"thing": Kind(Thing, {"name": "fixed"})}
    assert make("thing", "thing:size=4,share=1,on=TRUE", kinds) == Thing(4, 1.0, "fixed", True)
    assert type(make("thing", "thing:share=1", kinds).share) is float
    assert make("thing", "thing:share=none", kinds).share is None
    assert kinds["thing"].usage("thing") == "thing:size=3,share=none,on=false"


def test_descriptions_tell_different_things_apart():
    assert describe(LossIBP(0.1)) == {"type": "LossIBP", "beta": 0.1, "norm": 1, "exact": False}
    assert describe(LossIBP(0.1)) == describe(by_spec("loss-ibp:beta=1e-1"))
    both = describe(LossIBP(0.1) + TangentProp(0.2))
    assert [part["type"] for part in both["parts"]] == ["LossIBP", "TangentProp"]
    assert describe(describe) == "convnet.specs.describe"
    assert describe({"weights": np.array([1.0, 2.0])}) == {"weights": [1.0, 2.0]}
    assert describe([SoftmaxCrossEntropy([1, 2]), MultiClassHinge(2.0)]) == [
        {"type": "SoftmaxCrossEntropy", "class_weights": [1.0, 2.0]},
        {"type": "MultiClassHinge", "class_weights": None, "margin": 2.0, "form": "max"}]


def test_losses_are_described_the_same_before_and_after_use():
    loss = SoftmaxCrossEntropy([1, 2])
    before = describe(loss)
    loss.value(np.zeros((3, 2)), np.eye(2)[[0, 1, 1]])
    assert describe(loss) == before


class Hidden(LossIBP):
    def __init__(self, beta, temperature):
        super().__init__(beta)
        object.__setattr__(self, "temperature", temperature)


@pytest.mark.parametrize("thing", [
    lambda epoch: epoch, object(), Hidden(0.1, 2.0), [Hidden(0.1, 2.0)], [].append, partial(print, 3, object()),
], ids=["lambda", "object", "hidden option", "inside", "method", "partial"])
def test_what_does_not_tell_its_options_has_no_description(thing):
    with pytest.raises(TypeError, match=r"first.*is.*make it a dataclass"):
        describe({"first": thing})


def test_differences_are_named_where_they_are():
    ours = {"a": 1, "b": [1, 2], "c": "new", "e": {"type": "T", "x": 0.1, "y": [{"z": 2}]}, "f": [1], "g": {"type": "A", "n": 1}}
    theirs = {"a": 1, "b": [1, 3], "d": None, "e": {"type": "T", "x": 0.0, "y": [{"z": 3}]}, "f": [], "g": {"type": "B"}}
    assert list(differences(ours, theirs)) == [
        "b[1] is 3 there and 2 here", "c is None there and new here", "e.x is 0.0 there and 0.1 here",
        "e.y[0].z is 3 there and 2 here", "f has 0 entries there and 1 here",
        "g is {'type': 'B'} there and {'type': 'A', 'n': 1} here"]


def test_penalties_are_added_with_a_plus_sign():
    found = candidates("loss-ibp:beta=1e-2|0.1,exact=true+fast-tangent-prop:beta=1e+1")
    assert [spec for spec, _ in found] == [
        f"loss-ibp:beta={beta},exact=true+fast-tangent-prop:beta=1e+1" for beta in ("1e-2", "0.1")]
    assert found[0][1] == LossIBP(0.01, exact=True) + TangentProp(10.0, fast=True)
    with pytest.raises(ValueError, match=r"bp\+noise.*is not a penalty"):
        by_spec("bp+noise:sigma=0.1")
