"""How long an experiment takes here: products of passes that are counted, times seconds that are measured.

A job's work is counted in image passes of plain backpropagation: its training images times the algorithm's cost, and a
third of one for every image that is tested (backpropagation has three products for a layer, testing one). The seconds of
one such pass come from finished runs of the same network, or are measured once and kept.
"""
from __future__ import annotations

import contextlib
import functools
import json
import math
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import convnet
from convnet import kernels
from convnet.algorithms import by_spec, needs_tangents
from convnet.batch import Batch
from convnet.data.registry import cache_root
from convnet.data.tangents import TRANSFORMATIONS
from convnet.experiment import Run
from convnet.files import write_text
from convnet.kernels.threads import default_count
from convnet.layers import Dense, ReLU
from convnet.losses import SoftmaxCrossEntropy
from convnet.network import Network
from convnet.passes import Backprop
from convnet.reproduce.jobs import Job
from convnet.reproduce.runs import PartExperiment

# Products of a layer in backpropagation: forward, backward, weight gradient.
_BACKPROP_PRODUCTS = 3
# A measurement takes at least so many steps, and ends after so many seconds.
_STEPS, _SECONDS = 3, 1.0


class _Counting:
    """Kernels that count the products they are asked for."""

    def __init__(self, inner: Any):
        self._inner, self.count = inner, 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name not in ("dense", "dense_gradients", "product"):
            return method

        def counted(*arguments: Any) -> Any:
            self.count += 1
            return method(*arguments)

        return counted


@functools.cache
def relative_cost(spec: str, classes: int) -> float:
    """Return the cost of an algorithm's step relative to backpropagation, in products of an inner layer that it makes."""
    three, four = (_products(spec, classes, layers) for layers in (3, 4))
    return (four - three) / _BACKPROP_PRODUCTS


def _products(spec: str, classes: int, layers: int) -> int:
    algorithm, rng = by_spec(spec), np.random.default_rng(0)
    body = [layer for _ in range(layers) for layer in (Dense(2), ReLU())]
    net = Network([*body, Dense(classes)], (2,), dtype="float64")
    tangents = rng.standard_normal((1, len(TRANSFORMATIONS), 2)) if needs_tangents(algorithm) else None
    batch = Batch(rng.standard_normal((1, 2)), np.zeros(1, int), tangents)
    with kernels.using(_Counting(kernels.load("reference"))) as counting:
        algorithm.gradients(net, SoftmaxCrossEntropy(), batch)
    return counting.count


def work(job: Job, train: int, test: int, classes: int) -> float:
    """Return a job's work in image passes of backpropagation.

    Parameters
    ----------
    job : Job
    train, test : int
        Training images of the whole part, and test images.
    classes : int
    """
    if job.fold is not None:
        test = train // job.fold[1]
        train -= test
    steps = job.part.setup.epochs * train * relative_cost(job.spec, classes)
    sigmas, epsilons = len(job.levels.sigmas), len(job.levels.epsilons)
    # In training, and once at the end; for FGSM steps a forward and a backward pass before.
    tests = math.ceil(job.part.setup.epochs / job.part.setup.test_every)
    if job.fold is None:
        tests += 1 + sigmas + epsilons + (2 if epsilons else 0)
    return steps + tests * test / _BACKPROP_PRODUCTS


def seconds_per_image(experiment: PartExperiment, runs: Mapping[str, Sequence[Run]]) -> float:
    """Return the seconds that backpropagation takes for an image: from finished runs, or measured once and kept."""
    found = _from_runs(experiment, runs)
    if found:
        return statistics.median(found)
    setup, part = experiment.setup, experiment.part
    what = json.dumps([setup.network, experiment.raw.input_shape, len(experiment.raw.classes), setup.batch_size, setup.dtype,
                       setup.device, setup.dropout, part.dimension, experiment.kernels, default_count(),
                       platform.node(), convnet.__version__])
    file = cache_root() / "speed.json"
    known = _read(file)
    if isinstance(known.get(what), float):
        return known[what]
    measured = _measured(experiment)
    # Where it cannot be kept, it is measured again the next time.
    with contextlib.suppress(OSError):
        write_text(file, json.dumps({**known, what: measured}, indent=1))
    return measured


def _read(file: Path) -> dict[str, Any]:
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _from_runs(experiment: PartExperiment, runs: Mapping[str, Sequence[Run]]) -> list[float]:
    setup, classes = experiment.setup, len(experiment.raw.classes)
    same = {"network": setup.network, "batch_size": setup.batch_size, "device": setup.device, "dataset": setup.dataset,
            "image_size": setup.image_size, "subset": setup.subset, "per_class": setup.per_class,
            "kernels": experiment.kernels, "validation": None, "augmentation": setup.augmentation,
            "algorithm": {"type": "Backprop"}}
    count = train_count(experiment)
    found = [run for each in runs.values() for run in each
             if run.problem is None and {key: run.settings.get(key) for key in same} == same]
    return [run.seconds_per_epoch / (count * relative_cost("bp", classes)) for run in found if run.seconds_per_epoch]


def train_count(experiment: PartExperiment) -> int:
    """Return the number of training images of a part."""
    setup = experiment.setup
    if setup.per_class is not None:
        return setup.per_class * len(experiment.raw.classes)
    return setup.subset or len(experiment.raw.train_labels)


def _measured(experiment: PartExperiment) -> float:
    net, size = experiment.network(0), experiment.setup.batch_size
    rng = np.random.default_rng(0)
    images = rng.standard_normal((size, *net.input_shape)).astype(net.dtype)
    batch = Batch(images, rng.integers(len(experiment.raw.classes), size=size))
    loss, start = SoftmaxCrossEntropy(), time.perf_counter()
    times: list[float] = []
    while len(times) < 1 + _STEPS or time.perf_counter() - start < _SECONDS / 4:
        before = time.perf_counter()
        step = Backprop().gradients(net, loss, batch)
        float(step.loss)
        times.append(time.perf_counter() - before)
        if len(times) > 1 and time.perf_counter() - start > _SECONDS:
            break
    # The first step compiles.
    return statistics.median(times[1:]) / size
