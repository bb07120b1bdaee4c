"""Features of several branches side by side: ``f(x) = (f_1(x), ..., f_m(x))``.

The branches read the same input, so on the way up every pass concatenates what they give, and on the way down every
branch receives its own part of the derivative and the results are added.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from convnet import kernels
from convnet.layers.base import Array, Builder, Container, Layer, Shape
from convnet.layers.containers import added, checked_layers


@dataclass(eq=False)
class Concatenate(Container):
    """Branches with flat outputs, concatenated: ``(N, ...) -> (N, D_1 + ... + D_m)``.

    Parameters
    ----------
    branches : sequence of Layer
        Layers that take the same input; use `Sequential` for chains. ``Sequential([])`` passes a flat input on.

    Notes
    -----
    The arrays of branch ``i`` are named ``"i.<array>"`` inside this layer, those of a chain ``"i.<layer>.<array>"``.
    """

    branches: Sequence[Layer]

    def __post_init__(self) -> None:
        self.branches = checked_layers("branches", self.branches)
        if not self.branches:
            raise ValueError("branches is empty: there is nothing to concatenate")

    def children(self) -> Iterator[tuple[str, Layer]]:
        """Yield the branches, named by their position."""
        for position, branch in enumerate(self.branches):
            yield str(position), branch

    def build(self, input_shape: Shape, builder: Builder) -> Shape:
        """Attach the branches and place their outputs side by side."""
        widths = []
        for name, branch in self.children():
            shape = branch.attach(input_shape, builder, name)
            if len(shape) != 1:
                raise ValueError(f"branch {name} gives {shape}; it must give flat features (D,): end it with Flatten()")
            widths += shape
        self._parts = [slice(*ends) for ends in pairwise(accumulate(widths, initial=0))]
        return (sum(widths),)

    def forward(self, x: Array, walk) -> Array | None:
        """Concatenate what the branches give; None where a branch stopped because nobody needs the result."""
        outputs = [walk(branch, x) for branch in self.branches]
        if any(output is None for output in outputs):
            return None
        return kernels.array_module(outputs[0]).concatenate(outputs, axis=1)

    third_pass = forward

    def backward(self, b: Array | None, walk) -> Array | None:
        """Hand each branch its part of `b` and add what comes back."""
        total = None
        for branch, part in zip(self.branches, self._parts, strict=True):
            total = added(total, walk(branch, None if b is None else b[:, part]))
        return total

    def entry(self) -> frozenset[Layer]:
        """Return the entries of all branches."""
        return frozenset[Layer]().union(*(branch.entry() for branch in self.branches))

    def exit(self) -> frozenset[Layer]:
        """Return the exits of all branches."""
        return frozenset[Layer]().union(*(branch.exit() for branch in self.branches))
