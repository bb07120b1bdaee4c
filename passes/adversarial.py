"""Adversarial training: train on inputs moved in the direction that raises the loss (papers 001/002, sections 2.2 and 4.2).

``x* = x + ε sign(dy_0)`` (Eq. 4; ``norm=1``) or ``x* = x + ε dy_0`` (``norm=2``), where ``dy_0 = dL/dx``; ``x*`` is held
constant.

- Original: objective ``(L(x) + L(x*)) / 2`` (Eq. 5), the mean of both weight gradients.
- Fast: objective ``L(x*)`` (Eq. 12), without the weight gradients at ``x``. Its best ``ε`` is half the original's.

Both passes over ``x*`` use the masks of the passes over ``x``, so that step and loss belong to one network.
"""
from __future__ import annotations

from dataclasses import dataclass

from convnet.kernels import array_module
from convnet.layers.base import flag
from convnet.passes.algorithm import Algorithm, Run, Step, checked_coefficient, checked_norm
from convnet.passes.walk import second_pass


@dataclass(frozen=True)
class AdversarialTraining(Algorithm):
    """Adversarial training.

    Parameters
    ----------
    epsilon : float
        Length ``ε`` of the step, in units of the input: of each value for ``norm=1``, times the gradient for ``norm=2``.
    norm : {1, 2}
        1 to step along the sign of the gradient, 2 along the gradient.
    fast : bool
        True to train on ``x*`` alone.

    Notes
    -----
    Papers 001/002, Eq. 4, 5 and 12. The step's `penalty` is ``L(x*) - L(x)``; the objective is the loss plus half of it, or
    plus all of it in the fast form. Running statistics of batch normalisation follow the inputs as they are.
    """

    epsilon: float
    norm: int = 1
    fast: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", checked_coefficient("epsilon", self.epsilon))
        checked_norm(self.norm)
        flag("fast", self.fast)

    def schedule(self, run: Run) -> Step:
        """Passes 1 and 2 at ``x``, then 1 and 2 at ``x*``."""
        y, objective = run.first(run.x)
        dy = second_pass(y, objective.gradient)
        direction = array_module(run.x).sign(dy.output) if self.norm == 1 else dy.output
        y_star, objective_star = run.first(run.x + run.x.dtype.type(self.epsilon) * direction)
        dy_star = second_pass(y_star, objective_star.gradient, to_input=False)
        gap = objective_star.value - objective.value
        share = 1.0 if self.fast else 0.5
        terms = [(y_star, dy_star, share)] if self.fast else [(y, dy, share), (y_star, dy_star, share)]
        return run.step(objective, y, terms, penalty=gap, coefficient=share, input_gradient=dy.output)
