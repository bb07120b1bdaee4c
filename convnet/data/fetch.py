"""Fetching the official files: mirrors, retries, resumption, checksums. Needs pooch (extra ``data``)."""
from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convnet.data.archives import checksum, unpack
from convnet.data.catalogue import COLLECTIONS, RemoteFile
from convnet.data.download import ResumingDownloader
from convnet.data.registry import data_root, find
from convnet.data.verify import PUBLISHED, verify
from convnet.names import lookup


def fetch(name: str, root: str | os.PathLike | None = None, *, progress: bool = True, retries: int = 3,
          timeout: float = 30.0, wait: float = 2.0) -> Path:
    """Fetch what is missing of a data set, and verify what is there.

    Parameters
    ----------
    name : str
        A data set of `convnet.data.catalogue`.
    root : path, optional
        Where `convnet.data.load` will look for it; by default $CONVNET_DATA, else the user's cache folder.
    progress : bool
        Show progress bars on terminals.
    retries : int
        How often all mirrors are tried again.
    timeout : float
        Seconds after which a silent server is given up.
    wait : float
        Seconds before the first repetition; doubled for each further one.

    Returns
    -------
    path
        Where it is: a copy as published anywhere under `root` will do, otherwise a folder of its own there.

    Raises
    ------
    ImportError
        If pooch is not installed.
    ConnectionError
        If a file cannot be got from any mirror. What has arrived is kept, and the next call resumes there.
    ValueError
        If the name is unknown, or every mirror delivers something other than the official file.
    OSError
        If the folder cannot be written.
    """
    if name == "digits":
        raise ValueError("the data set 'digits' is part of the package: there is nothing to fetch")
    collection = lookup("data set", name, COLLECTIONS)
    present = _present(name, root)
    if present is not None:
        return present
    folder = data_root(root) / collection.folder
    folder.mkdir(parents=True, exist_ok=True)
    for file in collection.files:
        path = folder / file.name
        was_there = _is_official(path, file)
        if not was_there:
            _fetch_file(file, path, progress, retries, timeout, wait)
        if file.unpacks_to is not None:
            unpack(path, file.unpacks_to, folder)
            if not was_there:
                path.unlink()
    return folder


def _present(name: str, root: str | os.PathLike | None) -> Path | None:
    """Return where the whole data set is already, as published, or None."""
    try:
        sound = all(finding.state == PUBLISHED for finding in verify(name, root))
    except FileNotFoundError:
        return None
    return find(name, root) if sound else None


def _is_official(path: Path, file: RemoteFile) -> bool:
    algorithm, _, digest = file.checksum.partition(":")
    return path.is_file() and checksum(path, algorithm) == digest


def _fetch_file(file: RemoteFile, path: Path, progress: bool, retries: int, timeout: float, wait: float) -> None:
    """Try the mirrors in turn, several times; a file that is already at `path` is replaced only by the official one."""
    pooch = _pooch()
    partial = path.with_name(f".{file.name}.part")
    failures: dict[str, Exception] = {}
    for attempt in range(retries + 1):
        # A mirror that has another file under this name will still have it the next time.
        mirrors = [mirror for mirror in file.mirrors if not isinstance(failures.get(mirror), ValueError)]
        if attempt and mirrors:
            time.sleep(wait * 2 ** (attempt - 1))
        for mirror in mirrors:
            try:
                with _quiet(pooch):
                    pooch.retrieve(mirror + file.name, file.checksum, fname=path.name, path=path.parent,
                                   downloader=ResumingDownloader(partial, file.size, timeout, progress))
                return
            except (ConnectionError, ValueError) as error:
                failures[mirror] = error
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    partial.unlink(missing_ok=True)
                raise OSError(error.errno, f"cannot write {path}: {error.strerror}; free some space or choose another "
                                           "folder") from error
    reasons = "; ".join(f"{url}: {_short(error)}" for url, error in failures.items())
    if all(isinstance(error, ValueError) for error in failures.values()):
        raise ValueError(f"{file.name} is not to be had as published ({reasons}); get it elsewhere and put it into "
                         f"{path.parent}")
    raise ConnectionError(f"cannot fetch {file.name} ({reasons}); try again later, it will go on where it stopped, or "
                          f"get it elsewhere and put it into {path.parent}")


def _short(error: Exception) -> str:
    """Return an error's message; pooch's own, on a wrong checksum, in short."""
    return "the content has another checksum" if "hash of downloaded file" in str(error) else str(error)


def _pooch() -> Any:
    try:
        import pooch
    except ImportError as error:
        raise ImportError("fetching data sets needs pooch: pip install 'convnet-ibp[data]'") from error
    return pooch


@contextmanager
def _quiet(pooch: Any) -> Iterator[None]:
    """Keep pooch from reporting each step: the progress bar and the errors say enough."""
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)
