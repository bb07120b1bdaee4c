"""Epochs on the device, recorded and launched again, against the training loop on the CPU."""
import contextlib
import gc
import types

import numpy as np
import pytest

import convnet
from convnet import devices, evaluation, training
from convnet.evaluation import error_rate
from convnet.kernels import to_numpy
from convnet.kernels.cuda import capture
from convnet.kernels.cuda.capture import Recorder
from convnet.kernels.cuda.epochs import DeviceEpochs, device_epochs
from convnet.layers import BatchNorm, Concatenate, Conv, Dense, Dropout, Flatten, ReLU
from convnet.losses import SoftmaxCrossEntropy
from convnet.optimizers import SGD, AdaGrad, Adam, RMSProp
from convnet.passes import Backprop, LossIBP, NoiseInjection, PredictionIBP
from convnet.progress import Progress
from convnet.samples import Samples
from convnet.schedules import Exponential
from convnet.training import NonFiniteLossError
from tests.gpu.comparisons import ALGORITHMS, IMAGE, compare
from tests.kernels_cuda import cupy_double, shim

pytestmark = pytest.mark.usefixtures("cupy")

OPTIMIZERS = {
    "plain": SGD(0.05),
    "momentum": SGD(0.05, momentum=0.9, dampening=0.9, weight_decay=0.1, l1=0.02),
    "nesterov": SGD(0.02, momentum=0.8, nesterov=True),
    "adagrad": AdaGrad(0.05, weight_decay=0.1),
    "rmsprop": RMSProp(0.01, decay=0.7, epsilon=1e-3, epsilon_inside=True),
    "adam": Adam(0.01, beta1=0.8, beta2=0.9, epsilon=1e-3, l1=0.01),
    "adam inside": Adam(0.01, epsilon=1e-3, epsilon_inside=True),
}


def small() -> list:
    return [Conv(3, 3, bias=False), BatchNorm(), ReLU(), Dropout(0.3), Flatten(), Dense(4)]


def data(samples=22, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((samples, *IMAGE)), rng.integers(4, size=samples)


def both(layers, algorithm, optimizer, loss=None, epochs=3, batch_size=4, prepare=lambda net: None, **options):
    """Return (network, history, optimiser's state) of equal runs on the CPU and on the device."""
    results = []
    for device in ("cpu", "gpu"):
        net = convnet.Network(layers(), IMAGE, seed=1, dtype="float64", device=device)
        prepare(net)
        result = convnet.train(net, data(), algorithm, optimizer, epochs, batch_size, Exponential(0.9), seed=2, loss=loss,
                               **options)
        results.append((net, result.history, optimizer.state_dict()))
    return results


def agree(results):
    """Check that two runs did the same."""
    (cpu, expected, state), (gpu, found, state_found) = results
    compare("parameters", cpu.parameters, gpu.parameters, "float64")
    compare("optimizer", state, state_found, "float64")
    compare("statistics", cpu.state, gpu.state, "float64")
    assert cpu.generator.bit_generator.state == gpu.generator.bit_generator.state
    for name in ("loss", "penalty", "objective", "training_error"):
        np.testing.assert_allclose(found.column(name), expected.column(name), rtol=1e-9, err_msg=name)


@pytest.fixture
def made(monkeypatch):
    """The epochs objects that training makes."""
    found = []
    start = DeviceEpochs.__init__

    def noted(self, *args, **options):
        start(self, *args, **options)
        found.append(self)

    monkeypatch.setattr(DeviceEpochs, "__init__", noted)
    return found


@pytest.mark.parametrize("name", [
    name if name in ("momentum", "adam") else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS
])
def test_optimizers(made, name):
    agree(both(small, Backprop(), OPTIMIZERS[name]))
    assert not made[0].refusals and all(replay.recorded for replay in made[0]._replays.values())


def test_frozen_layers_and_learning_rates_of_their_own(made):
    def prepare(net):
        net.set_coefficients("5", learning_rate=0.5, bias=2.0)
        net.freeze("0", "1")

    agree(both(small, LossIBP(0.1), SGD(0.1, momentum=0.9, weight_decay=0.1), prepare=prepare))
    assert not made[0].refusals


# What these draw on the host keeps them off the device.
DRAWN = {"noise", "jacobian projected"}


@pytest.mark.parametrize("name", [
    name if name in ("backprop weighted", "loss ibp", "noise") else pytest.param(name, marks=pytest.mark.slow)
    for name in ALGORITHMS
])
def test_algorithms(made, name):
    case = ALGORITHMS[name]
    tangents = np.random.default_rng(3).standard_normal((22, 2, *IMAGE)) if "tangent" in name or name == "sum" else None
    agree(both(case.layers, case.algorithm, SGD(0.02, momentum=0.5), case.loss, tangents=tangents))
    assert [len(epochs.refusals) for epochs in made] == ([] if name in DRAWN else [0])


def test_a_batch_size_that_divides_and_one_that_is_larger(made):
    for batch_size in (11, 40):
        agree(both(small, Backprop(), SGD(0.1), batch_size=batch_size, epochs=4))
    assert [list(epochs._replays) for epochs in made] == [[11], [22]]


def test_steps_wait_for_nothing_and_send_nothing(made):
    both(small, LossIBP(0.1), Adam(0.01), epochs=1)
    epochs = made[0]
    for forbidden in (contextlib.nullcontext(), contextlib.nullcontext(), cupy_double.no_transfers()):
        epochs._next.set(np.array([0]))
        with forbidden:
            for replay in epochs._replays.values():
                replay.run()
    assert all(replay.recorded for replay in epochs._replays.values())


def test_what_cannot_be_recorded_runs_kernel_by_kernel(cupy, made, monkeypatch):
    before = ReLU.forward

    def uploading(self, x, record):
        y = before(self, x, record)
        return y if isinstance(y, np.ndarray) else y * cupy.asarray(np.ones(1))

    monkeypatch.setattr(ReLU, "forward", uploading)
    agree(both(small, Backprop(), SGD(0.1)))
    assert set(made[0].refusals) == {4, 2}


def test_a_recording_that_cannot_be_ended_runs_kernel_by_kernel(made, monkeypatch):
    end = cupy_double.Stream.end_capture

    def failing(self):
        end(self)
        raise RuntimeError("the capture was invalidated")

    monkeypatch.setattr(cupy_double.Stream, "end_capture", failing)
    agree(both(small, Backprop(), SGD(0.1)))
    assert [str(refusal) for refusal in made[0].refusals.values()] == ["the capture was invalidated"] * 2


def test_memory_of_recorded_work_is_given_back_when_training_ends():
    net, freed = convnet.Network(small(), IMAGE, device="gpu"), cupy_double.MemoryPool.freed
    gc.collect()
    gc.disable()  # it may come late
    try:
        convnet.train(net, data(), LossIBP(0.1), SGD(0.1), 3, 4)
        assert cupy_double.MemoryPool.freed == freed + 1
    finally:
        gc.enable()


def test_a_full_device_takes_the_default_pool_s_memory_and_never_a_graph_s(cupy):
    # The runtime's answers: 2 says that the device is full, 700 that a kernel has left its arrays.
    recorder, answers = Recorder(cupy), [2, 0, 2, 2, 700]

    def memory(size):
        status = answers.pop(0)
        if status:
            raise cupy.cuda.runtime.CUDARuntimeError(status)
        return size

    cupy.cuda.Memory, freed = memory, cupy_double.MemoryPool.freed
    assert recorder.pool.allocator(1000) == (1000, 0)
    assert cupy_double.MemoryPool.freed == freed + 1
    # What a pool takes for a reason to free its own memory is CUDARuntimeError.
    with pytest.raises(cupy_double.OutOfMemoryError):
        recorder.pool.allocator(1000)
    with pytest.raises(cupy_double.CUDARuntimeError, match="700"):
        recorder.pool.allocator(1000)
    assert not answers


def test_host_draws_keep_the_host_in_the_loop():
    net = convnet.Network(small(), IMAGE, dtype="float64", device="gpu")
    optimizer = SGD(0.1)
    optimizer.start(net)
    samples = Samples(net, data(), 4, 0, None, None)
    loss = SoftmaxCrossEntropy()
    state, vector = net.generator.bit_generator.state, to_numpy(net.vector)
    assert device_epochs(net, NoiseInjection(0.1), optimizer, loss, samples) is None
    assert net.generator.bit_generator.state == state
    np.testing.assert_array_equal(to_numpy(net.vector), vector)
    assert device_epochs(net, Backprop(), optimizer, loss, samples) is not None


def test_other_optimizers_augmentation_and_large_data_keep_the_host_in_the_loop(monkeypatch, cupy):
    class Own(SGD):
        pass

    net = convnet.Network(small(), IMAGE, dtype="float64", device="gpu")
    loss = SoftmaxCrossEntropy()
    samples = Samples(net, data(), 4, 0, None, None)
    for optimizer, expected in ((Own(0.1), False), (SGD(0.1), True)):
        optimizer.start(net)
        assert (device_epochs(net, Backprop(), optimizer, loss, samples) is not None) == expected
    cpu = convnet.Network(small(), IMAGE, dtype="float64")
    assert device_epochs(cpu, Backprop(), optimizer, loss, samples) is None
    samples.augmentation = object()
    assert device_epochs(net, Backprop(), optimizer, loss, samples) is None
    samples.augmentation = None
    monkeypatch.setattr(cupy.cuda.runtime, "memGetInfo", lambda: (2 * samples.images.nbytes, 1 << 30))
    assert device_epochs(net, Backprop(), optimizer, loss, samples) is None


def test_an_interrupted_epoch_leaves_nothing_under_way(monkeypatch, cupy, made):
    both(small, Backprop(), SGD(0.1), epochs=1)
    waits, runs = [], []

    def interrupted(self):
        runs.append(self)
        if len(runs) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(capture.Replay, "run", interrupted)
    monkeypatch.setattr(made[0]._recorder.stream, "synchronize", lambda: waits.append(len(runs)), raising=False)
    with pytest.raises(KeyboardInterrupt):
        made[0].epoch(np.arange(22), 0.1)
    assert waits == [3]


def test_a_test_that_the_memory_does_not_hold_loses_no_epoch(monkeypatch, cupy, tmp_path):
    images, labels = data()
    split = types.SimpleNamespace(train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    net = convnet.Network(small(), IMAGE, seed=1, dtype="float64", device="gpu")
    with monkeypatch.context() as patch:
        patch.setattr(convnet.Network, "forward", lambda self, x: cupy_double.out_of_memory())
        with pytest.raises(devices.DeviceMemoryError, match="a batch of 1024 images"):
            convnet.train(net, split, Backprop(), SGD(0.1), 2, 4, seed=2, checkpoint_folder=tmp_path)
    expected = error_rate(net, images, labels)
    again = convnet.Network(small(), IMAGE, seed=1, dtype="float64", device="gpu")
    result = convnet.train(again, split, Backprop(), SGD(0.1), 2, 4, seed=2, checkpoint_folder=tmp_path)
    assert result.history[0].test_error == expected
    whole = convnet.Network(small(), IMAGE, seed=1, dtype="float64", device="gpu")
    convnet.train(whole, split, Backprop(), SGD(0.1), 2, 4, seed=2)
    np.testing.assert_array_equal(to_numpy(again.vector), to_numpy(whole.vector))


def test_fewer_large_images_are_tested_at_a_time():
    for side, device, expected in ((32, "gpu", 1024), (8, "gpu", 1024), (224, "gpu", 20), (224, "cpu", 256)):
        net = types.SimpleNamespace(device=device, root=types.SimpleNamespace(input_shape=(side, side, 3)))
        assert evaluation._slice(net) == expected


def test_a_relu_behind_the_last_weights_needs_no_third_pass(cupy):
    rng = np.random.default_rng(0)
    net = convnet.Network([Flatten(), Dense(5), ReLU()], IMAGE, dtype="float64", device="gpu")
    batch = convnet.Batch(rng.standard_normal((3, *IMAGE)), rng.integers(5, size=3))
    LossIBP(0.1).gradients(net, SoftmaxCrossEntropy(), batch)
    assert cupy_double.log.launches.count("product_nn") == 1


@pytest.mark.parametrize("room", [True, False])
def test_test_images_are_sent_once_where_they_fit(monkeypatch, cupy, room):
    images, labels = data()
    tests, test_labels = data(seed=1)
    split = types.SimpleNamespace(train_images=images, train_labels=labels, test_images=tests, test_labels=test_labels)
    if not room:
        monkeypatch.setattr(cupy.cuda.runtime, "memGetInfo", lambda: (9 * tests.nbytes, 1 << 30))
    errors = []
    for device, epochs in (("cpu", 3), ("gpu", 3), ("gpu", 4)):
        net = convnet.Network(small(), IMAGE, seed=1, dtype="float64", device=device)
        tested = []
        monkeypatch.setattr(training, "error_rate", lambda net, given, ids, tested=tested: (
            tested.append(given) or error_rate(net, given, ids)))
        result = convnet.train(net, split, Backprop(), SGD(0.1), epochs, 4, seed=2)
        errors.append(result.history.column("test_error"))
        assert {type(given) for given in tested} == {cupy.ndarray if device == "gpu" and room else np.ndarray}
        assert len({id(given) for given in tested}) == 1
    assert errors[0] == errors[1] == errors[2][:3]


def test_the_first_loss_that_is_not_finite_stops_everything(made):
    images, labels = data()
    # Sums over this image's windows are infinite.
    images[7] = 1e308 * np.sign(images[7])
    nets = []
    for device in ("cpu", "gpu"):
        net = convnet.Network([Conv(3, 3), ReLU(), BatchNorm(), Flatten(), Dense(4)], IMAGE, seed=1, dtype="float64",
                              device=device)
        with pytest.raises(NonFiniteLossError, match=r"epoch 1, batch [2-6] of 6") as error:
            convnet.train(net, (images, labels), LossIBP(0.1, norm=2), SGD(0.1, momentum=0.9), 2, 4, seed=2)
        nets.append((net, str(error.value)))
    (cpu, expected), (gpu, found) = nets
    assert found == expected
    compare("parameters", cpu.parameters, gpu.parameters, "float64")
    compare("statistics", cpu.state, gpu.state, "float64")


def test_a_run_goes_on_from_a_checkpoint(tmp_path):
    def run(epochs, folder, device="gpu"):
        net = convnet.Network(small(), IMAGE, seed=1, dtype="float64", device=device)
        convnet.train(net, data(), LossIBP(0.1), Adam(0.01), epochs, 4, seed=2, checkpoint_folder=folder)
        return to_numpy(net.vector)

    whole = run(3, tmp_path / "whole")
    run(1, tmp_path / "parts")
    np.testing.assert_array_equal(run(3, tmp_path / "parts"), whole)


def test_the_progress_bar_counts_recorded_steps(monkeypatch):
    counted = []
    monkeypatch.setattr(Progress, "step", lambda self, totals: counted.append(totals.count))
    net = convnet.Network(small(), IMAGE, device="gpu")
    convnet.train(net, data(), Backprop(), SGD(0.1), 3, 4)
    assert counted == [22] * 18


def test_too_little_memory_names_the_batch_size(monkeypatch, cupy):
    net = convnet.Network(small(), IMAGE, dtype="float64", device="gpu")
    monkeypatch.setattr(capture.Replay, "_record", lambda self, cuda: cupy_double.out_of_memory())
    with pytest.raises(devices.DeviceMemoryError, match="a batch of 4 images"):
        convnet.train(net, data(), Backprop(), SGD(0.1), 1, 4)


def test_joined_branches_are_trained_too(made):
    def layers():
        return [Flatten(), Concatenate([Dense(3), Dense(2)]), Dense(4)]

    agree(both(layers, Backprop(), SGD(0.1)))


@pytest.mark.parametrize("network, algorithm, launches", [
    ("mnist", Backprop(), 22), ("mnist", LossIBP(0.01), 31), ("mnist", PredictionIBP(0.01), 42),
    ("cifar", Backprop(), 27), ("cifar", LossIBP(0.01), 38),
])
def test_launches_of_a_step(monkeypatch, cupy, made, network, algorithm, launches):
    # What is launched does not depend on what the kernels find; of 132 multiprocessors.
    monkeypatch.setattr(shim.Library, "launch", lambda *arguments: None)
    properties = {"name": b"CPU double", "multiProcessorCount": 132}
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda device: properties)
    shape = {"mnist": (28, 28, 1), "cifar": (32, 32, 3)}[network]
    net = convnet.architectures.build(network, shape, 10, device="gpu")
    optimizer = SGD(0.1, momentum=0.9, dampening=0.9)
    optimizer.start(net)
    images = np.zeros((32, *shape), np.float32)
    DeviceEpochs(net, algorithm, optimizer, SoftmaxCrossEntropy(), images, np.eye(10)[np.arange(32) % 10], np.arange(32), 32)
    replay = made[0]._replays[32]
    while not replay.recorded:
        replay.run()
    assert len(replay._graph._operations) == launches
