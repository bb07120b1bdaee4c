"""Arrays kept on disk: made once, block by block, and memory-mapped from then on."""
from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from convnet.data.images import blocks
from convnet.files import write_atomically

# Part of every file's name: raised when the meaning of what is stored changes.
_VERSION = 1


def cached_array(folder: str | os.PathLike, kind: str, source: Any, options: dict[str, Any],
                 shape: tuple[int, ...], dtype: np.dtype, made: Iterable[np.ndarray]) -> np.ndarray:
    """Return a read-only memory-mapped array that depends on `source` and `options` alone, making it if need be.

    Parameters
    ----------
    folder : path
        Where the file is kept; made if it is not there.
    kind : str
        Beginning of the file's name, and part of its address.
    source : array (N, ...) or ImageView
        What it is made from. Its bytes, type and shape go into the address.
    options : dict
        How it is made, as JSON can hold it; part of the address.
    shape, dtype
        Of the result.
    made : iterable of arrays
        The result in blocks along the first axis; consumed only if there is no file yet.

    Raises
    ------
    OSError
        If the file cannot be written. It is written whole or not at all.
    """
    digest = _digest([kind, list(source.shape), np.dtype(source.dtype).str, options])
    for block in blocks(source):
        digest.update(np.ascontiguousarray(source[block]).data)
    return _stored(Path(folder) / f"{kind}-{digest.hexdigest()[:32]}.npy", shape, dtype, made)


def cached_file(folder: str | os.PathLike, kind: str, paths: Sequence[Path], options: dict[str, Any],
                shape: tuple[int, ...], dtype: np.dtype, made: Iterable[np.ndarray]) -> np.ndarray:
    """Return a read-only memory-mapped array made from files, which are known by place, size and time of change.

    The parameters are those of `cached_array`, with `paths` as the source.
    """
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    name = f"{kind}-{_digest([kind, states, options]).hexdigest()[:32]}.npy"
    return _stored(Path(folder) / name, shape, dtype, made)


def _stored(path: Path, shape: tuple[int, ...], dtype: np.dtype, made: Iterable[np.ndarray]) -> np.ndarray:
    """Return the array in `path`, which is made of the blocks `made` if there is no sound one."""
    found = _open(path, shape, dtype)
    if found is not None:
        return found

    def write(file: IO[bytes]) -> None:
        # Plain writing, not a writable memory map: a disk that fills up is then an OSError and not a bus error.
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape})
        written = 0
        for block in made:
            file.write(np.ascontiguousarray(block, dtype).data)
            written += len(block)
        if written != shape[0]:
            raise ValueError(f"{path.name}: {written} of {shape[0]} entries were made")

    try:
        write_atomically(path, write)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}; free some space or choose another "
                                   "cache folder") from error
    result = _open(path, shape, dtype)
    if result is None:
        raise OSError(f"{path} cannot be read back; choose another cache folder")
    return result


def _digest(described: list[Any]) -> Any:
    """Return a SHA-256 that has taken in `described`, as JSON can hold it."""
    return hashlib.sha256(json.dumps([_VERSION, *described], sort_keys=True).encode())


def _open(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray | None:
    """Return the array stored in `path`, or None if there is no file or it does not hold such an array."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == dtype else None
