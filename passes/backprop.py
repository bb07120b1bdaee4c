"""Standard backpropagation: forward, backward, one weight-gradient product (papers 001/002, section 1.1)."""
from __future__ import annotations

from dataclasses import dataclass

from convnet.passes.algorithm import Algorithm, Run, Step
from convnet.passes.walk import second_pass


@dataclass(frozen=True)
class Backprop(Algorithm):
    """Standard backpropagation: objective ``L(x)``, weight gradient ``G(y, dy)``."""

    def schedule(self, run: Run) -> Step:
        """Passes 1 and 2."""
        y, objective = run.first(run.x)
        dy = second_pass(y, objective.gradient, to_input=False)
        return run.step(objective, y, [(y, dy, 1.0)])
