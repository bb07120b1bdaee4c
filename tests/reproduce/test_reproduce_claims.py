"""Claims: who is at a job, and what happens to those of the dead."""
import json
import os
import platform
import subprocess
import sys
import time

import pytest

pytest.importorskip("joblib")

from reproduce_tools import TINY, command, contents, write_tiny

from convnet.reproduce import claims
from convnet.reproduce.claims import Claim, Claims


def test_a_job_is_taken_once_and_free_again_afterwards(tmp_path):
    one, two, seen = Claim(tmp_path, "key"), Claim(tmp_path, "key"), Claims(tmp_path)
    assert not seen.held("key")
    assert one.take()
    assert not two.take()
    assert seen.held("key") and not seen.held("other")
    one.release()
    assert not seen.held("key")
    assert two.take()
    two.release()


def test_the_claim_of_a_dead_process_of_this_machine_is_removed_at_once(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (tmp_path / "claims").mkdir()
    for name, host in (("here", platform.node()), ("there", "another machine")):
        (tmp_path / "claims" / name).write_text(json.dumps({"host": host, "process": process.pid}))
    seen = Claims(tmp_path)
    assert not seen.held("here")
    assert seen.held("there")
    assert [file.name for file in (tmp_path / "claims").iterdir()] == ["there"]


@pytest.mark.parametrize("content", ["", '{"host": "another machine", "process": 1}'])
def test_a_claim_that_is_not_renewed_lapses_and_one_that_is_does_not(tmp_path, monkeypatch, content):
    now = [0.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: now[0])
    file, seen = tmp_path / "claims" / "key", Claims(tmp_path)
    file.parent.mkdir()
    file.write_text(content)
    for moment in range(5):
        now[0] += 0.9 * claims.STALE_SECONDS
        os.utime(file, (0, moment))
        assert seen.held("key")
    now[0] += 0.9 * claims.STALE_SECONDS
    assert seen.held("key")
    now[0] += 0.2 * claims.STALE_SECONDS
    assert not seen.held("key")
    assert not file.exists()


def test_a_claim_is_renewed_until_it_is_released(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "RENEWAL_SECONDS", 0.01)
    claim = Claim(tmp_path, "key")
    claim.take()
    os.utime(claim.file, (0, 0))
    deadline = time.monotonic() + 20
    while claim.file.stat().st_mtime == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    claim.release()
    assert not claim.file.exists()


@pytest.mark.slow
def test_two_processes_at_one_store_do_not_disturb_each_other(tmp_path):
    path = write_tiny(tmp_path, TINY.replace("epochs = 2", "epochs = 20"))
    arguments = ("convnet", "reproduce", str(path), "--scale", "full", "--output", str(tmp_path / "store"))
    both = [command(*arguments, cache=tmp_path / "cache") for _ in range(2)]
    answers = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert not any("failed," in error for _, error in answers)
    assert all(", 0 failed; report in " in out for out, _ in answers)
    assert len(contents(tmp_path / "store")) == 7
    assert list((tmp_path / "store" / "claims").iterdir()) == []
