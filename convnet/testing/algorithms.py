"""The battery for an algorithm: its gradient against differences of what it says it minimises, and its bookkeeping."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from convnet.batch import Batch, targets
from convnet.devices import refuse_tf32
from convnet.layers import (
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    LeakyReLU,
    MaxPool,
    MeanPool,
    ReLU,
    Residual,
    Sigmoid,
    Softmax,
    Tanh,
)
from convnet.losses import Loss, SoftmaxCrossEntropy
from convnet.network import Network
from convnet.passes import Algorithm, Penalty, Run, Step, SumOfPenalties
from convnet.testing.numeric import derivative, difference, relative, signed, spaced
from convnet.testing.objectives import is_published, objective_of
from convnet.testing.report import IDENTITY, SINGLE, Report, joined

Array = Any
DIFFERENCES = 1e-6


def check_algorithm(
    algorithm: Algorithm, net: Network | None = None, loss: Loss | None = None, batch: Batch | None = None, *,
    seed: int = 0, objective: Callable[[Network], float] | None = None, raise_on_failure: bool = True,
) -> Report:
    """Check that an algorithm's gradient is the gradient of its objective, in training and in inference mode.

    Parameters
    ----------
    algorithm : Algorithm
    net : Network, optional
        A float64 network; copies of it are used. By default two small ones: `smooth_network` and
        `piecewise_network`.
    loss : Loss, optional
        `SoftmaxCrossEntropy` by default.
    batch : Batch, optional
        Random images, soft labels and two tangents by default.
    seed : int
        Of the networks, the batch and the directions. The same seed gives the same report.
    objective : callable, optional
        ``objective(net)``, the mean objective as a function of the network's present parameters, with everything held
        constant that the algorithm's gradient holds constant. By default the step's own `objective`, except for the
        published forms of this package and adversarial training, where the output error, or the inputs ``x*``,
        are frozen (see `convnet.testing.objectives`).
    raise_on_failure : bool
        False to return the report of a faulty algorithm in place of raising.

    Returns
    -------
    Report

    Raises
    ------
    CheckError
        An AssertionError that names what is violated.
    TypeError, ValueError
        If `algorithm` is not an algorithm, or the network is not float64.
    RuntimeError
        If TF32 is on.
    """
    if not isinstance(algorithm, Algorithm):
        raise TypeError(f"algorithm must be a convnet.passes.Algorithm, as in LossIBP(beta=0.1), not {algorithm!r}")
    if net is not None and net.dtype != np.float64:
        raise ValueError(f"net computes in {net.dtype}; differences need dtype='float64'")
    refuse_tf32("check_algorithm")
    loss = SoftmaxCrossEntropy() if loss is None else loss
    nets = {"": net} if net is not None else {
        "smooth network": smooth_network(seed), "piecewise-linear network": piecewise_network(seed)
    }
    report = Report(f"{algorithm!r} with {loss!r}")
    for name, subject in nets.items():
        example = random_batch(subject, seed) if batch is None else batch
        for training in (True, False):
            note = joined(name, "training" if training else "inference")
            _Battery(report, algorithm, subject, loss, example, training, note, seed).run(objective)
    if raise_on_failure:
        report.raise_if_failed()
    return report


def smooth_network(seed: int = 0) -> Network:
    """Return a small network without kinks.

    Tanh, sigmoid and softmax, overlapping mean pooling, batch normalisation, dropout, residual blocks.
    """
    block = Residual([Conv(3, 2, padding=1), Sigmoid(), Conv(3, 2)])
    layers = [Conv(3, 3, padding=1), BatchNorm(), Tanh(), MeanPool(3, 2), block, Flatten(), Dropout(0.2), Dense(6),
              Residual([Softmax(), Dense(6)]), Dense(4)]
    return _moved(Network(layers, (7, 6, 2), seed=seed, dtype="float64"), seed)


def piecewise_network(seed: int = 0) -> Network:
    """Return a small piecewise-linear network with overlapping max pooling and a stride that does not divide."""
    layers = [Conv(4, (4, 3), stride=(1, 2), padding=1), ReLU(), MaxPool(3, 2), Flatten(), Dense(7), LeakyReLU(0.1),
              Dense(4)]
    return _moved(Network(layers, (8, 9, 1), seed=seed, dtype="float64"), seed)


def _moved(net: Network, seed: int) -> Network:
    """Return `net` with parameters that are not at their special initial values (biases of 0, scales of 1)."""
    rng = np.random.default_rng([seed, 5])
    net.vector += 0.1 * signed(rng, net.vector.shape)
    return net


def random_batch(net: Network, seed: int = 0, count: int = 4, tangents: int = 2) -> Batch:
    """Return random images without equal values, soft labels that sum to 1, and random tangents."""
    rng = np.random.default_rng([seed, 6])
    labels = rng.dirichlet(np.ones(net.root.output_shape[0]), count)
    return Batch(spaced(rng, (count, *net.input_shape)), labels, signed(rng, (count, tangents, *net.input_shape)))


class _Battery:
    """All checks of one algorithm on one network in one mode."""

    def __init__(
        self, report: Report, algorithm: Algorithm, net: Network, loss: Loss, batch: Batch, training: bool, note: str,
        seed: int,
    ):
        self.report, self.algorithm, self.loss, self.training, self.note = report, algorithm, loss, training, note
        self.net, self.given = net.copy(), batch
        self.rng = np.random.default_rng([seed, 7])

    @property
    def batch(self) -> Batch:
        """A fresh copy of the batch: an algorithm that changes what it is given changes that."""
        arrays = (self.given.images, self.given.labels, self.given.tangents)
        return Batch(*(None if array is None else np.array(array) for array in arrays))

    def add(self, method: str, name: str, measure: Callable[[], float], tolerance: float, note: str = "") -> None:
        """Add a check of this network and mode."""
        self.report.add(method, name, measure, tolerance, joined(note, self.note))

    def step(self, net: Network | None = None) -> Step:
        """Run the algorithm on a copy of the network."""
        return self.algorithm.gradients((net or self.net).copy(), self.loss, self.batch, training=self.training)

    def run(self, objective: Callable[[Network], float] | None) -> None:
        """Add all checks; if the algorithm raises, there is one."""
        before = len(self.report.failures)
        self.add("gradients", "runs", lambda: _no_error(self.step()), 0.0)
        if len(self.report.failures) > before:
            return
        step = self.step()
        self.add("gradients", "names, shapes, types are those of net.parameters", lambda: self.layout_error(step), 0.0)
        if len(self.report.failures) > before:
            return
        self.add("gradients", "nothing given is changed", self.change, 0.0)
        self.add("gradients", "a copy of the network gives the same, bit for bit",
                 lambda: self.repetition_error(step), 0.0)
        self.add("loss", "loss = mean loss of the outputs", lambda: self.loss_error(step), IDENTITY)
        if isinstance(self.algorithm, Penalty):
            self.add("objective", "objective = loss + coefficient · penalty",
                     lambda: self.objective_error(step), IDENTITY)
        self.check_gradients(step, objective)
        if step.input_gradient is not None:
            self.add("input_gradient", "dL/dx = differences of the loss", lambda: self.input_gradient_error(step),
                     DIFFERENCES)
        name = "float32 stays so and agrees with float64"
        if self.draws():
            self.report.skip("gradients", name, joined("it draws other numbers in float32", self.note))
        else:
            self.add("gradients", name, lambda: self.single_error(step), 10 * SINGLE)

    def layout_error(self, step: Step) -> float:
        """Raise unless the gradients have the layout of the parameters."""
        if list(step.gradients) != list(self.net.parameters):
            odd = set(step.gradients) ^ set(self.net.parameters)
            names = ", ".join(sorted(odd)) or "the order"
            raise ValueError(f"gradients and net.parameters differ in their names: {names}")
        for name, parameter in self.net.parameters.items():
            gradient = step.gradients[name]
            if (gradient.shape, gradient.dtype) != (parameter.shape, parameter.dtype):
                raise ValueError(f"{name} is {parameter.dtype} {parameter.shape}, "
                                 f"its gradient {gradient.dtype} {gradient.shape}")
        numbers = [gradient.reshape(-1).view(self.net.dtype) for gradient in step.gradients.values()]
        return difference(step.flat_gradient, np.concatenate(numbers))

    def change(self) -> float:
        """Return how much the algorithm changes of what it is given."""
        net, batch = self.net.copy(), self.batch

        def arrays() -> dict[str, Array]:
            parts = {"images": batch.images, "labels": batch.labels, "tangents": batch.tangents}
            return {name: array for name, array in {**parts, "parameters": net.vector, **net.state}.items()
                    if array is not None}

        before = {name: np.array(array) for name, array in arrays().items()}
        self.algorithm.gradients(net, self.loss, batch, training=self.training)
        after = arrays()
        return max(difference(after[name], array) for name, array in before.items())

    def repetition_error(self, step: Step) -> float:
        """Return how much a second run differs from the first."""
        again = self.step()
        errors = [difference(again.flat_gradient, step.flat_gradient), difference(again.objective, step.objective)]
        errors += [difference(again.state[name], array) for name, array in step.state.items()]
        return max(errors)

    def loss_error(self, step: Step) -> float:
        """Return how far the loss is from the one of the outputs."""
        labels = targets(self.batch.labels, step.outputs.shape[1], self.net.dtype)
        return relative(step.loss, self.loss.value(step.outputs, labels).mean())

    def objective_error(self, step: Step) -> float:
        """Return how far the objective is from its two parts."""
        # A sum's penalty is weighted already.
        summed = isinstance(self.algorithm, SumOfPenalties)
        coefficient = 1.0 if summed else self.algorithm.coefficient  # type: ignore[attr-defined]
        return relative(step.objective, step.loss + coefficient * step.penalty)

    def check_gradients(self, step: Step, objective: Callable[[Network], float] | None) -> None:
        """Compare the gradient of each parameter with differences of the objective."""
        net = self.net.copy()
        if objective is None:
            value = objective_of(self.algorithm, net, self.loss, self.batch, self.training)
        else:
            start = net.generator.bit_generator.state

            def value() -> float:
                net.generator.bit_generator.state = start
                return float(objective(net))

        parts = getattr(self.algorithm, "parts", (self.algorithm,))
        held = objective is None and any(is_published(part) for part in parts)
        what = "the objective with its published constants held" if held else "the objective"
        size = float(np.linalg.norm(step.flat_gradient))
        for name, parameter in net.parameters.items():
            direction = signed(self.rng, parameter.shape, np.iscomplexobj(parameter))

            def error(name: str = name, parameter: Array = parameter, direction: Array = direction) -> float:
                start = parameter.copy()

                def at(h: float) -> float:
                    parameter[...] = start + h * direction
                    try:
                        return value()
                    finally:
                        parameter[...] = start

                gradient = step.gradients[name]
                found = float(np.real(np.conj(gradient) * direction).sum())
                return abs(found - float(derivative(at))) / max(float(np.linalg.norm(gradient)), 1e-3 * size, 1e-12)

            self.add("gradients", f"gradient = differences of {what}", error, DIFFERENCES, name)

    def input_gradient_error(self, step: Step) -> float:
        """Return how far ``dL/dx`` along a direction is from differences of the summed loss."""
        net = self.net.copy()
        run = Run(net, self.loss, self.batch, self.training)
        direction = signed(self.rng, run.x.shape)
        change = float(derivative(lambda h: run.first(run.x + h * direction)[1].value.sum()))
        found = float((step.input_gradient * direction).sum())
        return abs(found - change) / max(float(np.linalg.norm(step.input_gradient)), 1e-12)

    def draws(self) -> bool:
        """Whether the algorithm draws random numbers of its own: its gradient varies from step to step at inference."""
        net = self.net.copy()
        one, two = (self.algorithm.gradients(net, self.loss, self.batch, training=False) for _ in range(2))
        return not np.array_equal(one.flat_gradient, two.flat_gradient)

    def single_error(self, step: Step) -> float:
        """Return how far the gradient in float32 is from the one in float64."""
        found = self.step(self.net.copy("float32"))
        for name in ("loss", "objective", "flat_gradient", "outputs"):
            if getattr(found, name).dtype != np.float32:
                raise TypeError(f"{name} is {getattr(found, name).dtype} in a float32 network")
        return relative(found.flat_gradient, step.flat_gradient)


def _no_error(step: Step) -> float:
    if not isinstance(step, Step):
        raise TypeError(f"gradients returns {type(step).__name__}; it must be a Step")
    return 0.0
