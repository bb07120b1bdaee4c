"""A small pool of threads that share the images of a batch.

Each kernel call is cut into one contiguous part per thread, and the parts depend on the number of threads alone, so results
repeat bit for bit, whoever computes a part (`sharing`).
"""
from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np

from convnet.kernels.forks import call_in_children
from convnet.kernels.sharing import follow, new_board

# How often a thread looks for work before it goes to sleep: some 0.2 ms.
PATIENCE = 10_000


def default_count() -> int:
    """Return CONVNET_NUM_THREADS or OMP_NUM_THREADS where set, else the number of cores this process may use.

    A container's share of the cores counts, and the cores that the process is bound to.

    Raises
    ------
    ValueError
        If the variable does not hold a number of at least 1.
    """
    for name in ("CONVNET_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "").split(",")[0].strip()
        if text:
            if not text.isdigit() or int(text) < 1:
                raise ValueError(f"the environment variable {name} is {text!r}; it must be a whole number, at least 1")
            return int(text)
    from joblib import cpu_count

    return int(cpu_count())


def _current_core_function() -> Callable[[], int] | None:
    """Return what tells the core that the calling thread runs on, or None where that cannot be known or used."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    return getattr(ctypes.CDLL(None), "sched_getcpu", None)


class Workers:
    """Threads that run compiled kernels on parts of a range.

    Parameters
    ----------
    count : int
        Number of threads, the calling one included.
    """

    def __init__(self, count: int):
        if count < 1:
            raise ValueError(f"the number of threads is {count}; it must be at least 1")
        self.count = count
        self._rooms: dict[np.dtype, np.ndarray] = {}
        self._alarms: list[SimpleQueue[bool]] = []
        self._start()
        call_in_children(self._start)
        # The threads hold nothing of this object, and end with it.
        weakref.finalize(self, _ring, self._alarms, False).atexit = False

    def _start(self) -> None:
        """Forget the threads; in a forked child there are none."""
        self._busy = threading.Lock()
        self._board = new_board(self.count)
        self._sleepers: SimpleQueue[int] | None = None
        self._alarms[:] = [SimpleQueue() for _ in range(self.count)]
        self._ids: list[int] = []
        self._current_core, self._caller_core = _current_core_function(), -1

    def _start_threads(self) -> SimpleQueue[int]:
        self._sleepers = SimpleQueue()
        for part in range(1, self.count):
            args = (self._board, part, self._sleepers, self._alarms[part])
            thread = threading.Thread(target=_serve, args=args, daemon=True, name="convnet-kernel")
            thread.start()
            self._ids.append(thread.native_id or 0)
        return self._sleepers

    def _keep_off_the_callers_core(self) -> None:
        """Let the threads run on all cores but the caller's.

        After a pause the kernel of Linux wakes a thread on the core of the one that wakes it, where it would wait for the
        caller's part to end.
        """
        core = self._current_core() if self._current_core else self._caller_core
        if core == self._caller_core:
            return
        self._caller_core = core
        others = os.sched_getaffinity(0) - {core}
        # Where that is not allowed they run anywhere.
        with contextlib.suppress(OSError):
            for thread in self._ids if others else ():
                os.sched_setaffinity(thread, others)

    def run(
        self, kernel: Callable[..., bool], total: int, args: tuple[Any, ...], parts: int, dtype: np.dtype, room: int = 0
    ) -> None:
        """Call a shared kernel, ``kernel(board, parts, total, rooms, *args)``.

        Parameters
        ----------
        kernel : compiled by `sharing.shared`
        total : int
            The parts are contiguous parts of ``range(total)``.
        args : tuple
        parts : int
            At most the number of threads.
        dtype : numpy.dtype
        room : int
            Number of values of this type that each part needs beside.

        Raises
        ------
        RuntimeError
            If the kernel failed in any part.
        """
        with self._busy:
            held = self._rooms.get(dtype)
            if held is None or held.size < room * parts:
                held = self._rooms[dtype] = np.empty(max(room * parts, 1), dtype)
            if parts > 1:
                sleepers = self._sleepers or self._start_threads()
                self._keep_off_the_callers_core()
                try:
                    while not sleepers.empty():
                        self._alarms[sleepers.get()].put(True)
                except BaseException:
                    # An interrupt may have come between the two, and nobody would wake that thread again.
                    _ring(self._alarms, True)
                    raise
            if not kernel(self._board, parts, total, held[:room * parts], *args):
                raise RuntimeError("a kernel failed")


def _serve(board: np.ndarray, part: int, sleepers: SimpleQueue[int], alarm: SimpleQueue[bool]) -> None:
    """Look for work and sleep in turn, until an alarm says that there will be none."""
    going_on = True
    while going_on:
        follow(board, part, PATIENCE)
        sleepers.put(part)
        going_on = alarm.get()


def _ring(alarms: list[SimpleQueue[bool]], going_on: bool) -> None:
    for alarm in alarms:
        alarm.put(going_on)
