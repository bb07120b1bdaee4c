"""The kernels under the address and undefined-behaviour sanitizers: none reads or writes beyond its arrays."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels_cuda import shim

ROOT = Path(__file__).parents[2]
PLANTED = """
import numpy as np
from tests.kernels_cuda import shim
x, y, mask = np.ones(100), np.ones(100), np.ones(100, bool)
shim.library("float64").launch("relu", (1,), (128,), (x, y, mask, np.int32(100 + {beyond})))
"""


def sanitized(*arguments):
    """Run Python with the sanitizers' libraries, and kernels compiled for them."""
    libraries = []
    for name in ("libasan.so", "libubsan.so"):
        path = subprocess.run([str(shim.COMPILER), f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        if not os.path.isabs(path):
            pytest.skip(f"{name} is not installed")
        libraries.append(path)
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "LD_PRELOAD": " ".join(libraries), "PYTHONPATH": str(ROOT),
             "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
             "CONVNET_SHIM_FLAGS": "-fsanitize=address,undefined -fno-sanitize-recover=all"})


@pytest.mark.slow
@pytest.mark.skipif(shim.COMPILER is None, reason="g++ is not installed")
def test_no_kernel_leaves_its_arrays():
    optimizers = [f"tests/kernels_cuda/test_epochs.py::test_optimizers[{name}]" for name in ("momentum", "rmsprop", "adam")]
    result = sanitized("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:faulthandler",
                       "-k", "not float32 and not descending", "tests/kernels_cuda/test_cuda_kernels.py",
                       *optimizers)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.skipif(shim.COMPILER is None, reason="g++ is not installed")
def test_the_sanitizers_see_a_planted_overrun():
    assert sanitized("-c", PLANTED.format(beyond=0)).returncode == 0
    result = sanitized("-c", PLANTED.format(beyond=1))
    assert result.returncode != 0 and "heap-buffer-overflow" in result.stderr
