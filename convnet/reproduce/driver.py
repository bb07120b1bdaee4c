"""Running an experiment: what is missing is done, in rounds, until nothing is left that can be done."""
from __future__ import annotations

import dataclasses
import errno
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import convnet
from convnet.experiment import Run
from convnet.reproduce import cost
from convnet.reproduce.claims import Claims
from convnet.reproduce.definition import Definition
from convnet.reproduce.execution import run_local, run_on_cluster
from convnet.reproduce.jobs import Cell, Job, cells, finished, job_count, wanted
from convnet.reproduce.runs import PartExperiment
from convnet.reproduce.store import Store

# Seconds between two renewals of the bar.
_RENEWAL_SECONDS = 1.0
# Seconds between two looks at jobs that other processes are at.
_WAIT_SECONDS = 2.0
# With these no other job can be written either.
_HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

Outcomes = Iterator[tuple[str, dict[str, Any]]]


@dataclass
class Result:
    """What a call of `reproduce` came to.

    Attributes
    ----------
    cells : list of Cell
    done : int
        Jobs that were done by this call.
    failures : dict of str to str
        Label of each job that failed, and why.
    skipped : dict of str to str
        Name of each part that could not be started, and why.
    """

    cells: list[Cell] = field(default_factory=list)
    done: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def at(definition: Definition, root: str | None, device: str) -> Definition:
    """Return the experiment with its data under `root` and its networks on `device`."""
    parts = tuple(dataclasses.replace(part, setup=dataclasses.replace(part.setup, root=root, device=device))
                  for part in definition.parts)
    return dataclasses.replace(definition, parts=parts)


def reproduce(
    definition: Definition, store: Store, *, processes: int = 1, threads: int = 1, scheduler: str | None = None,
    on_test: bool = False, progress: bool | None = None, say: Callable[[str], None] = lambda line: None,
) -> Result:
    """Do what is missing of an experiment; wait for what other processes are doing of it.

    Parameters
    ----------
    definition : Definition
        At its scale, see `convnet.reproduce.scales.scaled`, and in its place, see `at`.
    store : Store
    processes, threads : int
        Processes at a time on this machine, and threads of each.
    scheduler : str, optional
        Address of a Dask scheduler, in place of processes of this machine.
    on_test : bool
        Choose coefficients by the error on the test images.
    progress : bool, optional
        Whether to show a bar; by default if standard error is a terminal.
    say : callable
        Receives a line for every failure.

    Raises
    ------
    OSError
        If the store cannot be written, or the scheduler goes away; what is finished stays finished.
    """
    store.check_writable()
    result, claims, waiting = Result(), Claims(store.folder), False
    experiments = _opened(definition, store, result, say)
    attempted: set[str] = set()
    with _Bar(progress, definition.name) as bar:
        while True:
            runs = current(store.runs(remove_damaged=True), experiments)
            result.cells = cells(definition, runs, on_test)
            todo = [job for job in wanted(result.cells) if job.part.name in experiments and job.key not in attempted
                    and finished(job, runs) is None]
            if not todo:
                return result
            free = [job for job in todo if not claims.held(job.key)]
            if not free:
                if not waiting:
                    say(f"{definition.name}: waiting for {len(todo)} jobs that other processes are at")
                waiting = True
                time.sleep(_WAIT_SECONDS)
                continue
            bar.expect({job.key: _work(job, experiments) for job in free}, _later(definition, result.cells, experiments))
            outcomes = run_on_cluster(free, store.folder.absolute(), scheduler) if scheduler else \
                run_local(free, store.folder.absolute(), processes, threads)
            done = {job.key: job for job in free}
            for key, outcome in outcomes:
                bar.done(key)
                if outcome.pop("taken", False):
                    continue
                attempted.add(key)
                _take(outcome, done[key], store, experiments, result, say)


def _take(outcome: dict[str, Any], job: Job, store: Store, experiments: Mapping[str, PartExperiment], result: Result,
          say: Callable[[str], None]) -> None:
    """Note how a job went; raise OSError if it is no use to go on."""
    problem, number = outcome["problem"], outcome.pop("errno", None)
    if number in _HOPELESS:
        raise OSError(f"{job.label}: {problem}; make room, or give another folder with --output: what is finished is kept")
    if problem is not None and finished(job, current(store.runs(), experiments)) is not None:
        # Somebody else has finished it meanwhile.
        problem = None
    store.note(job.key, {**outcome, "problem": problem, "job": job.label, "command": " ".join(sys.argv)})
    if problem is None:
        result.done += 1
        return
    result.failures[job.label] = problem
    say(f"{job.label}: failed, {problem}")
    if number is not None:
        store.check_writable()


def _opened(definition: Definition, store: Store, result: Result, say: Callable[[str], None]) -> dict[str, PartExperiment]:
    """Return the parts whose data is there and whose network fits it."""
    opened = {}
    for part in definition.parts:
        try:
            opened[part.name] = PartExperiment(part, store.folder)
        except (OSError, ValueError) as error:
            result.skipped[part.name] = " ".join(str(error).split())
            say(f"{part.name}: left out, {result.skipped[part.name]}")
    return opened


def current(runs: Mapping[str, Sequence[Run]], experiments: Mapping[str, PartExperiment]) -> dict[str, list[Run]]:
    """Return the runs that were made of these data, by this version, with these kernels, on this device."""
    here = {(experiment.data_digest, experiment.kernels, convnet.__version__, experiment.setup.device)
            for experiment in experiments.values()}
    kept = {key: [run for run in found if _circumstances(run) in here] for key, found in runs.items()}
    return {key: found for key, found in kept.items() if found}


def _circumstances(run: Run) -> tuple[Any, ...]:
    return tuple(run.settings[name] for name in ("data", "kernels", "version", "device"))


def _work(job: Job, experiments: Mapping[str, PartExperiment]) -> float:
    experiment = experiments[job.part.name]
    return cost.work(job, cost.train_count(experiment), len(experiment.raw.test_labels), len(experiment.raw.classes))


def _later(definition: Definition, found: Iterable[Cell], experiments: Mapping[str, PartExperiment]) -> float:
    """Return the work of final runs whose coefficient is not chosen yet."""
    undecided = [cell for cell in found if cell.chosen is None and cell.part.name in experiments]
    return sum(_work(Job(cell.part, next(iter(cell.validation)), seed, None, definition.levels), experiments)
               for cell in undecided for seed in range(definition.seeds))


def estimate(definition: Definition, store: Store) -> tuple[int, float | None]:
    """Return the number of jobs of an experiment, and the seconds that what is missing takes here, one after another.

    The seconds are None where data is missing.
    """
    result = Result()
    experiments = _opened(definition, store, result, lambda line: None)
    runs = store.runs()
    found = cells(definition, current(runs, experiments))
    count = job_count(found, definition.seeds)
    if result.skipped:
        return count, None
    speeds = {name: cost.seconds_per_image(experiment, runs) for name, experiment in experiments.items()}
    missing = [job for job in wanted(found) if finished(job, runs) is None]
    seconds = sum(speeds[job.part.name] * _work(job, experiments) for job in missing)
    for name, experiment in experiments.items():
        seconds += speeds[name] * _later(definition, found, {name: experiment})
    return count, seconds


def shares(processes: int | None, device: str) -> tuple[int, int]:
    """Return how many processes to use, and the threads of each.

    By default a core is a process of its own, as runs side by side waste nothing. Jobs on a GPU default to one at a time:
    they would share its memory and slow each other's timing down.
    """
    from convnet.kernels.threads import default_count

    cores = default_count()
    count = processes or (cores if device == "cpu" else 1)
    return count, max(1, cores // count)


class _Bar:
    """A bar over all jobs, in work, with the time left; nothing where it is not shown."""

    def __init__(self, show: bool | None, name: str):
        self._bar: Any = None
        self._left: dict[str, float] = {}
        self._over = threading.Event()
        if show or (show is None and sys.stderr.isatty()):
            from tqdm import tqdm

            self._bar = tqdm(total=0, desc=name, dynamic_ncols=True, leave=False, smoothing=0.05, mininterval=0,
                             bar_format="{desc} {percentage:3.0f}% |{bar:20}| {elapsed} so far, {remaining} left{postfix}")

    def __enter__(self) -> _Bar:
        if self._bar is not None:
            threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        if self._bar is not None:
            self._bar.close()

    def _tick(self) -> None:
        """Renew the times while a long job is under way."""
        while not self._over.wait(_RENEWAL_SECONDS):
            self._bar.refresh()

    def expect(self, work: Mapping[str, float], later: float) -> None:
        """Set what is to come: jobs with their work, and work that is not jobs yet."""
        self._left = dict(work)
        if self._bar is not None:
            self._bar.total = self._bar.n + sum(work.values()) + later
            self._bar.set_postfix_str(f"{len(work)} jobs", refresh=False)
            self._bar.refresh()

    def done(self, key: str) -> None:
        """Count a job."""
        work = self._left.pop(key, 0.0)
        if self._bar is not None:
            self._bar.set_postfix_str(f"{len(self._left)} jobs", refresh=False)
            self._bar.update(work)
