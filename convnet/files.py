"""Files that are written whole or not at all."""
from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import IO


def write_atomically(path: str | PathLike[str], write: Callable[[IO[bytes]], object]) -> Path:
    """Call `write` on a temporary file beside `path` and move it into place once it is complete and on disk.

    Parameters
    ----------
    path : path
        Its folder is made if need be.
    write : callable
        Receives a file opened for binary writing.

    Raises
    ------
    OSError
        If the folder cannot be written or the disk is full; what was at `path` stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            # What a full disk says names no file.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    return path


def remove_partials(*paths: str | PathLike[str]) -> None:
    """Remove what processes that were killed while writing `paths` have left beside them."""
    for path in map(Path, paths):
        for partial in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
            partial.unlink(missing_ok=True)


def write_text(path: str | PathLike[str], text: str) -> Path:
    """Write `text` as UTF-8, whole or not at all."""
    return write_atomically(path, lambda file: file.write(text.encode()))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
