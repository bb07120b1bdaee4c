"""Pooling: values against plain loops, ties, overlaps, numbers that are none."""
import numpy as np
import plain_loops
import pytest
from layer_tools import attached, normal

from convnet.layers import MaxPool, MeanPool
from convnet.passes import first_pass, inference, second_pass, third_pass

GEOMETRY = {
    "tiling": (2, 2, (6, 4, 2)), "overlapping": (3, 2, (9, 7, 2)), "stride 1": (3, 1, (5, 4, 1)),
    "not dividing": (2, 2, (7, 5, 3)), "pairs": ((3, 2), (1, 3), (6, 9, 2)), "gaps": (2, 3, (8, 9, 1)),
}


@pytest.mark.parametrize(("size", "stride", "shape"), GEOMETRY.values(), ids=GEOMETRY)
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_max_pooling_is_the_plain_loop(size, stride, shape, ties, cpu_kernels):
    layer = attached(MaxPool(size, stride), shape)
    x = normal(1, 2, *shape)
    if ties:
        x = np.sign(x)
    y = first_pass(layer, x)
    expected, where = plain_loops.max_pool(x, layer.size, layer.stride)
    np.testing.assert_array_equal(y.output, expected)
    assert y.output.shape[1:] == layer.output_shape
    b, t = normal(2, *expected.shape), normal(3, *x.shape)
    np.testing.assert_allclose(second_pass(y, b).output,
                               plain_loops.max_pool_scatter(b, where, layer.size, layer.stride, shape[:2]),
                               rtol=1e-13, atol=1e-14)
    np.testing.assert_array_equal(third_pass(y, t).output,
                                  plain_loops.max_pool_gather(t, where, layer.size, layer.stride))
    np.testing.assert_array_equal(inference(layer, x), expected)


@pytest.mark.parametrize(("size", "stride", "shape"), GEOMETRY.values(), ids=GEOMETRY)
def test_mean_pooling_is_the_plain_loop(size, stride, shape, cpu_kernels):
    layer = attached(MeanPool(size, stride), shape)
    x = normal(1, 2, *shape)
    y = first_pass(layer, x)
    np.testing.assert_allclose(y.output, plain_loops.mean_pool(x, layer.size, layer.stride), rtol=1e-12, atol=1e-14)
    b = normal(2, *y.output.shape)
    np.testing.assert_allclose(second_pass(y, b).output,
                               plain_loops.mean_pool_adjoint(b, layer.size, layer.stride, shape[:2]),
                               rtol=1e-12, atol=1e-14)


def test_of_equal_values_the_first_one_row_by_row_wins(cpu_kernels):
    layer = attached(MaxPool(2, 2), (2, 4, 1))
    x = np.array([[1.0, 5, 7, 7], [5, 5, 7, 7]]).reshape(1, 2, 4, 1)
    y = first_pass(layer, x)
    derivative = second_pass(y, np.array([2.0, 3]).reshape(1, 1, 2, 1)).output
    np.testing.assert_array_equal(derivative[0, :, :, 0], [[0, 2, 3, 0], [0, 0, 0, 0]])
    t = np.arange(8.0).reshape(x.shape)
    np.testing.assert_array_equal(third_pass(y, t).output.ravel(), [1, 2])


def test_a_constant_image_is_all_ties(cpu_kernels):
    layer = attached(MaxPool(3, 2), (5, 5, 1))
    y = first_pass(layer, np.zeros((1, 5, 5, 1)))
    derivative = second_pass(y, np.ones((1, 2, 2, 1))).output[0, :, :, 0]
    expected = np.zeros((5, 5))
    expected[:3:2, :3:2] = 1  # the upper left cell of each window
    np.testing.assert_array_equal(derivative, expected)


def test_a_pixel_that_wins_several_windows_receives_all_their_derivatives_and_serves_all_of_them(cpu_kernels):
    # With 3x3 windows and stride 2 the middle pixel lies in four windows.
    layer = attached(MaxPool(3, 2), (5, 5, 1))
    x = normal(1, 1, 5, 5, 1)
    x[0, 2, 2] = 10
    y = first_pass(layer, x)
    b = np.array([[1.0, -2], [4, 8]]).reshape(1, 2, 2, 1)
    derivative = second_pass(y, b).output
    assert derivative[0, 2, 2, 0] == 11 and np.count_nonzero(derivative) == 1
    t = normal(2, 1, 5, 5, 1)
    np.testing.assert_array_equal(third_pass(y, t).output, np.full((1, 2, 2, 1), t[0, 2, 2, 0]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_not_a_number_is_seen_and_infinities_are_values(cpu_kernels, dtype):
    layer = attached(MaxPool(2, 2), (2, 8, 1))
    inf, nan = np.inf, np.nan
    x = np.array([[nan, 1, 1, nan, -inf, -inf, 0, inf], [2, 3, inf, 2, -inf, -inf, inf, 1]], dtype).reshape(1, 2, 8, 1)
    y = first_pass(layer, x)
    np.testing.assert_array_equal(y.output.ravel(), [nan, nan, -inf, inf])
    derivative = second_pass(y, np.array([1, 2, 3, 4], dtype).reshape(1, 1, 4, 1)).output
    np.testing.assert_array_equal(derivative[0, :, :, 0], [[1, 0, 0, 2, 3, 0, 0, 4], [0] * 8])


def test_mean_pooling_shows_what_is_not_finite(cpu_kernels):
    layer = attached(MeanPool(2, 2), (2, 4, 1))
    x = np.array([[np.nan, 1, 1, np.inf], [2, 3, 0, 2]]).reshape(1, 2, 4, 1)
    np.testing.assert_array_equal(first_pass(layer, x).output.ravel(), [np.nan, np.inf])


@pytest.mark.parametrize("kind", [MaxPool, MeanPool])
@pytest.mark.parametrize(("options", "words"), [
    ((0, 1), "size is 0"), ((2, 0), "stride is 0"), (((2, 2, 2), 1), r"size is \(2, 2, 2\)"), ((2, 1.5), "stride is 1.5"),
], ids=["size 0", "stride 0", "three sizes", "broken stride"])
def test_bad_options_are_refused_by_name(kind, options, words):
    with pytest.raises(ValueError, match=words):
        kind(*options)


@pytest.mark.parametrize("kind", [MaxPool, MeanPool])
def test_impossible_input_shapes_are_refused(kind):
    with pytest.raises(ValueError, match="larger than the padded image"):
        attached(kind(3, 1), (2, 5, 1))
    with pytest.raises(ValueError, match="needs images"):
        attached(kind(3, 1), (25,))
