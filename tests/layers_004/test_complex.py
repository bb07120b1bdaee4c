"""Complex convolution and the modulus: the real inner product, Re and Im differences, double backward."""
import numpy as np
import pytest
from references_004 import Case, attached, check_by_differences, check_by_torch, inner, signed

import convnet
from convnet.layers import ComplexConv, Dense, Flatten, MeanPool, Modulus, Record, Sequential
from convnet.passes import first_pass, second_pass, third_pass

KINDS = ("real", "complex")


def conv_reference(x, weight):
    """Complex convolution by plain loops."""
    kh, kw, _, filters = weight.shape
    n, h, w, _ = x.shape
    y = np.zeros((n, h - kh + 1, w - kw + 1, filters), complex)
    for p, q in np.ndindex(*y.shape[1:3]):
        for f in range(filters):
            y[:, p, q, f] = (x[:, p:p + kh, q:q + kw] * weight[..., f]).sum(axis=(1, 2, 3))
    return y


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("kind", KINDS)
def test_convolution_is_that_of_plain_loops(rng, kind):
    layer, x = attached(ComplexConv(3, (2, 3)), (5, 6, 2)), signed(rng, (2, 5, 6, 2), kind)
    y = layer.forward(x, Record(False, True))
    assert y.dtype == np.complex128
    np.testing.assert_allclose(y, conv_reference(x, layer.parameters["weight"]), rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_convolution_by_differences(rng, kind):
    check_by_differences(Case(attached(ComplexConv(3, (2, 3)), (5, 6, 2)), signed(rng, (2, 5, 6, 2), kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_modulus_by_differences(rng, kind):
    check_by_differences(Case(attached(Modulus(), (3, 4, 2)), signed(rng, (2, 3, 4, 2), kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_convolution_by_double_backward(rng, kind):
    torch = pytest.importorskip("torch")

    def forward(x, weight):
        y = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2).to(torch.complex128), weight.permute(3, 2, 0, 1))
        return y.permute(0, 2, 3, 1)

    check_by_torch(Case(attached(ComplexConv(3, (2, 3)), (5, 6, 2)), signed(rng, (2, 5, 6, 2), kind)), forward)


def test_modulus_by_double_backward(rng):
    pytest.importorskip("torch")
    check_by_torch(Case(attached(Modulus(), (3, 4, 2)), signed(rng, (2, 3, 4, 2), "complex")), lambda x: x.abs())


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_stage_by_double_backward(rng, kind):
    torch = pytest.importorskip("torch")
    chain = [ComplexConv(3, 2), Modulus(), MeanPool(2, 2), ComplexConv(4, 2), Modulus()]
    layer = attached(Sequential(chain), (7, 7, 2))

    def forward(x, first, second):
        y = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2).to(torch.complex128), first.permute(3, 2, 0, 1)).abs()
        y = torch.nn.functional.avg_pool2d(y, 2).to(torch.complex128)
        return torch.nn.functional.conv2d(y, second.permute(3, 2, 0, 1)).abs().permute(0, 2, 3, 1)

    check_by_torch(Case(layer, signed(rng, (2, 7, 7, 2), kind)), forward)


def test_the_modulus_is_scale_equivariant_and_its_phase_is_not_changed_by_a_positive_factor(rng):
    layer, x = attached(Modulus(), (4,)), signed(rng, (3, 4), "complex")
    b = signed(rng, (3, 4))
    first, scaled = first_pass(layer, x), first_pass(layer, -1e-30 * x)
    np.testing.assert_allclose(scaled.output, 1e-30 * first.output, rtol=1e-14)
    np.testing.assert_allclose(second_pass(scaled, b).output, -second_pass(first, b).output, rtol=1e-14)


@pytest.mark.parametrize(("dtype", "tiny"), [("complex64", 1e-39), ("complex128", 5e-324), ("float64", 0.0)])
def test_derivatives_of_the_modulus_at_zero_are_zero(dtype, tiny):
    """At 0, and where the reciprocal of |x| would not be finite, derivative and curvature are defined as 0."""
    layer = attached(Modulus(), (3,))
    x = np.array([[0, 3, tiny]], dtype)
    record = Record(False, True)
    y = layer.forward(x, record)
    np.testing.assert_array_equal(y, np.abs(x))
    ones, t = np.ones_like(y), np.ones_like(x)
    for result in (layer.backward(ones, record), layer.third_pass(t, record)):
        np.testing.assert_array_equal(result, [[0, 1, 0]])
    np.testing.assert_array_equal(layer.curvature(1j * t if dtype.startswith("c") else t, ones, record)[0, [0, 2]], 0)


def test_descending_the_gradient_of_a_complex_weight_lowers_the_loss_by_its_squared_norm(rng):
    """The gradient is dL/dRe + i dL/dIm: a step -h g changes L by -h ‖g‖², to first order."""
    net = convnet.Network([ComplexConv(3, 2), Modulus(), Flatten(), Dense(2)], (4, 4, 1), dtype="float64")
    batch = convnet.Batch(signed(rng, (5, 4, 4, 1)), rng.integers(0, 2, 5))
    loss = convnet.losses.SoftmaxCrossEntropy()
    step = convnet.passes.Backprop().gradients(net, loss, batch)
    gradient = step.gradients["0.weight"]
    assert gradient.dtype == np.complex128
    start = net.vector.copy()

    def after(h):
        net.vector[...] = start
        net.parameters["0.weight"][...] -= h * gradient
        return convnet.passes.Backprop().gradients(net, loss, batch).loss

    slope = (8 * (after(1e-4) - after(-1e-4)) - (after(2e-4) - after(-2e-4))) / 12e-4
    assert slope == pytest.approx(-inner(gradient, gradient), rel=1e-8)


def test_complex_parameters_are_pairs_of_numbers_in_the_vector(rng):
    net = convnet.Network([ComplexConv(3, 2), Modulus(), Flatten()], (4, 4, 1), seed=3)
    weight = net.parameters["0.weight"]
    assert weight.dtype == np.complex64
    assert net.vector.size == 2 * weight.size
    net.vector[2:4] = (5, -7)
    assert weight.ravel()[1] == 5 - 7j
    again = net.copy()
    np.testing.assert_array_equal(again.parameters["0.weight"], weight)
    images = signed(rng, (2, 4, 4, 1)).astype("float32")
    out = net.forward(images)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, again.forward(images))


def test_single_precision_agrees_with_double(rng):
    x, b = signed(rng, (2, 5, 5, 2)), signed(rng, (2, 4, 4, 3), "complex")
    exact = attached(ComplexConv(3, 2), (5, 5, 2))
    single = convnet.Network([ComplexConv(3, 2), Flatten()], (5, 5, 2)).root.layers[0]
    single.parameters["weight"][...] = exact.parameters["weight"]
    for pass_, argument in ((lambda f, v: f.output, None), (second_pass, b), (third_pass, x)):
        results = []
        for layer, real, cplx in ((exact, "float64", "complex128"), (single, "float32", "complex64")):
            first = first_pass(layer, x.astype(real))
            given = None if argument is None else argument.astype(cplx if np.iscomplexobj(argument) else real)
            made = pass_(first, given)
            results.append(made if isinstance(made, np.ndarray) else made.output)
        assert results[1].dtype.itemsize * 2 == results[0].dtype.itemsize
        np.testing.assert_allclose(results[1], results[0], rtol=0, atol=3e-6 * np.abs(results[0]).max())


def test_what_is_said_about_bad_options():
    with pytest.raises(ValueError, match="filters is 0"):
        ComplexConv(0, 3)
    with pytest.raises(ValueError, match=r"size is 2\.5"):
        ComplexConv(3, 2.5)
    with pytest.raises(ValueError, match="larger than the padded image"):
        convnet.Network([ComplexConv(3, 5), Flatten()], (4, 4, 1))
