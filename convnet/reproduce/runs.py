"""Runs of an experiment's part: `convnet.experiment.Experiment` with folds and with paper 004's stages."""
from __future__ import annotations

import dataclasses
import math
import shutil
import zipfile
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from convnet.algorithms import by_spec
from convnet.checkpoint import NAME as CHECKPOINT
from convnet.data import Dataset
from convnet.data.prepare import prepare
from convnet.data.registry import cache_root
from convnet.data.sampling import stratified_indices
from convnet.experiment import OPTIMIZERS, SCHEDULES, Experiment, Levels, Run
from convnet.network import Network
from convnet.passes import Algorithm
from convnet.reproduce.definition import Part
from convnet.reproduce.networks import STAGE_NETWORKS, STAGE_SIDE, build
from convnet.specs import describe, make
from convnet.stage_comparison import padded

Fold = tuple[int, int]


class PartExperiment(Experiment):
    """The runs of one part.

    Parameters
    ----------
    part : Part
    folder : path
        The store.
    fold : (int, int) or None
        Which of how many folds of the training images is held back in validation runs.
    """

    def __init__(self, part: Part, folder: str | PathLike[str], fold: Fold | None = None):
        self.part, self.fold = part, fold
        super().__init__(part.setup, folder, progress=False)

    def network(self, seed: int) -> Network:
        """Return the untrained network of `seed`."""
        setup, part = self.setup, self.part
        shape = self.central(self.raw.train_images[:1]).shape[1:]
        return build(setup.network or "", shape, len(self.raw.classes), dropout=setup.dropout, stage=part.stage,
                     dimension=part.dimension, seed=seed, dtype=setup.dtype, device=setup.device,
                     initialization=setup.initialization)

    def settings(self, algorithm: Algorithm, seed: int, validation: bool) -> dict[str, Any]:
        """Return everything that determines a run; the same as for ``convnet compare`` where a part adds nothing."""
        return {**super().settings(algorithm, seed, validation), **_added(self.part, self.fold if validation else None)}

    def data(self, seed: int, validation: bool) -> Dataset:
        """Return the prepared data; for validation, one fold of the training images stands in for the test images."""
        if self._data[0] != (seed, validation):
            dataset = self.raw.subset(self.setup.subset, self.setup.per_class, seed)
            if validation and self.fold is not None:
                dataset = fold_of(dataset, *self.fold, seed)
            self._data = (None, None)
            dataset = prepare(dataset, self.setup.normalization, self.setup.dtype, cache=cache_root() / "prepared")
            if self.setup.network in STAGE_NETWORKS:
                dataset = padded(dataset, STAGE_SIDE)
            self._data = ((seed, validation), dataset)
        return self._data[1]

    def finish(self, file: Path, checkpoint_folder: Path, algorithm: Algorithm, seed: int, levels: Levels,
               validation: bool = False, label: str = "") -> Run:
        """Train, test and write `file`, as `Experiment.finish`; a damaged checkpoint is set aside before."""
        set_damaged_checkpoint_aside(checkpoint_folder)
        return super().finish(file, checkpoint_folder, algorithm, seed, levels, validation, label)


def identity(part: Part, spec: str, seed: int, fold: Fold | None) -> dict[str, Any]:
    """Return what is known of a run's settings without its data: all but data, kernels and version."""
    setup = part.setup
    return {
        **setup.determining(), "optimizer": describe(make("optimizer", setup.optimizer, OPTIMIZERS)),
        "schedule": describe(make("schedule", setup.schedule, SCHEDULES)), "algorithm": describe(by_spec(spec)),
        "seed": seed, "validation": None, **_added(part, fold),
    }


def _added(part: Part, fold: Fold | None) -> dict[str, Any]:
    added = {"stage": part.stage, "dimension": part.dimension}
    found = {key: value for key, value in added.items() if value is not None}
    return found if fold is None else {**found, "validation": {"fold": fold[0], "folds": fold[1]}}


def fold_of(dataset: Dataset, fold: int, folds: int, seed: int) -> Dataset:
    """Return a data set whose test part is one stratified fold of the training part, and whose training part the rest.

    The folds of a seed are disjoint, and together they are all training images.

    Raises
    ------
    ValueError
        If there are not enough images for so many folds.
    """
    labels = dataset.train_labels
    # Which fold an image is in follows from its place in a stratified order, so that every class is spread evenly.
    counts = [len(labels) * (k + 1) // folds - len(labels) * k // folds for k in range(folds)]
    if min(counts) == 0:
        raise ValueError(f"folds is {folds}, but there are only {len(labels)} training images: use fewer folds")
    left = np.arange(len(labels))
    for number, count in enumerate(counts):
        held = left
        if number < folds - 1:
            held = left[stratified_indices(labels[left], size=count, seed=seed, classes=len(dataset.classes))]
        if number == fold:
            break
        left = np.setdiff1d(left, held)
    kept = np.setdiff1d(np.arange(len(labels)), held)
    images = dataset.train_images
    return dataclasses.replace(dataset, train_images=images[kept], train_labels=labels[kept],
                               test_images=images[held], test_labels=labels[held])


def set_damaged_checkpoint_aside(folder: Path) -> None:
    """Rename a checkpoint that cannot be read, so that its run starts over."""
    file = folder / CHECKPOINT
    try:
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as content:
            for name in content.files:
                content[name]
    except FileNotFoundError:
        return
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile):
        aside = folder.parent.parent / "damaged" / folder.name
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(aside)


def error_of(run: Run) -> float:
    """Return the error of a run, infinite where its training failed."""
    return math.inf if run.test_error is None else run.test_error
