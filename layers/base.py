"""What every layer is: a configuration, parameters, and the methods that take part in the passes.

Axis letters, everywhere: ``N`` samples, ``H, W`` image rows and columns, ``C`` channels, ``F`` filters, ``D`` features.
Images are channels-last, ``(N, H, W, C)``; flat features are ``(N, D)``.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from convnet.kernels.reference import random_bits

Array = Any  # numpy.ndarray or cupy.ndarray
Shape = tuple[int, ...]
IntOrPair = Any  # an int or a pair of ints as given; a pair once checked

NOTHING: Mapping[str, Array] = MappingProxyType({})


class Record:
    """What one layer keeps of one batch.

    The first pass makes a fresh record for each layer, the layer's ``forward`` stores there what its other methods will
    need (a mask, positions, statistics), and every later pass over the batch reads it. Nothing is drawn or derived twice.

    Attributes
    ----------
    training : bool
        Whether dropout drops and batch normalisation uses the batch's own statistics.
    kept : bool
        False when no later pass will follow (inference), so that what only they need is not computed.
    """

    def __init__(self, training: bool, kept: bool, draw: int | None = None, stream: int = 0):
        self.training = training
        self.kept = kept
        self._draw, self._stream = draw, stream

    def random_key(self) -> tuple[int, int]:
        """Return what determines the layer's random numbers: the batch's draw, and a number of the layer's own."""
        if self._draw is None:
            raise ValueError("a layer that draws at random needs a draw: pass draw=<int> to the first pass")
        return self._draw, self._stream

    def random_bits(self, count: int) -> np.ndarray:
        """Return `count` uniformly random uint32, the same ones for the same batch draw and layer."""
        return random_bits(*self.random_key(), count)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"this record holds no {name!r}: run the first pass (forward) before the others")


class Builder:
    """Makes a layer's initial parameters: the generator, the number type and the rule are the network's.

    Parameters
    ----------
    rng : numpy.random.Generator
    dtype : numpy.dtype
        A real floating type; complex parameters have the complex type of the same precision.
    rule : {"he", "glorot", "authors"}
        "he": normal with variance ``2 / fan_in`` (He et al. 2015). "glorot": uniform with variance
        ``2 / (fan_in + fan_out)`` (Glorot and Bengio 2010). "authors": uniform on
        ``±sqrt(2 / fan_in) / 2``, what the toolbox of papers 000-002 draws.
    """

    RULES = ("he", "glorot", "authors")

    def __init__(self, rng: np.random.Generator, dtype: np.dtype, rule: str = "he"):
        if rule not in self.RULES:
            raise ValueError(f"initialization is {rule!r}; it must be one of {', '.join(self.RULES)}")
        self.rng, self.dtype, self.rule = rng, np.dtype(dtype), rule

    def weight(self, shape: Shape, fan_in: int, fan_out: int) -> np.ndarray:
        """Return a weight array drawn by the rule, for units with `fan_in` inputs and `fan_out` outputs."""
        if self.rule == "he":
            values = self.rng.standard_normal(shape) * np.sqrt(2 / fan_in)
        elif self.rule == "glorot":
            values = self.rng.uniform(-1, 1, shape) * np.sqrt(6 / (fan_in + fan_out))
        else:
            values = self.rng.uniform(-0.5, 0.5, shape) * np.sqrt(2 / fan_in)
        return values.astype(self.dtype)

    def complex_weight(self, shape: Shape, fan_in: int, fan_out: int) -> np.ndarray:
        """Return a complex weight array: ``E|w|²`` is the rule's variance, shared evenly by real and imaginary part."""
        real, imaginary = self.weight(shape, fan_in, fan_out), self.weight(shape, fan_in, fan_out)
        return (real + 1j * imaginary) * self.dtype.type(np.sqrt(0.5))

    def constant(self, shape: Shape, value: float) -> np.ndarray:
        """Return an array of one value."""
        return np.full(shape, value, self.dtype)


class Layer:
    """Base class of all layers: ``y = f(x; w)``, with Jacobian ``J`` in ``x``.

    A subclass is a dataclass of its options and defines ``build``, ``forward`` and ``backward``; ``third_pass`` is given
    when `symmetric_jacobian` is declared; ``weight_gradients`` is needed when there are parameters, and ``curvature``
    when ``J`` depends smoothly on ``x``. A layer holds options and parameters only: everything about a batch goes
    into the `Record` that each method receives. No method changes its arguments.

    Attributes
    ----------
    linear : bool
        ``f`` is affine in ``x``: ``third_pass(t) = forward(t) - forward(0)`` (Theorem 1).
    symmetric_jacobian : bool
        ``J = J^T``, so that the third pass is the backward method (Theorem 2).
    curved : bool
        The layer defines a non-zero ``curvature``.
    parameters : mapping of str to array
        The trainable arrays, by name. Empty until the layer is built.
    state : mapping of str to array
        Arrays that are saved with the layer but not trained (running statistics, fixed targets).
    frozen : bool
        Whether the layer is left as it is: no pass computes anything for its parameters. Set by `Network.freeze`.
    learning_rate_coefficient, bias_coefficient : float
        What the learning rate is multiplied by for all parameters, and once more for the bias. Set by
        `Network.set_coefficients`.
    decayed : tuple of str
        Names of the parameters to which weight decay applies.
    """

    linear: ClassVar[bool] = False
    symmetric_jacobian: ClassVar[bool] = False
    curved: ClassVar[bool] = False
    decayed: ClassVar[tuple[str, ...]] = ("weight",)
    # The layers that turn logits into the network's output when they stand last.
    readout: ClassVar[bool] = False

    parameters: Mapping[str, Array] = NOTHING
    state: Mapping[str, Array] = NOTHING
    input_shape: Shape | None = None
    output_shape: Shape
    path: str = ""
    index: int = -1
    frozen: bool = False
    learning_rate_coefficient: float = 1.0
    bias_coefficient: float = 1.0

    # --- construction -------------------------------------------------------------------------------------------------

    def attach(self, input_shape: Shape, builder: Builder, path: str = "") -> Shape:
        """Build the layer for inputs of `input_shape` (without the sample axis) and return the output's shape.

        Raises
        ------
        ValueError
            If the layer already belongs to a network, or cannot take such inputs.
        """
        if self.input_shape is not None:
            raise ValueError(f"{self!r} already belongs to a network: make a new layer for each place")
        self.path = path
        try:
            self.output_shape = self.build(tuple(input_shape), builder)
        except ValueError as error:
            # An inner layer's error names its place already.
            named = error if str(error).startswith("layer ") else f"layer {path or '(root)'}, {self!r}: {error}"
            raise ValueError(str(named)) from None
        self.input_shape = tuple(input_shape)
        return self.output_shape

    def build(self, input_shape: Shape, builder: Builder) -> Shape:
        """Create the parameters for inputs of `input_shape` and return the output's shape."""
        return input_shape

    def options(self) -> dict[str, Any]:
        """Return the options that make an equal layer, as JSON can hold them."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    # --- the passes ---------------------------------------------------------------------------------------------------

    def forward(self, x: Array, record: Record) -> Array:
        """First pass: return ``y = f(x; w)`` and note in `record` what the other passes need."""
        raise TypeError(f"{type(self).__name__} defines no forward method")

    def backward(self, b: Array, record: Record) -> Array:
        """Second pass: return ``J^T b`` for a derivative `b` with the shape of the output."""
        raise TypeError(f"{type(self).__name__} defines no backward method")

    def third_pass(self, t: Array, record: Record) -> Array:
        """Third pass: return ``J t`` for a tangent `t` with the shape of the input.

        For a symmetric Jacobian this is the backward method (papers 001/002, Theorem 2).
        """
        if self.symmetric_jacobian:
            return self.backward(t, record)
        raise TypeError(f"{type(self).__name__} has no symmetric Jacobian and defines no third_pass method")

    def curvature(self, t: Array, b: Array, record: Record) -> Array | None:
        """Fourth pass: return ``k(t, b) = d/dx [b^T J(x) t]``, or None where it is zero.

        The fourth pass is ``s_in = J^T s_out + k(t, b)`` with the third pass's `t` (shape of the input) and the second
        pass's `b` (shape of the output). Zero for linear and piecewise-linear layers.
        """
        return None

    def weight_gradients(self, a: Array, b: Array, constant: float = 1.0) -> dict[str, Array]:
        """Return ``G(a, b)``, the sum over samples of the products of `a` (travelled up) and `b` (travelled down).

        ``G`` is bilinear. A bias multiplies a constant input 1 whose tangent is 0: `constant` is that input as `a`
        carries it, 1 for the first pass, 0 for the third.
        """
        return {}

    # --- between the batches ------------------------------------------------------------------------------------------

    def constrain(self) -> None:
        """Change the parameters in place so that they meet the layer's constraint; by default there is none.

        Called when the network is made and after every step; twice in a row does what once does.
        """

    def updated_state(self, record: Record) -> dict[str, Array]:
        """Return what has changed of `state` after the batch of `record`; by default nothing does."""
        return {}

    # --- structure ----------------------------------------------------------------------------------------------------

    def leaves(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """Yield (path, layer) of the layers that compute, in the order of the first pass."""
        yield path, self

    def entry(self) -> frozenset[Layer]:
        """Return the layers that a backward pass need not cross when nobody asks for the input's derivative."""
        return frozenset((self,))

    def exit(self) -> frozenset[Layer]:
        """Return the layers that a third pass need not cross when nobody asks for the output's tangent."""
        return frozenset((self,))

    @property
    def trainable(self) -> bool:
        """Whether the layer has parameters that a step changes."""
        return bool(self.parameters) and not self.frozen


class Container(Layer):
    """A layer made of layers.

    Its four methods are written once for all passes: in place of a record they receive `walk`, and ``walk(layer, x)``
    takes `x` through an inner layer in the pass that is under way. ``None`` stands for a zero, or for an array that
    nobody needs.
    """

    def children(self) -> Iterator[tuple[str, Layer]]:
        """Yield (name, layer) of the inner layers; an empty name adds nothing to the path."""
        raise TypeError(f"{type(self).__name__} defines no children")

    def leaves(self, path: str = "") -> Iterator[tuple[str, Layer]]:
        """Yield (path, layer) of the layers that compute, in the order of the first pass."""
        for name, child in self.children():
            yield from child.leaves(join(path, name))

    @property
    def trainable(self) -> bool:
        """Whether any inner layer has parameters that a step changes."""
        return any(child.trainable for _, child in self.children())


def join(path: str, name: str) -> str:
    """Return the path of an inner layer: "12" and "body" give "12.body"."""
    return ".".join(part for part in (path, name) if part)


def pair(name: str, value: IntOrPair, least: int) -> tuple[int, int]:
    """Return `value` as a pair of ints that are at least `least`.

    Raises
    ------
    ValueError
        If `value` is neither an int nor a pair of ints, or too small.
    """
    values = (value, value) if np.ndim(value) == 0 else tuple(value)
    whole = len(values) == 2 and all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in values)
    if not whole or min(values) < least:
        raise ValueError(f"{name} is {value!r}; it must be an int or a pair of ints, each at least {least}")
    return int(values[0]), int(values[1])


def whole_number(name: str, value: int, least: int) -> int:
    """Return `value` as an int that is at least `least`, or raise ValueError."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be an int, at least {least}")
    return int(value)


def real_number(name: str, value: float, low: float, high: float = np.inf, *, open_high: bool = True) -> float:
    """Return `value` as a float in [low, high), or in [low, high] unless `open_high`; otherwise raise ValueError."""
    try:
        number = np.nan if isinstance(value, (str, bool)) else float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not (low <= number < high or (number == high and not open_high and np.isfinite(high))):
        bound = f"at least {low}" if high == np.inf else f"in [{low}, {high}{')' if open_high else ']'}"
        raise ValueError(f"{name} is {value!r}; it must be a number {bound}")
    return number


def flag(name: str, value: bool) -> bool:
    """Return `value` if it is True or False; otherwise raise ValueError."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} is {value!r}; it must be True or False")
    return bool(value)


def image_shape(input_shape: Shape) -> tuple[int, int, int]:
    """Return (H, W, C), or raise ValueError if the input is not an image."""
    if len(input_shape) != 3:
        raise ValueError(f"needs images (H, W, C), but its input has the shape {input_shape}")
    return input_shape  # type: ignore[return-value]
