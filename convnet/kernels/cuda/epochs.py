"""Epochs of training that run on the device alone: the data set lives there, and a step is one launch of a graph.

Before an epoch the host sends its order of samples, the draws of its steps and the optimiser's numbers, and afterwards it
reads one table of losses and errors. In between it waits for nothing. The last, smaller batch of an epoch has a graph of its
own. A step is made of the same passes as anywhere else; only the optimiser's update is a kernel of its own.
"""
from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from convnet import kernels
from convnet.batch import Batch
from convnet.kernels.cuda.capture import Recorder, Replay
from convnet.kernels.cuda.launch import DIVISOR, THREADS, divisor
from convnet.kernels.cuda.update import Update, has_kernel
from convnet.kernels.reference import HostDrawError
from convnet.losses import Loss
from convnet.optimizers import Optimizer
from convnet.passes.algorithm import Algorithm

if TYPE_CHECKING:
    from convnet.network import Network
    from convnet.samples import Samples

Array = Any

# As in data.cu.
ROWS = np.dtype([("width", np.int32, 3), ("count", np.int32, 3), ("by_width", DIVISOR, 3)])
# Columns of the table of an epoch's steps.
COLUMNS = ("loss", "penalty", "objective", "error")
# The shares of the free memory that the data of training, and after it the images of the tests, may take.
SHARE, TEST_SHARE = 0.5, 0.1


def device_epochs(
    net: Network, algorithm: Algorithm, optimizer: Optimizer, loss: Loss, samples: Samples
) -> DeviceEpochs | None:
    """Return the epochs of a training run on the device, or None where the host has to take part in its steps.

    That is so on a CPU, where the training images are augmented, for optimisers without a kernel, for a data set that would
    fill the device, and where the algorithm or a layer draws on the host.

    Parameters
    ----------
    net, algorithm, optimizer, loss
        As for `DeviceEpochs`.
    samples : convnet.samples.Samples
    """
    if net.device != "gpu" or samples.augmentation is not None or not has_kernel(optimizer):
        return None
    if not _fit(net, SHARE, samples.images, samples.targets, samples.tangents):
        return None
    try:
        return DeviceEpochs(net, algorithm, optimizer, loss, samples.images, samples.targets, samples.ids,
                            samples.batch_size, samples.tangents)
    except HostDrawError:
        return None


def resident(net: Network, images: Array | None) -> Array | None:
    """Return test images on the device, where they fit, so that they are not sent anew for each test; else as they are."""
    return images if images is None or not _fit(net, TEST_SHARE, images) else _sent(net.xp, images, net.dtype)


class DeviceEpochs:
    """The epochs of one training run.

    Parameters
    ----------
    net : Network
        On the device.
    algorithm : Algorithm
    optimizer : Optimizer
        Started for `net`, and one that has a kernel.
    loss : Loss
    images : array (N, ...)
    targets : array (N, K)
        Label vectors.
    ids : array (N,)
        Class ids, which decide what counts as wrong.
    batch_size : int
    tangents : array (N, M, ...), optional

    Raises
    ------
    HostDrawError
        If the algorithm or a layer draws on the host.
    """

    def __init__(
        self, net: Network, algorithm: Algorithm, optimizer: Optimizer, loss: Loss, images: Array, targets: Array,
        ids: Array, batch_size: int, tangents: Array | None = None,
    ):
        xp = net.xp
        self._net, self._algorithm, self._optimizer, self._loss, self._xp = net, algorithm, optimizer, loss, xp
        self._launcher = kernels.gpu().launcher
        self._recorder = Recorder(xp)
        self._update = Update(self._launcher, optimizer, net.vector)
        self.batch_size, self.count = batch_size, len(images)
        self.batches = math.ceil(self.count / batch_size)
        self._data = [None if a is None else _sent(xp, a, net.dtype) for a in (images, targets, tangents)]
        self._ids = xp.asarray(np.asarray(ids, np.int64))
        # What the steps of an epoch read and write, at addresses that stay.
        self._order, self._next, self._cursor = xp.zeros(self.count, np.int64), xp.zeros(1, np.int64), xp.zeros(1, np.int64)
        self._draws, self._draw = xp.zeros(self.batches, np.uint64), xp.zeros(1, np.uint64)
        self._table = xp.zeros((self.batches, self._update.width), net.dtype)
        self._numbers = xp.zeros(self._update.width, net.dtype)
        self._rows = xp.zeros((self.batches, len(COLUMNS)), net.dtype)
        self._halted = xp.zeros(1, np.int32)
        self._replays = {size: Replay(self._recorder, self._step(size)) for size in {*self.sizes()}}

    def sizes(self) -> list[int]:
        """Return the number of samples in each batch of an epoch."""
        return [min(self.batch_size, self.count - start) for start in range(0, self.count, self.batch_size)]

    @property
    def refusals(self) -> dict[int, Exception]:
        """By batch size, why a step could not be recorded; it then runs kernel by kernel."""
        return {size: replay.refusal for size, replay in self._replays.items() if replay.refusal is not None}

    def epoch(self, order: np.ndarray, rate: float) -> np.ndarray:
        """Train for one epoch and return a row of `COLUMNS` for each step.

        Parameters
        ----------
        order : array (N,) of int
            The samples in the order in which they are used.
        rate : float
            Learning rate.

        Notes
        -----
        From the first step on whose row is not finite, nothing changes: the parameters are those before that step.
        """
        draws = np.array([self._net.generator.integers(2**63) for _ in range(self.batches)], np.uint64)
        done = self._optimizer.steps
        for target, values in (
            (self._order, np.asarray(order, np.int64)), (self._draws, draws), (self._next, np.array([0])),
            (self._table, self._update.table(range(done + 1, done + 1 + self.batches), rate)),
        ):
            target.set(values)
        self._halted.fill(0)
        self._recorder.wait_for_others()
        try:
            for size in self.sizes():
                self._replays[size].run()
            self._optimizer.steps += self.batches
        finally:
            # Also where Ctrl-C or an error leaves steps under way: what comes next, on another stream, must not meet them.
            self._recorder.stream.synchronize()
        return kernels.to_numpy(self._rows)

    def _step(self, size: int) -> Any:
        """Return the work of one step on a batch of `size` samples."""
        # Work that held these epochs, which hold the work, would keep the device's memory after training.
        self = weakref.proxy(self)
        net, launch, dtype = self._net, self._launcher.elements, self._net.dtype
        buffers = [None if a is None else self._xp.zeros((size, *a.shape[1:]), dtype) for a in self._data]
        batch, rows = Batch(*buffers), _rows(buffers, size)
        # Shows what cannot be done on the device alone, before anything has changed.
        self._algorithm.gradients(net, self._loss, batch, draw=self._draw)

        def work() -> None:
            launch("begin_step", dtype, int(rows["count"].sum()), self._next, self._cursor, self._draws, self._draw, self._table,
                   self._numbers, np.int32(self._update.width), self._order, np.int32(self.batch_size), *self._data, *buffers,
                   rows)
            step = self._algorithm.gradients(net, self._loss, batch, draw=self._draw)
            outputs = self._xp.ascontiguousarray(step.outputs)
            self._launcher.blocks(
                "record_step", dtype, (1,), THREADS, outputs, self._ids, self._order, self._cursor,
                np.int32(self.batch_size), np.int32(size), np.int32(outputs.shape[1]),
                *(self._number(n) for n in (step.loss, step.penalty, step.objective)), self._rows, self._halted, self._next)
            self._update(step.flat_gradient, self._numbers, self._halted)
            state = net.state
            for name, fresh in step.state.items():
                launch("keep", dtype, fresh.size, self._xp.ascontiguousarray(fresh), self._halted, state[name])
            net.apply_constraints()

        return work

    def _number(self, value: Array) -> Array:
        """Return one number of a step as an array of the network's type."""
        return self._xp.asarray(value, dtype=self._net.dtype)


def _fit(net: Network, share: float, *arrays: Array | None) -> bool:
    """Return whether `arrays`, in the network's type, take no more than `share` of the device's free memory."""
    free, _ = net.xp.cuda.runtime.memGetInfo()
    # What the pool keeps for later is free, too.
    free += net.xp.get_default_memory_pool().free_bytes()
    return sum(math.prod(a.shape) * net.dtype.itemsize for a in arrays if a is not None) <= share * free


def _rows(buffers: list[Array | None], size: int) -> np.ndarray:
    """Return what tells the kernel how long the rows of a batch of `size` samples are."""
    rows = np.zeros(1, ROWS)
    for k, buffer in enumerate(buffers):
        if buffer is not None:
            width = buffer.size // size
            rows["width"][0, k], rows["count"][0, k], rows["by_width"][0, k] = width, buffer.size, divisor(width)
    return rows


def _sent(xp: Any, values: Any, dtype: np.dtype) -> Array:
    """Return an array of the host on the device, in slices where its values are made on access."""
    target = xp.empty(values.shape, dtype)
    rows = max(1, (1 << 26) // max(1, math.prod(values.shape[1:]) * dtype.itemsize))
    for start in range(0, len(values), rows):
        part = np.ascontiguousarray(values[start:start + rows], dtype)
        target[start:start + len(part)].set(part)
    return target
