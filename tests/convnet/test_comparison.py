"""Comparisons: what is held equal, how coefficients are chosen, what is kept and what is done again."""
import csv
import dataclasses
import json
import math
import shutil
import statistics
from types import SimpleNamespace

import numpy as np
import pytest

from convnet import devices, kernels
from convnet import experiment as experiments
from convnet.comparison import best, compare, record, table, write_results
from convnet.evaluation import fgsm_errors, noise_errors
from convnet.experiment import Experiment, Levels, Setup, kernels_of, split
from convnet.layers import Dense
from convnet.network import Network
from convnet.passes import Backprop, LossIBP
from convnet.plots import learning_curves, robustness_curves

pytestmark = pytest.mark.slow

SMALL = Setup(subset=60, epochs=2)
LEVELS = Levels((0.1, 0.3), (0.05,))
SPECS = ["bp", "loss-ibp:beta=0.01|0.1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    experiment = Experiment(SMALL, folder)
    return experiment, compare(experiment, SPECS, (0, 1), LEVELS)


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a finished run was trained again")

    monkeypatch.setattr(experiments, "train", refuse)


def test_all_algorithms_of_a_seed_start_alike_and_see_the_same(tmp_path, monkeypatch):
    calls = []
    trained = experiments.train

    def watched(net, dataset, algorithm, optimizer, epochs, batch_size, schedule, seed, **options):
        images = dataset.train_images.copy()
        calls.append((seed, net.vector.copy(), net.generator.bit_generator.state, images, type(algorithm)))
        return trained(net, dataset, algorithm, optimizer, epochs, batch_size, schedule, seed, **options)

    monkeypatch.setattr(experiments, "train", watched)
    compare(Experiment(SMALL, tmp_path), ["bp", "loss-ibp:beta=0.1", "noise:sigma=0.1"], (3, 4), Levels())
    assert [call[0] for call in calls] == [3, 3, 3, 4, 4, 4]
    for first, *others in (calls[:3], calls[3:]):
        assert len({first[4], *(other[4] for other in others)}) == 3
        for other in others:
            np.testing.assert_array_equal(first[1], other[1])
            assert first[2] == other[2]
            np.testing.assert_array_equal(first[3], other[3])
    assert not np.array_equal(calls[0][1], calls[3][1])
    assert not np.array_equal(calls[0][3], calls[3][3])


def test_finished_runs_are_read_and_not_trained_again(finished, no_training):
    experiment, rows = finished
    again = compare(Experiment(SMALL, experiment.folder), SPECS, (0, 1), LEVELS)
    assert [record(row, LEVELS) for row in again] == [record(row, LEVELS) for row in rows]


def test_again_trains_again(tmp_path):
    experiment = Experiment(SMALL, tmp_path)
    (first,) = compare(experiment, ["bp"], (0,), LEVELS)[0].runs
    written = first.file.stat().st_mtime_ns
    (second,) = compare(experiment, ["bp"], (0,), LEVELS, again=True)[0].runs
    assert second.file == first.file
    assert second.file.stat().st_mtime_ns > written
    assert second.test_error == first.test_error


def test_other_levels_test_the_saved_networks(finished, no_training, tmp_path):
    rows = finished[1]
    shutil.copytree(finished[0].folder, tmp_path, dirs_exist_ok=True)
    experiment, levels = Experiment(SMALL, tmp_path), Levels((0.2,), (0.02, 0.2))
    (run, _) = compare(experiment, ["bp"], (0, 1), levels)[0].runs
    net, data = Network.load(run.file.with_suffix(".npz")), experiment.data(0, False)
    assert run.noise_errors == noise_errors(net, data.test_images, data.test_labels, levels.sigmas)
    assert run.fgsm_errors == fgsm_errors(net, data.test_images, data.test_labels, levels.epsilons)
    assert run.test_error == rows[0].runs[0].test_error


def test_coefficients_are_chosen_on_training_images_alone(tmp_path, monkeypatch):
    experiment = Experiment(SMALL, tmp_path)
    whole, held = experiment.raw.subset(60, seed=1), split(experiment.raw.subset(60, seed=1), 0.25, 1)
    assert (len(held.train_labels), len(held.test_labels)) == (45, 15)
    parts = np.concatenate([held.train_images, held.test_images]).reshape(60, -1)
    assert sorted(map(tuple, parts)) == sorted(map(tuple, whole.train_images.reshape(60, -1)))
    assert np.bincount(held.test_labels, minlength=10).max() <= 2  # every class keeps its share

    row = compare(experiment, ["loss-ibp:beta=0.01|0.1"], (0,), Levels())[0]
    spoilt = Experiment(SMALL, tmp_path / "other")
    labels = (spoilt.raw.test_labels + 1) % 10
    spoilt.raw = dataclasses.replace(spoilt.raw, test_images=spoilt.raw.test_images[::-1].copy(), test_labels=labels)
    other = compare(spoilt, ["loss-ibp:beta=0.01|0.1"], (0,), Levels())[0]
    assert other.validation == row.validation
    assert other.spec == row.spec
    assert other.error() != row.error()


def test_the_smallest_validation_error_wins_and_the_first_of_equals():
    options = [("a", Backprop()), ("b", LossIBP(0.1)), ("c", LossIBP(0.2)), ("d", LossIBP(0.3))]
    assert best(options, {"a": 0.3, "b": 0.1, "c": 0.1, "d": math.inf})[0] == "b"
    assert best(options[:1], {})[0] == "a"


def test_rows_hold_means_and_deviations_over_the_seeds(finished):
    _, rows = finished
    assert [row.spec for row in rows] == ["bp", rows[1].spec]
    assert rows[1].spec in rows[1].validation
    assert rows[1].validation[rows[1].spec] == min(rows[1].validation.values())
    for row in rows:
        errors = [json.loads(run.file.read_text())["test_error"] for run in row.runs]
        assert row.error() == (sum(errors) / 2, pytest.approx(abs(errors[0] - errors[1]) / math.sqrt(2), abs=1e-15))
        noise = [json.loads(run.file.read_text())["noise_errors"][1] for run in row.runs]
        assert row.error("noise", 1)[0] == pytest.approx(sum(noise) / 2, abs=1e-15)
    medians = [statistics.median(run.seconds_per_epoch for run in row.runs) for row in rows]
    assert [row.time_ratio for row in rows] == [1.0, medians[1] / medians[0]]
    single = dataclasses.replace(rows[0], runs=rows[0].runs[:1])
    assert single.error()[1] is None


def test_results_are_written_as_csv_and_json(finished, tmp_path):
    experiment, rows = finished
    write_results(experiment.folder, experiment, rows, LEVELS)
    with (experiment.folder / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["algorithm"] for line in lines] == [row.spec for row in rows]
    assert float(lines[1]["error_noise_0.3_mean"]) == rows[1].error("noise", 1)[0]
    assert float(lines[1]["error_fgsm_0.05_deviation"]) == rows[1].error("fgsm", 0)[1]
    content = json.loads((experiment.folder / "results.json").read_text())
    assert content["setup"]["subset"] == 60
    assert content["results"][1]["validation_errors"] == rows[1].validation
    for run in content["results"][0]["runs"]:
        assert (experiment.folder / run["file"]).exists()


def test_the_table_shows_percentages(finished):
    _, rows = finished
    lines = table(rows, LEVELS).splitlines()
    mean, deviation = (100 * value for value in rows[0].error())
    assert lines[2].startswith("bp ")
    assert f"{mean:.2f} ± {deviation:.2f}" in lines[2]
    assert "noise 0.3" in lines[0]
    assert "held-back training images" in lines[-1]


def test_curves_are_images(finished, tmp_path):
    _, rows = finished
    learning_curves(rows, tmp_path / "learning.png")
    robustness_curves(rows, LEVELS, tmp_path / "robustness.png")
    robustness_curves(rows, Levels(), tmp_path / "clean.png")
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_curves_pass_through_the_epochs_that_were_tested(tmp_path, monkeypatch):
    rows = compare(Experiment(dataclasses.replace(SMALL, epochs=5, test_every=2), tmp_path), ["bp"], (0, 1), Levels())
    drawn = []
    monkeypatch.setattr("convnet.plots._save", lambda figure, *rest: drawn.append(figure))
    learning_curves(rows, tmp_path / "learning.png")
    lines = [axes.lines[0].get_xydata() for axes in drawn[0].axes]
    np.testing.assert_array_equal(lines[0][:, 0], [1, 2, 3, 4, 5])
    errors = np.mean([[run.history[k].test_error for k in (1, 3, 4)] for run in rows[0].runs], axis=0)
    np.testing.assert_allclose(lines[1], np.stack([[2, 4, 5], 100 * errors], axis=1), rtol=1e-12)


def test_a_run_that_fails_is_reported_and_the_others_go_on(tmp_path):
    rows = compare(Experiment(SMALL, tmp_path), ["loss-ibp:beta=1e30", "bp"], (0,), LEVELS)
    assert "epoch 1, batch" in rows[0].runs[0].problem
    assert rows[0].error() is None
    assert rows[1].error() is not None
    shown = table(rows, LEVELS)
    assert "1 of 1 runs stopped" in shown
    learning_curves(rows, tmp_path / "learning.png")
    assert record(rows[0], LEVELS)["failed_runs"] == 1


def test_an_algorithm_that_does_not_suit_the_network_is_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="projections is 50, but all 10 classes cost no more"):
        compare(Experiment(SMALL, tmp_path), ["bp", "jacobian:strength=1,projections=50"], (0,), Levels())
    assert not list(tmp_path.rglob("*"))


def test_a_coefficient_that_fails_is_not_chosen(tmp_path):
    row = compare(Experiment(SMALL, tmp_path), ["loss-ibp:beta=1e30|0.01"], (0,), Levels())[0]
    assert row.spec == "loss-ibp:beta=0.01"
    assert row.validation["loss-ibp:beta=1e30"] == math.inf


def test_an_interrupted_comparison_goes_on_from_its_checkpoint(tmp_path, monkeypatch, finished):
    trained = experiments.train

    def interrupted(*arguments, **options):
        def stop(net, epoch):
            raise KeyboardInterrupt

        return trained(*arguments, callback=stop, **options)

    monkeypatch.setattr(experiments, "train", interrupted)
    experiment = Experiment(SMALL, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        compare(experiment, ["bp"], (0,), LEVELS)
    assert not list(tmp_path.glob("runs/*.json"))
    assert len(list(tmp_path.glob("runs/*.part"))) == 1
    monkeypatch.setattr(experiments, "train", trained)
    (run,) = compare(experiment, ["bp"], (0,), LEVELS)[0].runs
    uninterrupted = finished[1][0].runs[0]
    assert run.history.column("loss") == uninterrupted.history.column("loss")
    assert run.noise_errors == uninterrupted.noise_errors
    assert not list(tmp_path.glob("runs/*.part"))


@pytest.mark.parametrize("change", [
    {"subset": 70}, {"per_class": 6, "subset": None}, {"normalization": "scale"}, {"dropout": 0.1}, {"epochs": 3},
    {"initialization": "authors"}, {"dtype": "float64"}, {"batch_size": 16}, {"schedule": "constant"},
    {"optimizer": "sgd:learning_rate=0.1"}, {"network": "resnet"},
], ids=str)
def test_everything_that_determines_a_run_is_in_its_settings(tmp_path, change):
    base = Experiment(SMALL, tmp_path).settings(Backprop(), 0, False)
    other = Experiment(dataclasses.replace(SMALL, **change), tmp_path).settings(Backprop(), 0, False)
    assert base != other


def test_an_image_size_is_in_the_settings_where_it_is_given(tmp_path):
    assert "image_size" not in SMALL.determining()
    assert dataclasses.replace(SMALL, image_size=8).determining()["image_size"] == 8


def test_algorithm_seed_and_validation_are_in_the_settings_and_the_place_of_the_data_is_not(tmp_path):
    experiment = Experiment(SMALL, tmp_path)
    base = experiment.settings(LossIBP(0.1), 0, False)
    assert base == Experiment(dataclasses.replace(SMALL, validation=0.5), tmp_path).settings(LossIBP(0.1), 0, False)
    for algorithm, seed, validation in ((LossIBP(0.2), 0, False), (LossIBP(0.1), 1, False), (LossIBP(0.1), 0, True)):
        assert experiment.settings(algorithm, seed, validation) != base
    experiment.data_digest = "of other images"
    assert experiment.settings(LossIBP(0.1), 0, False) != base


def test_a_damaged_run_file_is_refused(tmp_path):
    experiment = Experiment(SMALL, tmp_path)
    (run,) = compare(experiment, ["bp"], (0,), Levels())[0].runs
    run.file.write_text(run.file.read_text()[:200])
    with pytest.raises(ValueError, match="is not the run that its name says"):
        compare(experiment, ["bp"], (0,), Levels())


@pytest.mark.parametrize("content", [None, b"PK nothing"])
def test_a_network_that_is_gone_when_it_is_to_be_tested_again_is_refused_with_a_remedy(tmp_path, content):
    experiment = Experiment(SMALL, tmp_path)
    (run,) = compare(experiment, ["bp"], (0,), Levels())[0].runs
    network = run.file.with_suffix(".npz")
    network.unlink()
    if content is not None:
        network.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{network.name} .* missing or damaged; delete {run.file.name} to train again"):
        compare(experiment, ["bp"], (0,), LEVELS)
    run.file.unlink()
    assert compare(experiment, ["bp"], (0,), LEVELS)[0].runs[0].levels == LEVELS


def test_tangent_propagation_gets_its_tangents(tmp_path):
    row = compare(Experiment(SMALL, tmp_path), ["fast-tangent-prop:beta=0.01"], (0,), Levels())[0]
    assert row.runs[0].history[-1].penalty > 0


@pytest.mark.parametrize(("change", "message"), [
    ({"network": "mnsit"}, "did you mean 'mnist'"), ({"optimizer": "sdg"}, "did you mean 'sgd'"),
    ({"schedule": "exp:decay=1"}, "unknown schedule"), ({"epochs": 0}, "epochs"), ({"batch_size": -1}, "batch_size"),
    ({"subset": 10**6}, "size"), ({"validation": 1.0}, "validation"), ({"dropout": 1.5}, "dropout"),
    ({"network": "small"}, "larger than"), ({"dtype": "float16"}, "dtype"), ({"device": "tpu"}, "device"),
])
def test_setups_that_cannot_run_are_refused_at_once(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        Experiment(dataclasses.replace(SMALL, **change), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_validation_split_needs_images_on_both_sides(tmp_path):
    with pytest.raises(ValueError, match="leaves one part empty"):
        compare(Experiment(dataclasses.replace(SMALL, validation=0.001), tmp_path), SPECS, (0,), Levels())


def test_augmentation_varies_training_images_and_crops_test_images(tmp_path):
    setup = Setup(network="digits", epochs=1, subset=100, augmentation="mnist")
    plain, varied = (Experiment(dataclasses.replace(setup, augmentation=name), tmp_path, progress=False)
                     for name in (None, "mnist"))
    runs = [experiment.run("bp", Backprop(), 0, Levels((0.1,), (0.1,))) for experiment in (plain, varied)]
    assert runs[0].history[-1].loss != runs[1].history[-1].loss
    assert runs[0].file != runs[1].file
    with pytest.raises(ValueError, match=r"unknown augmentation 'mnits'; did you mean 'mnist'"):
        Experiment(dataclasses.replace(setup, augmentation="mnits"), tmp_path)


def test_rounded_factors_make_other_runs_on_a_device_only(monkeypatch):
    net = Network([Dense(2)], (3,))
    monkeypatch.setattr(devices, "_tf32", True)
    assert kernels_of(net) == kernels.cpu().name
    monkeypatch.setattr(kernels, "of", lambda x: SimpleNamespace(name="cuda"))
    assert kernels_of(net) == "cuda, TF32"
    monkeypatch.setattr(devices, "_tf32", False)
    assert kernels_of(net) == "cuda"
