"""Losses, per sample: value, gradient in the logits, Hessian product.

Every loss is a function ``L(z, l)`` of one sample's logits ``z`` (K) and label vector ``l`` (K). Nothing here is divided by the
number of samples. ``readout`` is the layer that turns logits into the loss's predictions ``p``, or None where ``p = z``.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convnet import kernels
from convnet.kernels import array_module
from convnet.kernels.reference import softmax_product
from convnet.layers.activations import Sigmoid
from convnet.layers.base import Layer
from convnet.layers.softmax import Softmax, inner, softmax
from convnet.names import lookup

Array = Any

__all__ = [
    "BinaryCrossEntropy", "Loss", "MeanSquaredError", "MultiClassHinge", "ScaleInvariantCost", "SoftmaxCrossEntropy",
    "SquaredError", "by_name",
]


class Loss:
    """Base class of the losses.

    Parameters
    ----------
    class_weights : sequence of float, optional
        One weight per class, at least 0; a sample's loss is multiplied by ``sum_k weight_k l_k``.

    Raises
    ------
    ValueError
        If a class weight is negative or not finite.
    """

    readout: type[Layer] | None = None

    def __init__(self, class_weights: Sequence[float] | None = None):
        self.class_weights = None if class_weights is None else np.array(class_weights, float)
        if self.class_weights is not None and not (np.isfinite(self.class_weights).all() and (self.class_weights >= 0).all()):
            raise ValueError(f"class_weights is {class_weights!r}; it must hold finite numbers, at least 0")
        if self.class_weights is not None:
            self.class_weights.flags.writeable = False
        self._sent: tuple[Array | None, Array | None] = None, None

    def __repr__(self) -> str:
        weights = "" if self.class_weights is None else f"class_weights={self.class_weights.tolist()}"
        return f"{type(self).__name__}({weights})"

    def weights(self, labels: Array) -> Array:
        """Return each sample's weight as an (N, 1) array."""
        xp = array_module(labels)
        if self.class_weights is None:
            return xp.ones((len(labels), 1), labels.dtype)
        if len(self.class_weights) != labels.shape[1]:
            raise ValueError(f"class_weights has {len(self.class_weights)} entries, but there are {labels.shape[1]} classes")
        # Sent to a device once, not with every step.
        given, sent = self._sent
        if sent is None or given is not self.class_weights or array_module(sent) is not xp or sent.dtype != labels.dtype:
            sent = xp.asarray(self.class_weights, labels.dtype)
            self._sent = self.class_weights, sent
        return (labels * sent).sum(axis=1, keepdims=True)

    def check_labels(self, labels: Array) -> None:
        """Raise ValueError if label vectors (N, K) are not what the loss is defined for. Any are, unless a subclass says."""

    def value(self, z: Array, labels: Array) -> Array:
        """Return ``L(z, l)`` of each sample, (N,)."""
        value = self._value(z, labels)
        return value if self.class_weights is None else self.weights(labels)[:, 0] * value

    def gradient(self, z: Array, labels: Array) -> Array:
        """Return ``dL/dz`` of each sample, (N, K)."""
        gradient = self._gradient(z, labels)
        return gradient if self.class_weights is None else self.weights(labels) * gradient

    def value_and_gradient(self, z: Array, labels: Array) -> tuple[Array, Array]:
        """Return `value` and `gradient`."""
        return self.value(z, labels), self.gradient(z, labels)

    def hessian_product(self, z: Array, labels: Array, t: Array) -> Array:
        """Return ``H t`` with ``H = d²L/dz²`` of each sample, (N, K)."""
        product = self._hessian_product(z, labels, t)
        return product if self.class_weights is None else self.weights(labels) * product

    def hessian_factor(self, z: Array, labels: Array, index: int) -> tuple[Array, Any]:
        """Return one vector of a factorisation of the Hessian, and the product with its derivative.

        Returns
        -------
        q : array, (N, K)
            ``q_c(z)`` for ``c = index``, with ``sum_{c=1..K} q_c q_c^T = H``.
        derivative : callable
            ``t -> (dq_c/dz)^T t``, both (N, K); None where ``q_c`` is constant.
        """
        root = array_module(z).sqrt(self.weights(labels))
        q, derivative = self._hessian_factor(z, labels, index)
        return root * q, None if derivative is None else lambda t: root * derivative(t)

    def _value(self, z: Array, labels: Array) -> Array:
        raise TypeError(f"{type(self).__name__} defines no value")

    def _gradient(self, z: Array, labels: Array) -> Array:
        raise TypeError(f"{type(self).__name__} defines no gradient")

    def _hessian_product(self, z: Array, labels: Array, t: Array) -> Array:
        raise TypeError(f"{type(self).__name__} defines no Hessian product")

    def _hessian_factor(self, z: Array, labels: Array, index: int) -> tuple[Array, Any]:
        raise TypeError(f"{type(self).__name__} defines no factorisation of its Hessian")


class SoftmaxCrossEntropy(Loss):
    """Negative log-likelihood of the softmax: ``L = -sum_k l_k log p_k``, ``p = softmax(z)``, ``sum_k l_k = 1``.

    ``dL/dz = p - l``; ``H = diag(p) - p p^T`` (paper 003, Eq. 62), factored by ``q_c = sqrt(p_c) (e_c - p)``.
    """

    readout = Softmax

    def check_labels(self, labels: Array) -> None:
        """Raise ValueError unless every label vector is one of probabilities: not negative, with the sum 1."""
        sums = labels.sum(axis=1)
        worst = int(abs(sums - 1).argmax())
        if not abs(float(sums[worst]) - 1) <= 1e-3:
            raise ValueError(f"labels of sample {worst} sum to {float(sums[worst]):.6g}; the cross-entropy of a softmax needs "
                             "label vectors that sum to 1")
        least = labels.min(axis=1)
        if float(least.min()) < 0:
            raise ValueError(f"labels of sample {int(least.argmin())} are in part negative; the cross-entropy of a softmax needs "
                             "label vectors of probabilities")

    def value_and_gradient(self, z: Array, labels: Array) -> tuple[Array, Array]:
        """Return `value` and `gradient`, which a device computes at once."""
        if type(self) is not SoftmaxCrossEntropy or self.class_weights is not None:  # a subclass may mean other values
            return super().value_and_gradient(z, labels)
        return kernels.of(z).cross_entropy_and_gradient(z, labels)

    def _value(self, z, labels):
        return kernels.of(z).cross_entropy(z, labels)

    def _gradient(self, z, labels):
        return kernels.of(z).cross_entropy_gradient(z, labels)

    def _hessian_product(self, z, labels, t):
        return kernels.of(z).cross_entropy_hessian_product(z, t)

    def _hessian_factor(self, z, labels, index):
        xp, p = array_module(z), softmax(z)
        root = xp.sqrt(p[:, index:index + 1])
        # 1 - p_c is the sum of the others, which does not become 0 as p_c comes near 1.
        chosen = xp.arange(z.shape[1]) == index
        direction = xp.where(chosen, xp.where(chosen, 0, p).sum(axis=1, keepdims=True), -p)

        def derivative(t):
            return root * (0.5 * inner(direction, t) * direction - softmax_product(p, t))

        return root * direction, derivative


class SquaredError(Loss):
    """Half the squared distance: ``L = ‖z - l‖² / 2``; ``dL/dz = z - l``, ``H = I`` (papers 001/002, section 7.3)."""

    def _value(self, z, labels):
        return self._factor(z) * ((z - labels) ** 2).sum(axis=-1) / 2

    def _gradient(self, z, labels):
        return self._factor(z) * (z - labels)

    def _hessian_product(self, z, labels, t):
        return self._factor(z) * t

    def _hessian_factor(self, z, labels, index):
        q = array_module(z).zeros_like(z)
        q[:, index] = self._factor(z) ** 0.5
        return q, None

    def _factor(self, z: Array) -> float:
        return 1.0


class MeanSquaredError(SquaredError):
    """Mean over the outputs: ``L = ‖z - l‖² / K``; ``dL/dz = 2 (z - l) / K``, ``H = 2 I / K`` (paper 003, Eq. 2, where
    the outputs are those of n samples)."""

    def _factor(self, z: Array) -> float:
        return 2 / z.shape[-1]


class BinaryCrossEntropy(Loss):
    """Log-loss of independent sigmoids: ``L = -sum_k [l_k log p_k + (1 - l_k) log(1 - p_k)]``, ``p = sigmoid(z)``.

    ``dL/dz = p - l``; ``H = diag(p (1 - p))``, factored by ``q_c = sqrt(p_c (1 - p_c)) e_c`` (paper 003, Eq. 3).
    """

    readout = Sigmoid

    def check_labels(self, labels: Array) -> None:
        """Raise ValueError unless all labels are probabilities."""
        least, most = float(labels.min()), float(labels.max())
        if not 0 <= least <= most <= 1:
            raise ValueError(f"labels lie between {least:.6g} and {most:.6g}; the cross-entropy of sigmoids needs probabilities")

    def _value(self, z, labels):
        # log(1 + e^z) - l z, with the larger exponent taken out so that nothing overflows.
        xp = array_module(z)
        high = xp.maximum(z.real, 0)
        return (high + xp.log(xp.exp(-high) + xp.exp(z - high)) - labels * z).sum(axis=-1)

    def _gradient(self, z, labels):
        p, rest = self._p(z)
        return array_module(z).where(labels > 0.5, (1 - labels) - rest, p - labels)

    def _hessian_product(self, z, labels, t):
        p, rest = self._p(z)
        return p * rest * t

    def _hessian_factor(self, z, labels, index):
        p, rest = (each[:, index:index + 1] for each in self._p(z))
        root = array_module(z).sqrt(p * rest)
        unit = array_module(z).zeros_like(z)
        unit[:, index] = 1
        return root * unit, lambda t: 0.5 * root * (rest - p) * unit * t

    @staticmethod
    def _p(z: Array) -> tuple[Array, Array]:
        """Return ``p`` and ``1 - p``, both to full precision."""
        xp = array_module(z)
        e = xp.exp(xp.where(z.real > 0, -z, z))
        large, small = 1 / (1 + e), e / (1 + e)
        return xp.where(z.real > 0, large, small), xp.where(z.real > 0, small, large)


class ScaleInvariantCost(Loss):
    """Squared distance to the target of the class, from the scores ``s_j = z·t_j`` of unit vectors (paper 004, Eq. 5).

    ``c = ‖z - t_j‖² = 2 - 2 s_j``, in [0, 4] (Eq. 7); for soft labels ``c = sum_j l_j (2 - 2 s_j)``. Linear in the
    scores: ``dc/ds = -2 l`` and ``H = 0``. Use it behind `convnet.layers.ScaleInvariantClassifier`, whose outputs are
    scores.
    """

    def _value(self, z, labels):
        return (labels * (2 - 2 * z)).sum(axis=-1)

    def _gradient(self, z, labels):
        return -2 * labels

    def _hessian_product(self, z, labels, t):
        return array_module(z).zeros_like(z)

    def _hessian_factor(self, z, labels, index):
        return array_module(z).zeros_like(z), None


class MultiClassHinge(Loss):
    """Multi-class hinge loss: every wrong class ``j`` should score less than the right class ``y`` by a margin.

    With the violations ``v_j = max(0, margin + z_j - z_y)``, ``j != y``: ``L = max_j v_j`` (Crammer and Singer 2001) or
    ``L = sum_j v_j`` (Weston and Watkins 1999); for soft labels ``L = sum_y l_y L_y``. Piecewise linear: ``H = 0``. Of
    equal largest violations the first counts; at ``v_j = 0`` the slope is 0.

    Parameters
    ----------
    margin : float
        Above 0.
    form : {"max", "sum"}
    class_weights : sequence of float, optional

    Raises
    ------
    ValueError
        If `margin` or `form` is none of these.
    """

    def __init__(self, margin: float = 1.0, form: str = "max", class_weights: Sequence[float] | None = None):
        super().__init__(class_weights)
        if not (isinstance(margin, (int, float)) and 0 < margin < np.inf):
            raise ValueError(f"margin is {margin!r}; it must be a finite number above 0")
        if form not in ("max", "sum"):
            raise ValueError(f"form is {form!r}; it must be 'max' (Crammer and Singer) or 'sum' (Weston and Watkins)")
        self.margin, self.form = float(margin), form

    def __repr__(self) -> str:
        weights = "" if self.class_weights is None else f", class_weights={self.class_weights.tolist()}"
        return f"MultiClassHinge(margin={self.margin}, form={self.form!r}{weights})"

    def _violations(self, z: Array) -> Array:
        """Return ``v`` for every possible right class: (N, right, wrong), 0 on the diagonal."""
        xp = array_module(z)
        v = xp.maximum(0, self.margin + z[:, None, :] - z[:, :, None])
        return v * (1 - xp.eye(z.shape[-1], dtype=z.dtype))

    def _value(self, z, labels):
        v = self._violations(z)
        return (labels * (v.max(axis=-1) if self.form == "max" else v.sum(axis=-1))).sum(axis=-1)

    def _gradient(self, z, labels):
        v = self._violations(z)
        active = v > 0
        if self.form == "max":
            active &= array_module(z).arange(z.shape[-1]) == v.argmax(axis=-1)[:, :, None]
        pushed = labels[:, :, None] * active
        return pushed.sum(axis=1) - pushed.sum(axis=2)

    def _hessian_product(self, z, labels, t):
        return array_module(z).zeros_like(z)

    def _hessian_factor(self, z, labels, index):
        return array_module(z).zeros_like(z), None


NAMES = {
    "softmax-cross-entropy": SoftmaxCrossEntropy,
    "squared-error": SquaredError,
    "mean-squared-error": MeanSquaredError,
    "binary-cross-entropy": BinaryCrossEntropy,
    "scale-invariant": ScaleInvariantCost,
    "multi-class-hinge": MultiClassHinge,
}


def by_name(name: str) -> type[Loss]:
    """Return the loss class called `name`; raise ValueError with the nearest known name."""
    return lookup("loss", name, NAMES)
