"""The training algorithms by name, as the command line writes them: ``loss-ibp:beta=0.03,exact=true``."""
from __future__ import annotations

import itertools
import re

import numpy as np

from convnet import passes
from convnet.batch import Batch
from convnet.specs import Kind, choices

__all__ = ["KNOWN", "by_spec", "candidates", "needs_tangents"]

KNOWN: dict[str, Kind] = {
    "bp": Kind(passes.Backprop),
    "loss-ibp": Kind(passes.LossIBP),
    "prediction-ibp": Kind(passes.PredictionIBP),
    "tangent-prop": Kind(passes.TangentProp, {"fast": False}),
    "fast-tangent-prop": Kind(passes.TangentProp, {"fast": True, "at": "logits"}),
    "at": Kind(passes.AdversarialTraining, {"fast": False}),
    "fast-at": Kind(passes.AdversarialTraining, {"fast": True}),
    "noise": Kind(passes.NoiseInjection),
    "double-backprop": Kind(passes.DoubleBackprop),
    "jacobian": Kind(passes.JacobianRegularizer, {"at": "output"}),
    "frobenius": Kind(passes.JacobianRegularizer, {"at": "logits"}),
    "hessian-frobenius": Kind(passes.HessianFrobenius),
}


def by_spec(spec: str) -> passes.Algorithm:
    """Return the algorithm that `spec` names.

    Raises
    ------
    ValueError
        If the name, an option or a value is not known; the message gives the nearest known name.
    """
    found = candidates(spec)
    if len(found) > 1:
        raise ValueError(f"algorithm {spec!r} offers several values; give one for each option here")
    return found[0][1]


def candidates(spec: str) -> list[tuple[str, passes.Algorithm]]:
    """Return (spec, algorithm) for each combination of the values that `spec` offers: two for ``at:epsilon=0.1|0.2``.

    Penalties are added with a plus sign: ``loss-ibp:beta=0.01+fast-tangent-prop:beta=0.1``.

    Raises
    ------
    ValueError
        As `by_spec`; also if something is added that is not a penalty.
    """
    parts = [choices("algorithm", part, KNOWN) for part in re.split(r"\+(?=\s*[a-z])", spec)]
    if len(parts) == 1:
        return parts[0]
    try:
        return [("+".join(name for name, _ in chosen), passes.SumOfPenalties.of(*(algorithm for _, algorithm in chosen)))
                for chosen in itertools.product(*parts)]
    except TypeError as error:
        raise ValueError(f"algorithm {spec!r}: {error}") from None


def needs_tangents(algorithm: passes.Algorithm) -> bool:
    """Whether the algorithm refuses batches without tangent vectors."""
    try:
        algorithm.check(Batch(np.zeros((1, 1)), np.zeros(1, int)))
    except ValueError:
        return True
    return False
