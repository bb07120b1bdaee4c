"""SVHN, cropped digits: train, test and extra images as MATLAB files.

In a file, ``X`` is (32, 32, 3, N) and ``y`` is (N, 1) with labels 1 to 10, where 10 stands for the digit 0.
"""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from convnet.data.cache import cached_file
from convnet.data.dataset import Dataset
from convnet.data.images import take
from convnet.data.mat import Variable, variables
from convnet.data.messages import brief
from convnet.data.sampling import stratified_indices

FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat", "extra": "extra_32x32.mat"}
CLASSES = tuple("0123456789")
_IMAGES_PER_BLOCK = 4096
# Images of each class in the validation set of the literature, from the train and from the extra file (Sermanet et al.
# 2012, which paper 000 follows by way of Goodfellow et al. 2013).
VALIDATION_PER_CLASS = (400, 200)


def holds_svhn(folder: Path) -> bool:
    """Tell whether any of SVHN's files is in `folder`."""
    return any((folder / name).is_file() for name in FILES.values())


def load_svhn(folder: Path, cache: Path, extra: bool = False, validation: bool = False,
              per_class: tuple[int, int] = VALIDATION_PER_CLASS, seed: int = 0) -> Dataset:
    """Read SVHN.

    Parameters
    ----------
    folder : path
        Where the files are.
    cache : path
        Folder for the unpacked images, which are memory-mapped from there: 0.3 GB, with extra 1.9 GB.
    extra : bool
        Add the extra images to the training part.
    validation : bool
        Instead of the test images, hold back the validation set of the literature: `per_class` images of each class
        from train and from extra. Implies `extra`.
    seed : int
        Seed of the draw of the validation set.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is damaged or not what its name says.
    """
    sources = ["train", "extra"] if extra or validation else ["train"]
    images, parts = _images_and_labels(folder, cache, sources)
    labels = np.concatenate(parts)
    if not validation:
        test_images, test_parts = _images_and_labels(folder, cache, ["test"])
        return Dataset("svhn-extra" if extra else "svhn", images, labels, test_images, test_parts[0], CLASSES)
    held_back = np.concatenate([
        stratified_indices(parts[0], per_class=per_class[0], seed=seed, classes=len(CLASSES)),
        stratified_indices(parts[1], per_class=per_class[1], seed=seed, classes=len(CLASSES)) + len(parts[0])])
    rest = np.setdiff1d(np.arange(len(labels)), held_back)
    return Dataset("svhn-validation", take(images, rest), labels[rest], take(images, held_back), labels[held_back],
                   CLASSES)


def _images_and_labels(folder: Path, cache: Path, sources: list[str]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the images of some files as one memory-mapped array, and the labels of each file."""
    paths = [folder / FILES[source] for source in sources]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; fetch it with 'convnet datasets fetch svhn"
                                    f"{'-extra' if path.name == FILES['extra'] else ''}'")
    opened = [_open(path) for path in paths]
    count = sum(images.shape[3] for images, _ in opened)

    def pixels() -> Iterator[np.ndarray]:
        for images, _ in opened:
            for block in images.blocks(_IMAGES_PER_BLOCK):
                yield block.transpose(0, 3, 2, 1)                # (n, C, W, H) -> (n, H, W, C)

    stored = cached_file(cache, "svhn", paths, {"sources": sources}, (count, *opened[0][0].shape[:3]), np.dtype("u1"),
                         pixels())
    return stored, [_labels(labels) for _, labels in opened]


def _open(path: Path) -> tuple[Variable, Variable]:
    """Return the variables of one file after checking that they are images and labels."""
    found = variables(path)
    for name in ("X", "y"):
        if name not in found:
            raise ValueError(f"{path} has no array {name!r} (it has: {brief(', '.join(found)) or 'none'}); is it another file "
                             "under this name?")
    images, labels = found["X"], found["y"]
    if len(images.shape) != 4 or images.shape[:3] != (32, 32, 3) or images.dtype != np.uint8:
        raise ValueError(f"{path}: X is {images.dtype} of shape {images.shape}; SVHN's is uint8 of (32, 32, 3, N)")
    if labels.shape not in {(images.shape[3], 1), (1, images.shape[3])}:
        raise ValueError(f"{path}: y is of shape {labels.shape}, but X has {images.shape[3]} images; fetch it again")
    return images, labels


def _labels(variable: Variable) -> np.ndarray:
    """Return the labels as digits 0 to 9."""
    values = variable.read().ravel()
    wrong = ~np.isin(values, np.arange(1, 11))
    if wrong.any():
        raise ValueError(f"{variable.path} holds the label {values[wrong][0]}; SVHN's are 1 to 10 (10 is the "
                         "digit 0)")
    return values.astype(np.int64) % 10
