"""Affine resampling against a plain loop, its adjoint, and the augmentation's ranges and draws."""
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convnet import kernels
from convnet.data.affine import affine_matrices, affine_resample, affine_resample_adjoint
from convnet.data.augment import DRAWS, Augmentation
from convnet.data.images import ImageView

KERNELS = sorted({"reference", kernels.available()})


def resample_by_loops(images, matrices, size, fill):
    """The definition in the module's text, pixel by pixel."""
    count, height, width, channels = images.shape
    result = np.empty((count, *size, channels))
    for n in range(count):
        for r in range(size[0]):
            for c in range(size[1]):
                y, x = matrices[n, :, :2] @ [r - (size[0] - 1) / 2, c - (size[1] - 1) / 2] + matrices[n, :, 2]
                y, x = y + (height - 1) / 2, x + (width - 1) / 2
                value = np.zeros(channels)
                for i in (math.floor(y), math.floor(y) + 1):
                    for j in (math.floor(x), math.floor(x) + 1):
                        inside = 0 <= i < height and 0 <= j < width
                        value += (1 - abs(y - i)) * (1 - abs(x - j)) * (images[n, i, j] if inside else fill)
                result[n, r, c] = value
    return result


def random_matrices(count, seed):
    generator = np.random.default_rng(seed)
    return affine_matrices(generator.uniform(-3, 3, (2, count)), np.exp(generator.uniform(-0.7, 0.7, (2, count))),
                           generator.uniform(-3, 3, count), generator.integers(0, 2, count))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(height=st.integers(1, 7), width=st.integers(1, 7), rows=st.integers(1, 7), columns=st.integers(1, 7),
       channels=st.integers(1, 3), seed=st.integers(0, 10**6))
def test_resampling_and_its_adjoint(height, width, rows, columns, channels, seed):
    generator = np.random.default_rng(seed)
    images = generator.standard_normal((3, height, width, channels))
    matrices = random_matrices(3, seed)
    fill = generator.standard_normal(channels)
    b = generator.standard_normal((3, rows, columns, channels))
    expected = resample_by_loops(images, matrices, (rows, columns), fill)
    for name in KERNELS:
        with kernels.using(name):
            ours = affine_resample(images, matrices, (rows, columns), fill)
            linear = affine_resample(images, matrices, (rows, columns))
            adjoint = affine_resample_adjoint(b, matrices, (height, width))
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)
        # <b, J x> = <J^T b, x>, where J is the map with fill 0
        scale = np.linalg.norm(b) * np.linalg.norm(images)
        assert abs((b * linear).sum() - (adjoint * images).sum()) < 1e-13 * scale
        assert adjoint.shape == images.shape


def test_adjoint_is_the_transposed_matrix():
    matrices = random_matrices(1, 5)
    units = np.eye(12).reshape(12, 3, 4, 1)
    columns = affine_resample(units, matrices, (5, 2)).reshape(12, 10)           # row k: J e_k
    outputs = np.eye(10).reshape(10, 5, 2, 1)
    rows = affine_resample_adjoint(outputs, matrices, (3, 4)).reshape(10, 12)    # row q: J^T e_q
    np.testing.assert_allclose(rows, columns.T, rtol=0, atol=1e-15)
    assert np.count_nonzero(rows) > 5


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_compiled_functions_agree_with_the_plain_ones(dtype, tmp_path):
    if kernels.available() != "fast":
        pytest.skip("numba is not installed")
    generator = np.random.default_rng(13)
    images = generator.standard_normal((5, 9, 8, 4)).astype(dtype)
    stored = np.memmap(tmp_path / "images", images.dtype, "w+", shape=images.shape)
    stored[:] = images
    for source, matrices in ((images, random_matrices(5, 13)), (images[::-1, :, :, 1:3], random_matrices(1, 13)),
                            (np.memmap(stored.filename, images.dtype, "r", shape=images.shape), random_matrices(5, 1))):
        results = []
        for name in ("reference", "fast"):
            with kernels.using(name):
                results.append((affine_resample(source, matrices, (11, 5), 0.25),
                                affine_resample_adjoint(source, matrices, (6, 12))))
        for plain, compiled in zip(*results, strict=True):
            np.testing.assert_allclose(compiled, plain, rtol=0, atol=8 * np.finfo(dtype).eps)
            assert plain.dtype == compiled.dtype == source.dtype and type(compiled) is np.ndarray


@pytest.mark.parametrize("name", KERNELS)
def test_central_crops_are_made_in_blocks(monkeypatch, name):
    images = np.random.default_rng(14).standard_normal((23, 7, 7, 2)).astype("f4")
    augmentation = Augmentation(crop=(4, 9), fill=0.5)
    with kernels.using(name):
        whole = augmentation.central(images)
        monkeypatch.setattr("convnet.data.images._BLOCK_BYTES", 5 * images[0].nbytes)
        np.testing.assert_array_equal(augmentation.central(images), whole)
        np.testing.assert_array_equal(augmentation.central(ImageView(images)), whole)


def test_adjoint_does_not_depend_on_the_order_of_addition():
    generator = np.random.default_rng(6)
    matrices = random_matrices(4, 6)
    b = generator.standard_normal((4, 9, 9, 2)) * 10.0 ** generator.integers(-6, 6, (4, 9, 9, 2))
    # turning the output by half a turn visits its pixels in the opposite order
    turned = matrices * np.array([-1.0, -1.0, 1.0])
    with kernels.using("reference"):
        whole = affine_resample_adjoint(b, matrices, (8, 7))
        np.testing.assert_array_equal(affine_resample_adjoint(b[:, ::-1, ::-1], turned, (8, 7)), whole)


@pytest.mark.parametrize("name", KERNELS)
def test_adjoint_passes_on_zeros_and_nan(name):
    b = np.ones((1, 3, 3, 1))
    b[0, 0, 0] = np.nan
    with kernels.using(name):
        assert not affine_resample_adjoint(np.zeros((1, 3, 3, 1)), affine_matrices(), (3, 3)).any()
        assert np.isnan(affine_resample_adjoint(b, affine_matrices(), (3, 3))[0, 0, 0, 0])


def test_float32_stays_float32_and_is_near():
    images = np.random.default_rng(7).standard_normal((3, 8, 9, 2))
    matrices = random_matrices(3, 7)
    exact = affine_resample(images, matrices, (6, 6), 0.5)
    ours = affine_resample(images.astype("f4"), matrices, (6, 6), 0.5)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-6)
    back = affine_resample_adjoint(ours, matrices, (8, 9))
    assert back.dtype == np.float32


IMAGE = np.arange(24.0).reshape(1, 4, 6, 1)


@pytest.mark.parametrize(("options", "expected"), [
    ({}, IMAGE),
    ({"shift": (1, 0)}, np.concatenate([np.full((1, 1, 6, 1), -5), IMAGE[:, :3]], axis=1)),
    ({"shift": (0, -2)}, np.concatenate([IMAGE[:, :, 2:], np.full((1, 4, 2, 1), -5)], axis=2)),
    ({"reflect": True}, IMAGE[:, :, ::-1]),
    ({"rotation": np.pi}, IMAGE[:, ::-1, ::-1]),
])
def test_simple_motions(options, expected):
    np.testing.assert_allclose(affine_resample(IMAGE, affine_matrices(**options), fill=-5.0), expected, atol=1e-12)


def test_quarter_turn_is_counter_clockwise():
    square = np.arange(9.0).reshape(1, 3, 3, 1)
    ours = affine_resample(square, affine_matrices(rotation=np.pi / 2), fill=-5.0)
    np.testing.assert_allclose(ours[0, ..., 0], np.rot90(square[0, ..., 0]), atol=1e-12)


def test_magnification_doubles_the_distance_from_the_centre():
    image = np.zeros((1, 9, 9, 1))
    image[0, 4, 6] = 1
    wide = affine_resample(image, affine_matrices(scale=(1, 2)))
    np.testing.assert_allclose(wide[0, 4, :, 0], [0, 0, 0, 0, 0, 0, 0, 0.5, 1], atol=1e-12)
    assert not wide[0, 3].any()


def test_order_is_shift_then_reflection_then_scale_then_rotation():
    image = np.zeros((1, 9, 9, 1))
    image[0, 4, 4] = 1
    # to the right by 1, mirrored to -1, stretched to -2, turned by a quarter: two pixels below the centre
    moved = affine_resample(image, affine_matrices(shift=(0, 1), reflect=True, scale=(1, 2), rotation=np.pi / 2))
    assert np.unravel_index(moved.argmax(), moved.shape) == (0, 6, 4, 0) and moved.max() == pytest.approx(1)


def test_crop_without_motion_is_the_central_crop():
    images = np.random.default_rng(8).standard_normal((2, 8, 9, 3))
    np.testing.assert_array_equal(Augmentation(crop=(6, 5)).central(images), images[:, 1:7, 2:7])
    np.testing.assert_array_equal(Augmentation(crop=(6, 5)).apply(images, 0), images[:, 1:7, 2:7])


def test_drawn_parameters_fill_their_ranges():
    augmentation = Augmentation(shift=(2, 3), scale=(0.5, 1.6), rotation=18, reflect=True)
    uniform = np.random.default_rng(9).random((4000, DRAWS))
    matrices = augmentation.matrices(uniform)
    down, right = -matrices[:, 0, 2], -matrices[:, 1, 2]
    heights = 1 / np.hypot(matrices[:, 0, 0], matrices[:, 0, 1])
    widths = 1 / np.hypot(matrices[:, 1, 0], matrices[:, 1, 1])
    angles = np.degrees(np.arctan2(matrices[:, 0, 1], matrices[:, 0, 0]))
    mirrored = np.linalg.det(matrices[:, :, :2]) < 0
    for values, low, high in ((down, -2, 2), (right, -3, 3), (np.log(heights), math.log(0.5), math.log(1.6)),
                              (np.log(widths), math.log(0.5), math.log(1.6)), (angles, -18, 18)):
        assert low <= values.min() < low + 0.01 * (high - low) and high - 0.01 * (high - low) < values.max() <= high
        # uniform: mean and variance within four standard errors
        assert abs(values.mean() - (low + high) / 2) < 4 * (high - low) / math.sqrt(12 * 4000)
        assert values.var() == pytest.approx((high - low) ** 2 / 12, rel=0.06)
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / math.sqrt(4000)
    variables = np.stack([down, right, heights, widths, angles, mirrored])
    assert np.abs(np.corrcoef(variables) - np.eye(6)).max() < 0.07


def test_whole_pixel_shifts_are_all_reached_and_keep_images_sharp():
    images = np.random.default_rng(10).standard_normal((300, 6, 6, 1))
    augmentation = Augmentation(crop=4, shift=1, whole_pixels=True)
    seen = set()
    for image, crop in zip(images, augmentation.apply(images, 3), strict=True):
        places = [(i, j) for i in range(3) for j in range(3) if np.array_equal(image[i:i + 4, j:j + 4], crop)]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) == 9


def test_the_key_decides_the_draw_and_options_do_not_disturb_each_other():
    images = np.random.default_rng(11).standard_normal((5, 8, 8, 1))
    augmentation = Augmentation(shift=2, rotation=20)
    first = augmentation.apply(images, (1, 2, 3))
    np.testing.assert_array_equal(augmentation.apply(images, (1, 2, 3)), first)
    assert not np.array_equal(augmentation.apply(images, (1, 2, 4)), first)
    uniform = np.random.default_rng(0).random((5, DRAWS))
    plain = Augmentation(shift=2)
    np.testing.assert_array_equal(augmentation.matrices(uniform)[..., 2], plain.matrices(uniform)[..., 2])


def test_uint8_images_keep_their_values_and_fill_is_per_channel():
    images = np.random.default_rng(12).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    padded = Augmentation(crop=6, fill=(1, 2, 3)).central(images)
    assert padded.dtype == np.float32
    np.testing.assert_array_equal(padded[:, 1:5, 1:5], images)
    np.testing.assert_array_equal(padded[:, 0], np.broadcast_to([1, 2, 3], (2, 6, 3)))


@pytest.mark.parametrize(("options", "message"), [
    ({"crop": 0}, "crop is 0"), ({"crop": 2.5}, "crop is 2.5"), ({"crop": (3, 4, 5)}, "crop is .* pair of numbers"),
    ({"shift": -1}, "shift is"), ({"shift": math.nan}, "shift is nan; it must be finite"),
    ({"shift": 1.5, "whole_pixels": True}, "with whole_pixels it must be a whole number"),
    ({"scale": (1.4, 0.7)}, "scale is"), ({"scale": (0, 1)}, "scale is"), ({"scale": "big"}, "scale is 'big'"),
    ({"rotation": 181}, "rotation is 181"), ({"rotation": -5}, "rotation is -5"), ({"fill": math.inf}, "fill is inf"),
])
def test_senseless_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


def test_fill_must_suit_the_channels():
    with pytest.raises(ValueError, match="fill has 3 values, but the images have 1 channels"):
        Augmentation(fill=(1, 2, 3)).central(IMAGE)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: affine_resample(IMAGE[0], affine_matrices()), r"images must be a floating-point array \(N, H, W, C\)"),
    (lambda: affine_resample(IMAGE.astype(int), affine_matrices()), "not int64"),
    (lambda: affine_resample(IMAGE, random_matrices(3, 0)), r"matrices must be of shape \(1, 2, 3\)"),
    (lambda: affine_resample(IMAGE, affine_matrices(), (0, 4)), "must be positive"),
    (lambda: affine_resample_adjoint(IMAGE, affine_matrices()[0], (4, 4)), "matrices must be of shape"),
    (lambda: affine_matrices(scale=(0.0, 1.0)), "scale must be positive"),
])
def test_misfits_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
