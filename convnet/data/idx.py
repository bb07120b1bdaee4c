"""The IDX files of MNIST and Fashion-MNIST, compressed or not, and the data sets made of four of them."""
from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from convnet.data.dataset import Dataset

_GZIP_MAGIC = b"\x1f\x8b"
# Deflate never shrinks more than this; a header that promises more than the file can hold is refused before any memory
# is taken for it.
_MAX_DEFLATE_RATIO = 1032
_MAX_UNPACKED = 1 << 32
_CHUNK = 1 << 20

_FILES = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("test", "images"): "t10k-images-idx3-ubyte",
    ("test", "labels"): "t10k-labels-idx1-ubyte",
}


def read_idx(path, ndim: int) -> np.ndarray:
    """Read one IDX file of unsigned bytes.

    Parameters
    ----------
    path : path
        The file, gzip-compressed or not (told by its first bytes).
    ndim : int
        Number of axes it must have: 3 for images (N, H, W), 1 for labels (N,).

    Returns
    -------
    uint8 array, read-only; memory-mapped if the file is not compressed

    Raises
    ------
    OSError
        If the file cannot be opened or read.
    ValueError
        If it is not an IDX file of unsigned bytes with `ndim` axes, or its length is not what its header says.

    Notes
    -----
    Format: two zero bytes, the type (8: unsigned byte), the number of axes, each axis as a big-endian 32-bit integer,
    then the values in row-major order.
    """
    path = Path(path)
    size = path.stat().st_size
    with open(path, "rb") as raw:
        compressed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        if not compressed:
            shape = _shape(raw.read(4 + 4 * ndim), ndim, path)
            expected = 4 + 4 * ndim + math.prod(shape)
            if size != expected:
                raise ValueError(f"{path} is {'truncated' if size < expected else 'too long'}: its header announces "
                                 f"{expected} bytes, the file has {size}; fetch it again")
            return np.memmap(path, np.uint8, "r", offset=4 + 4 * ndim, shape=shape)
        try:
            with gzip.open(raw) as unpacked:
                shape = _shape(unpacked.read(4 + 4 * ndim), ndim, path)
                length = math.prod(shape)
                if length > min(size * _MAX_DEFLATE_RATIO, _MAX_UNPACKED):
                    raise ValueError(f"{path} announces {length} bytes, more than its {size} compressed bytes can "
                                     "hold; fetch it again")
                content = bytearray()
                while len(content) <= length and (chunk := unpacked.read(min(_CHUNK, length + 1 - len(content)))):
                    content += chunk
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is truncated or corrupted ({error}); fetch it again") from error
    if len(content) != length:
        raise ValueError(f"{path} is {'truncated' if len(content) < length else 'too long'}: its header announces "
                         f"{length} values; fetch it again")
    return np.frombuffer(bytes(content), np.uint8).reshape(shape)


def _shape(header: bytes, ndim: int, path: Path) -> tuple[int, ...]:
    """Return the axes announced by an IDX header, or raise ValueError naming the file."""
    if len(header) < 4 + 4 * ndim or header[:2] != b"\0\0":
        raise ValueError(f"{path} is not an IDX file (it starts with {header[:4]!r}); fetch it again")
    if header[2] != 8 or header[3] != ndim:
        wanted = "images (3 axes)" if ndim == 3 else "labels (1 axis)"
        raise ValueError(f"{path} should hold {wanted} as unsigned bytes, but its header says type {header[2]:#04x} "
                         f"with {header[3]} axes; is it another file under this name?")
    return tuple(int.from_bytes(header[4 + 4 * axis:8 + 4 * axis], "big") for axis in range(ndim))


def find_idx(folder: Path, base: str) -> Path | None:
    """Return the file `base` in `folder` under one of its usual names, unpacked before compressed, or None."""
    dotted = base.replace("-idx", ".idx")
    for name in (base, dotted, f"{base}.gz", f"{dotted}.gz"):
        if (folder / name).is_file():
            return folder / name
    return None


def holds_idx(folder: Path) -> bool:
    """Tell whether any of the four files is in `folder`."""
    return any(find_idx(folder, base) for base in _FILES.values())


def load_idx(name: str, folder: Path, classes: tuple[str, ...]) -> Dataset:
    """Read the four IDX files in `folder` into a data set.

    Raises
    ------
    FileNotFoundError
        If one of the four is missing.
    ValueError
        If a file is not what its name says, or labels do not fit images or classes.
    """
    arrays: dict[str, Any] = {}
    for part in ("train", "test"):
        paths = {}
        for kind, ndim in (("images", 3), ("labels", 1)):
            base = _FILES[part, kind]
            path = find_idx(folder, base)
            if path is None:
                raise FileNotFoundError(f"{folder} has no {base} (or {base}.gz), which {name} needs; fetch it with "
                                        f"'convnet datasets fetch {name}'")
            paths[kind] = path
            arrays[f"{part}_{kind}"] = read_idx(path, ndim)
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if len(images) != len(labels):
            raise ValueError(f"{paths['images']} has {len(images)} images but {paths['labels']} has {len(labels)} "
                             "labels; they do not belong together")
        if len(labels) and labels.max() >= len(classes):
            raise ValueError(f"{paths['labels']} holds the label {labels.max()}, but {name} has {len(classes)} "
                             "classes; is it another data set's file?")
        arrays[f"{part}_images"] = images[..., None]
    return Dataset(name, **arrays, classes=classes)
