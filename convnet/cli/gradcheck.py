"""``convnet gradcheck``: check all passes of all layers, and all algorithms, against numerical derivatives."""
from __future__ import annotations

import argparse
from typing import Any

from convnet.cli.parser import add_command

EXAMPLE = """\
  convnet gradcheck
  convnet gradcheck softmax "loss IBP" --verbose

Everything is computed in float64 with the kernels in use, and once in float32. "differences" are the errors against
central differences, "identities" those of equations that hold to rounding, such as u·(J t) = (J^T u)·t.
The exit status is 1 if anything failed.
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add ``gradcheck`` to the commands."""
    parser = add_command(subparsers, "gradcheck", "check the passes of all layers and the gradients of all algorithms", EXAMPLE)
    parser.add_argument("names", nargs="*", metavar="NAME", help="check only what has one of these words in its name")
    parser.add_argument("--verbose", action="store_true", help="show every check")
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Run the checks; return 1 if one failed."""
    from convnet import kernels
    from convnet.gradcheck import lines, subjects

    failed = 0
    chosen = subjects(arguments.names)
    for line, good in lines(chosen, arguments.verbose):
        print(line, flush=True)
        failed += not good
    print(f"\n{len(chosen) - failed} of {len(chosen)} correct, with the kernels {kernels.cpu().name!r}")
    return 1 if failed else 0
