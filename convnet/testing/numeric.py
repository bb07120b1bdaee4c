"""Numbers for the checks: inputs far from kinks, signed directions, numerical derivatives, relative errors."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any

# Steps of the central differences, relative to directions of unit size in each component.
STEPS = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
COMPLEX_STEP = 1e-20
# Smallest distance between any two values of `spaced`, far above the largest step.
GAP = 2e-3


class NotDifferentiableError(ArithmeticError):
    """Differences with smaller and smaller steps do not settle: there is a kink at the point itself."""


def spaced(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return shuffled, evenly spaced values of both signs, no two of them equal and none zero.

    The gap is far above the steps. An input like this has no tie in any pooling window and no value at the kink of a
    rectifier.
    """
    count = int(np.prod(shape))
    gap = max(4 / count, GAP)
    # Off centre by a quarter of the gap, so that zero is left out for even and odd counts.
    values = gap * (np.arange(count) - (count - 1) / 2 + 0.25)
    return rng.permutation(values).reshape(shape)


def signed(rng: np.random.Generator, shape: tuple[int, ...], is_complex: bool = False) -> np.ndarray:
    """Return random numbers of both signs with sizes from 0.5 to 1.5: a direction in which no component vanishes."""
    values = rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)
    return values + 1j * signed(rng, shape) if is_complex else values


def products(a: Array, b: Array) -> Array:
    """Return the addends of the real inner product ``Re(conj(a)·b)``; for real arrays ``a b``."""
    return np.real(np.conj(a) * b)


def derivative(f: Callable[[float], Array]) -> Array:
    """Return ``df/dh`` at ``h = 0`` by five-point central differences.

    The step becomes smaller until there is no kink within it, which is seen by the slopes on both sides being equal, and
    until two estimates in a row agree.

    Raises
    ------
    NotDifferentiableError
        If that does not happen.
    """
    at_0 = f(0.0)
    size = float(np.linalg.norm(at_0))
    before: Array = None
    best, best_change = None, np.inf
    for h in STEPS:
        low, high = (f(-h), f(-2 * h)), (f(h), f(2 * h))
        estimate = (8 * (high[0] - low[0]) - (high[1] - low[1])) / (12 * h)
        left, right = (3 * at_0 - 4 * low[0] + low[1]) / (2 * h), (4 * high[0] - high[1] - 3 * at_0) / (2 * h)
        # Where the derivative is zero, what is left is rounding, which is relative to f itself.
        scale = float(np.linalg.norm(estimate)) + 1e-6 * size or 1.0
        if np.linalg.norm(right - left) > 1e-4 * scale + 1e-14 * size / h:
            before = None
            continue
        if before is not None:
            change = float(np.linalg.norm(estimate - before)) / scale
            if change < best_change:
                best, best_change = before, change
            if change < 1e-8:
                break
        before = estimate
    if not best_change < 1e-3:
        raise NotDifferentiableError(
            f"no derivative: steps down to {STEPS[-1]:g} cross a kink, or the forward pass is not a differentiable "
            "function (another seed tells)"
        )
    return best


def relative(found: Array, expected: Array, scale: float = 0.0) -> float:
    """Return ``‖found - expected‖`` relative to the larger of both norms and `scale`; 0 where all of them are zero.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if np.shape(found) != np.shape(expected):
        raise ValueError(f"the result has the shape {np.shape(found)}; it must be {np.shape(expected)}")
    difference = float(np.linalg.norm(np.subtract(found, expected)))
    size = max(float(np.linalg.norm(found)), float(np.linalg.norm(expected)), scale)
    return difference / size if size else difference


def sums_error(found: Array, expected: Array, floor: float = 0.0) -> float:
    """Return ``|sum found - sum expected|`` relative to the sizes of all addends and `floor`."""
    size = float(np.abs(found).sum()) + float(np.abs(expected).sum()) + floor
    return abs(float(found.sum() - expected.sum())) / size if size else 0.0


def difference(found: Array, expected: Array) -> float:
    """Return 0 if two arrays are the same bit for bit, and otherwise how far they are apart (at least 1e-300)."""
    if np.shape(found) == np.shape(expected) and np.array_equal(found, expected, equal_nan=True):
        return 0.0
    return max(relative(found, expected), 1e-300)
