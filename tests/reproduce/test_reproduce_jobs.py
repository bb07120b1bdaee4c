"""Which jobs there are, how a coefficient is chosen from them, and where a run is found."""
import dataclasses
import json
import os

import numpy as np
import pytest
from reproduce_tools import made_up, write_tiny

from convnet.data import load
from convnet.experiment import Setup
from convnet.passes import LossIBP
from convnet.reproduce import cost
from convnet.reproduce.definition import Part
from convnet.reproduce.jobs import Job, cells, finished, job_count, wanted
from convnet.reproduce.networks import build
from convnet.reproduce.reading import find
from convnet.reproduce.runs import PartExperiment, fold_of, identity
from convnet.reproduce.scales import scaled
from convnet.reproduce.store import Store, key_of


@pytest.fixture
def tiny(tmp_path):
    return find(str(write_tiny(tmp_path)))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def finish(store, jobs, error=0.1):
    for job in jobs:
        made_up(store, job, error(job) if callable(error) else error)


def test_validation_comes_first_and_decides_the_final_runs(tiny, store):
    first = cells(tiny, store.runs())
    jobs = wanted(first)
    assert [job.label for job in jobs] == [
        *(f"digits: loss-ibp:norm=1,beta={value}, seed 0, fold 1 of 3" for value in ("0.01", "0.1", "1")),
        "digits: bp, seed 0", "digits: bp, seed 1",
    ]
    assert job_count(first, tiny.seeds) == 7
    errors = {"0.01": 0.3, "0.1": 0.2, "1": 0.25}
    finish(store, jobs[:3], lambda job: errors[job.spec.rpartition("=")[2]])
    cell = cells(tiny, store.runs())[1]
    assert (cell.chosen, cell.coefficient, cell.at_edge) == ("loss-ibp:norm=1,beta=0.1", 0.1, False)
    assert [(job.seed, job.fold) for job in cell.jobs] == [(0, None), (1, None)]
    finish(store, [job for job in wanted(cells(tiny, store.runs())) if job.fold is None])
    last = cells(tiny, store.runs())
    assert all(finished(job, store.runs()) is not None for job in wanted(last))
    assert [len(cell.runs) for cell in last] == [2, 2]


def test_nothing_is_chosen_before_every_candidate_has_finished(tiny, store):
    jobs = [job for job in wanted(cells(tiny, store.runs())) if job.fold]
    finish(store, jobs[:2])
    assert cells(tiny, store.runs())[1].chosen is None


def test_a_candidate_that_fails_is_not_chosen_and_the_first_of_equals_is(tiny, store):
    jobs = [job for job in wanted(cells(tiny, store.runs())) if job.fold]
    made_up(store, jobs[0], None, problem="the loss is nan")
    finish(store, jobs[1:], 0.2)
    cell = cells(tiny, store.runs())[1]
    assert cell.chosen.endswith("=0.1")
    assert cell.means["loss-ibp:norm=1,beta=0.01"] == np.inf


def test_several_turns_are_averaged(tiny, store):
    three = dataclasses.replace(tiny, turns=3)
    jobs = [job for job in wanted(cells(three, store.runs())) if job.fold]
    assert len(jobs) == 9
    errors = {"0.01": (0.1, 0.1, 0.7), "0.1": (0.2, 0.2, 0.2), "1": (0.3, 0.3, 0.3)}
    finish(store, jobs, lambda job: errors[job.spec.rpartition("=")[2]][job.fold[0]])
    cell = cells(three, store.runs())[1]
    assert cell.chosen.endswith("=0.1")
    assert cell.means["loss-ibp:norm=1,beta=0.01"] == pytest.approx(0.3, rel=1e-14)


def test_selection_on_the_test_images_uses_the_final_runs(tiny, store):
    jobs = wanted(cells(tiny, store.runs(), on_test=True))
    assert all(job.fold is None for job in jobs)
    assert len(jobs) == 8
    finish(store, jobs, lambda job: 0.1 if job.spec.endswith("=1") else 0.2)
    cell = cells(tiny, store.runs(), on_test=True)[1]
    assert cell.chosen.endswith("=1")
    assert cell.at_edge
    assert len(cell.runs) == 2


def test_a_run_with_other_levels_is_not_finished(tiny, store):
    job = wanted(cells(tiny, store.runs()))[-1]
    made_up(store, job, 0.1)
    other = dataclasses.replace(job, levels=dataclasses.replace(job.levels, sigmas=(0.2,)))
    assert finished(job, store.runs()) is not None
    assert finished(other, store.runs()) is None


def test_of_several_runs_of_a_job_the_newest_version_is_taken_and_of_one_version_the_newest_file(tiny, store):
    job = wanted(cells(tiny, {}))[-1]
    for i, (version, kernels) in enumerate([("0.10.0", "reference"), ("0.10.0", "fast"), ("0.9.0", "cuda")]):
        run = made_up(store, job, 0.1, version=version, kernels=kernels)
        os.utime(run.file, (1000 + i, 1000 + i))
    assert finished(job, store.runs()).settings["kernels"] == "fast"


def test_jobs_survive_json(tiny):
    for name in ("002-figure4", "004-figure5"):
        for job in wanted(cells(scaled(find(name), "quick"), {}))[:20]:
            assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job
    for job in wanted(cells(tiny, {})):
        assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job


@pytest.mark.parametrize("change", [
    {"epochs": 3}, {"subset": 70}, {"dropout": 0.1}, {"network": "dense-2"}, {"optimizer": "sgd:learning_rate=0.2"},
    {"augmentation": "mnist"}, {"batch_size": 16}, {"normalization": "scale"},
], ids=str)
def test_everything_that_determines_a_job_is_in_its_key(tiny, change):
    part = tiny.parts[0]
    other = dataclasses.replace(part, setup=dataclasses.replace(part.setup, **change))
    assert key_of(identity(part, "bp", 0, None)) != key_of(identity(other, "bp", 0, None))


def test_algorithm_seed_fold_and_stage_are_in_the_key_and_the_place_is_not(tiny):
    part = tiny.parts[0]
    keys = [key_of(identity(*what)) for what in (
        (part, "bp", 0, None), (part, "loss-ibp:beta=1", 0, None), (part, "bp", 1, None), (part, "bp", 0, (0, 3)),
        (part, "bp", 0, (1, 3)), (part, "bp", 0, (0, 5)), (dataclasses.replace(part, stage="logistic"), "bp", 0, None),
    )]
    assert len(set(keys)) == len(keys)
    setup = dataclasses.replace(part.setup, root="/data", device="gpu", test_every=2)
    elsewhere = dataclasses.replace(part, name="x", setup=setup)
    assert key_of(identity(elsewhere, "bp", 0, None)) == keys[0]


def test_what_is_expected_of_a_run_is_what_its_experiment_says(tiny, tmp_path):
    part = tiny.parts[0]
    for fold in (None, (1, 3)):
        experiment = PartExperiment(part, tmp_path, fold)
        settings = experiment.settings(LossIBP(0.1), 4, fold is not None)
        assert key_of(settings) == key_of(identity(part, "loss-ibp:beta=0.1", 4, fold))


def test_folds_are_disjoint_stratified_and_together_everything():
    dataset = load("digits").subset(103, seed=2)
    parts = [fold_of(dataset, k, 4, seed=2) for k in range(4)]
    assert sorted(len(part.test_labels) for part in parts) == [25, 26, 26, 26]
    rows = [row.tobytes() for part in parts for row in part.test_images]
    assert sorted(rows) == sorted(row.tobytes() for row in dataset.train_images)
    for part in parts:
        assert len(part.train_labels) + len(part.test_labels) == 103
        assert np.bincount(part.test_labels, minlength=10).min() >= 2
    with pytest.raises(ValueError, match="use fewer folds"):
        fold_of(load("digits").subset(10), 0, 11, 0)


@pytest.mark.parametrize(("spec", "ratio"), [
    ("bp", 1), ("loss-ibp:beta=1", 4 / 3), ("loss-ibp:beta=1,exact=true", 2), ("prediction-ibp:beta=1", 2),
    ("fast-at:epsilon=1", 5 / 3), ("at:epsilon=1", 2), ("tangent-prop:beta=1", 6), ("fast-tangent-prop:beta=1", 4 / 3),
])
def test_costs_are_counted(spec, ratio):
    assert cost.relative_cost(spec, 10) == pytest.approx(ratio, rel=1e-15)


def test_work_counts_training_and_tests(tiny):
    final, held = (next(j for j in wanted(cells(tiny, {})) if (j.fold is None) == whole) for whole in (True, False))
    # 2 epochs of 60 images and 360 tests, then the clean and one noisy test: (2 + 2) * 360 / 3 passes.
    assert cost.work(final, 60, 360, 10) == pytest.approx(2 * 60 + 4 * 360 / 3, rel=1e-14)
    assert cost.work(held, 60, 360, 10) == pytest.approx(2 * (40 * 4 / 3 + 20 / 3), rel=1e-14)
    seldom = dataclasses.replace(final.part, setup=dataclasses.replace(final.part.setup, epochs=5, test_every=2))
    # After epochs 2, 4 and 5.
    assert cost.work(dataclasses.replace(final, part=seldom), 60, 360, 10) == pytest.approx(5 * 60 + 5 * 360 / 3, rel=1e-14)


@pytest.mark.parametrize(("name", "shape", "options", "size"), [
    ("dense-2", (28, 28, 1), {}, 784 * 256 + 256 + 256 * 256 + 256 + 2570), ("svhn", (28, 28, 3), {"dropout": 0.5}, None),
    ("complex-smaller", (28, 28, 1), {"stage": "scale-invariant", "dimension": 20}, None),
    ("mnist", (28, 28, 1), {}, 464234),
])
def test_networks_of_the_experiments(name, shape, options, size):
    net = build(name, shape, 10, **options)
    assert net.root.output_shape == (10,)
    assert size is None or net.vector.size == size


@pytest.mark.parametrize(("name", "options", "message"), [
    ("mnist", {"stage": "logistic"}, "has no stage"), ("complex-smaller", {"dropout": 0.5}, "takes no dropout"),
    ("denze-2", {}, "did you mean 'dense-2'"),
])
def test_networks_that_do_not_fit_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, (28, 28, 1), 10, **options)


def test_parts_without_data_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVNET_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="mnist is not in"):
        PartExperiment(Part("x", Setup(dataset="mnist", network="mnist")), tmp_path)
