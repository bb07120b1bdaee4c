"""Layer tests run on each set of CPU kernels."""
import importlib.util

import pytest

from convnet import kernels

COMPILED = importlib.util.find_spec("numba") is not None


@pytest.fixture(params=["reference", pytest.param("fast", marks=pytest.mark.skipif(
    not COMPILED, reason="the fast kernels need numba"))])
def cpu_kernels(request):
    """Compute with the named kernels."""
    with kernels.using(request.param) as chosen:
        yield chosen
