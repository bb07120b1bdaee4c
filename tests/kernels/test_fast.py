"""The compiled kernels give what the plain NumPy kernels give."""
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from convnet import kernels
from convnet.kernels import caching, compiled, sharing
from convnet.kernels.fast import FastKernels
from convnet.kernels.memory import Pool
from convnet.kernels.reference import ReferenceKernels
from convnet.kernels.threads import Workers, default_count

REFERENCE = ReferenceKernels()
TOLERANCE = {"float64": 1e-12, "float32": 2e-5}


@pytest.fixture(scope="module")
def fast():
    return FastKernels(2)


@st.composite
def geometry(draw):
    """Draw images, a window that fits into them, stride and padding, mostly awkward ones."""
    size = draw(st.tuples(st.integers(1, 4), st.integers(1, 5)))
    return {
        "images": draw(st.integers(1, 5)),
        "image": tuple(draw(st.integers(s, s + 9)) for s in size),
        "channels": draw(st.sampled_from([1, 2, 3, 5, 16, 17])),
        "filters": draw(st.sampled_from([1, 3, 8, 33])),
        "size": size,
        "stride": draw(st.tuples(st.integers(1, 3), st.integers(1, 4))),
        "padding": draw(st.tuples(st.integers(0, 4), st.integers(0, 3))),
        "dtype": draw(st.sampled_from(["float64", "float32"])),
        "contiguous": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**31)),
    }


def make(rng, shape, dtype, contiguous):
    """Return signed random numbers, on request as every second column and reversed rows of a larger array."""
    if contiguous:
        return rng.standard_normal(shape).astype(dtype)
    wide = rng.standard_normal((*shape[:-1], 2 * shape[-1])).astype(dtype)
    return wide[..., ::2][::-1]


def assert_same(got, expected, dtype):
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    scale = max(np.abs(expected).max(), 1e-3)
    assert np.abs(got - expected).max() <= TOLERANCE[dtype] * scale


@settings(max_examples=60, deadline=None, derandomize=True)
@given(g=geometry())
def test_convolution_agrees_with_the_reference(fast, g):
    rng = np.random.default_rng(g["seed"])
    dtype, contiguous, stride, padding = g["dtype"], g["contiguous"], g["stride"], g["padding"]
    x = make(rng, (g["images"], *g["image"], g["channels"]), dtype, contiguous)
    w = make(rng, (*g["size"], g["channels"], g["filters"]), dtype, contiguous)
    bias = rng.standard_normal(g["filters"]).astype(dtype)
    expected = REFERENCE.conv(x, w, bias, stride, padding)
    b = make(rng, expected.shape, dtype, contiguous)
    assert_same(fast.conv(x, w, bias, stride, padding), expected, dtype)
    assert_same(fast.conv(x, w, None, stride, padding), REFERENCE.conv(x, w, None, stride, padding), dtype)
    assert_same(fast.conv_adjoint(b, w, stride, padding, g["image"]),
                REFERENCE.conv_adjoint(b, w, stride, padding, g["image"]), dtype)
    assert_same(fast.conv_weight_gradient(x, b, g["size"], stride, padding),
                REFERENCE.conv_weight_gradient(x, b, g["size"], stride, padding), dtype)
    assert_same(fast.conv_gradients(x, b, g["size"], stride, padding)[1], REFERENCE.row_sum(b), dtype)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(g=geometry())
def test_pooling_agrees_with_the_reference(fast, g):
    rng = np.random.default_rng(g["seed"])
    dtype, contiguous, size, stride = g["dtype"], g["contiguous"], g["size"], g["stride"]
    # Few different values, so that ties are common: of equal values the first wins in both.
    x = np.round(2 * make(rng, (g["images"], *g["image"], g["channels"]), dtype, contiguous))
    t = make(rng, x.shape, dtype, contiguous)
    y, positions = REFERENCE.max_pool(x, size, stride)
    b = make(rng, y.shape, dtype, contiguous)
    got, where = fast.max_pool(x, size, stride)
    np.testing.assert_array_equal(got, y)
    np.testing.assert_array_equal(where, positions)
    np.testing.assert_array_equal(fast.max_pool_gather(t, where, size, stride),
                                  REFERENCE.max_pool_gather(t, positions, size, stride))
    assert_same(fast.max_pool_scatter(b, where, size, stride, g["image"]),
                REFERENCE.max_pool_scatter(b, positions, size, stride, g["image"]), dtype)
    assert_same(fast.mean_pool(x, size, stride), REFERENCE.mean_pool(x, size, stride), dtype)
    assert_same(fast.mean_pool_adjoint(b, size, stride, g["image"]),
                REFERENCE.mean_pool_adjoint(b, size, stride, g["image"]), dtype)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(shape=st.tuples(*[st.integers(1, 300)] * 3), dtype=st.sampled_from(["float64", "float32"]),
       flips=st.tuples(st.booleans(), st.booleans()), seed=st.integers(0, 2**31))
def test_products_agree_with_the_reference(fast, shape, dtype, flips, seed):
    (m, k, n), rng = shape, np.random.default_rng(seed)
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    a, b = (np.ascontiguousarray(x.T).T if flip else x for x, flip in zip((a, b), flips, strict=True))
    bias = rng.standard_normal(n).astype(dtype)
    assert_same(fast.product(a, b), a @ b, dtype)
    assert_same(fast.dense(a, b, bias), a @ b + bias, dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", [(3, 4, 5, 2), (40, 30, 30, 3), (7,)])
def test_elementwise_kernels_agree_with_the_reference(fast, dtype, shape):
    rng = np.random.default_rng(0)
    x, z = make(rng, shape, dtype, False), make(rng, shape, dtype, True)
    y, mask = fast.relu(x)
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    np.testing.assert_array_equal(mask, x > 0)
    np.testing.assert_array_equal(fast.masked(z, mask), np.where(x > 0, z, 0))
    assert_same(fast.combination([(2.0, x), (-0.3, z), (1.5, y)]), 2 * x - 0.3 * z + 1.5 * y, dtype)
    assert_same(fast.row_sum(x), REFERENCE.row_sum(x), dtype)
    mean, scale, other, offset = rng.standard_normal((4, shape[-1])).astype(dtype)
    assert_same(fast.row_dot(x, z), REFERENCE.row_dot(x, z), dtype)
    assert_same(fast.row_dot(x, z, mean), REFERENCE.row_dot(x, z, mean), dtype)
    assert_same(fast.row_affine(x, mean, scale, z, other, offset), REFERENCE.row_affine(x, mean, scale, z, other, offset), dtype)
    assert_same(fast.row_affine(x, None, scale), scale * x, dtype)


def test_special_values_pass_through(fast):
    x = np.array([[np.inf, -np.inf, np.nan, 0.0, -0.0, 1.0]])
    y, mask = fast.relu(x)
    np.testing.assert_array_equal(y, [[np.inf, 0, np.nan, 0, 0, 1]])
    np.testing.assert_array_equal(mask, [[True, False, False, False, False, True]])
    image = np.array([1.0, np.nan, 3.0, np.nan]).reshape(1, 2, 2, 1)
    for k in (fast, REFERENCE):
        y, positions = k.max_pool(image, (2, 2), (1, 1))
        assert np.isnan(y).all()
        assert positions.item() == 1


def test_complex_numbers_fall_back(fast):
    rng = np.random.default_rng(1)
    x, w = (rng.standard_normal(s) + 1j * rng.standard_normal(s) for s in [(2, 5, 5, 2), (3, 3, 2, 4)])
    np.testing.assert_allclose(fast.conv(x, w, None, (1, 1), (0, 0)), REFERENCE.conv(x, w, None, (1, 1), (0, 0)), rtol=1e-13)


def test_threads_change_rounding_at_most_and_repeat_bit_for_bit():
    rng = np.random.default_rng(2)
    x, b = rng.standard_normal((9, 14, 14, 8)), rng.standard_normal((9, 14, 14, 16))
    one, three = (FastKernels(n) for n in (1, 3))
    results = [k.conv_weight_gradient(x, b, (3, 3), (1, 1), (1, 1)) for k in (one, three, three)]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(results[1], results[2])


def test_the_number_of_threads_follows_the_environment(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
    assert default_count() == 3
    monkeypatch.setenv("CONVNET_NUM_THREADS", "5")
    assert default_count() == 5
    for name in ("OMP_NUM_THREADS", "CONVNET_NUM_THREADS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # as a container's share does
    assert default_count() == 1
    monkeypatch.setenv("CONVNET_NUM_THREADS", "many")
    with pytest.raises(ValueError, match="CONVNET_NUM_THREADS is 'many'"):
        default_count()
    with pytest.raises(ValueError, match="number of threads is 0"):
        Workers(0)


@pytest.mark.slow
def test_narrower_vectors_give_the_same():
    """The kernels of processors with 32- and 16-byte vectors, which this one runs as well."""
    code = (
        "import numpy as np\n"
        "from convnet.kernels import tile\n"
        "rng = np.random.default_rng(0)\n"
        "x, offsets = rng.standard_normal(400).astype('f'), np.array([0, 7, 3, 90, 41, 8, 200])\n"
        "for columns in (1, 5, 16, 19, 70):\n"
        "    ldw = tile.padded(columns, 4)\n"
        "    w = rng.standard_normal((24, ldw)).astype('f')\n"
        "    bias, y = rng.standard_normal(ldw).astype('f'), np.zeros((7, columns), 'f')\n"
        "    of_x, of_w, of_y = (x, 2, 2, 60, 3, 11, 4, 2), (w.ravel(), 0, ldw), (y.ravel(), 0, columns, columns)\n"
        "    tile.product(0, 7, offsets, *of_x, *of_w, bias, False, *of_y)\n"
        "    steps = np.add.outer(np.add.outer([0, 60], [0, 11, 22]), [0, 2, 4, 6]).ravel()\n"
        "    expected = x[2 + np.add.outer(offsets, steps)] @ w + bias\n"
        "    assert abs(y - expected[:, :columns]).max() < 1e-5, columns\n"
        "print(tile.VECTOR_BYTES, tile.REGISTERS)\n"
    )
    for features, expected in (("+avx,+avx2,+fma", "32 16"), ("+sse2", "16 16")):
        environment = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout.strip()) == (0, expected), done.stderr


@pytest.mark.parametrize(("dtype", "shape"), [("float32", (8, 11, 9, 32)), ("float64", (3, 6, 5, 7))])
def test_a_block_gives_what_its_layers_give(fast, dtype, shape):
    rng = np.random.default_rng(4)
    x, t = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    w, bias = rng.standard_normal((3, 3, shape[3], 20)).astype(dtype), rng.standard_normal(20).astype(dtype)
    place, window, step = ((1, 2), (1, 1)), (3, 2), (2, 2)
    maps = REFERENCE.conv(x, w, bias, *place)
    rectified, mask = REFERENCE.relu(maps)
    expected, where = REFERENCE.max_pool(rectified, window, step)
    y, positions = fast.conv_relu_max_pool(x, w, bias, *place, window, step)
    assert_same(y, expected, dtype)
    assert 0 < (positions == 6).sum() < positions.size
    tangents = REFERENCE.masked(REFERENCE.conv(t, w, None, *place), mask)
    assert_same(fast.conv_gather(t, w, *place, positions, window, step),
                REFERENCE.max_pool_gather(tangents, where, window, step), dtype)
    b = rng.standard_normal(y.shape).astype(dtype)
    spread = REFERENCE.masked(REFERENCE.max_pool_scatter(b, where, window, step, maps.shape[1:3]), mask)
    assert_same(fast.max_pool_scatter(b, positions, window, step, maps.shape[1:3]), spread, dtype)


def test_a_block_of_another_type_than_its_weights_is_promoted_as_its_layers_are(fast):
    rng = np.random.default_rng(6)
    w, bias = rng.standard_normal((3, 3, 4, 20), np.float32), rng.standard_normal(20, np.float32)
    x, t = rng.standard_normal((2, 2, 8, 7, 4))
    place, window, step = ((1, 1), (1, 1)), (2, 2), (2, 2)
    rectified, mask = REFERENCE.relu(REFERENCE.conv(x, w, bias, *place))
    expected, where = REFERENCE.max_pool(rectified, window, step)
    y, positions = fast.conv_relu_max_pool(x, w, bias, *place, window, step)
    assert_same(y, expected, "float64")
    tangents = REFERENCE.masked(REFERENCE.conv(t, w, None, *place), mask)
    assert_same(fast.conv_gather(t, w, *place, positions, window, step),
                REFERENCE.max_pool_gather(tangents, where, window, step), "float64")
    single = fast.conv_relu_max_pool(x.astype("f"), w, bias.astype("f8"), *place, window, step)[0]
    assert_same(single, expected.astype("f"), "float32")


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 17])
def test_what_is_not_finite_stays_in_its_window(fast, channels):
    rng = np.random.default_rng(7)
    for value in (np.inf, np.nan):
        b, w = rng.standard_normal((1, 3, 4, 2)), rng.standard_normal((1, 1, channels, 2))
        b[0, 1, 2, 1] = value
        place = (2, 2), (0, 0), (5, 8)
        expected = REFERENCE.conv_adjoint(b, w, *place)
        assert 0 < (~np.isfinite(expected)).sum() <= channels
        np.testing.assert_allclose(fast.conv_adjoint(b, w, *place), expected, rtol=1e-12)


def test_what_is_not_alike_is_left_to_the_reference(fast):
    rng = np.random.default_rng(8)
    x, w = rng.standard_normal((2, 5, 5, 3)), rng.standard_normal((3, 3, 3, 4))
    bias = rng.standard_normal(4).astype("f")
    assert_same(fast.conv(x, w, bias, (1, 1), (0, 0)), REFERENCE.conv(x, w, bias, (1, 1), (0, 0)), "float64")
    assert_same(fast.conv(x, w, bias[:1], (1, 1), (0, 0)), REFERENCE.conv(x, w, bias[:1], (1, 1), (0, 0)), "float64")
    for k in (fast, REFERENCE):
        with pytest.raises(ValueError):
            k.conv(x, w[:, :, :2], None, (1, 1), (0, 0))
    a, row = rng.standard_normal((3, 4)), rng.standard_normal(4)
    np.testing.assert_array_equal(fast.masked(a, row > 0), REFERENCE.masked(a, row > 0))
    np.testing.assert_array_equal(fast.combination([(2.0, a), (3.0, row)]), 2 * a + 3 * row)
    expected = 0.5 * a + row[:1]
    fast.accumulate(a, 0.5, 1.0, row[:1])
    np.testing.assert_array_equal(a, expected)


def test_arrays_that_may_only_be_read_compile_nothing_anew(fast):
    x, w = np.ones((2, 6, 6, 3)), np.ones((3, 3, 3, 4))
    expected = fast.conv(x, w, None, (1, 1), (1, 1))
    before = len(compiled.conv.signatures)
    x.flags.writeable = False
    np.testing.assert_array_equal(fast.conv(x, w, None, (1, 1), (1, 1)), expected)
    assert len(compiled.conv.signatures) == before


def test_what_numba_keeps_is_renewed_with_all_it_holds():
    own = {name: f for name, f in vars(compiled).items() if hasattr(f, "py_func") and f.__module__ == compiled.__name__}
    kept = {name: f for name, f in own.items() if f.stats.cache_path is not None}
    assert "conv" in kept and "conv_images" not in kept
    for name, f in kept.items():
        # Of the files that it holds code of, numba would look at its own only.
        assert f.py_func.__name__ == f"{name}_{sharing._SOURCES}"


def test_where_no_cache_can_be_written_functions_are_compiled_all_the_same(monkeypatch):
    monkeypatch.setattr(caching, "uncached", [])
    names = {}
    exec("def one_more(x):\n    return x + 1", names)  # of no file, beside which there could be a cache
    assert caching.compiled(names["one_more"])(1) == 2
    assert caching.uncached == ["one_more"]


def test_accumulate_works_in_place_as_the_reference_does(fast):
    rng = np.random.default_rng(5)
    for size in (7, 100_000):
        target, x = rng.standard_normal((2, size))
        expected = target.copy()
        REFERENCE.accumulate(expected, 0.9, -0.3, x)
        fast.accumulate(target, 0.9, -0.3, x)
        np.testing.assert_allclose(target, expected, rtol=1e-14, atol=1e-14)


def test_several_python_threads_may_compute_at_once(fast):
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((8, 20, 20, 8)), rng.standard_normal((3, 3, 8, 16))
    expected, failures = REFERENCE.conv(x, w, None, (1, 1), (1, 1)), []

    def work():
        for _ in range(20):
            if np.abs(fast.conv(x, w, None, (1, 1), (1, 1)) - expected).max() > 1e-11:
                failures.append(threading.get_ident())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_kernels_work_in_a_forked_child():
    code = (
        "import os, numpy as np\n"
        "from convnet.kernels.fast import FastKernels\n"
        "k, x = FastKernels(2), np.ones((8, 20, 20, 8))\n"
        "w = np.ones((3, 3, 8, 16))\n"
        "first = k.conv(x, w, None, (1, 1), (1, 1)).sum()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if k.conv(x, w, None, (1, 1), (1, 1)).sum() == first else 3)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_lock_that_is_held_at_the_fork_does_not_stop_the_child():
    code = (
        "import os, signal, sys\n"
        "from convnet.kernels.memory import Pool\n"
        "pool = Pool()\n"
        "pool._lock.acquire()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.alarm(20)\n"
        "    os._exit(pool.empty((1000, 100), 'f8').shape != (1000, 100))\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_pool_reuses_memory_that_nobody_holds_and_no_other():
    pool = Pool()
    first = pool.empty((1000, 100), "float64")
    address = first.ctypes.data
    assert address % 64 == 0
    view = first[10:20]
    del first
    other = pool.empty((1000, 100), "float64")
    assert not np.shares_memory(other, view)
    del view
    again = pool.empty((1000, 100), "float64")
    assert again.ctypes.data == address


def test_pool_gives_back_idle_memory_of_other_sizes():
    pool = Pool()
    for size in range(100, 200):
        pool.empty((size, 1000), "float64")
    assert sum(size * len(held) for size, held in pool._held.items()) < 20 * 200 * 1000 * 8


def test_using_and_loading_by_name():
    with kernels.using("reference") as chosen:
        assert kernels.cpu() is chosen
        assert chosen.name == "reference"
    assert kernels.load("fast") is kernels.load("fast")  # which keep threads and memory
    with pytest.raises(ValueError, match="kernels 'slow' do not exist"):
        kernels.load("slow")
