"""Compiling with numba, and keeping what was compiled where that can be done."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

# Names of functions that have to be compiled anew in every process.
uncached: list[str] = []


def compiled(function: Callable[..., Any]) -> Any:
    """Return a function compiled without Python's lock, from numba's cache if there is one.

    Where numba can write no cache (a read-only installation without a home folder), each process compiles for itself.
    """
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        uncached.append(function.__name__)
        return numba.njit(nogil=True)(function)
