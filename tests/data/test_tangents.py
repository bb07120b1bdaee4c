"""Tangent vectors against the transformations themselves, and the cache that keeps them."""
import errno

import numpy as np
import pytest
from scipy.ndimage import affine_transform, gaussian_filter

import convnet.data
from convnet.data.affine import affine_matrices
from convnet.data.tangents import TRANSFORMATIONS, cached_tangent_vectors, tangent_vectors, training_tangents

SIGMA = 0.9


def moved(name, theta):
    """Return the matrix (output to input coordinates) of the transformation `name` with parameter `theta`."""
    options = {"shift-x": {"shift": (0, theta)}, "shift-y": {"shift": (theta, 0)},
               "scale-x": {"scale": (1, 1 + theta)}, "scale-y": {"scale": (1 + theta, 1)},
               "rotation": {"rotation": theta}}[name]
    return affine_matrices(**options)[0]


def source_points(matrix, height, width):
    """Return the input coordinates (2, H, W), in pixels from the first pixel, of every output pixel."""
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij")) - centre[:, None, None]
    return np.einsum("ij,jhw->ihw", matrix[:, :2], grid) + (matrix[:, 2] + centre)[:, None, None]


def smooth_image_at(image, points, sigma, edges, margin=12):
    """Evaluate s(y, x) = sum I[i, j] φ(y - i) φ(x - j) at real points, the image being continued by `margin` pixels."""
    modes = {"nearest": "edge", "constant": "constant", "reflect": "symmetric", "mirror": "reflect", "wrap": "wrap"}
    padded = np.pad(image, margin, mode=modes[edges])
    norm = np.exp(-np.arange(-40, 41) ** 2 / (2 * sigma**2)).sum()

    def weights(coordinate, length):
        return np.exp(-(coordinate[..., None] - np.arange(-margin, length + margin)) ** 2 / (2 * sigma**2)) / norm

    return np.einsum("hwi,hwj,ij->hw", weights(points[0], image.shape[0]), weights(points[1], image.shape[1]), padded)


@pytest.mark.parametrize("edges", ["nearest", "constant", "reflect", "mirror", "wrap"])
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_tangents_are_derivatives_of_the_moved_smooth_image(name, edges):
    image = np.random.default_rng(1).standard_normal((13, 16))
    ours = tangent_vectors(image[None, ..., None], [name], SIGMA, edges)[0, 0, :, :, 0]
    step = 1e-4

    def at(theta):
        return smooth_image_at(image, source_points(moved(name, theta), *image.shape), SIGMA, edges)
    # five-point formula: the error is of order step^4
    numeric = (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)
    np.testing.assert_allclose(ours, numeric, rtol=0, atol=1e-10 * np.abs(numeric).max())


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_tangents_match_spline_resampling_of_the_smoothed_image(name):
    # A cubic spline follows a smooth image to a fourth-order error only: wide blobs make it small.
    image = gaussian_filter(np.random.default_rng(2).standard_normal((41, 46)), 4, mode="constant")
    image *= np.outer(np.hanning(41), np.hanning(46))
    sigma, step = 3.0, 1e-3
    ours = tangent_vectors(image[None, ..., None], [name], sigma, "constant")[0, 0, :, :, 0]
    smooth = gaussian_filter(image, sigma, mode="constant", truncate=8)

    def at(theta):
        matrix = moved(name, theta)
        centre = np.array([(n - 1) / 2 for n in image.shape])
        return affine_transform(smooth, matrix[:, :2], matrix[:, 2] + centre - matrix[:, :2] @ centre, order=3)
    numeric = (at(step) - at(-step)) / (2 * step)
    inside = (slice(10, -10), slice(10, -10))      # the spline is less exact near the border
    assert np.abs(ours - numeric)[inside].max() < 2e-4 * np.abs(numeric[inside]).max()


def test_tangents_of_a_gaussian_blob_are_known_in_closed_form():
    # A blob of variance a smoothed by σ is a blob of variance a + σ², and its derivatives are known everywhere.
    y, x = np.meshgrid(np.arange(31) - 15.0, np.arange(33) - 16.0, indexing="ij")
    a, y0, x0 = 5.0, 1.5, -2.25
    image = np.exp(-((y - y0) ** 2 + (x - x0) ** 2) / (2 * a))
    sigma = 1.2
    b = a + sigma**2
    smooth = a / b * np.exp(-((y - y0) ** 2 + (x - x0) ** 2) / (2 * b))
    dy, dx = -(y - y0) / b * smooth, -(x - x0) / b * smooth
    expected = np.stack([-dx, -dy, -x * dx, -y * dy, x * dy - y * dx])
    ours = tangent_vectors(image[None, ..., None], sigma=sigma)[0, ..., 0]
    # Sums over pixels instead of integrals leave a relative error of 5e-8 here (and of 3e-5 at σ = 0.9).
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-7 * np.abs(expected).max())


def test_directions_are_those_of_the_table():
    spot = np.zeros((1, 21, 21, 1))
    spot[0, 10, 15] = 1                                          # to the right of the centre
    shift_x, shift_y, scale_x, scale_y, rotation = tangent_vectors(spot)[0, ..., 0]
    assert shift_x[10, 16] > 0 > shift_x[10, 14]                 # to the right
    assert shift_y[11, 15] > 0 > shift_y[9, 15]                  # downwards
    assert scale_x[10, 16] > 0 > scale_x[10, 14]                 # away from the centre
    assert abs(scale_y[10, 14:17]).max() < 1e-12                 # on the axis, nothing moves vertically
    assert rotation[9, 15] > 0 > rotation[11, 15]                # counter-clockwise: upwards


def test_channels_and_samples_are_kept_apart():
    images = np.random.default_rng(3).standard_normal((4, 9, 8, 3))
    together = tangent_vectors(images)
    assert together.shape == (4, 5, 9, 8, 3)
    for n in range(4):
        for c in range(3):
            alone = tangent_vectors(images[n:n + 1, :, :, c:c + 1])
            np.testing.assert_allclose(together[n, ..., c], alone[0, ..., 0], rtol=0, atol=1e-14)


def test_types_and_order_of_the_transformations():
    images = np.random.default_rng(4).integers(0, 256, (2, 9, 8, 1)).astype(np.uint8)
    exact = tangent_vectors(images.astype(np.float64))
    ours = tangent_vectors(images)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-6 * np.abs(exact).max())
    np.testing.assert_array_equal(tangent_vectors(images, ("rotation", "shift-y")), ours[:, [4, 1]])


def test_training_tangents_move_the_image_and_not_the_mean():
    digits = convnet.data.load("digits").subset(per_class=3)
    expected = tangent_vectors(digits.train_images / 16.0)
    np.testing.assert_allclose(training_tangents(digits.prepared("float64")), expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(training_tangents(digits) / 16, expected, rtol=0, atol=1e-6)


IMAGES = np.random.default_rng(5).standard_normal((6, 7, 8, 2))


def test_cached_tangents_are_the_tangents_and_are_made_once(tmp_path, monkeypatch):
    folder = tmp_path / "new" / "cache"
    monkeypatch.setattr("convnet.data.images._BLOCK_BYTES", 2 * IMAGES[0].nbytes)
    first = cached_tangent_vectors(IMAGES, folder)
    assert isinstance(first, np.memmap) and not first.flags.writeable
    np.testing.assert_array_equal(first, tangent_vectors(IMAGES))
    monkeypatch.setattr("convnet.data.tangents.tangent_vectors", None)      # calling it again would fail
    np.testing.assert_array_equal(cached_tangent_vectors(IMAGES, folder), first)
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("change", [{"sigma": 1.0}, {"edges": "constant"}, {"transformations": ["rotation"]},
                                    {"images": IMAGES.astype("f4")}, {"images": IMAGES + 1e-9},
                                    {"images": IMAGES.reshape(6, 8, 7, 2)}])
def test_other_data_and_options_have_another_file(tmp_path, change):
    cached_tangent_vectors(IMAGES, tmp_path)
    options = {"images": IMAGES} | change
    ours = cached_tangent_vectors(folder=tmp_path, **options)
    np.testing.assert_array_equal(ours, tangent_vectors(**options))
    assert len(list(tmp_path.iterdir())) == 2


def test_damaged_cache_file_is_made_again(tmp_path):
    first = np.array(cached_tangent_vectors(IMAGES, tmp_path))
    path, = tmp_path.iterdir()
    for damage in (path.read_bytes()[:-1], b"", b"<html>"):
        path.write_bytes(damage)
        np.testing.assert_array_equal(cached_tangent_vectors(IMAGES, tmp_path), first)


def test_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*No space left on device; free some space") as caught:
        cached_tangent_vectors(IMAGES, tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_interruption_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("convnet.data.images._BLOCK_BYTES", 2 * IMAGES[0].nbytes)
    calls = []

    def interrupted(images, *options):
        calls.append(len(images))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return tangent_vectors(images, *options)
    monkeypatch.setattr("convnet.data.tangents.tangent_vectors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cached_tangent_vectors(IMAGES, tmp_path)
    assert calls == [2, 2] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("options", "message"), [
    ({"transformations": ["shift-z"]}, "unknown transformation 'shift-z'; known are shift-x"),
    ({"transformations": "rotation"}, "transformations must be a list of names"),
    ({"transformations": []}, "transformations must be a list of names"),
    ({"sigma": 0}, "sigma must be a positive number"),
    ({"sigma": np.nan}, "sigma must be a positive number"),
    ({"edges": "periodic"}, "edges must be one of nearest"),
    ({"images": IMAGES[0]}, r"images must have the axes \(N, H, W, C\)"),
])
def test_bad_options_are_refused_before_any_work(tmp_path, options, message):
    options = {"images": IMAGES} | options
    with pytest.raises(ValueError, match=message):
        tangent_vectors(**options)
    with pytest.raises(ValueError, match=message):
        cached_tangent_vectors(folder=tmp_path / "cache", **options)
    assert list(tmp_path.iterdir()) == []
