"""What training recorded, epoch by epoch, as an object, CSV and JSON."""
from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from convnet.files import write_text


@dataclass(frozen=True)
class Epoch:
    """One epoch of training; means are over its samples.

    Attributes
    ----------
    epoch : int
        Counted from 1.
    loss, penalty, objective : float
        Means of what the steps reported, each step before its update; the penalty is without its coefficient.
    training_error : float
        Fraction of training samples that the network of the moment got wrong, in training mode.
    test_error : float or None
        Fraction of test images misclassified after the epoch, in inference mode; None where they were not tested.
    learning_rate : float
    seconds : float
        Wall-clock time of the epoch's steps, without evaluation and files.
    """

    epoch: int
    loss: float
    penalty: float
    objective: float
    training_error: float
    test_error: float | None
    learning_rate: float
    seconds: float


class History:
    """The epochs of a training run, in order: a sequence of `Epoch`, and columns by name.

    Parameters
    ----------
    epochs : iterable of Epoch
    """

    COLUMNS = tuple(field.name for field in dataclasses.fields(Epoch))

    def __init__(self, epochs: Iterable[Epoch] = ()):
        self.epochs = list(epochs)

    def __len__(self) -> int:
        return len(self.epochs)

    def __iter__(self) -> Iterator[Epoch]:
        return iter(self.epochs)

    def __getitem__(self, index: int) -> Epoch:
        return self.epochs[index]

    def column(self, name: str) -> list[Any]:
        """Return one quantity of all epochs, as in ``history.column("loss")``.

        Raises
        ------
        ValueError
            If there is no such column.
        """
        if name not in self.COLUMNS:
            raise ValueError(f"unknown column {name!r}; there are {', '.join(self.COLUMNS)}")
        return [getattr(epoch, name) for epoch in self.epochs]

    def to_rows(self) -> list[dict[str, Any]]:
        """Return the epochs as dicts that JSON can hold."""
        return [dataclasses.asdict(epoch) for epoch in self.epochs]

    @classmethod
    def from_rows(cls, rows: Iterable[dict[str, Any]]) -> History:
        """Return the history that `to_rows` described."""
        return cls(Epoch(**row) for row in rows)

    def write(self, folder: str | PathLike[str]) -> None:
        """Write ``history.csv`` and ``history.json`` into `folder`, each whole or not at all."""
        table, rows = self.files(folder)
        write_text(table, csv_text(self.COLUMNS, self.to_rows()))
        write_text(rows, json.dumps(self.to_rows(), indent=1) + "\n")

    @staticmethod
    def files(folder: str | PathLike[str]) -> tuple[Path, Path]:
        """Return the paths that `write` writes."""
        return Path(folder) / "history.csv", Path(folder) / "history.json"


def csv_text(columns: Iterable[str], rows: Iterable[dict[str, Any]]) -> str:
    """Return a table as CSV text; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
