"""How far from a wrong decision an image is: score and margin (paper 003, section 5.1.2, Eq. 52-54).

``f(x)`` is the vector of class probabilities, the softmax of the logits, and ``J = df/dx``. The score measures the
decision at the output, the margin at the input, and the spectral norm of ``J`` ties one to the other.

Eq. 54 as printed, ``γ >= o/sup‖J‖``, claims too much. At the nearest point ``x*`` of class ``j`` both probabilities are
equal, so ``o <= √2 (δ_y - δ_j)·(f(x) - f(x*)) <= √2 · √2 · sup‖J‖ · γ``: the bound that holds is half of it,
``γ >= o/(2 sup‖J‖)``, which a linear network with two classes attains for small margins. `margin_bounds` returns that.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from convnet import kernels
from convnet.batch import targets
from convnet.layers.base import real_number, whole_number
from convnet.layers.softmax import Softmax, softmax
from convnet.passes.objective import Readout
from convnet.passes.walk import first_pass, inference, second_pass

if TYPE_CHECKING:
    from convnet.network import Network

Array = Any

__all__ = ["jacobian_norms", "jacobians", "margin_bounds", "margins", "scores"]

# Halvings of the interval in which the decision changes: to the precision of double numbers.
BISECTIONS = 50


def scores(net: Network, images: Array, labels: Array) -> np.ndarray:
    """Return the score of each image, ``o = min_{j != y} √2 (f_y - f_j)``, in [-√2, √2] (paper 003, Eq. 52).

    It is positive if the image is classified correctly, and negative if not.

    Parameters
    ----------
    net : Network
        In inference mode. If its last layer is a sigmoid or softmax, what comes before counts as the logits.
    images : array (N, ...)
    labels : array (N,) of class ids

    Returns
    -------
    array (N,)
    """
    x, one_hot = _checked(net, images, labels)
    f = softmax(inference(net.body, x))
    rival = net.xp.where(one_hot > 0, -net.xp.inf, f).max(axis=1)
    return kernels.to_numpy(np.sqrt(2) * ((f * one_hot).sum(axis=1) - rival))


def jacobians(net: Network, images: Array) -> np.ndarray:
    """Return ``J``, the derivative of the class probabilities in the image, (N, K, D), by a backward pass per class."""
    x = net.asarray(images)
    y = first_pass(net.body, x)
    probabilities = Readout(Softmax(), y.output)
    rows = []
    for unit in net.xp.eye(y.output.shape[1], dtype=net.dtype):
        b = probabilities.backward(net.xp.broadcast_to(unit, y.output.shape))
        rows.append(second_pass(y, b).output.reshape(len(x), -1))
    return kernels.to_numpy(net.xp.stack(rows, axis=1))


def jacobian_norms(net: Network, images: Array) -> np.ndarray:
    """Return the spectral norm of `jacobians` for each image, (N,)."""
    return np.linalg.norm(jacobians(net, images), ord=2, axis=(1, 2))


def margins(net: Network, images: Array, labels: Array, limit: float = 1e3) -> np.ndarray:
    """Return an upper bound on the margin of each image: a distance at which a wrongly classified point was found.

    The margin (paper 003, Eq. 53) is the radius of the largest ball around the image that the network puts into the
    right class. For each other class ``j`` the search goes straight against the gradient of ``z_y - z_j`` until the
    decision is wrong, and halves the last step down to where it changes. Between logits that are linear in the image
    this is the margin itself.

    Parameters
    ----------
    net, images, labels
        As for `scores`.
    limit : float
        How far to look, in units of the images, above 0.

    Returns
    -------
    array (N,)
        0 for an image that is classified wrongly, infinity where nothing was found within `limit`.
    """
    if real_number("limit", limit, 0.0) == 0:
        raise ValueError("limit is 0; it must be above 0")
    x, one_hot = _checked(net, images, labels)
    shape = (-1, *(1,) * (x.ndim - 1))
    best = np.full(len(x), np.inf)

    def wrong(points: Array) -> np.ndarray:
        z = inference(net.body, points)
        return kernels.to_numpy((z * one_hot).sum(axis=1) < z.max(axis=1))

    y = first_pass(net.body, x)
    best[wrong(x)] = 0
    for unit in net.xp.eye(one_hot.shape[1], dtype=net.dtype):
        direction = second_pass(y, unit - one_hot).output
        length = net.xp.sqrt((direction**2).reshape(len(x), -1).sum(axis=1))
        direction = direction / net.xp.where(length > 0, length, 1).reshape(shape)

        def wrong_at(distance: np.ndarray, direction: Array = direction) -> np.ndarray:
            return wrong(x + net.xp.asarray(distance, dtype=net.dtype).reshape(shape) * direction)

        best = np.minimum(best, _first_change(wrong_at, len(x), limit))
    return best


def _first_change(wrong_at: Any, count: int, limit: float) -> np.ndarray:
    """Return for each sample the nearest distance up to `limit` that doubling and halving find `wrong_at` to be true."""
    low, high = np.zeros(count), np.full(count, np.inf)
    distance = limit * 2.0**-20
    while np.isinf(high).any() and distance <= limit:
        hit = wrong_at(np.full(count, distance)) & np.isinf(high)
        high[hit] = distance
        low[np.isinf(high)] = distance
        distance *= 2
    found = np.isfinite(high)
    for _ in range(BISECTIONS):
        middle = (low + np.where(found, high, low)) / 2
        hit = wrong_at(middle) & found
        high[hit], low[~hit] = middle[hit], middle[~hit]
    return high


def margin_bounds(
    net: Network, images: Array, labels: Array, radii: Array, samples: int = 16, seed: int = 0
) -> np.ndarray:
    """Return ``o/(2 sup‖J‖)``, the lower bound on the margin that Eq. 54 of paper 003 aims at (see the module's text).

    The supremum over the ball around the image is estimated from below, by the image itself and random points of the
    ball, so the result estimates the bound from above.

    Parameters
    ----------
    net, images, labels
        As for `scores`.
    radii : array (N,)
        Radius of each ball; Eq. 54 takes the margin itself, for which there is `margins`. At least 0 and finite.
    samples : int
        Random points per image, in random directions at evenly spaced distances; the image comes on top.
    seed : int
        Of the points.

    Returns
    -------
    array (N,)
        Negative for images that are classified wrongly; infinity where ``J`` is zero at all points.
    """
    whole_number("samples", samples, 0)
    radii = np.asarray(radii, float)
    if radii.shape != (len(images),) or not (np.isfinite(radii).all() and (radii >= 0).all()):
        raise ValueError(f"radii must hold one finite number, at least 0, for each of {len(images)} images")
    score, images = scores(net, images, labels), np.asarray(kernels.to_numpy(images), float)
    rng, largest = np.random.default_rng(seed), jacobian_norms(net, images)
    for step in range(1, samples + 1):
        direction = rng.standard_normal(images.shape)
        length = np.sqrt((direction**2).reshape(len(images), -1).sum(axis=1))
        factor = (radii * step / samples / length).reshape(-1, *(1,) * (images.ndim - 1))
        largest = np.maximum(largest, jacobian_norms(net, images + factor * direction))
    flat = largest == 0
    return np.where(flat, np.copysign(np.inf, score), score / (2 * np.where(flat, 1, largest)))


def _checked(net: Network, images: Array, labels: Array) -> tuple[Array, Array]:
    """Return the images and the label vectors on the network's device.

    Raises
    ------
    ValueError
        If there is not one class id per image, or only one class.
    """
    x, labels = net.asarray(images), np.asarray(kernels.to_numpy(labels))
    if labels.shape != (len(x),):
        raise ValueError(f"labels has the shape {labels.shape}; it must hold one class id for each of {len(x)} images")
    classes = net.body.output_shape[0]
    if classes < 2:
        raise ValueError("the network has a single output; a score needs at least two classes")
    return x, targets(labels, classes, net.dtype, net.xp)
