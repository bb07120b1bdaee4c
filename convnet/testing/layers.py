"""The battery for a layer: every method against the others, and against numerical derivatives of the forward pass."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from convnet import kernels
from convnet.devices import refuse_tf32
from convnet.layers.base import Layer, Record, whole_number
from convnet.passes.walk import Trace, Walk, inference
from convnet.testing.contracts import check_contracts, check_single_precision, check_untouched
from convnet.testing.numeric import COMPLEX_STEP as COMPLEX_H
from convnet.testing.numeric import derivative, difference, products, relative, signed, spaced, sums_error
from convnet.testing.report import COMPLEX_STEP, DIFFERENCES, IDENTITY, Report
from convnet.testing.subject import Subject, built, constraint_error, settle_state

Array = Any
PASSES = ("third_pass", "backward")


def check_layer(
    layer: Layer | Callable[[], Layer], input_shape: Sequence[int], *, seed: int = 0, batch: int = 3,
    complex_input: bool = False, raise_on_failure: bool = True,
) -> Report:
    """Check all methods of a layer, in training and in inference mode.

    Parameters
    ----------
    layer : Layer or callable
        A fresh layer, which stays as it is (copies are checked), or a function that makes one. Containers are checked
        as a whole; if that fails, the layers in them are checked one by one, to name the faulty one.
    input_shape : sequence of int
        Shape of one input, without the sample axis.
    seed : int
        Of the parameters, inputs and directions. The same seed gives the same report.
    batch : int
        Number of samples, at least 2.
    complex_input : bool
        Whether the layer is checked on complex inputs. Complex numbers count as pairs: ``a·b = Re sum conj(a) b``.
    raise_on_failure : bool
        False to return the report of a faulty layer in place of raising.

    Returns
    -------
    Report

    Raises
    ------
    CheckError
        An AssertionError that names the methods at fault and what they violate.
    ValueError, TypeError
        If the layer cannot be built for such inputs.
    RuntimeError
        If TF32 is on.

    Notes
    -----
    With ``x`` spaced so that no kink is near, and random directions ``t, v, u, b, δ`` of both signs, in float64:

    - ``third_pass``: ``J t`` against differences of the forward pass, and for analytic layers against the complex
      step ``Im f(x + ih t) / h`` with ``h = 1e-20``; Theorem 1 where `linear` is declared, ``v·(J t) = t·(J v)`` and
      the backward method (Theorem 2) where `symmetric_jacobian` is.
    - ``backward``: against differences of the forward pass, and the adjoint identity ``u·(J t) = (J^T u)·t``.
    - ``weight_gradients``: ``G(x, u)·δ`` against differences of ``u·f`` in each parameter, ``G(t, b) + G(x, s)``
      against those of ``b·(J t)`` (which gives a leaf's biases nothing), ``G`` bilinear.
    - ``curvature``: against differences of ``J^T b`` along ``t`` and of ``b·(J t)`` along ``v``; where a layer
      declares none, these must be zero.
    - contracts: the declared output shape, the same result from every pass run twice or with another batch in
      between, arguments and parameters untouched, any memory layout, float32 in and out.

    A layer is taken to be analytic if it is `linear` or `curved`. One that is curved but not analytic (it takes
    absolute values) says so with a class attribute ``analytic = False``.
    """
    refuse_tf32("check_layer")
    whole_number("batch", batch, 2)
    root = built(layer, input_shape, "float64", seed)
    report = Report(f"{root!r} on {tuple(input_shape)}")
    rng = np.random.default_rng([seed, 1])
    x, other = (_input(rng, batch, root, complex_input) for _ in range(2))
    report.add("constrain", "twice does what once does", lambda: constraint_error(root), IDENTITY)
    report.add("forward", "runs in training mode", lambda: settle_state(root, other), 0.0)
    if report.ok:
        for training in (True, False):
            _battery(report, Subject(root, training), x, other, seed)
        check_single_precision(report, layer, root, x, seed)
        if not report.ok and Subject(root, True).is_container:
            _blame(report, root, x, seed)
    if raise_on_failure:
        report.raise_if_failed()
    return report


def _input(rng: np.random.Generator, batch: int, layer: Layer, is_complex: bool) -> Array:
    """Return inputs far from all kinks."""
    shape = (batch, *layer.input_shape)  # type: ignore[misc]
    return spaced(rng, shape) + 1j * spaced(rng, shape) if is_complex else spaced(rng, shape)


def _blame(report: Report, root: Layer, x: Array, seed: int) -> None:
    """Check the layers of a faulty container one by one, and add what fails."""
    is_complex = {}

    def visit(layer: Layer, x: Array) -> Array:
        is_complex[layer] = np.iscomplexobj(x)
        return layer.forward(x, Record(False, True))

    Walk("forward", visit, lambda layer: Record(False, True), Trace())(root, x)
    rng = np.random.default_rng([seed, 2])
    for path, leaf in root.leaves():
        part = Report(repr(leaf))
        mine, other = (_input(rng, len(x), leaf, is_complex.get(leaf, False)) for _ in range(2))
        for training in (True, False):
            _battery(part, Subject(leaf, training), mine, other, seed)
        report.extend(part.failures, f"in layer {path}, {leaf!r}")


def _battery(report: Report, subject: Subject, x: Array, other: Array, seed: int) -> None:
    """Add all checks of one mode; without an output of the declared shape there are no others."""
    note = subject.mode
    declared = (len(x), *subject.root.output_shape)
    report.add("forward", "the output has the declared shape",
               lambda: _shape_error(subject.forward(x.copy()), declared), 0.0, note)
    if not report.checks[-1].ok:
        return
    rng = np.random.default_rng([seed, 3])
    t, v = (signed(rng, x.shape, np.iscomplexobj(x)) for _ in range(2))
    b, u = (signed(rng, declared, np.iscomplexobj(subject.forward(x.copy()))) for _ in range(2))
    check_untouched(report, subject, x, t, b)
    report.add("forward", "the same draw gives the same output",
               lambda: difference(subject.forward(x), subject.forward(x)), 0.0, note)
    if not subject.training:
        report.add("forward", "inference, which keeps nothing, gives the same output",
                   lambda: difference(inference(subject.root, x), subject.forward(x)), 0.0, note)
    _check_third_pass(report, subject, x, t)
    _check_backward(report, subject, x, t, u)
    _check_structure(report, subject, x, t, v)
    _check_curvature(report, subject, x, t, v, b)
    _check_weight_gradients(report, subject, x, t, b, u, rng)
    check_contracts(report, subject, x, other, t, b)


def _shape_error(y: Array, declared: tuple[int, ...]) -> float:
    if y.shape != declared:
        raise ValueError(f"the output has the shape {y.shape}; output_shape and {declared[0]} samples make {declared}")
    return 0.0


def _check_third_pass(report: Report, subject: Subject, x: Array, t: Array) -> None:
    def by_differences() -> float:
        return relative(subject.third_pass(subject.first(x), t), derivative(lambda h: subject.forward(x + h * t)))

    def by_complex_step() -> float:
        # The reference kernels take complex numbers; the difference above has checked the kernels in use.
        with kernels.using("reference"):
            y = subject.forward(x + 1j * COMPLEX_H * t)
        if not np.iscomplexobj(y):
            raise TypeError("forward drops the imaginary part: set analytic = False if the layer is not analytic")
        return relative(subject.third_pass(subject.first(x), t), y.imag / COMPLEX_H)

    report.add("third_pass", "J t = differences of forward", by_differences, DIFFERENCES, subject.mode)
    reason = _not_analytic(subject.root)
    if reason:
        report.skip("third_pass", "J t = complex step of forward", reason)
    else:
        report.add("third_pass", "J t = complex step of forward", by_complex_step, COMPLEX_STEP, subject.mode)


def _not_analytic(root: Layer) -> str:
    """Return why there is no complex step, or an empty string."""
    for _, leaf in root.leaves():
        if not getattr(leaf, "analytic", leaf.linear or leaf.curved):
            said = "it says so" if hasattr(leaf, "analytic") else "piecewise linear"
            return f"{type(leaf).__name__} is not analytic: {said}"
    return ""


def _check_backward(report: Report, subject: Subject, x: Array, t: Array, u: Array) -> None:
    def by_differences() -> float:
        slope = derivative(lambda h: subject.forward(x + h * t))
        return sums_error(products(subject.backward(subject.first(x), u), t), products(u, slope))

    def adjoint() -> float:
        y = subject.first(x)
        return sums_error(products(u, subject.third_pass(y, t)), products(subject.backward(y, u), t))

    report.add("backward", "(J^T u)·t = u·differences of forward", by_differences, DIFFERENCES, subject.mode)
    # Either method can break the identity; the differences tell which.
    guilty = [method for method in ("third_pass", "backward") if method in report.faulty]
    method = " and ".join(guilty) or "backward or third_pass"
    report.add(method, "adjoint identity u·(J t) = (J^T u)·t", adjoint, IDENTITY, subject.mode)


def _check_structure(report: Report, subject: Subject, x: Array, t: Array, v: Array) -> None:
    def theorem_1() -> float:
        constant = subject.forward(np.zeros_like(t))
        size = float(np.linalg.norm(constant))
        return relative(subject.third_pass(subject.first(x), t), subject.forward(t) - constant, size)

    def theorem_2() -> float:
        y = subject.first(x)
        return max(relative(subject.third_pass(y, t), subject.backward(y, t)),
                   sums_error(products(v, subject.third_pass(y, t)), products(t, subject.third_pass(y, v))))

    if subject.linear:
        report.add("linear", "Theorem 1: J t = f(t) - f(0)", theorem_1, IDENTITY, subject.mode, ["third_pass"])
    if subject.root.symmetric_jacobian:
        report.add("symmetric_jacobian", "Theorem 2: J t = J^T t", theorem_2, IDENTITY, subject.mode, PASSES)


def _check_curvature(report: Report, subject: Subject, x: Array, t: Array, v: Array, b: Array) -> None:
    def change_of_backward() -> Array:
        return derivative(lambda h: subject.backward(subject.first(x + h * t), b))

    def change_of_third_pass() -> Array:
        return derivative(lambda h: products(b, subject.third_pass(subject.first(x + h * v), t)))

    def size() -> float:
        return 1e-3 * float(np.linalg.norm(subject.backward(subject.first(x), b)))

    def along_t() -> float:
        return relative(subject.curvature(subject.first(x), t, b), change_of_backward(), size())

    def along_v() -> float:
        return sums_error(products(subject.curvature(subject.first(x), t, b), v), change_of_third_pass(), size())

    what = "k(t, b)" if subject.curved else "0, as no curvature is declared,"
    report.add("curvature", f"{what} = differences of J^T b along t", along_t, DIFFERENCES, subject.mode, PASSES)
    report.add("curvature", f"{what} = differences of b·(J t)", along_v, DIFFERENCES, subject.mode, PASSES)


def _check_weight_gradients(
    report: Report, subject: Subject, x: Array, t: Array, b: Array, u: Array, rng: np.random.Generator
) -> None:
    # In a container, other methods bring the products what they multiply.
    inner = (*PASSES, "curvature") if subject.is_container else ()
    for path in subject.parameters:
        leaf, name = subject.parameters[path]
        delta = signed(rng, leaf.parameters[name].shape, np.iscomplexobj(leaf.parameters[name]))
        note = f"{path}, {subject.mode}"

        def first(path: str = path, delta: Array = delta) -> float:
            y = subject.first(x)
            slope = derivative(subject.moved(path, delta, lambda: products(u, subject.forward(x))))
            g = subject.weight_gradients([(y, subject.down(y, u), 1.0)])[path]
            return sums_error(products(g, delta), slope, floor=1e-3 * float(np.linalg.norm(products(u, y.output))))

        def second(path: str = path, delta: Array = delta) -> float:
            y = subject.first(x)
            slope = derivative(subject.moved(path, delta, lambda: products(b, subject.third_pass(subject.first(x), t))))
            up, down = subject.up(y, t), subject.down(y, b)
            g = subject.weight_gradients([(up, down, 1.0), (y, subject.fourth(y, t, b), 1.0)])[path]
            return sums_error(products(g, delta), slope, floor=1e-3 * float(np.linalg.norm(products(b, up.output))))

        report.add("weight_gradients", "G(x, u)·δ = differences of u·f", first, DIFFERENCES, note, inner)
        report.add("weight_gradients", "(G(t, b) + G(x, s))·δ = differences of b·(J t)", second, DIFFERENCES, note,
                   ["third_pass", *inner])
    if subject.parameters:
        report.add("weight_gradients", "G is bilinear, a bias follows its constant",
                   lambda: _bilinearity_error(subject, x, t, b, u), IDENTITY, subject.mode)


def _bilinearity_error(subject: Subject, x: Array, t: Array, b: Array, u: Array) -> float:
    """Return by how much ``G(x + 2 t, 3 b - u)`` differs from the sum of its four parts."""
    y = subject.first(x)
    ups, downs = [(1.0, y), (2.0, subject.up(y, t))], [(3.0, subject.down(y, b)), (-1.0, subject.down(y, u))]
    parts = [subject.weight_gradients([(up, down, 1.0)]) for _, up in ups for _, down in downs]
    weights = [p * q for p, _ in ups for q, _ in downs]
    together = subject.weight_gradients([(_mixed(ups), _mixed(downs), 1.0)])
    scale = 1e-3 * max(float(np.linalg.norm(gradient)) for gradient in together.values())
    return max(relative(together[path], sum(w * part[path] for w, part in zip(weights, parts, strict=True)), scale)
               for path in together)


def _mixed(traces: list[tuple[float, Trace]]) -> Trace:
    """Return a combination of traces as one trace."""
    factors = {leaf: sum(c * trace.factors[leaf] for c, trace in traces) for leaf in traces[0][1].factors
               if all(leaf in trace.factors for _, trace in traces)}
    return Trace(factors=factors, constant=sum(c * trace.constant for c, trace in traces))
