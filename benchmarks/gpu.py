"""Time of whole epochs on a GPU, beside what bounds them and beside PyTorch on the same device in the same run.

    python -m benchmarks.gpu [--networks mnist,cifar] [--batches 32,1024] [--images 10000] [--epochs 5] [--json FILE]

An epoch is what `convnet.train` runs on a device: shuffled batches of a data set that lives there, gradient, update, losses.
Each row shows the median of its seconds and µs per step, and the three floors of a step: operations of the matrix products over
the rate of a large product, bytes that the kernels read and write over the bandwidth of a copy, and launches times the cost of
a launch inside a graph. All three costs are measured in the same run. PyTorch runs the same steps on the same precision, eagerly
and, where it can be, captured as a CUDA graph, on data that lives on the device too.
"""
from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import importlib.util
import itertools
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import convnet
from benchmarks.counting import CountingKernels
from convnet import architectures, kernels
from convnet.devices import DeviceError, usable_cupy
from convnet.files import write_text
from convnet.kernels.cuda.capture import WARM_UP, Recorder, Replay
from convnet.kernels.cuda.epochs import DeviceEpochs
from convnet.kernels.cuda.launch import Launcher
from convnet.losses import SoftmaxCrossEntropy
from convnet.optimizers import SGD
from convnet.passes import Algorithm, Backprop, LossIBP, PredictionIBP

ALGORITHMS: dict[str, Algorithm] = {
    "bp": Backprop(), "loss-ibp": LossIBP(0.01), "loss-ibp exact": LossIBP(0.01, exact=True),
    "prediction-ibp": PredictionIBP(0.01),
}
# Which of PyTorch's steps has the same objective.
PEER = {"loss-ibp exact": "loss-ibp"}
SHAPES = {"mnist": (28, 28, 1), "cifar": (32, 32, 3), "digits": (8, 8, 1)}


# --- what bounds a step -----------------------------------------------------------------------------------------------------


def timed(xp: Any, work: Callable[[], Any], runs: int) -> float:
    """Return the shortest of five means of the seconds that `work` takes on the device."""
    work()
    found = []
    for _ in range(5):
        start, end = xp.cuda.Event(), xp.cuda.Event()
        start.record()
        for _ in range(runs):
            work()
        end.record()
        end.synchronize()
        found.append(xp.cuda.get_elapsed_time(start, end) / 1000 / runs)
    return min(found)


def ceilings(xp: Any, size: int = 4096) -> dict[str, float]:
    """Return the device's rate (operations per second), bandwidth (bytes per second) and cost of a launch in a graph (s)."""
    a = xp.asarray(np.random.default_rng(0).standard_normal((size, size)).astype(np.float32))
    rate = 2 * size**3 / timed(xp, lambda: kernels.gpu().product(a, a), 10)
    large = xp.zeros(16 * size * size, np.float32)
    other = xp.empty_like(large)
    bandwidth = 2 * large.nbytes / timed(xp, lambda: other.__setitem__(slice(None), large), 10)

    launches, one = 200, xp.zeros(1, np.float32)
    recorder = Recorder(xp)

    def increments() -> None:
        for _ in range(launches):
            one.__iadd__(1)

    replay = Replay(recorder, increments)
    for _ in range(WARM_UP + 1):
        replay.run()
    if replay.refusal is not None:
        raise replay.refusal
    recorder.stream.synchronize()
    with recorder.stream:
        launch = timed(xp, replay.run, 10) / launches
    return {"rate": rate, "bandwidth": bandwidth, "launch": launch}


@contextlib.contextmanager
def counting_launches(xp: Any) -> Iterator[dict[str, int]]:
    """Count the kernels of this package that are launched inside the block, and the bytes of their arrays."""
    counts = {"launches": 0, "bytes": 0}
    original = Launcher.kernel

    def kernel(self: Launcher, name: str, dtype: np.dtype) -> Any:
        launch = original(self, name, dtype)

        def counted(grid: Any, block: Any, arguments: tuple[Any, ...]) -> None:
            counts["launches"] += 1
            counts["bytes"] += sum(a.nbytes for a in arguments if isinstance(a, xp.ndarray))
            launch(grid, block, arguments)

        return counted

    Launcher.kernel = kernel  # type: ignore[method-assign]
    try:
        yield counts
    finally:
        Launcher.kernel = original  # type: ignore[method-assign]


def operations(network: str, algorithm: Algorithm, batch_size: int) -> float:
    """Return the floating-point operations of the matrix products of one step, counted on the CPU for a few images."""
    net, few = architectures.build(network, SHAPES[network], 10), 4
    rng = np.random.default_rng(0)
    batch = convnet.Batch(rng.standard_normal((few, *SHAPES[network])), rng.integers(10, size=few))
    with kernels.using(CountingKernels(kernels.cpu())) as counting:
        algorithm.gradients(net, SoftmaxCrossEntropy(), batch)
    return counting.operations * batch_size / few


# --- epochs -----------------------------------------------------------------------------------------------------------------


def epoch_seconds(run: Callable[[], Any], wait: Callable[[], Any], epochs: int) -> list[float]:
    """Return the seconds of `epochs` epochs, after those that compile and record, also the last, smaller batch's step."""
    found = []
    for number in range(epochs + WARM_UP + 1):
        start = time.perf_counter()
        run()
        wait()
        if number > WARM_UP:
            found.append(time.perf_counter() - start)
    return found


def measure(xp: Any, network: str, name: str, batch_size: int, images: int, epochs: int, bounds: dict[str, float]
            ) -> dict[str, Any]:
    """Return a row for one algorithm on one network."""
    algorithm, shape = ALGORITHMS[name], SHAPES[network]
    rng = np.random.default_rng(0)
    x, ids = rng.standard_normal((images, *shape)).astype(np.float32), rng.integers(10, size=images)
    net = architectures.build(network, shape, 10, device="gpu")
    optimizer = SGD(0.01, momentum=0.9, dampening=0.9)
    optimizer.start(net)
    ours = DeviceEpochs(net, algorithm, optimizer, SoftmaxCrossEntropy(), x, np.eye(10)[ids], ids, batch_size)
    seconds = epoch_seconds(lambda: ours.epoch(rng.permutation(images), 0.01), lambda: None, epochs)
    batch = convnet.Batch(xp.asarray(x[:batch_size]), xp.asarray(np.eye(10, dtype=np.float32)[ids[:batch_size]]))
    with counting_launches(xp) as counts:
        algorithm.gradients(net, SoftmaxCrossEntropy(), batch)
    # And what surrounds the gradient: start, record, update, and the running statistics.
    launches = counts["launches"] + 3 + len(net.state)
    steps = math.ceil(images / batch_size)
    step_operations = operations(network, algorithm, batch_size)
    floors = {"operations": step_operations / bounds["rate"], "bytes": counts["bytes"] / bounds["bandwidth"],
              "launches": launches * bounds["launch"]}
    return {"network": network, "batch": batch_size, "algorithm": name, "images": images, "seconds": seconds,
            "median": statistics.median(seconds), "step": statistics.median(seconds) / steps, "launches": launches,
            "bytes": counts["bytes"], "operations": step_operations, "floors": floors,
            "refusals": {size: str(refusal) for size, refusal in ours.refusals.items()}}


@functools.cache
def peers(network: str, objective: str, batch_size: int, images: int, epochs: int) -> dict[str, Any]:
    """Return the median seconds of PyTorch's epoch, eager and as a graph, each in the better of its two layouts."""
    if not importlib.util.find_spec("torch"):
        return {}
    import torch

    if not torch.cuda.is_available():
        return {}
    from benchmarks.torch_gpu import TorchEpochs

    found: dict[str, Any] = {}
    for graph in (False, True):
        times = []
        for layout in (False, True):
            net = architectures.build(network, SHAPES[network], 10)
            try:
                peer = TorchEpochs(net, objective, SHAPES[network], batch_size, images, layout, graph)
            except RuntimeError as error:
                if not graph:
                    raise
                print(f"PyTorch's step for {objective} cannot be captured: {error}")
                continue
            times.append(statistics.median(epoch_seconds(peer.epoch, torch.cuda.synchronize, epochs)))
            del peer
            gc.collect()
            torch.cuda.empty_cache()
        if times:
            found["torch graph" if graph else "torch eager"] = min(times)
    return found


# --- output -----------------------------------------------------------------------------------------------------------------


HEAD = """\
| network | batch | algorithm | epoch, s | step, µs | floors: operations, bytes, launches (µs) | launches | PyTorch eager, s | as a graph, s |
|---|---|---|---|---|---|---|---|---|"""  # noqa: E501


def line(row: dict[str, Any]) -> str:
    """Return a row of the Markdown table."""
    floors = ", ".join(f"{1e6 * row['floors'][name]:.1f}" for name in ("operations", "bytes", "launches"))
    others = " | ".join(f"{row[name]:.4f}" if name in row else "–" for name in ("torch eager", "torch graph"))
    refused = "".join(f" (batch of {size} not recorded: {reason})" for size, reason in row["refusals"].items())
    return (f"| {row['network']} | {row['batch']} | {row['algorithm']}{refused} | {row['median']:.4f} | "
            f"{1e6 * row['step']:.1f} | {floors} | {row['launches']} | {others} |")


def products(measured: dict[str, dict[str, float]]) -> str:
    """Return the times of the ways to compute each product as a Markdown table."""
    names = ("own", "own, large tiles", "cublas")
    lines = [f"| product | {', µs | '.join(names)}, µs |", "|---" * (1 + len(names)) + "|"]
    for problem, ways in sorted(measured.items()):
        lines.append(f"| {problem} | {' | '.join(f'{1e6 * ways[name]:.1f}' if name in ways else '–' for name in names)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="mnist,cifar")
    parser.add_argument("--algorithms", default="bp,loss-ibp,prediction-ibp,loss-ibp exact")
    parser.add_argument("--batches", default="32,1024")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--size", type=int, default=4096, help="rows of the product that gives the rate")
    parser.add_argument("--json")
    options = parser.parse_args(argv)
    try:
        xp = usable_cupy()
    except DeviceError as error:
        parser.error(str(error))
    # Choices between products are measured anew, and the user's own record is left alone.
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        device = xp.cuda.runtime.getDeviceProperties(xp.cuda.Device().id)["name"].decode()
        bounds = ceilings(xp, options.size)
        print(f"{device}, CuPy {xp.__version__}: {bounds['rate'] / 1e12:.1f} TFLOP/s (float32 product), "
              f"{bounds['bandwidth'] / 1e12:.2f} TB/s (copy), {1e6 * bounds['launch']:.2f} µs a launch in a graph")
        print(f"{kernels.gpu().cublas_error or 'cuBLAS is there'}\n\n{HEAD}", flush=True)
        rows: list[dict[str, Any]] = []
        for network, batch, name in itertools.product(
                options.networks.split(","), map(int, options.batches.split(",")), options.algorithms.split(",")):
            row = measure(xp, network, name, batch, options.images, options.epochs, bounds)
            # PyTorch must find the memory free, and be captured undisturbed.
            gc.collect()
            xp.get_default_memory_pool().free_all_blocks()
            rows.append(row | peers(network, PEER.get(name, name), batch, options.images, options.epochs))
            # What has been measured must not be lost with what comes next.
            print(line(rows[-1]), flush=True)
            measured = kernels.gpu().measured_products()
            if options.json:
                found = {"device": device, "bounds": bounds, "rows": rows, "products": measured}
                write_text(options.json, json.dumps(found, indent=1) + "\n")
    if measured:
        print(f"\n{products(measured)}")


if __name__ == "__main__":
    main()
