"""Errors on clean, noisy and shifted images, against a linear network worked out by hand."""
import numpy as np
import pytest

from convnet import Network, train
from convnet.data import Dataset
from convnet.evaluation import error_rate, fgsm_errors, input_gradient, noise_errors
from convnet.layers import BatchNorm, Dense, Dropout, Flatten, Sigmoid, Softmax
from convnet.losses import SoftmaxCrossEntropy, SquaredError
from convnet.optimizers import SGD
from convnet.passes import Backprop

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


def test_lists_are_taken_as_training_takes_them():
    net = linear()
    assert error_rate(net, IMAGES.tolist(), LABELS.tolist()) == error_rate(net, IMAGES, LABELS)
    assert noise_errors(net, IMAGES.tolist(), LABELS.tolist(), np.array([0.2])) == noise_errors(net, IMAGES, LABELS, [0.2])
    np.testing.assert_array_equal(input_gradient(net, SquaredError(), IMAGES.tolist(), LABELS.tolist()),
                                  input_gradient(net, SquaredError(), IMAGES, LABELS))
    assert noise_errors(net, IMAGES, LABELS, []) == fgsm_errors(net, IMAGES, LABELS, ()) == []


@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_what_is_not_finite_is_wrong_whatever_the_label(weight):
    net, zeros = linear(), np.zeros(61, int)
    net.parameters["0.weight"][:, 0] = weight
    assert error_rate(net, IMAGES, zeros) == 1
    assert noise_errors(net, IMAGES, zeros, [0.0, 0.1]) == fgsm_errors(net, IMAGES, zeros, [0.0, 0.1]) == [1, 1]
    # As where the activation of a hidden layer ends what has overflowed.
    net = Network([Dense(4), Sigmoid(), Dense(4)], (6,), dtype="float64")
    net.parameters["0.bias"][0] = -np.inf
    assert np.isfinite(net.forward(IMAGES)).all() and error_rate(net, IMAGES, zeros) == 1


def test_a_few_outputs_that_overflow_count_alone():
    net = linear()
    images = IMAGES.copy()
    images[:9] = 1.7e308 * np.sign(images[:9])
    with np.errstate(over="ignore", invalid="ignore"):
        z = logits(net, images)
    finite = np.isfinite(z).all(axis=1)
    assert 50 < finite.sum() < 61
    assert error_rate(net, images, LABELS) == np.mean((z.argmax(axis=1) != LABELS) | ~finite)


def test_a_run_that_overflows_in_its_last_step_has_no_ordinary_test_error():
    images, net = 100 * IMAGES[:, :, None, None], Network([Flatten(), Dense(4)], (6, 1, 1))
    data = Dataset("toy", images, LABELS, images, np.zeros(61, int), classes=tuple("abcd"))
    result = train(net, data, Backprop(), SGD(3e38), epochs=1, batch_size=61)
    assert not np.isfinite(net.vector).all() and result.test_error == 1


@pytest.mark.parametrize(("call", "message"), [
    (lambda net: error_rate(net, IMAGES, LABELS[1:]), "61 images and 60 labels"),
    (lambda net: error_rate(net, IMAGES[:0], LABELS[:0]), "at least one"),
    (lambda net: error_rate(net, IMAGES[:, :5], LABELS), "shape"),
    (lambda net: error_rate(net, IMAGES, LABELS.astype(str)), "labels holds <U"),
    (lambda net: error_rate(net, IMAGES, LABELS + 1), "labels holds class 4"),
    (lambda net: error_rate(net, IMAGES, LABELS - 1), "labels holds class -1"),
    (lambda net: error_rate(net, IMAGES, LABELS * 1.0), "labels holds float64"),
    (lambda net: error_rate(net, IMAGES, LABELS[:, None]), "labels has 1 columns"),
    (lambda net: error_rate(net, IMAGES, np.eye(5)[LABELS]), "labels has 5 columns"),
    (lambda net: error_rate(net, IMAGES, np.eye(4)[LABELS] * np.nan), "labels holds NaN"),
    (lambda net: error_rate(net, IMAGES, np.ones((61, 4, 1))), "labels has the shape"),
    (lambda net: error_rate(net, IMAGES, 3), "labels has the shape"),
    (lambda net: error_rate(net, IMAGES.astype(np.uint8), LABELS), r"images are uint8.*prepared\(\)"),
    (lambda net: error_rate(net, np.where(np.arange(61)[:, None] == 4, np.nan, IMAGES), LABELS, 7), "images holds NaN"),
    (lambda net: noise_errors(net, IMAGES * np.inf, LABELS, [0.1]), "images holds NaN"),
    (lambda net: fgsm_errors(net, IMAGES, LABELS + 1, [0.1]), "labels holds class 4"),
    (lambda net: error_rate(net, IMAGES, LABELS, 0), "batch_size"),
    (lambda net: noise_errors(net, IMAGES, LABELS, [-0.1]), "sigma"),
    (lambda net: fgsm_errors(net, IMAGES, LABELS, [float("nan")]), "epsilon"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(linear())


@pytest.mark.parametrize("levels", [0.1, "0.1", None])
def test_levels_are_a_sequence(levels):
    with pytest.raises(TypeError, match=r"sigmas is .*it must be a sequence of numbers, as in \[0.1, 0.2\]"):
        noise_errors(linear(), IMAGES, LABELS, levels)
    with pytest.raises(TypeError, match="epsilons is"):
        fgsm_errors(linear(), IMAGES, LABELS, levels)


def test_noise_has_the_deviation_that_is_asked_for(monkeypatch):
    net, seen, forward = linear(), [], Network.forward
    monkeypatch.setattr(Network, "forward", lambda self, images: seen.append(images) or forward(self, images))
    noise_errors(net, IMAGES, LABELS, [0.0, 0.5, 2.0], seed=8)
    noise = np.random.default_rng(8).standard_normal(IMAGES.shape, np.float32).astype(float)
    np.testing.assert_allclose(seen, [IMAGES + sigma * noise for sigma in (0.0, 0.5, 2.0)], rtol=1e-12)
