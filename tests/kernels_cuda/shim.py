"""Compiles the CUDA sources with g++ and launches their kernels on the CPU."""
from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from convnet.kernels.cuda import source

HEADER = Path(__file__).with_name("shim.h")
COMPILER = shutil.which("g++")
KERNEL = re.compile(r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(([^)]*)\)')
# By these words a source is known to have barriers: its own, or those of a function of `common`.
BARRIERS = ("__syncthreads", "block_sum")
OUTCOMES = {1: "a barrier in a source that was taken to have none", 2: "a barrier that not all threads of a block reach"}

# Orders in which threads and blocks run: a kernel whose result depends on it has a race.
descending = False


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel: its type in the source and its name."""

    type: str
    name: str


def signatures(text: str) -> dict[str, tuple[Parameter, ...]]:
    """Return the parameters of each kernel in a source."""
    found = {}
    for name, inside in KERNEL.findall(text):
        parts = [re.fullmatch(r"(.*?)\s*(\w+)", part.strip()).groups() for part in inside.split(",")]
        found[name] = tuple(Parameter(re.sub(r"\s+", " ", type_).strip(), own) for type_, own in parts)
    return found


class Library:
    """The kernels of a source, compiled for the CPU.

    Parameters
    ----------
    text : str
        CUDA source.
    real : {"float", "double"}
    flags : tuple of str
        More options for the compiler.
    """

    def __init__(self, text: str, real: str, flags: tuple[str, ...] = ()):
        self.real = np.dtype(np.float32 if real == "float" else np.float64)
        self.signatures = signatures(text)
        # Which kernels may meet a barrier is decided source by source.
        self._fibers = {name for part in source.NAMES if any(word in source.part(part) for word in BARRIERS)
                        for name in signatures(source.part(part))}
        launchers = "\n".join(
            f'extern "C" int launch_{name}(const unsigned* grid, const unsigned* block, void** arguments, '
            f"bool fibers, bool descending) {{ return shim::launch({name}, grid, block, arguments, fibers, descending); }}"
            for name in self.signatures
        )
        whole = f'#include "{HEADER}"\n{text}\n{launchers}\n'
        key = hashlib.sha256(f"{HEADER.read_text()}{whole}{flags}".encode()).hexdigest()[:16]
        self._library = compiled(f"{real}-{key}", whole, (f"-DREAL={real}", *flags))

    def launch(self, name: str, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        """Run a kernel.

        Parameters
        ----------
        name : str
        grid, block : tuple of int
        arguments : tuple
            NumPy arrays for pointers (None for null), NumPy scalars for numbers, arrays of one element for structures.
        """
        parameters = self.signatures[name]
        assert len(arguments) == len(parameters), f"{name} takes {len(parameters)} arguments, not {len(arguments)}"
        values = [self._value(name, p, a) for p, a in zip(parameters, arguments, strict=True)]
        pointers = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
        outcome = getattr(self._library, f"launch_{name}")(
            _sizes(grid), _sizes(block), pointers, ctypes.c_bool(name in self._fibers), ctypes.c_bool(descending))
        assert outcome == 0, f"{name}: {OUTCOMES[outcome]}"

    def _value(self, kernel: str, parameter: Parameter, given: Any) -> np.ndarray:
        """Return the argument's bytes, after a check that they are what the kernel expects."""
        kind = f"{type(given).__name__} of {getattr(given, 'dtype', None)}"
        what = f"{kernel}: {parameter.type} {parameter.name} was given a {kind}"
        plain = parameter.type.removeprefix("const ")
        if plain.endswith("*"):
            if given is None:
                return np.zeros(1, np.uintp)
            assert given.dtype == self._number(plain[:-1]), what
            assert given.flags.c_contiguous, f"{kernel}: {parameter.name} is not contiguous"
            assert given.flags.writeable or parameter.type.startswith("const "), f"{kernel}: {parameter.name} is read-only"
            return np.array([given.ctypes.data], np.uintp)
        if isinstance(given, np.ndarray):
            assert given.size == 1 and given.dtype.names, what
            return given
        assert isinstance(given, np.generic) and given.dtype == self._number(plain), what
        return np.array([given])

    def _number(self, name: str) -> np.dtype:
        return self.real if name == "real" else np.dtype(
            {"int": np.int32, "u32": np.uint32, "u64": np.uint64, "bool": np.bool_, "unsigned char": np.uint8,
             "long long": np.int64}[name])


def _sizes(given: tuple[int, ...]) -> ctypes.Array:
    padded = (*given, 1, 1)[:3]
    assert len(given) <= 3 and min(padded) >= 1, given
    return (ctypes.c_uint * 3)(*padded)


def compiled(name: str, text: str, flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """Return C++ source as a loaded library, kept among the temporary files for the next run.

    Raises
    ------
    RuntimeError
        If it does not compile without warnings.
    """
    folder = Path(tempfile.gettempdir()) / f"convnet-cuda-shim-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    target = folder / f"{name}.so"
    if not target.exists():
        own = folder / f"{name}-{os.getpid()}.cpp"
        own.write_text(text)
        result = subprocess.run(
            [str(COMPILER), "-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas",
             *flags, str(own), "-o", str(own.with_suffix(".so"))], capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"g++ refuses {own}:\n{result.stderr}")
        os.replace(own.with_suffix(".so"), target)
    return ctypes.CDLL(str(target))


@cache
def library(dtype: Any) -> Library:
    """Return all kernels for arrays of `dtype`, compiled with the further options in ``CONVNET_SHIM_FLAGS``."""
    return Library(source.text(), source.REALS[np.dtype(dtype)], tuple(os.environ.get("CONVNET_SHIM_FLAGS", "").split()))
