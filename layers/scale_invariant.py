"""The scale-invariant classification stage (paper 004, section 3).

``y = A x`` without a bias, ``z = y/‖y‖``, and the nearest of ``k`` targets ``t_1, ..., t_k`` on the unit sphere
decides. As ``‖z - t_j‖² = 2 - 2 z·t_j``, the stage's outputs are the scores ``z·t_j``: the largest belongs to the
nearest target, and the cost is the loss `convnet.losses.ScaleInvariantCost` of the scores.

The stage is three layers: `RescaledDense`, whose matrix a constraint brings back to the Frobenius norm ``sqrt(m)``
after every step; `SphereProjection`; and `TargetScores`, a fixed linear map. `ScaleInvariantClassifier` chains them.

A positive factor on ``x`` or ``A`` changes nothing. A negative one turns ``z`` into ``-z`` and the cost ``c`` into
``4 - c``: the paper's "any nonzero real number" holds for the bound on the gradient (Eq. 6), not for the assignment.
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from convnet import kernels
from convnet.layers.base import Array, Builder, Container, Layer, Record, Shape, whole_number
from convnet.layers.containers import Sequential
from convnet.layers.dense import Dense
from convnet.layers.softmax import inner


@dataclass(eq=False)
class RescaledDense(Dense):
    """Fully connected layer ``y = A x`` without a bias, with ``A`` held at the Frobenius norm ``sqrt(units)``.

    Parameters
    ----------
    units : int
        Number of outputs, the rows of ``A``.

    Notes
    -----
    ``weight`` is ``A^T``, (D, units). The constraint acts at the start and after every step (paper 004,
    section 3). Weight decay leaves the matrix out: it would only scale what the constraint scales back. A zero matrix
    has no direction and stays as it is.
    """

    bias: bool = False

    decayed = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bias:
            raise ValueError("bias is True; this layer has none, because an offset is not scale-invariant")

    def constrain(self) -> None:
        """Divide the matrix by its Frobenius norm and multiply it by the square root of its number of rows."""
        weight = self.parameters["weight"]
        xp = kernels.array_module(weight)
        # The largest entry is taken out before squaring, so that steps of any size leave numbers that can be squared.
        largest = xp.abs(weight).max()
        scaled = weight / xp.where(largest > 0, largest, 1)
        norm = xp.sqrt((scaled * scaled).sum())
        weight[...] = scaled * (math.sqrt(self.units) / xp.where(norm > 0, norm, 1))


@dataclass(eq=False)
class SphereProjection(Layer):
    """Projection to the unit sphere over the last axis, ``z = y/‖y‖``, ``(N, m) -> (N, m)``.

    Notes
    -----
    With ``r = ‖y‖`` the Jacobian is ``J = (I - z z^T)/r`` (paper 004, Eq. 11), symmetric, so that the third pass is the
    backward method. Its curvature follows from ``q(t, b) = b^T J t = (b·t - (z·b)(z·t))/r`` with ``dr/dy = z`` and
    ``dz/dy = J``::

        k(t, b) = dq/dy = -(q z + (z·t) J b + (z·b) J t)/r

    At ``y = 0`` no direction is nearest; there ``z``, ``J`` and ``k`` are defined as 0.
    """

    symmetric_jacobian = True
    curved = True

    def forward(self, x: Array, record: Record) -> Array:
        """Return ``x/‖x‖`` and record it with ``1/‖x‖``."""
        xp = kernels.array_module(x)
        # Dividing by the largest entry first keeps the squares in range; its own derivative cancels.
        largest = xp.abs(x.real).max(axis=-1, keepdims=True)
        zero = largest < xp.finfo(largest.dtype).tiny
        largest = xp.where(zero, 1, largest).astype(largest.dtype)
        scaled = xp.where(zero, 0, x / largest)
        norm = xp.sqrt(xp.where(zero, 1, inner(scaled, scaled)))
        record.output = scaled / norm
        record.inverse_norm = xp.where(zero, 0, 1 / (largest * norm))
        return record.output

    def backward(self, b: Array, record: Record) -> Array:
        """Return ``(b - (z·b) z)/‖x‖``."""
        z = record.output
        return (b - inner(z, b) * z) * record.inverse_norm

    def curvature(self, t: Array, b: Array, record: Record) -> Array:
        """Return ``k(t, b)`` as in the class's text."""
        z = record.output
        jt, jb = self.backward(t, record), self.backward(b, record)
        return -(inner(b, jt) * z + inner(z, t) * jb + inner(z, b) * jt) * record.inverse_norm


@dataclass(eq=False)
class TargetScores(Layer):
    """Inner products with fixed unit vectors, ``(N, m) -> (N, classes)``, ``s_j = z·t_j``. Linear, nothing to train.

    Parameters
    ----------
    classes : int
        Number of targets, at least 2.
    targets : {"regular", "standard"}
        See `simplex`.
    """

    classes: int
    targets: str = "regular"

    linear = True

    def __post_init__(self) -> None:
        self.classes = whole_number("classes", self.classes, 2)
        checked_targets(self.targets)

    def build(self, input_shape: Shape, builder: Builder) -> Shape:
        """Place the targets in the space of the inputs."""
        if len(input_shape) != 1:
            raise ValueError(f"needs flat features (m,), but its input has the shape {input_shape}")
        self.state = {"targets": simplex(self.classes, input_shape[0], self.targets).astype(builder.dtype)}
        return (self.classes,)

    def forward(self, x: Array, record: Record) -> Array:
        """Return ``x T^T``, where the rows of ``T`` are the targets."""
        return kernels.of(x).product(x, self.state["targets"].T)

    def backward(self, b: Array, record: Record) -> Array:
        """Return ``b T``."""
        return kernels.of(b).product(b, self.state["targets"])

    def third_pass(self, t: Array, record: Record) -> Array:
        """Return ``t T^T`` (Theorem 1)."""
        return self.forward(t, record)


@dataclass(eq=False)
class ScaleInvariantClassifier(Container):
    """The scale-invariant classification stage of paper 004, section 3: ``(N, D) -> (N, classes)``, scores ``z·t_j``.

    Parameters
    ----------
    classes : int
        Number of classes ``k``, at least 2.
    dimension : int, optional
        Number ``m`` of rows of ``A``, at least `classes` (for the regular simplex at least ``classes - 1``); `classes`
        by default.
    targets : {"regular", "standard"}
        Where the targets stand: on a regular simplex around the origin, or on the unit vectors. See `simplex`.

    Notes
    -----
    ``weight`` is ``A^T``, (D, m). Train it with `convnet.losses.ScaleInvariantCost`.
    """

    classes: int
    dimension: int | None = None
    targets: str = "regular"

    def __post_init__(self) -> None:
        scores = TargetScores(self.classes, self.targets)
        self.classes = scores.classes
        dimension = self.classes if self.dimension is None else self.dimension
        # Raises for a dimension that cannot hold the targets, here rather than when the network is made.
        simplex(self.classes, dimension, self.targets)
        self._stage = _Stage((RescaledDense(dimension), SphereProjection(), scores))

    def children(self) -> Iterator[tuple[str, Layer]]:
        """Yield the three parts as one chain, whose arrays carry this layer's own path."""
        yield "", self._stage

    def build(self, input_shape: Shape, builder: Builder) -> Shape:
        """Attach the parts."""
        return self._stage.attach(input_shape, builder)

    def forward(self, x: Array, walk) -> Array:
        """Walk the parts."""
        return walk(self._stage, x)

    # Down as up: the chain knows its direction.
    backward = forward
    third_pass = forward

    def entry(self) -> frozenset[Layer]:
        """Return the entries of the chain."""
        return self._stage.entry()

    def exit(self) -> frozenset[Layer]:
        """Return the exits of the chain."""
        return self._stage.exit()


class _Stage(Sequential):
    """A chain whose layers share the path of the chain: each of their arrays has another name."""

    def children(self) -> Iterator[tuple[str, Layer]]:
        for layer in self.layers:
            yield "", layer


def simplex(classes: int, dimension: int, kind: str = "regular") -> np.ndarray:
    """Return the vertices of a simplex with unit-norm vertices, one per row, (classes, dimension), float64.

    Parameters
    ----------
    classes : int
        Number of vertices ``k``, at least 2.
    dimension : int
        Dimension ``m`` of the space.
    kind : {"regular", "standard"}
        "regular": centred at the origin, ``t_i·t_j = -1/(k - 1)``; it spans ``k - 1`` dimensions, so ``m >= k - 1``
        holds it, and further dimensions (the paper takes ``m >= k``) are extra space in which ``z`` can move.
        "standard": the first ``k`` unit vectors, ``t_i·t_j = 0``; needs ``m >= k``.

    Raises
    ------
    ValueError
        If the dimension is too small, or `kind` is unknown.

    Notes
    -----
    Paper 004, section 3 and Eq. 1. Coordinates, with ``n = k - 1``: ``t_k = (1, ..., 1)/sqrt(n)`` and ``t_i
    = sqrt(1 + 1/n) e_i - (sqrt(n + 1) + 1)/n^{3/2} (1, ..., 1)``, padded with zeros. Any rotation would do as well.
    """
    classes = whole_number("classes", classes, 2)
    least = classes if checked_targets(kind) == "standard" else classes - 1
    dimension = whole_number("dimension", dimension, 1)
    if dimension < least:
        raise ValueError(f"dimension is {dimension}; {classes} targets of the {kind} simplex need at least {least}")
    vertices = np.zeros((classes, dimension))
    if kind == "standard":
        vertices[:, :classes] = np.eye(classes)
    else:
        n = classes - 1
        vertices[:n, :n] = math.sqrt(1 + 1 / n) * np.eye(n) - (math.sqrt(n + 1) + 1) / n**1.5
        vertices[n, :n] = 1 / math.sqrt(n)
    return vertices


def checked_targets(kind: str) -> str:
    """Return `kind`; raise ValueError unless it is "regular" or "standard"."""
    if kind not in ("regular", "standard"):
        raise ValueError(f"targets is {kind!r}; it must be 'regular' or 'standard'")
    return kind
