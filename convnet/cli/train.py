"""``convnet train``: train one network and save it."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from convnet.cli.parser import (
    add_command,
    add_data_arguments,
    add_level_arguments,
    add_training_arguments,
    levels_from,
    say,
    setup_from,
)

EXAMPLE = """\
  convnet train --algorithm loss-ibp:beta=0.01 --output runs/ibp
  convnet train --dataset mnist --epochs 40 --algorithm fast-at:epsilon=0.03 --output runs/mnist-at

The folder then holds network.npz, network.json (settings and test errors), history.csv, history.json, and
checkpoint.npz, from which the same command goes on after an interruption or with more epochs.
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add ``train`` to the commands."""
    parser = add_command(subparsers, "train", "train one network and save it with its history", EXAMPLE)
    parser.add_argument("--algorithm", default="bp", metavar="SPEC",
                        help="algorithm with its options; 'convnet compare --help' lists them (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of initial weights, subset and shuffling (default: %(default)s)")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder for the network and its history")
    parser.add_argument("--again", action="store_true", help="start over, even if there is a checkpoint")
    add_data_arguments(parser)
    add_training_arguments(parser)
    add_level_arguments(parser)
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Train."""
    from convnet.algorithms import by_spec
    from convnet.checkpoint import NAME
    from convnet.cli.evaluate import error_table
    from convnet.cli.info import slow_kernels
    from convnet.experiment import Experiment
    from convnet.history import History

    algorithm, levels = by_spec(arguments.algorithm), levels_from(arguments)
    folder = Path(arguments.output)
    experiment = Experiment(setup_from(arguments), folder, progress=False if arguments.quiet else None)
    hint = slow_kernels(experiment.kernels)
    if hint:
        say(hint)
    if arguments.again:
        experiment.check(algorithm)
        # All of it, since a run that fails writes no network, and its settings must not stand beside another's.
        for file in (folder / NAME, *History.files(folder), folder / "network.json", folder / "network.npz"):
            file.unlink(missing_ok=True)
    trained = experiment.finish(folder / "network.json", folder, algorithm, arguments.seed, levels, label=arguments.algorithm)
    if trained.problem is not None:
        raise FloatingPointError(trained.problem)
    print(error_table(trained.test_error, levels, trained.noise_errors, trained.fgsm_errors))
    print(f"\nthe network and its history are in {folder}")
    return 0
