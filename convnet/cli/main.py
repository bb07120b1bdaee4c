"""The entry point: commands, errors in one line, interruption."""
from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence

import convnet
from convnet.cli import compare, evaluate, gradcheck, info, report, reproduce, train
from convnet.cli.parser import Parser
from convnet.data import commands as datasets
from convnet.devices import DeviceError, allow_tf32

EXAMPLES = """\
examples:
  convnet compare
  convnet train --algorithm loss-ibp:beta=0.01 --output runs/ibp
  convnet evaluate runs/ibp/network.npz
  convnet info
"""

# What wrong input, a missing file or device, or a learning rate that is too high may raise.
EXPECTED = (ValueError, TypeError, OSError, DeviceError, ImportError, MemoryError, FloatingPointError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status.

    Returns
    -------
    int
        0 for success, 1 for a check that failed, 2 for wrong input (with one line on standard error), 130 after Ctrl-C.
    """
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)

    def run() -> int | None:
        allow_tf32(getattr(arguments, "tf32", False))
        return arguments.run(arguments)

    return reported(f"convnet {arguments.command}", run, arguments.traceback)


def reported(name: str, run: Callable[[], int | None], traceback: bool = False,
             after_interruption: str = "what is finished is kept, and the same command goes on from there") -> int:
    """Call `run` and return the exit status; warnings and what went wrong take one line each on standard error.

    Parameters
    ----------
    name : str
        The command, for these lines.
    run : callable
        Returns the exit status, None for success.
    traceback : bool
        Let errors through.
    after_interruption : str
        What is said after Ctrl-C.
    """
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"{name}: warning: {message}", file=sys.stderr)
        try:
            return run() or 0
        except KeyboardInterrupt:
            print(f"\n{name}: interrupted; {after_interruption}", file=sys.stderr)
            return 130
        except BrokenPipeError:
            # The reader of the output has gone, and nobody is left to tell.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except EXPECTED as error:
            if traceback:
                raise
            print(f"{name}: error: {one_line(error)}", file=sys.stderr)
            return 2


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = Parser(prog="convnet", description=convnet.__doc__.splitlines()[0], epilog=EXAMPLES,  # type: ignore[union-attr]
                 formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--version", action="version", version=f"convnet {convnet.__version__}")
    top.add_argument("--traceback", action="store_true", help="show where an error arose")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (compare, reproduce, report, train, evaluate, datasets, gradcheck, info):
        added = command.add_parser(subparsers)
        added.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS, help="show where an error arose")
        if command in (compare, train, evaluate):
            added.add_argument("--tf32", action="store_true", help="let a GPU round the factors of float32 products to 10 bits")
    return top


def one_line(error: BaseException) -> str:
    """Return the message of an error without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
