"""How the notebooks draw: large type, few colours that colour-blind people can tell apart, one way to show images.

Importing it also makes the notebooks run in a source checkout where the package is not installed.
"""
from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, in the order of use.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#7F7F7F"
COLOURS = (BLUE, ORANGE, GREEN, RED, GREY)
SIGNED = "RdBu_r"  # white is zero

plt.rcParams.update({
    "font.size": 14, "axes.titlesize": 14, "axes.labelsize": 14, "xtick.labelsize": 12, "ytick.labelsize": 12,
    "legend.fontsize": 12, "legend.frameon": False, "lines.linewidth": 2.5, "lines.markersize": 8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.prop_cycle": plt.cycler(color=COLOURS),
    "figure.dpi": 90, "savefig.dpi": 90, "figure.constrained_layout.use": True,
})


def show_image(ax: Axes, image: np.ndarray, title: str = "", limit: float | None = None, numbers: str = "") -> None:
    """Draw one image (H, W), (H, W, 1) or (H, W, 3).

    Parameters
    ----------
    ax : Axes
    image : array
    title : str
    limit : float, optional
        Draw in red (positive) and blue (negative) up to this absolute value, in place of grey.
    numbers : str, optional
        Format of the values that are written into the cells, as in ".1f".
    """
    image = np.squeeze(image)
    options = {"cmap": "gray_r"} if limit is None else {"cmap": SIGNED, "vmin": -limit, "vmax": limit}
    ax.imshow(image, **options)
    ax.set(title=title, xticks=[], yticks=[])
    ax.spines[:].set_visible(True)
    if numbers:
        for (row, column), value in np.ndenumerate(image):
            dark = limit is not None and abs(value) > 0.6 * limit
            ax.text(column, row, f"{value:{numbers}}", ha="center", va="center", color="white" if dark else "black")


def show_images(
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str] = (), labels: Sequence[str] = (),
    signed: Sequence[bool] | bool = False, size: float = 1.7,
) -> Figure:
    """Draw a grid of images; those of one signed row share their scale.

    Parameters
    ----------
    rows : list of lists of array
    titles : list of str
        Of the columns.
    labels : list of str
        Of the rows.
    signed : bool, or one bool for each row
        Whether to draw in red and blue.
    size : float
        Of one image, in inches.
    """
    count = max(map(len, rows))
    figure, axes = plt.subplots(len(rows), count, squeeze=False,
                                figsize=(size * count + 1.3 * bool(labels), size * len(rows) + 0.4))
    for index, (row, images) in enumerate(zip(axes, rows, strict=True)):
        coloured = signed if isinstance(signed, bool) else signed[index]
        limit = max(float(np.abs(image).max()) for image in images) if coloured else None
        for column, ax in enumerate(row):
            if column < len(images):
                show_image(ax, images[column], titles[column] if titles and index == 0 else "", limit)
            else:
                ax.axis("off")
        if labels:
            row[0].set_ylabel(labels[index], rotation=0, ha="right", va="center")
    return figure


def show_units(ax: Axes, columns: Sequence[np.ndarray], names: Sequence[str], dense: Sequence[bool], title: str = "") -> None:
    """Draw the units of a small network as circles that hold their values.

    Parameters
    ----------
    ax : Axes
    columns : list of array (D,)
        The values of each layer.
    names : list of str
        What stands under each column.
    dense : list of bool
        For each step from a column to the next, whether all units are connected; otherwise each with its own.
    title : str
    """
    limit = max(float(np.abs(values).max()) for values in columns)
    heights = [(len(values) - 1) / 2 - np.arange(len(values)) for values in columns]
    for step, full in enumerate(dense):
        for i, low in enumerate(heights[step]):
            for j, high in enumerate(heights[step + 1]):
                if full or i == j:
                    ax.plot([step, step + 1], [low, high], color="0.75", linewidth=1, zorder=0)
    for position, (values, at) in enumerate(zip(columns, heights, strict=True)):
        ax.scatter([position] * len(values), at, s=1700, c=values, cmap=SIGNED, vmin=-1.3 * limit, vmax=1.3 * limit,
                   edgecolors="black", zorder=1)
        for value, height in zip(values, at, strict=True):
            ax.text(position, height, f"{value:.2f}", ha="center", va="center",
                    color="white" if abs(value) > 0.8 * limit else "black")
        ax.text(position, -1.75, names[position], ha="center", va="center")
    ax.set(title=title, xlim=(-0.5, len(columns) - 0.5), ylim=(-2.1, 1.6))
    ax.axis("off")


def show_schedules(ax: Axes, schedules: Mapping[str, str]) -> None:
    """Draw each schedule of passes as arrows from left to right.

    Parameters
    ----------
    ax : Axes
    schedules : mapping of str to str
        The passes of an algorithm by their symbols: ``"y dy t G"``. Passes up are y, y* and t; passes down dy, dy*, u and s; G is
        a weight-gradient product.
    """
    colours = {"y": BLUE, "y*": BLUE, "dy": ORANGE, "dy*": ORANGE, "t": GREEN, "u": ORANGE, "s": RED}
    longest = max(len(passes.split()) for passes in schedules.values())
    for line, (name, passes) in enumerate(schedules.items()):
        ax.text(-0.4, -line, name, ha="right", va="center")
        for column, symbol in enumerate(passes.split()):
            if symbol == "G":
                ax.scatter(column, -line, s=420, marker="s", color="0.85", edgecolors="black")
                ax.text(column, -line, "G", ha="center", va="center")
                continue
            ends = (-line - 0.33, -line + 0.33) if symbol in ("y", "y*", "t") else (-line + 0.33, -line - 0.33)
            ax.annotate("", xy=(column, ends[1]), xytext=(column, ends[0]),
                        arrowprops={"arrowstyle": "-|>", "color": colours[symbol], "linewidth": 3, "mutation_scale": 20})
            ax.text(column + 0.12, -line, symbol, ha="left", va="center")
    ax.set(xlim=(-0.5, longest - 0.3), ylim=(0.6 - len(schedules), 0.6))
    ax.axis("off")
