"""The networks by name have the shapes of the papers."""
import numpy as np
import pytest

from convnet.architectures import NAMES, build, default_for
from convnet.layers import Dropout


@pytest.mark.parametrize(("name", "image", "shapes"), [
    ("mnist", (28, 28, 1), {"0.weight": (4, 4, 1, 32), "3.weight": (5, 5, 32, 64), "7.weight": (5 * 5 * 64, 256)}),
    ("cifar", (32, 32, 3), {"0.weight": (5, 5, 3, 32), "6.weight": (5, 5, 32, 64), "10.weight": (2 * 2 * 64, 256)}),
    ("small", (28, 28, 1), {"6.weight": (3, 3, 64, 64), "9.weight": (3 * 3 * 64, 64)}),
    ("resnet", (32, 32, 3), {"7.body.0.weight": (3, 3, 32, 64), "7.shortcut.0.weight": (1, 1, 32, 64)}),
    ("resnet", (28, 27, 1), {"11.weight": (64, 7)}),
    ("digits", (8, 8, 1), {"3.weight": (3, 3, 16, 32)}),
])
def test_shapes(name, image, shapes):
    net = build(name, image, 7, seed=3)
    for path, shape in shapes.items():
        assert net.parameters[path].shape == shape
    assert net.forward(np.zeros((2, *image), "float32")).shape == (2, 7)


@pytest.mark.parametrize("name", NAMES)
def test_dropout_precedes_the_last_layer_and_leaves_the_initial_weights(name):
    plain, dropped = build(name, (32, 32, 3), 10), build(name, (32, 32, 3), 10, dropout=0.5)
    assert isinstance(dropped.root.layers[-2], Dropout)
    assert dropped.root.layers[-2].rate == 0.5
    np.testing.assert_array_equal(plain.vector, dropped.vector)


def test_every_data_set_has_a_network():
    assert [default_for(name, (32, 32, 3)) for name in ("digits", "mnist", "cifar10", "svhn")] == [
        "digits", "mnist", "cifar", "cifar"]
    assert [default_for("own", (side, side, 1)) for side in (8, 28, 64)] == ["digits", "mnist", "cifar"]


@pytest.mark.parametrize(("arguments", "message"), [
    (("mnsit", (28, 28, 1), 10), "did you mean 'mnist'"), (("small", (8, 8, 1), 10), "larger than the padded image"),
    (("mnist", (28, 28, 1), 1), "classes"), (("mnist", (28, 28, 1), 10, 1.0), "dropout"),
])
def test_what_does_not_fit_is_named(arguments, message):
    *place, last = arguments if len(arguments) == 4 else (*arguments, 0.0)
    with pytest.raises(ValueError, match=message):
        build(*place, dropout=last)


def test_a_summary_shows_what_is_inside_of_blocks_and_adds_up():
    net = build("resnet", (32, 32, 3), 10)
    header, *rows, total = net.summary().splitlines()
    assert header.split() == ["layer", "output", "parameters"]
    counts = [int(row[header.index("parameters"):].replace(",", "") or 0) for row in [*rows, total]]
    assert sum(counts[:-1]) == counts[-1] == net.vector.size
    assert any(row.startswith("5.shortcut.0  Conv(") for row in rows)
    assert max(map(len, rows)) < 120
