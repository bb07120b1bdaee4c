"""Interrupted training goes on to the same bits; checkpoints of something else, or damaged ones, are refused."""
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from convnet import Network, train, training
from convnet.data import load
from convnet.evaluation import error_rate
from convnet.history import History
from convnet.layers import BatchNorm, Conv, Dense, Dropout, Flatten, ReLU
from convnet.losses import SoftmaxCrossEntropy, SquaredError
from convnet.optimizers import SGD, Adam
from convnet.passes import Backprop, LossIBP
from convnet.schedules import Exponential

DATASET = load("digits").subset(size=100).prepared()


def make_net(units=8, **options):
    layers = [Conv(4, 3), BatchNorm(), ReLU(), Flatten(), Dense(units), ReLU(), Dropout(0.5), Dense(10)]
    return Network(layers, (8, 8, 1), seed=2, **options)


def run(folder, epochs=4, net=None, dataset=DATASET, algorithm=None, optimizer=None, **options):
    return train(net or make_net(), dataset, algorithm or LossIBP(0.1), optimizer or Adam(0.01), epochs=epochs,
                 checkpoint_folder=folder, **options)


class StopError(Exception):
    pass


def stop_after(count):
    def callback(net, epoch):
        if epoch.epoch == count:
            raise StopError

    return callback


def assert_same(ours, theirs):
    np.testing.assert_array_equal(ours.net.vector, theirs.net.vector)
    for name, array in ours.net.state.items():
        np.testing.assert_array_equal(array, theirs.net.state[name])
    for column in set(History.COLUMNS) - {"seconds"}:
        assert ours.history.column(column) == theirs.history.column(column)


@pytest.mark.parametrize("stops", [(1,), (1, 2, 3), (4,)])
def test_an_interrupted_run_ends_in_the_same_bits(tmp_path, stops):
    uninterrupted = run(None)
    for stop in stops:
        with pytest.raises(StopError):
            run(tmp_path, callback=stop_after(stop))
    assert_same(run(tmp_path), uninterrupted)
    # A finished run is not trained again, and more epochs continue it.
    assert_same(run(tmp_path), uninterrupted)
    assert_same(run(tmp_path, epochs=5), run(None, epochs=5))


@pytest.mark.parametrize("epoch", [2, 4])
def test_an_interruption_in_the_test_after_an_epoch_loses_nothing(tmp_path, monkeypatch, epoch):
    uninterrupted, tests = run(None), []

    def interrupted(*arguments):
        tests.append(arguments)
        if len(tests) == epoch:
            raise KeyboardInterrupt
        return error_rate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "error_rate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    steps = []
    assert_same(run(tmp_path, callback=lambda net, epoch: steps.append(epoch.epoch)), uninterrupted)
    assert steps == list(range(epoch + 1, 5))


def test_an_interruption_in_the_middle_of_the_first_epoch_leaves_the_initial_state(tmp_path):
    class Interrupting(LossIBP):
        def gradients(self, net, loss, batch, *, training=True):
            if net.generator.bit_generator.state["state"]["state"] != start:
                raise KeyboardInterrupt
            return super().gradients(net, loss, batch, training=training)

    net = make_net()
    start = net.generator.bit_generator.state["state"]["state"]
    before = net.vector.copy()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, net=net, algorithm=Interrupting(0.1))
    assert not np.array_equal(net.vector, before)
    assert_same(run(tmp_path, net=net, algorithm=type("Interrupting", (LossIBP,), {})(0.1)), run(None))


SCRIPT = """
import runpy, sys, time
import numpy as np
sys.path.insert(0, {root!r})
run = runpy.run_path({file!r})["run"]
print("ready", flush=True)

def after(net, epoch):
    print(epoch.epoch, flush=True)
    time.sleep(0.1)

result = run({folder!r}, epochs=12, callback=after)
np.savez({done!r}, vector=result.net.vector, losses=result.history.column("loss"))
"""


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_in_the_same_bits(tmp_path):
    done, folder = tmp_path / "done.npz", tmp_path / "run"
    script = SCRIPT.format(root=str(Path(__file__).parents[2]), file=__file__, folder=str(folder), done=str(done))
    rng = np.random.default_rng(0)
    for epochs_to_see in (0, 1, 1, 2, 1, None):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        with process.stdout:
            if epochs_to_see is None:
                assert process.wait(timeout=60) == 0
                break
            for _ in range(1 + epochs_to_see):
                assert process.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.15))
            process.send_signal(signal.SIGKILL)
            assert process.wait(timeout=60) == -signal.SIGKILL
        # As if it had been in the middle of writing.
        folder.mkdir(exist_ok=True)
        for name in ("checkpoint.npz", "history.csv", "history.json"):
            (folder / f".{name}.abc.part").write_bytes(b"half")
    uninterrupted = run(None, epochs=12)
    with np.load(done) as file:
        np.testing.assert_array_equal(file["vector"], uninterrupted.net.vector)
        assert file["losses"].tolist() == uninterrupted.history.column("loss")
    assert {path.name for path in folder.iterdir()} == {"checkpoint.npz", "history.csv", "history.json"}


@pytest.mark.parametrize(("change", "message"), [
    ({"net": lambda: make_net(units=9)}, "network"),
    ({"net": lambda: make_net(dtype="float64")}, "network"),
    ({"algorithm": Backprop}, "algorithm"),
    ({"algorithm": lambda: LossIBP(0.2)}, "algorithm"),
    ({"optimizer": lambda: SGD(0.01)}, "optimizer"),
    ({"optimizer": lambda: Adam(0.01, weight_decay=0.1)}, r"run: optimizer\.weight_decay is 0\.0 there and 0\.1 here\. Use"),
    ({"schedule": lambda: Exponential(0.5)}, r"run: the learning rate of epoch 2 is 0\.01 there and 0\.005 here\. Use"),
    ({"schedule": lambda: lambda epoch, base: base / 2}, r"the learning rate of epoch 1 is 0\.01 there and 0\.005 here\. Use"),
    ({"loss": lambda: SquaredError()}, "loss"),
    ({"loss": lambda: SoftmaxCrossEntropy([2.0] + [1.0] * 9)}, "loss.class_weights"),
    ({"seed": lambda: 1}, "seed is 0 there and 1 here"),
    ({"batch_size": lambda: 16}, "batch size is 32 there and 16 here"),
    ({"dataset": lambda: load("digits").subset(size=100, seed=1).prepared()}, "data"),
    ({"epochs": lambda: 1}, "2 epochs already"),
])
def test_the_checkpoint_of_another_run_is_refused_and_kept(tmp_path, change, message):
    run(tmp_path, epochs=2)
    before = (tmp_path / "checkpoint.npz").read_bytes()
    arguments = {"net": make_net(), "epochs": 2, **{name: make() for name, make in change.items()}}
    weights = arguments["net"].vector.copy()
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **arguments)
    np.testing.assert_array_equal(arguments["net"].vector, weights)
    assert (tmp_path / "checkpoint.npz").read_bytes() == before


class Temperature(SoftmaxCrossEntropy):
    def __init__(self, temperature):
        super().__init__()
        self.temperature = temperature

    def _value(self, z, labels):
        return super()._value(z / self.temperature, labels)


def test_options_of_an_own_loss_belong_to_the_run(tmp_path):
    run(tmp_path, epochs=1, loss=Temperature(1.0))
    run(tmp_path, epochs=2, loss=Temperature(1.0))
    with pytest.raises(ValueError, match=r"loss\.temperature is 1\.0 there and 9\.0 here"):
        run(tmp_path, epochs=2, loss=Temperature(9.0))


class WarmUp:
    def __init__(self, epochs):
        self.epochs = epochs

    def __call__(self, epoch, base):
        return base * min(1, (epoch + 1) / self.epochs)


def test_any_callable_is_a_schedule_that_can_be_resumed(tmp_path):
    run(tmp_path, epochs=2, schedule=WarmUp(3))
    assert_same(run(tmp_path, schedule=lambda epoch, base: WarmUp(3)(epoch, base)), run(None, schedule=WarmUp(3)))
    # What is to come may change: the epochs that are done have had these rates.
    assert_same(run(tmp_path, epochs=5, schedule=lambda epoch, base: WarmUp(3)(epoch, base) / (1 if epoch < 4 else 2)),
                run(None, epochs=5, schedule=lambda epoch, base: WarmUp(3)(epoch, base) / (1 if epoch < 4 else 2)))


def test_what_does_not_tell_its_options_is_refused_before_training(tmp_path):
    class Own(LossIBP):
        def __init__(self, beta, how):
            super().__init__(beta)

    class Plain:
        def apply(self, images, key):
            return images

        central = staticmethod(lambda images: images)

    net = make_net()
    before = net.vector.copy()
    for change, message in (({"algorithm": Own(0.1, 2)}, "algorithm is"), ({"augmentation": Plain()}, "augmentation is")):
        with pytest.raises(TypeError, match=rf"{message}.*make it a dataclass"):
            run(tmp_path / "run", net=net, **change)
        run(None, epochs=1, **change)
    np.testing.assert_array_equal(net.vector, before)
    assert not (tmp_path / "run").exists()


def test_numbers_of_numpy_give_the_same_run(tmp_path):
    run(tmp_path, epochs=np.int64(1), seed=np.int64(2), batch_size=np.int32(16), net=make_net())
    assert_same(run(tmp_path, epochs=2, seed=2, batch_size=16), run(None, epochs=2, seed=2, batch_size=16))


def rewritten(change):
    """Return a damage that changes the header and the arrays of a checkpoint."""
    def damage(path):
        with np.load(path) as file:
            arrays = dict(file)
        header = json.loads(str(arrays.pop("header")))
        change(header, arrays)
        np.savez(path, header=np.array(json.dumps(header)), **arrays)

    return damage


def directory_of_a_later_version(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 255
    path.write_bytes(content)


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a checkpoint"),
    "directory": directory_of_a_later_version,
    **{f"without {key}": rewritten(lambda header, arrays, key=key: header.pop(key))
       for key in ("identity", "history", "network_generator", "shuffler", "format")},
    "half a history": rewritten(lambda header, arrays: header["history"][0].pop("loss")),
    "half a generator": rewritten(lambda header, arrays: header["shuffler"].pop("state")),
    "a network array less": rewritten(lambda header, arrays: arrays.pop("network/0.weight")),
    "an optimizer array less": rewritten(lambda header, arrays: arrays.pop([n for n in arrays if "optimizer" in n][-1])),
    "another optimizer array": rewritten(lambda header, arrays: arrays.update({"optimizer/steps": np.zeros(2)})),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused_and_nothing_changed(tmp_path, damage):
    run(tmp_path, epochs=1)
    path, net, optimizer = tmp_path / "checkpoint.npz", make_net(), Adam(0.01)
    DAMAGE[damage](path)
    before, generator = net.vector.copy(), net.generator.bit_generator.state
    with pytest.raises(ValueError, match=r"checkpoint\.npz .*damaged") as caught:
        run(tmp_path, epochs=1, net=net, optimizer=optimizer)
    assert "allow_pickle" not in str(caught.value)
    np.testing.assert_array_equal(net.vector, before)
    assert net.generator.bit_generator.state == generator and optimizer.steps == 0


def test_a_saved_network_is_not_a_checkpoint(tmp_path):
    make_net().save(tmp_path / "checkpoint.npz")
    with pytest.raises(ValueError, match="not a checkpoint"):
        run(tmp_path, epochs=1)


def test_a_folder_that_cannot_be_made_is_found_out_before_training(tmp_path):
    (tmp_path / "file").write_text("in the way")
    net = make_net()
    before = net.vector.copy()
    with pytest.raises(OSError, match="file"):
        run(tmp_path / "file" / "run", net=net)
    np.testing.assert_array_equal(net.vector, before)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    run(tmp_path, epochs=1)
    before = (tmp_path / "checkpoint.npz").read_bytes()

    def full(file, **arrays):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("convnet.checkpoint.np.savez", full)
    with pytest.raises(OSError, match="No space"):
        run(tmp_path, epochs=2)
    monkeypatch.undo()
    assert (tmp_path / "checkpoint.npz").read_bytes() == before
    assert_same(run(tmp_path, epochs=2), run(None, epochs=2))


def test_history_files_hold_what_the_object_holds(tmp_path):
    import csv

    result = run(tmp_path, epochs=3)
    rows = json.loads((tmp_path / "history.json").read_text())
    assert History.from_rows(rows).to_rows() == result.history.to_rows()
    with (tmp_path / "history.csv").open() as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == History.COLUMNS
    assert [float(row["loss"]) for row in table] == result.history.column("loss")
    with pytest.raises(ValueError, match="unknown column"):
        result.history.column("accuracy")
