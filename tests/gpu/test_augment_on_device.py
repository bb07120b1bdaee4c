"""Augmentation on a GPU against the CPU."""
import numpy as np
import pytest

from convnet import kernels
from convnet.data.affine import affine_matrices, affine_resample, affine_resample_adjoint
from convnet.data.augment import Augmentation

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


def case(dtype):
    generator = np.random.default_rng(0)
    matrices = affine_matrices(generator.uniform(-3, 3, (2, 6)), np.exp(generator.uniform(-0.7, 0.7, (2, 6))),
                               generator.uniform(-3, 3, 6), generator.integers(0, 2, 6))
    return generator.standard_normal((6, 9, 8, 3)).astype(dtype), matrices


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_resampling_and_adjoint_agree_with_the_cpu(cupy, dtype):
    images, matrices = case(dtype)
    device = cupy.asarray(images)
    tolerance = 8 * np.finfo(dtype).eps
    for ours, expected in (
            (affine_resample(device, matrices, (7, 11), 0.5), affine_resample(images, matrices, (7, 11), 0.5)),
            (affine_resample_adjoint(device, matrices, (10, 6)), affine_resample_adjoint(images, matrices, (10, 6)))):
        assert isinstance(ours, cupy.ndarray) and ours.dtype == dtype
        np.testing.assert_allclose(kernels.to_numpy(ours), expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_the_adjoint_repeats_bit_for_bit(cupy):
    images, matrices = case("f4")
    device = cupy.asarray(np.tile(images, (50, 1, 1, 1)))
    many = np.tile(matrices, (50, 1, 1))
    first = affine_resample_adjoint(device, many, (10, 6))
    for _ in range(5):
        assert bool((affine_resample_adjoint(device, many, (10, 6)) == first).all())


def test_the_same_key_gives_the_same_variants_on_both_devices(cupy):
    images, _ = case("f8")
    augmentation = Augmentation(crop=7, shift=2, scale=(0.7, 1.4), rotation=18, reflect=True, fill=(0.1, 0.2, 0.3))
    for ours, expected in ((augmentation.apply(cupy.asarray(images), 5), augmentation.apply(images, 5)),
                           (augmentation.central(cupy.asarray(images)), augmentation.central(images))):
        np.testing.assert_allclose(kernels.to_numpy(ours), expected, rtol=0, atol=1e-14)
