"""``convnet evaluate``: errors of a saved network on clean test images, under Gaussian noise and under FGSM steps."""
from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convnet.cli.parser import add_command, add_data_arguments, add_level_arguments, levels_from

if TYPE_CHECKING:
    from convnet.experiment import Levels

EXAMPLE = """\
  convnet evaluate runs/ibp/network.npz
  convnet evaluate runs/ibp/network.npz --noise 0.1,0.3,0.5 --fgsm 0.05 --output runs/ibp/evaluation.csv
  convnet evaluate own.npz --dataset mnist --subset 10000

A network saved by 'convnet train' or 'compare' has a file of the same name in .json beside it, which says what data
it was trained on and how they were prepared; --dataset and its companions are for networks without one.
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add ``evaluate`` to the commands."""
    parser = add_command(subparsers, "evaluate", "measure a saved network's errors, clean, under noise and FGSM", EXAMPLE)
    parser.add_argument("network", type=Path, metavar="NETWORK", help="a network saved as .npz")
    parser.add_argument("--seed", type=int, help="seed of the training subset, whose mean image is subtracted (default: 0)")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu, gpu or auto (default: %(default)s)")
    parser.add_argument("--augmentation", metavar="NAME", help="what the training images were varied by; where it crops them, "
                                                               "test images are cropped")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the errors as .csv or .json too")
    add_data_arguments(parser, dataset=None)
    add_level_arguments(parser)
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Evaluate."""
    from convnet.data import load
    from convnet.data.prepare import prepare
    from convnet.data.registry import cache_root
    from convnet.evaluation import error_rate, fgsm_errors, noise_errors
    from convnet.experiment import augmentation_of, data_digest
    from convnet.network import Network
    from convnet.stage_comparison import padded

    if arguments.output is not None and arguments.output.suffix not in (".csv", ".json"):
        raise ValueError(f"--output is {arguments.output}; its name must end in .csv or .json")
    levels = levels_from(arguments)
    net = Network.load(arguments.network, arguments.device)
    data = data_settings(arguments)
    augmentation = augmentation_of(data["augmentation"])
    raw = load(data["dataset"], arguments.data_root, image_size=data["image_size"])
    if data["data"] not in (None, data_digest(raw)):
        raise ValueError(f"{data['dataset']} has changed since the network was trained on it; to evaluate on it as it is now, "
                         f"give --dataset {data['dataset']} with its companions")
    dataset = raw.subset(data["subset"], data["per_class"], data["seed"])
    dataset = prepare(dataset, data["normalization"], net.dtype.name, cache=cache_root() / "prepared")
    if data["side"] is not None:
        dataset = padded(dataset, data["side"])
    images, labels = dataset.test_images, dataset.test_labels
    if augmentation is not None:
        images = augmentation.central(images)
    clean = error_rate(net, images, labels)
    noisy, shifted = noise_errors(net, images, labels, levels.sigmas), fgsm_errors(net, images, labels, levels.epsilons)
    print(f"{arguments.network} on {len(labels)} test images of {dataset.name}\n")
    print(error_table(clean, levels, noisy, shifted))
    if arguments.output is not None:
        write(arguments.output, error_rows(clean, levels, noisy, shifted))
    return 0


def data_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the network was trained on: what the file beside it says, replaced by what the arguments say.

    With --dataset that file is not read, and ``data``, the digest of the images, and ``side``, what they are padded to, are None.
    """
    settings: dict[str, Any] = {"dataset": arguments.dataset, "data": None, "side": None, "image_size": None, "subset": None,
                                "per_class": None, "normalization": None, "augmentation": None, "seed": 0}
    if arguments.dataset is None:
        settings = stored_settings(arguments.network.with_suffix(".json"), settings)
    given = {name: getattr(arguments, name) for name in settings if name not in ("data", "side")}
    return settings | {name: value for name, value in given.items() if value is not None}


def stored_settings(file: Path, names: Iterable[str]) -> dict[str, Any]:
    """Return some of the settings that a training run wrote beside its network.

    Raises
    ------
    ValueError
        If there is no such file, it is not one of ours, or its run failed.
    """
    from convnet.reproduce.networks import STAGE_NETWORKS, STAGE_SIDE

    try:
        content = json.loads(file.read_text())
        side = STAGE_SIDE if content["settings"]["network"] in STAGE_NETWORKS else None
        # An image size is there only where it was given.
        problem, stored = content["problem"], {"image_size": None, "side": side, **content["settings"]}
        settings = {name: stored[name] for name in names}
    except FileNotFoundError:
        raise ValueError(f"there is no {file} that says what the network was trained on; give --dataset") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{file} does not say what the network was trained on; give --dataset") from None
    if problem is not None:
        raise ValueError(f"{file} is of a run that failed ({problem}), and the network of another; "
                         "train it again, or give --dataset")
    return settings


def error_rows(clean: float | None, levels: Levels, noisy: list[float], shifted: list[float]) -> list[dict[str, Any]]:
    """Return the errors as records (test, level, error)."""
    tests = [("clean", 0.0, clean)]
    tests += [("gaussian noise", level, error) for level, error in zip(levels.sigmas, noisy, strict=True)]
    tests += [("fgsm", level, error) for level, error in zip(levels.epsilons, shifted, strict=True)]
    return [{"test": test, "level": level, "error": error} for test, level, error in tests]


def error_table(clean: float | None, levels: Levels, noisy: list[float], shifted: list[float]) -> str:
    """Return the errors as a table."""
    from convnet.comparison import aligned

    rows = error_rows(clean, levels, noisy, shifted)
    lines = [[row["test"], f"{row['level']:g}", f"{100 * row['error']:.2f}"] for row in rows]
    return aligned([["test images", "level", "error %"], *lines])


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the records as CSV or JSON, by the name of the file."""
    from convnet.files import write_text
    from convnet.history import csv_text

    write_text(path, csv_text(rows[0], rows) if path.suffix == ".csv" else json.dumps(rows, indent=1) + "\n")
