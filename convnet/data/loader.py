"""Batches prepared ahead of the training step, in background threads.

What a batch holds depends on the seed, the epoch and its number alone, never on the threads that made it.
"""
from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from convnet.batch import Batch
from convnet.data.augment import Augmentation

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(make: Callable[[Item], Result], items: Iterable[Item], *, threads: int = 1,
             ahead: int = 2) -> Generator[Result, None, None]:
    """Yield ``make(item)`` for each item, in order, made ahead of time in background threads.

    Parameters
    ----------
    make : callable
        Called in the threads, for several items at once if there are several; its result must depend on the item alone.
    items : iterable
        Asked for by the caller's thread, at most `ahead` items in advance.
    threads : int
        0 to make each result when it is asked for.
    ahead : int
        Results that are made and kept before they are asked for, at least 1.

    Yields
    ------
    The results. What `make` raises for an item is raised in its place, and nothing is yielded after it.

    Raises
    ------
    ValueError
        If a number is too small.

    Notes
    -----
    The threads end with the iterator: when it is exhausted, raises, or is closed (``with contextlib.closing(...)``, or
    by itself when the loop over it is left and nothing else refers to it). Ctrl-C reaches the caller while it waits.
    """
    if threads < 0 or ahead < 1:
        raise ValueError(f"threads and ahead are {threads!r} and {ahead!r}; they must be at least 0 and 1")
    return _prefetch(make, iter(items), threads, ahead) if threads else (make(item) for item in items)


def _prefetch(make: Callable[[Item], Result], items: Iterator[Item], threads: int,
              ahead: int) -> Generator[Result, None, None]:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="convnet-batches")
    waiting: deque[Future[Result]] = deque()
    try:
        waiting.extend(pool.submit(make, item) for item in islice(items, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(make, item) for item in islice(items, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class BatchLoader:
    """Shuffled, augmented batches of a training set, epoch by epoch.

    Parameters
    ----------
    images : array (N, H, W, C) or `convnet.data.images.ImageView`
        Prepared training images; may be memory-mapped.
    labels : array (N,) or (N, K)
    batch_size : int
        The last batch of an epoch may be smaller.
    seed : int
        Of the order (with the epoch) and of the augmentation (with epoch and number of the batch).
    augmentation : Augmentation, optional
    tangents : array (N, M, H, W, C), optional
        Tangent vectors of the images as they are; not together with an augmentation.
    threads, ahead : int
        As for `prefetch`.

    Raises
    ------
    ValueError
        If the lengths differ, or a number is too small.

    Examples
    --------
    >>> from convnet.data import load
    >>> digits = load("digits").prepared()
    >>> loader = BatchLoader(digits.train_images, digits.train_labels, 100, seed=1)
    >>> with loader.epoch(0) as batches:
    ...     print(sum(len(batch) for batch in batches))
    1437
    """

    def __init__(self, images: Any, labels: np.ndarray, batch_size: int, seed: int = 0,
                 augmentation: Augmentation | None = None, tangents: np.ndarray | None = None, threads: int = 1,
                 ahead: int = 2):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}; it must be at least 1")
        for name, array in (("labels", labels), ("tangents", tangents)):
            if array is not None and len(array) != len(images):
                raise ValueError(f"there are {len(images)} images but {len(array)} {name}; give one entry per image")
        if tangents is not None and augmentation is not None:
            raise ValueError("tangents belong to the images as they are: leave tangents or augmentation out")
        self.images, self.labels, self.tangents = images, labels, tangents
        self.batch_size, self.seed, self.augmentation = batch_size, seed, augmentation
        self.threads, self.ahead = threads, ahead

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return math.ceil(len(self.images) / self.batch_size)

    def epoch(self, epoch: int) -> closing[Generator[Batch, None, None]]:
        """Return the batches of an epoch, as a context manager that ends their threads."""
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.images))

        def make(number: int) -> Batch:
            # Within a batch the order does not matter, and sorted rows are read from disk in one direction.
            rows = np.sort(order[number * self.batch_size:(number + 1) * self.batch_size])
            images = self.images[rows]
            if self.augmentation is not None:
                images = self.augmentation.apply(images, (self.seed, epoch, number))
            return Batch(images, self.labels[rows], None if self.tangents is None else self.tangents[rows])

        return closing(prefetch(make, range(len(self)), threads=self.threads, ahead=self.ahead))
