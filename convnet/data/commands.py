"""The command ``convnet datasets``: list, fetch, verify and prepare data sets."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convnet.data.prepare import NORMALIZATIONS, prepare, usual_normalization
from convnet.data.registry import ROOT_VARIABLE, SOURCES, cache_root, data_root, find, known_names, load

_EXAMPLE = """\
examples:
  convnet datasets list
  convnet datasets fetch mnist --root ~/data
  convnet datasets verify cifar10
  convnet datasets prepare svhn-extra
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add ``datasets`` to the subcommands of a command line.

    The parser's default ``run`` is a function of the parsed arguments that returns the exit status, and raises what
    the called functions raise.
    """
    parser = subparsers.add_parser("datasets", help="list, fetch, verify and prepare data sets",
                                   description="List, fetch, verify and prepare data sets.", epilog=_EXAMPLE,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    add_commands(parser)
    return parser


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the commands to a parser of their own."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="{list,fetch,verify,prepare}")
    root = argparse.ArgumentParser(add_help=False)
    root.add_argument("--root", type=Path, help=f"folder of data sets (default: ${ROOT_VARIABLE}, else the user's cache)")

    listing = commands.add_parser("list", parents=[root], help="show what is known, and what is present")
    listing.set_defaults(run=_list)

    fetching = commands.add_parser("fetch", parents=[root], help="download what is missing, and verify it")
    fetching.add_argument("names", nargs="+", metavar="name", help="a data set that 'list' shows")
    fetching.add_argument("--quiet", action="store_true", help="no progress bars")
    fetching.add_argument("--retries", type=int, default=3, help="repetitions after a failure (default: %(default)s)")
    fetching.add_argument("--timeout", type=float, default=30.0,
                          help="seconds until a silent server is given up (default: %(default)g)")
    fetching.set_defaults(run=_fetch)

    verifying = commands.add_parser("verify", parents=[root], help="compare a copy with the published checksums")
    verifying.add_argument("names", nargs="+", metavar="name")
    verifying.set_defaults(run=_verify)

    preparing = commands.add_parser("prepare", parents=[root], help="make and keep what takes long to prepare")
    preparing.add_argument("names", nargs="+", metavar="name")
    preparing.add_argument("--normalization", choices=NORMALIZATIONS,
                           help="default: local-contrast for SVHN, mean-image for all others")
    preparing.add_argument("--cache", type=Path, help="folder for prepared images (default: in the user's cache)")
    preparing.set_defaults(run=_prepare)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command by itself and return the exit status: 2, with one line on stderr, if it fails."""
    parser = argparse.ArgumentParser(description="List, fetch, verify and prepare data sets.")
    add_commands(parser)
    parsed = parser.parse_args(arguments)
    try:
        return parsed.run(parsed)
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the next call goes on from here", file=sys.stderr)
        return 130


def _list(arguments: argparse.Namespace) -> int:
    print(f"data sets under {data_root(arguments.root)}")
    width = max(map(len, known_names()))
    print(f"  {'digits':{width}}  in the package  handwritten digits, 8x8 grey")
    for name, source in SOURCES.items():
        try:
            where = str(find(name, arguments.root))
        except FileNotFoundError:
            where = "absent"
        print(f"  {name:{width}}  {where}  {source.title}")
    return 0


def _fetch(arguments: argparse.Namespace) -> int:
    from convnet.data.fetch import fetch

    for name in arguments.names:
        folder = fetch(name, arguments.root, progress=not arguments.quiet, retries=arguments.retries,
                       timeout=arguments.timeout)
        print(f"{name} is in {folder}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from convnet.data.verify import DAMAGED, verify

    damaged = False
    for name in arguments.names:
        for finding in verify(name, arguments.root):
            damaged |= finding.state == DAMAGED
            print(f"{finding.path}: {finding.state}" + (f" ({finding.reason})" if finding.reason else ""))
    return 1 if damaged else 0


def _prepare(arguments: argparse.Namespace) -> int:
    cache = arguments.cache or cache_root() / "prepared"
    for name in arguments.names:
        normalization = arguments.normalization or usual_normalization(name)
        dataset = prepare(load(name, arguments.root), normalization, cache=cache)
        kept = f", kept in {cache}" if normalization == "local-contrast" else ""
        print(f"{dataset!r}: {NORMALIZATIONS[normalization]}{kept}")
    return 0
