"""Training runs that can be compared: one setup, several algorithms and seeds, every finished run in a file of its own.

All algorithms of a seed start from the same initial weights and see the same images in the same order. A run's file is
named after a digest of everything that determines the run, so that a run is done once, by whatever command asks for it.
"""
from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

import convnet
from convnet import kernels, optimizers, schedules
from convnet.algorithms import needs_tangents
from convnet.architectures import build, default_for
from convnet.batch import Batch
from convnet.checkpoint import fingerprint
from convnet.data import Dataset, load
from convnet.data.augment import Augmentation
from convnet.data.prepare import prepare, usual_normalization
from convnet.data.registry import cache_root
from convnet.data.sampling import stratified_indices
from convnet.data.tangents import TRANSFORMATIONS, training_tangents
from convnet.devices import tf32_allowed
from convnet.evaluation import default_loss, error_rate, fgsm_errors, noise_errors
from convnet.files import remove_partials, write_text
from convnet.history import History
from convnet.layers.base import real_number, whole_number
from convnet.names import lookup
from convnet.network import Network
from convnet.passes import Algorithm
from convnet.specs import Kind, describe, make
from convnet.training import NonFiniteLossError, train, trial

FORMAT = "convnet run 1"
OPTIMIZERS = {name: Kind(kind) for name, kind in optimizers.NAMES.items()}
SCHEDULES = {name: Kind(kind) for name, kind in schedules.NAMES.items()}

# Tangent vectors beyond this size are kept in a file and not in memory.
_TANGENT_BYTES = 1 << 28


# What the papers vary at random in every training image.
AUGMENTATIONS = {
    "mnist": Augmentation(shift=2, scale=(0.7, 1.4), rotation=18),  # papers 001/002, section 5.4
    "cifar": Augmentation(crop=28, shift=2, scale=(0.7, 1.4), reflect=True),  # paper 000, section 7.4
    "svhn": Augmentation(crop=28, shift=2, scale=(0.7, 1.4)),  # the same, without reflection
}


@dataclass(frozen=True)
class Setup:
    """What all runs of an experiment share.

    Attributes
    ----------
    dataset : str
        Name or path, see `convnet.data.load`.
    root : str or None
        Folder of data sets.
    image_size : int or None
        Rows and columns that the images of a folder are scaled to.
    subset, per_class : int or None
        Number of training images, in all or of each class, drawn by the seed.
    normalization : str or None
        See `convnet.data.prepare`.
    network : str or None
        Name of an architecture; by default the one for the data set.
    dropout : float
    augmentation : str or None
        Name of the variation of the training images, one of `AUGMENTATIONS`.
    initialization, dtype, device : str
        See `convnet.Network`.
    epochs, batch_size : int
    optimizer, schedule : str
        Specs, as in "sgd:learning_rate=0.1,momentum=0.9".
    test_every : int
        After how many epochs the test error is measured; the last one counts always.
    validation : float
        Share of the training images on which coefficients are chosen.
    """

    dataset: str = "digits"
    root: str | None = None
    image_size: int | None = None
    subset: int | None = None
    per_class: int | None = None
    normalization: str | None = None
    network: str | None = None
    dropout: float = 0.0
    augmentation: str | None = None
    initialization: str = "he"
    dtype: str = "float32"
    device: str = "cpu"
    epochs: int = 20
    batch_size: int = 32
    optimizer: str = "sgd:learning_rate=0.1,momentum=0.9,dampening=0.9"
    schedule: str = "exponential:decay=0.98"
    test_every: int = 1
    validation: float = 0.2

    def determining(self) -> dict[str, Any]:
        """Return what the outcome of training depends on: all but where data lie and how often it is looked at."""
        found = {key: value for key, value in dataclasses.asdict(self).items() if key not in ("root", "test_every", "validation")}
        if self.image_size is None:
            # Runs without one keep the names that they had before it could be given.
            del found["image_size"]
        return found


@dataclass(frozen=True)
class Levels:
    """How hard the trained networks are tested: deviations of Gaussian noise and lengths of FGSM steps."""

    sigmas: tuple[float, ...] = ()
    epsilons: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("sigmas", "epsilons"):
            for value in getattr(self, name):
                real_number(name, value, 0.0)


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes
    ----------
    settings : dict
        What determined it.
    history : History
    test_error : float or None
        Fraction of test images (in a validation run: of validation images) misclassified after the last epoch; None if
        training stopped at a loss that is not finite.
    noise_errors, fgsm_errors : list of float
        Errors at each of the `levels`.
    problem : str or None
        Why training stopped.
    file : Path
    """

    settings: dict[str, Any]
    history: History
    test_error: float | None
    levels: Levels
    noise_errors: list[float]
    fgsm_errors: list[float]
    problem: str | None
    file: Path

    @property
    def seconds_per_epoch(self) -> float | None:
        """Median over the epochs, which the compilation of kernels in the first epoch does not move."""
        return statistics.median(self.history.column("seconds")) if len(self.history) else None


@dataclass
class Experiment:
    """The runs of one setup.

    Parameters
    ----------
    setup : Setup
    folder : path
        Where the runs are kept; made when the first of them starts.
    say : callable, optional
        Receives a line for every run that is done.
    progress : bool or None
        See `convnet.train`.

    Raises
    ------
    ValueError, OSError, DeviceError
        If something in the setup is unknown or does not fit, or data cannot be read; before any work.
    """

    setup: Setup
    folder: str | PathLike[str]
    say: Callable[[str], None] = field(default=lambda line: None)
    progress: bool | None = None

    def __post_init__(self) -> None:
        setup = self.setup
        real_number("validation", setup.validation, 0.0, 1.0)
        whole_number("epochs", setup.epochs, 1)
        whole_number("batch_size", setup.batch_size, 1)
        whole_number("test_every", setup.test_every, 1)
        self.raw = load(setup.dataset, setup.root, image_size=setup.image_size)
        self.setup = setup = dataclasses.replace(
            setup, network=setup.network or default_for(self.raw.name, self.raw.input_shape),
            normalization=setup.normalization or usual_normalization(self.raw.name))
        self.raw.subset(setup.subset, setup.per_class)
        self.optimizer()
        self.augmentation = augmentation_of(setup.augmentation)
        self.schedule = make("schedule", setup.schedule, SCHEDULES)
        self.kernels = kernels_of(self.network(0))
        self.data_digest = data_digest(self.raw)
        self._data: tuple[Any, Any] = (None, None)

    # --- what a run consists of ---------------------------------------------------------------------------------------

    def network(self, seed: int) -> Network:
        """Return the untrained network of `seed`."""
        setup = self.setup
        shape = self.central(self.raw.train_images[:1]).shape[1:]
        return build(setup.network or "", shape, len(self.raw.classes), dropout=setup.dropout, seed=seed,
                     dtype=setup.dtype, device=setup.device, initialization=setup.initialization)

    def central(self, images: Any) -> Any:
        """Return images as the network takes them at test time."""
        return self.augmentation.central(images) if self.augmentation else images

    def optimizer(self) -> optimizers.Optimizer:
        """Return a fresh optimiser."""
        return make("optimizer", self.setup.optimizer, OPTIMIZERS)

    def data(self, seed: int, validation: bool) -> Dataset:
        """Return the prepared data of `seed`; for validation, the training part split in two, without the test part."""
        if self._data[0] != (seed, validation):
            dataset = self.raw.subset(self.setup.subset, self.setup.per_class, seed)
            if validation:
                dataset = split(dataset, self.setup.validation, seed)
            self._data = (None, None)
            prepared = prepare(dataset, self.setup.normalization, self.setup.dtype, cache=cache_root() / "prepared")
            self._data = ((seed, validation), prepared)
        return self._data[1]

    def settings(self, algorithm: Algorithm, seed: int, validation: bool) -> dict[str, Any]:
        """Return everything that determines a run, as JSON can hold it."""
        return {
            **self.setup.determining(), "data": self.data_digest, "optimizer": describe(self.optimizer()),
            "schedule": describe(self.schedule), "algorithm": describe(algorithm), "seed": seed,
            "validation": self.setup.validation if validation else None, "kernels": self.kernels,
            "version": convnet.__version__,
        }

    def check(self, algorithm: Algorithm) -> None:
        """Raise ValueError or TypeError where the algorithm does not suit the network."""
        net, rng = self.network(0), np.random.default_rng(0)
        images = rng.standard_normal((2, *net.input_shape))
        tangents = rng.standard_normal((2, len(TRANSFORMATIONS), *net.input_shape)) if needs_tangents(algorithm) else None
        trial(net, algorithm, default_loss(net), Batch(images, np.arange(2) % len(self.raw.classes), tangents))

    # --- runs ---------------------------------------------------------------------------------------------------------

    def run(self, spec: str, algorithm: Algorithm, seed: int, levels: Levels, *, validation: bool = False,
            again: bool = False, position: str = "") -> Run:
        """Return a finished run; train only if there is none, and go on with an interrupted one.

        Parameters
        ----------
        spec : str
            Name of the algorithm, for file names and messages.
        algorithm : Algorithm
        seed : int
        levels : Levels
            For the test of a whole run; a run that is there already is tested again where they are others.
        validation : bool
            Whether to hold a part of the training images back and test on them.
        again : bool
            Whether to train even if there is a finished or interrupted run.
        position : str
            Which of how many runs this is, for messages.
        """
        settings = self.settings(algorithm, seed, validation)
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        name = f"{spec}, {'validation, ' if validation else ''}seed {seed}"
        file = Path(self.folder) / "runs" / f"{re.sub(r'[^a-zA-Z0-9.=+-]+', '_', name)}-{digest}.json"
        partial = file.with_suffix(".part")
        if again:
            file.unlink(missing_ok=True)
            shutil.rmtree(partial, ignore_errors=True)
        found = load_run(file, settings)
        if found is None:
            remove_partials(file, file.with_suffix(".npz"))
            found = self.finish(file, partial, algorithm, seed, levels, validation, label=f"{position}{name}")
        elif not validation and found.levels != levels and found.problem is None:
            try:
                net = Network.load(file.with_suffix(".npz"), self.setup.device)
            except (FileNotFoundError, ValueError) as error:
                raise ValueError(f"{file.with_suffix('.npz')} is to be tested at other levels, but it is missing or damaged; "
                                 f"delete {file.name} to train again") from error
            found = self._tested(found, net, seed, levels)
            save_run(found)
        shutil.rmtree(partial, ignore_errors=True)
        return found

    def finish(self, file: Path, checkpoint_folder: Path, algorithm: Algorithm, seed: int, levels: Levels,
               validation: bool = False, label: str = "") -> Run:
        """Train, going on from a checkpoint if there is one; test; write `file`, and the network beside it."""
        net, dataset = self.network(seed), self.data(seed, validation)
        run = Run(self.settings(algorithm, seed, validation), History(), None, Levels(), [], [], None, file)
        try:
            result = train(
                net, dataset, algorithm, self.optimizer(), self.setup.epochs, self.setup.batch_size, self.schedule, seed,
                tangents=tangents_for(algorithm, dataset), augmentation=self.augmentation, checkpoint_folder=checkpoint_folder,
                test_every=self.setup.test_every, progress=label if self.progress is None else self.progress)
        except NonFiniteLossError as error:
            run = dataclasses.replace(run, problem=str(error))
        else:
            run = dataclasses.replace(run, history=result.history, test_error=result.test_error)
            if not validation:
                run = self._tested(run, net, seed, levels)
                net.save(file.with_suffix(".npz"))
        save_run(run)
        self.say(f"{label}: {_outcome(run)}")
        return run

    def _tested(self, run: Run, net: Network, seed: int, levels: Levels) -> Run:
        dataset = self.data(seed, False)
        images, labels = self.central(dataset.test_images), dataset.test_labels
        return dataclasses.replace(
            run, levels=levels, test_error=error_rate(net, images, labels),
            noise_errors=noise_errors(net, images, labels, levels.sigmas),
            fgsm_errors=fgsm_errors(net, images, labels, levels.epsilons))


def augmentation_of(name: str | None) -> Augmentation | None:
    """Return the augmentation of that name, None without one."""
    return None if name is None else lookup("augmentation", name, AUGMENTATIONS)


def data_digest(dataset: Dataset) -> str:
    """Return a digest of both parts of a data set, see `convnet.checkpoint.fingerprint`."""
    return fingerprint(dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels)


def kernels_of(net: Network) -> str:
    """Return the name of the kernels that compute `net`, with what else decides about their rounding."""
    name = kernels.of(net.vector).name
    return f"{name}, TF32" if name == "cuda" and tf32_allowed() else name


def split(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Return a data set whose test part is a stratified `share` of the training part, and whose training part the rest.

    Raises
    ------
    ValueError
        If one of the two parts would be empty.
    """
    count = len(dataset.train_labels)
    size = round(share * count)
    if not 0 < size < count:
        raise ValueError(f"validation is {share}: of {count} training images that leaves one part empty")
    held = stratified_indices(dataset.train_labels, size=size, seed=seed, classes=len(dataset.classes))
    kept = np.setdiff1d(np.arange(count), held)
    images, labels = dataset.train_images, dataset.train_labels
    return dataclasses.replace(dataset, train_images=images[kept], train_labels=labels[kept],
                               test_images=images[held], test_labels=labels[held])


def tangents_for(algorithm: Algorithm, dataset: Dataset) -> np.ndarray | None:
    """Return the tangent vectors of the training images if `algorithm` needs them; large ones memory-mapped."""
    if not needs_tangents(algorithm):
        return None
    size = dataset.train_images[:1].nbytes * len(dataset.train_images) * len(TRANSFORMATIONS)
    return training_tangents(dataset, cache_root() / "tangents" if size > _TANGENT_BYTES else None)


def save_run(run: Run) -> None:
    """Write a finished run to its file, whole or not at all."""
    write_text(run.file, json.dumps({
        "format": FORMAT, "settings": run.settings, "test_error": run.test_error,
        "sigmas": run.levels.sigmas, "noise_errors": run.noise_errors,
        "epsilons": run.levels.epsilons, "fgsm_errors": run.fgsm_errors,
        "problem": run.problem, "history": run.history.to_rows(),
    }, indent=1) + "\n")


def load_run(file: Path, settings: dict[str, Any]) -> Run | None:
    """Return the finished run in `file`, or None if there is none.

    Raises
    ------
    ValueError
        If the file is damaged, or holds a run of other settings.
    """
    try:
        content = json.loads(file.read_text())
        if content["format"] != FORMAT or content["settings"] != settings:
            raise ValueError("it holds something else")
        run = Run(settings, History.from_rows(content["history"]), content["test_error"],
                  Levels(tuple(content["sigmas"]), tuple(content["epsilons"])),
                  content["noise_errors"], content["fgsm_errors"], content["problem"], file)
        _check_errors(run)
        return run
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not the run that its name says ({error}); delete it to train again") from None


def _check_errors(run: Run) -> None:
    """Raise ValueError or TypeError unless all errors are fractions, one for each level."""
    if not (isinstance(run.problem, str) if run.test_error is None else run.problem is None):
        raise ValueError(f"test_error is {run.test_error!r} with problem = {run.problem!r}")
    for name, errors, levels in (("noise_errors", run.noise_errors, run.levels.sigmas),
                                 ("fgsm_errors", run.fgsm_errors, run.levels.epsilons)):
        if len(errors) != len(levels):
            raise ValueError(f"{name} holds {len(errors)} errors for {len(levels)} levels")
    for error in (0.0 if run.test_error is None else run.test_error, *run.noise_errors, *run.fgsm_errors):
        real_number("error", error, 0.0, 1.0, open_high=False)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the sample standard deviation, None for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _outcome(run: Run) -> str:
    if run.test_error is None:
        return f"stopped, {run.problem}"
    return f"error {run.test_error:.2%}, {run.seconds_per_epoch:.3g} s per epoch"
