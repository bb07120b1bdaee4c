"""Noise injection: train on inputs with Gaussian noise, ``x + σ μ``, ``μ ~ N(0, I)``.

Paper 003, Eq. 57; papers 001/002, section 7.4.
"""
from __future__ import annotations

from dataclasses import dataclass

from convnet.passes.algorithm import Algorithm, Run, Step, checked_coefficient
from convnet.passes.walk import second_pass


@dataclass(frozen=True)
class NoiseInjection(Algorithm):
    """Backpropagation at ``x + σ μ``. The step's loss and outputs are those of the noisy inputs.

    Parameters
    ----------
    sigma : float
        Deviation ``σ`` of the noise, in units of the input.
    """

    sigma: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", checked_coefficient("sigma", self.sigma))

    def schedule(self, run: Run) -> Step:
        """Passes 1 and 2 at the noisy inputs."""
        y, objective = run.first(run.x + run.x.dtype.type(self.sigma) * run.normal(run.x.shape))
        dy = second_pass(y, objective.gradient, to_input=False)
        return run.step(objective, y, [(y, dy, 1.0)])
