"""Batch normalisation against its definition, and its running statistics."""
import numpy as np
import pytest
from layer_tools import attached, normal, parameters

from convnet import Network
from convnet.layers import BatchNorm, Conv, Dense, Flatten
from convnet.passes import first_pass, second_pass, third_pass


@pytest.mark.parametrize("shape", [(4, 3, 2), (5,)], ids=["images", "features"])
def test_forward_is_the_definition(shape):
    layer = attached(BatchNorm(epsilon=0.01), shape)
    scale, offset = parameters(layer)["weight"], parameters(layer)["bias"]
    scale[...], offset[...] = normal(2, *scale.shape), normal(3, *offset.shape)
    x = 3 * normal(1, 6, *shape) + 2
    y = first_pass(layer, x, training=True).output
    for c in range(shape[-1]):
        values = [float(v) for v in x[..., c].ravel()]
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / len(values)
        expected = scale[c] * (x[..., c] - mean) / np.sqrt(variance + 0.01) + offset[c]
        np.testing.assert_allclose(y[..., c], expected, rtol=1e-12, atol=1e-13)


def test_inference_uses_the_running_statistics():
    layer = attached(BatchNorm(epsilon=0.5), (3,))
    (_, normalize), (_, scale) = layer.leaves()
    normalize.state = {"running_mean": np.array([1.0, 2, 3]), "running_variance": np.array([0.5, 3.5, 8.5])}
    x = normal(1, 4, 3)
    y = first_pass(layer, x).output
    expected = (x - [1, 2, 3]) / [1, 2, 3] * scale.parameters["weight"] + scale.parameters["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-14, atol=1e-15)


def test_running_statistics_move_by_one_minus_momentum_and_only_when_told():
    net = Network([Flatten(), BatchNorm(momentum=0.75)], (2, 1, 2), dtype="float64")
    x = normal(1, 5, 2, 1, 2)
    first = first_pass(net.root, x, training=True)
    before = {name: array.copy() for name, array in net.state.items()}
    new = net.updated_state(first.records)
    flat = x.reshape(5, 4)
    np.testing.assert_allclose(new["1.running_mean"], 0.25 * flat.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(new["1.running_variance"], 0.75 + 0.25 * flat.var(axis=0), rtol=1e-13)
    assert all(np.array_equal(net.state[name], before[name]) for name in before)
    net.set_state(new)
    np.testing.assert_array_equal(net.state["1.running_mean"], new["1.running_mean"])


def test_every_pass_couples_the_samples_in_training_and_none_does_at_inference():
    layer = attached(BatchNorm(), (3,))
    x, t = normal(1, 4, 3), np.zeros((4, 3))
    t[0] = 1.0
    for training, coupled in ((True, True), (False, False)):
        y = first_pass(layer, x, training=training)
        others = [third_pass(y, t).output[1:], second_pass(y, t).output[1:]]
        assert all((abs(o) > 1e-4).all() if coupled else (o == 0).all() for o in others)


def test_a_constant_added_to_a_channel_changes_nothing_in_training():
    layer = attached(Conv(2, 2), (4, 4, 1)), attached(BatchNorm(), (3, 3, 2))
    x = normal(1, 3, 4, 4, 1)
    z = first_pass(layer[0], x).output
    one, two = (first_pass(layer[1], z + c, training=True).output for c in (0.0, 5.0))
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-13)


def test_the_layer_s_arrays_carry_its_own_path():
    net = Network([Dense(4), BatchNorm(), Dense(2)], (3,))
    assert [name for name in net.parameters if name.startswith("1.")] == ["1.weight", "1.bias"]
    assert list(net.state) == ["1.running_mean", "1.running_variance"]
    assert (net.parameters["1.weight"] == 1).all() and (net.parameters["1.bias"] == 0).all()
    assert (net.state["1.running_mean"] == 0).all() and (net.state["1.running_variance"] == 1).all()


def test_scale_and_offset_are_not_decayed():
    net = Network([Dense(2), BatchNorm(), Dense(2)], (3,))
    decayed = {name: array for name, array in net.views(net.decay_mask).items()}
    assert [name for name, mask in decayed.items() if mask.any()] == ["0.weight", "2.weight"]


def test_one_value_per_channel_is_refused_in_training_only():
    layer = attached(BatchNorm(), (3,))
    with pytest.raises(ValueError, match="single sample"):
        first_pass(layer, normal(1, 1, 3), training=True)
    assert first_pass(layer, normal(1, 1, 3)).output.shape == (1, 3)
    assert first_pass(attached(BatchNorm(), (2, 2, 3)), normal(1, 1, 2, 2, 3), training=True).output.shape == (1, 2, 2, 3)


def test_a_constant_channel_stays_finite():
    layer = attached(BatchNorm(), (2,))
    x = np.stack([np.full(4, 7.0), normal(1, 4)], axis=1)
    y = first_pass(layer, x, training=True)
    assert np.isfinite(y.output).all() and np.isfinite(second_pass(y, normal(2, 4, 2)).output).all()


@pytest.mark.parametrize(("options", "words"), [
    ({"momentum": 1.0}, "momentum is 1.0"), ({"momentum": -0.1}, "momentum is -0.1"), ({"epsilon": -1e-5}, "epsilon is"),
    ({"epsilon": float("nan")}, "epsilon is nan"), ({"momentum": "high"}, "momentum is 'high'"),
])
def test_bad_options_are_refused_by_name(options, words):
    with pytest.raises(ValueError, match=words):
        BatchNorm(**options)
