"""What every pass of a layer owes its callers.

Results that repeat, arguments left alone, any memory layout, both precisions.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from convnet.layers.base import Layer
from convnet.passes.walk import FirstPass
from convnet.testing.numeric import difference, relative, signed
from convnet.testing.report import IDENTITY, SINGLE, Report
from convnet.testing.subject import Subject, built

Array = Any
# What a method gives, by part (parameters by path; "" for passes); or what it raised.
Result = dict[str, Array] | Exception


def results(subject: Subject, x: Array, t: Array, b: Array, y: FirstPass | None = None) -> dict[str, Result]:
    """Return what each method gives for the first pass `y`, or for a new one; after a failed first pass, that alone."""
    try:
        y = subject.first(x) if y is None else y
    except Exception as problem:
        return {"forward": problem}
    calls: dict[str, Callable[[], dict[str, Array]]] = {
        "forward": lambda: {"": y.output},
        "backward": lambda: {"": subject.backward(y, b)},
        "third_pass": lambda: {"": subject.third_pass(y, t)},
        "curvature": lambda: {"": subject.curvature(y, t, b)},
        "weight_gradients": lambda: subject.weight_gradients(
            [(y, subject.down(y, b), 1.0), (subject.up(y, t), subject.down(y, b), 1.0)]
        ),
    }
    found: dict[str, Result] = {}
    for method, call in calls.items():
        try:
            found[method] = call()
        except Exception as problem:
            found[method] = problem
    return found


def check_contracts(report: Report, subject: Subject, x: Array, other: Array, t: Array, b: Array) -> None:
    """Add the checks of repeatability and of memory layout, method by method."""
    y = subject.first(x)
    fresh = {method: result if isinstance(result, Exception) else {part: array.copy() for part, array in result.items()}
             for method, result in results(subject, x, t, b, y).items()}

    def compare(name: str, found: dict[str, Result], tolerance: float = 0.0) -> None:
        _compare(report, subject.mode, name, fresh, found, tolerance)

    compare("a pass run twice gives the same", results(subject, x, t, b, y))
    mine = subject.first(x)
    results(subject, other, other, b)
    compare("two batches in flight do not disturb each other", results(subject, x, t, b, mine))
    kept = results(subject, x, t, b)
    results(subject, other, other, -b)
    compare("a result stays as it is while another batch is computed", kept)
    compare("an array with gaps is accepted", results(subject, *map(with_gaps, (x, t, b))), IDENTITY)
    compare("a column-major array is accepted", results(subject, *map(np.asfortranarray, (x, t, b))), IDENTITY)


def check_untouched(report: Report, subject: Subject, x: Array, t: Array, b: Array) -> None:
    """Add a check for each method that it changes neither its arguments nor the layer."""
    for method, touched in _touched(subject, x, t, b).items():
        report.add(method, "arguments, parameters and statistics are left as they are", touched, 0.0, subject.mode)


def _touched(subject: Subject, x: Array, t: Array, b: Array) -> dict[str, Callable[[], float]]:
    """Return, by method, functions that say how much the method changes what is not its own."""

    def change(call: Callable[[], Any], arguments: list[Array]) -> float:
        leaves = [leaf for _, leaf in subject.root.leaves()]
        held = [array for leaf in leaves for array in (*leaf.parameters.values(), *leaf.state.values())]
        watched = [*arguments, *held]
        before = [array.copy() for array in watched]
        call()
        error = max((difference(now, then) for now, then in zip(watched, before, strict=True)), default=0.0)
        for array, value in zip(watched, before, strict=True):
            array[...] = value
        return error

    def forward() -> float:
        return change(lambda: subject.first(x), [x])

    def backward() -> float:
        y = subject.first(x)
        return change(lambda: subject.backward(y, b), [b])

    def third_pass() -> float:
        y = subject.first(x)
        return change(lambda: subject.third_pass(y, t), [t])

    def curvature() -> float:
        y = subject.first(x)
        up, down = subject.up(y, t), subject.down(y, b)
        return change(lambda: subject.fourth_of(y, up, down), [*up.factors.values(), *down.factors.values()])

    def weight_gradients() -> float:
        y = subject.first(x)
        traces = [y, subject.up(y, t), subject.down(y, b)]
        arguments = [array for trace in traces for array in trace.factors.values()]
        return change(lambda: subject.weight_gradients([(up, traces[2], 1.0) for up in traces[:2]]), arguments)

    return {function.__name__: function for function in (forward, backward, third_pass, curvature, weight_gradients)}


def check_single_precision(
    report: Report, layer: Layer | Callable[[], Layer], root: Layer, x: Array, seed: int
) -> None:
    """Add the checks that float32 stays float32 and agrees with float64."""
    single = built(layer, root.input_shape, "float32", seed)  # type: ignore[arg-type]
    for leaf, twin in zip((leaf for _, leaf in root.leaves()), (leaf for _, leaf in single.leaves()), strict=True):
        for name, array in leaf.parameters.items():
            twin.parameters[name][...] = array
        if leaf.state:
            twin.state = {name: in_single(array) for name, array in leaf.state.items()}
    # Smaller inputs, so that a softmax inside is not saturated: its derivatives would lose digits by nature.
    x = x / 4
    rng = np.random.default_rng([seed, 4])
    y = Subject(root, False).forward(x)
    t, b = (signed(rng, a.shape, np.iscomplexobj(a)) for a in (x, y))
    for training in (True, False):
        exact = results(Subject(root, training), x, t, b)
        found = results(Subject(single, training), *map(in_single, (x, t, b)))
        for method, result in found.items():
            arrays = [] if isinstance(result, Exception) else result.values()
            for name in {array.dtype.name for array in arrays} - {"float32", "complex64"}:
                found[method] = TypeError(f"{method} turns single precision into {name}")
        _compare(report, Subject(root, training).mode, "float32 stays so and agrees with float64", exact, found, SINGLE)


def _compare(
    report: Report, note: str, name: str, expected: dict[str, Result], found: dict[str, Result], tolerance: float
) -> None:
    """Add a check for each method that its results are the expected ones; what is not expected to work is left out."""
    for method, result in found.items():
        parts = expected[method]
        if isinstance(parts, Exception) or not parts:
            continue

        def error(result: Result = result, parts: dict[str, Array] = parts, method: str = method) -> float:
            if isinstance(result, Exception):
                raise result
            if tolerance == 0:
                return max(difference(result[part], array) for part, array in parts.items())
            scale = _scale(expected, method)
            return max(relative(result[part], array, scale) for part, array in parts.items())

        report.add(method, name, error, tolerance, note)


def _scale(expected: dict[str, Result], method: str) -> float:
    """Return what rounding is relative to: the size of the method's results, for a curvature of backward's too."""
    sizes = []
    for name in (method, "backward") if method == "curvature" else (method,):
        result = expected[name]
        if not isinstance(result, Exception):
            sizes += [float(np.linalg.norm(array)) for array in result.values()]
    return max(sizes)


def in_single(a: Array) -> Array:
    """Return `a` in single precision."""
    return a.astype("complex64" if np.iscomplexobj(a) else "float32")


def with_gaps(a: Array) -> Array:
    """Return equal values as a view with gaps between them, last axis first in memory."""
    wide = np.zeros((*a.shape[::-1], 2), a.dtype)
    view = wide[..., 0].T
    view[...] = a
    return view
