#!/usr/bin/env python3
"""Measure how long a training step waits for its augmented batch, with and without background threads.

    python data_scripts/measure_loading.py [--threads 0 1 2] [--steps 200] [--batch-size 32]

Trains the papers' CIFAR network on random images of CIFAR's size, with the augmentation of paper 000, section 7.4. The
last column is the time from asking for a batch to having it, as a share of the whole.
"""
import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from convnet.architectures import build
from convnet.data import Augmentation
from convnet.data.loader import BatchLoader
from convnet.losses import SoftmaxCrossEntropy
from convnet.optimizers import SGD
from convnet.passes import Backprop

AUGMENTATION = Augmentation(crop=28, shift=2, scale=(0.7, 1.4), reflect=True)


def measure(threads, steps, batch_size):
    """Return seconds per step and the share of them spent waiting."""
    generator = np.random.default_rng(0)
    images = generator.standard_normal((steps * batch_size, 32, 32, 3), dtype=np.float32)
    labels = generator.integers(0, 10, len(images))
    net = build("cifar", (28, 28, 3), 10, seed=0)
    algorithm, loss, optimizer = Backprop(), SoftmaxCrossEntropy(), SGD(0.01)
    optimizer.start(net)
    waited = 0.0
    loader = BatchLoader(images, labels, batch_size, augmentation=AUGMENTATION, threads=threads, ahead=4)
    for epoch in range(2):                  # the first one compiles and warms up
        waited, start = 0.0, time.perf_counter()
        with loader.epoch(epoch) as batches:
            while True:
                asked = time.perf_counter()
                batch = next(batches, None)
                waited += time.perf_counter() - asked
                if batch is None:
                    break
                optimizer.update(net, algorithm.gradients(net, loss, batch), 0.01)
        seconds = time.perf_counter() - start
    return seconds / steps, waited / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    print("threads   ms per step   waiting")
    for threads in arguments.threads:
        step, share = measure(threads, arguments.steps, arguments.batch_size)
        print(f"{threads:7}   {1000 * step:11.2f}   {100 * share:6.1f}%")


if __name__ == "__main__":
    main()
