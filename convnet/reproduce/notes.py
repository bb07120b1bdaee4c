"""The words of a report: how to read its tables, what and where its runs were made with, and what is still missing."""
from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import Any

from convnet.experiment import Run
from convnet.reproduce.definition import Definition
from convnet.reproduce.jobs import Cell, Job
from convnet.reproduce.statistics import SIGNIFICANCE, smallest_p
from convnet.reproduce.store import Store
from convnet.reproduce.tables import baseline, errors

# Above this ratio of the slowest seed's time to the fastest one's, the machine was not equally loaded.
_EVEN_LOAD = 1.2


def notes_of(definition: Definition, found: Sequence[Cell], on_test: bool) -> list[str]:
    """Return what to know when reading the tables."""
    notes = [f"Scale {definition.scale}.", *_on_coefficients(definition, found, on_test)]
    notes.append(f"Mean ± sample standard deviation over {definition.seeds} seeds, or as many as have finished; of a seed all "
                 "algorithms have the same training images, initial weights, orders and augmentation draws. The interval is "
                 "Student's, of the mean.")
    notes.append(f"★: different from standard BP by the Wilcoxon rank-sum test, two-sided, p < {SIGNIFICANCE:g}. "
                 + _on_stars(found))
    if any(cell.finished for cell in found):
        notes.append("s/epoch is the median over the epochs. Times compare only between runs that had the machine to "
                     "themselves, or shared it alike.")
    for cell in found:
        name = f"{cell.part.name}, {cell.entry.name}"
        if cell.at_edge and cell.chosen is not None:
            notes.append(f"{name}: the chosen {cell.entry.coefficient} = {cell.coefficient:g} is at the end of what was "
                         "tried; a better one may lie beyond.")
        times = [run.seconds_per_epoch for run in cell.finished if run.seconds_per_epoch]
        if times and max(times) > _EVEN_LOAD * min(times):
            notes.append(f"{name}: the seeds took from {min(times):.3g} to {max(times):.3g} s per epoch, under different load.")
        failed = len(cell.runs) - len(cell.finished)
        if failed:
            notes.append(f"{name}: {failed} of {len(cell.runs)} runs stopped at a loss that is not finite and are left out.")
        if cell.means:
            tried = ", ".join(f"{spec.rpartition('=')[2]}: {'failed' if math.isinf(e) else f'{100 * e:.2f} %'}"
                              for spec, e in cell.means.items())
            notes.append(f"{name}: {'test' if on_test else 'validation'} errors by {cell.entry.coefficient}: {tried}.")
    return [note.rstrip() for note in notes]


def _on_coefficients(definition: Definition, found: Sequence[Cell], on_test: bool) -> list[str]:
    """Return how coefficients are chosen."""
    notes = []
    there = " The paper chose on the test images, see --select-on-test." if definition.selection == "test" else ""
    if any(cell.validation for cell in found):
        if on_test:
            notes.append("Coefficients are chosen by the error ON THE TEST IMAGES, with the final runs: the errors of the chosen "
                         "ones are too low.")
        else:
            notes.append(f"Coefficients are chosen by cross-validation inside the training images ({definition.turns} of "
                         f"{definition.folds} folds held back in turn, seed 0); the final runs use all training images. The test "
                         f"images take no part.{there}")
    if any(cell.entry.grid and not cell.validation for cell in found):
        notes.append("Where only one coefficient is tried, it is the paper's, or the middle of the grid where the paper tells "
                     "none: it was not chosen here.")
    return notes


def _on_stars(found: Sequence[Cell]) -> str:
    """Return whether the finished runs suffice for a star."""
    pairs = []
    for part in {cell.part.name for cell in found}:
        here = [cell for cell in found if cell.part.name == part]
        reference = baseline(here)
        pairs += [(len(errors(cell)), len(errors(reference))) for cell in here if reference and cell is not reference]
    most = max(pairs, key=min, default=(0, 0))
    if 0 in most:
        return ""
    smallest = smallest_p(*most)
    return "" if smallest < SIGNIFICANCE else \
        f"With {most[0]} and {most[1]} runs the exact test cannot go below p = {smallest:.2g}: no star is possible."


def facts_of(jobs: Sequence[Job], store: Store, found: Sequence[Cell]) -> list[str]:
    """Return with what and where the runs were made."""
    runs = [run for cell in found for run in cell.runs]
    settings = {name: sorted({str(run.settings[name]) for run in runs}) for name in ("kernels", "version", "device")}
    facts = [f"{name}: {', '.join(values)}" for name, values in settings.items() if values]
    data = {(run.settings["dataset"], run.settings["data"]) for run in runs}
    if len(data) > len({name for name, _ in data}):
        facts.append("WARNING: the runs were made of different files of the same data set: "
                     + ", ".join(sorted(f"{name} {digest[:8]}" for name, digest in data)))
    attempts = [attempt for attempt in (store.attempt(job.key) for job in jobs) if attempt and not attempt.get("problem")]
    machines = collections.Counter(_machine(attempt["machine"]) for attempt in attempts if attempt.get("machine"))
    facts += [f"machine: {name} ({count} jobs)" for name, count in machines.most_common()]
    versions = sorted({" ".join(f"{k} {v}" for k, v in attempt["machine"]["versions"].items())
                       for attempt in attempts if attempt.get("machine")})
    facts += [f"versions: {line}" for line in versions]
    made = _all_runs(found)
    spent = sum(sum(run.history.column("seconds")) for run in made)
    if spent:
        facts.append(f"time spent in training: {duration(spent)} in {len(made)} runs, one after another")
    return facts


def _all_runs(found: Sequence[Cell]) -> list[Run]:
    """Return the finished runs, each once, those that coefficients are chosen by included."""
    runs = [run for cell in found for run in (*(run for tried in cell.tried.values() for run in tried), *cell.runs)]
    return list({run.file: run for run in runs}.values())


def _machine(machine: dict[str, Any]) -> str:
    gpu = f"{machine['gpu']}, " if machine.get("gpu") else ""
    return (f"{gpu}{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads a job, Python "
            f"{machine['python']}, {machine['system']}")


def duration(seconds_: float) -> str:
    """Return a time in words: "45 s", "12 min", "3.5 h", "2.1 days"."""
    for limit, unit, name in ((100, 1, "s"), (6000, 60, "min"), (172800, 3600, "h")):
        if seconds_ < limit:
            value = seconds_ / unit
            return f"{value:.0f} {name}" if value >= 10 or name == "s" else f"{value:.1f} {name}"
    return f"{seconds_ / 86400:.1f} days"


def missing_of(undone: Sequence[Job], store: Store, found: Sequence[Cell], definition: Definition, skipped: dict[str, str]
               ) -> list[str]:
    """Return what has not finished, with the reason where one is known."""
    lines = [f"{part}: {why}" for part, why in skipped.items()]
    counts = collections.Counter((job.part.name, job.spec, job.fold is not None) for job in undone)
    lines += [f"{part}: {spec}, {count} {'validation' if fold else 'final'} run{'s' if count > 1 else ''}"
              for (part, spec, fold), count in counts.items()]
    lines += [f"{cell.part.name}: {cell.entry.name}, {definition.seeds} final runs, once its coefficient is chosen"
              for cell in found if cell.chosen is None]
    for job in undone:
        attempt = store.attempt(job.key)
        if attempt and attempt.get("problem"):
            lines.append(f"{job.label} failed: {attempt['problem']}")
    return lines
