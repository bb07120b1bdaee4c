"""The CUDA kernels, run on the CPU through the shim, against the NumPy reference over random geometry."""
import types
from contextlib import nullcontext
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convnet.kernels import gpu, to_numpy
from convnet.kernels.cuda import launch, products
from convnet.kernels.cuda.choice import Choices
from convnet.kernels.reference import ReferenceKernels, random_bits, window_counts
from tests.kernels_cuda import cupy_double, shim

reference = ReferenceKernels()
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
pytestmark = pytest.mark.usefixtures("cupy")
# The fixtures only put the double in place: nothing in them changes from example to example.
many = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)


@st.composite
def geometries(draw, padded=True):
    """Images, windows that do not divide them, windows apart and overlapping, paddings."""
    size = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3))) if padded else (0, 0)
    image = tuple(draw(st.integers(max(1, s - 2 * p), 9)) for s, p in zip(size, padding, strict=True))
    return {"n": draw(st.integers(1, 3)), "c": draw(st.integers(1, 5)), "size": size, "stride": stride,
            "padding": padding, "image": image, "seed": draw(st.integers(0, 2**31))}


def signed(seed, *shape, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def close(found, expected, scale=0.0, dtype=None):
    """Check against NumPy: numbers to a few roundings of the largest (or of `scale`), all else exactly."""
    found, expected = to_numpy(found), expected if dtype is None else expected.astype(dtype)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(found, expected)
        return
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=scale)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[expected.dtype.name] * scale)


def own_kernels(monkeypatch):
    """Compute all products by own kernels, on a device too."""
    monkeypatch.setattr(Choices, "_fastest", lambda self, problem, ways: "own")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@many
@given(g=geometries(), filters=st.integers(1, 7), thin=st.sampled_from([0, products.THIN]), large=st.booleans())
def test_convolution(cupy, dtype, g, filters, thin, large):
    last = mock.patch.object(Choices, "_fastest", lambda self, problem, ways: list(ways)[-1])
    with last if large else nullcontext():
        compare_convolutions(cupy, dtype, g, filters, thin)


def compare_convolutions(cupy, dtype, g, filters, thin):
    """Check the three products of a convolution; `thin` as in `products`."""
    x = signed(g["seed"], g["n"], *g["image"], g["c"], dtype=dtype)
    weight = signed(g["seed"] + 1, *g["size"], g["c"], filters, dtype=dtype)
    bias = signed(g["seed"] + 2, filters, dtype=dtype)
    geometry = g["stride"], g["padding"]
    y = reference.conv(x, weight, bias, *geometry)
    close(gpu().conv(cupy.asarray(x), cupy.asarray(weight), cupy.asarray(bias), *geometry), y)
    close(gpu().conv(cupy.asarray(x), cupy.asarray(weight), None, *geometry), y - bias)
    b = signed(g["seed"] + 3, *y.shape, dtype=dtype)
    with mock.patch.object(products, "THIN", thin):  # both ways to compute it
        close(gpu().conv_adjoint(cupy.asarray(b), cupy.asarray(weight), *geometry, g["image"]),
              reference.conv_adjoint(b, weight, *geometry, g["image"]))
    close(gpu().conv_weight_gradient(cupy.asarray(x), cupy.asarray(b), g["size"], *geometry),
          reference.conv_weight_gradient(x, b, g["size"], *geometry))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@many
@given(g=geometries(padded=False))
def test_pooling(cupy, dtype, g):
    # Few different values, so that windows hold ties.
    x = np.random.default_rng(g["seed"]).integers(-3, 3, (g["n"], *g["image"], g["c"])).astype(dtype)
    size, stride, image = g["size"], g["stride"], g["image"]
    y, positions = reference.max_pool(x, size, stride)
    found, where = gpu().max_pool(cupy.asarray(x), size, stride)
    close(found, y)
    close(where, positions)
    only, nothing = gpu().max_pool(cupy.asarray(x), size, stride, positions=False)
    close(only, y)
    assert nothing is None
    b, t = signed(g["seed"] + 1, *y.shape, dtype=dtype), signed(g["seed"] + 2, *x.shape, dtype=dtype)
    np.testing.assert_array_equal(to_numpy(gpu().max_pool_scatter(cupy.asarray(b), where, size, stride, image)),
                                  reference.max_pool_scatter(b, positions, size, stride, image))
    np.testing.assert_array_equal(to_numpy(gpu().max_pool_gather(cupy.asarray(t), where, size, stride)),
                                  reference.max_pool_gather(t, positions, size, stride))
    close(gpu().mean_pool(cupy.asarray(t), size, stride), reference.mean_pool(t, size, stride))
    close(gpu().mean_pool_adjoint(cupy.asarray(b), size, stride, image),
          reference.mean_pool_adjoint(b, size, stride, image))


@pytest.mark.parametrize("window, step", [((3, 2), (2, 2)), ((2, 2), (2, 2)), ((16, 16), (1, 1))])
def test_a_block_gives_what_its_layers_give(cupy, window, step):
    place = ((1, 2), (1, 1))
    x, t, w, bias = signed(5, 3, 17, 33, 4), signed(6, 3, 17, 33, 4), signed(7, 3, 3, 4, 5), signed(8, 5)
    bias -= 16 * (max(window) > 3)  # so that not all maxima are positive
    maps = reference.conv(x, w, bias, *place)
    rectified, mask = reference.relu(maps)
    expected, where = reference.max_pool(rectified, window, step)
    on = [cupy.asarray(a) for a in (x, t, w, bias)]
    y, positions = gpu().conv_relu_max_pool(on[0], on[2], on[3], *place, window, step)
    close(y, expected)
    assert positions.dtype == (np.uint8 if window[0] < 16 else np.uint32)
    tangents = reference.masked(reference.conv(t, w, None, *place), mask)
    close(gpu().conv_gather(on[1], on[2], *place, positions, window, step),
          reference.max_pool_gather(tangents, where, window, step))
    b = signed(9, *expected.shape)
    spread = reference.masked(reference.max_pool_scatter(b, where, window, step, maps.shape[1:3]), mask)
    close(gpu().max_pool_scatter(cupy.asarray(b), positions, window, step, maps.shape[1:3]), spread)
    assert 0 < (expected == 0).sum() < expected.size


def test_a_block_whose_maps_are_too_many_for_the_kernels(monkeypatch, cupy):
    monkeypatch.setattr(launch, "LARGEST", 1000)
    x, w, bias = signed(0, 3, 9, 8, 2), signed(1, 3, 3, 2, 20), signed(2, 20)
    place, pool = ((1, 1), (1, 1)), ((3, 2), (2, 2))
    maps, mask = reference.relu(reference.conv(x, w, bias, *place))
    assert x.size < 1000 < maps.size
    expected, where = reference.max_pool(maps, *pool)
    y, positions = gpu().conv_relu_max_pool(*map(cupy.asarray, (x, w, bias)), *place, *pool)
    close(y, expected)
    close(positions, np.where(expected > 0, where, 6).astype(np.uint8))
    found = gpu().conv_gather(cupy.asarray(x), cupy.asarray(w), *place, positions, *pool)
    tangents = reference.masked(reference.conv(x, w, None, *place), mask)
    close(found, reference.max_pool_gather(tangents, where, *pool))
    assert (expected == 0).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("way", ["own", "own, large tiles"])
def test_products_end_in_a_relu(monkeypatch, cupy, way, dtype):
    """One launch gives what a product and a ReLU give, with and without slices that blocks share."""
    monkeypatch.setattr(Choices, "_fastest", lambda self, problem, ways: way if way in ways else "own")
    for rows, inner, units in ((3, 5, 4), (70, 300, 40), (70, 300, 20)):
        x, w, bias = signed(1, rows, inner, dtype=dtype), signed(2, inner, units, dtype=dtype), signed(3, units, dtype=dtype)
        t = signed(4, rows, inner, dtype=dtype)
        x[1, 1] = np.nan
        on = [cupy.asarray(a) for a in (x, w, bias, t)]
        y, mask = gpu().dense_relu(*on[:3])
        expected, where = reference.relu(x @ w + bias)
        close(y, expected)
        close(mask, where)
        close(gpu().dense_masked(on[3], on[1], mask), np.where(where, t @ w, 0).astype(dtype))
    place = ((1, 2), (2, 1))
    for channels, filters in ((4, 37), (50, 70), (50, 20)):
        x, t = signed(1, 3, 9, 8, channels, dtype=dtype), signed(2, 3, 9, 8, channels, dtype=dtype)
        w, bias = signed(3, 3, 2, channels, filters, dtype=dtype), signed(4, filters, dtype=dtype)
        on = [cupy.asarray(a) for a in (x, t, w, bias)]
        y, mask = gpu().conv_relu(on[0], on[2], on[3], *place)
        expected, where = reference.relu(reference.conv(x, w, bias, *place))
        close(y, expected)
        close(mask, where)
        close(gpu().conv_masked(on[1], on[2], *place, mask), reference.masked(reference.conv(t, w, None, *place), where))


def test_large_windows_have_wide_positions(cupy):
    x = signed(0, 2, 18, 19, 3)
    x[0, 16, 16, 0] = 10.0
    y, positions = reference.max_pool(x, (17, 17), (1, 2))
    found, where = gpu().max_pool(cupy.asarray(x), (17, 17), (1, 2))
    assert where.dtype == np.uint32 and positions.max() > 255
    close(found, y)
    close(where, positions)
    b = signed(1, *y.shape)
    close(gpu().max_pool_scatter(cupy.asarray(b), where, (17, 17), (1, 2), (18, 19)),
          reference.max_pool_scatter(b, positions, (17, 17), (1, 2), (18, 19)))
    close(gpu().max_pool_gather(cupy.asarray(x), where, (17, 17), (1, 2)), y)


def test_not_a_number_is_seen(cupy):
    x = signed(2, 1, 5, 5, 2)
    x[0, 1, 1, 0] = x[0, 4, 4, 1] = np.nan
    y, positions = reference.max_pool(x, (3, 3), (2, 2))
    found, where = gpu().max_pool(cupy.asarray(x), (3, 3), (2, 2))
    np.testing.assert_array_equal(to_numpy(found), y)
    close(where, positions)
    assert np.isnan(y).any()
    (rectified, mask), (expected, expected_mask) = gpu().relu(cupy.asarray(x)), reference.relu(x)
    np.testing.assert_array_equal(to_numpy(rectified), expected)
    close(mask, expected_mask)
    labels = np.eye(5)
    for row in (0, 4):
        z = signed(3, 5, 5)
        z[2, row] = np.nan
        assert np.isnan(to_numpy(gpu().cross_entropy(cupy.asarray(z), cupy.asarray(labels)))).tolist() == [
            False, False, True, False, False]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@many
@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple), terms=st.integers(1, 9), seed=st.integers(0, 999))
def test_elementwise(cupy, dtype, shape, terms, seed):
    x, b = signed(seed, *shape, dtype=dtype), signed(seed + 1, *shape, dtype=dtype)
    x.flat[0] = 0
    (found, mask), (y, expected) = gpu().relu(cupy.asarray(x)), reference.relu(x)
    close(found, y)
    close(mask, expected)
    close(gpu().masked(cupy.asarray(b), mask), reference.masked(b, expected))
    parts = [(float(k) - 2.5, signed(seed + k, *shape, dtype=dtype)) for k in range(terms)]
    close(gpu().combination([(c, cupy.asarray(a)) for c, a in parts]), reference.combination(parts))
    close(gpu().row_sum(cupy.asarray(x)), np.asarray(reference.row_sum(x)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("terms", [[2] * 11, [2], [2, 3, 2]])
def test_many_combinations(cupy, dtype, terms):
    sums = [[(float(j) - 1.5 * k, signed(9 * k + j, k + 1, 3, dtype=dtype)) for j in range(n)] for k, n in enumerate(terms)]
    found = list(gpu().combinations([[(c, cupy.asarray(a)) for c, a in each] for each in sums]))
    for y, expected in zip(found, reference.combinations(sums), strict=True):
        close(y, expected)


@pytest.mark.parametrize("room, launches", [(1 << 24, 1), (60, 2), (1, 4)])
def test_large_combinations_are_computed_apart(monkeypatch, cupy, room, launches):
    from convnet.kernels.cuda import kernels as cuda_kernels

    monkeypatch.setattr(cuda_kernels, "TOGETHER", room)
    sums = [[(0.5, signed(k, 20 + k)), (-2.0, signed(k + 9, 20 + k))] for k in range(4)]
    before = len(cupy_double.log.launches)
    for found, expected in zip(gpu().combinations([[(c, cupy.asarray(a)) for c, a in each] for each in sums]),
                               reference.combinations(sums), strict=True):
        close(found, expected)
    assert len(cupy_double.log.launches) == before + launches


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows, columns", [(1, 1), (3, 40), (200, 5), (777, 33), (1000, 70)])
def test_sums_over_rows(cupy, order, dtype, rows, columns):
    b = signed(rows, rows, columns, dtype=dtype)
    close(gpu().row_sum(cupy.asarray(b)), reference.row_sum(b))
    a, mean = signed(rows + 1, rows, columns, dtype=dtype), signed(columns, columns, dtype=dtype)
    scale = np.abs(a * b).sum(axis=0).max()  # sums that nearly cancel are as exact as their terms
    close(gpu().row_dot(*map(cupy.asarray, (a, b))), reference.row_dot(a, b), scale=scale)
    scale = np.abs((a - mean) * (b - mean)).sum(axis=0).max()
    close(gpu().row_dot(*map(cupy.asarray, (a, b, mean))), reference.row_dot(a, b, mean), scale=scale)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1), (300, 5), (3, 4, 4, 17)])
def test_multiples_of_rows(cupy, dtype, shape):
    a, b = signed(1, *shape, dtype=dtype), signed(2, *shape, dtype=dtype)
    shift, scale, other, offset = signed(3, 4, shape[-1], dtype=dtype)
    for options in [(shift, scale), (None, scale), (shift, scale, b, other), (None, scale, None, None, offset),
                  (shift, scale, b, other, offset)]:
        on = [None if each is None else cupy.asarray(each) for each in options]
        close(gpu().row_affine(cupy.asarray(a), *on), reference.row_affine(a, *options), scale=10.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows, classes", [(1, 1), (4, 3), (5, 10), (3, 32), (2, 33), (2, 101)])
def test_softmax_cross_entropy(cupy, order, dtype, rows, classes):
    z, t = 40 * signed(1, rows, classes, dtype=dtype), signed(2, rows, classes, dtype=dtype)
    labels = np.abs(signed(3, rows, classes, dtype=dtype))
    labels /= labels.sum(axis=1, keepdims=True)
    on = [cupy.asarray(a) for a in (z, labels, t)]
    close(gpu().softmax(on[0]), reference.softmax(z))
    close(gpu().cross_entropy(*on[:2]), reference.cross_entropy(z, labels))
    close(gpu().cross_entropy_gradient(*on[:2]), reference.cross_entropy_gradient(z, labels))
    value, gradient = gpu().cross_entropy_and_gradient(*on[:2])
    close(value, reference.cross_entropy(z, labels))
    close(gradient, reference.cross_entropy_gradient(z, labels))
    # p (t - p·t) is a small difference where one p is nearly 1.
    close(gpu().cross_entropy_hessian_product(on[0], on[2]), reference.cross_entropy_hessian_product(z, t), scale=1.0)


def test_softmax_cross_entropy_of_what_is_sure(cupy, order):
    z, t = signed(1, 6, 40, dtype="float32"), signed(2, 6, 40, dtype="float32")
    z[np.arange(6), [0, 7, 31, 32, 39, 20]] = z.max() + np.array([2, 8, 16, 20, 40, 60], "f")
    labels = (z == z.max(axis=1, keepdims=True)).astype("f")
    wide = [a.astype("float64") for a in (z, labels, t)]
    on = [cupy.asarray(a) for a in (z, labels, t)]
    for name, which in (("cross_entropy", (0, 1)), ("cross_entropy_gradient", (0, 1)), ("cross_entropy_hessian_product", (0, 2))):
        found = getattr(gpu(), name)(*(on[i] for i in which))
        expected = getattr(reference, name)(*(wide[i] for i in which))
        np.testing.assert_allclose(found.get(), expected, rtol=2e-4 if name.endswith("product") else 1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("a_transposed", [False, True])
@pytest.mark.parametrize("b_transposed", [False, True])
@pytest.mark.parametrize("m, k, n", [(1, 1, 1), (3, 5, 2), (65, 33, 70), (64, 16, 64), (10, 700, 7), (130, 129, 1)])
def test_products(monkeypatch, cupy, order, dtype, a_transposed, b_transposed, m, k, n):
    own_kernels(monkeypatch)
    a = signed(m, *((k, m) if a_transposed else (m, k)), dtype=dtype)
    b = signed(n, *((n, k) if b_transposed else (k, n)), dtype=dtype)
    bias = signed(k, n, dtype=dtype)
    left, right = cupy.asarray(a), cupy.asarray(b)
    left, right, a, b = left.T if a_transposed else left, right.T if b_transposed else right, *(
        x.T if transposed else x for x, transposed in ((a, a_transposed), (b, b_transposed)))
    close(gpu().product(left, right), a @ b)
    close(gpu().dense(left, right, cupy.asarray(bias)), a @ b + bias)


def test_products_of_what_is_not_contiguous(cupy):
    a, b = signed(0, 6, 8), signed(1, 4, 10)
    close(gpu().product(cupy.asarray(a)[:, ::2], cupy.asarray(b)[:, 1:7]), a[:, ::2] @ b[:, 1:7])
    close(gpu().masked(cupy.asarray(a).T, cupy.asarray(a.T > 0)), np.where(a.T > 0, a.T, 0))


@pytest.mark.parametrize("channels, filters", [(7, 70), (66, 20), (20, 33)])
@pytest.mark.parametrize("stride", [(1, 1), (1, 2)])
@pytest.mark.parametrize("tiles", ["own", "own, large tiles"])
def test_a_convolution_of_many_tiles(monkeypatch, cupy, order, channels, filters, stride, tiles):
    monkeypatch.setattr(Choices, "_fastest", lambda self, problem, ways: tiles if tiles in ways else "own")
    x, weight = signed(0, 3, 12, 11, channels), signed(1, 5, 4, channels, filters)
    geometry = stride, (2, 1)
    y = reference.conv(x, weight, None, *geometry)
    b = signed(2, *y.shape)
    on = [cupy.asarray(a) for a in (x, weight, b)]
    close(gpu().conv(on[0], on[1], None, *geometry), y)
    close(gpu().conv_adjoint(on[2], on[1], *geometry, (12, 11)), reference.conv_adjoint(b, weight, *geometry, (12, 11)))
    gradient, total = reference.conv_gradients(x, b, (5, 4), *geometry)
    close(gpu().conv_weight_gradient(on[0], on[2], (5, 4), *geometry), gradient)
    for found, expected in zip(gpu().conv_gradients(on[0], on[2], (5, 4), *geometry), (gradient, total), strict=True):
        close(found, expected)


def test_two_streams_do_not_share_counters(monkeypatch, cupy):
    b, allocators = cupy.asarray(signed(0, 777, 33)), []
    monkeypatch.setattr(cupy.cuda, "using_allocator", lambda allocator: allocators.append(allocator) or nullcontext())
    gpu().row_sum(b)
    monkeypatch.setattr(cupy.cuda, "get_current_stream", lambda: types.SimpleNamespace(ptr=5678))
    gpu().row_sum(b)
    first, second = gpu()._products._arrived.values()
    assert first is not second and not first.host.any() and not second.host.any()
    # Not from a pool of work that is recorded, which is to give its memory back.
    assert allocators == 2 * [cupy.get_default_memory_pool().malloc]


@pytest.mark.parametrize("slices", [1, 2, 32, 33, 70])
def test_slices_are_added_in_a_fixed_order(monkeypatch, cupy, slices):
    """Each block adds up its slice, and whichever is the last one adds the slices: in groups, and the groups."""
    own_kernels(monkeypatch)
    properties = {"name": b"CPU double", "multiProcessorCount": -(-slices // 2)}
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda device: properties)
    inner = slices * products.LEAST
    a, b, bias = signed(1, 3, inner, dtype="float32"), signed(2, inner, 5, dtype="float32"), signed(3, 5, dtype="float32")
    on = [cupy.asarray(x) for x in (a, b, bias)]
    found = []
    for descending in (False, True, False):
        monkeypatch.setattr(shim, "descending", descending)
        y, sums = gpu().dense(*on), gpu().row_sum(on[1])
        close(y, a.astype("f8") @ b + bias, dtype="float32")
        close(sums, b.sum(axis=0, dtype="f8"), dtype="float32")
        found.append((to_numpy(y).tobytes(), to_numpy(sums).tobytes()))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("rows, features, units", [(1, 1, 1), (32, 64, 10), (100, 127, 70), (700, 6, 5)])
def test_the_gradients_of_a_bias_come_with_those_of_the_weights(monkeypatch, cupy, order, rows, features, units):
    own_kernels(monkeypatch)
    a, b = signed(0, rows, features), signed(1, rows, units)
    for found, expected in zip(gpu().dense_gradients(cupy.asarray(a), cupy.asarray(b)), reference.dense_gradients(a, b),
                               strict=True):
        close(found, expected)
    x, b = signed(2, rows, 5, 4, 3), signed(3, rows, 3, 1, units)
    geometry = (3, 2), (2, 3), (1, 0)
    for found, expected in zip(gpu().conv_gradients(cupy.asarray(x), cupy.asarray(b), *geometry),
                               reference.conv_gradients(x, b, *geometry), strict=True):
        close(found, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 2049])
@pytest.mark.parametrize("draw, stream", [(0, 0), (2**63 - 1, 3), (1234567890123456789, 2**64 - 1)])
def test_dropout_masks_are_those_of_numpy(cupy, dtype, count, draw, stream):
    for rate in (0.25, 0.5, 1 - 2**-40):
        expected = reference.dropout_factors((count,), np.dtype(dtype), rate, draw, stream)
        found = gpu().dropout_factors((count,), np.dtype(dtype), rate, draw, stream)
        assert found.dtype == dtype
        np.testing.assert_array_equal(to_numpy(found), expected)
    # A number that equals the threshold is kept.
    edge = random_bits(draw, stream, count)[-1] / 2**32
    np.testing.assert_array_equal(to_numpy(gpu().dropout_factors((count,), np.dtype(dtype), edge, draw, stream)),
                                  reference.dropout_factors((count,), np.dtype(dtype), edge, draw, stream))
    on_device = cupy.asarray(np.array([draw], np.uint64))
    np.testing.assert_array_equal(
        to_numpy(gpu().dropout_factors((count,), np.dtype(dtype), 0.5, on_device, stream)),
        (random_bits(draw, stream, count) >= 2**31) * 2.0)


def test_complex_arrays_are_left_to_array_operations(cupy):
    x, b = signed(0, 3, 4) + 1j * signed(1, 3, 4), signed(2, 4, 2) + 1j * signed(3, 4, 2)
    close(gpu().masked(cupy.asarray(x), cupy.asarray(x.real > 0)).real, np.where(x.real > 0, x, 0).real)
    np.testing.assert_allclose(to_numpy(gpu().product(cupy.asarray(x), cupy.asarray(b))), x @ b, rtol=1e-13)


# --- the sources that cuBLAS needs, launched directly -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@many
@given(g=geometries())
def test_column_matrix_and_its_adjoint(dtype, g):
    from convnet.kernels.cuda.launch import windows
    from convnet.kernels.reference import col2im, im2col

    x = signed(g["seed"], g["n"], *g["image"], g["c"], dtype=dtype)
    padded = tuple(i + 2 * p for i, p in zip(g["image"], g["padding"], strict=True))
    counts = window_counts(padded, g["size"], g["stride"])
    geometry = windows(x.shape, counts, g["size"], g["stride"], g["padding"])
    expected = im2col(x, g["size"], g["stride"], g["padding"])
    columns, back = np.full(expected.shape, np.nan, dtype), np.full(x.shape, np.nan, dtype)
    kernels = shim.library(dtype)
    kernels.launch("im2col", (-(-columns.size // 64),), (64,), (x, columns, geometry, np.int32(columns.size)))
    np.testing.assert_array_equal(columns, expected)
    b = signed(g["seed"] + 1, *expected.shape, dtype=dtype)
    kernels.launch("col2im", (-(-x.size // 64),), (64,), (b, back, geometry, np.int32(x.size)))
    np.testing.assert_array_equal(back, col2im(b, g["size"], g["stride"], g["padding"], g["image"]))
