"""CIFAR-10 and CIFAR-100, from the unpacked official archives, binary or python.

A binary record is the label byte (CIFAR-100: the coarse, then the fine label) and 3072 pixel bytes: the red, green and
blue planes of 32×32, row by row. The python archives hold pickles of the same pixels and labels.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convnet.data.dataset import Dataset
from convnet.data.messages import brief
from convnet.data.pickles import read_pickle

_PIXELS = 3072
_TRAIN, _TEST = 50000, 10000


@dataclass(frozen=True)
class _Layout:
    """How one of the two sets is laid out in files, and which of its labels are wanted."""

    name: str
    classes: int
    binary: str
    python: str
    train: tuple[str, ...]
    test: str
    binary_names: str
    python_names: str
    label_bytes: int = 1
    label_column: int = 0
    labels_key: str = "labels"
    names_key: str = "label_names"


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_LAYOUTS = {layout.name: layout for layout in (
    _Layout("cifar10", 10, "cifar-10-batches-bin", "cifar-10-batches-py", _BATCHES, "test_batch",
            "batches.meta.txt", "batches.meta"),
    _Layout("cifar100", 100, "cifar-100-binary", "cifar-100-python", ("train",), "test",
            "fine_label_names.txt", "meta", 2, 1, "fine_labels", "fine_label_names"),
    _Layout("cifar100-coarse", 20, "cifar-100-binary", "cifar-100-python", ("train",), "test",
            "coarse_label_names.txt", "meta", 2, 0, "coarse_labels", "coarse_label_names"),
)}


def holds_cifar(name: str, folder: Path) -> bool:
    """Tell whether `folder` contains the unpacked archive of data set `name`, binary or python."""
    return _base(_LAYOUTS[name], folder) is not None


def _base(layout: _Layout, folder: Path) -> tuple[Path, bool] | None:
    """Return the unpacked archive's folder, which may be `folder` itself, and whether it is the binary one."""
    for sub, binary in ((layout.binary, True), (layout.python, False)):
        for base in (folder / sub, folder):
            if base.name == sub and base.is_dir():
                return base, binary
    return None


def load_cifar(name: str, folder: Path, records: tuple[int, int] = (_TRAIN, _TEST)) -> Dataset:
    """Read CIFAR-10 or CIFAR-100.

    Parameters
    ----------
    name : {"cifar10", "cifar100", "cifar100-coarse"}
        The last has CIFAR-100's images with their 20 superclasses.
    folder : path
        Holds the unpacked archive, such as ``cifar-10-batches-bin``, or is it; the binary one is preferred.
    records : (train, test)
        Number of images that must be there: a file cut off at the end of a record has nothing else to betray it.

    Raises
    ------
    FileNotFoundError
        If a file of the archive is missing.
    ValueError
        If a file is damaged or not what its name says.
    """
    layout = _LAYOUTS[name]
    found = _base(layout, folder)
    if found is None:
        raise FileNotFoundError(f"{folder} holds neither {layout.binary} nor {layout.python}; fetch {name} with "
                                f"'convnet datasets fetch {name}'")
    base, binary = found
    suffix = ".bin" if binary else ""
    read = _read_binary if binary else _read_python
    each = records[0] // len(layout.train)
    train = [read(_member(base, file + suffix, name), layout, each) for file in layout.train]
    test = read(_member(base, layout.test + suffix, name), layout, records[1])
    names = _names(_member(base, layout.binary_names if binary else layout.python_names, name), layout, binary)
    train_images, train_labels = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
    return Dataset(name, train_images, train_labels, *test, names)


def _member(base: Path, file: str, name: str) -> Path:
    path = base / file
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; unpack the archive again, or fetch it with "
                                f"'convnet datasets fetch {name}'")
    return path


def _read_binary(path: Path, layout: _Layout, records: int) -> tuple[np.ndarray, np.ndarray]:
    size, expected = path.stat().st_size, records * (layout.label_bytes + _PIXELS)
    if size != expected:
        raise ValueError(f"{path} is {'truncated' if size < expected else 'too long'}: it has {size} bytes, "
                         f"{layout.name} has {expected} in this file; unpack the archive again")
    content = np.fromfile(path, np.uint8).reshape(records, -1)
    return _images(content[:, layout.label_bytes:]), _labels(path, content[:, layout.label_column], layout)


def _read_python(path: Path, layout: _Layout, records: int) -> tuple[np.ndarray, np.ndarray]:
    content = read_pickle(path)
    pixels, labels = (_entry(path, content, key) for key in ("data", layout.labels_key))
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != (records, _PIXELS):
        raise ValueError(f"{path}: 'data' is {_describe(pixels)}; {layout.name} has uint8 of shape ({records}, "
                         f"{_PIXELS}) in this file; unpack the archive again")
    if len(labels) != records or not all(isinstance(label, int) for label in labels):
        raise ValueError(f"{path}: {layout.labels_key!r} is not a list of {records} class ids; unpack the archive "
                         "again")
    return _images(pixels), _labels(path, np.array(labels), layout)


def _entry(path: Path, content: dict[str, Any], key: str) -> Any:
    if key not in content or not isinstance(content[key], (np.ndarray, list)):
        raise ValueError(f"{path} has no {key!r} (it has: {brief(', '.join(content)) or 'nothing'}); is it another "
                         "file under this name?")
    return content[key]


def _images(pixels: np.ndarray) -> np.ndarray:
    """Return (N, 3072) planes as (N, 32, 32, 3) images."""
    return np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _labels(path: Path, labels: np.ndarray, layout: _Layout) -> np.ndarray:
    wrong = (labels < 0) | (labels >= layout.classes)
    if wrong.any():
        raise ValueError(f"{path} holds the label {labels[wrong][0]}, but {layout.name} has {layout.classes} classes; "
                         "is it another data set's file?")
    return labels.astype(np.int64)


def _names(path: Path, layout: _Layout, binary: bool) -> tuple[str, ...]:
    """Return the names of the classes."""
    if binary:
        names = path.read_bytes()[:1 << 16].decode("utf-8", "replace").split()
    else:
        names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
                 for name in _entry(path, read_pickle(path), layout.names_key)]
    if len(names) != layout.classes:
        raise ValueError(f"{path} has {len(names)} names of classes, but {layout.name} has {layout.classes}; unpack "
                         "the archive again")
    return tuple(names)


def _describe(value: Any) -> str:
    return f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
