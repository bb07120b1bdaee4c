"""The four passes over a whole network: their recursions, and what they refuse."""
import numpy as np
import pytest
from networks import batch, network

from convnet.layers import Dense, Sequential
from convnet.passes import first_pass, fourth_pass, inference, second_pass, third_pass
from convnet.testing.numeric import derivative, products, signed, sums_error

NAMES = ["relu, overlapping max pooling", "softmax last", "residual blocks", "all of it"]


@pytest.fixture(params=NAMES)
def under_way(request):
    """Return a network's layers, its first pass in training mode, and directions for input and output."""
    net = network(request.param)
    x = batch().images
    y = first_pass(net.root, x, training=True, draw=7)
    rng = np.random.default_rng(3)
    return net.root, x, y, signed(rng, x.shape), signed(rng, y.output.shape)


def test_third_pass_is_the_derivative_of_the_first(under_way):
    root, x, y, t, _ = under_way
    slope = derivative(lambda h: first_pass(root, x + h * t, training=True, draw=7).output)
    np.testing.assert_allclose(third_pass(y, t).output, slope, rtol=1e-7, atol=1e-8 * np.abs(slope).max())


def test_second_pass_is_the_adjoint_of_the_third(under_way):
    _, _, y, t, b = under_way
    assert sums_error(products(b, third_pass(y, t).output), products(second_pass(y, b).output, t)) < 1e-13


def test_fourth_pass_is_the_derivative_of_the_linearised_output_and_of_the_output(under_way):
    # d/dx [b·(J t) + s·f] along v.
    root, x, y, t, b = under_way
    rng = np.random.default_rng(4)
    v, s = signed(rng, x.shape), signed(rng, b.shape)

    def value(h):
        moved = first_pass(root, x + h * v, training=True, draw=7)
        return (b * third_pass(moved, t).output + s * moved.output).sum()

    found = fourth_pass(y, s, [(third_pass(y, t), second_pass(y, b))], to_input=True).output
    assert abs((found * v).sum() - derivative(value)) < 1e-7 * np.abs(found * v).sum()


def test_fourth_pass_adds_the_curvature_of_every_pair(under_way):
    _, _, y, t, b = under_way
    up, down = third_pass(y, t), second_pass(y, b)
    other = third_pass(y, -0.3 * t)
    together = fourth_pass(y, b, [(up, down), (other, down)], to_input=True).output
    single = fourth_pass(y, b, [(up, down)], to_input=True).output
    curvature = single - down.output
    expected = single - 0.3 * curvature
    np.testing.assert_allclose(together, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_any_pass_can_be_run_again_in_any_order_with_the_same_result(under_way):
    _, _, y, t, b = under_way
    up, down = third_pass(y, t), second_pass(y, b)
    fourth_pass(y, b, [(up, down)])
    third_pass(y, -t)
    np.testing.assert_array_equal(second_pass(y, b).output, down.output)
    np.testing.assert_array_equal(third_pass(y, t).output, up.output)
    for layer, factor in second_pass(y, b).factors.items():
        np.testing.assert_array_equal(factor, down.factors[layer])


def test_inference_is_the_first_pass_at_inference(under_way):
    root, x, _, _, _ = under_way
    np.testing.assert_allclose(inference(root, x), first_pass(root, x).output, rtol=1e-12, atol=1e-14)


def test_constants_reach_biases_on_the_first_pass_only(under_way):
    _, _, y, t, b = under_way
    up, down = third_pass(y, t), second_pass(y, b)
    assert y.constant == 1
    assert up.constant == down.constant == fourth_pass(y, b, [(up, down)]).constant == 0


@pytest.mark.parametrize("call", [
    lambda root, x, y, t, b: first_pass(root, x[:, 1:]), lambda root, x, y, t, b: inference(root, x[0]),
    lambda root, x, y, t, b: third_pass(y, t[:, :, :-1]), lambda root, x, y, t, b: second_pass(y, b[:, :-1]),
    lambda root, x, y, t, b: fourth_pass(y, b[:, :-1], []), lambda root, x, y, t, b: first_pass(root, x[:0]),
], ids=["first", "inference", "third", "second", "fourth", "no samples"])
def test_arrays_of_another_shape_are_refused(under_way, call):
    with pytest.raises(ValueError, match=r"has the shape \(.*it must be \(N"):
        call(*under_way)


def test_a_layer_that_has_not_been_built_is_refused():
    with pytest.raises(ValueError, match="has not been built"):
        first_pass(Sequential([Dense(2)]), np.zeros((2, 3)))


def test_a_record_that_lacks_something_says_what_to_do():
    net = network("softmax last")
    y = first_pass(net.root, batch().images)
    with pytest.raises(AttributeError, match=r"holds no 'mask'.*first pass"):
        next(iter(y.records.values())).mask  # noqa: B018
