"""Dropout: one mask for all passes of a batch, drawn from the batch's draw and the layer's place."""
import numpy as np
import pytest
from layer_tools import attached, normal

from convnet import Batch, Network
from convnet.layers import Dense, Dropout, ReLU, Sequential
from convnet.losses import SoftmaxCrossEntropy
from convnet.passes import Backprop, LossIBP, first_pass, fourth_pass, inference, second_pass, third_pass

ONES = np.ones((50, 200))


def test_values_are_dropped_or_scaled_so_that_the_mean_stays():
    layer = attached(Dropout(0.3), (200,))
    y = first_pass(layer, ONES, training=True, draw=1).output
    assert set(np.unique(y)) == {0.0, 1 / 0.7}
    # 10 000 draws: a deviation of 0.0046.
    assert abs((y == 0).mean() - 0.3) < 4 * 0.0046


def test_all_passes_of_a_batch_share_the_mask():
    layer = attached(Dropout(0.5), (200,))
    y = first_pass(layer, ONES, training=True, draw=1)
    np.testing.assert_array_equal(second_pass(y, ONES).output, y.output)
    np.testing.assert_array_equal(third_pass(y, ONES).output, y.output)
    assert fourth_pass(y, None, [(third_pass(y, ONES), second_pass(y, ONES))], to_input=True).output is None


def test_the_mask_is_determined_by_the_draw_and_the_place():
    net = Sequential([Dropout(0.5), Dropout(0.5)])
    attached(net, (200,))
    one, again, other = (first_pass(net, ONES, training=True, draw=draw) for draw in (1, 1, 2))
    np.testing.assert_array_equal(one.output, again.output)
    assert (one.output != other.output).any()
    masks = [one.records[leaf].scale for _, leaf in net.leaves()]
    assert (masks[0] != masks[1]).any()
    # Independent masks: both keep a quarter of the values.
    assert abs((one.output > 0).mean() - 0.25) < 4 * 0.0044


def test_samples_have_their_own_masks():
    y = first_pass(attached(Dropout(0.5), (200,)), ONES, training=True, draw=1).output
    assert len(np.unique(y, axis=0)) == len(ONES)


def test_inference_and_rate_0_change_nothing():
    x = normal(1, 4, 6)
    np.testing.assert_array_equal(inference(attached(Dropout(0.9), (6,)), x), x)
    np.testing.assert_array_equal(first_pass(attached(Dropout(0.0), (6,)), x, training=True, draw=1).output, x)


def test_a_draw_is_needed_in_training():
    with pytest.raises(ValueError, match="draw"):
        first_pass(attached(Dropout(0.5), (6,)), normal(1, 4, 6), training=True)


def test_single_precision_keeps_the_same_values():
    x = normal(1, 4, 6)
    one = first_pass(attached(Dropout(0.5), (6,)), x, training=True, draw=1).output
    two = first_pass(attached(Dropout(0.5), (6,), dtype="float32"), x.astype("float32"), training=True, draw=1).output
    np.testing.assert_array_equal(one == 0, two == 0)


def test_every_step_of_a_network_draws_anew_and_the_same_seed_repeats_the_sequence():
    def steps(seed):
        net = Network([Dense(20), ReLU(), Dropout(0.5), Dense(3)], (5,), seed=seed, dtype="float64")
        batch = Batch(normal(1, 4, 5), np.arange(4) % 3)
        return [Backprop().gradients(net, SoftmaxCrossEntropy(), batch).loss for _ in range(3)]

    assert steps(1) == steps(1)
    assert len(set(steps(1))) == 3


def test_extra_passes_of_an_algorithm_do_not_draw():
    net = Network([Dense(20), ReLU(), Dropout(0.5), Dense(3)], (5,), seed=1, dtype="float64")
    batch = Batch(normal(1, 4, 5), np.arange(4) % 3)
    plain, extra = (a.gradients(net.copy(), SoftmaxCrossEntropy(), batch) for a in (Backprop(), LossIBP(0.1, exact=True)))
    np.testing.assert_array_equal(plain.outputs, extra.outputs)


@pytest.mark.parametrize("rate", [1.0, -0.1, 2, float("nan"), "half", None])
def test_bad_rates_are_refused(rate):
    with pytest.raises(ValueError, match="rate is"):
        Dropout(rate)
