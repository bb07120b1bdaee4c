"""Data sets by name: where each is looked for, and how it is read."""
from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from convnet.data.dataset import Dataset
from convnet.data.digits import load_digits
from convnet.data.idx import holds_idx, load_idx
from convnet.names import lookup

ROOT_VARIABLE = "CONVNET_DATA"


@dataclass(frozen=True)
class Source:
    """Where a data set's files may lie under a root, how to recognise them, and how to read them."""

    folders: tuple[str, ...]
    present: Callable[[Path], bool]
    read: Callable[[Path], Dataset]


_SOURCES = {
    "mnist": Source((".", "mnist", "MNIST/raw"), holds_idx,
                    lambda folder: load_idx("mnist", folder, tuple("0123456789"))),
}


def known_names() -> list[str]:
    """Return the names that `load` knows."""
    return sorted(["digits", *_SOURCES])


def data_root(root: str | os.PathLike | None = None) -> Path:
    """Return the folder of data sets: `root`, else $CONVNET_DATA, else the user's cache folder."""
    if root is not None:
        return Path(root)
    if os.environ.get(ROOT_VARIABLE):
        return Path(os.environ[ROOT_VARIABLE])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convnet"


def check_name(name: str) -> None:
    """Raise ValueError, with the nearest known name, if `name` is not a known data set."""
    lookup("data set", name, dict.fromkeys(known_names()))


def load(name: str, root: str | os.PathLike | None = None) -> Dataset:
    """Return a data set by name, as published (not scaled).

    Parameters
    ----------
    name : str
        "digits" is part of the package; the others (`known_names`) are read from files.
    root : path, optional
        Folder that holds the files or a folder of them, a torchvision root included (``<root>/MNIST/raw``). By default
        the environment variable CONVNET_DATA, else the user's cache folder.

    Raises
    ------
    ValueError
        If the name is unknown, or a file is damaged or not what its name says.
    FileNotFoundError
        If the files are not under `root`.
    """
    check_name(name)
    if name == "digits":
        return load_digits()
    return _SOURCES[name].read(find(name, root))


def find(name: str, root: str | os.PathLike | None = None) -> Path:
    """Return the folder that holds the files of data set `name`.

    Raises
    ------
    FileNotFoundError
        If there is none; the message lists the folders that were looked at.
    """
    source = _SOURCES[name]
    base = data_root(root)
    candidates = [base / folder for folder in source.folders]
    for folder in candidates:
        if source.present(folder):
            return folder
    raise FileNotFoundError(f"{name} is not in {' or '.join(str(folder) for folder in candidates)}; fetch it with "
                            f"'convnet datasets fetch {name}', or name its folder with root or {ROOT_VARIABLE}")
