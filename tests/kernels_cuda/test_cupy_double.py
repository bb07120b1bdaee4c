"""The stand-in for CuPy refuses what CuPy refuses, and its captured streams behave like captured streams."""
import importlib

import numpy as np
import pytest

from tests.kernels_cuda import cupy_double
from tests.kernels_cuda.cupy_double import CONSTANTS, FUNCTIONS, REDUCTIONS, VIEWS, no_transfers


def test_numpy_functions_are_refused(cupy):
    x = cupy.asarray(np.arange(6.0).reshape(2, 3))
    for function in (np.asarray, np.exp, np.sum, np.maximum.reduce, np.zeros_like, np.isfinite, lambda a: np.dot(a, a),
                     lambda a: np.maximum(a, 0), lambda a: np.concatenate([a, a]), np.ascontiguousarray, np.float64):
        with pytest.raises(TypeError):
            function(x)


def test_numpy_arrays_do_not_mix(cupy):
    x, a = cupy.asarray(np.ones(3)), np.ones(3)
    for mix in (lambda: x + a, lambda: a + x, lambda: x @ a, lambda: cupy.maximum(x, a), lambda: x.__iadd__(a),
                lambda: x.__setitem__(slice(None), a), lambda: x[np.array([0, 1])], lambda: cupy.where(x > 0, x, a)):
        with pytest.raises(TypeError):
            mix()
    assert isinstance(x + np.float64(1), cupy.ndarray)


def test_results_are_arrays_on_the_device(cupy):
    x = cupy.asarray(np.arange(6.0).reshape(2, 3))
    for found in (x.sum(), x[0, 0], x.max(axis=1), cupy.sum(x), -x, x == 1, x.T, x.reshape(-1), x[:, 1]):
        assert isinstance(found, cupy.ndarray)
    x[:, 1] += 10
    np.testing.assert_array_equal(x.get(), [[0, 11, 2], [3, 14, 5]])


def test_reading_and_sending_are_noticed(cupy):
    x = cupy.asarray(np.array(1.0))
    for read in (float, int, bool, lambda a: a.get(), lambda a: a.item(), lambda a: a.tolist(), cupy.asnumpy):
        read(x)
        with no_transfers(), pytest.raises(AssertionError):
            read(x)
    with no_transfers(), pytest.raises(AssertionError):
        cupy.asarray(np.ones(3))
    with no_transfers():
        cupy.asarray(x) + cupy.zeros(())


def test_a_captured_stream_computes_when_launched(cupy):
    x, total = cupy.asarray(np.array([1.0, 2.0])), cupy.zeros(2)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        y = cupy.sqrt(x * x + 0.0)
        total += 3 * y
        for read in (float, lambda a: a.get(), bool):
            with pytest.raises(RuntimeError, match="captured"):
                read(y[0])
        with pytest.raises(NotImplementedError, match="cuBLAS"):
            x @ x
        with pytest.raises(RuntimeError, match="captured"):
            cupy.asarray(np.ones(2))
        graph = stream.end_capture()
    assert np.isnan(y.get()).all() and not total.get().any()
    graph.launch()
    x[:] = cupy.asarray(np.array([-5.0, 0.5]))
    graph.launch()
    np.testing.assert_array_equal(total.get(), [18.0, 7.5])


def test_kernels_get_what_their_source_declares(cupy):
    from convnet.kernels.cuda import source

    relu = cupy.RawModule(code=source.text(), options=source.options(np.float64)).get_function("relu")
    x, y, mask = cupy.asarray(np.ones(4)), cupy.empty(4), cupy.empty(4, bool)
    for wrong in ((x, y, mask, 4), (x, y, mask), (x, y, y, np.int32(4)), (x, y, mask, np.int64(4)),
                  (np.ones(4), y, mask, np.int32(4)), (cupy.ones((4, 2))[:, 0], y, mask, np.int32(4)),
                  (cupy.ones(4, "float32"), y, mask, np.int32(4))):
        with pytest.raises(AssertionError):
            relu((1,), (4,), wrong)
    relu((1,), (4,), (x, y, mask, np.int32(4)))
    assert y.get().sum() == 4


def test_cupy_has_all_of_it():
    try:
        real = importlib.import_module("cupy")
    except ImportError as error:
        pytest.skip(f"CuPy is not installed: {error}")
    for name in (*FUNCTIONS, *CONSTANTS, "empty", "empty_like", "asarray", "ascontiguousarray", "asnumpy", "RawModule"):
        assert hasattr(real, name), name
    for name in (*VIEWS, *REDUCTIONS, "get", "item", "tolist", "set", "fill", "T", "real", "imag", "data", "flags"):
        assert hasattr(real.ndarray, name), name
    for name in ("Device", "Event", "Graph", "MemoryPool", "Stream", "alloc", "get_current_stream", "get_elapsed_time",
                 "using_allocator"):
        assert hasattr(real.cuda, name), name
    for name in ("begin_capture", "end_capture", "is_capturing", "synchronize", "null"):
        assert hasattr(real.cuda.Stream, name), name
    for name in ("launch", "upload"):
        assert hasattr(real.cuda.Graph, name), name
    assert hasattr(real.add, "at")
    assert issubclass(real.cuda.memory.OutOfMemoryError, MemoryError)
    assert cupy_double.OutOfMemoryError.__name__ == real.cuda.memory.OutOfMemoryError.__name__


def test_barriers_must_be_reached_by_all():
    from tests.kernels_cuda import shim

    if shim.COMPILER is None:
        pytest.skip("g++ is not installed")
    text = """
    extern "C" __global__ void {name}(real* x, int count)
    {{
        __shared__ real shared[32];
        shared[threadIdx.x] = x[threadIdx.x];
        {condition} __syncthreads();
        x[threadIdx.x] = shared[(threadIdx.x + 1) % count];
    }}
    typedef int unused_{name};
    """
    source = "typedef REAL real;\n" + text.format(name="rotate", condition="") + text.format(
        name="stuck", condition="if (threadIdx.x < 4)")
    library = shim.Library(source, "double")
    library._fibers = {"rotate", "stuck"}
    x = np.arange(8.0)
    library.launch("rotate", (1,), (8,), (x, np.int32(8)))
    np.testing.assert_array_equal(x, np.roll(np.arange(8.0), -1))
    with pytest.raises(AssertionError, match="not all threads"):
        library.launch("stuck", (1,), (8,), (x, np.int32(8)))
    library._fibers = set()
    with pytest.raises(AssertionError, match="taken to have none"):
        library.launch("rotate", (1,), (8,), (x, np.int32(8)))
