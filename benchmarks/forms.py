"""How far the published gradient of a penalty is from the exact one, through training.

    python -m benchmarks.forms [--networks digits,mnist] [--data-root FOLDER] [--steps 1000] [--table FILE] [--plot FILE]

A network is trained with plain backpropagation (learning rate 0.1, the authors' momentum 0.9, batch 32). At some steps the
gradient of the penalty alone is computed in both forms on the same batch of 256 training images; the rows are the cosine
between the two and the length of the published one over that of the exact one. 1 and 1 would mean that they agree.
"""
from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import convnet
from convnet import architectures
from convnet.data.tangents import tangent_vectors
from convnet.files import write_atomically, write_text
from convnet.optimizers import SGD
from convnet.passes import Backprop, LossIBP, PredictionIBP, TangentProp

DATA = {"digits": "digits", "mnist": "mnist", "cifar": "cifar10"}
PENALTIES = {
    "Loss IBP, r = 1": lambda exact: LossIBP(1.0, exact=exact),
    "Loss IBP, r = 2": lambda exact: LossIBP(1.0, norm=2, exact=exact),
    "Fast tangent propagation, r = 1": lambda exact: TangentProp(1.0, fast=True, exact=exact),
    "Prediction IBP, r = 1": lambda exact: PredictionIBP(1.0, exact=exact),
}


def comparison(net: Any, loss: Any, batch: convnet.Batch) -> dict[str, tuple[float, float]]:
    """Return (cosine, norm ratio) of the published to the exact penalty gradient for each penalty."""
    plain = Backprop().gradients(net, loss, batch).flat_gradient.astype(float)
    found = {}
    for name, make in PENALTIES.items():
        published, exact = (make(form).gradients(net, loss, batch).flat_gradient - plain for form in (False, True))
        lengths = np.linalg.norm(published), np.linalg.norm(exact)
        found[name] = (float(published @ exact / (lengths[0] * lengths[1])), float(lengths[0] / lengths[1]))
    return found


def through_training(network: str, root: str | None, moments: list[int]) -> list[dict[str, Any]]:
    """Train `network` with backpropagation and return a row for each moment (number of steps) and penalty."""
    data = convnet.data.load(DATA[network], root).prepared()
    net = architectures.build(network, data.input_shape, len(data.classes))
    loss, optimizer, rng = convnet.losses.SoftmaxCrossEntropy(), SGD(0.1, momentum=0.9, dampening=0.9), np.random.default_rng(0)
    tangents = tangent_vectors(data.train_images[:256])
    probe = convnet.Batch(data.train_images[:256], data.train_labels[:256], tangents.astype(np.float32))
    rows = []
    for step in range(max(moments) + 1):
        if step in moments:
            value = float(Backprop().gradients(net, loss, probe).loss)
            rows += [{"network": network, "step": step, "loss": value, "penalty": name, "cosine": cosine, "ratio": ratio}
                     for name, (cosine, ratio) in comparison(net, loss, probe).items()]
        chosen = rng.integers(0, len(data.train_labels), 32)
        batch = convnet.Batch(data.train_images[chosen], data.train_labels[chosen])
        optimizer.update(net, Backprop().gradients(net, loss, batch))
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table: a column for each penalty, cosine and norm ratio."""
    lines = [f"| network | steps | loss | {' | '.join(PENALTIES)} |", f"|{'---|' * (3 + len(PENALTIES))}"]
    for network, step in dict.fromkeys((row["network"], row["step"]) for row in rows):
        chosen = {row["penalty"]: row for row in rows if (row["network"], row["step"]) == (network, step)}
        cells = [f"{chosen[name]['cosine']:.2f}, {chosen[name]['ratio']:.3f}" for name in PENALTIES]
        loss = next(iter(chosen.values()))["loss"]
        lines.append(f"| {network} | {step} | {loss:.4f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(rows: list[dict[str, Any]], path: str) -> None:
    """Draw cosine and norm ratio against the number of steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    networks = list(dict.fromkeys(row["network"] for row in rows))
    figure, axes = plt.subplots(2, len(networks), figsize=(5 * len(networks), 6.5), sharex=True, sharey="row", squeeze=False)
    colours = ["#0072b2", "#56b4e9", "#009e73", "#d55e00"]
    for column, network in enumerate(networks):
        for name, colour in zip(PENALTIES, colours, strict=True):
            line = [row for row in rows if (row["network"], row["penalty"]) == (network, name)]
            steps = [row["step"] + 1 for row in line]
            axes[0, column].plot(steps, [row["cosine"] for row in line], "o-", color=colour, label=name)
            axes[1, column].plot(steps, [row["ratio"] for row in line], "o-", color=colour)
        axes[0, column].set_title(network)
        axes[0, column].axhline(0, color="0.7", linewidth=0.8)
        axes[1, column].set(xscale="log", yscale="log", xlabel="training steps + 1")
    axes[0, 0].set_ylabel("cosine")
    axes[1, 0].set_ylabel("‖published‖ / ‖exact‖")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="lower center", ncols=2, frameon=False)
    figure.suptitle("The published gradient of the penalty against the exact one")
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    write_atomically(path, lambda file: figure.savefig(file, dpi=120, format="png"))


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="digits")
    parser.add_argument("--data-root")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--table")
    parser.add_argument("--plot")
    options = parser.parse_args()
    moments = [step for step in (0, 3, 10, 30, 100, 300, 1000, 3000) if step <= options.steps]
    rows = [row for network in options.networks.split(",") for row in through_training(network, options.data_root, moments)]
    print(table(rows))
    if options.table:
        write_text(options.table, table(rows))
    if options.plot:
        draw(rows, options.plot)


if __name__ == "__main__":
    main()
