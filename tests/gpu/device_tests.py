"""Tests that hold on a GPU and on the stand-in for one alike; they take a fixture `cupy`."""
import copy
import pickle

import numpy as np
import pytest

import convnet
from convnet import Batch, Network, kernels
from convnet.evaluation import error_rate, fgsm_errors, noise_errors
from convnet.kernels import to_numpy
from convnet.layers import BatchNorm, Conv, Dense, Dropout, Flatten, MaxPool, ReLU
from convnet.optimizers import SGD, Adam
from convnet.passes import Backprop, LossIBP
from tests.gpu.comparisons import DRAW, IMAGE, batch, on_device


def layers() -> list:
    return [Conv(5, 3, padding=1), BatchNorm(), ReLU(), MaxPool(3, 2), Dropout(0.3), Flatten(), Dense(4)]


def network(device: str, dtype: str = "float32") -> Network:
    return Network(layers(), IMAGE, seed=1, dtype=dtype, device=device)


def test_networks_move_between_devices(cupy, tmp_path):
    images = batch(6).images
    for source, target in (("cpu", "gpu"), ("gpu", "cpu"), ("gpu", "gpu")):
        net = network(source)
        net.set_state({name: array + 0.5 for name, array in net.state.items()})
        net.save(tmp_path / "net.npz")
        moved = Network.load(tmp_path / "net.npz", device=target)
        assert moved.device == target and moved.xp is (np if target == "cpu" else cupy)
        np.testing.assert_array_equal(to_numpy(moved.vector), to_numpy(net.vector))
        for name, array in net.state.items():
            np.testing.assert_array_equal(to_numpy(moved.state[name]), to_numpy(array))
        expected, found = (to_numpy(n.forward(images)) for n in (net, moved))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        assert (to_numpy(moved.predict(images)) == to_numpy(net.predict(images))).all()


def test_copies_are_independent_and_equal(cupy):
    net = network("gpu")
    for made in (net.copy(), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert made.device == "gpu" and isinstance(made.vector, cupy.ndarray)
        before = to_numpy(net.vector)
        made.vector[...] = 0
        np.testing.assert_array_equal(to_numpy(net.vector), before)
        assert made.generator.integers(2**63) == copy.deepcopy(net.generator).integers(2**63)


def test_errors_are_those_of_the_cpu(cupy):
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((30, *IMAGE)), rng.integers(4, size=30)
    nets = [network(device, "float64") for device in ("cpu", "gpu")]
    for measure in (lambda *a: [error_rate(*a, 7)], lambda *a: noise_errors(*a, [0.1, 1], batch_size=7),
                    lambda *a: fgsm_errors(*a, [0.1, 1], batch_size=7)):
        expected = measure(nets[0], images, labels)
        assert 0 < expected[0] < 1
        assert measure(nets[1], images, labels) == measure(nets[1], images, cupy.asarray(labels)) == expected
        assert measure(nets[1], cupy.asarray(images), labels) == expected
    with pytest.raises(ValueError, match="NaN"):
        error_rate(nets[1], images * np.nan, labels)
    nets[1].vector[...] = np.nan
    assert error_rate(nets[1], images, labels) == 1


def test_the_same_seed_gives_the_same_bits(cupy):
    rng = np.random.default_rng(0)
    data = rng.standard_normal((22, *IMAGE)).astype(np.float32), rng.integers(4, size=22)
    runs = []
    for _ in range(2):
        net = network("gpu")
        result = convnet.train(net, data, LossIBP(0.1), Adam(0.01), 3, 4, seed=2)
        runs.append((to_numpy(net.vector), result.history.column("loss")))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]


def test_dropout_masks_are_those_of_the_cpu(cupy):
    kept = []
    for device in ("cpu", "gpu"):
        net = Network([Dropout(0.4), Flatten(), Dense(4)], IMAGE, device=device)
        step = LossIBP(0.1).gradients(net, convnet.losses.SoftmaxCrossEntropy(), batch(), draw=DRAW)
        kept.append(to_numpy(step.input_gradient) != 0)
    np.testing.assert_array_equal(kept[0], kept[1])
    assert 0.4 < kept[0].mean() < 0.8


def test_labels_and_images_may_live_on_either_side(cupy):
    net, loss = network("gpu", "float64"), convnet.losses.SoftmaxCrossEntropy()
    given = batch()
    forms = [Batch(given.images, given.labels), Batch(given.images, np.eye(4)[given.labels]), on_device(given, net),
             Batch(cupy.asarray(given.images), cupy.asarray(given.labels))]
    steps = [Backprop().gradients(net, loss, form, draw=DRAW) for form in forms]
    for step in steps[1:]:
        np.testing.assert_array_equal(to_numpy(step.flat_gradient), to_numpy(steps[0].flat_gradient))


@pytest.mark.parametrize("count", [0, 7, 10, 23])
def test_gradients_are_put_together_from_many_parts(cupy, count):
    rng = np.random.default_rng(1)
    shapes = [(3, 2), (5,), (1, 4, 2), (7,), (2,), (3,), (4,), (6,), (1,), (2, 2)]
    sizes = [int(np.prod(shape)) for shape in shapes]
    starts = np.cumsum([0, *sizes])
    products = [(k % len(shapes), rng.standard_normal(shapes[k % len(shapes)]), float(k - 3)) for k in range(count)]
    found = {}
    for name, xp in (("cpu", np), ("gpu", cupy)):
        vector = xp.full(int(starts[-1]), np.nan)
        parts = {str(k): vector[int(starts[k]):int(starts[k + 1])].reshape(shape) for k, shape in enumerate(shapes)}
        total = kernels.of(vector).gradient_sum(vector, parts)
        for place, value, scale in products:
            total.add(str(place), xp.asarray(value), scale)
        total.finish(0.25)
        found[name] = to_numpy(vector)
    np.testing.assert_allclose(found["gpu"], found["cpu"], rtol=1e-13)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5, 4, 2), (2, 300), (4, 256), (5,)])
@pytest.mark.parametrize("r", [1, 2])
def test_penalties_of_norms(cupy, shape, r):
    v = np.random.default_rng(1).standard_normal(shape)
    v.flat[0] = 0
    for found, expected in zip(kernels.gpu().norm_penalty(cupy.asarray(v), r), kernels.cpu().norm_penalty(v, r), strict=True):
        np.testing.assert_allclose(to_numpy(found), expected, rtol=1e-13, strict=True)


@pytest.mark.parametrize("count", [1, 2, 255, 257, 1000])
def test_means_of_a_step(cupy, count):
    rng = np.random.default_rng(count)
    losses, penalties = rng.standard_normal((2, count)) + 3
    for given in (penalties, None):
        found = kernels.gpu().step_means(cupy.asarray(losses), None if given is None else cupy.asarray(given), 0.7)
        expected = kernels.cpu().step_means(losses, given, 0.7)
        np.testing.assert_allclose([float(value) for value in found], expected, rtol=1e-13)


def test_a_step_leaves_its_network_alone(cupy):
    net = network("gpu")
    before, state = to_numpy(net.vector), {name: to_numpy(array) for name, array in net.state.items()}
    step = LossIBP(0.1).gradients(net, convnet.losses.SoftmaxCrossEntropy(), batch())
    np.testing.assert_array_equal(to_numpy(net.vector), before)
    for name, array in net.state.items():
        np.testing.assert_array_equal(to_numpy(array), state[name])
    SGD(0.1).update(net, step)
    assert (to_numpy(net.vector) != before).any()
