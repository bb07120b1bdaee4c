"""Reports: what has finished of an experiment beside the paper's numbers, as Markdown and as one HTML page."""
from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from convnet.files import write_text
from convnet.history import csv_text
from convnet.reproduce.definition import Definition
from convnet.reproduce.figures import drawings
from convnet.reproduce.jobs import Cell, cells, finished, wanted
from convnet.reproduce.notes import facts_of, missing_of, notes_of
from convnet.reproduce.store import Store
from convnet.reproduce.tables import COLUMNS, Table, line_of, raw_columns, raw_rows, robustness_tables

# What stands for a paper in an experiment that is not from one.
OURS = "ours"
# What the numbers of the papers stand for, see `Definition.paper`.
PAPERS = {
    "000": "S. Demyanov, J. Bailey, R. Kotagiri, C. Leckie: Invariant backpropagation: how to train a "
           "transformation-invariant neural network, 2015, in its version with experiments on four data sets",
    "001/002": "S. Demyanov, J. Bailey, R. Kotagiri, C. Leckie: Invariant backpropagation: how to train a "
               "transformation-invariant neural network, 2015, in its version with Loss IBP and Prediction IBP",
    "003": "N. Thumwanit: Study of noise injection and gradient regularization toward better generalization, thesis, Tokyo "
           "Institute of Technology, 2020",
    "004": "M. Tygert, A. Szlam, S. Chintala, M. Ranzato, Y. Tian, W. Zaremba: Scale-invariant learning and convolutional "
           "networks, 2015",
}


@dataclass
class Report:
    """A report, before it is written.

    Attributes
    ----------
    definition : Definition
    command : str
    cells : list of Cell
    tables : list of Table
        One for each part, and those of the errors under noise.
    notes, facts : list of str
        What to know when reading the tables; with what and where the runs were made.
    missing : list of str
        What has not finished, with the reason where one is known.
    """

    definition: Definition
    command: str
    cells: list[Cell]
    tables: list[Table] = field(default_factory=list)
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
        report.tables.append(Table(part.title, COLUMNS, [line_of(cell, here, definition.seeds) for cell in here]))
    if len(definition.entries) == 1:
        # One row a part: a table for each would be all headers.
        rows = [[table.title, *table.rows[0][1:]] for table in report.tables]
        report.tables = [Table(definition.entries[0].name, COLUMNS, rows)]
    if "robustness" in definition.figures:
        report.tables += robustness_tables(definition, found)
    jobs = wanted(found)
    undone = [job for job in jobs if finished(job, runs) is None]
    report.notes = notes_of(definition, found, on_test)
    report.facts = facts_of(jobs, store, found)
    report.missing = missing_of(undone, store, found, definition, skipped or {})
    return report


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
    raw = write_text(folder / f"{name}.csv", csv_text(raw_columns(report.definition), raw_rows(report.cells)))
    markdown = write_text(folder / f"{name}.md", _markdown(report, images))
    page = write_text(folder / f"{name}.html", _html(report, images))
    return [page, markdown, raw, *(path for _, path in images)]


def _heading(definition: Definition) -> str:
    if definition.paper == OURS:
        return f"{definition.shows}, an experiment of our own"
    who = f" ({PAPERS[definition.paper]})" if definition.paper in PAPERS else ""
    return f"{definition.shows}, section {definition.section} of paper {definition.paper}{who}"


def _sections(report: Report) -> list[tuple[str, list[str]]]:
    definition = report.definition
    ours = definition.paper == OURS
    return [(title, lines) for title, lines in (
        ("How to read this", report.notes), ("What is expected" if ours else "What the paper says", list(definition.claims)),
        ("How it is set up" if ours else "What the paper leaves open, and what was assumed", list(definition.assumptions)),
        ("Still missing", report.missing), ("How it was made", [f"`{report.command}`", *report.facts]),
    ) if lines]


def _markdown(report: Report, images: Sequence[tuple[str, Path]]) -> str:
    definition = report.definition
    lines = [f"# {definition.title}", "", f"{_heading(definition)}. **Scale {definition.scale}.**", ""]
    for table in map(_shown, report.tables):
        lines += [f"## {table.title}", "", _cells(table.columns), "|" + "---|" * len(table.columns), *map(_cells, table.rows), ""]
    lines += [line for title, path in images for line in (f"![{title}]({path.name})", "")]
    for title, found in _sections(report):
        lines += [f"## {title}", "", *(f"- {line}" for line in found), ""]
    return "\n".join(lines)


def _cells(row: Sequence[str]) -> str:
    return "| " + " | ".join(row) + " |"


def _shown(table: Table) -> Table:
    """Return the table without the columns that are empty in all rows."""
    kept = [i for i in range(len(table.columns)) if i == 0 or any(row[i] for row in table.rows)]
    return Table(table.title, [table.columns[i] for i in kept], [[row[i] for i in kept] for row in table.rows])


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
    for table in map(_shown, report.tables):
        lines += [f"<h2>{say(table.title)}</h2>", '<div class="tables"><table>', _row(table.columns, "th"),
                  *(_row(row, "td") for row in table.rows), "</table></div>"]
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
