"""Every algorithm in every form through the whole battery."""
import pytest

from convnet import passes
from convnet.passes import SumOfPenalties
from convnet.testing import check_algorithm
from convnet.testing.cases import algorithms

ALGORITHMS = algorithms()
QUICK = ("loss IBP, r = 1, published", "prediction IBP at the output, r = 2, exact")
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ALGORITHMS]


@pytest.mark.parametrize("name", NAMES)
def test_algorithm(name):
    assert check_algorithm(ALGORITHMS[name]).ok


def test_no_algorithm_is_left_out():
    structure = {"Algorithm", "FirstPass", "Penalty", "Run", "Step", "Trace"}
    known = {name for name in passes.__all__ if isinstance(getattr(passes, name), type)} - structure
    assert {type(algorithm).__name__ for algorithm in ALGORITHMS.values()} >= known
    assert any(isinstance(algorithm, SumOfPenalties) for algorithm in ALGORITHMS.values())
