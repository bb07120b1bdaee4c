"""Pixel statistics and branches side by side."""
import numpy as np
import pytest
from references_004 import Case, attached, check_by_differences, check_by_torch, signed

import convnet
from convnet.layers import (
    Concatenate,
    Dense,
    Flatten,
    PixelDeviation,
    Record,
    ReLU,
    Sequential,
    SubtractImageMean,
    Tanh,
)
from convnet.losses import SoftmaxCrossEntropy
from convnet.passes import Backprop, LossIBP, first_pass, second_pass, third_pass

SHAPE = (3, 4, 2)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_values_are_those_of_numpy(rng):
    x = signed(rng, (5, *SHAPE))
    record = Record(False, True)
    deviation = attached(PixelDeviation(), SHAPE).forward(x, record)
    np.testing.assert_allclose(deviation, x.reshape(5, -1).std(axis=1)[:, None], rtol=1e-14)
    centred = attached(SubtractImageMean(), SHAPE).forward(x, record)
    np.testing.assert_allclose(centred, x - x.reshape(5, -1).mean(axis=1)[:, None, None, None], rtol=0, atol=1e-15)


@pytest.mark.parametrize("make", [PixelDeviation, SubtractImageMean])
def test_by_differences(rng, make):
    check_by_differences(Case(attached(make(), SHAPE), signed(rng, (3, *SHAPE))))


def test_by_double_backward(rng):
    pytest.importorskip("torch")
    case = Case(attached(PixelDeviation(), SHAPE), signed(rng, (3, *SHAPE)))
    check_by_torch(case, lambda x: x.flatten(1).std(dim=1, unbiased=False)[:, None])
    case = Case(attached(SubtractImageMean(), SHAPE), signed(rng, (3, *SHAPE)))
    check_by_torch(case, lambda x: x - x.mean(dim=(1, 2, 3), keepdim=True))


@pytest.mark.parametrize("value", [0.0, 0.1, -255.0])
def test_derivatives_of_the_deviation_of_a_constant_image_are_zero(rng, value):
    layer, x, record = attached(PixelDeviation(), SHAPE), np.full((2, *SHAPE), value), Record(False, True)
    x[1] = signed(rng, SHAPE)
    y, b, t = layer.forward(x, record), np.ones((2, 1)), signed(rng, x.shape)
    assert abs(y[0, 0]) <= 1e-15 * abs(value)
    for result in (layer.backward(b, record), layer.third_pass(t, record), layer.curvature(t, b, record)):
        assert (result[0] == 0).all()
        assert np.isfinite(result[1]).all() and (result[1] != 0).any()


def branches():
    centred = Sequential([SubtractImageMean(), Flatten(), Dense(2)])
    return Concatenate([Sequential([Flatten(), Dense(3), Tanh()]), PixelDeviation(), centred])


def test_concatenation_by_differences_and_double_backward(rng):
    torch = pytest.importorskip("torch")
    layer = attached(branches(), SHAPE)
    assert layer.output_shape == (6,)
    case = Case(layer, signed(rng, (3, *SHAPE)))
    check_by_differences(case)

    def forward(x, w, b, v, c):
        centred = x - x.mean(dim=(1, 2, 3), keepdim=True)
        parts = [torch.tanh(x.flatten(1) @ w + b), x.flatten(1).std(dim=1, unbiased=False)[:, None],
                 centred.flatten(1) @ v + c]
        return torch.cat(parts, dim=1)

    check_by_torch(case, forward)


def test_concatenation_in_a_network_has_names_and_can_be_saved(tmp_path, rng):
    net = convnet.Network([branches(), Dense(2)], SHAPE)
    names = ["0.0.1.weight", "0.0.1.bias", "0.2.2.weight", "0.2.2.bias", "1.weight", "1.bias"]
    assert list(net.parameters) == names
    net.save(tmp_path / "net.npz")
    x = signed(rng, (3, *SHAPE)).astype("float32")
    np.testing.assert_array_equal(convnet.Network.load(tmp_path / "net.npz").forward(x), net.forward(x))


@pytest.mark.parametrize("first", [True, False])
def test_passes_may_stop_in_a_concatenation(rng, first):
    """Where it holds the first (last) weights, the derivative (tangent) beyond it is not computed."""
    last = [Dense(5), Concatenate([Sequential([Dense(4), Tanh()]), Sequential([])]), Tanh()]
    layers = [ReLU(), branches()] if first else last
    net = convnet.Network(layers, SHAPE if first else (7,), dtype="float64")
    x = signed(rng, (3, *net.input_shape))
    y = first_pass(net.root, x)
    b = signed(rng, y.output.shape)
    whole, cut = second_pass(y, b), second_pass(y, b, to_input=False)
    assert cut.output is None
    t = signed(rng, x.shape)
    tangent, short = third_pass(y, t), third_pass(y, t, to_output=False)
    assert short.output is None
    for layer in (leaf for leaf in net.paths if leaf.parameters):
        np.testing.assert_array_equal(cut.factors[layer], whole.factors[layer])
        np.testing.assert_array_equal(short.factors[layer], tangent.factors[layer])


def test_algorithms_reach_all_branches(rng):
    net = convnet.Network([branches(), Dense(2)], SHAPE, dtype="float64")
    batch = convnet.Batch(signed(rng, (4, *SHAPE)), rng.integers(0, 2, 4))
    for algorithm in (Backprop(), LossIBP(0.1), LossIBP(0.1, norm=2, exact=True)):
        step = algorithm.gradients(net, SoftmaxCrossEntropy(), batch)
        assert all((gradient != 0).any() for gradient in step.gradients.values())


def test_what_is_said_about_bad_branches():
    with pytest.raises(ValueError, match="branches is empty"):
        Concatenate([])
    with pytest.raises(TypeError, match="branches must be a list of layers"):
        Concatenate(Dense(3))
    with pytest.raises(ValueError, match=r"branch 1 gives \(3, 4, 2\); it must give flat features"):
        convnet.Network([Concatenate([Flatten(), ReLU()])], SHAPE)
