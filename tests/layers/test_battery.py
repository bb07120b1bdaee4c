"""Every layer with many options through the whole battery, on each set of kernels."""
import pytest

from convnet import layers
from convnet.testing import check_layer
from convnet.testing.cases import LAYERS


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, cpu_kernels):
    case = LAYERS[name]
    report = check_layer(case.make, case.input_shape, complex_input=case.complex_input)
    assert len(report.checks) > 60


@pytest.mark.parametrize("batch", [2, 7])
@pytest.mark.parametrize("name", ["conv, pairs", "max pooling, overlapping", "batch normalisation of images",
                                  "network, smooth"])
def test_other_batches_and_seeds(name, batch, cpu_kernels):
    case = LAYERS[name]
    check_layer(case.make, case.input_shape, batch=batch, seed=batch)


def test_no_layer_is_left_out():
    structure = {"Builder", "Container", "Layer", "Record"}
    checked = set()
    for case in LAYERS.values():
        checked |= types_in(case.make())
    assert checked >= set(layers.__all__) - structure


def types_in(layer):
    """Return the names of the types of a layer and of all layers inside it."""
    found = {type(layer).__name__}
    for value in vars(layer).values():
        for inner in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(inner, layers.Layer):
                found |= types_in(inner)
    return found
