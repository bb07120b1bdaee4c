"""Experiments on a real Dask scheduler with real workers on loopback: a worker that is killed, a scheduler that goes away."""
import json
import time

import pytest

pytest.importorskip("joblib")
pytest.importorskip("distributed")

from reproduce_tools import TINY, command, contents, write_tiny

pytestmark = pytest.mark.slow

TEXT = TINY.replace("[0.01, 0.1, 1]", "[0.01, 0.1]").replace("epochs = 2", "epochs = 20")


class Cluster:
    """A scheduler and two workers, each a process of its own."""

    def __init__(self, folder):
        self.folder, self.file = folder, folder / "scheduler.json"
        self.processes = [self.start("dask_scheduler", "--host", "127.0.0.1", "--port", "0")]
        wait_for(self.file.exists)
        self.processes += [self.start("dask_worker", "--nthreads", "1", "--no-nanny", "--local-directory", str(folder))
                           for _ in range(2)]

    def start(self, kind, *options):
        return command(f"distributed.cli.{kind}", "--scheduler-file", str(self.file), "--no-dashboard", *options,
                       cache=self.folder / "cache")

    @property
    def address(self):
        return json.loads(self.file.read_text())["address"]

    def kill(self, number):
        self.processes[number].kill()

    def close(self):
        for process in self.processes:
            process.kill()
            process.communicate()


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def cluster(tmp_path):
    found = Cluster(tmp_path)
    yield found
    found.close()


def reproducing(tmp_path, *options, text=TEXT):
    path = write_tiny(tmp_path, text)
    return command("convnet", "reproduce", str(path), "--scale", "full", "--output", str(tmp_path / "store"), "--quiet",
                   *options, cache=tmp_path / "cache")


def test_the_jobs_of_a_killed_worker_go_on_on_another(tmp_path, cluster):
    process = reproducing(tmp_path, "--scheduler", cluster.address)
    # Both workers are in the middle of a job.
    wait_for(lambda: len(list((tmp_path / "store" / "runs").glob("*.part/checkpoint.npz"))) == 2)
    cluster.kill(1)
    out, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (0, "")
    assert out.startswith("tiny: 6 jobs done, 0 failed; report in ")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    reproducing(elsewhere, "--processes", "1", "--seeds", "1", "--choices", "1").communicate()
    found, alone = contents(tmp_path / "store"), contents(elsewhere / "store")
    common = found.keys() & alone.keys()
    assert common
    assert {name: found[name] for name in common} == {name: alone[name] for name in common}


def test_a_scheduler_that_goes_away_ends_with_an_error_and_loses_nothing_finished(tmp_path, cluster):
    process = reproducing(tmp_path, "--scheduler", cluster.address, text=TEXT.replace("seeds = 2", "seeds = 4"))
    wait_for(lambda: contents(tmp_path / "store"))
    cluster.kill(0)
    out, error = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    assert "convnet reproduce: error: the scheduler at tcp://127.0.0.1:" in error
    assert "went away; what is finished is kept, and the same command goes on when it is back" in error
    kept = contents(tmp_path / "store")
    assert kept
    again = reproducing(tmp_path)
    out, error = again.communicate(timeout=120)
    assert again.returncode == 0
    done = int(out.split()[1])
    after = contents(tmp_path / "store")
    assert done <= len(after) - len(kept)
    assert {name: after[name] for name in kept} == kept


def test_a_scheduler_that_does_not_answer(tmp_path):
    process = reproducing(tmp_path, "--scheduler", "tcp://127.0.0.1:1")
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert "no scheduler answers at tcp://127.0.0.1:1" in error
    assert "start one with 'dask scheduler'" in error
    assert "Traceback" not in error


