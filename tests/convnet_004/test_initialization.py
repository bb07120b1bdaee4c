"""Initial weights by name: mean 0 and the variance that each rule states, for every kind of layer."""
import numpy as np
import pytest

import convnet
from convnet.layers import Builder, ComplexConv, Conv, Deconv, Dense, Flatten

# Inputs and outputs of a unit, number of weights.
LAYERS = {
    "dense": (lambda: [Dense(300)], (200,), 200, 300),
    "conv": (lambda: [Conv(120, 5), Flatten()], (5, 5, 24), 25 * 24, 25 * 120),
    "deconv": (lambda: [Deconv(120, 4, stride=2), Flatten()], (3, 3, 64), 4 * 64, 16 * 120),
    "complex": (lambda: [ComplexConv(120, 5), Flatten()], (5, 5, 12), 25 * 12, 25 * 120),
}
VARIANCE = {
    "he": lambda fan_in, fan_out: 2 / fan_in,
    "glorot": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    # Uniform on ±sqrt(2 / fan_in) / 2: a third of the square of the bound.
    "authors": lambda fan_in, fan_out: 1 / (6 * fan_in),
}


@pytest.mark.parametrize("rule", VARIANCE)
@pytest.mark.parametrize("kind", LAYERS)
def test_mean_and_variance(kind, rule):
    make, shape, fan_in, fan_out = LAYERS[kind]
    net = convnet.Network(make(), shape, seed=1, dtype="float64", initialization=rule)
    weight = net.parameters["0.weight"].ravel()
    variance = VARIANCE[rule](fan_in, fan_out)
    parts = [weight.real, weight.imag] if np.iscomplexobj(weight) else [weight]
    for part in parts:
        expected, n = variance / len(parts), part.size
        # Four standard deviations of the estimates; a normal's fourth moment bounds a uniform's.
        assert abs(part.mean()) < 4 * np.sqrt(expected / n)
        assert abs((part**2).mean() / expected - 1) < 4 * np.sqrt(2 / n)
    if len(parts) == 2:
        assert abs((parts[0] * parts[1]).mean()) < 4 * variance / 2 / np.sqrt(weight.size)
    if "0.bias" in net.parameters:
        assert not net.parameters["0.bias"].any()


@pytest.mark.parametrize("rule", VARIANCE)
def test_distribution(rule):
    """"he" is normal, the others uniform up to the bound that their variance gives."""
    weight = Builder(np.random.default_rng(0), np.dtype("float64"), rule).weight((400, 100), 400, 100)
    spread = np.abs(weight).max() / np.sqrt(VARIANCE[rule](400, 100))
    if rule == "he":
        assert 3.5 < spread < 5.5
    else:
        assert np.sqrt(3) * 0.999 < spread <= np.sqrt(3)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    first, same, other = (convnet.Network([ComplexConv(3, 2), Flatten()], (4, 4, 1), seed=s).vector for s in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert (first != other).all()


def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match="initialization is 'zeros'; it must be one of he, glorot, authors"):
        convnet.Network([Dense(3)], (2,), initialization="zeros")
