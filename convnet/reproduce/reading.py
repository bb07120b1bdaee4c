"""Experiments as data: one TOML file says everything that a table or figure is made of.

Errors name the file, the key and what would do. ``like = "other"`` starts from another experiment's definition.
"""
from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from convnet.algorithms import candidates
from convnet.architectures_004 import STAGES
from convnet.data import known_names
from convnet.data.prepare import NORMALIZATIONS
from convnet.experiment import AUGMENTATIONS, OPTIMIZERS, SCHEDULES, Levels, Setup
from convnet.layers.base import Builder, real_number, whole_number
from convnet.names import lookup
from convnet.reproduce.definition import SETUP, Definition, Entry, Part, Published, is_file
from convnet.reproduce.networks import NAMES as NETWORKS
from convnet.reproduce.networks import STAGE_NETWORKS
from convnet.reproduce.scales import LIMITS, SCALES
from convnet.specs import make

FIGURES = ("errors", "learning", "losses", "robustness", "sizes", "stages")
SELECTIONS = ("cross-validation", "test")

_EXTRAS = ("stage", "dimension")
_NAMED = {"network": NETWORKS, "normalization": NORMALIZATIONS, "augmentation": AUGMENTATIONS, "stage": STAGES,
          "initialization": Builder.RULES, "dtype": ("float32", "float64")}
_TOP = ("title", "paper", "section", "shows", "like", "selection", "seeds", "folds", "turns", "assumptions", "claims",
        "figures", "x_label", "setup", "levels", "part", "algorithm", "scale")
_PAPER = ("error", "accuracy", "deviation", "coefficient", "seconds", "significant")


class DefinitionError(ValueError):
    """Something in an experiment's file is wrong; the message names the file, the key and what would do."""


def names() -> list[str]:
    """Return the names of the experiments that come with the package."""
    return sorted(file.name.removesuffix(".toml") for file in _folder().iterdir() if file.name.endswith(".toml"))


def find(name: str) -> Definition:
    """Return an experiment by name, or from the path of a TOML file.

    Raises
    ------
    ValueError, FileNotFoundError
        If there is no such experiment (the message gives the nearest), or something in the file is wrong.
    """
    if name.endswith(".toml"):
        return parse(Path(name).stem, name, _raw(name))
    lookup("experiment", name, dict.fromkeys(names()))
    return parse(name, f"{name}.toml", _raw(name))


def _folder() -> Any:
    return resources.files("convnet.reproduce") / "experiments"


def _raw(name: str) -> dict[str, Any]:
    """Return the content of a file, on top of what it is like."""
    file = Path(name) if name.endswith(".toml") else _folder() / f"{name}.toml"
    try:
        content = tomllib.loads(file.read_bytes().decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DefinitionError(f"{name}: this is not TOML ({error}); correct that line") from None
    other = content.pop("like", None)
    if other is None:
        return content
    if other not in names():
        raise DefinitionError(f"{name}: like is {other!r}; it must be the name of an experiment: {', '.join(names())}")
    base = _raw(other)
    merged = {**base, **content}
    for table in ("setup", "levels", "scale"):
        merged[table] = {**base.get(table, {}), **content.get(table, {})}
    return merged


def parse(name: str, file: str, content: Mapping[str, Any]) -> Definition:
    """Return the definition that a file's content describes; DefinitionError where it does not."""
    reader = _Reader(file)
    reader.known(content, _TOP, "")
    setup = reader.table(content, "setup")
    reader.known(setup, (*SETUP, *_EXTRAS), "setup.")
    rows = content.get("part", [{"name": str(setup.get("dataset", "all"))}])
    parts = tuple(reader.part(setup, row, f"part[{i}].") for i, row in enumerate(reader.rows(rows, "part")))
    reader.unique("part", [part.name for part in parts])
    rows = reader.rows(content.get("algorithm", []), "algorithm")
    entries = tuple(reader.entry(row, f"algorithm[{i}].", parts) for i, row in enumerate(rows))
    reader.unique("algorithm", [entry.name for entry in entries])
    levels = reader.table(content, "levels")
    reader.known(levels, ("sigmas", "epsilons"), "levels.")
    sigmas, epsilons = (tuple(reader.items(levels, key, "levels.")) for key in ("sigmas", "epsilons"))
    scales = reader.table(content, "scale")
    reader.known(scales, tuple(SCALES), "scale.")
    for scale, change in scales.items():
        if not isinstance(change, dict):
            reader.fail(f"scale.{scale}", "must be a table, as in [scale.cpu]")
        reader.known(change, (*LIMITS, *SETUP, "parts"), f"scale.{scale}.")
        for key in set(LIMITS) & set(change):
            reader.checked(f"scale.{scale}.{key}", lambda key=key, change=change: whole_number(key, change[key], 1))
        reader.setup(change, f"scale.{scale}.")
        kept = reader.items(change, "parts", f"scale.{scale}.", default=[part.name for part in parts])
        for part in kept:
            reader.one_of(f"scale.{scale}.parts", part, [p.name for p in parts])
        if not kept:
            reader.fail(f"scale.{scale}.parts", "is empty; name at least one part, or leave it out")
    figures = reader.items(content, "figures", default=["errors"])
    for figure in figures:
        reader.one_of("figures", figure, FIGURES)
    numbers = {key: reader.checked(key, lambda key=key: whole_number(key, content[key], 1))
               for key in ("seeds", "folds", "turns") if key in content}
    title, paper, section, shows = (reader.text(content, key) for key in ("title", "paper", "section", "shows"))
    found = Definition(
        name, title, paper, section, shows, parts, entries, reader.checked(
            "levels", lambda: Levels(sigmas, epsilons)),
        selection=reader.one_of("selection", content.get("selection", "cross-validation"), SELECTIONS),
        assumptions=tuple(reader.texts(content, "assumptions")), claims=tuple(reader.texts(content, "claims")),
        figures=tuple(figures), x_label=str(content.get("x_label", "")), scales=scales, **numbers)
    if found.folds < 2 or found.turns > found.folds:
        reader.fail("folds", f"is {found.folds} with turns = {found.turns}; it must be at least 2 and at least turns")
    return found


class _Reader:
    """Checks, with errors that say where."""

    def __init__(self, file: str):
        self.file = file

    def fail(self, key: str, problem: str) -> Any:
        raise DefinitionError(f"{self.file}: {key} {problem}")

    def known(self, table: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
        for key in table:
            try:
                lookup("key", key, dict.fromkeys(keys))
            except ValueError as error:
                self.fail(f"{where}{key}:", str(error))

    def table(self, content: Mapping[str, Any], key: str) -> dict[str, Any]:
        found = content.get(key, {})
        return found if isinstance(found, dict) else self.fail(key, f"must be a table, as in [{key}]")

    def rows(self, rows: Any, key: str) -> list[dict[str, Any]]:
        if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
            self.fail(key, f"must hold at least one table, as in [[{key}]]")
        return rows

    def items(self, table: Mapping[str, Any], key: str, where: str = "", default: Sequence[Any] = ()) -> list[Any]:
        found = table.get(key, list(default))
        return found if isinstance(found, list) else self.fail(f"{where}{key}", f"is {found!r}; write a list, {key} = [...]")

    def texts(self, table: Mapping[str, Any], key: str) -> list[str]:
        found = self.items(table, key)
        wrong = [item for item in found if not isinstance(item, str)]
        return found if not wrong else self.fail(key, f"holds {wrong[0]!r}; write a list of texts in quotes")

    def text(self, table: Mapping[str, Any], key: str, where: str = "") -> str:
        found = table.get(key)
        if not isinstance(found, str) or not found:
            self.fail(f"{where}{key}", f'is missing or no text; write {key} = "..."')
        return str(found)

    def one_of(self, key: str, value: Any, known: Sequence[str]) -> str:
        return self.checked(key, lambda: lookup(key.rpartition(".")[2], value, {name: name for name in known}))

    def unique(self, key: str, found: Sequence[str]) -> None:
        twice = [name for name in found if found.count(name) > 1]
        if twice:
            self.fail(key, f"{twice[0]!r} stands there twice; give each a name of its own")

    def checked(self, key: str, make_it: Any) -> Any:
        try:
            return make_it()
        except (ValueError, TypeError) as error:
            return self.fail(f"{key}:", str(error))

    def part(self, setup: Mapping[str, Any], row: Mapping[str, Any], where: str) -> Part:
        self.known(row, ("name", "x", "line", *SETUP, *_EXTRAS), where)
        name = self.text(row, "name", where)
        values = {**setup, **{key: value for key, value in row.items() if key in (*SETUP, *_EXTRAS)}}
        for one, other in (("subset", "per_class"), ("per_class", "subset")):
            if one in row and other not in row:
                values.pop(other, None)
        for key in ("dataset", "network"):
            self.text(values, key, where)
        self.setup(values, where)
        if "subset" in values and "per_class" in values:
            self.fail(f"{where}subset", "and per_class are both given; write one of them")
        if values["network"] not in STAGE_NETWORKS:
            for key in _EXTRAS:
                if key in values:
                    self.fail(f"{where}{key}", f"belongs to the networks {', '.join(STAGE_NETWORKS)}, not to "
                                               f"{values['network']!r}; leave it out")
        options = {key: value for key, value in values.items() if key in SETUP}
        made = Setup(**{"normalization": "mean-image", **options})
        x = row.get("x")
        return Part(name, made, values.get("stage"), values.get("dimension"),
                    None if x is None else self.checked(f"{where}x", lambda: real_number("x", x, 0.0)), str(row.get("line", "")))

    def setup(self, values: Mapping[str, Any], where: str) -> None:
        """Refuse what is wrong among the fields of a setup that are given."""
        if "dataset" in values:
            dataset = self.text(values, "dataset", where)
            if not is_file(dataset):
                self.one_of(f"{where}dataset", dataset, known_names())
        for key, names in _NAMED.items():
            if key in values:
                self.one_of(f"{where}{key}", values[key], tuple(names))
        for key, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            if key in values:
                spec = self.text(values, key, where)
                self.checked(f"{where}{key}", lambda key=key, spec=spec, known=known: make(key, spec, known))
        for key in ("epochs", "batch_size", "image_size", "subset", "per_class", "dimension", "test_every"):
            if key in values:
                self.checked(f"{where}{key}", lambda key=key: whole_number(key, values[key], 1))
        if "dropout" in values:
            self.checked(f"{where}dropout", lambda: real_number("dropout", values["dropout"], 0.0, 1.0))

    def entry(self, row: Mapping[str, Any], where: str, parts: Sequence[Part]) -> Entry:
        self.known(row, ("name", "spec", "coefficient", "grid", "paper"), where)
        name, spec = self.text(row, "name", where), self.text(row, "spec", where)
        coefficient, grid = row.get("coefficient"), self.items(row, "grid", where)
        if (coefficient is None) != (not grid):
            self.fail(f"{where}grid", 'and coefficient belong together; write both, as in coefficient = "beta" and '
                      "grid = [0.01, 0.1], or neither")
        values = [self.checked(f"{where}grid", lambda v=v: real_number("each value", v, 0.0)) for v in grid]
        if values != sorted(set(values)):
            self.fail(f"{where}grid", "must be ordered, without repetitions")
        published = {}
        for part, numbers in self.table(row, "paper").items():
            self.one_of(f"{where}paper", part, [p.name for p in parts])
            published[part] = self.published(numbers, f"{where}paper.{part}.")
        found = Entry(name, spec, coefficient, tuple(values), published)
        for offered in found.offered("", None):
            self.checked(f"{where}spec", lambda offered=offered: candidates(offered))
            if len(candidates(offered)) > 1:
                self.fail(f"{where}spec", "offers several values; write them as coefficient and grid")
        return found

    def published(self, numbers: Any, where: str) -> Published:
        if not isinstance(numbers, dict):
            self.fail(where.rstrip("."), "must be a table, as in { error = 1.2 }")
        self.known(numbers, _PAPER, where)
        if ("error" in numbers) == ("accuracy" in numbers):
            self.fail(f"{where}error", "or accuracy is needed, one of them, in percent")
        if not isinstance(numbers.get("significant", False), bool):
            self.fail(f"{where}significant", f"is {numbers['significant']!r}; it must be true or false")
        numbers = {key: value if key == "significant" else
                   self.checked(f"{where}{key}", lambda key=key, value=value: real_number(key, value, 0.0))
                   for key, value in numbers.items()}
        if "accuracy" in numbers:
            numbers["error"] = round(100 - numbers.pop("accuracy"), 6)
        return Published(**numbers)
