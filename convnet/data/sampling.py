"""Which samples to use: stratified draws that depend on labels, number and seed alone."""
from __future__ import annotations

import numpy as np


def stratified_indices(labels: np.ndarray, *, size: int | None = None, per_class: int | None = None, seed: int = 0,
                       classes: int | None = None) -> np.ndarray:
    """Return sorted indices of a random sample that keeps the class proportions.

    Parameters
    ----------
    labels : int array (N,)
        Class ids.
    size : int, optional
        Number of samples in all; class c gets the share ``size * count_c / N``, rounded by largest remainder (the
        smaller class id wins a tie).
    per_class : int, optional
        Number of samples of each class. Exactly one of `size` and `per_class` is needed.
    seed : int
        Each class is shuffled by a generator of its own, seeded by (seed, class), and its first samples are taken:
        draws of different sizes are nested within each class.
    classes : int, optional
        Number of classes, by default ``max(labels) + 1``.

    Returns
    -------
    int array (size,) or (per_class * classes,)

    Raises
    ------
    ValueError
        If not exactly one number is given, or it is not positive, or more samples are asked for than there are.
    """
    if (size is None) == (per_class is None):
        raise ValueError("give either size (training images in all) or per_class (of each class), not both")
    classes = int(labels.max()) + 1 if classes is None else classes
    counts = np.bincount(labels, minlength=classes)
    if size is not None:
        wanted = _shares(counts, _positive("size", size))
    else:
        wanted = np.full(classes, _positive("per_class", per_class))
        if (counts < wanted).any():
            poorest = int(np.argmin(counts))
            raise ValueError(f"per_class is {per_class}, but class {poorest} has only {counts[poorest]} images; give "
                             "at most that number")
    chosen = []
    for label in range(classes):
        members = np.flatnonzero(labels == label)
        chosen.append(np.random.default_rng((seed, label)).permutation(members)[:wanted[label]])
    return np.sort(np.concatenate(chosen))


def _positive(name: str, value) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be a positive whole number, not {value!r}")
    return int(value)


def _shares(counts: np.ndarray, size: int) -> np.ndarray:
    """Split `size` in proportion to `counts` by largest remainder; never more than counts."""
    total = int(counts.sum())
    if size > total:
        raise ValueError(f"size is {size}, but there are only {total} images; give at most that number")
    # Whole-number arithmetic: a remainder computed in floating point could break a tie differently elsewhere.
    floors, remainders = np.divmod(counts.astype(np.int64) * size, total)
    by_remainder = np.argsort(-remainders, kind="stable")
    floors[by_remainder[:size - int(floors.sum())]] += 1
    return floors
