"""The training loop: epochs over shuffled batches, with history, checkpoints and a progress bar.

>>> from convnet.data import load
>>> result = train(net, load("digits").prepared(), LossIBP(0.01), SGD(0.1, momentum=0.9), epochs=20)   # doctest: +SKIP
>>> result.history[-1].test_error                                                                    # doctest: +SKIP
"""
from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from convnet import kernels
from convnet.batch import Batch
from convnet.checkpoint import Checkpoint, fingerprint
from convnet.devices import memory_errors
from convnet.evaluation import default_loss, error_rate
from convnet.history import Epoch, History
from convnet.layers.base import whole_number
from convnet.losses import Loss
from convnet.network import Network
from convnet.optimizers import Optimizer
from convnet.passes.algorithm import Algorithm, Step
from convnet.progress import Progress
from convnet.samples import Samples
from convnet.schedules import Constant, Schedule
from convnet.specs import describe

Array = Any

__all__ = ["NonFiniteLossError", "TrainingResult", "train"]


class NonFiniteLossError(FloatingPointError):
    """Training was stopped because loss, penalty or objective became infinite or not a number."""


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What `train` returns.

    Attributes
    ----------
    net : Network
        The network that was trained, in the state after the last epoch.
    history : History
    """

    net: Network
    history: History

    @property
    def test_error(self) -> float | None:
        """Fraction of test images misclassified after the last epoch."""
        return self.history[-1].test_error


def train(
    net: Network,
    dataset: Any,
    algorithm: Algorithm,
    optimizer: Optimizer,
    epochs: int = 80,
    batch_size: int = 32,
    schedule: Schedule | None = None,
    seed: int = 0,
    *,
    loss: Loss | None = None,
    tangents: Array | None = None,
    augmentation: Any = None,
    checkpoint_folder: str | PathLike[str] | None = None,
    test_every: int = 1,
    progress: bool | str | None = None,
    callback: Callable[[Network, Epoch], object] | None = None,
) -> TrainingResult:
    """Train `net` in place.

    Every epoch shuffles the training images by a generator of its own, goes through them in batches (the last one may
    be smaller), and measures the test error if it is due.

    Parameters
    ----------
    net : Network
    dataset : Dataset or (images, labels)
        A prepared `convnet.data.Dataset`, or training images (N, ...) and labels (N,) or (N, K) alone.
    algorithm : Algorithm
        What makes the gradient, as in ``LossIBP(beta=0.03)``.
    optimizer : Optimizer
        What makes steps of it; it is started anew.
    epochs : int
    batch_size : int
    schedule : callable, optional
        From the epoch, counted from 0, and the optimiser's learning rate to the epoch's; constant by default.
    seed : int
        Of the shuffling and of the augmentation. Initial weights, dropout and noise belong to the network's seed.
    loss : Loss, optional
        By default `SoftmaxCrossEntropy`; `SquaredError` if the network ends in a softmax or sigmoid layer itself,
        `ScaleInvariantCost` if in a `ScaleInvariantClassifier`.
    tangents : array (N, M, ...), optional
        Tangent vectors of each training image, for the algorithms that need them; may be memory-mapped.
    augmentation : Augmentation, optional
        Its ``apply(images, key)`` makes variants of each training batch, with the key (seed, epoch, batch), and its
        ``central(images)`` the images that are tested.
    checkpoint_folder : path, optional
        Where a checkpoint is written at the start and after every epoch, and ``history.csv`` and ``history.json`` with
        it. If there is one of this run, training goes on from it, to the same weights, bit for bit, as without an
        interruption, whatever weights `net` has now: one that starts from other weights (fine-tuning) needs a folder of its
        own. More epochs than before continue a finished run.
    test_every : int
        The test error is measured after every so many epochs, and after the last. Small training sets take less time
        than the test images do.
    progress : bool or str, optional
        Whether to show a progress bar; by default, and with a label for it, if standard error is a terminal.
    callback : callable, optional
        Called as ``callback(net, epoch)`` after each epoch, with what the history says of it. It may freeze and unfreeze
        layers. With a checkpoint folder it must not change the network: the checkpoint has been written before.

    Returns
    -------
    TrainingResult

    Raises
    ------
    ValueError, TypeError
        If the arguments do not fit each other; before any work.
    NonFiniteLossError
        At the first loss that is not finite; the parameters are those before that step. On a GPU, where the host takes part
        in the steps (noise, augmentation, random projections), it is seen at the end of the epoch only.
    OSError
        If the checkpoint folder cannot be written.
    DeviceMemoryError
        If the GPU's memory does not hold a batch.
    """
    _check_types(net, algorithm, optimizer, loss, schedule, augmentation, callback)
    whole_number("epochs", epochs, 1)
    whole_number("test_every", test_every, 1)
    loss = default_loss(net) if loss is None else loss
    if net.head is not None and isinstance(net.head, loss.readout or ()):
        raise ValueError(f"{loss!r} contains the {type(net.head).__name__} that this network ends in: leave that layer "
                         "out, or use SquaredError")
    schedule = schedule or Constant()
    samples = Samples(net, dataset, batch_size, seed, tangents, augmentation)
    loss.check_labels(samples.targets)
    trial(net, algorithm, loss, samples.batch(np.arange(min(2, len(samples.ids))), 0, 0))
    rates = [_rate(schedule, epoch, optimizer.learning_rate) for epoch in range(epochs)]

    shuffler = np.random.default_rng(samples.seed)
    optimizer.start(net)
    history, checkpoint = History(), None
    if checkpoint_folder is not None:
        # Of the schedule only the learning rates count, which the history holds.
        checkpoint = Checkpoint(checkpoint_folder, describe({
            "network": {key: value for key, value in net.config().items() if key != "device"},
            "algorithm": algorithm, "optimizer": optimizer, "loss": loss, "batch size": samples.batch_size,
            "seed": samples.seed, "augmentation": augmentation, "data": fingerprint(*samples.arrays()),
        }))
        history = checkpoint.start(net, optimizer, shuffler, rates)

    totals, device, test_images = _Totals(net, samples.batches, history), None, samples.test_images
    if net.device == "gpu":
        from convnet.kernels.cuda.epochs import device_epochs, resident

        with memory_errors(batch_size):
            device = device_epochs(net, algorithm, optimizer, loss, samples)
            test_images = resident(net, test_images)

    def test_if_due() -> None:
        """Put the test error of the last epoch into the history."""
        done = len(history)
        if test_images is not None and done > 0 and history[-1].test_error is None and (done % test_every == 0 or done == epochs):
            error = error_rate(net, test_images, samples.test_labels)
            history.epochs[-1] = dataclasses.replace(history[-1], test_error=error)

    # A checkpoint may be of a run that was to go on and be tested later, or that ended in its test.
    test_if_due()
    with Progress(progress, epochs, samples.batches, len(history)) as bar:
        for epoch in range(len(history), epochs):
            start = time.perf_counter()
            totals.begin(epoch, rates[epoch])
            # What overflows shows in the loss, which is looked at after every step.
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"), memory_errors(batch_size):
                batches = list(samples.shuffled(shuffler))
                if device is not None:
                    totals.add_rows(map(len, batches), device.epoch(np.concatenate(batches), rates[epoch]).tolist())
                    for _ in batches:
                        bar.step(totals)
                    batches = []
                with closing(samples.prepared(batches, epoch)) as prepared:
                    for rows, batch in zip(batches, prepared, strict=True):
                        step = algorithm.gradients(net, loss, batch)
                        totals.add(step, samples.ids[rows])
                        optimizer.update(net, step, rates[epoch])
                        net.set_state(step.state)
                        net.apply_constraints()
                        bar.step(totals)
                totals.read()
            seconds = time.perf_counter() - start
            history.epochs.append(Epoch(epoch + 1, *totals.means(), None, rates[epoch], seconds))
            try:
                test_if_due()
            finally:
                # Also where the test fails or is interrupted: the epoch is not lost.
                if checkpoint is not None:
                    checkpoint.save(net, optimizer, shuffler, history)
            bar.epoch_done(history[-1])
            if callback is not None:
                changes = net.rate_changes
                callback(net, history[-1])
                if device is not None and net.rate_changes != changes:
                    optimizer.follow(net)
                    device = None  # whose memory the next one may need
                    with memory_errors(batch_size):
                        device = device_epochs(net, algorithm, optimizer, loss, samples)
    return TrainingResult(net, history)


class _Totals:
    """Sums over the batches of an epoch.

    On the CPU every step's numbers are read and checked at once. On a device they stay there, so that no step waits for
    another, and are read and checked at the end of the epoch.
    """

    def __init__(self, net: Network, batches: int, history: History):
        self.xp, self.batches = net.xp, batches
        self.last_finite = history[-1].loss if len(history) else None
        self.begin(0, 0.0)

    def begin(self, epoch: int, rate: float) -> None:
        """Start an epoch."""
        self.epoch, self.rate = epoch, rate
        self.sums = [0.0] * 4
        self.count = self.batch = 0
        self.waiting: list[tuple[int, tuple[Array, ...]]] = []

    def add(self, step: Step, ids: np.ndarray) -> None:
        """Count a step on samples of the classes `ids`."""
        wrong = (step.outputs.argmax(axis=1) != self.xp.asarray(ids)).mean()
        row = (step.loss, step.penalty, step.objective, wrong)
        if self.xp is np:
            self._count(len(ids), [float(value) for value in row])
        else:
            self.waiting.append((len(ids), row))

    def add_rows(self, sizes: Iterable[int], rows: Iterable[list[float]]) -> None:
        """Count steps on so many samples each, given their losses, penalties, objectives and errors."""
        for size, row in zip(sizes, rows, strict=True):
            self._count(size, row)

    def means(self) -> tuple[float, float, float, float]:
        """Return the means of loss, penalty, objective and error over the samples that have been read."""
        loss, penalty, objective, wrong = (total / self.count for total in self.sums)
        return loss, penalty, objective, wrong

    def read(self) -> None:
        """Read what waits on the device."""
        if self.waiting:
            sizes, rows = zip(*self.waiting, strict=True)
            columns = [kernels.to_numpy(self.xp.stack(column)).tolist() for column in zip(*rows, strict=True)]
            for size, *row in zip(sizes, *columns, strict=True):
                self._count(size, row)
            self.waiting = []

    def _count(self, size: int, row: list[float]) -> None:
        self.batch += 1
        if not all(map(math.isfinite, row)):
            what, value = next((name, value) for name, value in zip(("loss", "penalty", "objective", "error"), row, strict=True)
                               if not math.isfinite(value))
            last = "is none" if self.last_finite is None else f"was {self.last_finite:.6g}"
            raise NonFiniteLossError(
                f"the {what} is {value} in epoch {self.epoch + 1}, batch {self.batch} of {self.batches}; "
                f"the last finite loss {last}. Lower the learning rate ({self.rate:g}) or the algorithm's coefficient")
        self.last_finite = row[0]
        self.sums = [total + size * value for total, value in zip(self.sums, row, strict=True)]
        self.count += size


def _check_types(net: Any, algorithm: Any, optimizer: Any, loss: Any, schedule: Any, augmentation: Any, callback: Any) -> None:
    wanted = [("net", net, Network), ("algorithm", algorithm, Algorithm), ("optimizer", optimizer, Optimizer)]
    if loss is not None:
        wanted.append(("loss", loss, Loss))
    for name, value, kind in wanted:
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__module__}.{kind.__name__}, not {value!r}")
    for name, value in (("schedule", schedule), ("callback", callback)):
        if value is not None and not callable(value):
            raise TypeError(f"{name} is {value!r}; it must be callable")
    if augmentation is not None and not (hasattr(augmentation, "apply") and hasattr(augmentation, "central")):
        raise TypeError(f"augmentation is {augmentation!r}; it must have the methods apply and central, "
                        "as convnet.data.Augmentation has")


def trial(net: Network, algorithm: Algorithm, loss: Loss, batch: Batch) -> None:
    """Make a step whose result is not used, so that what does not fit together raises before any work is done."""
    algorithm.check(batch)
    before = net.generator.bit_generator.state
    try:
        with np.errstate(all="ignore"):
            algorithm.gradients(net, loss, batch)
    finally:
        net.generator.bit_generator.state = before


def _rate(schedule: Schedule, epoch: int, base: float) -> float:
    rate = float(schedule(epoch, base))
    if not (math.isfinite(rate) and rate >= 0):
        raise ValueError(f"schedule {schedule!r} gives the learning rate {rate} for epoch {epoch}")
    return rate
