"""Statistics over seeds, as the papers report them, from scipy."""
from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
# Of two samples of ten there are 184 756.
MOST_RANKINGS = 200_000


@dataclass(frozen=True)
class Summary:
    """A sample in short.

    Attributes
    ----------
    count : int
    mean : float
    deviation, low, high : float or None
        Sample standard deviation, and the ends of the 95 % confidence interval of the mean (Student's t); None for a
        single value.
    """

    count: int
    mean: float
    deviation: float | None = None
    low: float | None = None
    high: float | None = None


def summary(values: Sequence[float]) -> Summary | None:
    """Return a sample in short; None for an empty one."""
    if not len(values):
        return None
    sample = np.asarray(values, float)
    if len(sample) == 1:
        return Summary(1, float(sample[0]))
    mean, deviation = float(sample.mean()), float(sample.std(ddof=1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(sample) - 1)) * deviation / math.sqrt(len(sample))
    return Summary(len(sample), mean, deviation, mean - half, mean + half)


def rank_sum(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the two-sided p-value of the Wilcoxon rank-sum test that both samples come from one distribution.

    Up to ten values each it is exact, also with ties: the share of all rankings whose sum is as extreme, twice that of the
    smaller tail. Beyond, the normal approximation with the correction for ties. None if a sample is empty.
    """
    if not len(first) or not len(second):
        return None
    if len({*first, *second}) == 1:
        return 1.0
    if math.comb(len(first) + len(second), len(first)) > MOST_RANKINGS:
        return float(stats.mannwhitneyu(first, second, alternative="two-sided", method="asymptotic").pvalue)
    ranks = stats.rankdata([*first, *second])
    found, sums = ranks[:len(first)].sum(), np.array(list(itertools.combinations(ranks, len(first)))).sum(axis=1)
    return float(min(1.0, 2 * np.mean(sums <= found), 2 * np.mean(sums >= found)))


def smallest_p(first: int, second: int) -> float:
    """Return the smallest p-value that the exact test can give for samples of these sizes: 2 / C(m + n, m), at most 1."""
    return min(1.0, 2 / math.comb(first + second, first))
