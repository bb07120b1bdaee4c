"""Weight gradients: products of what travelled up and what travelled down.

``G(a, b)`` is bilinear, so products that share a member fuse: ``G(y, dy) + β G(t, dy) = G(y + β t, dy)``. Published Loss IBP
therefore costs one product, not two. The products run after the passes, when it is known which of them share a member.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from convnet import kernels
from convnet.layers.base import Layer
from convnet.passes.walk import Trace

Array = Any
Term = tuple[Trace, Trace, float]
Combination = list[tuple[float, Trace]]


def weight_gradients(terms: Sequence[Term], write: Callable[[Layer, dict[str, Array], float], None]) -> None:
    """Compute ``sum_k c_k G(a_k, b_k)`` and hand it over layer by layer.

    Parameters
    ----------
    terms : sequence of (Trace, Trace, float)
        Traces that travelled up (first or third pass) and down (second or fourth pass), and a coefficient.
    write : callable
        Called as ``write(layer, gradients, coefficient)``, as often as there are products; the results, each times its
        coefficient, are to be added up.
    """
    for ups, downs in fused(terms):
        for layer in dict.fromkeys(layer for _, trace in ups for layer in trace.factors if layer.trainable):
            a, a_scale, constant = member(layer, ups)
            b, b_scale, _ = member(layer, downs)
            if a is not None and b is not None:
                write(layer, layer.weight_gradients(a, b, constant), a_scale * b_scale)


def fused(terms: Sequence[Term]) -> list[tuple[Combination, Combination]]:
    """Return the same sum as fewer products: the terms grouped by the side that has fewer different members."""
    by_down: dict[Trace, Combination] = {}
    by_up: dict[Trace, Combination] = {}
    for up, down, coefficient in terms:
        by_down.setdefault(down, []).append((coefficient, up))
        by_up.setdefault(up, []).append((coefficient, down))
    if len(by_down) <= len(by_up):
        return [(up, [(1.0, down)]) for down, up in by_down.items()]
    return [([(1.0, up)], down) for up, down in by_up.items()]


def member(layer: Layer, combination: Combination) -> tuple[Array | None, float, float]:
    """Return what reached `layer`, summed over the traces; a common coefficient; and the biases' constant input.

    The array is None for zero. A single array is left as it is and its coefficient returned, which is cheaper to apply to
    the product.
    """
    parts = [(coefficient, trace) for coefficient, trace in combination if layer in trace.factors]
    if not parts:
        return None, 0.0, 0.0
    if len(parts) == 1:
        ((coefficient, trace),) = parts
        return trace.factors[layer], coefficient, trace.constant
    arrays = [(coefficient, trace.factors[layer]) for coefficient, trace in parts]
    constant = sum(coefficient * trace.constant for coefficient, trace in parts)
    return kernels.of(arrays[0][1]).combination(arrays), 1.0, constant
