import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from official_files import svhn_arrays
from scipy.io import savemat
from test_idx import NAMES, make_files

from convnet.data.commands import add_parser, main


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    monkeypatch.delenv("CONVNET_DATA", raising=False)


def test_list_shows_what_is_present(tmp_path, capsys):
    make_files(tmp_path / "mnist")
    assert main(["list", "--root", str(tmp_path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert str(tmp_path / "mnist") in lines["mnist"] and "absent" in lines["cifar10"] and "package" in lines["digits"]


def test_verify_names_what_is_damaged(tmp_path, capsys):
    make_files(tmp_path / "fashion-mnist")
    assert main(["verify", "fashion-mnist", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("sound") == 4
    (tmp_path / "fashion-mnist" / NAMES["test_images"]).write_bytes(b"")
    assert main(["verify", "fashion-mnist", "--root", str(tmp_path)]) == 1
    assert "damaged (" in capsys.readouterr().out


def test_prepare_keeps_what_takes_long(tmp_path, capsys):
    for part in ("train", "test"):
        X, y = svhn_arrays(20, 0)
        savemat(tmp_path / f"{part}_32x32.mat", {"X": X, "y": y})
    assert main(["prepare", "svhn", "--root", str(tmp_path), "--cache", str(tmp_path / "kept")]) == 0
    assert "local contrast normalisation, kept in" in capsys.readouterr().out
    kept, = (tmp_path / "kept").iterdir()                       # train and test hold the same images here
    assert np.load(kept).shape == (20, 32, 32, 3)
    assert main(["prepare", "digits"]) == 0
    assert "less the training part's mean image" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    (["verify", "mnits"], "unknown data set 'mnits'; did you mean 'mnist'"),
    (["prepare", "cifar10"], "cifar10 is not in"),
    (["fetch", "digits"], "is part of the package"),
])
def test_failures_are_one_line_and_status_2(tmp_path, capsys, arguments, message):
    pytest.importorskip("pooch")
    assert main([*arguments, "--root", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err and captured.err.count("\n") == 1


def test_as_a_subcommand_errors_pass_through(tmp_path):
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(dest="command"))
    arguments = parser.parse_args(["datasets", "verify", "svhn", "--root", str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="svhn is not in"):
        arguments.run(arguments)


def test_script_runs_from_anywhere(tmp_path):
    script = Path(__file__).parents[2] / "data_scripts" / "datasets.py"
    run = subprocess.run([sys.executable, script, "list", "--root", tmp_path], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0 and "fashion-mnist" in run.stdout and run.stderr == ""
