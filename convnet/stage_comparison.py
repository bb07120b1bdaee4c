"""The scale-invariant stage against multinomial logistic regression: paper 004, section 5, on a CPU.

- ``python -m convnet.stage_comparison rates mnist --out results/rates`` trains one network for every learning rate and,
  for the scale-invariant stage, every dimension ``m`` of the targets' space, and draws the test errors over the epochs as
  Figures 1-6 do: (a) rescaled, (b) logistic, (c) the best of both.
- ``python -m convnet.stage_comparison mislabelled mnist --out results/mislabelled`` gives a share of the training images
  the label of another class and measures what that costs each stage (section 4).

Everything is trained end to end, by plain SGD on minibatches of 100, at one learning rate, without augmentation or
regularisation, as in the paper; the scale is reduced by options whose defaults the output states. Each command writes
its curves as JSON, run by run, and its figure as PNG.
"""
from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import io
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convnet.architectures_004 import NAMES, STAGES, build, loss_of
from convnet.data import Dataset, load
from convnet.data.corruption import with_label_noise
from convnet.data.folder import load_folder
from convnet.data.sampling import stratified_indices
from convnet.files import write_atomically, write_text
from convnet.layers.base import real_number, whole_number
from convnet.optimizers import SGD
from convnet.passes import Backprop
from convnet.training import NonFiniteLossError, train

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Curve", "best", "draw_curves", "draw_mislabelled", "learning_curve", "mislabelled", "padded", "rates"]

PROGRAM = "python -m convnet.stage_comparison"


@dataclass(frozen=True)
class Curve:
    """One training run.

    Attributes
    ----------
    stage : {"scale-invariant", "logistic"}
    rate : float
        Learning rate ``h``.
    dimension : int
        ``m``, the rows of ``A``.
    errors : list of float
        Fraction of test images misclassified after each epoch; of a run that ended in a cost that is not finite, NaN
        from there on.
    costs : list of float
        Mean training cost of each epoch.
    mislabelled : float
        Share of the training images with a wrong label.
    seed : int
    """

    stage: str
    rate: float
    dimension: int
    errors: list[float]
    costs: list[float]
    mislabelled: float = 0.0
    seed: int = 0

    @property
    def final(self) -> float:
        """Test error after the last epoch; infinity where the run ended before."""
        return math.inf if math.isnan(self.errors[-1]) else self.errors[-1]


def padded(dataset: Dataset, side: int) -> Dataset:
    """Return the data set with black (zero) pixels around smaller images, so that they are `side` by `side`."""
    def grown(images: np.ndarray) -> np.ndarray:
        missing = [max(0, side - n) for n in images.shape[1:3]]
        edges = [(m // 2, m - m // 2) for m in missing]
        return np.pad(images, ((0, 0), *edges, (0, 0)))

    return replace(dataset, train_images=grown(dataset.train_images), test_images=grown(dataset.test_images))


def learning_curve(
    dataset: Dataset, architecture: str, stage: str, rate: float, epochs: int, *, dimension: int | None = None,
    batch_size: int = 100, mislabelled: float = 0.0, seed: int = 0,
) -> Curve:
    """Train one network and return its test errors and costs.

    Parameters
    ----------
    dataset : Dataset
        Prepared images; the network itself subtracts each image's mean.
    architecture : str
        One of `convnet.architectures_004.NAMES`.
    stage : {"scale-invariant", "logistic"}
    rate : float
    epochs : int
    dimension : int, optional
        ``m``; the number of classes by default.
    batch_size : int
    mislabelled : float
        Share of the training labels to replace by other classes.
    seed : int
        Of the initial weights, of the order of the images and of the wrong labels.
    """
    classes = len(dataset.classes)
    net = build(architecture, dataset.input_shape, classes, stage=stage, dimension=dimension, seed=seed)
    errors: list[float] = []
    costs: list[float] = []

    def note(_: Any, epoch: Any) -> None:
        errors.append(epoch.test_error)
        costs.append(epoch.loss)

    try:
        # High rates are meant to overflow where they do; it shows in the result.
        with np.errstate(over="ignore", invalid="ignore"):
            train(net, with_label_noise(dataset, mislabelled, seed), Backprop(), SGD(rate), epochs, batch_size,
                  seed=seed, loss=loss_of(stage), progress=False, callback=note)
    except NonFiniteLossError:
        missing = [math.nan] * (epochs - len(errors))
        errors, costs = errors + missing, costs + missing
    return Curve(stage, rate, classes if dimension is None else dimension, errors, costs, mislabelled, seed)


def rates(
    dataset: Dataset, architecture: str, learning_rates: Sequence[float], dimensions: Sequence[int], epochs: int,
    *, batch_size: int = 100, seed: int = 0, report: Callable[[Curve], object] = lambda curve: None,
) -> list[Curve]:
    """Return a curve for each learning rate: of the scale-invariant stage for each dimension, and of the logistic one.

    `report` is called with each curve when it is done; other parameters as for `learning_curve`.
    """
    cases: list[tuple[str, int | None]] = [*(("scale-invariant", m) for m in dimensions), ("logistic", None)]
    curves = []
    for stage, m in cases:
        for rate in learning_rates:
            curve = learning_curve(dataset, architecture, stage, rate, epochs, dimension=m, batch_size=batch_size,
                                   seed=seed)
            report(curve)
            curves.append(curve)
    return curves


def mislabelled(
    dataset: Dataset, architecture: str, learning_rates: Sequence[float], fractions: Sequence[float], epochs: int,
    *, dimension: int | None = None, batch_size: int = 100, seeds: int = 1,
    report: Callable[[Curve], object] = lambda curve: None,
) -> list[Curve]:
    """Return a curve of both stages for each share of wrong labels, learning rate and seed."""
    curves = []
    for fraction in fractions:
        for stage in STAGES:
            for rate in learning_rates:
                for seed in range(whole_number("seeds", seeds, 1)):
                    m = dimension if stage == "scale-invariant" else None
                    curve = learning_curve(dataset, architecture, stage, rate, epochs, dimension=m,
                                           batch_size=batch_size, mislabelled=fraction, seed=seed)
                    report(curve)
                    curves.append(curve)
    return curves


def best(curves: Sequence[Curve]) -> list[Curve]:
    """Return the runs, one per seed, of the setting (rate and dimension) with the smallest mean final error."""
    settings: dict[tuple[float, int], list[Curve]] = {}
    for curve in curves:
        settings.setdefault((curve.rate, curve.dimension), []).append(curve)
    return min(settings.values(), key=lambda runs: statistics.fmean(run.final for run in runs))


def of_stage(curves: Sequence[Curve], stage: str) -> list[Curve]:
    """Return the curves of one stage."""
    return [curve for curve in curves if curve.stage == stage]


# --- figures ----------------------------------------------------------------------------------------------------------


def draw_curves(curves: Sequence[Curve], title: str, path: Path) -> None:
    """Draw test errors over epochs in the three panels of the paper's Figures 1-6, and write the figure to `path`."""
    from matplotlib.figure import Figure

    rescaled, logistic = (of_stage(curves, stage) for stage in STAGES)
    figure = Figure(figsize=(8, 9), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True, sharey=True)
    _panel(panels[0], "(a) rescaled", [(curve, f"h = {curve.rate:g}, m = {curve.dimension}") for curve in rescaled])
    _panel(panels[1], "(b) logistic", [(curve, f"h = {curve.rate:g}") for curve in logistic])
    winners = [(best(rescaled)[0], "rescaled"), (best(logistic)[0], "logistic")]
    _panel(panels[2], "(c) best of both",
           [(curve, f"{name}, h = {curve.rate:g}, m = {curve.dimension}") for curve, name in winners])
    panels[2].set_xlabel("epoch")
    figure.suptitle(title, fontsize="small")
    _save(figure, path)


def _panel(axes: Axes, title: str, lines: Sequence[tuple[Curve, str]]) -> None:
    for curve, label in lines:
        ended = "" if math.isfinite(curve.final) else ", overflows"
        axes.plot(range(1, len(curve.errors) + 1), curve.errors, marker=".", label=label + ended)
    axes.set(title=title, ylabel="test error", ylim=(0, 1))
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))


def draw_mislabelled(curves: Sequence[Curve], title: str, path: Path) -> None:
    """Draw each stage's best final error over the share of wrong labels, and write the figure to `path`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for stage in STAGES:
        shares, _, means, spreads = zip(*mislabelled_table(of_stage(curves, stage)), strict=True)
        axes.errorbar(shares, means, yerr=spreads, marker="o", label=stage)
    axes.set(xlabel="share of wrong training labels", ylabel="test error", ylim=(0, None))
    figure.suptitle(title, fontsize="small")
    axes.legend()
    _save(figure, path)


def mislabelled_table(curves: Sequence[Curve]) -> list[tuple[float, float, float, float]]:
    """Return (share, best rate, mean and standard deviation of its final errors over the seeds) for each share."""
    rows = []
    for share in sorted({curve.mislabelled for curve in curves}):
        runs = best([curve for curve in curves if curve.mislabelled == share])
        finals = [run.final for run in runs]
        spread = statistics.pstdev(finals) if all(map(math.isfinite, finals)) else math.nan
        rows.append((share, runs[0].rate, statistics.fmean(finals), spread))
    return rows


def _save(figure: Any, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_atomically(path, lambda file: file.write(content.getvalue()))


# --- commands ---------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands, see the module's text, and return the exit status as `convnet.cli.main` does."""
    from convnet.cli.main import reported

    options = _parser().parse_args(arguments)
    return reported(PROGRAM, lambda: run(options), after_interruption=f"the curves of finished runs are in {options.out}")


def run(options: argparse.Namespace) -> None:
    """Check the options, train, and write and print what came out."""
    check(options)
    dataset = load_small(options)
    dimensions = options.dimensions or [len(dataset.classes)] if options.command == "rates" else [options.dimension]
    for dimension in dimensions:
        build(options.architecture, dataset.input_shape, len(dataset.classes), dimension=dimension)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    scale = (f"{dataset.name}: {len(dataset.train_labels)} training and {len(dataset.test_labels)} test images of "
             f"{'×'.join(map(str, dataset.input_shape))}, {options.architecture}, {options.epochs} epochs")
    print(f"Reduced scale. {scale}.")
    done: list[dict[str, Any]] = []

    def report(curve: Curve) -> None:
        """Print a finished run and put all finished ones on disk, so that an interruption loses none."""
        _print_curve(curve)
        # JSON has no NaN.
        numbers = {"errors": curve.errors, "costs": curve.costs}
        finite = {name: [value if math.isfinite(value) else None for value in values] for name, values in numbers.items()}
        done.append(dataclasses.asdict(curve) | finite)
        write_text(out / "curves.json", json.dumps({"options": vars(options), "curves": done}, indent=1, allow_nan=False))

    if options.command == "rates":
        curves = rates(dataset, options.architecture, options.rates, dimensions, options.epochs,
                       batch_size=options.batch_size, seed=options.seed, report=report)
        figure = out / "curves.png"
        draw_curves(curves, scale, figure)
        for stage in STAGES:
            winner = best(of_stage(curves, stage))[0]
            print(f"best {stage}: h = {winner.rate:g}, m = {winner.dimension}, {_said(winner.final)}")
    else:
        curves = mislabelled(dataset, options.architecture, options.rates, options.fractions, options.epochs,
                             dimension=options.dimension, batch_size=options.batch_size, seeds=options.seeds,
                             report=report)
        figure = out / "mislabelled.png"
        draw_mislabelled(curves, scale, figure)
        for stage in STAGES:
            for share, rate, mean, spread in mislabelled_table(of_stage(curves, stage)):
                print(f"{stage}, {share:.0%} wrong labels: h = {rate:g}, {_said(mean, spread)}")
    if options.svm:
        from convnet.baselines import KernelSVM

        result = KernelSVM(penalty=10.0).evaluate(dataset)
        print(f"Gaussian kernel SVM on pixels: test error {result.test_error:.2%}, {result.support_vectors} support vectors")
    print(f"written: {out / 'curves.json'} and {figure}")


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot be run, as far as the options alone tell.

    Raises
    ------
    ValueError
        If a number is out of range.
    ImportError
        If the SVM is asked for and scikit-learn is not installed.
    """
    for name, least in (("per_class", 1), ("test_images", 1), ("epochs", 1), ("batch_size", 1), ("seed", 0)):
        whole_number(name, getattr(options, name), least)
    for rate in options.rates:
        SGD(rate)
    if options.command == "mislabelled":
        whole_number("seeds", options.seeds, 1)
        for fraction in options.fractions:
            real_number("fractions", fraction, 0.0, 1.0, open_high=False)
    if options.svm and importlib.util.find_spec("sklearn") is None:
        raise ImportError("--svm needs scikit-learn: pip install 'convnet-ibp[baselines]'")


def load_small(options: argparse.Namespace) -> Dataset:
    """Return the prepared data set at the scale that the options ask for.

    Raises
    ------
    ValueError
        If there are not so many images.
    """
    side = 128 if "128" in options.architecture else 32
    if Path(options.dataset).is_dir():
        dataset = load_folder(options.dataset, size=side)
    else:
        dataset = padded(load(options.dataset, options.root), side)
    dataset = dataset.subset(per_class=options.per_class, seed=options.seed)
    if options.test_images is not None and options.test_images < len(dataset.test_labels):
        chosen = stratified_indices(dataset.test_labels, size=options.test_images, classes=len(dataset.classes))
        dataset = replace(dataset, test_images=dataset.test_images[chosen], test_labels=dataset.test_labels[chosen])
    return dataset.prepared(subtract_mean=False)


def _said(error: float, spread: float | None = None) -> str:
    """Return what a final error is as words."""
    if not math.isfinite(error):
        return "the cost overflows at every rate"
    return f"test error {error:.2%}" + ("" if spread is None else f" ± {spread:.2%}")


def _print_curve(curve: Curve) -> None:
    noise = f", {curve.mislabelled:.0%} wrong labels, seed {curve.seed}" if curve.mislabelled or curve.seed else ""
    errors = " ".join(f"{100 * error:.1f}" for error in curve.errors)
    print(f"{curve.stage}, h = {curve.rate:g}, m = {curve.dimension}{noise}: test errors in % {errors}", flush=True)


def _parser() -> argparse.ArgumentParser:
    from convnet.cli.parser import Parser

    parser = Parser(prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("rates", "test errors over learning rates and dimensions"),
                       ("mislabelled", "test errors over the share of wrong training labels")):
        command = commands.add_parser(name, help=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        command.add_argument("dataset", help="a name such as mnist or cifar10, or a folder of images by class")
        command.add_argument("--root", help="folder of data sets")
        command.add_argument("--architecture", choices=NAMES, default="complex-smaller")
        command.add_argument("--per-class", type=int, default=100, help="training images of each class")
        command.add_argument("--test-images", type=int, default=1000, help="test images, over all classes")
        command.add_argument("--epochs", type=int, default=8)
        command.add_argument("--batch-size", type=int, default=100)
        command.add_argument("--rates", type=float, nargs="+", default=[0.01, 0.1, 1.0, 10.0, 100.0])
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--svm", action="store_true", help="also measure a Gaussian kernel SVM (scikit-learn)")
        command.add_argument("--out", default=f"results/{name}", help="folder for curves.json and the figure")
        if name == "rates":
            command.add_argument("--dimensions", type=int, nargs="+", help="m; the number of classes if not given")
        else:
            command.add_argument("--fractions", type=float, nargs="+", default=[0.0, 0.2, 0.4])
            command.add_argument("--dimension", type=int, help="m; the number of classes if not given")
            command.add_argument("--seeds", type=int, default=2)
    return parser


if __name__ == "__main__":
    sys.exit(main())
