"""Losses where the network is sure: what is left of 1 - p must be right, as the sign of the input's gradient hangs on it."""
import numpy as np
import pytest

from convnet import Network
from convnet.evaluation import input_gradient
from convnet.layers import Dense, Softmax
from convnet.layers.base import Record
from convnet.losses import BinaryCrossEntropy, SoftmaxCrossEntropy

RNG = np.random.default_rng(0)
# The largest logit leads by 2 to 60; with float32, 1 - p is 0 from 17 on.
GAPS = np.array([2.0, 8, 16, 20, 40, 60])
LOGITS = RNG.standard_normal((len(GAPS), 5)).astype("f").astype(float)
LOGITS[:, 3] = LOGITS.max(axis=1) + GAPS.astype("f")
LOGITS = LOGITS.astype("f").astype(float)
RIGHT, WRONG = np.eye(5)[[3] * len(GAPS)], np.eye(5)[[0] * len(GAPS)]


def exact_softmax_gradient(z, labels):
    """``p - l`` from the exponents alone, without a difference from 1."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    rest = np.stack([np.delete(p, k, axis=1).sum(axis=1) for k in range(z.shape[1])], axis=1)
    return np.where(labels == 1, -rest, p)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("labels", [RIGHT, WRONG], ids=["right", "wrong"])
def test_the_gradient_of_the_cross_entropy_keeps_its_precision(dtype, labels):
    found = SoftmaxCrossEntropy().gradient(LOGITS.astype(dtype), labels.astype(dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, exact_softmax_gradient(LOGITS, labels), rtol=1e-5 if dtype == "float32" else 1e-13)


def test_its_value_does_too():
    rest = -exact_softmax_gradient(LOGITS, RIGHT)[:, 3]
    expected = -np.log1p(-rest)
    for dtype, rtol in (("float32", 1e-5), ("float64", 1e-13)):
        found = SoftmaxCrossEntropy().value(LOGITS.astype(dtype), RIGHT.astype(dtype))
        np.testing.assert_allclose(found, expected, rtol=rtol)


def test_products_with_the_hessian_keep_their_precision():
    z, t = LOGITS, RNG.standard_normal(LOGITS.shape).astype("f").astype(float)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    # (H t)_c = sum_j p_c p_j (t_c - t_j)
    expected = (p[:, :, None] * p[:, None, :] * (t[:, :, None] - t[:, None, :])).sum(axis=2)
    loss, single = SoftmaxCrossEntropy(), z.astype("f")
    record = Record(False, True)
    Softmax().forward(single, record)
    for found in (loss.hessian_product(single, RIGHT.astype("f"), t.astype("f")), Softmax().backward(t.astype("f"), record)):
        np.testing.assert_allclose(found, expected, rtol=2e-5)
    factors = [loss.hessian_factor(single, RIGHT.astype("f"), c)[0] for c in range(5)]
    np.testing.assert_allclose(factors[3][:, 3] / np.sqrt(p[:, 3]), -exact_softmax_gradient(z, RIGHT)[:, 3], rtol=1e-5)


def test_the_binary_cross_entropy_keeps_its_precision():
    z = np.array([[-50.0, -20, -3, 0, 3, 20, 50]])
    p, rest = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z))
    loss, single, t = BinaryCrossEntropy(), z.astype("f"), np.full(z.shape, 2, "f")
    for label, expected in ((0, p), (1, -rest)):
        np.testing.assert_allclose(loss.gradient(single, np.full(z.shape, label, "f")), expected, rtol=1e-5)
    np.testing.assert_allclose(loss.hessian_product(single, t, t), 2 * p * rest, rtol=1e-5)
    for c in range(z.shape[1]):
        np.testing.assert_allclose(loss.hessian_factor(single, t, c)[0][:, c], np.sqrt(p * rest)[:, c], rtol=1e-5)


def test_class_weights_belong_to_the_loss():
    given = np.array([1.0, 2.0])
    loss, labels = SoftmaxCrossEntropy(given), np.eye(2)
    given[:] = 7
    np.testing.assert_array_equal(loss.weights(labels)[:, 0], [1, 2])
    with pytest.raises(ValueError, match="read-only"):
        loss.class_weights[0] = 5
    loss.class_weights = np.array([3.0, 4.0])
    np.testing.assert_array_equal(loss.weights(labels)[:, 0], [3, 4])


def test_the_cross_entropy_of_sigmoids_takes_probabilities_only():
    with pytest.raises(ValueError, match="labels lie between 0 and 5; the cross-entropy of sigmoids needs probabilities"):
        BinaryCrossEntropy().check_labels(np.array([[0.0, 5.0]]))


def test_label_vectors_that_are_not_of_one_class_are_followed():
    rng = np.random.default_rng(1)
    z, labels = 3 * rng.standard_normal((4, 5)), rng.uniform(0, 1, (4, 5))
    e = np.exp(z)
    p = e / e.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(SoftmaxCrossEntropy().gradient(z, labels), p - labels, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(BinaryCrossEntropy().gradient(z, labels), 1 / (1 + np.exp(-z)) - labels, rtol=1e-12, atol=1e-15)


def test_the_input_gradient_of_a_sure_network_points_where_that_of_a_double_one_does():
    nets = [Network([Dense(5)], (8,), dtype=dtype) for dtype in ("float32", "float64")]
    x = RNG.standard_normal((64, 8)).astype("f")
    nets[0].vector *= 12
    nets[1].vector[...] = nets[0].vector
    labels = nets[0].predict(x)
    leads = np.sort(nets[1].forward(x.astype(float)), axis=1)
    assert (leads[:, -1] - leads[:, -2] > 17).sum() >= 5
    single, double = (input_gradient(net, SoftmaxCrossEntropy(), x.astype(net.dtype), labels).astype(float) for net in nets)
    cosines = (single * double).sum(axis=1) / np.linalg.norm(single, axis=1) / np.linalg.norm(double, axis=1)
    assert cosines.min() > 1 - 1e-6
