"""Statistics against values worked out by hand and against their definitions."""
import itertools

import numpy as np
import pytest
from scipy import stats

from convnet.reproduce.statistics import rank_sum, smallest_p, summary


def test_mean_deviation_and_interval():
    found = summary([1.0, 2.0, 4.0])
    assert found.mean == pytest.approx(7 / 3, rel=1e-14)
    assert found.deviation == pytest.approx(np.sqrt(7 / 3), rel=1e-14)
    # The 97.5 % point of Student's t with two degrees of freedom is 4.30265.
    half = 4.302652729911275 * np.sqrt(7 / 9)
    assert (found.low, found.high) == (pytest.approx(7 / 3 - half, rel=1e-9), pytest.approx(7 / 3 + half, rel=1e-9))


def test_few_values():
    assert summary([]) is None
    single = summary([3.0])
    assert (single.count, single.mean, single.deviation, single.low) == (1, 3.0, None, None)


def test_rank_sum_equals_the_count_over_all_rankings():
    first, second = [0.1, 0.4, 0.5, 0.7], [0.2, 0.8, 0.9, 1.1, 1.3]
    ranks = stats.rankdata(first + second)
    own, middle = ranks[:4].sum(), 4 * 10 / 2
    sums = np.array([sum(chosen) for chosen in itertools.combinations(range(1, 10), 4)])
    assert rank_sum(first, second) == pytest.approx(np.mean(abs(sums - middle) >= abs(own - middle)), rel=1e-12)
    assert rank_sum(second, first) == pytest.approx(rank_sum(first, second), rel=1e-12)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_samples_that_do_not_overlap_reach_the_smallest_p(size):
    low, high = np.arange(size) / 10, 5 + np.arange(size) / 10
    assert rank_sum(low, high) == pytest.approx(smallest_p(size, size), rel=1e-12)


@pytest.mark.parametrize(("first", "second"), [([1, 1, 1], [2, 2, 2]), ([1, 2, 2], [2, 3, 3]), ([1, 2, 4, 4], [2, 4, 5])])
def test_ties_are_counted_over_all_rankings_too(first, second):
    ranks = stats.rankdata([*first, *second])
    exact = stats.permutation_test((ranks[:len(first)], ranks[len(first):]), lambda a, b: a.sum(), n_resamples=10_000)
    assert rank_sum(first, second) == pytest.approx(exact.pvalue, rel=1e-12)
    assert rank_sum(first, second) >= smallest_p(len(first), len(second))


def test_many_values_are_compared_by_the_normal_approximation():
    first, second = np.arange(20.0), np.arange(20.0) + 6.5
    expected = stats.mannwhitneyu(first, second, alternative="two-sided", method="asymptotic").pvalue
    assert rank_sum(first, second) == pytest.approx(expected, rel=1e-12)


def test_equal_and_empty_samples():
    assert rank_sum([1.0, 1.0], [1.0]) == 1.0
    assert rank_sum([], [1.0]) is None
    assert smallest_p(1, 1) == 1.0
    assert smallest_p(3, 3) == pytest.approx(0.1, rel=1e-15)
