"""Peak memory of a training step: it grows with the activations, not with kernel area times activations.

    python -m benchmarks.memory

For a network of three convolutions that keep the image's size, so that the activations are the same for every kernel size: the
most memory that a Loss IBP step (published and exact) held at once beyond parameters and batch, as allocated through NumPy, in
multiples of the activations' size. Beside it what stored columns would take for full im2col.
"""
from __future__ import annotations

import tracemalloc

import numpy as np

import convnet
from convnet import kernels
from convnet.layers import Conv, Dense, Flatten, MaxPool, ReLU
from convnet.passes import Backprop, LossIBP


def peak(size: int, algorithm: object) -> tuple[float, float, float]:
    """Return peak memory, activations and columns of full im2col, in MiB."""
    net = convnet.Network(
        [Conv(32, size, padding=size // 2), ReLU(), Conv(32, size, padding=size // 2), ReLU(),
         Conv(32, size, padding=size // 2), ReLU(), MaxPool(4, 4), Flatten(), Dense(10)], (32, 32, 16))
    rng = np.random.default_rng(0)
    batch = convnet.Batch(rng.standard_normal((64, 32, 32, 16)).astype(np.float32), rng.integers(0, 10, 64))
    loss = convnet.losses.SoftmaxCrossEntropy()
    algorithm.gradients(net, loss, batch)  # type: ignore[attr-defined]
    with kernels.using(type(kernels.cpu())()):  # kernels whose pool of memory is empty
        kernels.cpu().conv(np.zeros((1, 3, 3, 1), np.float32), np.zeros((1, 1, 1, 1), np.float32), None, (1, 1), (0, 0))
        tracemalloc.start()
        algorithm.gradients(net, loss, batch)  # type: ignore[attr-defined]
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    pixels = 64 * 32 * 32 * 4
    activations = pixels * (16 + 6 * 32)
    columns = pixels * size * size * (16 + 32 + 32)
    return most / 2**20, activations / 2**20, columns / 2**20


def main() -> None:
    """Measure and print."""
    print(f"kernels: {kernels.cpu().name}\n")
    print("| kernel | algorithm | peak MiB | activations MiB | peak / activations | stored columns would add MiB |")
    print("|---|---|---|---|---|---|")
    for size in (1, 3, 5, 7, 9):
        for algorithm in (Backprop(), LossIBP(0.1), LossIBP(0.1, exact=True)):
            most, activations, columns = peak(size, algorithm)
            cells = f"{most:.0f} | {activations:.0f} | {most / activations:.2f} | {columns:.0f}"
            print(f"| {size}×{size} | {algorithm!r} | {cells} |")


if __name__ == "__main__":
    main()
