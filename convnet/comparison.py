"""Comparing algorithms: choice of coefficients on a validation split, runs over seeds, and what comes out as a table.

A coefficient for which several values are given is chosen by the mean error on a part of the training images that is held
back; the chosen one is then trained on all of them. Test images take no part in the choice.
"""
from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import convnet
from convnet.algorithms import candidates
from convnet.experiment import Experiment, Levels, Run, mean_and_deviation
from convnet.files import write_text
from convnet.history import csv_text
from convnet.passes import Algorithm, Backprop


@dataclass(frozen=True)
class Row:
    """One algorithm of a comparison.

    Attributes
    ----------
    spec : str
        The algorithm, with the options that were chosen.
    runs : list of Run
        One per seed.
    validation : dict of str to float
        Mean validation error of each candidate, where there were several; infinite where training failed.
    time_ratio : float or None
        Time per epoch, relative to backpropagation.
    """

    spec: str
    runs: list[Run]
    validation: dict[str, float]
    time_ratio: float | None = None

    @property
    def finished(self) -> list[Run]:
        """The runs that were not stopped by a loss that is not finite."""
        return [run for run in self.runs if run.problem is None]

    @property
    def seconds_per_epoch(self) -> float | None:
        """Median over the runs."""
        seconds = [run.seconds_per_epoch for run in self.finished if run.seconds_per_epoch is not None]
        return statistics.median(seconds) if seconds else None

    def error(self, kind: str = "test", index: int = 0) -> tuple[float, float | None] | None:
        """Return mean and deviation of the "test" error, or of the "noise" or "fgsm" error at a level; None without runs."""
        values = {
            "test": lambda run: run.test_error, "noise": lambda run: run.noise_errors[index],
            "fgsm": lambda run: run.fgsm_errors[index],
        }
        found = [values[kind](run) for run in self.finished]
        return mean_and_deviation(found) if found else None


def compare(experiment: Experiment, specs: Iterable[str], seeds: Sequence[int], levels: Levels, again: bool = False) -> list[Row]:
    """Train every algorithm with every seed and return a row for each.

    Parameters
    ----------
    experiment : Experiment
    specs : iterable of str
        Algorithms, see `convnet.algorithms`; values to choose from are separated by ``|``.
    seeds : sequence of int
    levels : Levels
        Of the robustness tests.
    again : bool
        Whether to train what has been trained already.

    Raises
    ------
    ValueError, TypeError
        If there is no algorithm, or one of them does not suit the network; before any work.
    """
    offered = {spec: candidates(spec) for spec in specs}
    if not offered:
        raise ValueError("there is no algorithm to train; give at least one, as in bp")
    for options in offered.values():
        for _, algorithm in options:
            experiment.check(algorithm)
    validation: dict[str, dict[str, list[float]]] = {}
    total = len(seeds) * sum(1 + (len(options) if len(options) > 1 else 0) for options in offered.values())
    positions = (f"[{number}/{total}] " for number in itertools.count(1))
    for seed in seeds:
        for spec, options in offered.items():
            for candidate, algorithm in options if len(options) > 1 else []:
                run = experiment.run(candidate, algorithm, seed, Levels(), validation=True, again=again,
                                     position=next(positions))
                error = math.inf if run.test_error is None else run.test_error
                validation.setdefault(spec, {}).setdefault(candidate, []).append(error)
    means = {spec: {name: statistics.fmean(errors) for name, errors in found.items()} for spec, found in validation.items()}
    chosen = [best(options, means.get(spec, {})) for spec, options in offered.items()]
    runs: dict[str, list[Run]] = {name: [] for name, _ in chosen}
    for seed in seeds:
        for name, algorithm in dict(chosen).items():
            runs[name].append(experiment.run(name, algorithm, seed, levels, again=again, position=next(positions)))
    rows = [Row(name, runs[name], means.get(spec, {})) for spec, (name, _) in zip(offered, chosen, strict=True)]
    baseline = next((row.seconds_per_epoch for row, (_, algorithm) in zip(rows, chosen, strict=True)
                     if isinstance(algorithm, Backprop)), None)
    if not baseline:
        return rows
    return [dataclasses.replace(row, time_ratio=row.seconds_per_epoch / baseline) if row.seconds_per_epoch else row
            for row in rows]


def best(options: Sequence[tuple[str, Algorithm]], errors: dict[str, float]) -> tuple[str, Algorithm]:
    """Return the candidate with the smallest mean validation error, of several the first."""
    return min(options, key=lambda option: errors.get(option[0], 0.0))


# --- results ----------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row], levels: Levels) -> str:
    """Return the comparison as a table; of the robustness levels the middle one of each kind is shown."""
    sigma, epsilon = middle(levels.sigmas), middle(levels.epsilons)
    header = ["algorithm", "test error %", "s/epoch", "time / bp"]
    header += [f"noise {levels.sigmas[sigma]:g}, %"] if sigma is not None else []
    header += [f"FGSM {levels.epsilons[epsilon]:g}, %"] if epsilon is not None else []
    lines = [header]
    for row in rows:
        seconds, ratio = row.seconds_per_epoch, row.time_ratio
        line = [row.spec, percent(row.error()), "" if seconds is None else f"{seconds:.{3 if seconds < 10 else 1}f}",
                "" if ratio is None else f"{ratio:.2f}"]
        line += [percent(row.error("noise", sigma))] if sigma is not None else []
        line += [percent(row.error("fgsm", epsilon))] if epsilon is not None else []
        lines.append(line)
    notes = [f"{row.spec} was chosen by the error on held-back training images: {choice(row.validation)}"
             for row in rows if row.validation]
    notes += [f"{row.spec}: {len(row.runs) - len(row.finished)} of {len(row.runs)} runs stopped at a loss that is not "
              "finite and are left out" for row in rows if len(row.finished) < len(row.runs)]
    return "\n".join([aligned(lines), "", *notes] if notes else [aligned(lines)])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as text: a header, a rule, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
            for line in lines]
    return "\n".join([text[0], "-" * (sum(widths) + 2 * len(widths) - 2), *text[1:]])


def percent(value: tuple[float, float | None] | None) -> str:
    """Return mean and deviation as percentages."""
    if value is None:
        return "-"
    mean, deviation = value
    return f"{100 * mean:.2f}" if deviation is None else f"{100 * mean:.2f} ± {100 * deviation:.2f}"


def choice(errors: dict[str, float]) -> str:
    """Return the validation errors of the candidates."""
    shown = {spec.partition(":")[2]: error for spec, error in errors.items()}
    return ", ".join(f"{spec}: {'failed' if math.isinf(error) else f'{error:.2%}'}" for spec, error in shown.items())


def middle(levels: Sequence[float]) -> int | None:
    """Return the index of the middle level, None without levels."""
    return len(levels) // 2 if levels else None


def write_results(folder: Path, experiment: Experiment, rows: Sequence[Row], levels: Levels) -> None:
    """Write ``results.csv`` and ``results.json`` into `folder`, each whole or not at all."""
    records = [record(row, levels) for row in rows]
    write_text(folder / "results.csv", csv_text(records[0], records))
    detailed = [{
        **fields,
        "validation_errors": {spec: None if math.isinf(e) else e for spec, e in row.validation.items()},
        "runs": [{"seed": run.settings["seed"], "test_error": run.test_error, "noise_errors": run.noise_errors,
                  "fgsm_errors": run.fgsm_errors, "seconds_per_epoch": run.seconds_per_epoch, "problem": run.problem,
                  "file": str(run.file.relative_to(folder))} for run in row.runs],
    } for row, fields in zip(rows, records, strict=True)]
    write_text(folder / "results.json", json.dumps({
        "version": convnet.__version__, "kernels": experiment.kernels, "setup": dataclasses.asdict(experiment.setup),
        "sigmas": levels.sigmas, "epsilons": levels.epsilons, "results": detailed,
    }, indent=1) + "\n")


def record(row: Row, levels: Levels) -> dict[str, Any]:
    """Return a row as one flat record; errors are fractions, and None what there is not."""
    fields: dict[str, Any] = {
        "algorithm": row.spec, "seeds": " ".join(str(run.settings["seed"]) for run in row.runs),
        "failed_runs": len(row.runs) - len(row.finished),
    }
    columns = [("test", 0, "test_error")]
    columns += [("noise", i, f"error_noise_{sigma:g}") for i, sigma in enumerate(levels.sigmas)]
    columns += [("fgsm", i, f"error_fgsm_{epsilon:g}") for i, epsilon in enumerate(levels.epsilons)]
    for kind, index, name in columns:
        mean, deviation = row.error(kind, index) or (None, None)
        fields |= {f"{name}_mean": mean, f"{name}_deviation": deviation}
    return {**fields, "seconds_per_epoch": row.seconds_per_epoch, "time_ratio": row.time_ratio}
