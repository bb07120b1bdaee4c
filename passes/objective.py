"""The loss of one batch as a function of the logits, whatever stands between them.

A network may end in a softmax or sigmoid layer, or the loss may contain it. The algorithms see logits only: `Objective` is the
composition of that last layer with the loss, and `Readout` is the map from logits to what a penalty is about.
"""
from __future__ import annotations

from functools import cached_property
from typing import Any

from convnet.layers.base import Layer, Record
from convnet.losses import Loss

Array = Any


class Readout:
    """The map ``o(z)`` from logits to the quantity that a penalty is about, with its passes.

    Parameters
    ----------
    layer : Layer or None
        The softmax or sigmoid; None for ``o(z) = z``.
    z : array, (N, K)
    """

    def __init__(self, layer: Layer | None, z: Array):
        self.layer, self.record = layer, Record(False, True)
        self.value = z if layer is None else layer.forward(z, self.record)

    def third(self, t: Array) -> Array:
        """Return ``J t``."""
        return t if self.layer is None else self.layer.third_pass(t, self.record)

    def backward(self, b: Array) -> Array:
        """Return ``J^T b``."""
        return b if self.layer is None else self.layer.backward(b, self.record)

    def curvature(self, t: Array, b: Array) -> Array | None:
        """Return ``d/dz [b^T J(z) t]``, None where it is zero."""
        return None if self.layer is None else self.layer.curvature(t, b, self.record)


class Objective:
    """``L(z)`` of each sample of a batch.

    Parameters
    ----------
    head : Layer or None
        The network's last layer where that is a softmax or sigmoid.
    loss : Loss
    z : array, (N, K)
        Logits.
    labels : array, (N, K)
    """

    def __init__(self, head: Layer | None, loss: Loss, z: Array, labels: Array):
        self.head, self.loss, self.z, self.labels = head, loss, z, labels
        self._head = Readout(head, z)

    @property
    def outputs(self) -> Array:
        """The network's outputs: behind its last layer."""
        return self._head.value

    @cached_property
    def value(self) -> Array:
        """``L(z)`` of each sample, (N,)."""
        return self._value_and_gradient_at_head[0]

    @cached_property
    def gradient(self) -> Array:
        """``dL/dz`` of each sample, (N, K): where the second pass starts."""
        return self._head.backward(self._value_and_gradient_at_head[1])

    @cached_property
    def _value_and_gradient_at_head(self) -> tuple[Array, Array]:
        return self.loss.value_and_gradient(self._head.value, self.labels)

    def hessian_product(self, t: Array) -> Array:
        """Return ``H t`` with ``H = d²L/dz²``: for a head ``J^T H_o J t + k(t, dL/do)``."""
        at_head = self.loss.hessian_product(self._head.value, self.labels, self._head.third(t))
        curvature = self._head.curvature(t, self._value_and_gradient_at_head[1])
        return self._head.backward(at_head) if curvature is None else self._head.backward(at_head) + curvature

    def readout(self, at: str) -> Readout:
        """Return the map to what a penalty `at` "logits" or "output" is about."""
        if at == "logits":
            return Readout(None, self.z)
        if self.head is None and self.loss.readout is not None:
            return Readout(self.loss.readout(), self.z)
        return self._head
