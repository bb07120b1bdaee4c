"""The command line, through `main` and through real processes."""
import csv
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from convnet import Network
from convnet import experiment as experiments
from convnet.cli import main
from convnet.layers import Dense, ReLU

ROOT = str(Path(__file__).parents[2])
QUICK = ["--subset", "60", "--epochs", "2", "--noise", "0.1,0.3", "--fgsm", "0.05"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVNET_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def process(arguments, **options):
    environment = {**os.environ, "PYTHONPATH": ROOT, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "convnet", *arguments], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def test_compare_prints_a_table_writes_results_and_keeps_finished_runs(here, capsys, monkeypatch):
    command = ["compare", *QUICK, "--algorithms", "bp,loss-ibp:beta=0.1,exact=true", "--seeds", "2", "--quiet"]
    assert main(command) == 0
    first = capsys.readouterr()
    assert "loss-ibp:beta=0.1,exact=true" in first.out
    assert "±" in first.out
    folder = here / "runs" / "digits-60"
    names = {"results.csv", "results.json", "learning_curves.png", "robustness_curves.png", "runs"}
    assert {path.name for path in folder.iterdir()} == names

    monkeypatch.setattr(experiments, "train", None)
    assert main(command) == 0
    assert capsys.readouterr().out == first.out


@pytest.mark.slow
def test_lines_about_runs_go_to_standard_error(here, capsys):
    assert main(["compare", *QUICK, "--algorithms", "bp", "--seeds", "5", "--name", "x", "--output", "out"]) == 0
    error = capsys.readouterr().err.splitlines()
    assert len([line for line in error if line.startswith("[")]) == 5
    assert error[-1].startswith("[5/5] bp, seed 4: error ")
    assert (here / "out" / "x" / "results.csv").exists()


def test_train_saves_what_evaluate_reads(here, capsys):
    command = ["train", *QUICK, "--algorithm", "loss-ibp:beta=0.1", "--seed", "3", "--output", "out", "--quiet"]
    assert main(command) == 0
    table = capsys.readouterr().out.split("\n\n")[0]
    assert {path.name for path in (here / "out").iterdir()} == {
        "network.npz", "network.json", "checkpoint.npz", "history.csv", "history.json"}
    assert Network.load("out/network.npz").predict(np.zeros((1, 8, 8, 1), "f")).shape == (1,)

    assert main(["evaluate", "out/network.npz", "--noise", "0.1,0.3", "--fgsm", "0.05", "--output", "errors.csv"]) == 0
    assert capsys.readouterr().out.split("\n\n")[1].strip() == table
    with open("errors.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["test"], float(row["level"])) for row in rows] == [
        ("clean", 0.0), ("gaussian noise", 0.1), ("gaussian noise", 0.3), ("fgsm", 0.05)]
    stored = json.loads((here / "out" / "network.json").read_text())
    assert [float(row["error"]) for row in rows] == [
        stored["test_error"], *stored["noise_errors"], *stored["fgsm_errors"]]

    # The same command has nothing left to train; more epochs go on; another algorithm is another run.
    assert main(command) == 0
    assert capsys.readouterr().out.split("\n\n")[0] == table
    assert main([*command, "--epochs", "3"]) == 0
    assert len((here / "out" / "history.csv").read_text().splitlines()) == 4
    assert main([*command, "--epochs", "3", "--algorithm", "bp"]) == 2
    assert "another training run: algorithm is" in capsys.readouterr().err
    assert main([*command, "--algorithm", "bp", "--again"]) == 0
    assert len((here / "out" / "history.csv").read_text().splitlines()) == 3


def test_a_network_from_elsewhere_is_evaluated_on_a_named_data_set(here, capsys):
    from convnet.architectures import build

    build("digits", (8, 8, 1), 10).save("own.npz")
    assert main(["evaluate", "own.npz"]) == 2
    assert "give --dataset" in capsys.readouterr().err
    assert main(["evaluate", "own.npz", "--dataset", "digits", "--noise", "", "--fgsm", "", "--output", "e.json"]) == 0
    (row,) = json.loads(Path("e.json").read_text())
    assert row["test"] == "clean"
    assert row["error"] > 0.7


def test_a_run_that_failed_leaves_no_weights_of_another(here, capsys):
    command = ["train", *QUICK, "--output", "mix", "--quiet"]
    assert main(command) == 0
    assert main([*command, "--again", "--algorithm", "jacobian:strength=1,projections=50"]) == 2
    assert main(["evaluate", "mix/network.npz"]) == 0
    assert main([*command, "--again", "--optimizer", "sgd:learning_rate=1e30"]) == 2
    assert not Path("mix/network.npz").exists()
    assert main(["evaluate", "mix/network.npz"]) == 2


def test_the_settings_of_a_run_that_failed_are_refused(here, capsys):
    assert main(["train", *QUICK, "--output", "out", "--quiet"]) == 0
    beside = Path("out/network.json")
    beside.write_text(json.dumps({**json.loads(beside.read_text()), "problem": "the loss is nan"}))
    capsys.readouterr()
    assert main(["evaluate", "out/network.npz"]) == 2
    assert "of a run that failed (the loss is nan)" in capsys.readouterr().err
    assert main(["evaluate", "out/network.npz", "--dataset", "digits"]) == 0


def test_changed_data_are_refused_unless_they_are_asked_for(here, capsys):
    def write(seed):
        rng = np.random.default_rng(seed)
        np.savez("own.npz", train_images=rng.random((40, 8, 8, 1), "f"), train_labels=np.arange(40) % 2,
                 test_images=rng.random((20, 8, 8, 1), "f"), test_labels=np.arange(20) % 2)

    write(0)
    quick = ["--epochs", "1", "--network", "digits", "--noise", "", "--fgsm", "", "--quiet"]
    assert main(["train", "--dataset", "own.npz", *quick, "--output", "out"]) == 0
    assert main(["evaluate", "out/network.npz", "--subset", "30"]) == 0
    write(1)
    capsys.readouterr()
    assert main(["evaluate", "out/network.npz"]) == 2
    assert "own.npz has changed since the network was trained" in capsys.readouterr().err
    assert main(["evaluate", "out/network.npz", "--dataset", "own.npz"]) == 0


def test_a_network_of_cropped_images_is_evaluated_on_central_crops(here, capsys):
    rng = np.random.default_rng(0)
    np.savez("colour.npz", train_images=rng.integers(0, 256, (40, 32, 32, 3), np.uint8), train_labels=np.arange(40) % 2,
             test_images=rng.integers(0, 256, (20, 32, 32, 3), np.uint8), test_labels=np.arange(20) % 2)
    levels = ["--noise", "0.1", "--fgsm", "0.05"]
    assert main(["train", "--dataset", "colour.npz", "--network", "digits", "--augmentation", "cifar", "--epochs", "1", *levels,
                 "--output", "out", "--quiet"]) == 0
    table = capsys.readouterr().out.split("\n\n")[0]
    for more in ([], ["--dataset", "colour.npz", "--augmentation", "cifar"]):
        assert main(["evaluate", "out/network.npz", *levels, *more]) == 0
        assert capsys.readouterr().out.split("\n\n")[1].strip() == table


def test_images_of_several_sizes_are_scaled_to_the_size_that_is_given(here, capsys):
    image = pytest.importorskip("PIL.Image")
    for name in ("dark", "light"):
        (here / "set" / name).mkdir(parents=True)
        for i in range(5):
            image.new("RGB", (10 + i, 12), (i, 2, 3) if name == "dark" else (250, 200, i)).save(here / "set" / name / f"{i}.png")
    quick = ["--network", "digits", "--epochs", "1", "--noise", "", "--fgsm", "", "--quiet", "--output", "out"]
    assert main(["train", "--dataset", "set", *quick]) == 2
    assert main(["train", "--dataset", "set", "--image-size", "8", *quick]) == 0
    table = capsys.readouterr().out.split("\n\n")[0]
    assert Network.load("out/network.npz").input_shape == (8, 8, 3)
    for more in ([], ["--dataset", "set", "--image-size", "8"]):
        assert main(["evaluate", "out/network.npz", "--noise", "", "--fgsm", "", *more]) == 0
        assert capsys.readouterr().out.split("\n\n")[1].strip() == table


def test_info_names_versions_and_kernels(capsys, monkeypatch):
    from convnet import kernels

    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert f"numpy           {np.__version__}" in out
    assert f"CPU kernels     {kernels.cpu().name}" in out
    monkeypatch.delenv("CONVNET_KERNELS", raising=False)
    with kernels.using("reference"):
        assert main(["info"]) == 0
    assert "pip install" in capsys.readouterr().out


@pytest.mark.slow
def test_gradcheck_passes_and_names_a_planted_fault(capsys, monkeypatch):
    assert main(["gradcheck", "leaky", "double"]) == 0
    out = capsys.readouterr().out
    assert "leaky relu, slope 0.3" in out
    assert "double backpropagation" in out
    assert "3 of 3 correct" in out
    assert main(["gradcheck", "leaky", "--verbose"]) == 0
    assert "adjoint identity" in capsys.readouterr().out

    backward = ReLU.backward
    monkeypatch.setattr(ReLU, "backward", lambda self, b, record: 1.001 * backward(self, b, record))
    assert main(["gradcheck", "layer relu"]) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert "violated" in out or "backward" in out
    assert "0 of 1 correct" in out


COMMANDS = ["compare", "reproduce", "report", "train", "evaluate", "datasets", "gradcheck", "info"]


def test_the_page_on_architecture_lists_all_commands(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n    {command} " in out for command in COMMANDS)
    assert f" {', '.join(COMMANDS)}\n" in (Path(ROOT) / "docs" / "architecture.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"  convnet {command}" in capsys.readouterr().out.split("examples:")[1]


def broken_mnist(folder):
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (folder / f"{name}.gz").write_bytes(gzip.compress(b"\0\0\x08\x03" + b"\0\0\0\x09" * 3 + b"x" * 50))
    return ["compare", "--dataset", "mnist", "--data-root", str(folder)]


def in_the_way(folder):
    (folder / "runs").write_text("a file")
    return ["compare", *QUICK, "--algorithms", "bp", "--seeds", "1"]


def not_a_network(folder):
    (folder / "x.npz").write_bytes(b"PK nothing")
    return ["evaluate", str(folder / "x.npz"), "--dataset", "digits"]


def wrong_shape(folder):
    Network([Dense(10)], (5,)).save(folder / "flat.npz")
    return ["evaluate", str(folder / "flat.npz"), "--dataset", "digits"]


def odd_neighbour(folder):
    Network([Dense(10)], (5,)).save(folder / "net.npz")
    (folder / "net.json").write_text("[1, 2]")
    return ["evaluate", str(folder / "net.npz")]


def empty_folder(folder):
    (folder / "empty").mkdir()
    return ["compare", "--dataset", "empty"]


def array_file(folder):
    np.save(folder / "d.npy", np.zeros(3))
    return ["compare", "--dataset", "d.npy"]


def images_with_nan(folder):
    images = np.zeros((20, 8, 8, 1), "float32")
    images[3, 0, 0] = np.nan
    np.savez(folder / "own.npz", train_images=images, train_labels=np.arange(20) % 2,
             test_images=images[:3], test_labels=np.arange(3) % 2)
    return ["compare", "--dataset", str(folder / "own.npz")]


BAD = {
    "no command": (lambda folder: [], "COMMAND"),
    "command": (lambda folder: ["comapre"], "did you mean compare"),
    "argument": (lambda folder: ["compare", "--epocs", "3"], "did you mean --epochs"),
    "number": (lambda folder: ["compare", "--epochs", "many"], "--epochs"),
    "no epochs": (lambda folder: ["compare", "--epochs", "0"], "epochs is 0"),
    "seeds": (lambda folder: ["compare", "--seeds", "0"], "neither a number of seeds"),
    "levels": (lambda folder: ["compare", "--noise", "0.1;0.2"], "list of numbers"),
    "negative level": (lambda folder: ["compare", "--fgsm", "-0.1,-0.2"], "--fgsm"),
    "negative level =": (lambda folder: ["compare", "--fgsm=-0.1"], "epsilons is -0.1"),
    "algorithm": (lambda folder: ["compare", "--algorithms", "bpp"], "did you mean 'bp'"),
    "option": (lambda folder: ["compare", "--algorithms", "loss-ibp:bet=1"], "did you mean 'beta'"),
    "no beta": (lambda folder: ["train", "--algorithm", "loss-ibp", "--output", "x"], "needs beta"),
    "no algorithm": (lambda folder: ["compare", "--algorithms", ""], "unknown algorithm"),
    "choice": (lambda folder: ["train", "--algorithm", "loss-ibp:beta=1|2", "--output", "x"], "several values"),
    "data set": (lambda folder: ["compare", "--dataset", "digit"], "did you mean 'digits'"),
    "absent data": (lambda folder: ["compare", "--dataset", "cifar10"], "cifar10 is not in"),
    "empty folder": (empty_folder, "empty is neither a .npz file nor a folder with a folder of images per class"),
    "array file": (array_file, "d.npy is neither a .npz file"),
    "image size": (lambda folder: ["compare", "--image-size", "8"], "image_size is 8, but digits is no folder of images"),
    "no image size": (lambda folder: ["compare", "--image-size", "0"], "image_size is 0"),
    "broken data": (broken_mnist, "train-images-idx3-ubyte"),
    "nan": (images_with_nan, "image 3"),
    "subset": (lambda folder: ["compare", "--subset", "5000"], "1437"),
    "network": (lambda folder: ["compare", "--network", "mnst"], "did you mean 'mnist'"),
    "network too large": (lambda folder: ["compare", "--network", "small"], "larger than the padded image"),
    "optimizer": (lambda folder: ["compare", "--optimizer", "adma"], "did you mean 'adam'"),
    "schedule": (lambda folder: ["compare", "--schedule", "step"], "needs every"),
    "device": (lambda folder: ["compare", "--device", "tpu"], "'cpu', 'gpu' or 'auto'"),
    "folder": (in_the_way, "runs"),
    "no network": (lambda folder: ["evaluate", "absent.npz", "--dataset", "digits"], "absent.npz"),
    "not a network": (not_a_network, "x.npz is not a saved network"),
    "shape": (wrong_shape, "shape"),
    "neighbour": (odd_neighbour, "net.json does not say"),
    "output": (lambda folder: ["evaluate", "x.npz", "--output", "errors.xls"], ".csv or .json"),
    "gradcheck": (lambda folder: ["gradcheck", "softmx"], "softmx"),
    "divergence": (lambda folder: ["train", *QUICK, "--optimizer", "sgd:learning_rate=1e30", "--output", "x", "--quiet"],
                   "learning rate"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_input_takes_one_line_and_status_2(case, here, capsys):
    arguments, message = BAD[case]
    arguments = arguments(here)
    before = {path for path in here.rglob("*") if path.is_file()}
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert len(error.splitlines()) == 1
    assert error.startswith("convnet")
    assert ": error: " in error
    assert message in error
    new = {path for path in here.rglob("*") if path.is_file()} - before
    assert {path.name for path in new} <= ({"checkpoint.npz", "history.csv", "history.json", "network.json"}
                                           if case == "divergence" else set())


def test_traceback_on_request(here):
    with pytest.raises(ValueError, match="did you mean 'bp'"):
        main(["compare", "--algorithms", "bpp", "--traceback"])
    with pytest.raises(ValueError, match="did you mean 'bp'"):
        main(["--traceback", "compare", "--algorithms", "bpp"])


@pytest.mark.slow
def test_an_interruption_keeps_what_is_finished(here, capsys, monkeypatch):
    trained, done = experiments.train, []

    def interrupting(*arguments, **options):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(1)
        return trained(*arguments, **options)

    command = ["compare", *QUICK, "--algorithms", "bp", "--seeds", "2"]
    monkeypatch.setattr(experiments, "train", interrupting)
    assert main(command) == 130
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1] == ("convnet compare: interrupted; what is finished is kept, "
                         "and the same command goes on from there")
    assert len(list(here.glob("runs/*/runs/*.json"))) == 1
    assert not list(here.glob("runs/*/results.*"))
    done.append(2)
    assert main(command) == 0
    assert len([line for line in capsys.readouterr().err.splitlines() if line.startswith("[")]) == 1


@pytest.mark.slow
def test_a_process_ends_with_one_line_and_status_2(here):
    started = process(["compare", "--algorithms", "bp,los-ibp:beta=1"])
    out, error = started.communicate(timeout=60)
    assert started.returncode == 2
    assert out == ""
    assert error.splitlines() == [error.strip()]
    assert "did you mean 'loss-ibp'" in error


@pytest.mark.slow
def test_a_process_that_gets_ctrl_c_ends_with_one_line_and_goes_on_later(here, capsys):
    command = ["compare", "--subset", "100", "--epochs", "15", "--algorithms", "bp", "--seeds", "3", "--noise", "", "--fgsm", ""]
    # A test run in the background passes on that Ctrl-C is ignored.
    started = process(command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    deadline = time.monotonic() + 60
    while not list(here.glob("runs/*/runs/*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    started.send_signal(signal.SIGINT)
    out, error = started.communicate(timeout=60)
    kept = len(list(here.glob("runs/*/runs/*.json")))
    assert started.returncode == 130
    assert out == ""
    assert "Traceback" not in error
    assert "interrupted" in error.splitlines()[-1]
    assert 1 <= kept < 3
    assert main(command) == 0
    assert len([line for line in capsys.readouterr().err.splitlines() if line.startswith("[")]) == 3 - kept


@pytest.mark.slow
def test_importing_the_package_is_light():
    heavy = ("numba", "matplotlib", "scipy", "tqdm")
    code = ("import sys, time\nstart = time.perf_counter()\nimport convnet\nprint(time.perf_counter() - start)\n"
            f"convnet.train, convnet.Network\nprint([name for name in {heavy} if name in sys.modules])")
    found = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True,
                           text=True, check=True).stdout.splitlines()
    assert float(found[0]) < 0.5
    assert found[1] == "[]"
