"""The sources compiled for the CPU, and a machine with a pretended device."""
import sys

import pytest

from convnet import devices, kernels
from convnet.kernels.cuda.choice import Choices
from tests.kernels_cuda import cupy_double, shim


@pytest.fixture
def cupy(monkeypatch, tmp_path):
    """Stand-in for CuPy, without cuBLAS; kernels run through g++, and of several ways the first is taken."""
    if shim.COMPILER is None:
        pytest.skip("g++ is not installed")
    module = cupy_double.module()
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kernels, "_gpu", None)
    monkeypatch.setattr(devices, "_tf32", False)
    monkeypatch.setattr(Choices, "_fastest", lambda self, problem, ways: next(iter(ways)))
    monkeypatch.setattr(cupy_double, "log", cupy_double.Log())
    yield module
    assert cupy_double.tape is None


@pytest.fixture(params=["ascending", "descending"])
def order(request, monkeypatch):
    """Both orders of threads and blocks."""
    monkeypatch.setattr(shim, "descending", request.param == "descending")
    return request.param
