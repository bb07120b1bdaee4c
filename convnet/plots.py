"""Plots of a comparison: learning curves and robustness curves, as PNG.

Colours are told apart by colour-blind readers (Okabe and Ito), and lines differ in style and marker as well.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convnet.comparison import Row
from convnet.experiment import Levels
from convnet.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def learning_curves(rows: Sequence[Row], path: Path) -> None:
    """Write training loss and test error by epoch, means over the seeds with a band of one deviation."""
    from matplotlib.ticker import MaxNLocator

    figure, (left, right) = _figure("Training loss", "Test error")
    for number, row in enumerate(rows):
        curves = {name: np.array([run.history.column(name) for run in row.finished], float)
                  for name in ("loss", "test_error")}
        for axes, values in ((left, curves["loss"]), (right, 100 * curves["test_error"])):
            if values.size:
                _line(axes, np.arange(1, values.shape[1] + 1), values, number, row.spec, marked=values.shape[1] == 1)
    left.set(ylabel="mean loss of the epoch", yscale="log")
    right.set(ylabel="error, %", ylim=(0, _ceiling(rows)))
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _save(figure, left, path)


def robustness_curves(rows: Sequence[Row], levels: Levels, path: Path) -> None:
    """Write the test error by deviation of Gaussian noise and by length of an FGSM step; the kind without levels is left out."""
    both = (("Gaussian noise on the test images", "noise", levels.sigmas, "standard deviation σ"),
            ("FGSM step on the test images", "fgsm", levels.epsilons, "length ε of the step"))
    scales = [scale for scale in both if scale[2]] or both
    figure, panels = _figure(*(title for title, *_ in scales))
    for axes, (_, kind, places, label) in zip(panels, scales, strict=True):
        for number, row in enumerate(rows):
            found = [[run.test_error, *(run.noise_errors if kind == "noise" else run.fgsm_errors)] for run in row.finished]
            # A level of zero is the clean error, which every run has.
            values = 100 * np.array(found, float)
            if values.size:
                order = np.argsort([0.0, *places], kind="stable")
                _line(axes, np.array([0.0, *places])[order], values[:, order], number, row.spec, marked=True)
        axes.set(xlabel=f"{label}, in units of the network's input", ylabel="error, %", ylim=(0, None))
        if len(places) <= 8:
            axes.set_xticks([0.0, *places])
    _save(figure, panels[0], path)


def _figure(*titles: str) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.6), dpi=130, layout="constrained")
    panels = figure.subplots(1, len(titles), squeeze=False)[0]
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=12)
        axes.grid(True, color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _line(axes: Axes, x: np.ndarray, values: np.ndarray, number: int, label: str, marked: bool) -> None:
    """Draw the mean of `values` (runs, points) and a band of one deviation around it."""
    # Epochs without a test are not a number.
    known = ~np.isnan(values).any(axis=0)
    x, values = x[known], values[:, known]
    mean = values.mean(axis=0)
    colour = COLOURS[number % len(COLOURS)]
    axes.plot(x, mean, color=colour, linestyle=STYLES[number % len(STYLES)], linewidth=1.8, label=label,
              marker=MARKERS[number % len(MARKERS)] if marked else None, markersize=5)
    if len(values) > 1:
        deviation = values.std(axis=0, ddof=1)
        # On a logarithmic scale the band must not reach zero.
        low = np.maximum(mean - deviation, 0.1 * mean)
        axes.fill_between(x, low, mean + deviation, color=colour, alpha=0.13, linewidth=0)


def _ceiling(rows: Sequence[Row]) -> float:
    """Return a limit for the error axis: the first epochs' errors would leave the rest a flat line."""
    tails = [error for row in rows for run in row.finished
             for error in run.history.column("test_error")[len(run.history) // 10:] if error is not None]
    return 100 * min(1.0, 1.15 * max(tails, default=1.0) + 0.002)


def _save(figure: Figure, axes: Axes, path: Path) -> None:
    handles: Any
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = 1 if max(map(len, labels)) > 60 else 2 if max(map(len, labels)) > 28 else 4
        figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)), frameon=False, fontsize=10)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))
