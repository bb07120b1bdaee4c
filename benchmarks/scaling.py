"""How time grows with the work: per epoch when the data set doubles, per step when the batch doubles.

    python -m benchmarks.scaling [--rounds 5]

The MNIST network on random images. An epoch over twice the images, and a step on twice the batch, should take twice the time.
"""
from __future__ import annotations

import argparse

import numpy as np

import convnet
from benchmarks.timing import interleaved, machine
from convnet import architectures
from convnet.optimizers import SGD
from convnet.passes import LossIBP


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(", ".join(f"{key} {value}" for key, value in machine().items()) + "\n")
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((4000, 28, 28, 1)).astype(np.float32), rng.integers(0, 10, 4000)
    net, loss = architectures.build("mnist", (28, 28, 1), 10), convnet.losses.SoftmaxCrossEntropy()

    def epoch(count: int) -> None:
        convnet.train(net, (images[:count], labels[:count]), LossIBP(0.01), SGD(1e-4), epochs=1, progress=False)

    def step(size: int) -> None:
        LossIBP(0.01).gradients(net, loss, convnet.Batch(images[:size], labels[:size]))

    for title, function, sizes in (("images in an epoch, batch 32", epoch, (1000, 2000, 4000)),
                                   ("images in a batch, one step", step, (64, 128, 256, 512))):
        turns = rounds if function is epoch else 6 * rounds
        times = interleaved({str(size): lambda f=function, n=size: f(n) for size in sizes}, turns, 1)
        print(f"| {title} | seconds | per image, relative |\n|---|---|---|")
        first = times[str(sizes[0])]["median"] / sizes[0]
        for size in sizes:
            seconds = times[str(size)]["median"]
            print(f"| {size} | {seconds:.4f} | {seconds / size / first:.2f} |")
        print()


if __name__ == "__main__":
    main()
