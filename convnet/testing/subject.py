"""A layer under test: built, with parameters that hide nothing, and its passes as plain functions."""
from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convnet.layers.base import Builder, Container, Layer, join
from convnet.passes.products import Term, weight_gradients
from convnet.passes.walk import FirstPass, Trace, first_pass, fourth_pass, second_pass, third_pass
from convnet.testing.numeric import relative, signed

Array = Any
DRAW = 20160229


def built(layer: Layer | Callable[[], Layer], input_shape: Sequence[int], dtype: str, seed: int) -> Layer:
    """Return a fresh instance of `layer` with random parameters of both signs, biases included.

    Raises
    ------
    TypeError
        If `layer` is neither a layer nor a function that makes one.
    ValueError
        If the layer belongs to a network already, or cannot take such inputs.
    """
    fresh = copy.deepcopy(layer) if isinstance(layer, Layer) else layer() if callable(layer) else layer
    if not isinstance(fresh, Layer):
        raise TypeError(f"layer must be a layer or a function that makes one, not {layer!r}")
    if fresh.input_shape is not None:
        raise ValueError(f"{fresh!r} already belongs to a network: pass a fresh layer")
    rng = np.random.default_rng(seed)
    fresh.attach(tuple(input_shape), Builder(rng, np.dtype(dtype)))
    for index, (_, leaf) in enumerate(fresh.leaves()):
        leaf.index = index
        for array in leaf.parameters.values():
            if (array == array.flat[0]).all():  # a bias of zero would hide a pass that wrongly adds it
                array += 0.2 * signed(rng, array.shape)
    return fresh


def settle_state(root: Layer, x: Array) -> float:
    """Let running statistics take in one batch, so that they are not what they start with; return no error."""
    records = first_pass(root, x, training=True, draw=DRAW).records
    for _, leaf in root.leaves():
        if leaf.state:
            leaf.state = {**leaf.state, **leaf.updated_state(records[leaf])}
    return 0.0


def constraint_error(root: Layer) -> float:
    """Apply the constraints on the parameters once, and return how much applying them again changes."""
    arrays = [array for _, leaf in root.leaves() for array in leaf.parameters.values()]
    for _, leaf in root.leaves():
        leaf.constrain()
    before = [array.copy() for array in arrays]
    for _, leaf in root.leaves():
        leaf.constrain()
    return max((relative(now, then) for now, then in zip(arrays, before, strict=True)), default=0.0)


@dataclass
class Subject:
    """A built layer in training or inference mode. All its first passes share one draw, as those of a batch do."""

    root: Layer
    training: bool

    @property
    def mode(self) -> str:
        """The mode by name."""
        return "training" if self.training else "inference"

    @property
    def linear(self) -> bool:
        """Whether the layer claims to be affine in its input."""
        return self.root.linear

    @property
    def curved(self) -> bool:
        """Whether the layer, or one inside it, claims a curvature."""
        return any(leaf.curved for _, leaf in self.root.leaves())

    @property
    def is_container(self) -> bool:
        """Whether the layer is made of layers."""
        return isinstance(self.root, Container)

    @property
    def parameters(self) -> dict[str, tuple[Layer, str]]:
        """Each parameter's path, with the layer that holds it and its name there."""
        return {join(path, name): (leaf, name) for path, leaf in self.root.leaves() for name in leaf.parameters}

    def first(self, x: Array, draw: int = DRAW) -> FirstPass:
        """Run a first pass."""
        return first_pass(self.root, x, training=self.training, draw=draw)

    def forward(self, x: Array) -> Array:
        """Return ``f(x)``."""
        return self.first(x).output

    def down(self, y: FirstPass, b: Array) -> Trace:
        """Run a second pass to the input."""
        return second_pass(y, b)

    def up(self, y: FirstPass, t: Array) -> Trace:
        """Run a third pass to the output."""
        return third_pass(y, t)

    def backward(self, y: FirstPass, b: Array) -> Array:
        """Return ``J^T b``."""
        return second_pass(y, b).output

    def third_pass(self, y: FirstPass, t: Array) -> Array:
        """Return ``J t``."""
        return third_pass(y, t).output

    def fourth(self, y: FirstPass, t: Array, b: Array) -> Trace:
        """Run a third, a second and, starting from zero, a fourth pass."""
        return self.fourth_of(y, self.up(y, t), self.down(y, b))

    def fourth_of(self, y: FirstPass, up: Trace, down: Trace) -> Trace:
        """Run a fourth pass that starts from zero."""
        return fourth_pass(y, None, [(up, down)], to_input=True)

    def curvature(self, y: FirstPass, t: Array, b: Array) -> Array:
        """Return ``d/dx [b^T J(x) t]``; zeros where the layer says there is none."""
        k = self.fourth(y, t, b).output
        return np.zeros_like(t) if k is None else k

    def weight_gradients(self, terms: list[Term]) -> dict[str, Array]:
        """Return the weight-gradient products by the path of their parameter; what is missing is zero.

        Raises
        ------
        ValueError
            If a product has a name or a shape that no parameter has.
        """
        paths = {leaf: path for path, leaf in self.root.leaves()}
        found = {path: np.zeros_like(leaf.parameters[name]) for path, (leaf, name) in self.parameters.items()}

        def write(leaf: Layer, parts: dict[str, Array], scale: float) -> None:
            for name, value in parts.items():
                path = join(paths[leaf], name)
                if path not in found:
                    raise ValueError(f"weight_gradients returns {name!r}; the parameters are {list(leaf.parameters)}")
                if value.shape != found[path].shape:
                    raise ValueError(f"{path} has the shape {found[path].shape}, its gradient {value.shape}")
                found[path] = found[path] + scale * value

        weight_gradients(terms, write)
        return found

    def moved(self, path: str, direction: Array, f: Callable[[], Array]) -> Callable[[float], Array]:
        """Return the function ``h -> f`` evaluated with ``parameter + h · direction``; the parameter is put back."""
        leaf, name = self.parameters[path]
        array = leaf.parameters[name]

        def at(h: float) -> Array:
            before = array.copy()
            array[...] = before + h * direction
            try:
                return f()
            finally:
                array[...] = before

        return at
