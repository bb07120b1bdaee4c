"""Buffers that are used again from step to step.

A fresh array of some megabytes costs a page fault for each of its pages. `Pool` keeps the memory of arrays that nobody holds
any more and hands it out again. Nothing has to be returned: an array's memory is free when no view of it is left, which
the reference count of the memory tells.
"""
from __future__ import annotations

import math
import sys
import threading
from typing import Any

import numpy as np

from convnet.kernels.forks import call_in_children

ALIGNMENT = 64
SMALLEST = 1 << 15


class Pool:
    """Hands out uninitialised arrays, from memory that nobody holds any more where there is some."""

    def __init__(self) -> None:
        self._held: dict[int, list[np.ndarray]] = {}
        self._start()
        call_in_children(self._start)

    def _start(self) -> None:
        """Make a lock that nobody holds."""
        self._lock = threading.Lock()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return an uninitialised C-contiguous array."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if size < SMALLEST:
            return np.empty(shape, dtype)
        room = _rounded(size + ALIGNMENT)
        with self._lock:
            memory = self._free(room)
            if memory is None:
                self._drop_idle(room)
                memory = np.empty(room, np.uint8)
                self._held.setdefault(room, []).append(memory)
            start = -memory.ctypes.data % ALIGNMENT
            return memory[start:start + size].view(dtype).reshape(shape)

    def _free(self, room: int) -> np.ndarray | None:
        held = self._held.get(room, [])
        return next((held[i] for i in range(len(held)) if _holders(held, i) == IDLE), None)

    def _drop_idle(self, room: int) -> None:
        """Give back idle memory of other sizes once it exceeds what is in use."""
        idle = {size: [i for i in range(len(held)) if _holders(held, i) == IDLE] for size, held in self._held.items()}
        unused = sum(size * len(places) for size, places in idle.items())
        total = sum(size * len(held) for size, held in self._held.items())
        if unused > total - unused:
            for size, places in idle.items():
                if size != room:
                    for i in reversed(places):
                        del self._held[size][i]


def _rounded(size: int) -> int:
    """Return `size` rounded up to a multiple of an eighth of its power of two."""
    step = max(1 << (size.bit_length() - 4), 4096)
    return -(-size // step) * step


def _holders(held: list[np.ndarray], i: int) -> int:
    """Return the number of references to ``held[i]``; every view in use is one."""
    return sys.getrefcount(held[i])


IDLE = _holders([np.empty(0)], 0)
