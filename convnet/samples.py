"""The training and test images of a training run: checked once, then handed out in batches."""
from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from convnet.batch import Batch, check_samples, targets
from convnet.data.loader import prefetch
from convnet.evaluation import check_classes, class_ids
from convnet.layers.base import whole_number
from convnet.layers.batchnorm import Normalize

if TYPE_CHECKING:
    from convnet.network import Network

Array = Any

# Tangents are large and follow from the images: this many rows of them identify them.
_TANGENT_ROWS = 64
_SLICE_BYTES = 1 << 24


class Samples:
    """What `convnet.train` trains and tests on.

    Parameters
    ----------
    net, dataset, batch_size, seed, tangents, augmentation
        As for `convnet.train`.

    Attributes
    ----------
    ids : array (N,)
        Class ids of the training images.
    batches : int
        Batches per epoch.
    test_images, test_labels : array or None

    Raises
    ------
    ValueError, TypeError
        If they do not fit each other.
    """

    def __init__(
        self, net: Network, dataset: Any, batch_size: int, seed: int, tangents: Array | None, augmentation: Any,
    ):
        self.batch_size = whole_number("batch_size", batch_size, 1)
        self.seed = whole_number("seed", seed, 0)
        self.augmentation = augmentation
        self.images, labels, test_images, test_labels = _parts(dataset)
        self.targets = _checked(net, "training", self.images, labels)
        check_classes(net)
        self.ids = class_ids(self.targets)
        self.tangents = tangents
        if tangents is not None:
            _check_tangents(tangents, self.images, augmentation)
        self.batches = math.ceil(len(self.images) / self.batch_size)
        if len(self.images) % self.batch_size == 1 or self.batch_size == 1:
            _check_single_sample(net, len(self.images), self.batch_size)
        self.test_images, self.test_labels = test_images, test_labels
        if test_images is not None and augmentation is not None:
            self.test_images = augmentation.central(test_images[:])
        trained = self.batch(np.arange(1), 0, 0).images
        for name, images in (("training", trained), ("test", self.test_images)):
            if images is not None and images.shape[1:] != net.input_shape:
                raise ValueError(f"the {name} images have the shape {images.shape[1:]}, "
                                 f"but the network takes {net.input_shape}")
        if test_images is not None:
            _checked(net, "test", test_images, test_labels)

    def shuffled(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield the rows of each batch of an epoch, all samples in random order; the last batch may be smaller."""
        order = rng.permutation(len(self.images))
        for start in range(0, len(order), self.batch_size):
            yield order[start:start + self.batch_size]

    def batch(self, rows: np.ndarray, epoch: int, number: int) -> Batch:
        """Return the samples in `rows` as batch `number` of `epoch`."""
        images = self.images[rows]
        if self.augmentation is not None:
            images = self.augmentation.apply(images, (self.seed, epoch, number))
        return Batch(images, self.targets[rows], None if self.tangents is None else self.tangents[rows])

    def prepared(self, batches: Sequence[np.ndarray], epoch: int) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch, given their rows; with augmentation they are made ahead, in a thread."""
        items = ((rows, epoch, number) for number, rows in enumerate(batches))
        return prefetch(lambda item: self.batch(*item), items, threads=0 if self.augmentation is None else 1)

    def arrays(self) -> list[Any]:
        """Return the arrays that tell one training run's data from another's."""
        every = max(1, len(self.images) // _TANGENT_ROWS)
        some = None if self.tangents is None else self.tangents[::every]
        return [self.images, self.targets, some, self.test_images, self.test_labels]


def _parts(dataset: Any) -> tuple[Array, Array, Array | None, Array | None]:
    """Return training images and labels, test images and labels; None for what is not there."""
    if hasattr(dataset, "train_images"):
        return dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels
    if isinstance(dataset, (tuple, list)) and len(dataset) == 2:
        images, labels = (np.asanyarray(part) for part in dataset)
        _check_finite("training image {} holds", images)
        return images, labels, None, None
    raise TypeError(f"dataset must be a convnet.data.Dataset or a pair (images, labels), not {type(dataset).__name__}")


def _check_finite(what: str, images: np.ndarray) -> None:
    """Raise ValueError if one of `images` holds NaN or infinity; a Dataset has looked itself."""
    rows = max(1, _SLICE_BYTES // max(1, images[:1].nbytes))
    for start in range(0, len(images) if images.dtype.kind == "f" else 0, rows):
        part = images[start:start + rows]
        good = np.isfinite(part).reshape(len(part), -1).all(axis=1)
        if not good.all():
            raise ValueError(f"{what.format(start + int(np.argmin(good)))} NaN or infinite values")


def _checked(net: Network, what: str, images: Array, labels: Array) -> Array:
    """Return the label vectors (N, K), or raise ValueError about the `what` images."""
    check_samples(f"{what} images", images, labels, net.root.output_shape[0])
    return targets(labels, net.root.output_shape[0], net.dtype)


def _check_tangents(tangents: Array, images: Array, augmentation: Any) -> None:
    if augmentation is not None:
        raise ValueError("tangents belong to the training images as they are: leave tangents or augmentation out")
    shape = np.shape(tangents)
    if shape[:1] + shape[2:] != images.shape or len(shape) != images.ndim + 1:
        raise ValueError(f"tangents has the shape {shape}; for training images of {images.shape} it must be "
                         f"({len(images)}, M, {', '.join(map(str, images.shape[1:]))})")
    _check_finite("the tangents of training image {} hold", tangents)


def _check_single_sample(net: Network, count: int, batch_size: int) -> None:
    for layer, path in net.paths.items():
        if isinstance(layer, Normalize) and not layer.frozen and math.prod(layer.input_shape[:-1]) == 1:  # type: ignore[index]
            raise ValueError(f"batch_size is {batch_size}: of {count} samples a batch holds one, and the batch "
                             f"normalisation at {path} needs two; use another batch size")
