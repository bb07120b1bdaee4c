"""Networks by name: those of the papers' experiments, and a small one for small images.

>>> build("mnist", input_shape=(28, 28, 1), classes=10).vector.size
464234
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from convnet.layers import BatchNorm, Conv, Dense, Dropout, Flatten, Layer, MaxPool, MeanPool, ReLU, Residual
from convnet.layers.base import real_number, whole_number
from convnet.names import lookup
from convnet.network import Network

__all__ = ["NAMES", "build", "default_for"]


def build(name: str, input_shape: Sequence[int], classes: int, *, dropout: float = 0.0, **options: Any) -> Network:
    """Return a fresh network with logits for `classes` classes.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    input_shape : (H, W, C)
    classes : int
    dropout : float
        Rate of dropout on the values that enter the last layer, those of the last hidden dense layer (paper 000,
        section 7.4).
    options
        Those of `convnet.Network`: seed, dtype, device, initialization.

    Raises
    ------
    ValueError
        If the name is unknown (the message gives the nearest), or the images are too small for the architecture.
    """
    rows = lookup("network", name, NAMES)(tuple(input_shape))
    real_number("dropout", dropout, 0.0, 1.0)
    last = [Dropout(dropout)] if dropout else []
    return Network([*rows, *last, Dense(whole_number("classes", classes, 2))], input_shape, **options)


def default_for(dataset: str, input_shape: Sequence[int]) -> str:
    """Return the name of the network for a data set: its own if it has one, else one for the size of its images."""
    own = {"digits": "digits", "mnist": "mnist", "cifar10": "cifar", "cifar100": "cifar", "svhn": "cifar"}
    if dataset in own:
        return own[dataset]
    side = min(input_shape[:2])
    return "digits" if side < 20 else "mnist" if side < 30 else "cifar"


def _digits(input_shape: tuple[int, ...]) -> list[Layer]:
    """Two 3×3 convolutions of 16 and 32 filters, dense 64: trains on 8×8 images in seconds."""
    return [Conv(16, 3, padding=1), ReLU(), MaxPool(3, 2), Conv(32, 3, padding=1), ReLU(), Flatten(), Dense(64), ReLU()]


def _mnist(input_shape: tuple[int, ...]) -> list[Layer]:
    """The MNIST network of papers 000, section 7.5, and 001/002, section 5."""
    return [Conv(32, 4), ReLU(), MaxPool(3, 2), Conv(64, 5, padding=2), ReLU(), MaxPool(3, 2), Flatten(),
            Dense(256), ReLU()]


def _cifar(input_shape: tuple[int, ...]) -> list[Layer]:
    """The CIFAR network of papers 000, section 7.5, and 001/002, section 5; they leave the numbers of filters open."""
    chain: list[Layer] = []
    for filters, padding in ((32, 0), (32, 2), (64, 2)):
        chain += [Conv(filters, 5, padding=padding), ReLU(), MaxPool(3, 2)]
    return [*chain, Flatten(), Dense(256), ReLU()]


def _small(input_shape: tuple[int, ...]) -> list[Layer]:
    """The small model of paper 003, section 7.1.1."""
    return [Conv(32, 3), ReLU(), MaxPool(2, 2), Conv(64, 3), ReLU(), MaxPool(2, 2), Conv(64, 3), ReLU(), Flatten(),
            Dense(64), ReLU()]


def _resnet(input_shape: tuple[int, ...]) -> list[Layer]:
    """The residual network of paper 003, section 7.1.2, in the arrangement of He et al. 2016, with one block per stage:
    a 3×3 convolution, residual blocks of 16, 32 and 64 filters with strides 1, 2 and 2, and the mean over what is left
    of the image (8×8 for CIFAR)."""
    chain: list[Layer] = [Conv(16, 3, padding=1, bias=False), BatchNorm(), ReLU()]
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        body = [Conv(filters, 3, stride, padding=1, bias=False), BatchNorm(), ReLU(),
                Conv(filters, 3, padding=1, bias=False), BatchNorm()]
        shortcut = None if stride == 1 else [Conv(filters, 1, stride, bias=False), BatchNorm()]
        chain += [Residual(body, shortcut), ReLU()]
    left = (-(-input_shape[0] // 4), -(-input_shape[1] // 4))
    return [*chain, MeanPool(left, left), Flatten()]


NAMES: dict[str, Callable[[tuple[int, ...]], list[Layer]]] = {
    "digits": _digits, "mnist": _mnist, "cifar": _cifar, "small": _small, "resnet": _resnet,
}
