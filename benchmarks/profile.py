"""Where the time of a training step goes: a clock around every kernel.

    python -m benchmarks.profile [--network mnist] [--batch 32] [--algorithm bp] [--rounds 30]

Prints the median ms of a step (gradient and SGD update), and of each kernel and shape of its largest argument. "Between" is
what is left: Python and NumPy between the kernels, and the clocks.
"""
from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from typing import Any

import numpy as np

from benchmarks.step import SHAPES
from benchmarks.timing import machine
from convnet import architectures, kernels
from convnet.algorithms import by_spec, needs_tangents
from convnet.batch import Batch
from convnet.data.tangents import TRANSFORMATIONS
from convnet.losses import SoftmaxCrossEntropy
from convnet.optimizers import SGD

# A kernel with a smaller share of the step is not shown by itself.
_SMALL = 0.005


class TimedKernels:
    """Kernels with a clock around each call.

    Attributes
    ----------
    seconds : dict of (str, tuple of int) to float
        By the kernel and the shape of its largest argument, since `start`.
    """

    def __init__(self, kernels: Any):
        self._kernels = kernels
        self.start()

    def start(self) -> None:
        """Set all clocks to zero."""
        self.seconds: dict[tuple[str, tuple[int, ...]], float] = defaultdict(float)
        self.calls: dict[tuple[str, tuple[int, ...]], int] = defaultdict(int)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._kernels, name)
        if not callable(method):
            return method

        def timed(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = method(*args, **options)
            seconds = time.perf_counter() - start
            arrays = [a for a in args if isinstance(a, np.ndarray)]
            key = name, max((a.shape for a in arrays), key=lambda shape: np.prod(shape, dtype=int), default=())
            self.seconds[key] += seconds
            self.calls[key] += 1
            return result

        return timed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="mnist", choices=sorted(SHAPES))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--algorithm", default="bp", metavar="SPEC")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()

    rng, shape = np.random.default_rng(0), SHAPES[options.network]
    net = architectures.build(options.network, shape, 10, seed=0)
    algorithm, optimizer, loss = by_spec(options.algorithm), SGD(0.01, momentum=0.9), SoftmaxCrossEntropy()
    images = rng.standard_normal((options.batch, *shape)).astype(net.dtype)
    tangents = None
    if needs_tangents(algorithm):
        tangents = rng.standard_normal((options.batch, len(TRANSFORMATIONS), *shape)).astype(net.dtype)
    batch = Batch(images, rng.integers(10, size=options.batch), tangents)
    optimizer.start(net)

    whole: list[float] = []
    rounds: list[dict[Any, float]] = []
    with kernels.using(TimedKernels(kernels.cpu())) as timed:
        for _ in range(options.rounds + 3):
            timed.start()
            start = time.perf_counter()
            step = algorithm.gradients(net, loss, batch)
            optimizer.update(net, step, 0.01)
            whole.append(time.perf_counter() - start)
            rounds.append(timed.seconds)
        calls = timed.calls
    whole, rounds = whole[3:], rounds[3:]
    total = statistics.median(whole)
    spent = {key: statistics.median(each.get(key, 0.0) for each in rounds) for key in calls}
    between = statistics.median(all_of - sum(each.values()) for all_of, each in zip(whole, rounds, strict=True))

    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    print(f"\n{options.network}, batch {options.batch}, {options.algorithm}: {1e3 * total:.2f} ms a step\n")
    print("| kernel | largest argument | calls | ms | share |\n|---|---|---|---|---|")
    small = [key for key, seconds in spent.items() if seconds < _SMALL * total]
    for (name, size), seconds in sorted(spent.items(), key=lambda item: -item[1]):
        if (name, size) in small:
            continue
        print(f"| {name} | {'×'.join(map(str, size))} | {calls[name, size]} | {1e3 * seconds:.3f} | {seconds / total:.1%} |")
    rest = sum(spent[key] for key in small)
    print(f"| {len(small)} others | | {sum(calls[key] for key in small)} | {1e3 * rest:.3f} | {rest / total:.1%} |")
    print(f"| between | | | {1e3 * between:.3f} | {between / total:.1%} |")


if __name__ == "__main__":
    main()
