"""Threads that share a kernel do each part once, whoever does it."""
import os
import threading
import time

import numpy as np
import pytest

pytest.importorskip("numba")

from convnet.kernels.sharing import shared
from convnet.kernels.threads import PATIENCE, Workers


@shared
def mark(part, low, high, room, x, slow):
    """Add the part's number plus 1 to its places, after some work."""
    for _ in range(slow):
        for i in range(len(room)):
            room[i] += 1.0
    for i in range(low, high):
        x[i] += part + 1


@shared
def fail_at(part, low, high, room, x, bad):
    """Fail in one part."""
    if part == bad:
        raise ValueError("bad part")
    x[low:high] += 1


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("slow", [0, 300])
def test_every_part_is_done_once(threads, slow):
    workers, x = Workers(threads), np.zeros(23)
    for turn in range(1, 200):
        workers.run(mark, 23, (x, slow), threads, np.dtype(float), room=50)
        expected = np.concatenate([np.full(23 * (p + 1) // threads - 23 * p // threads, p + 1.0) for p in range(threads)])
        np.testing.assert_array_equal(x, turn * expected)


def test_threads_that_went_to_sleep_are_woken():
    workers, x = Workers(2), np.zeros(4)
    for _ in range(3):
        workers.run(mark, 4, (x, 0), 2, np.dtype(float))
        deadline = time.monotonic() + 30
        while workers._sleepers.empty() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not workers._sleepers.empty(), f"the thread still looks for work after {PATIENCE} looks"
    workers.run(mark, 4, (x, 0), 2, np.dtype(float))
    np.testing.assert_array_equal(x, [4, 4, 8, 8])


def test_threads_end_with_what_they_work_for():
    workers, before = Workers(3), set(threading.enumerate())
    workers.run(mark, 3, (np.zeros(3), 0), 3, np.dtype(float))
    started = set(threading.enumerate()) - before
    assert len(started) == 2
    del workers
    for thread in started:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in started)


def test_an_interrupt_while_threads_are_woken_loses_none(monkeypatch):
    workers, x = Workers(2), np.zeros(4)

    def asleep():
        deadline = time.monotonic() + 30
        while workers._sleepers.empty() and time.monotonic() < deadline:
            time.sleep(0.01)
        return not workers._sleepers.empty()

    workers.run(mark, 4, (x, 0), 2, np.dtype(float))
    assert asleep()

    class Interrupted:
        def __getitem__(self, part):
            raise KeyboardInterrupt

        def __iter__(self):
            return iter(alarms)

    alarms, workers._alarms = workers._alarms, Interrupted()
    with pytest.raises(KeyboardInterrupt):
        workers.run(mark, 4, (x, 0), 2, np.dtype(float))
    workers._alarms = alarms
    assert asleep()


def test_threads_run_anywhere_where_they_may_not_be_bound(monkeypatch):
    def refused(*_):
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refused, raising=False)
    workers, x = Workers(2), np.zeros(4)
    workers.run(mark, 4, (x, 0), 2, np.dtype(float))
    np.testing.assert_array_equal(x, [1, 1, 2, 2])


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_an_error_in_any_part_reaches_the_caller_and_harms_no_later_call(bad):
    workers, x = Workers(3), np.zeros(9)
    for _ in range(20):
        with pytest.raises(RuntimeError, match="kernel failed"):
            workers.run(fail_at, 9, (x, bad), 3, np.dtype(float))
    x[:] = 0
    workers.run(fail_at, 9, (x, -1), 3, np.dtype(float))
    np.testing.assert_array_equal(x, np.ones(9))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores of Linux")
def test_threads_keep_off_the_core_of_their_caller():
    workers = Workers(2)
    before = os.sched_getaffinity(0)
    workers.run(mark, 2, (np.zeros(2), 0), 2, np.dtype(float))
    (thread,) = workers._ids
    assert os.sched_getaffinity(thread) == before - {workers._caller_core}
    assert os.sched_getaffinity(0) == before
