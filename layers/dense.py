"""Fully connected layer: ``y = x w + c``.

Linear: the third pass is the forward pass without the bias, ``t_out = t w``, and one product serves all weight gradients,
``G(a, b) = a^T b`` (papers 001/002, Theorem 1).
"""
from __future__ import annotations

from dataclasses import dataclass

from convnet import kernels
from convnet.layers.base import Array, Builder, Layer, Record, Shape, flag, whole_number


@dataclass(eq=False)
class Dense(Layer):
    """Fully connected layer on flat features, ``(N, D) -> (N, units)``.

    Parameters
    ----------
    units : int
        Number of outputs.
    bias : bool
        Whether a constant is added to each output.

    Notes
    -----
    ``weight`` has the shape (D, units), ``bias`` (units,).
    """

    units: int
    bias: bool = True

    linear = True

    def __post_init__(self) -> None:
        self.units = whole_number("units", self.units, 1)
        self.bias = flag("bias", self.bias)

    def build(self, input_shape: Shape, builder: Builder) -> Shape:
        """Make the weight matrix and the bias."""
        if len(input_shape) != 1:
            raise ValueError(f"needs flat features (D,), but its input has the shape {input_shape}: put Flatten() first")
        (inputs,) = input_shape
        self.parameters = {"weight": builder.weight((inputs, self.units), inputs, self.units)}
        if self.bias:
            self.parameters["bias"] = builder.constant((self.units,), 0.0)
        return (self.units,)

    def forward(self, x: Array, record: Record) -> Array:
        """Return ``x w + c``."""
        return kernels.of(x).dense(x, self.parameters["weight"], self.parameters.get("bias"))

    def backward(self, b: Array, record: Record) -> Array:
        """Return ``b w^T``."""
        return kernels.of(b).product(b, self.parameters["weight"].T)

    def third_pass(self, t: Array, record: Record) -> Array:
        """Return ``t w``: the forward pass without the bias."""
        return kernels.of(t).dense(t, self.parameters["weight"], None)

    def weight_gradients(self, a: Array, b: Array, constant: float = 1.0) -> dict[str, Array]:
        """Return ``a^T b`` and, for the bias, `constant` times the sum of `b`."""
        k = kernels.of(b)
        if not (self.bias and constant):
            return {"weight": k.product(a.T, b)}
        gradient, total = k.dense_gradients(a, b)
        return {"weight": gradient, "bias": total if constant == 1 else constant * total}
