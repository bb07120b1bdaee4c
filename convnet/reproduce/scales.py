"""Experiments made smaller: fewer epochs, seeds, images and choices than the papers took."""
from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from convnet.experiment import Levels
from convnet.layers.base import whole_number
from convnet.names import lookup
from convnet.reproduce.definition import EMBEDDED, SETUP, Definition, Part, is_file

# What a scale changes where the file does not say it: upper limits, never more than the papers' own numbers.
SCALES: dict[str, dict[str, int]] = {
    "quick": {"epochs": 2, "seeds": 2, "turns": 1, "choices": 1, "images": 1000, "levels": 2},
    "cpu": {"epochs": 40, "seeds": 3, "turns": 1, "choices": 3, "images": 10000},
    "full": {},
}
LIMITS = ("epochs", "seeds", "turns", "choices", "images", "levels")


def scaled(definition: Definition, scale: str, **overrides: Any) -> Definition:
    """Return the experiment at a scale, with limits of one's own.

    Parameters
    ----------
    definition : Definition
    scale : {"quick", "cpu", "full"}
        What it limits stands in `SCALES` and, before that, in the file.
    overrides
        epochs, seeds, turns, choices, images: limits in place of the scale's; None leaves the scale's. The scale's own
        limit of images leaves data sets in files of one's own alone, and the digits.

    Raises
    ------
    ValueError
        If the scale is unknown, a number does not make sense, or images are limited where they are given per class.
    """
    lookup("scale", scale, SCALES)
    own = definition.scales.get(scale, {})
    limits: dict[str, Any] = {**SCALES[scale], **own}
    given = {key: whole_number(key, value, 1) for key, value in overrides.items() if value is not None}
    limits |= given
    kept = [part for part in definition.parts if part.name in limits.get("parts", [p.name for p in definition.parts])]
    changes = {key: value for key, value in limits.items() if key in SETUP and key != "epochs"}
    parts = tuple(_limited(part, limits, changes, given) for part in kept)
    if all(part.setup.subset == before.setup.subset for part, before in zip(parts, kept, strict=True)):
        limits.pop("images", None)

    def number(key: str, value: int) -> int:
        return given[key] if key in given else min(value, limits.get(key, value))

    seeds, turns = number("seeds", definition.seeds), number("turns", definition.turns)
    folds = max(definition.folds, turns)
    said = [f"{key} {'=' if key in given else '≤'} {limits[key]}" for key in LIMITS if key in limits]
    said += [f"{key} = {value}" for key, value in changes.items()]
    if len(kept) < len(definition.parts):
        said.append("only " + ", ".join(part.title for part in kept))
    text = f"{scale}: {', '.join(said)}" if said else "full: as in the paper"
    levels = Levels(*(_spread(each, limits.get("levels")) for each in (definition.levels.sigmas, definition.levels.epsilons)))
    return dataclasses.replace(definition, parts=parts, seeds=seeds, turns=turns, folds=folds, levels=levels,
                               choices=limits.get("choices"), scale=text)


def _spread(values: Sequence[float], count: int | None) -> tuple[float, ...]:
    """Return at most `count` of the values, evenly spread up to the last."""
    if count is None or count >= len(values):
        return tuple(values)
    return tuple(values[(i + 1) * len(values) // count - 1] for i in range(count))


def _limited(part: Part, limits: Mapping[str, Any], changes: Mapping[str, Any], given: Mapping[str, int]) -> Part:
    setup = dataclasses.replace(part.setup, **changes)
    epochs = limits.get("epochs", setup.epochs)
    if "epochs" not in given:
        epochs = min(epochs, setup.epochs)
    images, subset = limits.get("images"), setup.subset
    if "images" in given and setup.per_class is not None:
        raise ValueError(f"images is {images}, but {part.name!r} takes {setup.per_class} training images of each class: "
                         "leave --images out")
    known = setup.per_class is None and setup.dataset != EMBEDDED and not is_file(setup.dataset)
    if images is not None and (known or "images" in given):
        subset = images if subset is None else min(subset, images)
    return dataclasses.replace(part, setup=dataclasses.replace(setup, epochs=epochs, subset=subset))
