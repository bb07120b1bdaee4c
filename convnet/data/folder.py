"""Data sets made of image files in one folder per class, as ImageNet's subsets are kept (paper 004, section 5).

Either ``root/train/<class>/*`` and ``root/test/<class>/*`` (``val`` or ``validation`` will do), or ``root/<class>/*``,
of which a share is held back for testing. Needs Pillow (extra ``images``).
"""
from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from convnet.data.cache import cached_file
from convnet.data.dataset import Dataset
from convnet.data.sampling import stratified_indices

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
_TEST_FOLDERS = ("test", "val", "validation")
_MOST_PIXELS = 1 << 26
_IMAGES_PER_BLOCK = 64


def load_folder(root: str | os.PathLike, size: int | tuple[int, int] | None = None, channels: int = 3,
                test_fraction: float = 0.2, seed: int = 0, cache: str | os.PathLike | None = None) -> Dataset:
    """Read a folder of images by class.

    Parameters
    ----------
    root : path
    size : int or (rows, columns), optional
        Each image is scaled, keeping its proportions, until it just covers this size, and its centre is taken. Without
        it, all images must be of one size.
    channels : {3, 1}
        Colour or grey.
    test_fraction : float
        Share of each class that is held back where `root` has no test folder.
    seed : int
        Seed of that draw.
    cache : path, optional
        Folder for the decoded images, which are then memory-mapped; without it they are held in memory.

    Raises
    ------
    ImportError
        If Pillow is not installed.
    FileNotFoundError
        If there are no images.
    ValueError
        If an image cannot be read, the sizes differ, or the test classes are not the training classes.
    """
    root = Path(root)
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels!r}; it must be 3 (colour) or 1 (grey)")
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction is {test_fraction!r}; it must be between 0 and 1")
    wanted = None if size is None else (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    if wanted is not None and min(wanted) < 1:
        raise ValueError(f"size is {size!r}; it must be positive")
    test_root = next((root / name for name in _TEST_FOLDERS if (root / name).is_dir()), None)
    if (root / "train").is_dir() and test_root is not None:
        classes, train, train_labels = _listed(root / "train")
        test_classes, test, test_labels = _listed(test_root)
        if test_classes != classes:
            different = sorted(set(classes) ^ set(test_classes))
            raise ValueError(f"{test_root} and {root / 'train'} do not hold the same classes: {', '.join(different)}")
    else:
        classes, paths, labels = _listed(root)
        held_back = stratified_indices(labels, size=max(1, round(test_fraction * len(labels))), seed=seed)
        kept = np.setdiff1d(np.arange(len(labels)), held_back)
        train, train_labels = [paths[i] for i in kept], labels[kept]
        test, test_labels = [paths[i] for i in held_back], labels[held_back]
    if not train or not test:
        raise ValueError(f"{root} has too few images for a training and a test part")
    shape = (*(wanted or _image_size(train[0])), channels)
    return Dataset(root.resolve().name, _images(train, shape, wanted, cache), train_labels,
                   _images(test, shape, wanted, cache), test_labels, classes)


def holds_folder(root: Path) -> bool:
    """Tell whether `root` looks like a folder of images by class."""
    root = root / "train" if (root / "train").is_dir() else root
    return root.is_dir() and any(path.is_dir() and _files(path) for path in root.iterdir())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir()
                  if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file())


def _listed(root: Path) -> tuple[tuple[str, ...], list[Path], np.ndarray]:
    """Return the names of the classes, the image files and their labels."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = [_files(folder) for folder in folders]
    if not any(files):
        raise FileNotFoundError(f"{root} has no images in a folder per class (known are {', '.join(SUFFIXES)})")
    for folder, found in zip(folders, files, strict=True):
        if not found:
            raise ValueError(f"{folder} has no images; remove it, or put the images of its class there")
    labels = np.repeat(np.arange(len(folders)), [len(found) for found in files])
    return tuple(folder.name for folder in folders), [path for found in files for path in found], labels


def _images(paths: list[Path], shape: tuple[int, int, int], wanted: tuple[int, int] | None,
            cache: str | os.PathLike | None) -> np.ndarray:
    """Return the decoded images, in memory or memory-mapped from `cache`."""
    def decoded() -> Iterator[np.ndarray]:
        for start in range(0, len(paths), _IMAGES_PER_BLOCK):
            yield np.stack([_decode(path, shape, wanted) for path in paths[start:start + _IMAGES_PER_BLOCK]])

    whole = (len(paths), *shape)
    if cache is not None:
        return cached_file(cache, "images", paths, {"shape": shape, "scaled": wanted is not None}, whole,
                           np.dtype("u1"), decoded())
    result = np.empty(whole, np.uint8)
    start = 0
    for block in decoded():
        result[start:start + len(block)] = block
        start += len(block)
    return result


def _image_size(path: Path) -> tuple[int, int]:
    with _opened(path) as image:
        return image.height, image.width


def _decode(path: Path, shape: tuple[int, int, int], wanted: tuple[int, int] | None) -> np.ndarray:
    """Return one image as (H, W, C) bytes."""
    from PIL import Image, ImageOps

    with _opened(path) as image:
        if wanted is None and (image.height, image.width) != shape[:2]:
            raise ValueError(f"{path} is {image.height}x{image.width}, others are {shape[0]}x{shape[1]}; give a size "
                             "(image_size), to which all images are scaled and cropped")
        try:
            decoded = image.convert("RGB" if shape[2] == 3 else "L")
        # Pillow's decoders raise errors of many types for damaged files.
        except Exception as error:
            raise ValueError(f"{path} is truncated or damaged ({error}); remove or replace it") from error
    if wanted is not None:
        decoded = ImageOps.fit(decoded, (wanted[1], wanted[0]), Image.Resampling.BILINEAR)
    return np.asarray(decoded).reshape(shape)


def _opened(path: Path):
    """Open an image file with Pillow, having looked at its size only."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading image files needs Pillow: pip install 'convnet-ibp[images]'") from error
    try:
        image = Image.open(path)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not an image that Pillow can read ({error}); remove or replace it") from error
    if image.width * image.height > _MOST_PIXELS:
        image.close()
        raise ValueError(f"{path} announces {image.width}x{image.height} pixels; more than {_MOST_PIXELS} are refused")
    return image
