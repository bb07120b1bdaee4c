"""All layers, passes and algorithms on a stand-in for CuPy, which refuses NumPy's functions, against the CPU."""
import pytest

from tests.gpu.comparisons import ALGORITHMS, LAYERS, compare_algorithm, compare_layer
from tests.gpu.device_tests import *  # noqa: F403

pytestmark = pytest.mark.usefixtures("cupy")


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_layers(name, training):
    compare_layer(LAYERS[name], "float64", training)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_algorithms(name, dtype):
    compare_algorithm(ALGORITHMS[name], dtype)
