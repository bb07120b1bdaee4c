"""The whole engine on a GPU against the CPU: ``python -m pytest tests/gpu``."""
import numpy as np
import pytest

import convnet
from convnet import Batch, Network, devices, kernels
from convnet.kernels import to_numpy
from convnet.kernels.cuda.choice import Choices
from convnet.layers import Conv, Dense, Flatten, ReLU
from convnet.losses import SoftmaxCrossEntropy
from convnet.optimizers import SGD
from convnet.passes import Backprop, LossIBP
from tests.gpu.comparisons import ALGORITHMS, IMAGE, LAYERS, batch, compare_algorithm, compare_layer
from tests.gpu.device_tests import *  # noqa: F403
from tests.kernels_cuda.test_cuda_kernels import (  # noqa: F401
    test_a_block_gives_what_its_layers_give,
    test_a_convolution_of_many_tiles,
    test_complex_arrays_are_left_to_array_operations,
    test_convolution,
    test_dropout_masks_are_those_of_numpy,
    test_elementwise,
    test_large_windows_have_wide_positions,
    test_many_combinations,
    test_multiples_of_rows,
    test_not_a_number_is_seen,
    test_pooling,
    test_products,
    test_products_end_in_a_relu,
    test_products_of_what_is_not_contiguous,
    test_slices_are_added_in_a_fixed_order,
    test_softmax_cross_entropy,
    test_sums_over_rows,
    test_the_gradients_of_a_bias_come_with_those_of_the_weights,
)
from tests.kernels_cuda.test_epochs import (  # noqa: F401
    made,
    test_a_batch_size_that_divides_and_one_that_is_larger,
    test_a_run_goes_on_from_a_checkpoint,
    test_frozen_layers_and_learning_rates_of_their_own,
    test_host_draws_keep_the_host_in_the_loop,
    test_joined_branches_are_trained_too,
    test_optimizers,
    test_the_first_loss_that_is_not_finite_stops_everything,
    test_what_cannot_be_recorded_runs_kernel_by_kernel,
)
from tests.kernels_cuda.test_epochs import test_algorithms as test_recorded_algorithms  # noqa: F401

# A library's warning about itself is no failure of what is compared here.
pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cupy"), pytest.mark.filterwarnings("default")]

WAYS = ["own", "own, large tiles", "cublas"]


@pytest.fixture
def way(request, monkeypatch, cupy):
    """Take one way for all products that have it, instead of the fastest one of each."""
    if request.param == "cublas" and kernels.gpu().cublas_error:
        # What is installed has to work.
        (pytest.skip if "cannot be loaded" in kernels.gpu().cublas_error else pytest.fail)(kernels.gpu().cublas_error)
    monkeypatch.setattr(Choices, "_fastest", lambda self, problem, ways: request.param if request.param in ways else "own")
    return request.param


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, training, dtype):
    compare_layer(LAYERS[name], dtype, training)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("way", WAYS, indirect=True)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithms(way, name, dtype):
    compare_algorithm(ALGORITHMS[name], dtype)


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_recorded_epochs_repeat_bit_for_bit(way, made):  # noqa: F811
    rng = np.random.default_rng(0)
    data = rng.standard_normal((70, 28, 28, 1)).astype(np.float32), rng.integers(10, size=70)
    vectors = []
    for _ in range(2):
        net = Network([Conv(32, 4), ReLU(), Conv(64, 5, 2), ReLU(), Flatten(), Dense(10)], (28, 28, 1), device="gpu")
        convnet.train(net, data, LossIBP(0.01), SGD(0.01, momentum=0.9), 4, 16)
        vectors.append(to_numpy(net.vector))
    np.testing.assert_array_equal(*vectors)
    assert not made[0].refusals and not made[1].refusals


@pytest.mark.parametrize("way", ["own", "own, large tiles"], indirect=True)
def test_sums_of_many_blocks_are_right_and_repeat_bit_for_bit(way):
    """More slices than one block adds up, added by whichever block is the last: again and again."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((20_000, 30)), rng.standard_normal((20_000, 20))
    x, c = rng.standard_normal((64, 20, 20, 3)), rng.standard_normal((64, 18, 18, 20))
    cpu, gpu, xp = kernels.load("reference"), kernels.gpu(), kernels.gpu()._xp
    work = [("product", (a.T, b), ()), ("row_sum", (a,), ()), ("dense_gradients", (a, b), ()),
            ("conv_gradients", (x, c), ((3, 3), (1, 1), (0, 0)))]
    for name, arrays, options in work:
        expected = getattr(cpu, name)(*arrays, *options)
        on = [xp.asarray(array.T).T if array is a.T else xp.asarray(array) for array in arrays]
        runs = [getattr(gpu, name)(*on, *options) for _ in range(200)]
        runs, expected = ([r if isinstance(r, tuple) else (r,) for r in each] for each in (runs, [expected]))
        for k, right in enumerate(expected[0]):
            first = to_numpy(runs[0][k])
            np.testing.assert_allclose(first, right, rtol=0, atol=1e-10 * np.abs(right).max(), err_msg=name)
            for other in runs[1:]:
                np.testing.assert_array_equal(to_numpy(other[k]), first, err_msg=name)


def test_automatic_choice_takes_the_device(cupy):
    assert Network([Flatten(), Dense(3)], (2, 2, 1), device="auto").device == "gpu"


def test_too_little_memory_names_the_batch_size(cupy):
    net = Network([Conv(64, 5), ReLU(), Flatten(), Dense(4)], (64, 64, 3), device="gpu")
    images = np.zeros((512, 64, 64, 3), np.float32)
    pool = cupy.get_default_memory_pool()
    limit = pool.get_limit()
    pool.free_all_blocks()
    pool.set_limit(size=pool.total_bytes() + 64 * 2**20)
    try:
        with pytest.raises(devices.DeviceMemoryError, match="a batch of 512 images"), devices.memory_errors(512):
            Backprop().gradients(net, SoftmaxCrossEntropy(), Batch(images, np.zeros(512, int)))
    finally:
        pool.set_limit(size=limit)
    step = Backprop().gradients(net, SoftmaxCrossEntropy(), Batch(images[:4], np.zeros(4, int)))
    assert np.isfinite(to_numpy(step.flat_gradient)).all()


def test_tf32_rounds_and_is_off_by_default(cupy):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((256, 256)).astype(np.float32) for _ in range(2))
    exact = a.astype(float) @ b
    errors = []
    for allowed in (False, True):
        devices.allow_tf32(allowed)
        found = to_numpy(kernels.gpu().product(cupy.asarray(a), cupy.asarray(b)))
        errors.append(np.abs(found - exact).max() / np.abs(exact).max())
    assert errors[0] < 1e-5
    assert errors[1] < 1e-2
    if not kernels.gpu().cublas_error:
        assert errors[1] > 10 * errors[0]


def test_a_step_on_a_network_that_was_trained_on_the_other_side(cupy, tmp_path):
    cpu = Network([Conv(3, 3), ReLU(), Flatten(), Dense(4)], IMAGE, dtype="float64")
    given = batch(20)
    convnet.train(cpu, (given.images, given.labels), Backprop(), SGD(0.1), 2, 5)
    cpu.save(tmp_path / "net.npz")
    gpu = Network.load(tmp_path / "net.npz", device="gpu")
    steps = [LossIBP(0.1).gradients(net, SoftmaxCrossEntropy(), given) for net in (cpu, gpu)]
    expected = steps[0].flat_gradient
    np.testing.assert_allclose(to_numpy(steps[1].flat_gradient), expected, rtol=0, atol=1e-10 * np.abs(expected).max())
