"""Chains and residual blocks: values, names, and passes that stop where nobody needs more."""
import numpy as np
import pytest
from layer_tools import attached, normal, parameters

from convnet import Network
from convnet.layers import BatchNorm, Conv, Dense, Flatten, MaxPool, MeanPool, ReLU, Residual, Sequential, Tanh
from convnet.passes import first_pass, fourth_pass, second_pass, third_pass
from convnet.passes.products import weight_gradients


def test_a_chain_is_its_layers_one_after_the_other():
    layers = [Dense(4), Tanh(), Dense(2)]
    chain = attached(Sequential(layers), (3,))
    x = normal(1, 5, 3)
    w, c = (parameters(chain)[f"0.{name}"] for name in ("weight", "bias"))
    v, d = (parameters(chain)[f"2.{name}"] for name in ("weight", "bias"))
    np.testing.assert_allclose(first_pass(chain, x).output, np.tanh(x @ w + c) @ v + d, rtol=1e-13)


def test_a_residual_block_adds_its_input():
    block = attached(Residual([Dense(4), Tanh()]), (4,))
    x = normal(1, 5, 4)
    w, c = parameters(block)["body.0.weight"], parameters(block)["body.0.bias"]
    np.testing.assert_allclose(first_pass(block, x).output, np.tanh(x @ w + c) + x, rtol=1e-13)


def test_a_residual_block_adds_its_projection():
    block = attached(Residual([Conv(3, 3)], shortcut=[MeanPool(3, 1), Conv(3, 1)]), (5, 5, 2))
    x = normal(1, 2, 5, 5, 2)
    body = attached(Conv(3, 3), (5, 5, 2))
    short = attached(Sequential([MeanPool(3, 1), Conv(3, 1)]), (5, 5, 2))
    for name, array in parameters(block).items():
        own, _, rest = name.partition(".")
        (parameters(body)[rest.split(".")[1]] if own == "body" else parameters(short)[rest])[...] = array
    expected = first_pass(body, x).output + first_pass(short, x).output
    np.testing.assert_allclose(first_pass(block, x).output, expected, rtol=1e-13)


def test_parameter_names_of_nested_containers():
    net = Network([Conv(2, 1), Residual([Conv(2, 1), Residual([BatchNorm(), ReLU()])], shortcut=[Conv(2, 1, bias=False)]),
                   Sequential([Flatten(), Dense(2)])], (2, 2, 1))
    assert list(net.parameters) == [
        "0.weight", "0.bias", "1.body.0.weight", "1.body.0.bias", "1.body.1.body.0.weight", "1.body.1.body.0.bias",
        "1.shortcut.0.weight", "2.1.weight", "2.1.bias",
    ]
    assert list(net.state) == ["1.body.1.body.0.running_mean", "1.body.1.body.0.running_variance"]


# --- passes that stop early -------------------------------------------------------------------------------------------

PRUNED = {
    "weights at both ends": [Conv(2, 3), ReLU(), MaxPool(2, 2), Flatten(), Dense(3)],
    "nothing to train before and behind": [MeanPool(2, 1), Tanh(), Conv(2, 2), Tanh(), Flatten()],
    "batch normalisation at both ends": [BatchNorm(), Conv(2, 3), Flatten(), BatchNorm()],
    "residual at both ends": [Residual([Conv(1, 3, padding=1), Tanh()]), Flatten(), Residual([Tanh(), Dense(36)])],
    "residual without weights at both ends": [Residual([Tanh()]), Conv(2, 3), Flatten(), Residual([Tanh()])],
    "projection with weights, body without": [Residual([MaxPool(3, 1)], shortcut=[Conv(1, 3)]), Flatten(), Tanh()],
    "nested": [Sequential([Residual([Residual([Tanh(), Conv(1, 1)])])]), Sequential([Flatten(), Sequential([Dense(2)])])],
}


def copied(layers):
    """Return fresh layers with the same options."""
    from convnet.serialization import layers_from_config, layers_to_config

    return layers_from_config(layers_to_config(layers))


@pytest.mark.parametrize("layers", PRUNED.values(), ids=PRUNED)
def test_passes_that_stop_early_bring_every_weight_the_same(layers):
    chain = attached(Sequential(copied(layers)), (6, 6, 1))
    x, t = normal(1, 3, 6, 6, 1), normal(2, 3, 6, 6, 1)
    y = first_pass(chain, x, training=True)
    b, s = normal(3, *y.output.shape), normal(4, *y.output.shape)
    gradients = []
    for whole in (True, False):
        down, up = second_pass(y, b, to_input=whole), third_pass(y, t, to_output=whole)
        full_up = third_pass(y, t)
        fourth = fourth_pass(y, s, [(full_up, second_pass(y, b))], to_input=whole)
        gradients.append({terms: products(chain, [terms_of[terms]]) for terms_of in [{
            "G(y, b)": (y, down, 1.0), "G(t, b)": (up, down, 1.0), "G(y, s)": (y, fourth, 1.0)}] for terms in terms_of})
        # Past the layers that end it, a pass may still go through an identity shortcut: that is no result.
        assert (down.output is not None) == (up.output is not None) == (fourth.output is not None) == whole
    assert parameters(chain).keys() == gradients[0]["G(y, b)"].keys()
    for term, found in gradients[0].items():
        for name, array in found.items():
            if term != "G(t, b)" or not name.endswith("bias"):  # a tangent brings a bias nothing
                assert np.abs(array).max() > 0
            np.testing.assert_array_equal(gradients[1][term][name], array)


def products(chain, terms):
    """Return the weight-gradient products by path."""
    paths = {leaf: path for path, leaf in chain.leaves()}
    found = {}

    def write(leaf, parts, scale):
        for name, value in parts.items():
            found[f"{paths[leaf]}.{name}"] = found.get(f"{paths[leaf]}.{name}", 0) + scale * value

    weight_gradients(terms, write)
    return found


def test_a_pass_that_stops_early_does_less(monkeypatch):
    chain = attached(Sequential([Tanh(), Dense(4), Tanh(), Dense(3), Tanh()]), (5,))
    calls = []
    for name in ("backward", "third_pass"):
        for kind in (Dense, Tanh):
            original = getattr(kind, name)
            monkeypatch.setattr(kind, name, lambda self, a, r, original=original, kind=kind: calls.append(kind.__name__)
                                or original(self, a, r))
    y = first_pass(chain, normal(1, 2, 5))
    second_pass(y, normal(2, 2, 3), to_input=False)
    assert calls == ["Tanh", "Dense", "Tanh"]
    calls.clear()
    third_pass(y, normal(3, 2, 5), to_output=False)
    # The third pass of tanh is its backward method (Theorem 2), which is counted too.
    assert [name for name in calls if name == "Dense"] == ["Dense"]


# --- convolution, relu and max pooling in a row -----------------------------------------------------------------------

def test_a_subclass_in_a_row_of_three_is_not_passed_over(cpu_kernels):
    # Kernels may compute these three layers at once; what a subclass does differently has to be done all the same.
    class Negated(MaxPool):
        def forward(self, x, record):
            return -super().forward(x, record)

    class Doubled(ReLU):
        def forward(self, x, record):
            return 2 * super().forward(x, record)

    x = normal(1, 2, 6, 6, 1)
    plain = first_pass(attached(Sequential([Conv(2, 3), ReLU(), MaxPool(2, 2)]), (6, 6, 1)), x).output
    for layers, factor in (([Conv(2, 3), ReLU(), Negated(2, 2)], -1), ([Conv(2, 3), Doubled(), MaxPool(2, 2)], 2)):
        np.testing.assert_allclose(first_pass(attached(Sequential(layers), (6, 6, 1)), x).output, factor * plain, rtol=1e-13)


def test_what_is_not_a_number_is_seen_behind_a_row_of_three(cpu_kernels):
    chain = attached(Sequential([Conv(2, 3), ReLU(), MaxPool(2, 2)]), (6, 6, 1))
    x = normal(1, 2, 6, 6, 1)
    x[1, 2, 2] = np.nan
    y = first_pass(chain, x).output
    assert np.isfinite(y[0]).all() and np.isnan(y[1]).all()


def test_windows_that_are_negative_throughout_pass_nothing(cpu_kernels):
    chain = attached(Sequential([Conv(1, 1, bias=False), ReLU(), MaxPool(2, 1)]), (3, 3, 1))
    parameters(chain)["0.weight"][...] = 1
    x = np.array([[-1.0, -2, 3], [-3, -4, 2], [-1, -1, 1]]).reshape(1, 3, 3, 1)
    y = first_pass(chain, x)
    np.testing.assert_array_equal(y.output[0, :, :, 0], [[0, 3], [0, 2]])
    derivative = second_pass(y, np.array([[1.0, 2], [4, 8]]).reshape(1, 2, 2, 1)).output[0, :, :, 0]
    np.testing.assert_array_equal(derivative, [[0, 0, 2], [0, 0, 8], [0, 0, 0]])
    t = np.arange(1.0, 10).reshape(1, 3, 3, 1)
    np.testing.assert_array_equal(third_pass(y, t).output[0, :, :, 0], [[0, 3], [0, 6]])


# --- bad structures ---------------------------------------------------------------------------------------------------

def test_branches_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"the body gives \(4, 4, 3\), but the identity shortcut gives \(6, 6, 2\)"):
        attached(Residual([Conv(3, 3)]), (6, 6, 2))
    with pytest.raises(ValueError, match=r"the projection gives \(6, 6, 3\)"):
        attached(Residual([Conv(3, 3)], shortcut=[Conv(3, 1)]), (6, 6, 2))


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Sequential([Dense]), "a class instead of an instance"),
    (lambda: Sequential(Dense(2)), "list of layers"),
    (lambda: Residual("body"), "body must be a list of layers"),
    (lambda: Residual([Dense(2)], shortcut=[3]), "shortcut holds 3"),
], ids=["a class", "a layer without a list", "a word", "a number"])
def test_what_is_not_a_list_of_layers_is_refused(make, words):
    with pytest.raises(TypeError, match=words):
        make()


def test_a_layer_in_two_places_is_refused():
    shared = Dense(3)
    with pytest.raises(ValueError, match="already belongs to a network"):
        attached(Sequential([shared, shared]), (3,))


def test_errors_name_the_place_in_the_chain():
    with pytest.raises(ValueError, match=r"layer 1\.body\.0.*put Flatten\(\) first"):
        Network([Conv(2, 3), Residual([Dense(2)])], (5, 5, 1))
