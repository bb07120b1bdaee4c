"""The networks of the experiments: those of `convnet.architectures`, the papers' other ones, and the stages of paper 004."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from convnet import architectures, architectures_004
from convnet.layers import Dense, Dropout, Flatten, Layer, ReLU
from convnet.names import lookup
from convnet.network import Network

# Images of paper 004 are 32×32; MNIST's are padded to that.
STAGE_SIDE = 32


def _dense(layers: int) -> Callable[[tuple[int, ...]], list[Layer]]:
    """Hidden dense layers of 256 only (paper 000, section 5.5)."""
    return lambda input_shape: [Flatten(), *(layer for _ in range(layers) for layer in (Dense(256), ReLU()))]


def _svhn(input_shape: tuple[int, ...]) -> list[Layer]:
    """The CIFAR network with one more dense layer of 256 (paper 000, section 7.5)."""
    return [*architectures.NAMES["cifar"](input_shape), Dense(256), ReLU()]


PLAIN: dict[str, Callable[[tuple[int, ...]], list[Layer]]] = {
    **architectures.NAMES, "dense-2": _dense(2), "dense-3": _dense(3), "svhn": _svhn,
}
# Those that have a classification stage to choose.
STAGE_NETWORKS = tuple(architectures_004.NAMES)
NAMES = (*PLAIN, *STAGE_NETWORKS)


def build(
    name: str, input_shape: Sequence[int], classes: int, *, dropout: float = 0.0,
    stage: str | None = None, dimension: int | None = None, **options: Any,
) -> Network:
    """Return a fresh network of an experiment.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    input_shape : (H, W, C)
        Of the images before they are padded.
    classes : int
    dropout : float
        Rate of dropout before the last layer.
    stage, dimension
        Classification stage of paper 004's networks, see `convnet.architectures_004.build`.
    options
        Those of `convnet.Network`.

    Raises
    ------
    ValueError
        If a name is unknown, or something does not fit the network.
    """
    if name in STAGE_NETWORKS:
        if dropout:
            raise ValueError(f"network {name!r} takes no dropout: leave it out")
        shape = (*(max(STAGE_SIDE, n) for n in input_shape[:2]), input_shape[2])
        return architectures_004.build(name, shape, classes, stage=stage or "logistic", dimension=dimension, **options)
    if stage is not None or dimension is not None:
        raise ValueError(f"network {name!r} has no stage and no dimension: they belong to "
                         f"{', '.join(STAGE_NETWORKS)}")
    rows = lookup("network", name, PLAIN)
    last = [Dropout(dropout)] if dropout else []
    return Network([*rows(tuple(input_shape)), *last, Dense(classes)], input_shape, **options)
