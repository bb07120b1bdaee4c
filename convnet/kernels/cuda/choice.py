"""Which of several ways to compute the same is the fastest: measured once on the device, then recorded and kept.

Two ways add up in different orders, so a choice that was measured anew in each run could make two runs of one seed differ.
The first run of a problem on a device measures and records it; every later one reads the record.
"""
from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from convnet.files import write_text

Array = Any
Way = Callable[[], Array]


class Choices:
    """Recorded choices of one device.

    Parameters
    ----------
    path : path
        A JSON file of problems and ways; it is made when the first choice is.
    seconds : callable
        ``seconds(way)`` returns the seconds that one run of `way` takes on the device.

    Attributes
    ----------
    table : dict of str to str
        The way of each problem.
    measured : dict of str to dict
        Seconds of one run by way, for the problems that were measured in this process.
    """

    def __init__(self, path: Path, seconds: Callable[[Way], float]):
        self.path, self._seconds = path, seconds
        self.table = read(path)
        self.measured: dict[str, dict[str, float]] = {}

    def of(self, problem: str, ways: Mapping[str, Way]) -> Way:
        """Return the way to take for `problem`, which is measured and recorded if it is new.

        Parameters
        ----------
        problem : str
            Name of the operation, with shapes and number type.
        ways : mapping of str to callable
            In order of preference: of equally fast ones the first is taken.
        """
        if self.table.get(problem) not in ways:
            self._record(problem, self._fastest(problem, ways), ways)
        return ways[self.table[problem]]

    def _fastest(self, problem: str, ways: Mapping[str, Way]) -> str:
        if len(ways) == 1:
            return next(iter(ways))
        found = {name: self._seconds(way) for name, way in ways.items()}
        self.measured[problem] = found
        return min(found, key=found.__getitem__)

    def _record(self, problem: str, chosen: str, ways: Mapping[str, Way]) -> None:
        """Record a choice, unless another process has done so meanwhile: then its choice holds.

        Where nothing can be written, the first way is taken: what is not recorded may come out differently next time.
        """
        recorded = read(self.path)
        if recorded.get(problem) not in ways:
            recorded[problem] = chosen
            try:
                write_text(self.path, json.dumps(recorded, indent=1, sort_keys=True) + "\n")
            except OSError as error:
                warnings.warn(f"the choice between ways to compute products cannot be recorded ({error}): "
                              f"{next(iter(ways))!r} is taken", stacklevel=2)
                recorded[problem] = next(iter(ways))
        self.table |= recorded


def read(path: Path) -> dict[str, str]:
    """Return the choices recorded at `path`; none if there is no such file.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise ValueError(f"{path} is not a record of choices ({error}): delete it, and they are measured again") from None
    if not isinstance(table, dict):
        raise ValueError(f"{path} is not a record of choices: delete it, and they are measured again")
    return table


def record_path(device: str) -> Path:
    """Return where the choices for the device called `device` are kept: in ``$XDG_CACHE_HOME``, or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "convnet" / f"products-{re.sub(r'[^A-Za-z0-9]+', '-', device)}.json"
