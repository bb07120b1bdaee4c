"""The training loop: what it feeds the algorithm, what it records, and when it refuses."""
import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from convnet import Batch, Network, train
from convnet.data import Augmentation, Dataset
from convnet.evaluation import error_rate
from convnet.layers import BatchNorm, Conv, Dense, Dropout, Flatten, ReLU, Softmax
from convnet.losses import BinaryCrossEntropy, SoftmaxCrossEntropy, SquaredError
from convnet.optimizers import SGD, Adam
from convnet.passes import Backprop, JacobianRegularizer, LossIBP
from convnet.schedules import Exponential
from convnet.training import NonFiniteLossError

RNG = np.random.default_rng(5)
IMAGES, LABELS = RNG.standard_normal((19, 4, 4, 1)), RNG.integers(0, 3, 19)
TEST_IMAGES, TEST_LABELS = RNG.standard_normal((7, 4, 4, 1)), RNG.integers(0, 3, 7)
DATASET = Dataset("toy", IMAGES, LABELS, TEST_IMAGES, TEST_LABELS, classes=("a", "b", "c"))


def make_net(seed=1, last=()):
    layers = [Conv(3, 3), BatchNorm(), ReLU(), Flatten(), Dense(5), ReLU(), Dropout(0.3), Dense(3), *last]
    return Network(layers, (4, 4, 1), seed=seed, dtype="float64")


def plain_net():
    return Network([Flatten(), Dense(3)], (4, 4, 1), dtype="float64")


@dataclass(frozen=True)
class Recording(Backprop):
    """Backprop that keeps the batches it gets."""

    batches: list

    def gradients(self, net, loss, batch, *, training=True):
        self.batches.append(batch)
        return super().gradients(net, loss, batch, training=training)


def test_weights_and_history_are_those_of_a_loop_written_out():
    net, twin = make_net(), make_net()
    result = train(net, DATASET, LossIBP(0.1, exact=True), SGD(0.2, momentum=0.5), epochs=3, batch_size=8,
                   schedule=Exponential(0.5), seed=4)

    rng, velocity = np.random.default_rng(4), np.zeros_like(twin.vector)
    for epoch in range(3):
        order, sums = rng.permutation(19), np.zeros(4)
        for start in (0, 8, 16):
            rows = order[start:start + 8]
            step = LossIBP(0.1, exact=True).gradients(twin, SoftmaxCrossEntropy(), Batch(IMAGES[rows], LABELS[rows]))
            velocity = 0.5 * velocity + step.flat_gradient
            twin.vector -= 0.2 * 0.5**epoch * velocity
            twin.set_state(step.state)
            wrong = np.mean(step.outputs.argmax(axis=1) != LABELS[rows])
            sums += len(rows) * np.array([step.loss, step.penalty, step.loss + 0.1 * step.penalty, wrong])
        record = result.history[epoch]
        numbers = [record.loss, record.penalty, record.objective, record.training_error]
        np.testing.assert_allclose(numbers, sums / 19, rtol=1e-11)
        assert record.epoch == epoch + 1
        assert record.learning_rate == pytest.approx(0.2 * 0.5**epoch, rel=1e-12)
        assert record.test_error == pytest.approx(np.mean(twin.predict(TEST_IMAGES) != TEST_LABELS), abs=1e-12)
        assert record.seconds > 0
    np.testing.assert_allclose(net.vector, twin.vector, rtol=1e-11, atol=1e-13)
    for name, array in twin.state.items():
        np.testing.assert_allclose(net.state[name], array, rtol=1e-11)
    assert result.net is net
    assert result.test_error == result.history[-1].test_error


def test_every_epoch_visits_every_sample_once_in_an_order_of_the_seed():
    def orders(seed):
        algorithm = Recording([])
        images = np.arange(19.0)[:, None, None, None] * np.ones((1, 4, 4, 1)) / 19
        train(plain_net(), (images, LABELS), algorithm, SGD(0.01), epochs=2, batch_size=8, seed=seed)
        del algorithm.batches[0]  # a trial
        assert [len(batch) for batch in algorithm.batches] == [8, 8, 3] * 2
        seen = np.concatenate([np.rint(19 * batch.images[:, 0, 0, 0]) for batch in algorithm.batches]).astype(int)
        given = np.concatenate([batch.labels.argmax(axis=1) for batch in algorithm.batches])
        np.testing.assert_array_equal(given, LABELS[seen])
        return seen.reshape(2, 19)

    first, second = orders(0)
    assert sorted(first) == sorted(second) == list(range(19))
    assert list(first) != list(second)
    np.testing.assert_array_equal(orders(0), [first, second])
    assert list(orders(1)[0]) != list(first)


def test_the_same_seeds_give_the_same_bits():
    def weights(seed):
        return train(make_net(seed), DATASET, Backprop(), SGD(0.1), epochs=2, batch_size=4).net.vector

    np.testing.assert_array_equal(weights(1), weights(1))
    assert not np.array_equal(weights(1), weights(2))


def test_tangents_come_with_their_images():
    algorithm, tangents = Recording([]), np.stack([2 * IMAGES, IMAGES - 1], axis=1)
    train(plain_net(), (IMAGES, LABELS), algorithm, SGD(0.1), epochs=1, batch_size=8, tangents=tangents)
    for batch in algorithm.batches:
        np.testing.assert_array_equal(batch.tangents, np.stack([2 * batch.images, batch.images - 1], axis=1))


def test_augmentation_varies_training_batches_and_crops_test_images():
    keys = []

    def apply(images, key):
        keys.append(key)
        return images[:, 1:, 1:] + key[1]

    augmentation = SimpleNamespace(apply=apply, central=lambda images: images[:, :3, :3])
    net = Network([Flatten(), Dense(3)], (3, 3, 1), dtype="float64")
    result = train(net, DATASET, Backprop(), SGD(0.1), epochs=2, batch_size=10, seed=6, augmentation=augmentation)
    assert keys[-4:] == [(6, 0, 0), (6, 0, 1), (6, 1, 0), (6, 1, 1)]
    assert result.test_error == np.mean(net.predict(TEST_IMAGES[:, :3, :3]) != TEST_LABELS)


def test_constraints_hold_after_every_step():
    class Bounded(Dense):
        def constrain(self):
            np.clip(self.parameters["weight"], -0.01, 0.01, out=self.parameters["weight"])

    net = Network([Flatten(), Bounded(3)], (4, 4, 1), dtype="float64")
    train(net, (IMAGES, LABELS), Backprop(), SGD(1.0), epochs=1)
    assert np.abs(net.parameters["1.weight"]).max() == 0.01


def test_test_images_are_looked_at_as_often_as_is_asked_and_after_the_last_epoch():
    often, seldom, last = (train(make_net(), DATASET, Backprop(), SGD(0.2), epochs=5, batch_size=8, test_every=every)
                           for every in (1, 2, 9))
    errors = often.history.column("test_error")
    assert seldom.history.column("test_error") == [None, errors[1], None, errors[3], errors[4]]
    assert last.history.column("test_error") == [None] * 4 + [errors[4]]
    assert often.test_error == last.test_error == errors[4]
    np.testing.assert_array_equal(often.net.vector, last.net.vector)


def test_a_run_cut_short_is_tested_when_its_epochs_are_all_that_is_asked_for(tmp_path):
    def run(epochs, **options):
        return train(make_net(), DATASET, Backprop(), SGD(0.2), epochs, batch_size=8, **options)

    def stop(_, epoch):
        if epoch.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(5, test_every=5, checkpoint_folder=tmp_path, callback=stop)
    assert run(3, test_every=5, checkpoint_folder=tmp_path).test_error == run(3).test_error


def test_test_every_is_checked():
    with pytest.raises(ValueError, match="test_every is 0; it must be an int, at least 1"):
        train(make_net(), DATASET, Backprop(), SGD(0.2), epochs=1, test_every=0)


def test_soft_labels_and_sets_without_test_images():
    soft = np.eye(3)[LABELS] * 0.8 + 0.2 / 3
    result = train(plain_net(), (IMAGES, soft), Backprop(), SGD(0.1), epochs=1)
    assert result.test_error is None
    # The smallest possible loss is the entropy of the labels.
    assert result.history[0].loss > -(soft * np.log(soft)).sum(axis=1).mean() > 0


def test_a_network_that_ends_in_softmax_gets_the_squared_error_and_never_two_softmaxes():
    net, twin = make_net(last=[Softmax()]), make_net(last=[Softmax()])
    train(net, DATASET, Backprop(), SGD(0.1), epochs=1)
    train(twin, DATASET, Backprop(), SGD(0.1), epochs=1, loss=SquaredError())
    np.testing.assert_array_equal(net.vector, twin.vector)
    with pytest.raises(ValueError, match="Softmax"):
        train(net, DATASET, Backprop(), SGD(0.1), epochs=1, loss=SoftmaxCrossEntropy())


def test_the_callback_sees_every_epoch():
    seen = []
    train(plain_net(), DATASET, Backprop(), SGD(0.1), epochs=3, callback=lambda net, epoch: seen.append(epoch.epoch))
    assert seen == [1, 2, 3]


class Elsewhere:
    """NumPy under another name: the loop then treats arrays as living on a device."""

    def __getattr__(self, name):
        return getattr(np, name)


def test_numbers_read_once_an_epoch_are_the_same():
    net, twin = make_net(), make_net()
    twin.xp = Elsewhere()
    ours, theirs = (train(n, DATASET, LossIBP(0.1), SGD(0.1), epochs=2, batch_size=8).history for n in (net, twin))
    for column in ("loss", "penalty", "objective", "training_error", "test_error"):
        assert ours.column(column) == theirs.column(column)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["read-at-once", "read-per-epoch"])
def test_the_first_loss_that_is_not_finite_stops_training(elsewhere):
    images = IMAGES.copy()
    net = plain_net()
    if elsewhere:
        net.xp = Elsewhere()
    finite = []

    def blow_up(net, epoch):
        finite.append(epoch.loss)
        if epoch.epoch == 2:
            net.parameters["1.weight"][...] = 1e308

    with pytest.raises(NonFiniteLossError) as caught:
        train(net, (images, LABELS), Backprop(), SGD(0.125), epochs=5, batch_size=8, callback=blow_up)
    assert "epoch 3, batch 1 of 3" in str(caught.value)
    assert "0.125" in str(caught.value)
    last = float(str(caught.value).split("last finite loss was ")[1].split(". ")[0])
    assert math.isfinite(last)
    if not elsewhere:
        assert (net.parameters["1.weight"] == 1e308).all()  # the step that failed was not made


BAD = {
    "images": (lambda: {"dataset": (IMAGES[:, :3], LABELS)}, "network takes"),
    "one label short": (lambda: {"dataset": (IMAGES, LABELS[:-1])}, "18 labels"),
    "empty": (lambda: {"dataset": (IMAGES[:0], LABELS[:0])}, "at least one"),
    "class 3": (lambda: {"dataset": (IMAGES, LABELS + 1)}, "class 3"),
    "float labels": (lambda: {"dataset": (IMAGES, LABELS * 1.0)}, "whole numbers"),
    "columns": (lambda: {"dataset": (IMAGES, np.eye(4)[LABELS])}, "4 columns"),
    "nan": (lambda: {"dataset": (IMAGES * np.where(np.arange(19) == 4, np.nan, 1)[:, None, None, None], LABELS)},
            "image 4"),
    "bytes": (lambda: {"dataset": ((IMAGES * 9).astype(np.uint8), LABELS)}, "prepared"),
    "tangents": (lambda: {"tangents": np.zeros((19, 2, 4, 3, 1))}, "tangents"),
    "tangents of varied images": (lambda: {"tangents": np.zeros((19, 2, 4, 4, 1)), "augmentation": Augmentation()}, "leave"),
    "batch_size": (lambda: {"batch_size": 0}, "batch_size"),
    "epochs": (lambda: {"epochs": 2.5}, "epochs"),
    "seed": (lambda: {"seed": -1}, "seed"),
    "schedule": (lambda: {"schedule": lambda epoch, base: math.nan}, "schedule"),
    "tangents of nan": (lambda: {"tangents": np.full((19, 2, 4, 4, 1), np.nan)}, "tangents of training image 0 hold NaN"),
    "labels of nan": (lambda: {"dataset": (IMAGES, np.full((19, 3), np.nan))}, "labels of sample 0 sum to nan"),
    "negative labels": (lambda: {"dataset": (IMAGES, np.tile([2.0, -2.0, 1.0], (19, 1)))}, "labels of sample 0 .* negative"),
    "projections": (lambda: {"algorithm": JacobianRegularizer(0.1, projections=3)}, "projections is 3"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_before_any_work(case, tmp_path):
    change, message = BAD[case]
    net = plain_net()
    before, draws = net.vector.copy(), net.generator.bit_generator.state
    arguments = {"dataset": DATASET, "epochs": 1, "algorithm": Backprop(), **change()}
    with pytest.raises(ValueError, match=message):
        train(net, optimizer=SGD(0.1), checkpoint_folder=tmp_path / "run", **arguments)
    np.testing.assert_array_equal(net.vector, before)
    assert net.generator.bit_generator.state == draws
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("change", "message"), [
    ({"dataset": IMAGES}, "dataset"), ({"algorithm": Backprop}, "algorithm"), ({"optimizer": 0.1}, "optimizer"),
    ({"net": None}, "net must be .*Network"), ({"loss": "squared-error"}, "loss must be .*Loss"),
    ({"schedule": 0.98}, "schedule is 0.98; it must be callable"), ({"callback": 5}, "callback is 5; it must be callable"),
    ({"augmentation": "mnist"}, "augmentation is 'mnist'; it must have .* as convnet.data.Augmentation"),
])
def test_arguments_of_the_wrong_type(change, message):
    arguments = {"net": plain_net(), "dataset": DATASET, "algorithm": Backprop(), "optimizer": SGD(0.1), **change}
    with pytest.raises(TypeError, match=message):
        train(**arguments)


def test_a_last_batch_of_one_is_refused_where_batch_normalisation_needs_two():
    net = Network([Flatten(), Dense(4), BatchNorm(), ReLU(), Dense(3)], (4, 4, 1))
    with pytest.raises(ValueError, match="batch_size is 6"):
        train(net, DATASET, Backprop(), SGD(0.1), batch_size=6)
    with pytest.raises(ValueError, match=r"batch_size is 1: .* at 2"):
        train(net, DATASET, Backprop(), SGD(0.1), batch_size=1)
    # Batch normalisation of images has a value for each pixel.
    train(make_net(), DATASET, Backprop(), SGD(0.1), epochs=1, batch_size=6)


def test_the_message_names_the_number_that_is_not_finite():
    with pytest.raises(NonFiniteLossError, match=r"the objective is inf .* coefficient"):
        train(Network([Flatten(), Dense(3)], (4, 4, 1)), (IMAGES, LABELS), LossIBP(3e38), SGD(0.1), epochs=1)


def test_the_bar_is_on_terminals_only(capsys):
    train(plain_net(), DATASET, Backprop(), SGD(0.1), epochs=2)
    assert capsys.readouterr() == ("", "")
    train(plain_net(), DATASET, Backprop(), SGD(0.1), epochs=2, batch_size=4, progress=True)
    shown = capsys.readouterr().err
    for part in ("epoch 1/2", "epoch 2/2", "loss 1.", "penalty 0,", "error ", "test ", "100%", "left"):
        assert part in shown


@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.9), SGD(0.1, weight_decay=0.1), Adam(0.01)], ids=str)
def test_a_callback_may_freeze_and_unfreeze_layers(optimizer):
    net, seen = make_net(), []

    def callback(net, epoch):
        seen.append((net.parameters["0.weight"].copy(), net.parameters["7.weight"].copy()))
        if epoch.epoch == 1:
            net.freeze("0")
        if epoch.epoch == 2:
            net.unfreeze("0")
            net.set_coefficients("7", learning_rate=0)

    train(net, DATASET, Backprop(), optimizer, epochs=3, batch_size=8, callback=callback)
    (first, _), (second, last), (third, same) = seen
    np.testing.assert_array_equal(first, second)
    assert np.abs(third - second).max() > 1e-6
    np.testing.assert_array_equal(last, same)


def test_a_network_with_one_output_has_no_errors_to_count():
    net = Network([Flatten(), Dense(1)], (4, 4, 1))
    with pytest.raises(ValueError, match="the network has one output, and errors are counted by the largest of several"):
        train(net, (IMAGES.astype("f"), np.ones((19, 1))), Backprop(), SGD(0.1), loss=BinaryCrossEntropy())
    with pytest.raises(ValueError, match="the network has one output"):
        error_rate(net, IMAGES.astype("f"), np.ones((19, 1)))
