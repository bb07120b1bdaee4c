"""``convnet info``: versions, devices, and which kernels are in use."""
from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
from typing import Any

from convnet.cli.parser import add_command

LIBRARIES = ("numpy", "scipy", "matplotlib", "tqdm", "numba", "threadpoolctl")
SLOW = ("the slow reference kernels are in use; the compiled ones are several times as fast: "
        "pip install 'convnet-ibp[fast]'")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add ``info`` to the commands."""
    parser = add_command(subparsers, "info", "show versions, devices and the kernels in use", "  convnet info")
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Show what is in use."""
    for name, value in facts():
        print(f"{name:16}{value}")
    from convnet import kernels

    hint = slow_kernels(kernels.cpu().name)
    if hint:
        print(f"\nwarning: {hint}")
    if os.environ.get("OPENBLAS_CORETYPE") and kernels.cpu().name == "reference":
        print(f"\nnote: OPENBLAS_CORETYPE={os.environ['OPENBLAS_CORETYPE']} holds OpenBLAS to that instruction set; unset it to "
              "let OpenBLAS choose, which on a newer processor can double the speed")
    return 0


def facts() -> list[tuple[str, str]]:
    """Return what is installed and in use, by name."""
    import convnet
    from convnet import kernels
    from convnet.devices import DeviceError, usable_cupy

    found = [("convnet", convnet.__version__), ("python", f"{platform.python_version()}, {platform.platform()}")]
    found += [(name, version(name)) for name in LIBRARIES]
    found.append(("CPU", f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"))
    found.append(("CPU kernels", kernels.cpu().name + chosen_by()))
    found += [("matrix library", line) for line in matrix_libraries()]
    try:
        cupy = usable_cupy()
        name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
        found.append(("GPU", f"{name}, CuPy {cupy.__version__}"))
        found.append(("cuBLAS", kernels.gpu().cublas_error or "loaded"))
    except DeviceError as error:
        found.append(("GPU", f"not usable: {error}"))
    return found


def version(name: str) -> str:
    """Return the version of an installed library."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def chosen_by() -> str:
    """Return a remark if the environment variable decides about the kernels."""
    return f" (chosen by CONVNET_KERNELS={os.environ['CONVNET_KERNELS']})" if os.environ.get("CONVNET_KERNELS") else ""


def matrix_libraries() -> list[str]:
    """Return the matrix-product libraries that are loaded, with their numbers of threads, where that can be found out."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return []
    return [f"{pool['internal_api']} {pool['version']}, {pool['num_threads']} threads, "
            f"kernels for {pool.get('architecture', 'unknown')}" for pool in threadpool_info() if pool["user_api"] == "blas"]


def slow_kernels(name: str) -> str:
    """Return a warning with its remedy if `name` is the reference kernels' and nobody asked for them."""
    return SLOW if name == "reference" and not os.environ.get("CONVNET_KERNELS") else ""
