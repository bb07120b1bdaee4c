"""Convolution kernels against the machine's ceiling for matrix products, in one run.

    python -m benchmarks.kernels [--rounds 40]

For the convolutions of the papers' networks, at batch 32: GFLOP/s of forward, backward (adjoint) and weight gradient, and
their share of the ceiling. Then what a step costs to start: importing the package, and compiling the kernels the first time.
"""
from __future__ import annotations

import argparse
import subprocess
import sys
import time

import numpy as np

from benchmarks.timing import interleaved, machine, product_ceiling
from convnet import kernels

# Rows (and columns) of the image, channels, filters, size, padding.
SHAPES = [(12, 32, 64, 5, 2), (13, 32, 32, 5, 2), (6, 32, 64, 5, 2), (32, 3, 32, 5, 0), (28, 1, 32, 4, 0)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    k, rng = kernels.cpu(), np.random.default_rng(0)
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    ceiling = product_ceiling()
    print(f"\nceiling: {ceiling:.0f} GFLOP/s\n")
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
