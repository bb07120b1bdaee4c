"""How often a network is wrong: on clean images, under Gaussian noise, and under a step that raises the loss.

All errors are fractions of the images, in inference mode. Noise and steps are in units of the network's input, that is
of prepared images, and are not clipped. Images are taken in slices, so that memory does not grow with their number.

An image counts as wrong, whatever its label, where an output or any parameter is not finite: the error of a network that has
overflowed is 1.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from convnet import kernels
from convnet.batch import check_samples, real_array, targets
from convnet.devices import memory_errors
from convnet.layers import ScaleInvariantClassifier
from convnet.layers.base import real_number, whole_number
from convnet.losses import Loss, ScaleInvariantCost, SoftmaxCrossEntropy, SquaredError
from convnet.passes.objective import Objective
from convnet.passes.walk import first_pass, second_pass

if TYPE_CHECKING:
    from convnet.network import Network

Array = Any

# Images at a time: so many that they stay in the cache, and that a GPU has more to do than the host to launch it; there, fewer of
# large ones, so that a slice has at most so many numbers.
SLICES = {"cpu": 256, "gpu": 1024}
NUMBERS = 3 << 20

__all__ = ["default_loss", "error_rate", "fgsm_errors", "input_gradient", "noise_errors"]


def error_rate(net: Network, images: Array, labels: Array, batch_size: int | None = None) -> float:
    """Return the fraction of images that `net` misclassifies.

    Parameters
    ----------
    net : Network
    images : array (N, ...)
        In the shape and preparation that the network was trained on; floating point.
    labels : array (N,) of class ids, or (N, K) of label vectors
        Of a vector the largest entry counts.
    batch_size : int, optional
        Images per slice; it does not change the result. By default 256, and on a GPU 1024, or fewer if they are larger
        than 32×32 pixels.

    Raises
    ------
    ValueError
        If images or labels are not what the network could be trained on, or are not finite.
    DeviceMemoryError
        If the GPU's memory does not hold a slice.
    """
    return _errors(net, images, labels, batch_size, lambda x, y: [x])[0]


def noise_errors(net: Network, images: Array, labels: Array, sigmas: Sequence[float], seed: int = 0,
                 batch_size: int | None = None) -> list[float]:
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
    sigmas = _levels("sigma", sigmas)
    rng = np.random.default_rng(seed)

    def noisy(x: Array, y: Array) -> Iterable[Array]:
        noise = net.xp.asarray(rng.standard_normal(x.shape, np.float32), dtype=net.dtype)
        return (x + noise * net.dtype.type(sigma) for sigma in sigmas)

    return _errors(net, images, labels, batch_size, noisy)


def fgsm_errors(net: Network, images: Array, labels: Array, epsilons: Sequence[float], loss: Loss | None = None,
                batch_size: int | None = None) -> list[float]:
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
    epsilons = _levels("epsilon", epsilons)
    loss = default_loss(net) if loss is None else loss

    def shifted(x: Array, y: Array) -> Iterable[Array]:
        direction = net.xp.sign(input_gradient(net, loss, x, y))
        return (x + direction * net.dtype.type(epsilon) for epsilon in epsilons)

    return _errors(net, images, labels, batch_size, shifted)


def input_gradient(net: Network, loss: Loss, images: Array, labels: Array) -> Array:
    """Return ``dL/dx`` of each image in inference mode, by a first and a second pass."""
    images, labels = _checked(net, images, labels)
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


def check_classes(net: Network) -> None:
    """Raise ValueError if the network has a single output, which is the largest whatever it is."""
    if net.root.output_shape[0] < 2:
        raise ValueError("the network has one output, and errors are counted by the largest of several: give it one output for "
                         "each class, two for two")


def class_ids(labels: Array) -> Array:
    """Return class ids (N,) of ids or of label vectors (N, K)."""
    return labels if labels.ndim == 1 else labels.argmax(axis=1)


def _levels(name: str, values: Sequence[float]) -> list[float]:
    if np.ndim(values) == 0:
        raise TypeError(f"{name}s is {values!r}; it must be a sequence of numbers, as in [0.1, 0.2]")
    return [real_number(name, value, 0.0) for value in values]


def _checked(net: Network, images: Array, labels: Array) -> tuple[Array, np.ndarray]:
    """Return images and labels as arrays, the labels on the host, or raise ValueError if one could not train with them."""
    images, labels = real_array("images", images), np.asarray(kernels.to_numpy(labels))
    check_samples("images", images, labels, net.root.output_shape[0])
    if not np.isfinite(labels).all():
        raise ValueError("labels holds NaN or infinite values")
    return images, labels


def _errors(net: Network, images: Array, labels: Array, batch_size: int | None,
            variants: Callable[[Array, Array], Iterable[Array]]) -> list[float]:
    """Return the error on each of the ``variants(images, labels)`` of the images, made a slice at a time.

    Everything is counted on the network's device and read at the end: to read each number would be to wait for it.
    """
    images, labels = _checked(net, images, labels)
    check_classes(net)
    batch_size = whole_number("batch_size", _slice(net) if batch_size is None else batch_size, 1)
    xp, right, finite = net.xp, [], True
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"), memory_errors(batch_size):
        sound = xp.isfinite(net.vector).all()
        for start in range(0, len(images), batch_size):
            x, y = net.asarray(images[start:start + batch_size]), labels[start:start + batch_size]
            ids = xp.asarray(class_ids(y))
            finite = finite & xp.isfinite(x).all()
            right.append([_right(net, variant, ids, sound) for variant in variants(x, y)])
        if not bool(finite):
            raise ValueError(f"images holds NaN, or values that are infinite in {net.dtype}")
        return [(len(images) - int(sum(counts))) / len(images) for counts in zip(*right, strict=True)]


def _slice(net: Network) -> int:
    """Return the number of images that are taken at a time by default."""
    most = SLICES[net.device]
    return most if net.device == "cpu" else max(1, min(most, NUMBERS // math.prod(net.root.input_shape)))


def _right(net: Network, images: Array, ids: Array, sound: Array) -> Array:
    """Return how many images are classified as `ids`, with finite outputs, as a number on the network's device."""
    outputs = net.forward(images)
    return ((outputs.argmax(axis=1) == ids) & net.xp.isfinite(outputs).all(axis=1) & sound).sum()
