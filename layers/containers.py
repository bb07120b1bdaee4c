"""Layers made of layers: a chain, and a residual block.

Sequential: ``f = f_m ∘ ... ∘ f_1``. Residual: ``f = body + shortcut``. In every pass a chain walks its layers up or down,
and a residual block adds what its two branches give.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from convnet import kernels
from convnet.layers.base import Array, Builder, Container, Layer, Shape, join
from convnet.layers.block import with_blocks

Walk = Callable[[Layer, Array], Array]


def checked_layers(name: str, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return `layers` as a tuple; raise TypeError if one of them is not a layer, or equal to another by its options."""
    if isinstance(layers, (Layer, str)) or not isinstance(layers, Sequence):
        raise TypeError(f"{name} must be a list of layers, not {layers!r}")
    for layer in layers:
        if not isinstance(layer, Layer):
            raise TypeError(f"{name} holds {layer!r}, which is not a layer (a class instead of an instance?)")
        if type(layer).__hash__ is None:
            raise TypeError(f"{name} holds {layer!r}, whose class compares options: write @dataclass(eq=False) above it, "
                            "so that each layer is itself")
    return tuple(layers)


@dataclass(eq=False)
class Sequential(Container):
    """A chain of layers, each fed by the one before it.

    Parameters
    ----------
    layers : sequence of Layer
    """

    layers: Sequence[Layer]

    def __post_init__(self) -> None:
        self.layers = checked_layers("layers", self.layers)

    def children(self) -> Iterator[tuple[str, Layer]]:
        """Yield the layers, named by their position."""
        for position, layer in enumerate(self.layers):
            yield str(position), layer

    def build(self, input_shape: Shape, builder: Builder) -> Shape:
        """Attach the layers one after the other."""
        return self._build(input_shape, builder, "")

    def attach(self, input_shape: Shape, builder: Builder, path: str = "") -> Shape:
        """Build the chain; errors name the layer in it."""
        self.output_shape = self._build(tuple(input_shape), builder, path)
        self.input_shape = tuple(input_shape)
        return self.output_shape

    def _build(self, shape: Shape, builder: Builder, path: str) -> Shape:
        for name, layer in self.children():
            shape = layer.attach(shape, builder, join(path, name))
        return shape

    @cached_property
    def plan(self) -> tuple[Layer, ...]:
        """The layers as they are walked: those in a row that can be computed together as one block."""
        return with_blocks(self.layers)

    def forward(self, x: Array, walk: Any) -> Array:
        """Go up the chain."""
        for layer in self.plan:
            x = walk(layer, x)
        return x

    def backward(self, b: Array, walk: Any) -> Array:
        """Go down the chain."""
        for layer in reversed(self.plan):
            b = walk(layer, b)
        return b

    third_pass = forward

    def entry(self) -> frozenset[Layer]:
        """Return the entries of the layers up to the first trainable one."""
        found: frozenset[Layer] = frozenset()
        for layer in self.layers:
            found |= layer.entry()
            if layer.trainable:
                break
        return found

    def exit(self) -> frozenset[Layer]:
        """Return the exits of the layers from the last trainable one on."""
        found: frozenset[Layer] = frozenset()
        for layer in reversed(self.layers):
            found |= layer.exit()
            if layer.trainable:
                break
        return found


@dataclass(eq=False)
class Residual(Container):
    """A residual block: ``y = body(x) + shortcut(x)`` (He et al. 2016).

    ``J = J_body + J_shortcut``, so every pass adds what it brings through the two branches.

    Parameters
    ----------
    body : sequence of Layer
    shortcut : sequence of Layer, optional
        A projection to the body's output shape; the identity by default.
    """

    body: Sequence[Layer]
    shortcut: Sequence[Layer] | None = None

    def __post_init__(self) -> None:
        self.body = checked_layers("body", self.body)
        if self.shortcut is not None:
            self.shortcut = checked_layers("shortcut", self.shortcut)
        self._body = Sequential(self.body)
        self._shortcut = None if self.shortcut is None else Sequential(self.shortcut)

    def children(self) -> Iterator[tuple[str, Layer]]:
        """Yield the body and, if there is one, the projection."""
        yield "body", self._body
        if self._shortcut is not None:
            yield "shortcut", self._shortcut

    def build(self, input_shape: Shape, builder: Builder) -> Shape:
        """Attach both branches and check that their shapes agree."""
        shapes = {name: child.attach(input_shape, builder, join(self.path, name)) for name, child in self.children()}
        given = shapes.get("shortcut", input_shape)
        if shapes["body"] != given:
            source = "the projection gives" if "shortcut" in shapes else "the identity shortcut gives"
            raise ValueError(f"the body gives {shapes['body']}, but {source} {given}: pass a shortcut that matches")
        return given

    def forward(self, x: Array, walk: Any) -> Array:
        """Add the two branches."""
        return added(walk(self._body, x), x if self._shortcut is None else walk(self._shortcut, x))

    # Down as up: only the direction inside the branches differs, and the walk knows it.
    backward = forward
    third_pass = forward

    def entry(self) -> frozenset[Layer]:
        """Return the entries of both branches."""
        return frozenset[Layer]().union(*(child.entry() for _, child in self.children()))

    def exit(self) -> frozenset[Layer]:
        """Return the exits of both branches."""
        return frozenset[Layer]().union(*(child.exit() for _, child in self.children()))


def added(a: Array | None, b: Array | None) -> Array | None:
    """Return ``a + b``, where None stands for zero."""
    if a is None or b is None:
        return b if a is None else a
    return kernels.of(a).combination([(1.0, a), (1.0, b)])
