"""The four passes over a network.

A network is ``y_i = f_i(y_{i-1}; w_i)``, ``i = 1..K``, with ``y_0 = x``; ``J_i`` is the Jacobian of ``f_i`` in its input.

=======  =============================================  =========  ==================================================
pass     recursion                                      direction  function
=======  =============================================  =========  ==================================================
first    ``y_i = f_i(y_{i-1})``                         up         `first_pass`
second   ``b_{i-1} = J_i^T b_i``                        down       `second_pass`
third    ``t_i = J_i t_{i-1}``, no biases               up         `third_pass`
fourth   ``s_{i-1} = J_i^T s_i + k_i(t_{i-1}, b_i)``    down       `fourth_pass`
=======  =============================================  =========  ==================================================

Each returns a `Trace`: what the pass brought to the end of the network, and what reached each layer on the way. All
passes of a batch read the records of its first pass and write none, so any pass can be run again, with the same result.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from convnet.layers.base import Container, Layer, Record
from convnet.layers.containers import added

Array = Any
NOWHERE: frozenset[Layer] = frozenset()


@dataclass(eq=False)
class Trace:
    """What one pass left behind.

    Attributes
    ----------
    output : array or None
        What arrived at the end of the pass; None if the pass stopped before because nobody asked for it, or if it is zero.
    factors : dict of Layer to array
        What reached each layer that has weights or curvature: its input on the way up, the derivative in its output on
        the way down. These are the factors of the weight gradients.
    constant : float
        The constant input 1 of all biases as this pass carries it: 1 on the first pass, 0 on all others.
    """

    output: Array | None = None
    factors: dict[Layer, Array] = field(default_factory=dict)
    constant: float = 0.0


@dataclass(eq=False)
class FirstPass(Trace):
    """The trace of a first pass, with the records that the other passes over the batch read."""

    root: Layer = field(default_factory=Layer)
    records: dict[Layer, Record] = field(default_factory=dict)


class Walk:
    """A pass under way, as the containers see it: ``walk(layer, x)`` takes `x` through an inner layer.

    Parameters
    ----------
    method : {"forward", "backward", "third_pass"}
        The method of containers that belongs to this pass.
    visit : callable
        What the pass does at a layer that computes.
    record : callable
        Gives a layer's record: a fresh one on the first pass, that one on the others.
    trace : Trace
    ends : frozenset of Layer
        The layers that the pass need not cross.

    Notes
    -----
    A container that computes several layers in one go uses `record`, `note` and `ends` to leave behind what they would have.
    """

    def __init__(
        self, method: str, visit: Callable[[Layer, Array], Array], record: Callable[[Layer], Record], trace: Trace,
        ends: frozenset[Layer] = NOWHERE,
    ):
        self._method, self._visit, self.record, self._trace, self.ends = method, visit, record, trace, ends

    def __call__(self, layer: Layer, x: Array | None) -> Array | None:
        if isinstance(layer, Container):
            return getattr(layer, self._method)(x, self)
        return self._visit(layer, x)

    def note(self, layer: Layer, x: Array) -> None:
        """Keep `x` as what reached `layer`, if it has weights."""
        if layer.trainable:
            self._trace.factors[layer] = x


def first_pass(root: Layer, x: Array, *, training: bool = False, draw: int | None = None) -> FirstPass:
    """Take the batch `x` forward through `root` and record what the other passes need.

    Parameters
    ----------
    root : Layer
        A built layer; any container.
    x : array, (N, ...)
    training : bool
        Whether dropout drops and batch normalisation uses the batch's statistics.
    draw : int, optional
        What determines all randomness of the batch: the same draw gives the same dropout masks.

    Raises
    ------
    ValueError
        If the shape of `x` is not the one the layer was built for.
    """
    check_shape("x", x, root.input_shape)
    first = FirstPass(root=root, constant=1.0)

    def new_record(layer: Layer) -> Record:
        record = first.records[layer] = Record(training, True, draw, layer.index)
        return record

    def visit(layer: Layer, x: Array) -> Array:
        if layer.trainable:
            first.factors[layer] = x
        return layer.forward(x, new_record(layer))

    first.output = Walk("forward", visit, new_record, first)(root, x)
    return first


def inference(root: Layer, x: Array) -> Array:
    """Return ``f(x)`` in inference mode, keeping nothing."""
    check_shape("x", x, root.input_shape)

    def new_record(layer: Layer) -> Record:
        return Record(False, False)

    return Walk("forward", lambda layer, x: layer.forward(x, new_record(layer)), new_record, Trace())(root, x)


def second_pass(first: FirstPass, b: Array, *, to_input: bool = True) -> Trace:
    """Take the derivative `b` in the output backward: ``b_{i-1} = J_i^T b_i``.

    Parameters
    ----------
    first : FirstPass
    b : array
        Shape of the output.
    to_input : bool
        False to stop at the first layer with weights: the derivative in the input is then not computed.
    """
    return _down(first, b, (), to_input)


def third_pass(first: FirstPass, t: Array, *, to_output: bool = True) -> Trace:
    """Take the tangent `t` in the input up through the linearised network: ``t_i = J_i t_{i-1}``, without biases.

    Parameters
    ----------
    first : FirstPass
    t : array
        Shape of the input.
    to_output : bool
        False to stop at the last layer with weights: the tangent of the output is then not computed.

    Notes
    -----
    Papers 001/002, Algorithm 1, step 2.
    """
    check_shape("t", t, first.root.input_shape)
    trace = Trace()
    exits = NOWHERE if to_output else first.root.exit()

    def visit(layer: Layer, t: Array | None) -> Array | None:
        if t is None:
            return None
        if layer.trainable or layer.curved:
            trace.factors[layer] = t
        return None if layer in exits else layer.third_pass(t, first.records[layer])

    output = Walk("third_pass", visit, first.records.__getitem__, trace, exits)(first.root, t)
    trace.output = output if to_output else None
    return trace


def fourth_pass(
    first: FirstPass, s: Array | None, pairs: Iterable[tuple[Trace, Trace]], *, to_input: bool = False
) -> Trace:
    """Take `s` down, adding the curvature of each layer: ``s_{i-1} = J_i^T s_i + sum k_i(t_{i-1}, b_i)``.

    Parameters
    ----------
    first : FirstPass
    s : array or None
        What starts at the output; None for zero.
    pairs : iterable of (Trace, Trace)
        Traces ``(t, b)`` of a third and a second pass; the curvature of every pair is added.
    to_input : bool
        Whether the result at the input is wanted.
    """
    return _down(first, s, tuple(pairs), to_input)


def _down(first: FirstPass, b: Array | None, pairs: tuple[tuple[Trace, Trace], ...], to_input: bool) -> Trace:
    if b is not None:
        check_shape("b", b, first.root.output_shape)
    trace = Trace()
    entries = NOWHERE if to_input else first.root.entry()

    def visit(layer: Layer, b: Array | None) -> Array | None:
        if b is not None and (layer.trainable or layer.curved):
            trace.factors[layer] = b
        if layer in entries:
            return None
        below = None if b is None else layer.backward(b, first.records[layer])
        if layer.curved:
            for t, b_out in pairs:
                if layer in t.factors and layer in b_out.factors:
                    k = layer.curvature(t.factors[layer], b_out.factors[layer], first.records[layer])
                    below = added(below, k)
        return below

    output = Walk("backward", visit, first.records.__getitem__, trace, entries)(first.root, b)
    trace.output = output if to_input else None
    return trace


def check_shape(name: str, x: Array, shape: tuple[int, ...] | None) -> None:
    """Raise ValueError unless `x` holds one or more samples of `shape`."""
    if shape is None:
        raise ValueError("the layer has not been built: put it into a Network, or call its attach method")
    if x.ndim != len(shape) + 1 or x.shape[1:] != tuple(shape) or len(x) == 0:
        raise ValueError(f"{name} has the shape {x.shape}; it must be (N, {', '.join(map(str, shape))}) with N at least 1")
