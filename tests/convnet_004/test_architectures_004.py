"""The networks of paper 004, Tables 1-4: every image size and number of images, and both classification stages."""
import numpy as np
import pytest

from convnet.architectures_004 import NAMES, STAGES, build, loss_of
from convnet.layers import Flatten, MeanPool
from convnet.losses import ScaleInvariantCost, SoftmaxCrossEntropy

# (output images, kernel size, output image size) of each stage.
TABLES = {
    "complex-larger": ((32, 32), [(16, 3, 15), (128, 2, 7), (1024, 2, 3)]),
    "complex-smaller": ((32, 32), [(16, 3, 15), (64, 2, 7), (256, 2, 3)]),
    "complex-128-larger": ((128, 128), [(16, 5, 62), (64, 3, 30), (256, 3, 14), (1024, 3, 6)]),
    "complex-128-smaller": ((128, 128), [(16, 5, 62), (64, 3, 30), (256, 3, 14), (256, 3, 6)]),
}


def test_all_tables_have_names():
    assert NAMES.keys() == TABLES.keys()


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("channels", [1, 3])
def test_sizes_are_those_of_the_tables(name, channels):
    image, table = TABLES[name]
    net = build(name, (*image, channels), 10, dimension=12)
    pooled = [layer.output_shape for layer in net.paths if isinstance(layer, MeanPool)]
    assert pooled == [(side, side, maps) for maps, _, side in table]
    complex_shapes = [array.shape for array in net.parameters.values() if np.iscomplexobj(array)]
    inputs = [channels, *(maps for maps, _, _ in table)]
    assert complex_shapes == [(size, size, c, maps) for c, (maps, size, _) in zip(inputs, table, strict=False)]
    features = next(layer.output_shape[0] for layer in net.paths if isinstance(layer, Flatten))
    assert net.parameters["1.weight"].shape == (features + 1, 12)
    assert features == table[-1][0] * table[-1][2] ** 2


def test_the_logistic_stage_has_a_row_per_class_and_no_bias():
    net = build("complex-smaller", (32, 32, 1), 7, stage="logistic")
    assert net.parameters["1.weight"].shape == (2305, 7)
    assert "1.bias" not in net.parameters


def test_the_convolutions_ignore_the_image_s_mean_and_its_scale_passes_through():
    """f(a x + b) = a f(x) for a > 0: what makes the scores scale-invariant end to end."""
    net = build("complex-smaller", (32, 32, 3), 5, dtype="float64")
    x = np.random.default_rng(0).random((2, 32, 32, 3))
    np.testing.assert_allclose(net.forward(40 * x + 3), net.forward(x), rtol=0, atol=1e-11)


def test_each_stage_has_its_loss():
    assert isinstance(loss_of("scale-invariant"), ScaleInvariantCost)
    assert isinstance(loss_of("logistic"), SoftmaxCrossEntropy)
    assert STAGES == ("scale-invariant", "logistic")


def test_what_is_said_about_bad_names():
    with pytest.raises(ValueError, match="unknown network 'complex-large'; did you mean 'complex-larger'"):
        build("complex-large", (32, 32, 1), 10)
    with pytest.raises(ValueError, match="stage is 'svm'"):
        build("complex-larger", (32, 32, 1), 10, stage="svm")
    with pytest.raises(ValueError, match="dimension is 20; multinomial logistic regression has 10"):
        build("complex-smaller", (32, 32, 1), 10, stage="logistic", dimension=20)
    with pytest.raises(ValueError, match="unknown stage 'svm'"):
        loss_of("svm")
    with pytest.raises(ValueError, match="larger than the padded image"):
        build("complex-128-smaller", (32, 32, 1), 10)
