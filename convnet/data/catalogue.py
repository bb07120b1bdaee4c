"""Official files of the data sets: where they are, how large they are, and their checksums.

Sums are of the files as published, in the form ``algorithm:digest``; those of MNIST, CIFAR and SVHN are SHA-256 as
torchvision, Keras and TensorFlow Datasets have them, those of Fashion-MNIST and of the members of the python archives
are the MD5 sums that their authors and torchvision publish.
"""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RemoteFile:
    """One file to fetch.

    Parameters
    ----------
    name : str
        Its name on every mirror and on disk.
    mirrors : tuple of str
        Addresses of the folders it is in, ending with a slash, best first.
    checksum : str
        ``sha256:...`` or ``md5:...``.
    size : int, optional
        In bytes, where published.
    unpacks_to : str, optional
        For an archive, the folder it holds.
    """

    name: str
    mirrors: tuple[str, ...]
    checksum: str
    size: int | None = None
    unpacks_to: str | None = None


@dataclass(frozen=True)
class Collection:
    """What makes one data set: the folder under the root that the files go to, and the files."""

    folder: str
    files: tuple[RemoteFile, ...]


_MNIST = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_FASHION = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/")
_CIFAR = ("https://www.cs.toronto.edu/~kriz/",)
_SVHN = ("http://ufldl.stanford.edu/housenumbers/",)

_CIFAR10 = Collection("cifar10", (
    RemoteFile("cifar-10-binary.tar.gz", _CIFAR,
               "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd", 170052171,
               "cifar-10-batches-bin"),))
_CIFAR100 = Collection("cifar100", (
    RemoteFile("cifar-100-python.tar.gz", _CIFAR,
               "sha256:85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7", None, "cifar-100-python"),))
_SVHN_TRAIN = RemoteFile("train_32x32.mat", _SVHN,
                         "sha256:435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8", 182040794)
_SVHN_TEST = RemoteFile("test_32x32.mat", _SVHN,
                        "sha256:cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b", 64275384)
_SVHN_EXTRA = RemoteFile("extra_32x32.mat", _SVHN,
                         "sha256:a133a4beb38a00fcdda90c9489e0c04f900b660ce8a316a5e854838379a71eb3", 1329278602)

COLLECTIONS = {
    "mnist": Collection("mnist", (
        RemoteFile("train-images-idx3-ubyte.gz", _MNIST,
                   "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", 9912422),
        RemoteFile("train-labels-idx1-ubyte.gz", _MNIST,
                   "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", 28881),
        RemoteFile("t10k-images-idx3-ubyte.gz", _MNIST,
                   "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", 1648877),
        RemoteFile("t10k-labels-idx1-ubyte.gz", _MNIST,
                   "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", 4542))),
    "fashion-mnist": Collection("fashion-mnist", (
        RemoteFile("train-images-idx3-ubyte.gz", _FASHION, "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        RemoteFile("train-labels-idx1-ubyte.gz", _FASHION, "md5:25c81989df183df01b3e8a0aad5dffbe"),
        RemoteFile("t10k-images-idx3-ubyte.gz", _FASHION, "md5:bef4ecab320f06d8554ea6380940ec79"),
        RemoteFile("t10k-labels-idx1-ubyte.gz", _FASHION, "md5:bb300cfdad3c16e7a12a480ee83cd310"))),
    "cifar10": _CIFAR10,
    "cifar100": _CIFAR100,
    "cifar100-coarse": _CIFAR100,
    "svhn": Collection("svhn", (_SVHN_TRAIN, _SVHN_TEST)),
    "svhn-extra": Collection("svhn", (_SVHN_TRAIN, _SVHN_TEST, _SVHN_EXTRA)),
    "svhn-validation": Collection("svhn", (_SVHN_TRAIN, _SVHN_EXTRA)),
}

# Sums of what the compressed and archived files hold, for copies that were unpacked or packed anew.
CONTENT = {
    "mnist": {
        "train-images-idx3-ubyte": "sha256:ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "sha256:65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "sha256:0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "sha256:ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"},
    "cifar-10-batches-py": {
        "data_batch_1": "md5:c99cafc152244af753f735de768cd75f", "data_batch_2": "md5:d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "md5:54ebc095f3ab1f0389bbae665268c751", "data_batch_4": "md5:634d18415352ddfa80567beed471001a",
        "data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb", "test_batch": "md5:40351d587109b95175f43aff81a1287e",
        "batches.meta": "md5:5ff9c542aee3614f3951f8cda6e48888"},
    "cifar-100-python": {
        "train": "md5:16019d7e3df5f24257cddd939b257f8d", "test": "md5:f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "md5:7973b15100ade9c7d40fb424638fde48"},
}
