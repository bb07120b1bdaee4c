"""One batch: images, labels and, for tangent propagation, tangent vectors."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from convnet.kernels import array_module

Array = Any


@dataclass(frozen=True)
class Batch:
    """Images with their labels.

    Parameters
    ----------
    images : array, (N, ...)
        One input per sample, in the shape the network takes.
    labels : array, (N,) of class ids or (N, K) of one-hot or soft labels
    tangents : array, (N, M, ...), optional
        M tangent vectors per sample, each in the shape of an image (papers 001/002, section 2.1).

    Raises
    ------
    ValueError
        If the lengths differ, the batch is empty, labels or tangents have the wrong number of axes, or images or tangents
        hold something else than real numbers.
    """

    images: Array
    labels: Array
    tangents: Array | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "images", real_array("images", self.images))
        if array_module(self.labels) is np:
            put(self, "labels", np.asarray(self.labels))
        count = len(self.images)
        if count == 0:
            raise ValueError("images is empty: a batch needs at least one sample")
        if self.labels.ndim not in (1, 2):
            raise ValueError(f"labels has the shape {self.labels.shape}; it must be (N,) of class ids or (N, K)")
        if len(self.labels) != count:
            raise ValueError(f"images holds {count} samples, but labels holds {len(self.labels)}")
        if self.tangents is not None:
            put(self, "tangents", real_array("tangents", self.tangents))
            shape = self.tangents.shape
            if shape[:1] + shape[2:] != self.images.shape or len(shape) != self.images.ndim + 1:
                raise ValueError(
                    f"tangents has the shape {shape}; with images of {self.images.shape} it must be "
                    f"(N, M, ...) = ({count}, M, {', '.join(map(str, self.images.shape[1:]))})"
                )
            if shape[1] == 0:
                raise ValueError(f"tangents has the shape {shape}: no tangent vector for any sample; give at least one, or None")

    def __len__(self) -> int:
        return len(self.images)


def real_array(name: str, value: Any) -> Array:
    """Return `value` as an array, a NumPy array unless it lives on a device; raise ValueError unless it holds real numbers."""
    array = np.asarray(value) if array_module(value) is np else value
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} holds {array.dtype} values; it must hold real numbers")
    if array.ndim == 0:
        raise ValueError(f"{name} is {value!r}; it must be an array of one or more samples")
    return array


def check_samples(what: str, images: Array, labels: Array, classes: int) -> None:
    """Raise ValueError unless the `what` ("training images") are floating point, and have a label each that suits `classes`."""
    if images.dtype.kind != "f":
        raise ValueError(f"the {what} are {images.dtype}; they must be floating point, of about unit size: "
                         "use Dataset.prepared(), or divide them by 255")
    if labels.ndim and (len(images) != len(labels) or not len(images)):
        raise ValueError(f"there are {len(images)} {what} and {len(labels)} labels; give one label per image, at least one")
    check_labels(labels, classes)


def check_labels(labels: Array, classes: int) -> None:
    """Raise ValueError unless `labels` are whole numbers (N,) in [0, classes), or numbers (N, classes)."""
    if labels.ndim not in (1, 2):
        raise ValueError(f"labels has the shape {labels.shape}; it must be (N,) of class ids or (N, K)")
    if labels.ndim == 2:
        if labels.shape[1] != classes:
            raise ValueError(f"labels has {labels.shape[1]} columns, but the network has {classes} outputs")
        real_array("labels", labels)
        return
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels holds {labels.dtype} numbers; class ids must be whole numbers")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"labels holds class {low if low < 0 else high}, but the network's classes are 0 to {classes - 1}")


def targets(labels: Array, classes: int, dtype: Any, xp: Any = np) -> Array:
    """Return `labels` as an (N, `classes`) array of label vectors.

    Raises
    ------
    ValueError
        If a class id is not a whole number in [0, classes), or soft labels have another number of classes.
    """
    check_labels(labels, classes)
    if labels.ndim == 2:
        return xp.asarray(labels, dtype=dtype)
    out = xp.zeros((len(labels), classes), dtype)
    out[xp.arange(len(labels)), xp.asarray(labels)] = 1
    return out
