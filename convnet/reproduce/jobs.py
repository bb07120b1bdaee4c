"""What is to be run for an experiment: jobs, in two rounds, and the choice of coefficients between them."""
from __future__ import annotations

import dataclasses
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from convnet.experiment import Levels, Run, Setup
from convnet.reproduce.definition import Definition, Entry, Part
from convnet.reproduce.runs import Fold, error_of, identity
from convnet.reproduce.store import key_of


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes
    ----------
    part : Part
    spec : str
        The algorithm with its coefficient.
    seed : int
    fold : (int, int) or None
        The fold of the training images that is held back, or None for a final run.
    levels : Levels
    """

    part: Part
    spec: str
    seed: int
    fold: Fold | None
    levels: Levels

    @property
    def key(self) -> str:
        """Digest of what determines the run."""
        return key_of(identity(self.part, self.spec, self.seed, self.fold))

    @property
    def label(self) -> str:
        """The job in words."""
        fold = "" if self.fold is None else f", fold {self.fold[0] + 1} of {self.fold[1]}"
        return f"{self.part.name}: {self.spec}, seed {self.seed}{fold}"

    def to_json(self) -> dict[str, Any]:
        """Return the job as JSON can hold it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Job:
        """Return the job that `to_json` described."""
        part = content["part"]
        levels = Levels(*(tuple(content["levels"][name]) for name in ("sigmas", "epsilons")))
        return cls(Part(**{**part, "setup": Setup(**part["setup"])}), content["spec"], content["seed"],
                   None if content["fold"] is None else tuple(content["fold"]), levels)


@dataclass
class Cell:
    """One algorithm in one part: what it needs, and what has finished.

    Attributes
    ----------
    part, entry
    validation : dict of str to list of Job
        The jobs that each candidate is judged by; empty where there is nothing to choose.
    tried : dict of str to list of Run
        Those of them that have finished.
    chosen : str or None
        The spec of the final runs; None as long as candidates are missing.
    jobs : list of Job
        The final runs.
    runs : list of Run
        Those that have finished.
    """

    part: Part
    entry: Entry
    validation: dict[str, list[Job]] = field(default_factory=dict)
    tried: dict[str, list[Run]] = field(default_factory=dict)
    chosen: str | None = None
    jobs: list[Job] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    @property
    def means(self) -> dict[str, float]:
        """Mean error of each candidate that has any run."""
        return {spec: statistics.fmean(map(error_of, runs)) for spec, runs in self.tried.items() if runs}

    @property
    def finished(self) -> list[Run]:
        """The final runs whose training did not fail."""
        return [run for run in self.runs if run.problem is None]

    @property
    def coefficient(self) -> float | None:
        """The coefficient that was chosen."""
        return None if self.chosen is None or self.entry.coefficient is None else float(self.chosen.rpartition("=")[2])

    @property
    def at_edge(self) -> bool:
        """Whether the choice fell on the end of what was tried, so that a better value may lie beyond."""
        tried = list(self.validation)
        return len(tried) > 2 and self.chosen in (tried[0], tried[-1])


def cells(definition: Definition, runs: Mapping[str, Sequence[Run]], on_test: bool = False) -> list[Cell]:
    """Return every algorithm in every part, with the runs that have finished.

    Parameters
    ----------
    definition : Definition
    runs : mapping of str to sequence of Run
        The store's runs by key.
    on_test : bool
        Choose coefficients by the error of the final runs on the test images, as some papers did.
    """
    return [_cell(definition, part, entry, runs, on_test) for part in definition.parts for entry in definition.entries]


def _cell(definition: Definition, part: Part, entry: Entry, runs: Mapping[str, Sequence[Run]], on_test: bool) -> Cell:
    cell = Cell(part, entry)
    offered = entry.offered(part.name, definition.choices)
    seeds = range(definition.seeds)

    def final(spec: str) -> list[Job]:
        return [Job(part, spec, seed, None, definition.levels) for seed in seeds]

    if len(offered) == 1:
        cell.chosen = offered[0]
    else:
        folds = [(turn, definition.folds) for turn in range(definition.turns)]
        cell.validation = {spec: final(spec) if on_test else [Job(part, spec, 0, fold, Levels()) for fold in folds]
                           for spec in offered}
        found = {spec: [finished(job, runs) for job in jobs] for spec, jobs in cell.validation.items()}
        cell.tried = {spec: [run for run in each if run is not None] for spec, each in found.items()}
        if all(run is not None for each in found.values() for run in each):
            means = cell.means
            cell.chosen = min(offered, key=lambda spec: means[spec])
    if cell.chosen is not None:
        cell.jobs = final(cell.chosen)
        cell.runs = [run for run in (finished(job, runs) for job in cell.jobs) if run is not None]
    return cell


def finished(job: Job, runs: Mapping[str, Sequence[Run]]) -> Run | None:
    """Return the run of a job, tested at the job's levels; of several (by other kernels or versions) the newest."""
    found = [run for run in runs.get(job.key, ()) if job.fold is not None or run.problem or run.levels == job.levels]
    return max(found, key=_recency, default=None)


def _recency(run: Run) -> tuple[list[int], float]:
    """Return what orders runs from old to new: the numbers of the version, and the time of the file."""
    return [int(number) for number in re.findall(r"\d+", run.settings["version"])], run.file.stat().st_mtime


def wanted(found: Sequence[Cell]) -> list[Job]:
    """Return the jobs that can be run now, each once, those that coefficients are chosen by first."""
    jobs = [job for cell in found for each in cell.validation.values() for job in each]
    jobs += [job for cell in found for job in cell.jobs]
    return list({job.key: job for job in jobs}.values())


def job_count(found: Sequence[Cell], seeds: int) -> int:
    """Return how many jobs the whole experiment has, final runs of coefficients that are not chosen yet included."""
    jobs = {job.key for job in wanted(found)}
    return len(jobs) + sum(seeds for cell in found if cell.chosen is None)
