"""How often a network is wrong: on clean images, under Gaussian noise, and under a step that raises the loss.

All errors are fractions of the images, in inference mode. Noise and steps are in units of the network's input, that is
of prepared images, and are not clipped. Images are taken in slices, so that memory does not grow with their number.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from convnet.batch import targets
from convnet.layers import ScaleInvariantClassifier
from convnet.layers.base import real_number, whole_number
from convnet.losses import Loss, ScaleInvariantCost, SoftmaxCrossEntropy, SquaredError
from convnet.passes.objective import Objective
from convnet.passes.walk import first_pass, second_pass

if TYPE_CHECKING:
    from convnet.network import Network

Array = Any

__all__ = ["default_loss", "error_rate", "fgsm_errors", "input_gradient", "noise_errors"]


def error_rate(net: Network, images: Array, labels: Array, batch_size: int = 256) -> float:
    """Return the fraction of images that `net` misclassifies.

    Parameters
    ----------
    net : Network
    images : array (N, ...)
        In the shape and preparation that the network was trained on.
    labels : array (N,) of class ids, or (N, K) of label vectors
        Of a vector the largest entry counts.
    batch_size : int
        Images per slice; it does not change the result.
    """
    return int(sum(_wrong(net, x, y) for x, y in _slices(images, labels, batch_size))) / len(images)


def noise_errors(net: Network, images: Array, labels: Array, sigmas: Sequence[float], seed: int = 0,
                 batch_size: int = 256) -> list[float]:
    """Return the error for each standard deviation of Gaussian noise added to the images.

    All deviations share one draw, scaled, so that the curve over them is smooth (paper 000, Fig. 4).

    Parameters
    ----------
    net, images, labels, batch_size
        As for `error_rate`.
    sigmas : sequence of float
        At least 0.
    seed : int
        Of the draw; it does not depend on `batch_size`.
    """
    sigmas = [real_number("sigma", sigma, 0.0) for sigma in sigmas]
    rng = np.random.default_rng(seed)
    wrong: list[Any] = [0] * len(sigmas)
    for x, y in _slices(images, labels, batch_size):
        noise = net.xp.asarray(rng.standard_normal(x.shape, np.float32), dtype=net.dtype)
        x = net.asarray(x)
        wrong = [count + _wrong(net, x + noise * net.dtype.type(sigma), y)
                 for count, sigma in zip(wrong, sigmas, strict=True)]
    return [int(count) / len(images) for count in wrong]


def fgsm_errors(net: Network, images: Array, labels: Array, epsilons: Sequence[float], loss: Loss | None = None,
                batch_size: int = 256) -> list[float]:
    """Return the error for each length ``ε`` of the step ``x + ε sign(dL/dx)`` (papers 001/002, Eq. 4).

    Parameters
    ----------
    net, images, labels, batch_size
        As for `error_rate`.
    epsilons : sequence of float
        At least 0.
    loss : Loss, optional
        What the step raises; by default `default_loss`.
    """
    epsilons = [real_number("epsilon", epsilon, 0.0) for epsilon in epsilons]
    loss = default_loss(net) if loss is None else loss
    wrong: list[Any] = [0] * len(epsilons)
    for x, y in _slices(images, labels, batch_size):
        x = net.asarray(x)
        direction = net.xp.sign(input_gradient(net, loss, x, y))
        wrong = [count + _wrong(net, x + direction * net.dtype.type(epsilon), y)
                 for count, epsilon in zip(wrong, epsilons, strict=True)]
    return [int(count) / len(images) for count in wrong]


def input_gradient(net: Network, loss: Loss, images: Array, labels: Array) -> Array:
    """Return ``dL/dx`` of each image in inference mode, by a first and a second pass."""
    x = net.asarray(images)
    y = first_pass(net.body, x)
    objective = Objective(net.head, loss, y.output, targets(labels, net.root.output_shape[0], net.dtype, net.xp))
    return second_pass(y, objective.gradient).output


def default_loss(net: Network) -> Loss:
    """Return the loss that suits how `net` ends: softmax with cross-entropy on logits; on the outputs of a softmax or
    sigmoid layer the squared error, as the cross-entropies contain their softmax or sigmoid; behind the scale-invariant
    stage its own cost."""
    if isinstance(net.root.layers[-1], ScaleInvariantClassifier):
        return ScaleInvariantCost()
    return SoftmaxCrossEntropy() if net.head is None else SquaredError()


def class_ids(labels: Array) -> Array:
    """Return class ids (N,) of ids or of label vectors (N, K)."""
    return labels if labels.ndim == 1 else labels.argmax(axis=1)


def _slices(images: Array, labels: Array, batch_size: int) -> Iterator[tuple[Array, Array]]:
    whole_number("batch_size", batch_size, 1)
    if len(images) != len(labels) or not len(images):
        raise ValueError(f"there are {len(images)} images and {len(labels)} labels; "
                         "give one label per image, at least one")
    for start in range(0, len(images), batch_size):
        yield images[start:start + batch_size], labels[start:start + batch_size]


def _wrong(net: Network, images: Array, labels: Array) -> Array:
    """Return how many images are misclassified, as a number on the network's device: to read each one would be to wait."""
    return (net.predict(images, len(images)) != net.xp.asarray(class_ids(labels))).sum()
