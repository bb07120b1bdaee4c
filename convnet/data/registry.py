"""Data sets by name: where each is looked for, and how it is read."""
from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from convnet.data.cifar import holds_cifar, load_cifar
from convnet.data.dataset import Dataset
from convnet.data.digits import load_digits
from convnet.data.folder import holds_folder, load_folder
from convnet.data.idx import holds_idx, load_idx
from convnet.data.npz import load_npz
from convnet.data.svhn import holds_svhn, load_svhn
from convnet.names import lookup

ROOT_VARIABLE = "CONVNET_DATA"


@dataclass(frozen=True)
class Source:
    """Where a data set's files may lie under a root, how to recognise them, and how to read them.

    `read` receives the folder that was found and the folder for unpacked copies.
    """

    title: str
    folders: tuple[str, ...]
    present: Callable[[Path], bool]
    read: Callable[[Path, Path], Dataset]



def _named_fashion(folder: Path) -> bool:
    """Tell Fashion-MNIST's folder from MNIST's: the four files in them have the same names."""
    folder = folder.resolve()
    return "fashion" in (folder.parent if folder.name == "raw" else folder).name.lower()


_DIGITS = tuple("0123456789")
_CLOTHES = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_CIFAR_FOLDERS = (".", "cifar10", "cifar-10", "CIFAR10")
_CIFAR100_FOLDERS = (".", "cifar100", "cifar-100", "CIFAR100")
_SVHN_FOLDERS = (".", "svhn", "SVHN")

SOURCES = {
    "mnist": Source("MNIST: handwritten digits, 28x28 grey", (".", "mnist", "MNIST/raw"),
                    lambda folder: holds_idx(folder) and not _named_fashion(folder),
                    lambda folder, cache: load_idx("mnist", folder, _DIGITS)),
    "fashion-mnist": Source("Fashion-MNIST: clothes, 28x28 grey",
                            (".", "fashion-mnist", "fashion_mnist", "fashion", "FashionMNIST/raw"),
                            lambda folder: holds_idx(folder) and _named_fashion(folder),
                            lambda folder, cache: load_idx("fashion-mnist", folder, _CLOTHES)),
    "cifar10": Source("CIFAR-10: objects, 32x32 colour", _CIFAR_FOLDERS, partial(holds_cifar, "cifar10"),
                      lambda folder, cache: load_cifar("cifar10", folder)),
    "cifar100": Source("CIFAR-100: objects of 100 classes, 32x32 colour", _CIFAR100_FOLDERS,
                       partial(holds_cifar, "cifar100"), lambda folder, cache: load_cifar("cifar100", folder)),
    "cifar100-coarse": Source("CIFAR-100 with its 20 superclasses", _CIFAR100_FOLDERS,
                              partial(holds_cifar, "cifar100-coarse"),
                              lambda folder, cache: load_cifar("cifar100-coarse", folder)),
    "svhn": Source("SVHN: house numbers, 32x32 colour", _SVHN_FOLDERS, holds_svhn, load_svhn),
    "svhn-extra": Source("SVHN with its extra training images", _SVHN_FOLDERS, holds_svhn,
                         lambda folder, cache: load_svhn(folder, cache, extra=True)),
    "svhn-validation": Source("SVHN with extra, its validation set in place of the test images", _SVHN_FOLDERS,
                              holds_svhn, lambda folder, cache: load_svhn(folder, cache, validation=True)),
}


def known_names() -> list[str]:
    """Return the names that `load` knows."""
    return ["digits", *SOURCES]


def cache_root() -> Path:
    """Return the user's cache folder of this package, $XDG_CACHE_HOME/convnet or ~/.cache/convnet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convnet"


def data_root(root: str | os.PathLike | None = None) -> Path:
    """Return the folder of data sets: `root`, else $CONVNET_DATA, else the user's cache folder."""
    if root is not None:
        return Path(root)
    return Path(os.environ.get(ROOT_VARIABLE) or cache_root())


def load(name: str | os.PathLike, root: str | os.PathLike | None = None,
         cache: str | os.PathLike | None = None, image_size: int | None = None) -> Dataset:
    """Return a data set, as published: not scaled, uint8 (the digits: 0 to 16).

    Parameters
    ----------
    name : str or path
        "digits" is part of the package, the other names (`known_names`) are read from files. A path that ends in
        ``.npz`` is read by `convnet.data.npz.load_npz`, the path of a folder of images by class by
        `convnet.data.folder.load_folder`.
    root : path, optional
        Folder that holds the files or a folder of them, a torchvision root included (``<root>/MNIST/raw``). By default
        the environment variable CONVNET_DATA, else the user's cache folder.
    cache : path, optional
        Where unpacked copies of SVHN are kept, by default the folder ``unpacked`` in the user's cache folder.
    image_size : int, optional
        Rows and columns that the images of a folder are scaled to.

    Raises
    ------
    ValueError
        If the name is unknown, a file is damaged or not what its name says, or an image size is given for anything but a
        folder of images.
    FileNotFoundError
        If the files are not there.
    """
    name = os.fspath(name)
    folder = name not in known_names() and holds_folder(Path(name))
    if image_size is not None:
        if not folder:
            raise ValueError(f"image_size is {image_size}, but {name} is no folder of images; leave it out")
        if not isinstance(image_size, int) or image_size < 1:
            raise ValueError(f"image_size is {image_size!r}; it must be an int, at least 1")
    if name == "digits":
        return load_digits()
    if name not in SOURCES:
        path = Path(name)
        if path.suffix == ".npz":
            return load_npz(path)
        if folder:
            return load_folder(path, image_size)
        if os.sep in name or path.exists():
            raise FileNotFoundError(f"{name} is neither a .npz file nor a folder with a folder of images per class, nor is it "
                                    f"one of the data sets {', '.join(known_names())}")
    lookup("data set", name, dict.fromkeys(known_names()))
    source = SOURCES[name]
    return source.read(find(name, root), Path(cache) if cache is not None else cache_root() / "unpacked")


def find(name: str, root: str | os.PathLike | None = None) -> Path:
    """Return the folder that holds the files of data set `name`.

    Raises
    ------
    FileNotFoundError
        If there is none; the message lists the folders that were looked at.
    """
    source = SOURCES[name]
    base = data_root(root)
    candidates = [base / folder for folder in source.folders]
    for folder in candidates:
        if source.present(folder):
            return folder
    raise FileNotFoundError(f"{name} is not in {' or '.join(str(folder) for folder in candidates)}; fetch it with "
                            f"'convnet datasets fetch {name}', or name its folder with root or {ROOT_VARIABLE}")
