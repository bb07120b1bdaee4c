"""The figures of an experiment, in the style of the papers', as PNG files."""
from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convnet.comparison import Row
from convnet.files import write_atomically
from convnet.plots import COLOURS, MARKERS, STYLES, learning_curves, robustness_curves
from convnet.reproduce.definition import Definition
from convnet.reproduce.jobs import Cell
from convnet.reproduce.statistics import summary
from convnet.stage_comparison import Curve, draw_curves

Drawing = tuple[str, Callable[[Path], None]]


_CAPTIONS = {
    "errors": "Test errors here and in the paper, means with bars of one standard deviation over the seeds",
    "learning": "Training loss and test error by epoch, means over the seeds with a band of one standard deviation",
    "losses": "Main and additional loss by epoch, means over the seeds",
    "robustness": "Test errors of images with noise, means over the seeds with a band of one standard deviation",
    "sizes": "Test errors, means with bars of one standard deviation over the seeds, and the coefficients that were chosen",
    "stages": "Test errors by epoch for both classification stages, first seed",
}
# More curves than that are not told apart in one picture.
_MOST_CURVES = 10


def drawings(definition: Definition, cells: Sequence[Cell]) -> list[Drawing]:
    """Return caption and drawing function of each figure that something has finished for."""
    found: list[Drawing] = []
    done = [cell for cell in cells if cell.finished]
    together = len(cells) <= _MOST_CURVES
    for figure in definition.figures if done else ():
        caption = _CAPTIONS[figure]
        if figure in _OVER_PARTS:
            found.append((caption, functools.partial(_OVER_PARTS[figure], definition, done)))
        elif together:
            several = len(definition.parts) > 1
            found.append((caption, _curves(definition, figure, [_row(cell, several) for cell in done])))
        else:
            for part in definition.parts:
                rows = [_row(cell) for cell in done if cell.part.name == part.name]
                if rows:
                    found.append((f"{caption}: {part.title}", _curves(definition, figure, rows)))
    return found


def _curves(definition: Definition, figure: str, rows: list[Row]) -> Callable[[Path], None]:
    if figure == "learning":
        return lambda path: learning_curves(rows, path)
    if figure == "robustness":
        return lambda path: robustness_curves(rows, definition.levels, path)
    return lambda path: _losses(rows, path)


def _row(cell: Cell, with_part: bool = False) -> Row:
    value = "" if cell.coefficient is None else f", {cell.entry.coefficient} = {cell.coefficient:g}"
    part = f", {cell.part.title}" if with_part else ""
    return Row(f"{cell.entry.name}{value}{part}", cell.finished, {})


def _errors(definition: Definition, cells: Sequence[Cell], path: Path) -> None:
    """Draw every algorithm's error with its deviation, one panel a part, the paper's beside."""
    titles = {cell.part.name: cell.part.title for cell in cells}
    figure, panels = _figure(len(titles), height=1.4 + 0.38 * max(1, len(definition.entries)))
    places = {entry.name: -place for place, entry in enumerate(definition.entries)}
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        here = [cell for cell in cells if cell.part.name == name]
        for label, shift, colour, marker, points in (
            ("here", 0.12, COLOURS[2], "o", [(cell, _percent(cell)) for cell in here]),
            ("paper", -0.12, COLOURS[1], "D", [(c, (p.error, p.deviation or 0.0)) for c in here
                                              if (p := c.entry.published.get(name))]),
        ):
            if points:
                axes.errorbar([error for _, (error, _) in points], [places[cell.entry.name] + shift for cell, _ in points],
                              xerr=[deviation for _, (_, deviation) in points], fmt=marker, color=colour, label=label,
                              capsize=3, markersize=5)
        axes.set(title=title, xlabel="test error, %", yticks=list(places.values()), yticklabels=list(places))
        axes.legend(frameon=False, fontsize=9)
    _save(figure, path)


def _sizes(definition: Definition, cells: Sequence[Cell], path: Path) -> None:
    """Draw errors over the parts' places, and beside them the coefficients that were chosen (paper 000, Fig. 2)."""
    figure, (left, right) = _figure(2)
    lines: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.part.x is not None:
            lines.setdefault(f"{cell.entry.name}{', ' if cell.part.line else ''}{cell.part.line}", []).append(cell)
    for number, (label, line) in enumerate(lines.items()):
        line = sorted(line, key=lambda cell: cell.part.x or 0.0)
        style = {"color": COLOURS[number % len(COLOURS)], "linestyle": STYLES[number % len(STYLES)],
                 "marker": MARKERS[number % len(MARKERS)], "label": label, "markersize": 5}
        x = [cell.part.x or 0.0 for cell in line]
        errors = [_percent(cell) for cell in line]
        left.errorbar(x, [e for e, _ in errors], yerr=[d for _, d in errors], capsize=3, **style)
        chosen = [(place, cell.coefficient) for place, cell in zip(x, line, strict=True) if cell.coefficient]
        if chosen:
            right.plot(*zip(*chosen, strict=True), **style)
            right.set_yscale("log")
    left.set(ylabel="test error, %", ylim=(0, None), title="Error")
    right.set(ylabel="coefficient", title="Coefficient that was chosen")
    for axes in (left, right):
        axes.set(xlabel=definition.x_label, xscale="log")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    _save(figure, path)


def _losses(rows: Sequence[Row], path: Path) -> None:
    """Draw both losses over training (paper 000, Fig. 3)."""
    figure, panels = _figure(2)
    for axes, column, title in zip(panels, ("loss", "penalty"), ("Main loss L", "Additional loss L̃"), strict=True):
        for number, row in enumerate(rows):
            mean = np.mean([run.history.column(column) for run in row.finished], axis=0)
            if mean.any():
                axes.plot(np.arange(1, len(mean) + 1), mean, color=COLOURS[number % len(COLOURS)], label=row.spec,
                          linestyle=STYLES[number % len(STYLES)])
        axes.set(title=title, xlabel="epoch", ylabel="mean of the epoch", yscale="log")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    _save(figure, path)


def _stages(definition: Definition, cells: Sequence[Cell], path: Path) -> None:
    """Draw test errors over the epochs for both stages of paper 004 (Figures 1-6), runs of the first seed."""
    curves = []
    for cell in cells:
        part, run = cell.part, cell.runs[0]
        errors = [math.nan if error is None else error for error in run.history.column("test_error")]
        rate = float(run.settings["optimizer"]["learning_rate"])
        curves.append(Curve(part.stage or "logistic", rate, part.dimension or 0, errors, run.history.column("loss")))
    if len({curve.stage for curve in curves}) == 2:
        draw_curves(curves, definition.title, path)


_OVER_PARTS = {"sizes": _sizes, "stages": _stages, "errors": _errors}


def _percent(cell: Cell) -> tuple[float, float]:
    found = summary([100 * run.test_error for run in cell.finished if run.test_error is not None])
    return (math.nan, 0.0) if found is None else (found.mean, found.deviation or 0.0)


def _figure(panels: int, height: float = 4.6) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.25 * max(panels, 1), height), dpi=120, layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for each in axes:
        each.grid(True, color="0.9", linewidth=0.8)
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    write_atomically(path, lambda file: figure.savefig(file, format="png"))
