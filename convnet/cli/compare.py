"""``convnet compare``: train one network with several algorithms and seeds, and tabulate errors, robustness and time."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from convnet.algorithms import KNOWN
from convnet.cli.parser import (
    DEFAULTS,
    add_command,
    add_data_arguments,
    add_level_arguments,
    add_training_arguments,
    levels_from,
    say,
    seeds,
    setup_from,
)
from convnet.specs import split

ALGORITHMS = "bp,loss-ibp:beta=0.01|0.03|0.1,loss-ibp:beta=0.01|0.03|0.1,exact=true,fast-at:epsilon=0.02|0.05"

EXAMPLE = """\
  convnet compare
  convnet compare --algorithms bp,loss-ibp:beta=0.01|0.03,exact=true --seeds 5
  convnet compare --dataset mnist --subset 10000 --epochs 80 --algorithms bp,loss-ibp:beta=0.03 --seeds 3

algorithms:
""" + "\n".join(f"  {kind.usage(name)}" for name, kind in KNOWN.items())


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add ``compare`` to the commands."""
    parser = add_command(subparsers, "compare", "train one network with several algorithms and compare them", EXAMPLE)
    parser.add_argument("--algorithms", default=ALGORITHMS, metavar="LIST",
                        help="algorithms with their options, with commas between them; of values like beta=0.01|0.03 the "
                             "one with the lowest error on held-back training images is taken (default: bp, loss-ibp in "
                             "the published and the exact form, and fast-at, each with a choice of coefficients)")
    parser.add_argument("--seeds", type=seeds, default=(0, 1, 2), metavar="N", help="number of seeds, or a list (default: 3)")
    parser.add_argument("--validation", type=float, default=DEFAULTS.validation, metavar="SHARE",
                        help="share of the training images held back to choose coefficients (default: %(default)s)")
    parser.add_argument("--name", help="name of the folder for the results (default: by data set)")
    parser.add_argument("--output", default="runs", metavar="FOLDER", help="where that folder is (default: %(default)s)")
    parser.add_argument("--again", action="store_true", help="train finished runs again")
    add_data_arguments(parser)
    add_training_arguments(parser)
    add_level_arguments(parser)
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Run the comparison."""
    from convnet.cli.info import slow_kernels
    from convnet.comparison import compare, table, write_results
    from convnet.experiment import Experiment
    from convnet.plots import learning_curves, robustness_curves

    levels = levels_from(arguments)
    setup = setup_from(arguments, validation=arguments.validation)
    folder = Path(arguments.output) / (arguments.name or default_name(arguments))
    quiet = arguments.quiet
    experiment = Experiment(setup, folder, (lambda line: None) if quiet else say, False if quiet else None)
    hint = slow_kernels(experiment.kernels)
    if hint:
        say(hint)
    rows = compare(experiment, split(arguments.algorithms), arguments.seeds, levels, arguments.again)
    write_results(folder, experiment, rows, levels)
    learning_curves(rows, folder / "learning_curves.png")
    robustness_curves(rows, levels, folder / "robustness_curves.png")
    count = len(arguments.seeds)
    print(f"{experiment.raw.name}, network {experiment.setup.network}, {setup.epochs} epochs, "
          f"{count} seed{'s' if count > 1 else ''}{': mean ± standard deviation' if count > 1 else ''}\n")
    print(table(rows, levels))
    print(f"\nresults.csv, results.json, learning_curves.png and robustness_curves.png are in {folder}")
    return 0


def default_name(arguments: argparse.Namespace) -> str:
    """Return a folder name from the choice of data."""
    parts = [Path(arguments.dataset).stem, arguments.network, arguments.subset,
             f"{arguments.per_class}-per-class" if arguments.per_class else None]
    return "-".join(str(part) for part in parts if part)
