"""Experiments that really run, on the digits: resumption, failures, damage, and what a store looks like afterwards."""
import dataclasses
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("joblib")

from reproduce_tools import TINY, command, contents, made_up, write_tiny

import convnet
from convnet import experiment as experiments
from convnet import kernels
from convnet.cli import main
from convnet.reproduce import child, driver
from convnet.reproduce.driver import reproduce, shares
from convnet.reproduce.jobs import cells, wanted
from convnet.reproduce.reading import find
from convnet.reproduce.store import Store

SHORT = TINY.replace("[0.01, 0.1, 1]", "[0.01, 0.1]")


@pytest.fixture(autouse=True)
def surroundings(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def in_this_process(monkeypatch):
    """Do jobs here instead of in child processes."""

    def run_here(jobs, folder, processes, threads):
        for job in jobs:
            yield job.key, {**child.perform(job, folder), "machine": None}

    monkeypatch.setattr(driver, "run_local", run_here)


@pytest.fixture(scope="module")
def finished_store(tmp_path_factory):
    """A store in which the tiny experiment has run without interruption, in child processes."""
    folder = tmp_path_factory.mktemp("finished")
    path = write_tiny(folder, SHORT)
    process = command("convnet", "reproduce", str(path), "--scale", "full", "--output", str(folder / "store"),
                      cache=folder / "cache")
    out, error = process.communicate()
    return folder / "store", process.returncode, out, error


@pytest.mark.slow
def test_an_experiment_runs_and_is_reported(finished_store):
    folder, status, out, error = finished_store
    assert (status, error) == (0, "1 process at a time, 1 thread each\n")  # no bar where there is no terminal
    assert out.startswith("tiny: 6 jobs done, 0 failed; report in ")
    assert {path.name for path in (folder / "reports").iterdir()} == \
        {"tiny.html", "tiny.md", "tiny.csv", "tiny-1.png", "tiny-2.png", "tiny-3.png"}
    runs = contents(folder)
    assert len(runs) == 6
    for attempt in (folder / "attempts").glob("*.json"):
        record = json.loads(attempt.read_text())
        assert record["problem"] is None
        assert record["machine"]["threads"] == 1
        assert record["machine"]["kernels"] == "reference"
        assert record["command"].endswith("store")


@pytest.mark.slow
def test_a_run_killed_at_ten_random_moments_gives_the_same_store(finished_store, tmp_path):
    path, folder, moments = write_tiny(tmp_path, SHORT), tmp_path / "store", random.Random(0)
    arguments = ("convnet", "reproduce", str(path), "--scale", "full", "--output", str(folder), "--quiet")
    for _ in range(10):
        process = command(*arguments, cache=tmp_path / "cache", start_new_session=True)
        time.sleep(moments.uniform(0.8, 2.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    process = command(*arguments, cache=tmp_path / "cache")
    _, error = process.communicate()
    assert (process.returncode, error) == (0, "")
    assert contents(folder) == contents(finished_store[0])
    left = [file.name for file in (folder / "runs").iterdir() if file.suffix not in (".json", ".npz")]
    assert left == []


@pytest.mark.slow
def test_a_child_that_is_killed_loses_its_own_job_only_and_is_tried_again(tmp_path, monkeypatch):
    definition, store = find(str(write_tiny(tmp_path, SHORT))), Store(tmp_path / "store")
    # This process and its children have to use the same kernels: they are part of a job's identity.
    monkeypatch.setenv("CONVNET_KERNELS", "reference")
    monkeypatch.setattr(kernels, "_cpu", None)
    started = []

    def start(*arguments, **options):
        process = real(*arguments, **options)
        if not started:
            process.kill()
        started.append(process)
        return process

    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", start)
    said = []
    first = reproduce(definition, store, processes=2, say=said.append)
    assert (first.done, len(first.failures), len(said)) == (3, 1, 1)
    (label, reason), = first.failures.items()
    assert reason == "its process was ended by SIGKILL; perhaps memory ran out: use fewer --processes"
    assert said == [f"{label}: failed, {reason}"]
    second = reproduce(definition, store)
    # The lost one, and those that waited for the choice it belongs to.
    assert second.failures == {}
    assert second.done >= 3
    assert reproduce(definition, store).done == 0


@pytest.mark.slow
def test_the_stages_of_paper_004_run_and_can_be_evaluated(tmp_path, in_this_process, capsys):
    head, _, tail = TINY.partition("[levels]")
    setup = head.replace('network = "digits"\nsubset = 60', 'network = "complex-smaller"\nnormalization = "scale"\nsubset = 20')
    stages = '[[part]]\nname = "digits"\nstage = "scale-invariant"\ndimension = 12\n[[part]]\nname = "b"\nstage = "logistic"\n'
    text = setup.replace("epochs = 2", "epochs = 1") + stages + tail[tail.index("[[algorithm]]"):tail.rindex("[[algorithm]]")]
    definition = dataclasses.replace(find(str(write_tiny(tmp_path, text))), seeds=1)
    result = reproduce(definition, Store(tmp_path / "store"))
    assert (result.done, result.failures) == (2, {})
    # The stage's cost lies in [0, 4]; the logistic one starts near log 10.
    losses = [cell.runs[0].history[-1].loss for cell in result.cells]
    assert 1.5 < losses[0] < 2.5 and losses[1] > 2.2
    assert losses[0] != losses[1]
    # Their images are padded, which the file beside the network tells.
    run = result.cells[0].runs[0]
    assert main(["evaluate", str(run.file.with_suffix(".npz"))]) == 0
    clean = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("clean"))
    assert clean == ["clean", "0", f"{100 * run.test_error:.2f}"]


@pytest.mark.slow
def test_children_end_with_the_process_that_asked_for_them(tmp_path):
    path = write_tiny(tmp_path, SHORT.replace("epochs = 2", "epochs = 100000"))
    process = command("convnet", "reproduce", str(path), "--scale", "full", "--output", str(tmp_path / "store"),
                      cache=tmp_path / "cache")
    checkpoints = tmp_path / "store" / "runs"
    while not list(checkpoints.glob("*.part/checkpoint.npz")):
        time.sleep(0.05)
    process.kill()
    process.communicate()
    (history,) = checkpoints.glob("*.part/history.json")
    deadline = time.monotonic() + 20
    while True:
        before = history.stat().st_mtime_ns
        time.sleep(0.5)
        if history.stat().st_mtime_ns == before:
            break
        assert time.monotonic() < deadline


def test_a_job_that_fails_is_not_done_because_another_version_has_done_it(tmp_path, in_this_process, monkeypatch, capsys):
    path, folder = write_tiny(tmp_path, SHORT), tmp_path / "store"
    arguments = ["reproduce", str(path), "--scale", "full", "--choices", "1", "--output", str(folder), "--quiet"]
    assert main(arguments) == 0
    for file in (folder / "runs").glob("*.json"):
        file.write_text(file.read_text().replace(f'"version": "{convnet.__version__}"', '"version": "0.0.9"'))

    def no_memory(*_, **__):
        raise MemoryError("no memory")

    monkeypatch.setattr(experiments, "train", no_memory)
    capsys.readouterr()
    assert main(arguments) == 1
    assert "0 jobs done, 4 failed" in capsys.readouterr().out


def test_a_job_that_raises_is_reported_and_the_others_go_on(tmp_path, in_this_process, monkeypatch):
    definition, store = find(str(write_tiny(tmp_path, SHORT))), Store(tmp_path / "store")
    trained = experiments.train

    def broken(net, dataset, algorithm, *arguments, **options):
        if getattr(algorithm, "beta", 0) == 0.1:
            raise RuntimeError("no\nluck")
        return trained(net, dataset, algorithm, *arguments, **options)

    monkeypatch.setattr(experiments, "train", broken)
    result = reproduce(definition, store)
    assert result.failures == {"digits: loss-ibp:norm=1,beta=0.1, seed 0, fold 1 of 3": "RuntimeError: no luck"}
    assert result.done == 3
    monkeypatch.setattr(experiments, "train", trained)
    assert reproduce(definition, store).done == 3


@pytest.mark.slow
def test_all_algorithms_of_a_seed_start_alike_and_see_the_same(tmp_path, in_this_process, monkeypatch):
    definition, store = find(str(write_tiny(tmp_path, SHORT))), Store(tmp_path / "store")
    seen = []
    trained = experiments.train

    def watched(net, dataset, algorithm, optimizer, epochs, batch_size, schedule, seed, **options):
        seen.append((seed, len(dataset.train_labels), net.vector.tobytes(), dataset.train_images.tobytes()))
        return trained(net, dataset, algorithm, optimizer, epochs, batch_size, schedule, seed, **options)

    monkeypatch.setattr(experiments, "train", watched)
    reproduce(definition, store)
    final = [call for call in seen if call[1] == 60]
    assert len(seen) == 6 and len(final) == 4
    assert len(set(final)) == 2  # one for each seed
    assert len({call[2] for call in seen}) == 2
    # Held-back images are not among those that coefficients are chosen with.
    assert {call[1] for call in seen} == {40, 60}


@pytest.mark.slow
def test_damaged_entries_are_set_aside_said_and_done_again(tmp_path, in_this_process):
    definition, said = find(str(write_tiny(tmp_path, SHORT))), []
    store = Store(tmp_path / "store", said.append)
    reproduce(definition, store)
    before = contents(store.folder)
    cut, replaced, *_ = sorted((store.folder / "runs").glob("bp*.json"))
    cut.write_text(cut.read_text()[:100])
    replaced.write_text("{}")
    again = reproduce(definition, Store(store.folder, said.append))
    assert again.done == 2
    assert contents(store.folder) == before
    assert [line.split(" is damaged; ")[0] for line in said] == [str(cut), str(replaced)]
    assert {path.name for path in (store.folder / "damaged").glob("*.json")} == {cut.name, replaced.name}


@pytest.mark.parametrize("change", [
    {"settings": []}, {"settings": {}}, {"test_error": "abc"}, {"test_error": 3}, {"test_error": None}, {"problem": 1},
    {"noise_errors": []}, {"noise_errors": ["0.1"]}, {"fgsm_errors": [0.5]}, {"history": [1]}, {"sigmas": [-1]},
], ids=str)
def test_entries_that_are_json_but_no_runs_are_damaged_too(tmp_path, change):
    definition, said = find(str(write_tiny(tmp_path, SHORT))), []
    job = wanted(cells(definition, {}))[-1]
    store = Store(tmp_path / "store", said.append)
    run = made_up(store, job, 0.1)
    content = json.loads(run.file.read_text())
    assert store.runs()
    run.file.write_text(json.dumps({**content, **change}))
    assert Store(store.folder, said.append).runs() == {}
    assert said == [f"{run.file} is damaged and left out; the next convnet reproduce does its job again"]


@pytest.mark.slow
def test_a_damaged_checkpoint_or_network_is_no_obstacle(tmp_path, in_this_process):
    definition, store = find(str(write_tiny(tmp_path, SHORT))), Store(tmp_path / "store")
    reproduce(definition, store)
    before = contents(store.folder)
    one, two = sorted((store.folder / "runs").glob("bp*.json"))
    one.unlink()
    checkpoint = one.with_suffix(".part") / "checkpoint.npz"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"PK\x03\x04 and no more")
    assert reproduce(definition, store).done == 1
    assert contents(store.folder) == before
    assert (store.folder / "damaged" / checkpoint.parent.name / "checkpoint.npz").exists()
    # With other levels the networks are tested again; one of them is gone and has to be trained for it.
    two.with_suffix(".npz").write_bytes(b"")
    other = dataclasses.replace(definition, levels=dataclasses.replace(definition.levels, sigmas=(0.3,)))
    result = reproduce(other, store)
    assert (result.done, result.failures) == (4, {})
    after = contents(store.folder)
    assert {name: run["history"] for name, run in after.items()} == {name: run["history"] for name, run in before.items()}
    assert after[two.name]["sigmas"] == [0.3]


def test_a_full_disk_ends_with_a_clear_error_and_loses_nothing(tmp_path, in_this_process, monkeypatch):
    definition, store = find(str(write_tiny(tmp_path, SHORT))), Store(tmp_path / "store")
    saved, left = experiments.save_run, [2]

    def save(run):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device", str(run.file))
        saved(run)

    monkeypatch.setattr(experiments, "save_run", save)
    # The probe of the store, an empty file, may still find room.
    with pytest.raises(OSError, match=r"seed 0: OSError: .*No space left on device.*\.json'; make room, or give another folder"):
        reproduce(definition, store)
    assert left == [-1]
    assert len(contents(store.folder)) == 2
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(store.runs()) == 2


@pytest.mark.parametrize(("options", "message"), [
    (["--output", "file/store"], "nothing can be written into"), (["--device", "tpu"], "device is 'tpu'"),
    (["--device", "gpu"], "CuPy"), (["--list", "--device", "tpu"], "device is 'tpu'"),
    (["--processes", "0"], "--processes is 0"), (["--list", "--processes", "0"], "--processes is 0"),
    (["--processes", "2", "--scheduler", "tcp://127.0.0.1:1"], "--processes and --scheduler exclude each other"),
    (["tiny.toml"], "two experiments are called 'tiny'"),
], ids=str)
def test_wrong_options_take_one_line_and_status_2_before_any_work(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "cupy", None)
    (tmp_path / "file").write_text("")
    assert main(["reproduce", str(write_tiny(tmp_path)), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.slow
def test_parts_without_data_are_left_out_and_the_others_run(tmp_path, in_this_process, monkeypatch, capsys):
    monkeypatch.setenv("CONVNET_DATA", str(tmp_path))
    text = TINY.replace("[levels]", '[[part]]\nname = "digits"\n[[part]]\nname = "svhn"\ndataset = "svhn"\n[levels]')
    path = write_tiny(tmp_path, text)
    arguments = ["reproduce", str(path), "--scale", "full", "--seeds", "1", "--choices", "1", "--output", str(tmp_path / "store")]
    assert main(arguments) == 1
    shown = capsys.readouterr()
    assert "svhn: left out, svhn is not in" in shown.err
    assert "tiny: 2 jobs done, 0 failed, " in shown.out
    assert "svhn is not in" in (tmp_path / "store" / "reports" / "tiny.md").read_text()


@pytest.mark.slow
def test_the_list_shows_jobs_and_time(tmp_path, capsys, in_this_process, monkeypatch):
    monkeypatch.setenv("CONVNET_DATA", str(tmp_path))
    path = str(write_tiny(tmp_path, SHORT))
    options = ["--scale", "full", "--output", str(tmp_path / "store")]
    assert main(["reproduce", "--list", path, "002-table1-mnist", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:2] == [path, "001/002,"]
    assert " 6 " in lines[2]
    assert lines[3].endswith("no data") and " 220 " in lines[3]
    assert main(["reproduce", path, *options, "--quiet"]) == 0
    capsys.readouterr()
    assert main(["reproduce", "--list", path, *options]) == 0
    assert capsys.readouterr().out.splitlines()[2].endswith("finished")


def test_the_bar_counts_work_and_is_quiet_without_a_terminal(capsys):
    for show, expected in ((True, True), (None, False), (False, False)):
        with driver._Bar(show, "tiny") as bar:
            bar.expect({"one": 1.0, "two": 2.0}, 1.0)
            bar.done("one")
            bar.expect({"two": 2.0}, 1.0)
            bar.done("two")
        error = capsys.readouterr().err
        assert bool(error) is expected
        assert ("tiny  75% |" in error) is expected


def test_threads_are_shared_between_processes(monkeypatch):
    monkeypatch.setenv("CONVNET_NUM_THREADS", "8")
    assert [shares(None, "cpu"), shares(3, "cpu"), shares(16, "cpu"), shares(None, "gpu")] == [(8, 1), (3, 2), (16, 1), (1, 8)]
