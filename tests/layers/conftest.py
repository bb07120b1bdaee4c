"""Layer tests run on each set of CPU kernels."""
import importlib.util

import pytest

from convnet import kernels

COMPILED = all(importlib.util.find_spec(name) for name in ("numba", "threadpoolctl"))


@pytest.fixture(params=["reference", pytest.param("fast", marks=pytest.mark.skipif(
    not COMPILED, reason="the fast kernels need numba and threadpoolctl"))])
def cpu_kernels(request):
    """Compute with the named kernels."""
    with kernels.using(request.param) as chosen:
        yield chosen
