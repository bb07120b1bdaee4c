"""Parsing: errors in one line that name the nearest known word, and arguments that several commands share."""
from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from convnet.experiment import Levels, Setup

DEFAULTS = Setup()


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors take one line."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        """Write the message in one line and exit with status 2."""
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if choice:
            message += nearest(choice[1], re.findall(r"[\w-]+", choice[2]))
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and refuse an unknown option where it is met, with the nearest known one."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            options = [name for name in self._option_string_actions if name.startswith("--")]
            self.error(f"unrecognized arguments: {' '.join(unknown)}{nearest(unknown[0].split('=')[0], options)}")
        return found, unknown


def nearest(word: str, known: Sequence[str]) -> str:
    """Return a hint at the known word that is most like `word`, or nothing."""
    near = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def add_command(subparsers: Any, name: str, summary: str, example: str) -> Parser:
    """Add a command whose help ends in an example."""
    return subparsers.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"examples:\n{example}", formatter_class=argparse.RawDescriptionHelpFormatter)


def numbers(text: str) -> tuple[float, ...]:
    """Parse a list of numbers with commas between them; an empty text gives none."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers like 0.1,0.2") from None


def seeds(text: str) -> tuple[int, ...]:
    """Parse a number of seeds, counted from 0, or a list of seeds: "3" and "0,1,2" are the same."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    chosen = tuple(range(values[0])) if len(values) == 1 else tuple(dict.fromkeys(values))
    if not chosen or min(chosen) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of seeds, at least 1, nor a list like 0,1,2")
    return chosen


def add_data_arguments(parser: argparse.ArgumentParser, dataset: str | None = DEFAULTS.dataset) -> None:
    """Add the choice of data."""
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", default=dataset, metavar="NAME",
                       help="data set, .npz file or folder of images" + (" (default: %(default)s)" if dataset else ""))
    group.add_argument("--data-root", metavar="FOLDER",
                       help="folder of data sets (default: $CONVNET_DATA, else the user's cache)")
    group.add_argument("--image-size", type=int, metavar="N", help="scale and crop the images of a folder to N×N pixels")
    group.add_argument("--subset", type=int, metavar="N", help="train on N images, drawn by the seed")
    group.add_argument("--per-class", type=int, metavar="N", help="train on N images of each class")
    group.add_argument("--normalization", metavar="NAME",
                       help="mean-image, scale or local-contrast (default: local-contrast for SVHN, else mean-image)")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the choice of network and training."""
    group = parser.add_argument_group("network and training")
    group.add_argument("--network", metavar="NAME", help="digits, mnist, cifar, small or resnet (default: by data set)")
    group.add_argument("--dropout", type=float, default=DEFAULTS.dropout, metavar="RATE",
                       help="dropout before the last layer (default: %(default)s)")
    group.add_argument("--augmentation", metavar="NAME",
                       help="vary every training image at random, as the papers do: mnist, cifar or svhn (default: not)")
    group.add_argument("--initialization", default=DEFAULTS.initialization, metavar="RULE",
                       help="he, glorot or authors (default: %(default)s)")
    group.add_argument("--epochs", type=int, default=DEFAULTS.epochs, metavar="N", help="default: %(default)s")
    group.add_argument("--batch-size", type=int, default=DEFAULTS.batch_size, metavar="N", help="default: %(default)s")
    group.add_argument("--optimizer", default=DEFAULTS.optimizer, metavar="SPEC",
                       help="sgd, adagrad, rmsprop or adam with options (default: %(default)s)")
    group.add_argument("--schedule", default=DEFAULTS.schedule, metavar="SPEC",
                       help="constant, exponential, step or cosine with options (default: %(default)s)")
    group.add_argument("--test-every", type=int, default=DEFAULTS.test_every, metavar="N",
                       help="test after every N epochs, and after the last (default: %(default)s)")
    group.add_argument("--dtype", default=DEFAULTS.dtype, metavar="TYPE", help="float32 or float64 (default: %(default)s)")
    group.add_argument("--device", default=DEFAULTS.device, metavar="NAME", help="cpu, gpu or auto (default: %(default)s)")
    group.add_argument("--quiet", action="store_true", help="no progress bar and no lines about single runs")


def add_level_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how hard networks are tested."""
    group = parser.add_argument_group("robustness")
    group.add_argument("--noise", type=numbers, default=(0.1, 0.2, 0.3, 0.4, 0.5), metavar="σ,...",
                       help="deviations of Gaussian noise on test images, 1 being full intensity (default: 0.1,...,0.5)")
    group.add_argument("--fgsm", type=numbers, default=(0.02, 0.05, 0.1, 0.15, 0.2), metavar="ε,...",
                       help="lengths of a step along the sign of the loss's gradient (default: 0.02,0.05,0.1,0.15,0.2)")


def setup_from(arguments: argparse.Namespace, **more: Any) -> Setup:
    """Return the setup that the arguments describe."""
    names = ("dataset", "image_size", "subset", "per_class", "normalization", "network", "dropout", "augmentation",
             "initialization", "epochs", "batch_size", "optimizer", "schedule", "test_every", "dtype", "device")
    return Setup(root=arguments.data_root, **{name: getattr(arguments, name) for name in names}, **more)


def levels_from(arguments: argparse.Namespace) -> Levels:
    """Return the robustness levels that the arguments describe."""
    return Levels(arguments.noise, arguments.fgsm)


def say(line: str) -> None:
    """Write a line about what has been done to standard error."""
    print(line, file=sys.stderr, flush=True)
