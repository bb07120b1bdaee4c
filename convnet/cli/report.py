"""``convnet report``: show what has finished of an experiment beside the paper's numbers."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from convnet.cli.parser import add_command, say
from convnet.cli.reproduce import add_choice_arguments, chosen, command_for

EXAMPLE = """\
  convnet report 002-table1-mnist --scale cpu
  convnet report 002-table1-mnist 002-table1-cifar10 --scale full --to docs/results

It runs nothing: it shows whatever 'convnet reproduce' with the same options has finished so far.
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add ``report`` to the commands."""
    parser = add_command(subparsers, "report", "show what has finished of an experiment beside the paper", EXAMPLE)
    add_choice_arguments(parser)
    parser.add_argument("--to", metavar="FOLDER", help="where to write the report (default: reports in the store)")
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Write the reports."""
    from convnet.reproduce.report import build, write
    from convnet.reproduce.store import Store

    store = Store(Path(arguments.output), say)
    store.check_present()
    folder = Path(arguments.to) if arguments.to else store.folder / "reports"
    for name, definition in zip(arguments.names, chosen(arguments), strict=True):
        for path in write(build(definition, store, arguments.select_on_test, command_for(name, arguments)), folder):
            print(path)
    return 0
