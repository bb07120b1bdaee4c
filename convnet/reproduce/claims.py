"""Which jobs of a store are under way, so that processes that share it leave each other's alone.

A claim is a small file that whoever does a job makes, keeps renewing, and removes in the end. It is no lock: one that is not
renewed any more is removed by whoever finds it, and two processes at one job would only waste the time of one of them.
"""
from __future__ import annotations

import json
import os
import platform
import threading
import time
from pathlib import Path

FOLDER = "claims"
RENEWAL_SECONDS = 5.0
# Many renewals, as network file systems show them late.
STALE_SECONDS = 60.0


class Claim:
    """This process's claim to a job.

    Parameters
    ----------
    folder : path
        The store.
    key : str
        The job's.
    """

    def __init__(self, folder: Path, key: str):
        self.file = Path(folder) / FOLDER / key
        self._over = threading.Event()

    def take(self) -> bool:
        """Return whether the job was free, and is this process's from now on.

        Raises
        ------
        OSError
            If the store cannot be written.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(self.file, "x", encoding="utf-8") as file:
                json.dump({"host": platform.node(), "process": os.getpid()}, file)
        except FileExistsError:
            return False
        except OSError:
            self.file.unlink(missing_ok=True)
            raise
        threading.Thread(target=self._renew, daemon=True).start()
        return True

    def release(self) -> None:
        """Leave the job to others."""
        self._over.set()
        self.file.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._over.wait(RENEWAL_SECONDS):
            try:
                os.utime(self.file)
            except FileNotFoundError:
                return
            except OSError:
                continue


class Claims:
    """The claims in a store, seen from a process that looks for work.

    Whether one is renewed is judged by this process's own clock, from when it first looked: clocks of machines differ.

    Parameters
    ----------
    folder : path
        The store.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder) / FOLDER
        self._seen: dict[str, tuple[int, float]] = {}

    def held(self, key: str) -> bool:
        """Return whether somebody is at the job of that key; remove what a process that has died left."""
        file = self.folder / key
        try:
            renewed = file.stat().st_mtime_ns
            owner = file.read_text()
        except FileNotFoundError:
            return False
        if self._seen.get(key, (None, 0.0))[0] != renewed:
            self._seen[key] = (renewed, time.monotonic())
        if time.monotonic() - self._seen[key][1] < STALE_SECONDS and not _has_died(owner):
            return True
        file.unlink(missing_ok=True)
        return False


def _has_died(owner: str) -> bool:
    """Whether the owner was a process of this machine, and is no more."""
    try:
        content = json.loads(owner)
        # Elsewhere than on POSIX, signal 0 would end the process.
        if content["host"] != platform.node() or os.name != "posix":
            return False
        os.kill(content["process"], 0)
    except ProcessLookupError:
        return True
    except (ValueError, KeyError, TypeError, OSError):
        # Not written yet, or another user's process.
        return False
    return False
