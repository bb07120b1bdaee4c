"""Frozen layers do no needless work in any pass; coefficients become one vector for the optimiser."""
from collections import Counter

import numpy as np
import pytest

import convnet
from convnet.layers import BatchNorm, Conv, Dense, Flatten, ReLU, Residual, ScaleInvariantClassifier
from convnet.losses import ScaleInvariantCost, SoftmaxCrossEntropy
from convnet.passes import Backprop, LossIBP

METHODS = ("backward", "third_pass", "weight_gradients")


def network(dtype="float64", **options):
    layers = [Conv(3, 2), ReLU(), Conv(4, 2), ReLU(), Flatten(), Dense(5), ReLU(), Dense(3)]
    return convnet.Network(layers, (4, 4, 1), dtype=dtype, **options)


def some_batch(shape=(4, 4, 1), classes=3):
    rng = np.random.default_rng(0)
    return convnet.Batch(rng.standard_normal((6, *shape)), rng.integers(0, classes, 6))


def counted(count, key, method):
    """Return `method` as a function that counts its calls."""
    def call(*args):
        count[key] += 1
        return method(*args)

    return call


def calls(net, algorithm, loss=None):
    """Return {(path, method): calls} of one step, and the step."""
    count = Counter()
    for layer, path in net.paths.items():
        for method in METHODS:
            setattr(layer, method, counted(count, (path, method), getattr(layer, method)))
    batch = some_batch(net.input_shape, net.root.output_shape[0])
    step = algorithm.gradients(net, loss or SoftmaxCrossEntropy(), batch)
    for layer in net.paths:
        for method in METHODS:
            delattr(layer, method)
    return count, step


def places(count, method):
    return sorted(path for (path, own), n in count.items() if own == method and n)


def test_the_backward_pass_stops_at_the_first_layer_that_learns():
    net = network()
    free, free_step = calls(net, Backprop())
    assert places(free, "backward") == list("1234567")
    net.freeze("0", "2")
    count, step = calls(net, Backprop())
    assert places(count, "backward") == ["6", "7"]
    assert places(count, "weight_gradients") == ["5", "7"]
    assert set(count.values()) == {1}
    for name, gradient in step.gradients.items():
        expected = 0 * gradient if name[0] in "02" else free_step.gradients[name]
        np.testing.assert_array_equal(gradient, expected)


def test_the_third_pass_stops_at_the_last_layer_that_learns():
    net = network()
    _, free = calls(net, LossIBP(0.1))
    net.freeze("5", "7")
    count, step = calls(net, LossIBP(0.1))
    assert places(count, "third_pass") == ["0", "1"]
    assert places(count, "weight_gradients") == ["0", "2"]
    np.testing.assert_array_equal(step.gradients["0.weight"], free.gradients["0.weight"])
    assert not step.gradients["7.weight"].any()


def test_a_frozen_layer_in_the_middle_is_crossed_but_makes_no_product():
    net = network()
    _, free = calls(net, LossIBP(0.1, norm=2, exact=True))
    net.freeze("2")
    count, step = calls(net, LossIBP(0.1, norm=2, exact=True))
    assert places(count, "weight_gradients") == ["0", "5", "7"]
    for name in ("0.weight", "5.bias", "7.weight"):
        np.testing.assert_array_equal(step.gradients[name], free.gradients[name])


def test_a_network_that_is_frozen_as_a_whole_computes_no_derivative():
    net = network(frozen=tuple("0257"))
    count, step = calls(net, Backprop())
    assert not count
    assert not step.flat_gradient.any()


def test_unfreezing_brings_everything_back():
    net = network()
    before = Backprop().gradients(net, SoftmaxCrossEntropy(), some_batch()).flat_gradient
    net.freeze("0", "5")
    net.unfreeze("0", "5")
    np.testing.assert_array_equal(Backprop().gradients(net, SoftmaxCrossEntropy(), some_batch()).flat_gradient, before)
    assert net.rate_vector is None


def test_a_container_is_frozen_with_all_that_is_in_it():
    net = convnet.Network([Residual([Conv(2, 1), BatchNorm()], [Conv(2, 1)]), Flatten(), Dense(2)], (3, 3, 1))
    net.freeze("0")
    assert net.config()["frozen"] == ["0.body.0", "0.body.1", "0.shortcut.0"]
    step = Backprop().gradients(net, SoftmaxCrossEntropy(), some_batch((3, 3, 1), 2))
    moved = {name.split(".")[0] for name, gradient in step.gradients.items() if gradient.any()}
    assert moved == {"2"}


def test_frozen_batch_normalisation_uses_and_keeps_its_statistics():
    net = convnet.Network([Dense(3), BatchNorm(), Dense(2)], (4,), dtype="float64")
    batch = some_batch((4,), 2)
    trained = Backprop().gradients(net, SoftmaxCrossEntropy(), batch)
    net.set_state(trained.state)
    net.freeze("1")
    step = Backprop().gradients(net, SoftmaxCrossEntropy(), batch)
    assert step.state == {}
    np.testing.assert_array_equal(step.outputs, net.forward(batch.images))
    assert not np.allclose(step.outputs, trained.outputs)


def test_a_frozen_constraint_does_not_act():
    net = convnet.Network([ScaleInvariantClassifier(3)], (4,), dtype="float64")
    net.parameters["0.weight"][...] *= 5
    net.freeze("0")
    before = net.vector.copy()
    net.apply_constraints()
    np.testing.assert_array_equal(net.vector, before)
    count, _ = calls(net, Backprop(), ScaleInvariantCost())
    assert not count


def test_coefficients_become_a_vector_of_rates():
    net = network(coefficients={"0": {"learning_rate": 0.5, "bias": 4.0}, "5": {"bias": 0.0}}, frozen=("2",))
    rates = net.views(net.rate_vector)
    expected = {"0.weight": 0.5, "0.bias": 2.0, "2.weight": 0, "2.bias": 0, "5.weight": 1, "5.bias": 0, "7.weight": 1,
                "7.bias": 1}
    for name, rate in expected.items():
        assert (rates[name] == rate).all(), name


def test_copies_and_files_keep_what_is_frozen_and_all_coefficients(tmp_path):
    net = network(frozen=("2",))
    net.set_coefficients("0", learning_rate=0.25, bias=2.0)
    net.save(tmp_path / "net.npz")
    for other in (net.copy(), convnet.Network.load(tmp_path / "net.npz")):
        np.testing.assert_array_equal(other.rate_vector, net.rate_vector)
        assert other.config() == net.config()


def test_training_moves_what_is_free_at_its_own_rate():
    """One step of SGD, decay included: -h · rate · (g + λ w), and nothing at all where frozen."""
    plain, net = network(), network(frozen=("2", "5"), coefficients={"0": {"learning_rate": 0.5, "bias": 3.0}})
    start, batch = net.vector.copy(), some_batch()
    for one in (plain, net):
        step = Backprop().gradients(one, SoftmaxCrossEntropy(), batch)
        convnet.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01).update(one, step)
    moved, alone = net.views(net.vector - start), plain.views(plain.vector - start)
    rates = {"0.weight": 0.5, "0.bias": 1.5, "2.weight": 0, "2.bias": 0, "5.weight": 0, "7.weight": 1}
    for name, rate in rates.items():
        np.testing.assert_allclose(moved[name], rate * alone[name], rtol=1e-12, atol=1e-16)


def test_what_is_said_about_bad_paths_and_numbers():
    net = network()
    with pytest.raises(ValueError, match="unknown layer path '8'"):
        net.freeze("8")
    with pytest.raises(ValueError, match="unknown layer path 'dense'"):
        network(frozen=("dense",))
    with pytest.raises(ValueError, match="learning_rate is -1"):
        net.set_coefficients("0", learning_rate=-1)
    with pytest.raises(ValueError, match="bias is 'large'"):
        net.set_coefficients("0", bias="large")
