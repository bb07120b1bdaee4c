"""Convolution kernels against the machine's ceiling for matrix products, in one run.

    python -m benchmarks.kernels [--rounds 40]

The ceiling is NumPy's product in all threads. Then what the package's own product reaches in one thread on factors that its
caches hold, and what it takes to hand a kernel to the other threads, awake or asleep. For the convolutions of the papers'
networks, at batch 32: GFLOP/s of forward, backward (adjoint) and weight gradient, and their share of the ceiling. At last what
a process costs to start: importing the package, and compiling the kernels the first time.
"""
from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from benchmarks.timing import interleaved, machine, product_ceiling
from convnet import kernels

# Rows (and columns) of the image, channels, filters, size, padding.
SHAPES = [(12, 32, 64, 5, 2), (13, 32, 32, 5, 2), (6, 32, 64, 5, 2), (32, 3, 32, 5, 0), (28, 1, 32, 4, 0)]


def tile_rate(rounds: int = 200) -> float:
    """Return the GFLOP/s of `tile.product` in one thread: 96 rows, 64 columns, sums of 400 terms, as in a 5×5 convolution."""
    from convnet.kernels import tile

    rows, columns, terms = 96, 64, 400
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(count).astype(np.float32) for count in (rows * terms, terms * columns))
    y, bias, offsets = np.empty(rows * columns, np.float32), np.zeros(columns, np.float32), np.arange(rows) * terms

    def many() -> None:
        for _ in range(20):
            tile.product(0, rows, offsets, x, 0, 1, 0, 1, 0, terms, 1, w, 0, columns, bias, False, y, 0, columns, columns)

    many()
    np.testing.assert_allclose(y.reshape(rows, columns), x.reshape(rows, terms) @ w.reshape(terms, columns), rtol=1e-3, atol=1e-3)
    return 20 * 2 * rows * columns * terms / min(_seconds(many) for _ in range(rounds)) / 1e9


def hand_over(threads: int, rounds: int = 300) -> tuple[float, float]:
    """Return the median seconds of a shared kernel without work, called in a row, and after its threads went to sleep."""
    from convnet.kernels.sharing import shared
    from convnet.kernels.threads import Workers

    workers, done = Workers(threads), np.zeros(threads, np.int64)

    def call() -> None:
        workers.run(empty, threads, (done,), threads, np.dtype(np.float32))

    empty = shared(_nothing)
    call()
    awake = np.median([_seconds(call) for _ in range(rounds)])
    asleep = []
    for _ in range(rounds // 10):
        time.sleep(0.01)
        asleep.append(_seconds(call))
    return float(awake), float(np.median(asleep))


def _nothing(part, low, high, room, done):
    done[part] += 1


def _seconds(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    k, rng = kernels.cpu(), np.random.default_rng(0)
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    ceiling = product_ceiling()
    print(f"\nceiling: {ceiling:.0f} GFLOP/s")
    if k.name == "fast":
        print(f"a tile's product in one thread: {tile_rate():.0f} GFLOP/s")
        awake, asleep = hand_over(k.threads)
        print(f"a kernel without work on {k.threads} threads: {1e6 * awake:.1f} µs, {1e6 * asleep:.0f} µs if they were asleep")
    print()
    print("| convolution, batch 32 | forward | backward | weight gradient |\n|---|---|---|---|")
    for side, channels, filters, size, padding in SHAPES:
        x = rng.standard_normal((32, side, side, channels)).astype(np.float32)
        w = rng.standard_normal((size, size, channels, filters)).astype(np.float32)
        one, pad = (1, 1), (padding, padding)
        b = k.conv(x, w, None, one, pad)
        times = interleaved({
            "forward": lambda: k.conv(x, w, None, one, pad),  # noqa: B023
            "backward": lambda: k.conv_adjoint(b, w, one, pad, (side, side)),  # noqa: B023
            "weight gradient": lambda: k.conv_weight_gradient(x, b, (size, size), one, pad),  # noqa: B023
        }, rounds)
        rates = [2 * b.size * size * size * channels / t["median"] / 1e9 for t in times.values()]
        cells = " | ".join(f"{rate:.0f} GFLOP/s, {rate / ceiling:.0%}" for rate in rates)
        print(f"| {side}×{side}×{channels}, {filters} filters of {size}×{size}, padding {padding} | {cells} |")

    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import convnet"], check=True)
    seconds = time.perf_counter() - start
    print(f"\na process that imports convnet and ends: {seconds:.2f} s")
    if hasattr(k, "compile_seconds"):
        spent = ", ".join(f"{dtype} {value:.1f} s" for dtype, value in k.compile_seconds.items())
        print(f"loading the compiled kernels (from the cache, or compiling them the first time): {spent}")


if __name__ == "__main__":
    main()
