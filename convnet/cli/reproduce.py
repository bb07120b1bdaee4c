"""``convnet reproduce``: run what a table or figure of the papers is made of, and report it beside the paper's numbers."""
from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convnet.cli.parser import add_command, say

if TYPE_CHECKING:
    from convnet.reproduce.definition import Definition
    from convnet.reproduce.store import Store

SCALES = ("quick", "cpu", "full")
OUTPUT = "runs/reproduce"

EXAMPLE = """\
  convnet reproduce --list
  convnet reproduce 002-table1-mnist --scale cpu
  convnet reproduce 002-table1-mnist --scale full --scheduler tcp://host:8786 --output /shared/runs
  convnet reproduce own.toml --seeds 5 --epochs 20

Finished runs are kept and never done again; after an interruption the same command goes on.
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add ``reproduce`` to the commands."""
    parser = add_command(subparsers, "reproduce", "run an experiment of the papers and report it", EXAMPLE)
    add_choice_arguments(parser)
    parser.add_argument("--list", action="store_true", help="show the experiments, their size and their time here")
    group = parser.add_argument_group("where it runs")
    group.add_argument("--device", default="cpu", metavar="NAME", help="cpu, gpu or auto (default: %(default)s)")
    group.add_argument("--processes", type=int, metavar="N",
                       help="runs at a time; they share this machine's threads (default: one a core, on a GPU one)")
    group.add_argument("--scheduler", metavar="ADDRESS",
                       help="a Dask scheduler, as in tcp://host:8786; --output must be a folder that its workers share")
    group.add_argument("--data-root", metavar="FOLDER",
                       help="folder of data sets (default: $CONVNET_DATA, else the user's cache)")
    group.add_argument("--quiet", action="store_true", help="no progress bar, and no lines about single runs")
    parser.set_defaults(run=run)
    return parser


def add_choice_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``reproduce`` and ``report`` share: which experiments, at which scale, in which store."""
    parser.add_argument("names", nargs="*", metavar="EXPERIMENT", help="names, or own .toml files")
    group = parser.add_argument_group("scale")
    group.add_argument("--scale", choices=SCALES, default="quick",
                       help="how far epochs, seeds and grids are reduced (default: %(default)s)")
    for name, what in (("seeds", "seeds"), ("epochs", "epochs"), ("turns", "folds that coefficients are judged by"),
                       ("choices", "values of each coefficient"), ("images", "training images at most")):
        group.add_argument(f"--{name}", type=int, metavar="N", help=f"number of {what}, in place of the scale's")
    group.add_argument("--select-on-test", action="store_true",
                       help="choose coefficients by the error on the test images, as some papers did; the report says so")
    parser.add_argument("--output", default=OUTPUT, metavar="FOLDER", help="store and reports (default: %(default)s)")


def chosen(arguments: argparse.Namespace) -> list[Definition]:
    """Return the experiments that are asked for, at their scale."""
    from convnet.reproduce.reading import find, names
    from convnet.reproduce.scales import scaled

    if not arguments.names:
        raise ValueError(f"name an experiment: one of {', '.join(names())}, or an own .toml file")
    found = [scaled(find(name), arguments.scale, **limits(arguments)) for name in arguments.names]
    twice = [one for one in found if [other.name for other in found].count(one.name) > 1]
    if twice:
        raise ValueError(f"two experiments are called {twice[0].name!r}, and one's report would replace the other's: "
                         "rename a file")
    return found


def limits(arguments: argparse.Namespace) -> dict[str, int | None]:
    """Return the limits that are given."""
    return {name: getattr(arguments, name) for name in ("seeds", "epochs", "turns", "choices", "images")}


def command_for(name: str, arguments: argparse.Namespace) -> str:
    """Return the command that makes an experiment's runs."""
    options = [f"--{key}={value}" for key, value in limits(arguments).items() if value is not None]
    options += ["--select-on-test"] if arguments.select_on_test else []
    return shlex.join(["convnet", "reproduce", name, f"--scale={arguments.scale}", *options])


def run(arguments: argparse.Namespace) -> int:
    """Run the experiments; return 1 if something is still missing."""
    from convnet.devices import array_library
    from convnet.reproduce.driver import at, reproduce, shares
    from convnet.reproduce.report import build, write
    from convnet.reproduce.store import Store

    if arguments.processes is not None:
        if arguments.processes < 1:
            raise ValueError(f"--processes is {arguments.processes}; it must be at least 1")
        if arguments.scheduler:
            raise ValueError("--processes and --scheduler exclude each other: 'dask worker --nthreads' says how many jobs a "
                             "worker does at a time")
    store = Store(Path(arguments.output), say)
    if arguments.device != "auto":  # which only warns, and does so when the networks are made
        array_library(arguments.device)
    if arguments.list:
        list_experiments(arguments, store)
        return 0
    definitions = chosen(arguments)
    store.check_writable()
    processes, threads = shares(arguments.processes, arguments.device)
    quiet = arguments.quiet
    if not quiet and not arguments.scheduler:
        say(f"{processes} process{'es' if processes > 1 else ''} at a time, {threads} thread{'s' if threads > 1 else ''} each")
    missing = False
    for name, definition in zip(arguments.names, definitions, strict=True):
        result = reproduce(at(definition, arguments.data_root, arguments.device), store, processes=processes, threads=threads,
                           scheduler=arguments.scheduler, on_test=arguments.select_on_test,
                           progress=False if quiet else None, say=(lambda line: None) if quiet else say)
        report = build(definition, store, arguments.select_on_test, command_for(name, arguments), result.skipped)
        page, *_ = write(report, Path(arguments.output) / "reports")
        missing |= bool(report.missing or result.failures)
        left = f", {len(report.missing)} things are missing: the report says what" if report.missing else ""
        print(f"{definition.name}: {result.done} jobs done, {len(result.failures)} failed{left}; report in {page}")
    return 1 if missing else 0


def list_experiments(arguments: argparse.Namespace, store: Store) -> None:
    """Print every experiment with its place in the papers, its number of jobs and the time of what is missing, here."""
    from convnet.comparison import aligned
    from convnet.reproduce.driver import at, estimate
    from convnet.reproduce.notes import duration
    from convnet.reproduce.reading import find, names
    from convnet.reproduce.scales import scaled

    lines = [["experiment", "paper", "jobs", "time here"]]
    for name in arguments.names or names():
        definition = scaled(find(name), arguments.scale, **limits(arguments))
        count, seconds = estimate(at(definition, arguments.data_root, arguments.device), store)
        place = definition.shows if definition.paper == "ours" else \
            f"{definition.paper}, {definition.section}, {definition.shows}"
        lines.append([name, place, str(count), "no data" if seconds is None else duration(seconds) if seconds else "finished"])
    print(aligned(lines))
    print(f"\nat scale {arguments.scale}, for what is missing in {arguments.output}, one run after another; "
          "--scale quick, cpu or full changes it")
