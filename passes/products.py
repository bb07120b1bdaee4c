"""Weight gradients: products of what travelled up and what travelled down.

``G(a, b)`` is bilinear, so products that share a member fuse: ``G(y, dy) + β G(t, dy) = G(y + β t, dy)``. Published Loss IBP
therefore costs one product, not two. The products run after the passes, when it is known which of them share a member.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
        layers = list(dict.fromkeys(layer for _, trace in ups for layer in trace.factors if layer.trainable))
        for layer, up, down in zip(layers, members(layers, ups), members(layers, downs), strict=True):
            (a, a_scale, constant), (b, b_scale, _) = up, down
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


def members(layers: Sequence[Layer], combination: Combination) -> Iterator[tuple[Array | None, float, float]]:
    """Yield for each layer what reached it, summed over the traces; a common coefficient; and the biases' constant input.

    The array is None for zero. A single array is left as it is and its coefficient returned, which is cheaper to apply to
    the product.
    """
    parts = [[(coefficient, trace) for coefficient, trace in combination if layer in trace.factors] for layer in layers]
    sums = [[(coefficient, trace.factors[layer]) for coefficient, trace in found]
            for layer, found in zip(layers, parts, strict=True) if len(found) > 1]
    computed = iter(kernels.of(sums[0][0][1]).combinations(sums) if sums else ())
    for layer, found in zip(layers, parts, strict=True):
        if not found:
            yield None, 0.0, 0.0
        elif len(found) == 1:
            ((coefficient, trace),) = found
            yield trace.factors[layer], coefficient, trace.constant
        else:
            yield next(computed), 1.0, sum(coefficient * trace.constant for coefficient, trace in found)
