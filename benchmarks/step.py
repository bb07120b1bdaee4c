"""Time of one training step: each algorithm, against plain backpropagation and against PyTorch in the same run.

    python -m benchmarks.step [--networks mnist,cifar,resnet] [--batches 32,128] [--rounds 30] [--json FILE] [--plot FILE]

For every network and batch size all steps take turns, ours (gradient and SGD update) and PyTorch's in both of its memory
layouts; the better one is the peer. A row shows our step in ms (median, quartiles), its ratio to our backpropagation beside
the ratio of the matrix products' operations, PyTorch's step and the ratio to it, the number of matrix products that were run,
and GFLOP/s. The first lines give the machine and the same run's ceiling for a matrix product.
"""
from __future__ import annotations

import argparse
import importlib.util
import json
from typing import Any

import numpy as np

import convnet
from benchmarks.counting import CountingKernels
from benchmarks.timing import interleaved, machine, product_ceiling
from convnet import architectures, kernels
from convnet.optimizers import SGD
from convnet.passes import (
    AdversarialTraining,
    Backprop,
    DoubleBackprop,
    HessianFrobenius,
    JacobianRegularizer,
    LossIBP,
    NoiseInjection,
    PredictionIBP,
    TangentProp,
)

ALGORITHMS = {
    "bp": Backprop(),
    "noise": NoiseInjection(0.1),
    "loss-ibp": LossIBP(0.01),
    "loss-ibp exact": LossIBP(0.01, exact=True),
    "double-backprop": DoubleBackprop(0.01),
    "prediction-ibp": PredictionIBP(0.01),
    "prediction-ibp exact": PredictionIBP(0.01, exact=True),
    "fast-tangent-prop": TangentProp(0.01, fast=True),
    "tangent-prop": TangentProp(0.01),
    "at": AdversarialTraining(0.03),
    "fast-at": AdversarialTraining(0.03, fast=True),
    "jacobian": JacobianRegularizer(0.01),
    "hessian-frobenius db1": HessianFrobenius(0.01, "db1"),
}
# Which of PyTorch's steps has the same objective.
PEER = {"loss-ibp exact": "loss-ibp", "double-backprop": "loss-ibp", "prediction-ibp exact": "prediction-ibp"}
SHAPES = {"mnist": (28, 28, 1), "cifar": (32, 32, 3), "resnet": (32, 32, 3), "small": (28, 28, 1)}


def measure(network: str, batch_size: int, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each algorithm, and one for inference."""
    rng = np.random.default_rng(0)
    shape = SHAPES[network]
    images = rng.standard_normal((batch_size, *shape)).astype(np.float32)
    labels = rng.integers(0, 10, batch_size)
    tangents = rng.standard_normal((batch_size, 5, *shape)).astype(np.float32)
    batch, loss = convnet.Batch(images, labels, tangents), convnet.losses.SoftmaxCrossEntropy()

    def step_of(algorithm: Any) -> Any:
        net = architectures.build(network, shape, 10)
        optimizer = SGD(0.01, momentum=0.9)
        optimizer.start(net)

        def step() -> None:
            optimizer.update(net, algorithm.gradients(net, loss, batch))

        return step

    net = architectures.build(network, shape, 10)
    ours = {name: step_of(algorithm) for name, algorithm in ALGORITHMS.items()}
    ours["inference"] = lambda: net.forward(images)
    theirs: dict[str, Any] = {}
    if importlib.util.find_spec("torch"):
        from benchmarks.torch_peer import TorchSteps

        for layout in (False, True):
            peer = TorchSteps(net, images, labels, tangents, layout)
            theirs |= {f"torch {name} {layout}": step for name, step in {**peer.steps(), "inference": peer.forward}.items()}

    counts = {}
    for name, step in ours.items():
        with kernels.using(CountingKernels(kernels.cpu())) as counting:
            step()
        counts[name] = (counting.products, counting.operations)
    times = interleaved({**ours, **theirs}, rounds)

    rows = []
    for name in ours:
        peer_name = PEER.get(name, name)
        found = [times[key]["median"] for key in (f"torch {peer_name} False", f"torch {peer_name} True") if key in times]
        products, operations = counts[name]
        rows.append({
            "network": network, "batch": batch_size, "algorithm": name, **times[name],
            "to_bp": times[name]["median"] / times["bp"]["median"], "operations_to_bp": operations / counts["bp"][1],
            "torch": min(found) if found else None, "to_torch": times[name]["median"] / min(found) if found else None,
            "products": products, "gflops": operations / times[name]["median"] / 1e9,
        })
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    columns = ("network", "batch", "algorithm", "ms (quartiles)", "/ BP", "products' operations / BP", "PyTorch ms", "/ PyTorch",
               "products", "GFLOP/s")
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        torch_ms = f"{1e3 * row['torch']:.2f}" if row["torch"] else "–"
        to_torch = f"{row['to_torch']:.2f}" if row["torch"] else "–"
        spread = f"{1e3 * row['median']:.2f} ({1e3 * row['low']:.2f}–{1e3 * row['high']:.2f})"
        lines.append(f"| {row['network']} | {row['batch']} | {row['algorithm']} | {spread} | {row['to_bp']:.2f} | "
                     f"{row['operations_to_bp']:.2f} | {torch_ms} | {to_torch} | {row['products']} | {row['gflops']:.0f} |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: str) -> None:
    """Draw our step and PyTorch's for each algorithm, one panel for each network and batch size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = list(dict.fromkeys((row["network"], row["batch"]) for row in rows))
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 4.5), sharey=True, squeeze=False)
    for axis, (network, batch) in zip(axes[0], panels, strict=True):
        chosen = [row for row in rows if (row["network"], row["batch"]) == (network, batch)][::-1]
        height = np.arange(len(chosen))
        axis.barh(height + 0.2, [1e3 * row["median"] for row in chosen], 0.4, label="convnet", color="#0072b2")
        axis.barh(height - 0.2, [1e3 * (row["torch"] or 0) for row in chosen], 0.4, label="PyTorch", color="#e69f00")
        axis.set_yticks(height, [row["algorithm"] for row in chosen])
        axis.set_title(f"{network}, batch {batch}")
        axis.set_xlabel("ms per step")
    axes[0, 0].legend(loc="upper right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="mnist,cifar,resnet")
    parser.add_argument("--batches", default="32,128")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json")
    parser.add_argument("--plot")
    options = parser.parse_args()
    description = {**machine(), "ceiling_gflops": product_ceiling()}
    print(", ".join(f"{key} {round(value) if isinstance(value, float) else value}" for key, value in description.items()))
    rows: list[dict[str, Any]] = []
    for network in options.networks.split(","):
        for batch in map(int, options.batches.split(",")):
            rows += measure(network, batch, options.rounds)
    print(table(rows))
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": description, "rows": rows}, file, indent=1)
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
