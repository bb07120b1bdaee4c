"""Batch normalisation: a normalisation without weights, then a scale and an offset for each channel.

Per channel, over the ``m`` values of the batch (samples, rows and columns): ``x̂ = (x - μ) / σ`` with ``σ² = var(x) + ε``, and
``y = w x̂ + c`` (paper 003, Eq. 20-23). In training mode the normalisation couples the samples, in every pass. With means
over the same ``m`` values,

``J v = (v - mean(v) - x̂ mean(x̂ v)) / σ``, a symmetric Jacobian (Theorem 2), and with
``q(t, b) = sum(b J t) σ = m (mean(b t) - mean(b) mean(t) - mean(b x̂) mean(t x̂))``,
``k(t, b) = -x̂ q(t, b) / (m σ²) - (mean(t x̂) J b + mean(b x̂) J t) / σ``.

At inference ``μ`` and ``σ`` are the running statistics: a fixed scale and offset, without curvature. A frozen layer
works as at inference, and its statistics stay.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from convnet import kernels
from convnet.layers.base import Array, Builder, Container, Layer, Record, Shape, real_number


@dataclass(eq=False)
class Normalize(Layer):
    """The normalisation ``x̂`` of batch normalisation; see `BatchNorm` for the options."""

    momentum: float
    epsilon: float

    symmetric_jacobian = True
    curved = True

    def build(self, input_shape: Shape, builder: Builder) -> Shape:
        """Start the running statistics at mean 0 and variance 1."""
        channels = input_shape[-1:]
        self.state = {
            "running_mean": builder.constant(channels, 0.0),
            "running_variance": builder.constant(channels, 1.0),
        }
        return input_shape

    def forward(self, x: Array, record: Record) -> Array:
        """Return ``(x - μ) / σ``; in training mode record the batch's statistics.

        Raises
        ------
        ValueError
            In training mode, if a channel has a single value: its variance says nothing.
        """
        k, xp = kernels.of(x), kernels.array_module(x)
        if not record.training or self.frozen:
            record.scale = 1 / xp.sqrt(self.state["running_variance"] + self.epsilon)
            record.normalized = None
            return k.row_affine(x, self.state["running_mean"], record.scale)
        if x.size == x.shape[-1]:
            raise ValueError("batch normalisation in training mode needs more than one value in each channel: this batch "
                             "has a single sample")
        count = x.size // x.shape[-1]
        mean = k.row_sum(x) / count
        variance = k.row_dot(x, x, mean) / count
        record.statistics = {"running_mean": mean, "running_variance": variance}
        record.scale = 1 / xp.sqrt(variance + self.epsilon)
        record.normalized = k.row_affine(x, mean, record.scale)
        return record.normalized

    def backward(self, b: Array, record: Record) -> Array:
        """Return ``(b - mean(b) - x̂ mean(x̂ b)) / σ``; at inference ``b / σ``."""
        if record.normalized is None:
            return b * record.scale
        k, x, count = kernels.of(b), record.normalized, b.size // b.shape[-1]
        return k.row_affine(b, k.row_sum(b) / count, record.scale, x, -record.scale * (k.row_dot(x, b) / count))

    def curvature(self, t: Array, b: Array, record: Record) -> Array | None:
        """Return ``k(t, b)`` as in the module's text; None at inference."""
        if record.normalized is None:
            return None
        k, count = kernels.of(b), b.size // b.shape[-1]
        x, scale = record.normalized, record.scale
        b_mean, t_mean = k.row_sum(b) / count, k.row_sum(t) / count
        t_x, b_x = k.row_dot(t, x) / count, k.row_dot(b, x) / count
        q = k.row_dot(b, t) / count - b_mean * t_mean - b_x * t_x
        # With J b and J t written out: multiples of b - mean(b), t - mean(t) and x.
        from_b = k.row_affine(b, b_mean, -t_x * scale**2, x, (2 * t_x * b_x - q) * scale**2)
        return k.row_affine(t, t_mean, -b_x * scale**2, from_b, kernels.array_module(b).ones_like(scale))

    def updated_state(self, record: Record) -> dict[str, Array]:
        """Return the running statistics after a batch: ``momentum · old + (1 - momentum) · batch`` (paper 003, Eq. 24-25)."""
        if self.frozen:
            return {}
        return {
            name: self.momentum * old + (1 - self.momentum) * record.statistics[name] for name, old in self.state.items()
        }


@dataclass(eq=False)
class Scale(Layer):
    """A scale and an offset for each channel, ``y = w x + c``: linear, with a diagonal Jacobian."""

    linear = True
    symmetric_jacobian = True
    decayed = ()

    def build(self, input_shape: Shape, builder: Builder) -> Shape:
        """Start at scale 1 and offset 0."""
        channels = input_shape[-1:]
        self.parameters = {"weight": builder.constant(channels, 1.0), "bias": builder.constant(channels, 0.0)}
        return input_shape

    def forward(self, x: Array, record: Record) -> Array:
        """Return ``w x + c``."""
        return kernels.of(x).row_affine(x, None, self.parameters["weight"], offset=self.parameters["bias"])

    def backward(self, b: Array, record: Record) -> Array:
        """Return ``w b``."""
        return kernels.of(b).row_affine(b, None, self.parameters["weight"])

    def weight_gradients(self, a: Array, b: Array, constant: float = 1.0) -> dict[str, Array]:
        """Return the sums of ``a b`` and of ``constant b`` over all but the channels."""
        k = kernels.of(b)
        return {"weight": k.row_dot(a, b), "bias": constant * k.row_sum(b)}


@dataclass(eq=False)
class BatchNorm(Container):
    """Batch normalisation over samples, rows and columns (Ioffe and Szegedy 2015; paper 003, section 2.4).

    Parameters
    ----------
    momentum : float
        Weight of the old running statistics in each update, in [0, 1).
    epsilon : float
        Added to the variance, above 0.

    Notes
    -----
    ``weight`` is the scale and ``bias`` the offset of each channel. The third pass multiplies the scale by the tangent of
    the normalised input, so the second weight gradient pairs that tangent with the derivative.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        self.momentum = real_number("momentum", self.momentum, 0.0, 1.0)
        self.epsilon = real_number("epsilon", self.epsilon, 0.0)
        if self.epsilon == 0:
            raise ValueError("epsilon is 0; it must be positive: a channel of one value would be divided by it")
        self._normalize, self._scale = Normalize(self.momentum, self.epsilon), Scale()

    def children(self) -> Iterator[tuple[str, Layer]]:
        """Yield the two parts; their arrays carry this layer's own path."""
        yield "", self._normalize
        yield "", self._scale

    def build(self, input_shape: Shape, builder: Builder) -> Shape:
        """Attach the normalisation and the scale."""
        for _, child in self.children():
            child.attach(input_shape, builder)
        return input_shape

    def forward(self, x: Array, walk) -> Array:
        """Normalise, then scale."""
        return walk(self._scale, walk(self._normalize, x))

    def backward(self, b: Array, walk) -> Array:
        """Go back through the scale, then the normalisation."""
        return walk(self._normalize, walk(self._scale, b))

    third_pass = forward

    def entry(self) -> frozenset[Layer]:
        """Return both parts: the scale is the first with parameters, and nothing below needs the derivative."""
        return frozenset((self._normalize, self._scale))

    def exit(self) -> frozenset[Layer]:
        """Return the scale: it is the last part and has parameters."""
        return frozenset((self._scale,))
