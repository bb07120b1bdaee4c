"""Errors on clean, noisy and shifted images, against a linear network worked out by hand."""
import numpy as np
import pytest

from convnet import Network
from convnet.evaluation import error_rate, fgsm_errors, input_gradient, noise_errors
from convnet.layers import BatchNorm, Dense, Dropout, Sigmoid, Softmax
from convnet.losses import SoftmaxCrossEntropy, SquaredError

RNG = np.random.default_rng(3)
IMAGES, LABELS = RNG.standard_normal((61, 6)), RNG.integers(0, 4, 61)


def linear():
    return Network([Dense(4)], (6,), dtype="float64", seed=1)


def logits(net, x):
    return x @ net.parameters["0.weight"] + net.parameters["0.bias"]


def test_error_rate_counts_wrong_classes():
    net = linear()
    expected = np.mean(logits(net, IMAGES).argmax(axis=1) != LABELS)
    assert 0 < expected < 1
    for batch_size in (7, 256):
        assert error_rate(net, IMAGES, LABELS, batch_size) == expected
    assert error_rate(net, IMAGES, np.eye(4)[LABELS]) == expected


def test_noise_is_one_draw_scaled_whatever_the_batch_size():
    net, sigmas = linear(), [0.0, 0.5, 2.0]
    noise = np.random.default_rng(8).standard_normal(IMAGES.shape, np.float32).astype(float)
    expected = [np.mean(logits(net, IMAGES + s * noise).argmax(axis=1) != LABELS) for s in sigmas]
    assert len(set(expected)) == 3
    for batch_size in (7, 256):
        assert noise_errors(net, IMAGES, LABELS, sigmas, seed=8, batch_size=batch_size) == expected
    assert noise_errors(net, IMAGES, LABELS, sigmas, seed=9) != expected


def test_the_step_goes_along_the_sign_of_the_gradient():
    net, epsilons = linear(), [0.0, 0.1, 0.5]
    z = logits(net, IMAGES)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    gradient = (p - np.eye(4)[LABELS]) @ net.parameters["0.weight"].T
    expected = [np.mean(logits(net, IMAGES + e * np.sign(gradient)).argmax(axis=1) != LABELS) for e in epsilons]
    assert expected[0] < expected[1] < expected[2]
    for batch_size in (7, 256):
        assert fgsm_errors(net, IMAGES, LABELS, epsilons, batch_size=batch_size) == expected
    np.testing.assert_allclose(input_gradient(net, SoftmaxCrossEntropy(), IMAGES, LABELS), gradient, rtol=1e-12)


def test_the_loss_of_the_step_is_that_of_the_networks_end():
    net = Network([Dense(4), Softmax()], (6,), dtype="float64", seed=1)
    assert fgsm_errors(net, IMAGES, LABELS, [0.3]) == fgsm_errors(net, IMAGES, LABELS, [0.3], SquaredError())


def test_evaluation_is_in_inference_mode_and_changes_nothing():
    net = Network([Dense(8), BatchNorm(), Sigmoid(), Dropout(0.5), Dense(4)], (6,), dtype="float64")
    net.generator.random()
    generator, state = net.generator.bit_generator.state, {k: v.copy() for k, v in net.state.items()}
    first = fgsm_errors(net, IMAGES, LABELS, [0.2]), noise_errors(net, IMAGES, LABELS, [0.4])
    assert first == (fgsm_errors(net, IMAGES, LABELS, [0.2], batch_size=5),
                     noise_errors(net, IMAGES, LABELS, [0.4], batch_size=5))
    assert net.generator.bit_generator.state == generator
    for name, array in state.items():
        np.testing.assert_array_equal(net.state[name], array)


def test_no_slice_is_larger_than_asked_for():
    class Watched(Network):
        largest = 0

        def asarray(self, images):
            self.largest = max(self.largest, len(images))
            return super().asarray(images)

    net = Watched([Dense(4)], (6,))
    error_rate(net, IMAGES, LABELS, 8)
    noise_errors(net, IMAGES, LABELS, [0.1], batch_size=8)
    fgsm_errors(net, IMAGES, LABELS, [0.1], batch_size=8)
    assert net.largest == 8


@pytest.mark.parametrize(("call", "message"), [
    (lambda net: error_rate(net, IMAGES, LABELS[1:]), "61 images and 60 labels"),
    (lambda net: error_rate(net, IMAGES[:0], LABELS[:0]), "at least one"),
    (lambda net: error_rate(net, IMAGES[:, :5], LABELS), "shape"),
    (lambda net: error_rate(net, IMAGES, LABELS, 0), "batch_size"),
    (lambda net: noise_errors(net, IMAGES, LABELS, [-0.1]), "sigma"),
    (lambda net: fgsm_errors(net, IMAGES, LABELS, [float("nan")]), "epsilon"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(linear())
