"""The reference kernels against plain loops, over drawn geometry, and their conventions."""
import numpy as np
import plain_loops
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convnet.kernels.reference import ReferenceKernels, col2im, im2col

KERNELS = ReferenceKernels()
DRAWN = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def geometry(draw, padded=True):
    """Draw an image, a window that fits into it, a stride of any size, and a padding."""
    size = draw(st.tuples(*[st.integers(1, 3)] * 2))
    padding = draw(st.tuples(*[st.integers(0, 2)] * 2)) if padded else (0, 0)
    image = tuple(draw(st.integers(max(1, s - 2 * p), 6)) for s, p in zip(size, padding, strict=True))
    stride = draw(st.tuples(*[st.integers(1, 4)] * 2))
    n, channels, filters = draw(st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3)))
    return n, image, channels, filters, size, stride, padding


def arrays(n, image, channels, filters, size, stride, padding):
    """Return images, filters, a bias and derivatives of both signs."""
    rng = np.random.default_rng([n, *image, channels, filters, *size, *stride, *padding])
    counts = plain_loops.output_counts(*image, size, stride, padding)
    return (rng.standard_normal((n, *image, channels)), rng.standard_normal((*size, channels, filters)),
            rng.standard_normal(filters), rng.standard_normal((n, *counts, filters)))


@DRAWN
@given(geometry())
def test_convolution_and_its_two_products_are_the_loops(drawn):
    _, image, _, _, size, stride, padding = drawn
    x, weight, bias, b = arrays(*drawn)
    close = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(
        KERNELS.conv(x, weight, bias, stride, padding), plain_loops.conv(x, weight, bias, stride, padding), **close)
    np.testing.assert_allclose(
        KERNELS.conv(x, weight, None, stride, padding), plain_loops.conv(x, weight, None, stride, padding), **close)
    np.testing.assert_allclose(
        KERNELS.conv_adjoint(b, weight, stride, padding, image),
        plain_loops.conv_adjoint(b, weight, stride, padding, image), **close)
    np.testing.assert_allclose(
        KERNELS.conv_weight_gradient(x, b, size, stride, padding),
        plain_loops.conv_weight_gradient(x, b, size, stride, padding), **close)


@DRAWN
@given(geometry(padded=False), st.booleans())
def test_max_pooling_is_the_loops_with_and_without_ties(drawn, ties):
    n, image, channels, _, size, stride, _ = drawn
    x, _, _, _ = arrays(*drawn)
    if ties:
        x = np.round(x)  # whole numbers between -3 and 3: many windows have several maxima
    y, where = KERNELS.max_pool(x, size, stride)
    expected, places = plain_loops.max_pool(x, size, stride)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(where, places)
    b = np.random.default_rng(1).standard_normal(y.shape)
    np.testing.assert_allclose(KERNELS.max_pool_scatter(b, where, size, stride, image),
                               plain_loops.max_pool_scatter(b, places, size, stride, image), rtol=1e-12, atol=1e-12)
    t = np.random.default_rng(2).standard_normal((n, *image, channels))
    np.testing.assert_array_equal(KERNELS.max_pool_gather(t, where, size, stride),
                                  plain_loops.max_pool_gather(t, places, size, stride))


@DRAWN
@given(geometry(padded=False))
def test_mean_pooling_is_the_loops(drawn):
    _, image, _, _, size, stride, _ = drawn
    x, _, _, _ = arrays(*drawn)
    y = KERNELS.mean_pool(x, size, stride)
    np.testing.assert_allclose(y, plain_loops.mean_pool(x, size, stride), rtol=1e-12, atol=1e-13)
    b = np.random.default_rng(1).standard_normal(y.shape)
    np.testing.assert_allclose(KERNELS.mean_pool_adjoint(b, size, stride, image),
                               plain_loops.mean_pool_adjoint(b, size, stride, image), rtol=1e-12, atol=1e-13)


@DRAWN
@given(geometry())
def test_col2im_is_the_adjoint_of_im2col(drawn):
    _, image, _, _, size, stride, padding = drawn
    x, _, _, _ = arrays(*drawn)
    columns = im2col(x, size, stride, padding)
    c = np.random.default_rng(1).standard_normal(columns.shape)
    back = col2im(c, size, stride, padding, image)
    assert back.shape == x.shape
    assert abs((columns * c).sum() - (x * back).sum()) <= 1e-13 * np.abs(columns * c).sum() + 1e-14


def test_pieces_of_a_window_are_in_row_column_channel_order():
    x = np.arange(24.0).reshape(1, 3, 4, 2)
    first = im2col(x, (2, 2), (1, 1), (0, 0))[0, 0, 0]
    np.testing.assert_array_equal(first, [0, 1, 2, 3, 8, 9, 10, 11])


def test_large_windows_are_numbered_without_overflow():
    x = np.zeros((1, 18, 18, 1))
    x[0, 17, 17, 0] = 1.0
    y, where = KERNELS.max_pool(x, (18, 18), (1, 1))
    assert y.item() == 1.0 and where.item() == 18 * 18 - 1
    assert KERNELS.max_pool_gather(x, where, (18, 18), (1, 1)).item() == 1.0


@pytest.mark.parametrize("terms", [1, 2, 3])
def test_combination(terms):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((3, 4)) for _ in range(terms)]
    before = [a.copy() for a in arrays]
    total = KERNELS.combination([(0.5 - k, a) for k, a in enumerate(arrays)])
    np.testing.assert_allclose(total, sum((0.5 - k) * a for k, a in enumerate(arrays)), rtol=1e-14)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))
    assert not np.shares_memory(total, arrays[0])


def test_inference_asks_for_no_positions():
    assert KERNELS.max_pool(np.ones((1, 2, 2, 1)), (2, 2), (1, 1), positions=False)[1] is None
