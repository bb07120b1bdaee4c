"""The commands that compare the two classification stages, on digits at the smallest scale."""
import json
import math
import sys

import numpy as np
import pytest

from convnet import stage_comparison
from convnet.data import load
from convnet.stage_comparison import Curve, best, learning_curve, main, mislabelled_table, padded


@pytest.fixture(scope="module")
def digits():
    return padded(load("digits").subset(per_class=6), 32).prepared(subtract_mean=False)


def curve(rate, *errors, stage="logistic", m=10, share=0.0, seed=0):
    return Curve(stage, rate, m, list(errors), [0.0] * len(errors), share, seed)


def test_padding_centres_smaller_images_and_leaves_larger_ones():
    dataset = load("digits").subset(per_class=2)
    grown = padded(dataset, 11)
    assert grown.input_shape == (11, 11, 1)
    np.testing.assert_array_equal(grown.train_images[:, 1:9, 1:9], dataset.train_images)
    assert grown.train_images.sum() == dataset.train_images.sum()
    assert padded(dataset, 4).input_shape == (8, 8, 1)


@pytest.mark.parametrize("rate", [1e-6, 1.0, 1e6])
def test_the_scale_invariant_stage_trains_at_any_rate(digits, rate):
    result = learning_curve(digits, "complex-smaller", "scale-invariant", rate, 2, batch_size=30, dimension=15)
    assert all(0 <= cost <= 4 for cost in result.costs)
    assert all(0 <= error <= 1 for error in result.errors)
    assert result.dimension == 15


def test_a_logistic_run_that_overflows_is_recorded_as_nan(digits):
    result = learning_curve(digits, "complex-smaller", "logistic", 1e6, 3, batch_size=30)
    assert len(result.errors) == len(result.costs) == 3
    assert math.isnan(result.errors[-1])
    assert result.final == math.inf


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["scale-invariant", "logistic"])
def test_each_stage_learns_digits(stage):
    """After 400 steps the cost is far below that of guessing (2, or log 10), and so is the error."""
    dataset = padded(load("digits").subset(per_class=20), 16).prepared(subtract_mean=False)
    result = learning_curve(dataset, "complex-smaller", stage, 0.1, 20, batch_size=10)
    assert result.costs[-1] < 0.7 * (2 if stage == "scale-invariant" else math.log(10))
    assert min(result.errors[-5:]) < 0.6


def test_the_best_setting_has_the_smallest_mean_over_its_seeds():
    curves = [curve(1, 0.5, 0.1), curve(1, 0.1, 0.4, seed=1), curve(2, 0.9, 0.2), curve(2, 0.9, 0.2, seed=1),
              curve(3, 0.1, math.nan), curve(3, 0.1, 0.1, seed=1)]
    assert [(c.rate, c.seed) for c in best(curves)] == [(2, 0), (2, 1)]
    noisy = [curve(1, 0.4, share=0.5), curve(1, 0.6, share=0.5, seed=1)]
    assert mislabelled_table([*curves, *noisy]) == [(0.0, 2, 0.2, 0.0), (0.5, 1, 0.5, pytest.approx(0.1))]


def test_where_every_rate_overflows_the_output_says_so(tmp_path, capsys):
    assert mislabelled_table([curve(1, math.nan)]) == [(0.0, 1, math.inf, pytest.approx(math.nan, nan_ok=True))]
    assert main(["rates", "digits", "--per-class", "3", "--test-images", "40", "--epochs", "2", "--batch-size", "15",
                 "--rates", "1e6", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "best logistic: h = 1e+06, m = 10, the cost overflows at every rate" in said
    assert "best scale-invariant: h = 1e+06, m = 10, test error" in said
    text = (tmp_path / "curves.json").read_text()
    assert json.loads(text)["curves"][1]["costs"][-1] is None
    assert "NaN" not in text


@pytest.mark.parametrize("command", [pytest.param("rates", marks=pytest.mark.slow), "mislabelled"])
def test_a_command_writes_curves_and_a_figure_and_says_its_scale(tmp_path, capsys, command):
    pytest.importorskip("sklearn")
    own = ["--dimensions", "10", "12"] if command == "rates" else ["--fractions", "0", "0.5", "--seeds", "1"]
    main([command, "digits", "--per-class", "3", "--test-images", "40", "--epochs", "1", "--batch-size", "30",
          "--rates", "0.1", "--svm", "--out", str(tmp_path), *own])
    said = capsys.readouterr().out
    assert said.startswith("Reduced scale. digits: 30 training and 40 test images of 32×32×1, complex-smaller, 1 epochs.")
    assert "Gaussian kernel SVM on pixels: test error" in said
    record = json.loads((tmp_path / "curves.json").read_text())
    found = [(c["stage"], c["dimension"], c["mislabelled"]) for c in record["curves"]]
    if command == "rates":
        assert found == [("scale-invariant", 10, 0), ("scale-invariant", 12, 0), ("logistic", 10, 0)]
        assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    else:
        assert found == [(stage, 10, share) for share in (0, 0.5) for stage in ("scale-invariant", "logistic")]
        assert (tmp_path / "mislabelled.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("arguments", "message"), [
    (["rates", "mnits"], "did you mean 'mnist'"), (["rates", "file"], "file is neither a .npz file"),
    (["rates", "digits", "--epochs", "0"], "epochs is 0"),
    (["rates", "digits", "--batch-size", "0"], "batch_size is 0"), (["rates", "digits", "--rates", "0.1", "-1"], "-1.0"),
    (["rates", "digits", "--test-images", "0"], "test_images is 0"), (["rates", "digits", "--seed", "-1"], "seed is -1"),
    (["rates", "digits", "--dimensions", "10", "3"], "3"), (["rates", "digits", "--per-class", "100000"], "100000"),
    (["mislabelled", "digits", "--fractions", "0", "2"], "fractions is 2.0"),
    (["mislabelled", "digits", "--dimension", "3"], "3"),
    (["mislabelled", "digits", "--seeds", "0"], "seeds is 0"), (["rates", "digits", "--svm"], "needs scikit-learn"),
    (["rates", "digits", "--out", "file"], "file"),
], ids=str)
def test_wrong_input_takes_one_line_and_status_2_before_any_training(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr(stage_comparison, "train", None)
    (tmp_path / "file").write_text("in the way")
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert len(error.splitlines()) == 1
    assert error.startswith("python -m convnet.stage_comparison: error: ")
    assert message in error


def test_a_folder_of_images_is_read(tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for name in ("dark", "light"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 128, (40, 50, 3), np.uint8) + (127 if name == "light" else 0)
            image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "set" / name / f"{i}.png")
    main(["rates", str(tmp_path / "set"), "--per-class", "2", "--epochs", "1", "--rates", "0.1", "--out", str(tmp_path)])
    assert "4 training and 2 test images of 32×32×3" in capsys.readouterr().out
