"""The layer that varies images inside the network."""
import numpy as np
import pytest

from convnet.data.augment import Augmentation
from convnet.layers.base import Builder
from convnet.layers.jitter import Jitter
from convnet.passes.walk import first_pass, second_pass, third_pass
from convnet.testing.layers import check_layer

OPTIONS = {
    "nothing": {},
    "papers": {"crop": (5, 6), "shift": 2, "scale": (0.7, 1.4), "rotation": 18, "reflect": True},
    "shift": {"shift": (1, 2), "whole_pixels": True, "fill": 0.5},
    "larger": {"crop": 12, "rotation": 180, "fill": (0.3, -1.0)},
}


def layer(options, input_shape=(8, 7, 2), dtype="float64"):
    made = Jitter(**options)
    made.attach(input_shape, Builder(np.random.default_rng(0), np.dtype(dtype)))
    made.index = 0
    return made


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_all_passes(options):
    check_layer(Jitter(**options), (8, 7, 2))


def test_training_draws_and_inference_takes_the_centre():
    jitter = layer(OPTIONS["papers"])
    x = np.random.default_rng(1).standard_normal((4, 8, 7, 2))
    assert jitter.output_shape == (5, 6, 2)
    centre = first_pass(jitter, x, training=False).output
    np.testing.assert_array_equal(centre, Augmentation(crop=(5, 6)).central(x))
    drawn = [first_pass(jitter, x, training=True, draw=draw).output for draw in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 0.1 and np.abs(drawn[0] - centre).max() > 0.1


def test_the_draw_of_a_batch_is_that_of_all_its_passes():
    jitter = layer(OPTIONS["papers"])
    generator = np.random.default_rng(2)
    x, t = generator.standard_normal((2, 3, 8, 7, 2))
    b = generator.standard_normal((3, 5, 6, 2))
    first = first_pass(jitter, x, training=True, draw=5)
    another = first_pass(jitter, x, training=True, draw=6)
    moved = first_pass(jitter, x + t, training=True, draw=5)
    np.testing.assert_allclose(third_pass(first, t).output, moved.output - first.output, rtol=0, atol=1e-13)
    assert not np.allclose(third_pass(another, t).output, moved.output - first.output)
    left, right = (b * third_pass(first, t).output).sum(), (second_pass(first, b).output * t).sum()
    assert abs(left - right) < 1e-13 * np.linalg.norm(b) * np.linalg.norm(t)


def test_options_survive_json():
    import json

    jitter = Jitter(**OPTIONS["papers"])
    again = Jitter(**json.loads(json.dumps(jitter.options())))
    x = np.random.default_rng(3).standard_normal((2, 8, 7, 2))
    outputs = [first_pass(layer(made.options()), x, training=True, draw=1).output for made in (jitter, again)]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize(("options", "message"), [
    ({"scale": (2, 1)}, "scale is"), ({"rotation": 999}, "rotation is 999"), ({"crop": 0}, "crop is 0"),
    ({"rotation": "x"}, "rotation is 'x'"), ({"reflect": "no"}, "reflect is 'no'"), ({"whole_pixels": 1}, "whole_pixels is 1")])
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Jitter(**options)


def test_misfits_are_refused_when_the_network_is_built():
    with pytest.raises(ValueError, match="fill has 2 values, but the images have 1 channels"):
        layer(OPTIONS["larger"], (8, 7, 1))
    with pytest.raises(ValueError, match="needs images"):
        layer({}, (9,))
