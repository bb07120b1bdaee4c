"""Networks: what they are made of, copies and files of them, also with layers of one's own."""
import copy
import pickle
from dataclasses import dataclass

import numpy as np
import pytest

from convnet import Batch, Network, layers
from convnet.layers import BatchNorm, Conv, Dense, Dropout, Flatten, Layer, ReLU, Residual, Sequential
from convnet.losses import SoftmaxCrossEntropy
from convnet.passes import HessianFrobenius, JacobianRegularizer, LossIBP
from convnet.testing import check_algorithm

X = np.random.default_rng(0).standard_normal((5, 6, 6, 1))


@dataclass(eq=False)
class Cube(Layer):
    """``y = a x³``"""

    factor: float = 1.0

    symmetric_jacobian = True
    curved = True

    def forward(self, x, record):
        record.input = x.copy()
        return self.factor * x**3

    def backward(self, b, record):
        return 3 * self.factor * record.input**2 * b

    def curvature(self, t, b, record):
        return 6 * self.factor * record.input * t * b


@dataclass(eq=False)
class Tanh(Cube):
    """Named like a layer of the package."""


@dataclass(eq=False)
class Weighted(Layer):
    """``y = w f(x)`` with another layer as an option."""

    inner: Layer
    weights: dict

    linear = True

    def forward(self, x, record):
        return self.weights["all"] * self.inner.forward(x, record)


def network(*own, **options):
    options = {"seed": 3, "dtype": "float64", **options}
    return Network([Conv(3, 3), BatchNorm(), *own, Residual([Dropout(0.5), ReLU()]), Flatten(), Dense(4)], (6, 6, 1), **options)


def copies(net):
    return net.copy(), copy.copy(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net))


# --- what a network is made of ----------------------------------------------------------------------------------------

@pytest.mark.parametrize(("options", "error", "message"), [
    ({"frozen": "13"}, TypeError, r"frozen is '13'.*\['13'\]"),
    ({"frozen": [1]}, TypeError, "layer path is 1"),
    ({"input_shape": 6}, TypeError, "input_shape is 6"),
    ({"input_shape": "6"}, TypeError, "input_shape is '6'"),
    ({"input_shape": (6.7,)}, ValueError, "input_shape.*6.7"),
    ({"input_shape": (6, 0, 1)}, ValueError, "input_shape.*at least 1"),
    ({"input_shape": ()}, ValueError, "input_shape"),
    ({"dtype": None}, ValueError, "dtype is None"),
    ({"dtype": "int"}, ValueError, "dtype is 'int'"),
    ({"dtype": "flaot32"}, ValueError, "dtype is 'flaot32'"),
    ({"seed": -1}, ValueError, "seed is -1"),
    ({"seed": None}, ValueError, "seed is None"),
])
def test_options_that_make_no_sense_are_named(options, error, message):
    with pytest.raises(error, match=message):
        Network([Flatten(), Dense(3), ReLU(), Dense(3)], **{"input_shape": (6, 1, 1), **options})


def test_a_layer_class_that_compares_options_is_told_what_would_do():
    @dataclass
    class Twice(Layer):
        def forward(self, x, record):
            return 2 * x

    with pytest.raises(TypeError, match=r"Twice\(\), whose class compares options: write @dataclass\(eq=False\)"):
        Network([Twice()], (3,))


def test_numbers_and_types_of_numpy_are_options_too(tmp_path):
    net = Network([Dense(np.int64(3))], np.array([4]), seed=np.int64(3), dtype=np.float64)
    net.save(tmp_path / "net.npz")
    np.testing.assert_array_equal(net.vector, Network([Dense(3)], (4,), seed=3, dtype="float64").vector)
    np.testing.assert_array_equal(net.vector, Network.load(tmp_path / "net.npz").vector)


def test_prediction_takes_what_batches_take():
    net = network()
    expected = net.forward(X).argmax(axis=1)
    for images in (X, X.tolist()):
        np.testing.assert_array_equal(net.predict(images, 2), expected)
    for call, message in ((lambda: net.predict(X, 0), "batch_size is 0"), (lambda: net.predict(X, -3), "batch_size is -3"),
                          (lambda: net.predict([]), "empty"), (lambda: net.predict(X * 1j), "images holds complex128"),
                          (lambda: net.forward(X.astype(str)), "images holds <U"), (lambda: net.predict(3.0), "images is 3.0")):
        with pytest.raises(ValueError, match=message):
            call()


# --- layers of one's own ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("own", [Cube, Tanh])
def test_copies_compute_with_the_same_layers(own):
    net = network(own(0.5), frozen=["0"])
    net.set_state({name: array + 0.5 for name, array in net.state.items()})
    net.generator.random()
    for made in copies(net):
        assert [type(layer) for layer in made.paths] == [type(layer) for layer in net.paths]
        assert not set(made.paths) & set(net.paths) and made.config() == net.config()
        np.testing.assert_array_equal(made.forward(X), net.forward(X))
        assert made.generator.bit_generator.state == net.generator.bit_generator.state
        made.vector[...] = 0
        assert net.vector.any()


def test_a_copy_in_the_other_number_type():
    net = network(Cube())
    single = net.copy("float32")
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single.vector, net.vector.astype(np.float32))
    np.testing.assert_allclose(single.forward(X), net.forward(X), rtol=1e-4, atol=1e-5)


def test_an_algorithm_is_checked_on_the_network_that_is_given():
    right, wrong = (network(own) for own in (Tanh(0.5), type("Tanh", (Tanh,), {"curvature": lambda self, t, b, record: 0 * b})()))
    assert check_algorithm(LossIBP(0.3, exact=True), right).ok
    assert not check_algorithm(LossIBP(0.3, exact=True), wrong, raise_on_failure=False).ok


def test_a_file_with_own_layers_is_read_with_their_classes(tmp_path):
    net = Network([Sequential([Cube(2.0), Weighted(Cube(0.5), {"all": 2.0})]), Flatten(), Dense(4)], (6, 6, 1))
    net.save(tmp_path / "net.npz")
    loaded = Network.load(tmp_path / "net.npz", layers=[Weighted, Cube])
    for made in (loaded, *copies(net)):
        np.testing.assert_array_equal(made.forward(X), net.forward(X))
    with pytest.raises(ValueError, match=r"net.npz is not.*: unknown layer type 'Cube'.*layers=\[Cube\]"):
        Network.load(tmp_path / "net.npz")
    for own, message in ((Tanh, "convnet.layers.activations.Tanh"), (Cube(), "Cube"), (dict, "dict")):
        with pytest.raises(TypeError, match=message):
            Network.load(tmp_path / "net.npz", layers=[own])


@pytest.mark.parametrize(("own", "message"), [
    (lambda: [Residual([ReLU(), Tanh()])], r"0\.body\.1.*convnet\.layers\.activations\.Tanh"),
    (lambda: [Cube(), type("Cube", (Cube,), {})()], "layer 1.*test_network.Cube"),
])
def test_layers_that_a_file_could_not_tell_from_others_are_not_saved(tmp_path, own, message):
    with pytest.raises(TypeError, match=message):
        Network([*own(), Flatten(), Dense(4)], (6, 6, 1)).save(tmp_path / "net.npz")
    assert not list(tmp_path.iterdir())


def test_layers_that_hide_their_options_are_neither_copied_nor_saved(tmp_path):
    class Steep(Cube):
        def __init__(self, steepness):
            super().__init__(3 * steepness)
            self.steepness = steepness

    net = network(Steep(1.0))
    for call in (net.copy, lambda: net.save(tmp_path / "net.npz")):
        with pytest.raises(TypeError, match=r"layer 2.*Steep.*make it a dataclass"):
            call()


def test_options_that_a_file_cannot_hold_are_named_when_it_is_written(tmp_path):
    net = Network([Cube(np.ones(1)), Flatten(), Dense(4)], (6, 6, 1))
    np.testing.assert_array_equal(net.copy().forward(X), net.forward(X))
    with pytest.raises(TypeError, match="factor of Cube holds array"):
        net.save(tmp_path / "net.npz")


# --- files ------------------------------------------------------------------------------------------------------------

def test_every_layer_of_the_package_is_known_to_files():
    from convnet.serialization import LAYER_TYPES

    assert set(LAYER_TYPES) == set(layers.__all__) - {"Builder", "Container", "Layer", "Record"}


def header_without(key):
    def damage(path):
        import json

        with np.load(path) as file:
            content = dict(file)
        header = json.loads(str(content["architecture"]))
        del header[key]
        np.savez(path, **{**content, "architecture": np.array(json.dumps(header))})

    return damage


def array_missing(path):
    with np.load(path) as file:
        np.savez(path, **{name: array for name, array in file.items() if name != "0.weight"})


@pytest.mark.parametrize("damage", [
    header_without("layers"), header_without("format"), header_without("input_shape"), array_missing,
    lambda path: path.write_text("no network"), lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(path.read_bytes()[:-30]),
])
def test_a_damaged_network_is_named(tmp_path, damage):
    path = tmp_path / "net.npz"
    network().save(path)
    damage(path)
    with pytest.raises(ValueError, match=r"net\.npz") as caught:
        Network.load(path)
    assert "allow_pickle" not in str(caught.value)


def test_a_flipped_byte_is_noticed_or_changes_nothing(tmp_path):
    path, net = tmp_path / "net.npz", Network([Flatten(), Dense(2)], (2, 2, 1))
    net.save(path)
    content, rng = path.read_bytes(), np.random.default_rng(1)
    directory = content.index(b"PK\x01\x02")
    places = {*range(directory, len(content)), *rng.integers(0, directory, 300).tolist()}
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ int(rng.integers(1, 256))]) + content[place + 1:])
        try:
            np.testing.assert_array_equal(Network.load(path).vector, net.vector)
        except ValueError as error:
            assert str(path) in str(error)


def test_what_is_wrong_with_the_call_is_not_blamed_on_the_file(tmp_path):
    network().save(tmp_path / "net.npz")
    with pytest.raises(ValueError, match=r"^device is 'tpu'"):
        Network.load(tmp_path / "net.npz", device="tpu")
    with pytest.raises(FileNotFoundError, match="absent"):
        Network.load(tmp_path / "absent.npz")
    with pytest.raises(OSError, match="directory"):
        Network.load(tmp_path)


# --- batches ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("parts", "message"), [
    (([[1j, 0]], [0]), "images holds complex128"), (([["a", "b"]], [0]), "images holds <U1"),
    ((3.0, [0]), "images is 3.0"), (([[1.0]], 0), r"labels has the shape \(\)"),
    ((np.ones((2, 3)), [0, 1], np.ones((2, 0, 3))), "no tangent vector"),
    ((np.ones((2, 3)), [0, 1], np.ones((2, 1, 3)) * 1j), "tangents holds complex128"),
])
def test_batches_refuse_what_no_network_takes(parts, message):
    with pytest.raises(ValueError, match=message):
        Batch(*parts)


def test_batches_take_lists():
    batch = Batch([[1.0, 2.0], [3.0, 4.0]], [0, 1], [[[1.0, 0.0]], [[0.0, 1.0]]])
    assert batch.images.shape == (2, 2) and batch.labels.shape == (2,) and batch.tangents.shape == (2, 1, 2)


def test_layers_of_a_network_that_cannot_be_are_free_for_the_next():
    parts = [Conv(3, 3), BatchNorm(), Dense(3)]
    with pytest.raises(ValueError, match="put Flatten"):
        Network(parts, (6, 6, 1))
    net = Network([*parts[:2], Flatten(), parts[2]], (6, 6, 1))
    assert net.forward(np.ones((1, 6, 6, 1))).shape == (1, 3)


@pytest.mark.parametrize("last", [layers.Softmax(), layers.Sigmoid(), layers.ScaleInvariantClassifier(3)], ids=str)
def test_a_readout_inside_of_a_chain_is_refused(last):
    inner = [Dense(4)] if isinstance(last, layers.ScaleInvariantClassifier) else [Dense(3)]
    with pytest.raises(ValueError, match=f"ends in a {type(last).__name__} inside a Sequential"):
        Network([ReLU(), Sequential([ReLU(), Sequential([*inner, last])])], (5,))


def test_setting_the_vector_sets_the_parameters():
    net = Network([Dense(3)], (4,))
    net.vector = net.vector * 0 + 2
    net.vector += 1
    assert (net.parameters["0.weight"] == 3).all() and (net.forward(np.ones((1, 4))) == 15).all()
    with pytest.raises(ValueError, match="broadcast"):
        net.vector = np.zeros(7)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64])
def test_coefficients_of_any_number_type_leave_the_networks_type(kind):
    net = Network([Dense(3), ReLU(), Dense(2)], (4,))
    batch = Batch(np.ones((2, 4), "f"), np.array([0, 1]))
    loss = SoftmaxCrossEntropy()
    for algorithm in (LossIBP(kind(1), exact=True), HessianFrobenius(kind(1)), JacobianRegularizer(kind(1))):
        step = algorithm.gradients(net, loss, batch)
        assert {step.loss.dtype, step.objective.dtype, step.flat_gradient.dtype} == {np.dtype("float32")}
