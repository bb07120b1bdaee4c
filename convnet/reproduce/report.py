"""Reports: what has finished of an experiment beside the paper's numbers, as Markdown and as one HTML page."""
from __future__ import annotations

import base64
import collections
import html
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convnet.algorithms import by_spec
from convnet.files import write_text
from convnet.history import csv_text
from convnet.passes import Backprop
from convnet.reproduce.definition import Definition, Published
from convnet.reproduce.figures import drawings
from convnet.reproduce.jobs import Cell, Job, cells, finished, wanted
from convnet.reproduce.statistics import SIGNIFICANCE, Summary, rank_sum, smallest_p, summary
from convnet.reproduce.store import Store

COLUMNS = ("", "error here, %", "error in the paper, %", "95 % interval", "p", "coefficient", "paper's", "s/epoch", "time / BP",
           "paper's time / BP", "runs")


@dataclass
class Report:
    """A report, before it is written.

    Attributes
    ----------
    definition : Definition
    command : str
    cells : list of Cell
    tables : list of (str, list of rows)
        One for each part: its name, and rows of text.
    notes, facts : list of str
        What to know when reading the tables; with what and where the runs were made.
    missing : list of str
        What has not finished, with the reason where one is known.
    """

    definition: Definition
    command: str
    cells: list[Cell]
    tables: list[tuple[str, list[list[str]]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def build(definition: Definition, store: Store, on_test: bool = False, command: str = "", skipped: dict[str, str] | None = None
          ) -> Report:
    """Return the report of an experiment from whatever has finished.

    Parameters
    ----------
    definition : Definition
        At the scale that is to be shown.
    store : Store
    on_test : bool
        Whether coefficients are chosen on the test images.
    command : str
        What makes the runs.
    skipped : dict of str to str, optional
        Parts that could not be started, and why.
    """
    runs = store.runs()
    found = cells(definition, runs, on_test)
    report = Report(definition, command, found)
    for part in definition.parts:
        here = [cell for cell in found if cell.part.name == part.name]
        report.tables.append((part.name, [_line(cell, here, definition.seeds) for cell in here]))
    if len(definition.entries) == 1:
        # One row a part: a table for each would be all headers.
        report.tables = [(definition.entries[0].name, [[part, *row[1:]] for part, (row,) in report.tables])]
    jobs = wanted(found)
    undone = [job for job in jobs if finished(job, runs) is None]
    report.notes = _notes(definition, found, on_test)
    report.facts = _facts(jobs, store, found)
    report.missing = _missing(undone, store, found, definition, skipped or {})
    return report


# --- tables -----------------------------------------------------------------------------------------------------------


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


def _line(cell: Cell, here: Sequence[Cell], wanted_runs: int) -> list[str]:
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


# --- what to know -----------------------------------------------------------------------------------------------------


def _notes(definition: Definition, found: Sequence[Cell], on_test: bool) -> list[str]:
    chosen = any(cell.validation for cell in found)
    notes = [f"Scale {definition.scale}."]
    if chosen and on_test:
        notes.append("Coefficients were chosen by the error ON THE TEST IMAGES, with the final runs: the errors of the "
                     "chosen ones are too low.")
    elif chosen:
        notes.append(f"Coefficients were chosen by cross-validation inside the training images ({definition.turns} of "
                     f"{definition.folds} folds held back in turn, seed 0); the final runs use all training images. The test "
                     "images took no part."
                     + (" The paper chose on the test images, see --select-on-test." if definition.selection == "test" else ""))
    notes.append(f"Mean ± sample standard deviation over {definition.seeds} seeds; of a seed all algorithms have the same "
                 "training images, initial weights, orders and augmentation draws. The interval is Student's, of the mean.")
    smallest = smallest_p(definition.seeds, definition.seeds)
    notes.append(f"★: different from standard BP by the Wilcoxon rank-sum test, two-sided, p < {SIGNIFICANCE:g}. "
                 + (f"With {definition.seeds} and {definition.seeds} runs the exact test cannot go below p = {smallest:.2g}: no "
                    "star is possible at this scale." if smallest >= SIGNIFICANCE else ""))
    for cell in found:
        name = f"{cell.part.name}, {cell.entry.name}"
        if cell.at_edge and cell.chosen is not None:
            notes.append(f"{name}: the chosen {cell.entry.coefficient} = {cell.coefficient:g} is at the end of what was "
                         "tried; a better one may lie beyond.")
        failed = len(cell.runs) - len(cell.finished)
        if failed:
            notes.append(f"{name}: {failed} of {len(cell.runs)} runs stopped at a loss that is not finite and are left out.")
        if cell.means:
            tried = ", ".join(f"{spec.rpartition('=')[2]}: {'failed' if math.isinf(e) else f'{100 * e:.2f} %'}"
                              for spec, e in cell.means.items())
            notes.append(f"{name}: {'test' if on_test else 'validation'} errors by {cell.entry.coefficient}: {tried}.")
    return [note.rstrip() for note in notes]


def _facts(jobs: Sequence[Job], store: Store, found: Sequence[Cell]) -> list[str]:
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
    spent = sum(attempt["seconds"] or 0.0 for attempt in attempts)
    if spent:
        facts.append(f"time spent: {duration(spent)} in {len(attempts)} jobs, one after another")
    return facts


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


def _missing(undone: Sequence[Job], store: Store, found: Sequence[Cell], definition: Definition, skipped: dict[str, str]
             ) -> list[str]:
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


# --- writing ----------------------------------------------------------------------------------------------------------


def write(report: Report, folder: Path) -> list[Path]:
    """Write the report as Markdown with figures beside, as one HTML page that needs nothing else, and every run as CSV."""
    name = report.definition.name
    images = []
    for number, (title, draw) in enumerate(drawings(report.definition, report.cells), 1):
        path = folder / f"{name}-{number}.png"
        draw(path)
        if path.exists():
            images.append((title, path))
    raw = write_text(folder / f"{name}.csv", csv_text(_RAW, _raw(report.cells)))
    markdown = write_text(folder / f"{name}.md", _markdown(report, images))
    page = write_text(folder / f"{name}.html", _html(report, images))
    return [page, markdown, raw, *(path for _, path in images)]


_RAW = ("part", "algorithm", "spec", "seed", "fold", "test_error", "problem", "seconds_per_epoch", "epochs", "noise_errors",
        "fgsm_errors", "file")


def _raw(found: Sequence[Cell]) -> list[dict[str, Any]]:
    return [{
        "part": cell.part.name, "algorithm": cell.entry.name, "spec": cell.chosen, "seed": run.settings["seed"],
        "fold": "", "test_error": run.test_error, "problem": run.problem, "seconds_per_epoch": run.seconds_per_epoch,
        "epochs": len(run.history), "noise_errors": " ".join(map(str, run.noise_errors)),
        "fgsm_errors": " ".join(map(str, run.fgsm_errors)), "file": run.file.name,
    } for cell in found for run in cell.runs]


def _heading(definition: Definition) -> str:
    return f"{definition.shows} of paper {definition.paper}, section {definition.section}" if definition.paper != "ours" \
        else definition.shows


def _sections(report: Report) -> list[tuple[str, list[str]]]:
    definition = report.definition
    return [(title, lines) for title, lines in (
        ("How to read this", report.notes), ("What the paper says", list(definition.claims)),
        ("What the paper leaves open, and what was assumed", list(definition.assumptions)),
        ("Still missing", report.missing), ("How it was made", [f"`{report.command}`", *report.facts]),
    ) if lines]


def _markdown(report: Report, images: Sequence[tuple[str, Path]]) -> str:
    definition = report.definition
    lines = [f"# {definition.title}", "", f"{_heading(definition)}. **Scale {definition.scale}.**", ""]
    for part, rows in report.tables:
        columns = _shown(rows)
        lines += [f"## {part}", "", *(_cells([row[i] for i in columns]) for row in [list(COLUMNS)]),
                  "|" + "---|" * len(columns), *(_cells([row[i] for i in columns]) for row in rows), ""]
    lines += [line for title, path in images for line in (f"![{title}]({path.name})", "")]
    for title, found in _sections(report):
        lines += [f"## {title}", "", *(f"- {line}" for line in found), ""]
    return "\n".join(lines)


def _cells(row: Sequence[str]) -> str:
    return "| " + " | ".join(row) + " |"


def _shown(rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the columns that are not empty in all rows."""
    return [i for i in range(len(COLUMNS)) if i == 0 or any(row[i] for row in rows)]


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .3em .8em; text-align: right; white-space: nowrap }
th { border-bottom: 2px solid #222; font-weight: 600 } td { border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left } img { max-width: 100% } .scale { background: #fff3cd; padding: .4em .8em }
.tables { overflow-x: auto } code { background: #f3f3f3; padding: .1em .3em }
"""


def _html(report: Report, images: Sequence[tuple[str, Path]]) -> str:
    definition, say = report.definition, html.escape
    lines = ["<!doctype html>", f'<html lang="en"><head><meta charset="utf-8"><title>{say(definition.title)}</title>',
             f"<style>{_STYLE}</style></head><body>", f"<h1>{say(definition.title)}</h1>",
             f"<p>{say(_heading(definition))}</p>", f'<p class="scale">Scale {say(definition.scale)}</p>']
    for part, rows in report.tables:
        columns = _shown(rows)
        lines += [f"<h2>{say(part)}</h2>", '<div class="tables"><table>', _row([COLUMNS[i] for i in columns], "th"),
                  *(_row([row[i] for i in columns], "td") for row in rows), "</table></div>"]
    for title, path in images:
        content = base64.b64encode(path.read_bytes()).decode()
        lines.append(f'<figure><img alt="{say(title)}" src="data:image/png;base64,{content}">'
                     f"<figcaption>{say(title)}</figcaption></figure>")
    for title, found in _sections(report):
        items = "".join(f"<li>{_inline(line)}</li>" for line in found)
        lines += [f"<h2>{say(title)}</h2>", f"<ul>{items}</ul>"]
    return "\n".join([*lines, "</body></html>", ""])


def _inline(text: str) -> str:
    escaped = html.escape(text)
    return f"<code>{escaped[1:-1]}</code>" if escaped.startswith("`") and escaped.endswith("`") else escaped


def _row(row: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"
