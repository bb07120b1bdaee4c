"""Work recorded once as a CUDA graph and launched again and again.

A launch costs the host several microseconds, more than most of these kernels run. A graph is one launch for a whole step.

What is recorded are addresses and numbers as they were: the work must read everything that changes from memory that stays
where it is. CuPy has no memory of a graph's own, so recorded work allocates from a pool that nothing else uses: what it frees
is handed out again within the work alone, and the addresses in the graph stay its own for as long as the pool lives.
"""
from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

# Runs before the recording: they compile kernels, measure choices and fill the pool, none of which can be recorded.
WARM_UP = 2
# cudaErrorMemoryAllocation, the status of the runtime's error when the device is full.
FULL = 2


class Recorder:
    """A stream to record on, and the memory of what is recorded.

    Parameters
    ----------
    cupy : module
    """

    def __init__(self, cupy: Any):
        self.cupy = cupy
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.pool = cupy.cuda.MemoryPool(_allocator(cupy))
        # A pool that is merely dropped never gives its memory back.
        weakref.finalize(self, self.pool.free_all_blocks).atexit = False

    def wait_for_others(self) -> None:
        """Wait until the device has done what other streams were given."""
        self.cupy.cuda.Device().synchronize()


def _allocator(cupy: Any) -> Callable[[int], Any]:
    """Return the allocator of a pool for recorded work.

    A pool whose allocator reports that the device is full frees all that is not in use at the moment, the buffers of a graph
    among it. This one frees what the default pool holds, and raises an error that the pool lets pass.
    """

    def if_there_is_room(size: int) -> Any:
        try:
            return cupy.cuda.MemoryPointer(cupy.cuda.Memory(size), 0)
        except cupy.cuda.runtime.CUDARuntimeError as error:
            if error.status != FULL:
                raise
            return None

    def allocated(size: int) -> Any:
        found = if_there_is_room(size)
        if found is None:
            cupy.get_default_memory_pool().free_all_blocks()
            found = if_there_is_room(size)
        if found is None:
            raise cupy.cuda.memory.OutOfMemoryError(size, -1)
        return found

    return allocated


class Replay:
    """Work that is done step by step at first and, once it has been recorded, by launching a graph.

    Parameters
    ----------
    recorder : Recorder
    work : callable
        What is to be done; it returns nothing, and each run does the same with whatever its memory holds.

    Attributes
    ----------
    refusal : Exception or None
        Why the work could not be recorded; it is then done step by step for good.
    """

    def __init__(self, recorder: Recorder, work: Callable[[], None]):
        self._recorder, self._work = recorder, work
        self._graph: Any = None
        self._runs = 0
        self.refusal: Exception | None = None

    @property
    def recorded(self) -> bool:
        """Whether the work is a graph by now."""
        return self._graph is not None

    def run(self) -> None:
        """Do the work once, on the recorder's stream."""
        cuda = self._recorder.cupy.cuda
        with self._recorder.stream, cuda.using_allocator(self._recorder.pool.malloc):
            if self._runs >= WARM_UP and self._graph is None and self.refusal is None:
                self._record(cuda)
            if self._graph is not None:
                self._graph.launch()
            else:
                self._work()
        self._runs += 1

    def _record(self, cuda: Any) -> None:
        """Record the work; nothing of it is done."""
        stream = self._recorder.stream
        stream.begin_capture()
        try:
            # An upload would go into the graph with the address of a staging buffer that is soon another's.
            cuda.set_pinned_memory_allocator(_no_uploads)
            self._work()
            self._graph = stream.end_capture()
        except MemoryError:
            with suppress(Exception):
                stream.end_capture()
            raise
        except Exception as error:
            # Its traceback would keep the arrays of the work.
            self.refusal = error.with_traceback(None)
            with suppress(Exception):
                stream.end_capture()
        finally:
            cuda.set_pinned_memory_allocator(self._recorder.cupy.get_default_pinned_memory_pool().malloc)


def _no_uploads(size: int) -> Any:
    raise RuntimeError(f"{size} bytes are sent from the host inside work that is to be recorded")
