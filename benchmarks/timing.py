"""Fair timing: everything that is compared takes turns in one run."""
from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def interleaved(functions: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 3) -> dict[str, dict[str, float]]:
    """Call all functions in turn, `rounds` times, and return median and quartiles of their seconds.

    Taking turns exposes all of them to the same other load of the machine. A pause lets the threads of the function before
    go to sleep (those of OpenMP spin for a while), a warm-up call lets caches and allocators settle.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        for _ in range(warm_up):
            function()
    for _ in range(rounds):
        for name, function in functions.items():
            time.sleep(0.02)
            function()
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {
        name: dict(zip(("low", "median", "high"), np.quantile(values, [0.25, 0.5, 0.75]).tolist(), strict=True))
        for name, values in times.items()
    }


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, versions, instruction set of the BLAS."""
    from threadpoolctl import threadpool_info

    from convnet import kernels

    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    blas = sorted({library.get("architecture", "?") for library in threadpool_info() if library["user_api"] == "blas"})
    return {
        "processor": model, "threads": getattr(kernels.cpu(), "threads", 1), "kernels": kernels.cpu().name,
        "blas": ", ".join(blas), "python": platform.python_version(), "numpy": np.__version__,
    }


def product_ceiling(rounds: int = 15) -> float:
    """Return the GFLOP/s of a float32 matrix product with 1024 rows, columns and inner values, in all threads: the ceiling."""
    a = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    out = np.empty_like(a)
    seconds = interleaved({"product": lambda: np.matmul(a, a, out=out)}, rounds)["product"]["median"]
    return 2 * 1024**3 / seconds / 1e9
