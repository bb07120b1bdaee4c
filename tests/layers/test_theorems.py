"""The theorems of the papers' section 7.1, and the adjoint identity, by name."""
import numpy as np
import pytest
from layer_tools import attached, normal

from convnet.layers import (
    Conv,
    Dense,
    Dropout,
    Flatten,
    LeakyReLU,
    MaxPool,
    MeanPool,
    ReLU,
    Sigmoid,
    Softmax,
    SubtractImageMean,
    Tanh,
)
from convnet.layers.batchnorm import Normalize, Scale
from convnet.passes import first_pass, second_pass, third_pass
from convnet.passes.products import weight_gradients
from convnet.testing.cases import LAYERS

LINEAR = {
    "dense": (lambda: Dense(4), (5,)),
    "dense, no bias": (lambda: Dense(4, bias=False), (5,)),
    "conv": (lambda: Conv(3, 3), (6, 5, 2)),
    "conv, strided and padded": (lambda: Conv(3, (3, 2), stride=(2, 3), padding=(1, 2)), (6, 5, 2)),
    "mean pooling": (lambda: MeanPool(3, 2), (7, 7, 2)),
    "flatten": (Flatten, (3, 4, 2)),
    "dropout": (lambda: Dropout(0.5), (4, 4, 2)),
    "scale and offset": (Scale, (4, 4, 2)),
    "image less its mean": (SubtractImageMean, (3, 3, 2)),
}
SYMMETRIC = {
    "relu": (ReLU, (4, 3, 2)), "leaky relu": (lambda: LeakyReLU(0.2), (7,)), "sigmoid": (Sigmoid, (7,)),
    "tanh": (Tanh, (4, 3, 2)), "softmax": (Softmax, (6,)), "dropout": (lambda: Dropout(0.5), (4, 4, 2)),
    "normalisation": (lambda: Normalize(0.9, 1e-5), (4, 3, 2)), "scale and offset": (Scale, (4, 3, 2)),
}


@pytest.mark.parametrize(("make", "shape"), LINEAR.values(), ids=LINEAR)
def test_theorem_1_part_1_third_pass_of_a_linear_layer_is_its_forward_pass_without_bias(make, shape, cpu_kernels):
    layer = attached(make(), shape)
    assert layer.linear
    x, t = normal(1, 3, *shape), normal(2, 3, *shape)
    tangent = third_pass(first_pass(layer, x, training=True, draw=1), t).output
    if "bias" in layer.parameters:
        assert np.abs(layer.parameters["bias"]).min() > 0
        layer.parameters["bias"][...] = 0
    forward = first_pass(layer, t, training=True, draw=1).output
    np.testing.assert_allclose(tangent, forward, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(("make", "shape"), [LINEAR[name] for name in LINEAR if "conv" in name or "dense" in name],
                         ids=[name for name in LINEAR if "conv" in name or "dense" in name])
def test_theorem_1_part_2_one_weight_gradient_serves_first_and_third_pass(make, shape, cpu_kernels):
    # dw = y^T dy and dw~ = dy~^T dy: G(t, b) is what backprop would compute with t as its activations, less the biases.
    layer = attached(make(), shape)
    x, t = normal(1, 3, *shape), normal(2, 3, *shape)
    b = normal(3, 3, *layer.output_shape)
    y = first_pass(layer, x)
    as_activations = layer.weight_gradients(first_pass(layer, t).factors[layer], second_pass(y, b).factors[layer])
    as_tangents = products([(third_pass(y, t), second_pass(y, b), 1.0)], layer)
    np.testing.assert_array_equal(as_tangents["weight"], as_activations["weight"])
    assert "bias" not in as_tangents


@pytest.mark.parametrize(("make", "shape"), [LINEAR[name] for name in ("dense", "conv", "conv, strided and padded")],
                         ids=["dense", "conv", "conv, strided and padded"])
def test_adjoint_identity_for_weights(make, shape, cpu_kernels):
    # A layer is linear in its weights too: u·(f(x; w + δ) - f(x; w)) = G(x, u)·δ for steps of any size.
    layer = attached(make(), shape)
    x, u = normal(1, 3, *shape), normal(2, 3, *layer.output_shape)
    y = first_pass(layer, x)
    gradients = products([(y, second_pass(y, u), 1.0)], layer)
    for name, array in layer.parameters.items():
        delta = normal(3, *array.shape)
        array += delta
        change = first_pass(layer, x).output - y.output
        array -= delta
        terms = u * change
        assert abs(terms.sum() - (gradients[name] * delta).sum()) < 1e-13 * np.abs(terms).sum()


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize(("make", "shape"), SYMMETRIC.values(), ids=SYMMETRIC)
def test_theorem_2_a_symmetric_jacobian_makes_the_third_pass_the_backward_pass(make, shape, training, cpu_kernels):
    layer = attached(make(), shape)
    assert layer.symmetric_jacobian
    y = first_pass(layer, normal(1, 3, *shape), training=training, draw=1)
    jacobian = np.stack([third_pass(y, e.reshape(3, *shape)).output.ravel() for e in np.eye(3 * int(np.prod(shape)))], 1)
    np.testing.assert_allclose(jacobian, jacobian.T, rtol=0, atol=1e-14)
    t = normal(2, 3, *shape)
    np.testing.assert_array_equal(third_pass(y, t).output, second_pass(y, t).output)


def test_every_claim_is_covered_here():
    claims = {type(case.make()) for case in LAYERS.values() if case.make().symmetric_jacobian}
    covered = {type(make()) for make, _ in SYMMETRIC.values()}
    assert {t.__name__ for t in claims - covered} <= {"SphereProjection", "SubtractImageMean"}  # tested with their files


# Complex numbers and whole networks are tested along random directions.
SMALL = [name for name, case in LAYERS.items() if not (case.complex_input or name.startswith(("complex", "network")))]


@pytest.mark.parametrize("name", SMALL)
def test_adjoint_identity_over_the_whole_jacobian(name):
    """``(J^T e_i)·e_j = e_i·(J e_j)`` for every pair: the second and third pass give the same matrix, entry by entry."""
    case = LAYERS[name]
    layer = attached(case.make(), case.input_shape)
    x = normal(4, 2, *case.input_shape)
    y = first_pass(layer, x, training=True, draw=3)
    down = np.stack([second_pass(y, e.reshape(y.output.shape)).output.ravel() for e in np.eye(y.output.size)])
    up = np.stack([third_pass(y, e.reshape(x.shape)).output.ravel() for e in np.eye(x.size)], axis=1)
    assert np.abs(up).max() > 0.01
    np.testing.assert_allclose(down, up, rtol=0, atol=1e-13 * np.abs(up).max())


def products(terms, layer):
    """Return the weight-gradient products of a single layer."""
    found = {}

    def write(leaf, parts, scale):
        for name, value in parts.items():
            found[name] = found.get(name, 0) + scale * value

    weight_gradients(terms, write)
    return found


def test_maximum_positions_make_max_pooling_linear(cpu_kernels):
    # Papers, section 7.2: on the third pass the same elements are chosen, regardless of what value they have.
    layer = attached(MaxPool(3, 2), (7, 7, 2))
    y = first_pass(layer, normal(1, 2, 7, 7, 2))
    s, t = normal(2, 2, 7, 7, 2), normal(3, 2, 7, 7, 2)
    np.testing.assert_allclose(third_pass(y, 2 * s - 3 * t).output,
                               2 * third_pass(y, s).output - 3 * third_pass(y, t).output, rtol=1e-13)
    assert not np.allclose(third_pass(y, -t).output, -first_pass(layer, t).output)
