"""What an experiment is: its parts, its algorithms, what the paper reports of them."""
from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from convnet.experiment import Levels, Setup

# The data set of the package is small enough for every scale; of files of one's own nobody knows how many images they hold.
EMBEDDED = "digits"
# What an experiment says of a setup.
SETUP = ("dataset", "image_size", "subset", "per_class", "normalization", "network", "dropout", "augmentation",
         "initialization", "dtype", "epochs", "batch_size", "optimizer", "schedule", "test_every")


@dataclass(frozen=True)
class Published:
    """What a paper reports of one algorithm: error and deviation in percent, the best coefficient, seconds per epoch."""

    error: float
    deviation: float | None = None
    coefficient: float | None = None
    seconds: float | None = None
    significant: bool = False


@dataclass(frozen=True)
class Part:
    """One condition of an experiment: a column of a table, a place on an axis.

    Attributes
    ----------
    name : str
    setup : Setup
    stage, dimension
        See `convnet.reproduce.networks.build`.
    x : float or None
        Place on the axis of a figure of sizes.
    line : str
        Which line of such a figure it belongs to.
    """

    name: str
    setup: Setup
    stage: str | None = None
    dimension: int | None = None
    x: float | None = None
    line: str = ""

    @property
    def title(self) -> str:
        """The name, with its unit if it is a number of images."""
        return f"{self.name} images of each class" if self.name == str(self.setup.per_class) else self.name


@dataclass(frozen=True)
class Entry:
    """One algorithm of an experiment: a row of a table.

    Attributes
    ----------
    name : str
    spec : str
        The algorithm without the coefficient that is to be chosen.
    coefficient : str or None
        Name of the option that is chosen from `grid`.
    grid : tuple of float
    published : dict of str to Published
        The paper's results by part.
    """

    name: str
    spec: str
    coefficient: str | None = None
    grid: tuple[float, ...] = ()
    published: dict[str, Published] = field(default_factory=dict)

    def with_value(self, value: float) -> str:
        """Return the spec with a value of the coefficient."""
        return f"{self.spec}{',' if ':' in self.spec else ':'}{self.coefficient}={value:g}"

    def offered(self, part: str, choices: int | None) -> list[str]:
        """Return the specs to choose from: of a long grid `choices` values, the nearest to the paper's, or evenly spread."""
        if self.coefficient is None:
            return [self.spec]
        values = list(self.grid)
        if choices is not None and choices < len(values):
            told = self.published.get(part)
            if told and told.coefficient:
                centre = told.coefficient
                kept = sorted(values, key=lambda v: abs(math.log(v / centre)) if v > 0 else math.inf)[:choices]
            else:
                kept = [values[(2 * i + 1) * len(values) // (2 * choices)] for i in range(choices)]
            values = [value for value in values if value in kept]
        return [self.with_value(value) for value in values]


@dataclass(frozen=True)
class Definition:
    """An experiment.

    Attributes
    ----------
    name, title, paper, section, shows : str
        What it is and where it stands in the papers.
    selection : {"cross-validation", "test"}
        How the paper chose coefficients, as far as it says.
    seeds, folds, turns : int
        Final runs; parts that the training images are cut into to choose coefficients; how many of them take their turn.
    choices : int or None
        How many values of each grid are tried.
    scale : str
        What was reduced, in words.
    """

    name: str
    title: str
    paper: str
    section: str
    shows: str
    parts: tuple[Part, ...]
    entries: tuple[Entry, ...]
    levels: Levels
    selection: str = "cross-validation"
    seeds: int = 10
    folds: int = 5
    turns: int = 5
    choices: int | None = None
    assumptions: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    figures: tuple[str, ...] = ("errors",)
    x_label: str = ""
    scale: str = "full: as in the paper"
    scales: dict[str, dict[str, Any]] = field(default_factory=dict)


def is_file(dataset: str) -> bool:
    """Whether a data set is named by a path."""
    return dataset.endswith(".npz") or "/" in dataset
