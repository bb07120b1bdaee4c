"""What an algorithm's gradient is the gradient of, as a plain function of the weights.

An exact form follows everything: its objective can be differentiated as it is. A published form, and adversarial
training, hold something constant. Here that is computed once, at the weights where the check is made, and frozen:

- adversarial training: the inputs ``x*``;
- penalties on ``dL/dx``: the output error ``dy_K`` and all Jacobian factors that depend on activations. What is left
  is the reverse network, ``dy_{i-1} = J_i(w_i)^T dy_i``, in which the weights of the linear layers are free;
- Prediction IBP and tangent propagation: the tangent at the input and the same factors. What is left is the
  linearised forward network.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convnet.batch import Batch
from convnet.kernels import array_module
from convnet.losses import Loss
from convnet.network import Network
from convnet.passes import (
    AdversarialTraining,
    Algorithm,
    FirstPass,
    Penalty,
    PredictionIBP,
    Run,
    SumOfPenalties,
    TangentProp,
    Trace,
    second_pass,
    third_pass,
)
from convnet.passes.objective import Objective

Array = Any
Value = Callable[[], float]


def objective_of(algorithm: Algorithm, net: Network, loss: Loss, batch: Batch, training: bool) -> Value:
    """Return the mean objective as a function of the present parameters of `net`, with the draw of its present state.

    Unknown algorithms are taken to have exact gradients.
    """
    start = net.generator.bit_generator.state

    def restored() -> None:
        net.generator.bit_generator.state = start

    def whole() -> float:
        restored()
        return float(algorithm.gradients(net, loss, batch, training=training).objective)

    def present_loss(x: Array | None = None) -> float:
        restored()
        run = Run(net, loss, batch, training)
        return float(run.first(run.x if x is None else x)[1].value.mean())

    if isinstance(algorithm, AdversarialTraining):
        run = Run(net, loss, batch, training)
        y, objective = run.first(run.x)
        dy_0 = second_pass(y, objective.gradient).output
        x_star = run.x + algorithm.epsilon * (array_module(dy_0).sign(dy_0) if algorithm.norm == 1 else dy_0)
        restored()
        if algorithm.fast:
            return lambda: present_loss(x_star)
        return lambda: (present_loss() + present_loss(x_star)) / 2
    parts = algorithm.parts if isinstance(algorithm, SumOfPenalties) else (algorithm,)
    if not any(is_published(part) for part in parts):
        return whole

    run = Run(net, loss, batch, training)
    y, objective = run.first(run.x)
    dy = second_pass(y, objective.gradient)
    restored()

    def penalty_of(part: Penalty) -> Value:
        if is_published(part):
            return held_penalty(part, run, objective, y, dy)

        def exact() -> float:
            restored()
            return float(part.gradients(net, loss, batch, training=training).penalty)

        return exact

    values = [(part.coefficient, penalty_of(part)) for part in parts if isinstance(part, Penalty)]
    return lambda: present_loss() + sum(coefficient * value() for coefficient, value in values)


def is_published(algorithm: Algorithm) -> bool:
    """Whether the algorithm is a published form known here, which holds something constant."""
    known = isinstance(algorithm, (PredictionIBP, TangentProp)) or getattr(algorithm, "seeded", False)
    return known and not getattr(algorithm, "exact", True)


def held_penalty(part: Penalty, run: Run, objective: Objective, y: FirstPass, dy: Trace) -> Value:
    """Return the mean penalty of a published form as a function of the present weights, with all else held."""
    if part.seeded:
        dy_k = objective.gradient
        return lambda: float(part.seed(run, second_pass(y, dy_k).output)[0].mean())  # type: ignore[attr-defined]
    readout = objective.readout(part.at)  # type: ignore[attr-defined]
    if isinstance(part, PredictionIBP):
        starts = [dy.output]
    else:
        tangents = run.net.asarray(run.batch.tangents.reshape(-1, *run.net.input_shape))  # type: ignore[union-attr]
        tangents = tangents.reshape(len(run.batch), -1, *run.net.input_shape)
        starts = [tangents[:, k] for k in range(tangents.shape[1])]
    r = part.norm  # type: ignore[attr-defined]

    def value() -> float:
        changes = [readout.third(third_pass(y, t_0).output) for t_0 in starts]
        return float(sum((abs(change) ** r).sum() for change in changes)) / r / len(run.batch)

    return value

