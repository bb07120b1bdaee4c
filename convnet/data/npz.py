"""Data sets in a NumPy .npz file."""
from __future__ import annotations

import errno
import math
import os
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from convnet.data.dataset import Dataset
from convnet.data.messages import brief

_PARTS = ("train_images", "train_labels", "test_images", "test_labels")
# The names in the files that Keras distributes.
_OTHER_NAMES = {"train_images": "x_train", "train_labels": "y_train", "test_images": "x_test", "test_labels": "y_test"}
_MAX_DEFLATE_RATIO = 1032


def load_npz(path: str | os.PathLike) -> Dataset:
    """Read a data set from a .npz file.

    Parameters
    ----------
    path : path
        It holds ``train_images``, ``train_labels``, ``test_images``, ``test_labels`` (or Keras' ``x_train``,
        ``y_train``, ``x_test``, ``y_test``) and, if their names matter, ``classes``, an array of strings. Images are
        (N, H, W, C), or (N, H, W) if grey; labels (N,) or (N, 1).

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged, or an array is missing or unsuitable.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            arrays: dict[str, Any] = {}
            for part in _PARTS:
                name = part if part in members else _OTHER_NAMES[part]
                if name not in members:
                    raise ValueError(f"it has no array {part!r} (it has: {', '.join(members) or 'nothing'})")
                arrays[part] = _member(archive, members[name])
            if "classes" in members:
                classes = tuple(str(name) for name in _member(archive, members["classes"]))
            else:
                classes = tuple(str(number) for number in range(_count(arrays)))
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, SyntaxError,
            tokenize.TokenError, OSError) as error:
        # An archive that points outside itself makes a seek invalid; other OSErrors are about the file as such.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise ValueError(f"{path} cannot be read as a data set: {brief(error)}") from error
    for part in ("train", "test"):
        if arrays[f"{part}_images"].ndim == 3:
            arrays[f"{part}_images"] = arrays[f"{part}_images"][..., None]
        if arrays[f"{part}_labels"].ndim == 2 and arrays[f"{part}_labels"].shape[1] == 1:
            arrays[f"{part}_labels"] = arrays[f"{part}_labels"][:, 0]
    return Dataset(path.stem, **arrays, classes=classes)


def _count(arrays: dict[str, Any]) -> int:
    """Return the number of classes: one more than the largest label."""
    labels = arrays["train_labels"]
    if labels.dtype.kind not in "iu" or not labels.size:
        raise ValueError(f"train_labels are {labels.dtype} of shape {labels.shape}, not class ids")
    return int(labels.max()) + 1


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """Return one array, after making sure that the file can hold what its header announces."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{info.filename} is compressed by method {info.compress_type}; NumPy stores or deflates")
    with archive.open(info) as file:
        shape, dtype = _header(file)
        announced = math.prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise ValueError(f"{info.filename} holds Python objects")
        if announced > info.file_size or info.file_size > 1024 + _MAX_DEFLATE_RATIO * info.compress_size:
            raise ValueError(f"{info.filename} announces {announced} bytes, more than it holds")
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"a .npy header of version {version}")
    shape, _, dtype = readers[version](file)
    if any(length < 0 for length in shape):
        raise ValueError(f"an array of shape {shape}")
    return shape, dtype
