"""Convolution and dense layers: values against plain loops, shapes, options."""
import numpy as np
import plain_loops
import pytest
from layer_tools import attached, normal, parameters

from convnet.layers import Conv, Dense, Flatten
from convnet.passes import first_pass, second_pass

OPTIONS = {
    "plain": (Conv(3, 3), (6, 5, 2), (4, 3, 3)),
    "padded": (Conv(2, 3, padding=1), (4, 5, 2), (4, 5, 2)),
    "stride that does not divide": (Conv(2, 3, stride=2), (8, 6, 1), (3, 2, 2)),
    "pairs": (Conv(2, (4, 2), stride=(2, 3), padding=(1, 0)), (7, 9, 2), (3, 3, 2)),
    "padding above the size": (Conv(1, 2, padding=3), (3, 3, 1), (8, 8, 1)),
    "larger than the image, smaller than the padded one": (Conv(2, 5, padding=2), (3, 2, 1), (3, 2, 2)),
    "no bias": (Conv(2, 2, bias=False), (3, 3, 2), (2, 2, 2)),
}


@pytest.mark.parametrize(("layer", "shape", "expected"), OPTIONS.values(), ids=OPTIONS)
def test_convolution_is_the_plain_loop(layer, shape, expected, cpu_kernels):
    layer = attached(type(layer)(**layer.options()), shape)
    assert layer.output_shape == expected
    x = normal(1, 2, *shape)
    weight, bias = layer.parameters["weight"], layer.parameters.get("bias")
    y = first_pass(layer, x)
    np.testing.assert_allclose(
        y.output, plain_loops.conv(x, weight, bias, layer.stride, layer.padding), rtol=1e-12, atol=1e-12)
    b = normal(2, *y.output.shape)
    np.testing.assert_allclose(
        second_pass(y, b).output, plain_loops.conv_adjoint(b, weight, layer.stride, layer.padding, shape[:2]),
        rtol=1e-12, atol=1e-12)
    gradients = layer.weight_gradients(x, b)
    np.testing.assert_allclose(
        gradients["weight"], plain_loops.conv_weight_gradient(x, b, layer.size, layer.stride, layer.padding),
        rtol=1e-12, atol=1e-12)
    if bias is not None:
        np.testing.assert_allclose(gradients["bias"], b.sum(axis=(0, 1, 2)), rtol=1e-13)


def test_pixels_left_out_by_the_stride_have_no_derivative(cpu_kernels):
    layer = attached(Conv(2, 2, stride=3), (7, 6, 1))
    y = first_pass(layer, normal(1, 2, 7, 6, 1))
    derivative = second_pass(y, normal(2, *y.output.shape)).output
    assert (derivative[:, 2::3] == 0).all() and (derivative[:, :, 2::3] == 0).all() and (derivative[:, 6] == 0).all()
    assert (derivative[:, 0, 0] != 0).all()


def test_a_convolution_as_large_as_the_image_is_a_dense_layer(cpu_kernels):
    x = normal(1, 3, 4, 3, 2)
    conv, dense = attached(Conv(5, (4, 3)), (4, 3, 2)), attached(Dense(5), (24,))
    dense.parameters["weight"][...] = conv.parameters["weight"].reshape(24, 5)
    dense.parameters["bias"][...] = conv.parameters["bias"]
    np.testing.assert_allclose(first_pass(conv, x).output.reshape(3, 5), first_pass(dense, x.reshape(3, 24)).output,
                               rtol=1e-12, atol=1e-13)


def test_dense_is_the_plain_sum(cpu_kernels):
    layer = attached(Dense(3), (4,))
    x = normal(1, 2, 4)
    weight, bias = layer.parameters["weight"], layer.parameters["bias"]
    expected = [[sum(x[n, d] * weight[d, u] for d in range(4)) + bias[u] for u in range(3)] for n in range(2)]
    np.testing.assert_allclose(first_pass(layer, x).output, expected, rtol=1e-13, atol=1e-14)


def test_flatten_goes_row_by_row_with_channels_last():
    layer = attached(Flatten(), (2, 3, 2))
    x = np.arange(12.0).reshape(1, 2, 3, 2)
    np.testing.assert_array_equal(first_pass(layer, x).output, [np.arange(12.0)])
    assert layer.output_shape == (12,)


def test_parameter_shapes():
    assert {k: v.shape for k, v in parameters(attached(Conv(5, (3, 2)), (6, 6, 4))).items()} == {
        "weight": (3, 2, 4, 5), "bias": (5,)}
    assert {k: v.shape for k, v in parameters(attached(Dense(5, bias=False), (3,))).items()} == {"weight": (3, 5)}


@pytest.mark.parametrize("rule", ["he", "glorot", "authors"])
def test_initial_weights_follow_their_rule(rule):
    from convnet.layers import Builder

    layer = Conv(200, 5)
    layer.attach((5, 5, 8), Builder(np.random.default_rng(0), np.dtype("float64"), rule))
    weight = layer.parameters["weight"]
    fan_in, fan_out = 25 * 8, 25 * 200
    variance = {"he": 2 / fan_in, "glorot": 2 / (fan_in + fan_out), "authors": 2 / fan_in / 12}[rule]
    np.testing.assert_allclose(weight.var(), variance, rtol=0.03)  # 40 000 weights: a deviation of 0.7 % at most
    assert abs(weight.mean()) < 4 * np.sqrt(variance / weight.size)
    limit = {"he": np.inf, "glorot": np.sqrt(6 / (fan_in + fan_out)), "authors": np.sqrt(2 / fan_in) / 2}[rule]
    assert np.abs(weight).max() <= limit and (layer.parameters["bias"] == 0).all()


BAD_OPTIONS = {
    "no filters": (lambda: Conv(0, 3), "filters is 0"),
    "half a filter": (lambda: Conv(2.5, 3), "filters is 2.5"),
    "true filters": (lambda: Conv(True, 3), "filters is True"),
    "size 0": (lambda: Conv(2, 0), "size is 0"),
    "three sizes": (lambda: Conv(2, (3, 3, 3)), r"size is \(3, 3, 3\)"),
    "size of a half": (lambda: Conv(2, (3, 1.5)), r"size is \(3, 1.5\)"),
    "stride 0": (lambda: Conv(2, 3, stride=0), "stride is 0"),
    "negative padding": (lambda: Conv(2, 3, padding=(0, -1)), r"padding is \(0, -1\)"),
    "no units": (lambda: Dense(0), "units is 0"),
    "a bias in words": (lambda: Conv(2, 3, bias="no"), "bias is 'no'; it must be True or False"),
    "a bias of 0": (lambda: Dense(2, bias=0), "bias is 0"),
    "units in words": (lambda: Dense("ten"), "units is 'ten'"),
}


@pytest.mark.parametrize(("make", "words"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options_are_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


BAD_SHAPES = {
    "window larger than the padded image": (Conv(2, 7, padding=1), (4, 9, 1), "larger than the padded image"),
    "conv of flat features": (Conv(2, 3), (9,), r"needs images \(H, W, C\)"),
    "dense of images": (Dense(2), (3, 3, 1), r"put Flatten\(\) first"),
}


@pytest.mark.parametrize(("layer", "shape", "words"), BAD_SHAPES.values(), ids=BAD_SHAPES)
def test_impossible_input_shapes_are_refused(layer, shape, words):
    with pytest.raises(ValueError, match=words):
        attached(type(layer)(**layer.options()), shape)


@pytest.mark.parametrize("x", [np.zeros((2, 5, 6, 2)), np.zeros((6, 5, 2)), np.zeros((0, 6, 5, 2))],
                         ids=["rows and columns exchanged", "no sample axis", "no samples"])
def test_inputs_of_another_shape_are_refused(x):
    with pytest.raises(ValueError, match=r"it must be \(N, 6, 5, 2\)"):
        first_pass(attached(Conv(2, 3), (6, 5, 2)), x)


def test_a_layer_belongs_to_one_place():
    layer = attached(Dense(2), (3,))
    with pytest.raises(ValueError, match="already belongs to a network"):
        attached(layer, (3,))
