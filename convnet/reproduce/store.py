"""The store: one file for each finished run, found by what determined it.

A file is written whole or not at all and never changed by another run, so any number of processes share a store without
locks, on any file system that renames atomically, and a damaged file is the loss of one run. ``runs/`` holds the runs (see
`convnet.experiment`), ``attempts/`` a small record of the last attempt at each job (where, when, why it failed), and
``damaged/`` what could not be read.
"""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convnet.experiment import Run, load_run
from convnet.files import write_text

# What depends on where a job is done, and not on what it is.
CIRCUMSTANCES = ("data", "kernels", "version", "device")


def key_of(identity: Mapping[str, Any]) -> str:
    """Return a digest of what determines a run; its circumstances apart."""
    known = {key: value for key, value in identity.items() if key not in CIRCUMSTANCES}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def _checked(settings: Any) -> dict[str, Any]:
    """Return the settings of a stored run; raise KeyError or TypeError unless everything is there that reports read."""
    for name in (*CIRCUMSTANCES, "dataset"):
        if not isinstance(settings[name], str):
            raise TypeError(f"{name} is {settings[name]!r}")
    if not isinstance(settings["seed"], int) or "learning_rate" not in settings["optimizer"]:
        raise TypeError("seed or optimizer is not what it should be")
    return dict(settings)


@dataclass
class Store:
    """The finished runs in a folder.

    Parameters
    ----------
    folder : path
    say : callable
        Receives a line for every file that is set aside.
    """

    folder: Path
    say: Callable[[str], None] = field(default=lambda line: None)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        self._read: dict[Path, tuple[tuple[int, int], Run | None]] = {}

    def check_writable(self) -> None:
        """Raise OSError, in words, unless files can be written into the store."""
        probe = self.folder / "attempts" / f".probe-{os.getpid()}"
        try:
            write_text(probe, "")
            probe.unlink()
        except OSError as error:
            raise OSError(f"nothing can be written into {self.folder} ({error.strerror or error}); give another folder "
                          "with --output, or make room") from error

    def check_present(self) -> None:
        """Raise FileNotFoundError unless the folder is a store."""
        if not any((self.folder / name).is_dir() for name in ("runs", "attempts")):
            raise FileNotFoundError(f"{self.folder} holds no runs of convnet reproduce; name its store with --output")

    def runs(self, remove_damaged: bool = False) -> dict[str, list[Run]]:
        """Return all finished runs by `key_of` their settings; files that are known already are not read again.

        A file that cannot be read is said and left out, and with `remove_damaged` moved to ``damaged/``, so that its job
        is done again.
        """
        found: dict[str, list[Run]] = {}
        for file in sorted((self.folder / "runs").glob("*.json")):
            run = self._load(file, remove_damaged)
            if run is not None:
                found.setdefault(key_of(run.settings), []).append(run)
        return found

    def _load(self, file: Path, remove_damaged: bool) -> Run | None:
        try:
            status = file.stat()
        except FileNotFoundError:
            return None
        stamp = (status.st_mtime_ns, status.st_size)
        known = self._read.get(file)
        if known is not None and known[0] == stamp and not (known[1] is None and remove_damaged):
            return known[1]
        run = None
        try:
            run = load_run(file, _checked(json.loads(file.read_text())["settings"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            self._set_aside(file, remove_damaged)
        self._read[file] = (stamp, run)
        return run

    def _set_aside(self, file: Path, move: bool) -> None:
        if not move:
            self.say(f"{file} is damaged and left out; the next convnet reproduce does its job again")
            return
        aside = self.folder / "damaged" / file.name
        aside.parent.mkdir(parents=True, exist_ok=True)
        for path in (file, file.with_suffix(".npz")):
            # Another process may have done it already.
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, aside.with_suffix(path.suffix))
        self.say(f"{file} is damaged; it is in {aside.parent} now, and its job is done again")

    # --- attempts -----------------------------------------------------------------------------------------------------

    def note(self, key: str, record: Mapping[str, Any]) -> None:
        """Write down the last attempt at a job."""
        write_text(self.folder / "attempts" / f"{key}.json", json.dumps(record, indent=1, sort_keys=True) + "\n")

    def attempt(self, key: str) -> dict[str, Any] | None:
        """Return the record of the last attempt at a job; None if there is none that can be read."""
        try:
            content = json.loads((self.folder / "attempts" / f"{key}.json").read_text())
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None
