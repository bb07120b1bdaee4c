"""A small pool of threads that share the images of a batch.

Each kernel call is cut into one contiguous part per thread. The calling thread does the first part itself; the others wait in
their own queue. The cut depends on the number of threads alone, so results repeat bit for bit.
"""
from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np


def default_count() -> int:
    """Return CONVNET_NUM_THREADS or OMP_NUM_THREADS where set, else the number of cores this process may use.

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
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


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
        self._workspaces: dict[tuple[int, np.dtype], np.ndarray] = {}
        self._start()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._start)

    def _start(self) -> None:
        """Start the threads; again in a forked child, which has none."""
        self._busy = threading.Lock()
        self._inboxes = [SimpleQueue[Any]() for _ in range(self.count - 1)]
        self._started = False
        self._ids: list[int] = []
        self._current_core, self._caller_core = _current_core_function(), -1

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
        for thread in self._ids if others else ():
            os.sched_setaffinity(thread, others)

    @staticmethod
    def _serve(inbox: SimpleQueue[Any]) -> None:
        while True:
            function, args, done = inbox.get()
            try:
                function(*args)
                done.put(None)
            except BaseException as error:
                done.put(error)

    def run(
        self, function: Callable[..., Any], total: int, args: Callable[[int], tuple[Any, ...]], parts: int,
        dtype: np.dtype, workspace: int = 0,
    ) -> None:
        """Call ``function(low, high, workspace, *args(part))`` for `parts` parts of ``range(total)``.

        Parameters
        ----------
        function : compiled kernel
        total : int
        args : callable
            The arguments of each part.
        parts : int
            At most the number of threads.
        dtype : numpy.dtype
        workspace : int
            Number of values that each thread needs beside.
        """
        bounds = [total * part // parts for part in range(parts + 1)]
        with self._busy:
            calls = [(bounds[p], bounds[p + 1], self._workspace(p, dtype, workspace), *args(p)) for p in range(parts)]
            if parts > 1 and not self._started:
                for inbox in self._inboxes:
                    thread = threading.Thread(target=self._serve, args=(inbox,), daemon=True, name="convnet-kernel")
                    thread.start()
                    self._ids.append(thread.native_id or 0)
                self._started = True
            if parts > 1:
                self._keep_off_the_callers_core()
            # A queue of its own for every run: after an interruption nobody finds the answers of the run before.
            done: SimpleQueue[Any] = SimpleQueue()
            for inbox, call in zip(self._inboxes, calls[1:], strict=False):
                inbox.put((function, call, done))
            try:
                function(*calls[0])
            finally:
                errors = [done.get() for _ in calls[1:]]
            for error in errors:
                if error is not None:
                    raise error

    def _workspace(self, part: int, dtype: np.dtype, size: int) -> np.ndarray:
        held = self._workspaces.get((part, dtype))
        if held is None or held.size < size:
            held = self._workspaces[part, dtype] = np.empty(max(size, 1), dtype)
        return held
