"""Activations: values, slopes at the kinks, and inputs at the ends of the number line."""
import math

import numpy as np
import pytest
from layer_tools import attached, normal

from convnet.layers import LeakyReLU, ReLU, Sigmoid, Softmax, Tanh
from convnet.passes import first_pass, fourth_pass, second_pass, third_pass


def passes(layer, values, b):
    """Return forward, backward and third pass of a row of values."""
    layer = attached(layer, (len(values),))
    y = first_pass(layer, np.array([values]))
    b = np.array([b])
    return y.output[0], second_pass(y, b).output[0], third_pass(y, b).output[0]


def test_relu_has_slope_0_at_0(cpu_kernels):
    y, backward, third = passes(ReLU(), [-1.0, -0.0, 0.0, 1e-300, 2.0], [3.0] * 5)
    np.testing.assert_array_equal(y, [0, 0, 0, 1e-300, 2])
    np.testing.assert_array_equal(backward, [0, 0, 0, 3, 3])
    np.testing.assert_array_equal(third, backward)


def test_leaky_relu_has_its_slope_at_0(cpu_kernels):
    y, backward, third = passes(LeakyReLU(0.25), [-4.0, 0.0, 2.0], [8.0] * 3)
    np.testing.assert_array_equal(y, [-1, 0, 2])
    np.testing.assert_array_equal(backward, [2, 2, 8])
    np.testing.assert_array_equal(third, backward)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_infinities_pass_through_relu(cpu_kernels, dtype):
    layer = attached(ReLU(), (3,), dtype=dtype)
    y = first_pass(layer, np.array([[-np.inf, np.inf, np.nan]], dtype))
    np.testing.assert_array_equal(y.output, [[0, np.inf, np.nan]])
    # A derivative that is not finite is not let through where the unit is off: 0 · inf does not arise.
    np.testing.assert_array_equal(second_pass(y, np.array([[np.inf, np.inf, 1]], dtype)).output[0, :2], [0, np.inf])


def test_infinities_pass_through_leaky_relu():
    y, _, _ = passes(LeakyReLU(0.5), [-np.inf, np.inf], [1.0, 1.0])
    np.testing.assert_array_equal(y, [-np.inf, np.inf])


@pytest.mark.parametrize(("layer", "low", "high"), [(Sigmoid, 0.0, 1.0), (Tanh, -1.0, 1.0)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_saturated_units_neither_overflow_nor_warn(layer, low, high, dtype):
    layer = attached(layer(), (4,), dtype=dtype)
    y = first_pass(layer, np.array([[-np.inf, -1e4, 1e4, np.inf]], dtype))
    np.testing.assert_array_equal(y.output, [[low, low, high, high]])
    one = np.ones((1, 4), dtype)
    np.testing.assert_array_equal(second_pass(y, one).output, np.zeros((1, 4)))
    t, b = third_pass(y, one), second_pass(y, one)
    np.testing.assert_array_equal(fourth_pass(y, None, [(t, b)], to_input=True).output, np.zeros((1, 4)))


def test_sigmoid_and_tanh_are_the_functions_of_the_standard_library():
    values = normal(1, 9) * 3
    np.testing.assert_allclose(passes(Sigmoid(), values, values)[0], [1 / (1 + math.exp(-v)) for v in values], rtol=1e-14)
    np.testing.assert_allclose(passes(Tanh(), values, values)[0], [math.tanh(v) for v in values], rtol=1e-14)


def test_softmax_is_its_definition():
    values = normal(1, 6)
    y, _, _ = passes(Softmax(), values, values)
    total = sum(math.exp(v) for v in values)
    np.testing.assert_allclose(y, [math.exp(v) / total for v in values], rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_of_large_logits_neither_overflows_nor_warns(dtype):
    layer = attached(Softmax(), (3,), dtype=dtype)
    y = first_pass(layer, np.array([[1e30, 0, -1e30], [-1e4, -1e4, -1e4]], dtype))
    np.testing.assert_allclose(y.output, [[1, 0, 0], [1 / 3] * 3], rtol=1e-6)


def test_softmax_does_not_change_with_a_constant_added():
    layer = attached(Softmax(), (5,))
    x = normal(1, 2, 5)
    np.testing.assert_allclose(first_pass(layer, x + 100).output, first_pass(layer, x).output, rtol=1e-12)
    y = first_pass(layer, x)
    np.testing.assert_allclose(third_pass(y, np.ones((2, 5))).output, 0, atol=1e-16)
    np.testing.assert_allclose(second_pass(y, normal(2, 2, 5)).output.sum(axis=1), 0, atol=1e-16)


@pytest.mark.parametrize("slope", [-0.1, 1.0, float("nan"), "steep", None])
def test_bad_slopes_are_refused(slope):
    with pytest.raises(ValueError, match="slope is"):
        LeakyReLU(slope)
