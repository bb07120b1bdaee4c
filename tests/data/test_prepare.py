"""Preparation by name, local contrast normalisation, and faults on purpose."""
import numpy as np
import pytest

import convnet.data
from convnet.data import Dataset, with_label_noise, with_test_noise
from convnet.data.contrast import local_contrast_normalization
from convnet.data.images import ImageView
from convnet.data.prepare import prepare, usual_normalization

GENERATOR = np.random.default_rng(0)


def by_loops(image, size, sigma, threshold):
    """The formula in the docstring, pixel by pixel, with mirrored edges."""
    half = size // 2
    offsets = np.arange(-half, half + 1)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * sigma**2))
    window /= window.sum()

    def smooth(array):
        padded = np.pad(array, half, mode="symmetric")
        return np.array([[(window * padded[r:r + size, c:c + size]).sum() for c in range(array.shape[1])]
                         for r in range(array.shape[0])])
    v = image - smooth(image)
    d = np.sqrt(smooth(v**2))
    return v / np.maximum(np.maximum(d, d.mean()), threshold)


@pytest.mark.parametrize("options", [{}, {"size": 5, "sigma": 1.0}, {"threshold": 0.6}])
def test_local_contrast_by_the_formula(options):
    images = GENERATOR.random((3, 11, 9, 2))
    images[0] *= 0.01
    ours = local_contrast_normalization(images, **options)
    size, sigma, threshold = options.get("size", 7), options.get("sigma", 2.0), options.get("threshold", 1e-4)
    for n in range(3):
        for c in range(2):
            expected = by_loops(images[n, ..., c], size, sigma, threshold)
            np.testing.assert_allclose(ours[n, ..., c], expected, rtol=0, atol=1e-12)


def test_local_contrast_forgets_brightness_and_contrast():
    images = GENERATOR.random((2, 12, 12, 3))
    once = local_contrast_normalization(images)
    np.testing.assert_allclose(local_contrast_normalization(0.3 * images + 0.4), once, rtol=0, atol=1e-12)
    assert not local_contrast_normalization(np.full((1, 8, 8, 1), 0.7)).any()
    assert local_contrast_normalization(images.astype("f4")).dtype == np.float32


@pytest.mark.parametrize(("options", "message"), [
    ({"size": 4}, "size is 4"), ({"size": -1}, "size is -1"), ({"sigma": 0}, "sigma and threshold are 0"),
    ({"threshold": 0}, "must be positive")])
def test_senseless_windows_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        local_contrast_normalization(np.zeros((1, 8, 8, 1)), **options)


def house_numbers():
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (30, 8, 8, 3)).astype(np.uint8)
    labels = np.arange(30) % 10
    return Dataset("svhn", images, labels, images[:10], labels[:10], tuple("0123456789"))


def test_each_set_is_prepared_as_in_the_paper():
    assert usual_normalization("svhn-extra") == "local-contrast" and usual_normalization("cifar10") == "mean-image"
    digits = convnet.data.load("digits")
    np.testing.assert_array_equal(prepare(digits).train_images, digits.prepared().train_images)
    np.testing.assert_array_equal(prepare(digits, "scale").test_images, digits.prepared(subtract_mean=False).test_images)
    svhn = house_numbers()
    expected = local_contrast_normalization((svhn.train_images / 255).astype("f4"))
    np.testing.assert_allclose(prepare(svhn).train_images, expected, rtol=0, atol=1e-6)


def test_local_contrast_is_kept_in_half_precision_and_made_once(tmp_path, monkeypatch):
    svhn = house_numbers()
    exact = prepare(svhn)
    first = prepare(svhn, cache=tmp_path)
    assert isinstance(first.train_images, ImageView) and first.train_images.dtype == np.float32
    for part in ("train_images", "test_images"):
        np.testing.assert_allclose(np.asarray(getattr(first, part)), getattr(exact, part), rtol=2**-11, atol=1e-7)
    monkeypatch.setattr("convnet.data.prepare.local_contrast_normalization", None)
    again = prepare(svhn, cache=tmp_path)
    np.testing.assert_array_equal(np.asarray(again.train_images), np.asarray(first.train_images))
    assert len(list(tmp_path.iterdir())) == 2


def test_unknown_normalization_is_refused():
    with pytest.raises(ValueError, match="unknown normalization 'local-contrst'; did you mean 'local-contrast'"):
        prepare(house_numbers(), "local-contrst")


# --- faults on purpose ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 1.0])
def test_label_noise_changes_exactly_the_share_asked_for(fraction):
    digits = convnet.data.load("digits")
    noisy = with_label_noise(digits, fraction, seed=3)
    changed = noisy.train_labels != digits.train_labels
    assert changed.sum() == round(fraction * 1437)
    assert noisy.test_labels is digits.test_labels or np.array_equal(noisy.test_labels, digits.test_labels)
    np.testing.assert_array_equal(with_label_noise(digits, fraction, seed=3).train_labels, noisy.train_labels)


def test_label_noise_is_uniform_over_the_other_classes_and_nested():
    digits = convnet.data.load("digits")
    noisy = with_label_noise(digits, 1.0)
    steps = (noisy.train_labels - digits.train_labels) % 10
    counts = np.bincount(steps, minlength=10)
    assert counts[0] == 0 and abs(counts[1:] - 1437 / 9).max() < 4 * np.sqrt(1437 / 9)
    some, more = (with_label_noise(digits, fraction) for fraction in (0.2, 0.4))
    changed = some.train_labels != digits.train_labels
    np.testing.assert_array_equal(more.train_labels[changed], some.train_labels[changed])
    other = with_label_noise(digits, 0.2, seed=1).train_labels != digits.train_labels
    assert (changed & other).sum() < 0.5 * changed.sum()


def test_test_noise_has_the_strength_asked_for_and_leaves_training_alone(monkeypatch):
    digits = convnet.data.load("digits").prepared("float64")
    noisy = with_test_noise(digits, 0.25, seed=2)
    noise = noisy.test_images - digits.test_images
    assert noise.std() == pytest.approx(0.25, rel=0.02) and abs(noise.mean()) < 4 * 0.25 / np.sqrt(noise.size)
    assert noisy.train_images is digits.train_images
    twice = with_test_noise(digits, 0.5, seed=2).test_images - digits.test_images
    np.testing.assert_allclose(twice, 2 * noise, rtol=0, atol=1e-6)
    monkeypatch.setattr("convnet.data.images._BLOCK_BYTES", 7 * 64 * 8)
    np.testing.assert_array_equal(with_test_noise(digits, 0.25, seed=2).test_images, noisy.test_images)
    assert not np.array_equal(with_test_noise(digits, 0.25, seed=3).test_images, noisy.test_images)


def test_test_noise_is_relative_to_full_intensity():
    digits = convnet.data.load("digits")
    raw, ready = (with_test_noise(data, 0.25) for data in (digits, digits.prepared(subtract_mean=False)))
    assert raw.test_images.dtype == np.float32
    np.testing.assert_allclose(raw.test_images / 16, ready.test_images, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("call", "message"), [
    (lambda d: with_label_noise(d, -0.1), "fraction is -0.1"), (lambda d: with_label_noise(d, 1.1), "fraction is 1.1"),
    (lambda d: with_label_noise(Dataset("one", d.train_images[:1], [0], d.test_images[:1], [0], ["a"]), 0.5), "two classes"),
    (lambda d: with_test_noise(d, -1), "sigma is -1"), (lambda d: with_test_noise(d, np.inf), "sigma is inf")])
def test_senseless_faults_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(convnet.data.load("digits"))
