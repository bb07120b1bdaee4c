"""The tables of a report: every algorithm's numbers beside the paper's, errors under noise, and every run as rows of a CSV."""
from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from convnet.algorithms import by_spec
from convnet.passes import Backprop
from convnet.reproduce.definition import Definition, Published
from convnet.reproduce.jobs import Cell
from convnet.reproduce.statistics import SIGNIFICANCE, Summary, rank_sum, summary

COLUMNS = ("", "error here, %", "error in the paper, %", "95 % interval", "p", "coefficient",
           "the paper's coefficient", "s/epoch", "time / BP", "the paper's time / BP", "runs")


class Table(NamedTuple):
    """A table of a report: its title, the names of its columns, and rows of text."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]]


def errors(cell: Cell) -> list[float]:
    """Return the test errors of the final runs, in percent."""
    return [100 * run.test_error for run in cell.finished if run.test_error is not None]


def baseline(here: Sequence[Cell]) -> Cell | None:
    """Return plain backpropagation among the algorithms of a part, None if it is not there."""
    return next((cell for cell in here if isinstance(by_spec(cell.entry.offered(cell.part.name, None)[0]), Backprop)), None)


def seconds(cell: Cell) -> float | None:
    """Return the median time of an epoch."""
    found = [run.seconds_per_epoch for run in cell.finished if run.seconds_per_epoch is not None]
    return statistics.median(found) if found else None


def line_of(cell: Cell, here: Sequence[Cell], wanted_runs: int) -> list[str]:
    """Return the row of an algorithm, a text for each of `COLUMNS`."""
    own, told, reference = summary(errors(cell)), cell.entry.published.get(cell.part.name), baseline(here)
    p = None if reference is None or reference is cell else rank_sum(errors(cell), errors(reference))
    mark = " ★" if p is not None and p < SIGNIFICANCE else ""
    interval = "" if own is None or own.low is None else f"{own.low:.2f} to {own.high:.2f}"
    time, ratio = seconds(cell), None
    if len(here) > 1 and reference is not None and time is not None and seconds(reference):
        ratio = time / (seconds(reference) or math.nan)
    return [
        cell.entry.name, _error(own) + mark, _published(told), interval, "" if p is None else f"{p:.3f}",
        _value(cell.coefficient), _value(told.coefficient if told else None), "" if time is None else f"{time:.3g}",
        "" if ratio is None else f"{ratio:.2f}", _ratio(told, reference, cell.part.name), f"{len(cell.runs)} of {wanted_runs}",
    ]


def robustness_tables(definition: Definition, found: Sequence[Cell]) -> list[Table]:
    """Return the errors at each level of noise and each length of a step, for the parts that have any."""
    tables = []
    for part in definition.parts:
        done = [cell for cell in found if cell.part.name == part.name and cell.finished]
        for what, symbol, levels, of in (
            ("Gaussian noise of deviation σ", "σ", definition.levels.sigmas, "noise_errors"),
            ("an FGSM step of length ε", "ε", definition.levels.epsilons, "fgsm_errors"),
        ):
            rows = [[cell.entry.name, *(_error(summary([100 * getattr(run, of)[i] for run in cell.finished]))
                                        for i in range(len(levels)))] for cell in done]
            if rows and levels:
                columns = ("", *(f"{symbol} = {level:g}" for level in levels))
                tables.append(Table(f"{part.title}: test error in % under {what}", columns, rows))
    return tables


def _error(found: Summary | None) -> str:
    if found is None:
        return "–"
    return f"{found.mean:.2f}" if found.deviation is None else f"{found.mean:.2f} ± {found.deviation:.2f}"


def _published(told: Published | None) -> str:
    if told is None:
        return ""
    deviation = "" if told.deviation is None else f" ± {told.deviation:g}"
    return f"{told.error:g}{deviation}{' ★' if told.significant else ''}"


def _ratio(told: Published | None, reference: Cell | None, part: str) -> str:
    base = reference and reference.entry.published.get(part)
    return f"{told.seconds / base.seconds:.2f}" if told and base and told.seconds and base.seconds else ""


def _value(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


_RAW = ("part", "algorithm", "spec", "seed", "fold", "error", "problem", "seconds_per_epoch", "epochs", "file")


def raw_columns(definition: Definition) -> list[str]:
    """Return the columns of the CSV: what is told of every run, and its errors at each of the experiment's levels."""
    return [*_RAW, *(f"noise_{level:g}" for level in definition.levels.sigmas),
            *(f"fgsm_{level:g}" for level in definition.levels.epsilons)]


def raw_rows(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return every run: those that coefficients are chosen by, with their fold, and the final ones."""
    rows = []
    for cell in found:
        made = [(spec, run) for spec, runs in cell.tried.items() for run in runs] + [(cell.chosen, run) for run in cell.runs]
        for spec, run in {run.file: (spec, run) for spec, run in made}.values():
            fold = run.settings["validation"]
            rows.append({
                "part": cell.part.name, "algorithm": cell.entry.name, "spec": spec, "seed": run.settings["seed"],
                "fold": f"{fold['fold'] + 1} of {fold['folds']}" if fold else "", "error": run.test_error,
                "problem": run.problem, "seconds_per_epoch": run.seconds_per_epoch, "epochs": len(run.history),
                "file": run.file.name,
                **{f"noise_{level:g}": error for level, error in zip(run.levels.sigmas, run.noise_errors, strict=True)},
                **{f"fgsm_{level:g}": error for level, error in zip(run.levels.epsilons, run.fgsm_errors, strict=True)},
            })
    return rows
