"""Transposed convolution: the adjoint of `Conv`, and PyTorch's layer of that name."""
import numpy as np
import pytest
from references_004 import Case, attached, check_by_differences, check_by_torch, inner, signed

import convnet
from convnet.layers import Conv, Deconv, Flatten, Record
from convnet.passes import first_pass, second_pass

OPTIONS = [
    {"size": 3}, {"size": (3, 2), "stride": (2, 3)}, {"size": (4, 3), "stride": 2, "padding": (1, 0)},
    {"size": 2, "stride": 3, "bias": False},
]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
def test_is_the_adjoint_of_the_convolution_with_the_same_options(rng, options):
    deconv = attached(Deconv(3, **{**options, "bias": False}), (4, 5, 2))
    conv = attached(Conv(2, **{**options, "bias": False}), deconv.output_shape)
    assert conv.output_shape == (4, 5, 2)
    conv.parameters["weight"][...] = deconv.parameters["weight"]
    x, y = signed(rng, (2, 4, 5, 2)), signed(rng, (2, *deconv.output_shape))
    record = Record(False, True)
    left, right = inner(deconv.forward(x, record), y), inner(x, conv.forward(y, record))
    assert abs(left - right) < 1e-13 * np.abs(y).sum()


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
def test_by_differences(rng, options):
    check_by_differences(Case(attached(Deconv(3, **options), (4, 5, 2)), signed(rng, (2, 4, 5, 2))))


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
def test_by_double_backward_of_torch(rng, options):
    torch = pytest.importorskip("torch")

    def forward(x, weight, bias=None):
        stride, padding = options.get("stride", 1), options.get("padding", 0)
        filters = weight.permute(3, 2, 0, 1)
        y = torch.nn.functional.conv_transpose2d(x.permute(0, 3, 1, 2), filters, bias, stride, padding)
        return y.permute(0, 2, 3, 1)

    layer = attached(Deconv(3, **options), (4, 5, 2))
    if layer.bias:
        layer.parameters["bias"][...] = signed(rng, 3)
    check_by_torch(Case(layer, signed(rng, (2, 4, 5, 2))), forward)


def test_undoes_the_shape_of_a_strided_convolution(rng):
    layers = [Conv(4, 3, stride=2, padding=1), Deconv(1, 3, stride=2, padding=1), Flatten()]
    net = convnet.Network(layers, (7, 9, 1), dtype="float64")
    assert net.root.layers[1].output_shape == (7, 9, 1)
    first = first_pass(net.root, signed(rng, (2, 7, 9, 1)))
    assert second_pass(first, signed(rng, (2, 63))).output.shape == (2, 7, 9, 1)


def test_what_is_said_about_bad_options():
    with pytest.raises(ValueError, match="padding is -1"):
        Deconv(3, 3, padding=-1)
    with pytest.raises(ValueError, match="leaves 0 rows"):
        convnet.Network([Deconv(1, 2, padding=1), Flatten()], (1, 4, 1))
    with pytest.raises(ValueError, match="needs images"):
        convnet.Network([Deconv(1, 2), Flatten()], (4,))
