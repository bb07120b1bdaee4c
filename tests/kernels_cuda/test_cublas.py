"""Products through the cuBLAS calls, on a stand-in for the library; and the choice between them and the own kernels."""
import hashlib
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from convnet import devices
from convnet.kernels import gpu, to_numpy
from convnet.kernels.cuda import kernels as cuda_kernels
from convnet.kernels.cuda.capture import WARM_UP
from convnet.kernels.cuda.choice import Choices
from convnet.kernels.cuda.cublas import Cublas, CublasError
from convnet.kernels.reference import ReferenceKernels
from tests.kernels_cuda import cupy_double, shim

reference = ReferenceKernels()
SOURCE = Path(__file__).with_name("cublas_double.cpp")
STREAMS, WORKSPACES, PRODUCTS, MATH = range(4)


@pytest.fixture
def library(cupy, monkeypatch):
    """Put the stand-in for the library in place and return it."""
    loaded = shim.compiled(f"cublas-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}", SOURCE.read_text())
    pathfinder = types.ModuleType("cuda.pathfinder")
    pathfinder.load_nvidia_dynamic_lib = lambda name: types.SimpleNamespace(abs_path=loaded._name)
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", pathfinder)
    return loaded


@pytest.fixture
def only_cublas(monkeypatch):
    """Make every measurement say that cuBLAS is faster."""
    monkeypatch.setattr(Choices, "_fastest", lambda self, problem, ways: list(ways)[-1])


def signed(seed, *shape, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("float64", 1e-13)])
@pytest.mark.parametrize("a_transposed", [False, True])
@pytest.mark.parametrize("b_transposed", [False, True])
def test_products(cupy, library, only_cublas, dtype, tolerance, a_transposed, b_transposed):
    a, b, bias = signed(0, 5, 7, dtype=dtype), signed(1, 7, 3, dtype=dtype), signed(2, 3, dtype=dtype)
    left = cupy.asarray(np.ascontiguousarray(a.T)).T if a_transposed else cupy.asarray(a)
    right = cupy.asarray(np.ascontiguousarray(b.T)).T if b_transposed else cupy.asarray(b)
    before = library.count_of(PRODUCTS)
    np.testing.assert_allclose(to_numpy(gpu().product(left, right)), a @ b, atol=tolerance)
    np.testing.assert_allclose(to_numpy(gpu().dense(left, right, cupy.asarray(bias))), a @ b + bias, atol=tolerance)
    assert library.count_of(PRODUCTS) == before + 2


def test_convolutions(cupy, library, only_cublas):
    x, weight, bias = signed(0, 2, 6, 7, 3), signed(1, 3, 2, 3, 4), signed(2, 4)
    stride, padding = (2, 1), (1, 2)
    y = reference.conv(x, weight, bias, stride, padding)
    b = signed(3, *y.shape)
    before = library.count_of(PRODUCTS)
    on = {name: cupy.asarray(value) for name, value in {"x": x, "w": weight, "c": bias, "b": b}.items()}
    np.testing.assert_allclose(to_numpy(gpu().conv(on["x"], on["w"], on["c"], stride, padding)), y, atol=1e-13)
    np.testing.assert_allclose(to_numpy(gpu().conv_adjoint(on["b"], on["w"], stride, padding, (6, 7))),
                               reference.conv_adjoint(b, weight, stride, padding, (6, 7)), atol=1e-13)
    np.testing.assert_allclose(to_numpy(gpu().conv_weight_gradient(on["x"], on["b"], (3, 2), stride, padding)),
                               reference.conv_weight_gradient(x, b, (3, 2), stride, padding), atol=1e-13)
    for found, expected in zip(gpu().conv_gradients(on["x"], on["b"], (3, 2), stride, padding),
                               reference.conv_gradients(x, b, (3, 2), stride, padding), strict=True):
        np.testing.assert_allclose(to_numpy(found), expected, atol=1e-13)
    assert library.count_of(PRODUCTS) == before + 4


def test_products_end_in_a_relu(cupy, library, only_cublas):
    x, w, bias = signed(0, 6, 5), signed(1, 5, 3), signed(2, 3)
    y, mask = gpu().dense_relu(*map(cupy.asarray, (x, w, bias)))
    np.testing.assert_allclose(to_numpy(y), np.maximum(x @ w + bias, 0), atol=1e-13)
    np.testing.assert_array_equal(to_numpy(mask), x @ w + bias > 0)
    found = gpu().dense_masked(cupy.asarray(x), cupy.asarray(w), mask)
    np.testing.assert_allclose(to_numpy(found), np.where(to_numpy(mask), x @ w, 0), atol=1e-13)


def test_gradients_of_dense_layers(cupy, library, only_cublas):
    a, b = signed(0, 6, 5), signed(1, 6, 3)
    before = library.count_of(PRODUCTS)
    gradient, total = gpu().dense_gradients(cupy.asarray(a), cupy.asarray(b))
    np.testing.assert_allclose(to_numpy(gradient), a.T @ b, atol=1e-13)
    np.testing.assert_allclose(to_numpy(total), b.sum(axis=0), atol=1e-13)
    assert library.count_of(PRODUCTS) == before + 1


def test_a_new_stream_gets_the_workspace_again(cupy, library, monkeypatch):
    cublas = Cublas(cupy)
    a = cupy.asarray(signed(0, 4, 4))
    before = [library.count_of(k) for k in (STREAMS, WORKSPACES)]
    for pointer in (11, 11, 12, 11):
        monkeypatch.setattr(cupy.cuda, "get_current_stream", lambda pointer=pointer: types.SimpleNamespace(ptr=pointer))
        cublas.product(a, False, a, True, cupy.empty((4, 4)), tf32=False)
    assert [library.count_of(k) - n for k, n in zip((STREAMS, WORKSPACES), before, strict=True)] == [3, 3]


def test_tf32_is_asked_for_and_taken_back(cupy, library, only_cublas):
    a = cupy.asarray(signed(0, 4, 4, dtype="float32"))
    modes = []
    for allowed in (False, True, False):
        devices.allow_tf32(allowed)
        gpu().product(a, a)
        modes.append(library.count_of(MATH))
    assert modes == [0, 3, 0]


def test_tf32_is_for_float32_only_and_decides_the_way(cupy, library, monkeypatch):
    monkeypatch.setattr(Choices, "_fastest", lambda self, problem, ways: "own")
    devices.allow_tf32()
    products = []
    for dtype in ("float32", "float64"):
        a = cupy.asarray(signed(0, 4, 4, dtype=dtype))
        before = library.count_of(PRODUCTS)
        gpu().product(a, a)
        products.append(library.count_of(PRODUCTS) - before)
    assert products == [1, 0]


def test_errors_name_the_call(cupy, library):
    cublas = Cublas(cupy)
    cublas._handle.value += 8
    with pytest.raises(CublasError, match=r"cublasSetStream_v2 failed: an invalid value \(7\)"):
        cublas.product(cupy.zeros((2, 2)), False, cupy.zeros((2, 2)), False, cupy.zeros((2, 2)), tf32=False)


def test_without_the_library_the_own_kernels_do_it(cupy):
    with pytest.raises(CublasError, match="cuBLAS cannot be loaded"):
        Cublas(cupy)
    a = signed(0, 3, 3)
    np.testing.assert_allclose(to_numpy(gpu().product(cupy.asarray(a), cupy.asarray(a))), a @ a, atol=1e-13)
    assert "cuBLAS cannot be loaded" in gpu().cublas_error


# --- choices --------------------------------------------------------------------------------------------------------------


def test_the_faster_way_is_measured_once_and_recorded(tmp_path):
    path, measured = tmp_path / "folder" / "choices.json", []

    def seconds(way):
        measured.append(way())
        return {"slow": 2.0, "fast": 1.0}[way()]

    ways = {"slow": lambda: "slow", "fast": lambda: "fast"}
    choices = Choices(path, seconds)
    assert choices.of("problem", ways)() == choices.of("problem", ways)() == "fast"
    assert measured == ["slow", "fast"] and json.loads(path.read_text()) == {"problem": "fast"}
    never = Choices(path, lambda way: pytest.fail("it is recorded"))
    assert never.of("problem", ways)() == "fast"
    assert never.of("other", {"only": lambda: "only"})() == "only"


def test_what_another_process_recorded_is_kept(tmp_path):
    path = tmp_path / "choices.json"
    one, two = Choices(path, lambda way: 1.0), Choices(path, lambda way: 1.0)
    ways = {"a": lambda: "a", "b": lambda: "b"}
    one.of("first", ways)
    two.of("second", ways)
    assert json.loads(path.read_text()) == {"first": "a", "second": "a"}


def test_what_cannot_be_recorded_is_not_left_to_chance(tmp_path):
    (tmp_path / "file").write_text("")
    times = iter([2.0, 1.0])
    choices = Choices(tmp_path / "file" / "choices.json", lambda way: next(times))
    ways = {"a": lambda: "a", "b": lambda: "b"}
    with pytest.warns(UserWarning, match="cannot be recorded .* 'a' is taken"):
        assert choices.of("problem", ways)() == "a"
    assert choices.of("problem", ways)() == "a"


def test_a_record_of_other_ways_is_measured_again(tmp_path):
    path = tmp_path / "choices.json"
    path.write_text('{"problem": "gone"}')
    choices = Choices(path, lambda way: 1.0)
    assert choices.of("problem", {"a": lambda: "a", "b": lambda: "b"})() == "a"
    assert json.loads(path.read_text()) == {"problem": "a"}


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_a_damaged_record_is_named(tmp_path, text):
    path = tmp_path / "choices.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="delete it"):
        Choices(path, lambda way: 1.0)


def test_a_way_is_timed_in_a_graph(cupy):
    """The host's time to launch a kernel does not count: the work is done RUNS times by the launch that is timed."""
    calls, done = [], cupy.zeros(1)

    def way():
        calls.append(cupy_double.tape is not None)
        done.__iadd__(1)

    found = gpu()._seconds(way)
    runs, rounds = cuda_kernels.RUNS, cuda_kernels.ROUNDS
    assert calls == [False] * runs * WARM_UP + [True] * runs
    assert float(done[0]) == runs * (WARM_UP + 1 + rounds)
    assert found == pytest.approx(1.0 / 1000 / runs)  # the double's events are 1 ms apart


def test_the_record_belongs_to_the_device(cupy, library, tmp_path, monkeypatch):
    monkeypatch.setattr(Choices, "_fastest", lambda self, problem, ways: list(ways)[-1])
    a = cupy.asarray(signed(0, 3, 3))
    gpu().product(a, a)
    recorded = json.loads((tmp_path / "convnet" / "products-CPU-double.json").read_text())
    assert recorded == {"product nn 3x3x3 float64": "cublas"}
