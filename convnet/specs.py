"""Things with options as text and as JSON: ``loss-ibp:beta=0.03,exact=true`` and back.

A spec is a name, and after a colon the options, ``option=value`` with commas between. ``a|b|c`` in place of a value
means a choice between values. Anything that is a dataclass of its options can be written so.
"""
from __future__ import annotations

import dataclasses
import itertools
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convnet.losses import Loss
from convnet.names import lookup

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Kind:
    """What a name stands for: a class, and options that the name itself fixes."""

    type: type
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def options(self) -> dict[str, dataclasses.Field]:
        """Return the options that can be given, by name."""
        return {f.name: f for f in dataclasses.fields(self.type) if f.init and f.name not in self.fixed}

    def usage(self, name: str) -> str:
        """Return the name with its options and their defaults, as in ``loss-ibp:beta=...,norm=1,exact=false``."""
        defaults = {key: "..." if f.default is dataclasses.MISSING else _text(f.default)
                    for key, f in self.options().items()}
        options = [f"{key}={value}" for key, value in defaults.items()]
        return f"{name}:{','.join(options)}" if options else name


def split(text: str) -> list[str]:
    """Return the specs of a list with commas between them: ``bp,at:epsilon=0.1,fast=true,noise`` holds three."""
    specs: list[str] = []
    for piece in text.split(","):
        head = piece.split(":")[0]
        if specs and "=" in head and ":" in specs[-1]:
            specs[-1] += f",{piece}"
        else:
            specs.append(piece.strip())
    return specs


def choices(kind: str, text: str, known: Mapping[str, Kind]) -> list[tuple[str, Any]]:
    """Return what a spec stands for, once for each combination of the values it offers.

    Parameters
    ----------
    kind : str
        What it is, for messages: "algorithm".
    text : str
        The spec.
    known : mapping of str to Kind

    Returns
    -------
    list of (str, object)
        The spec of each combination, without a choice in it, and the object.

    Raises
    ------
    ValueError
        If the name or an option is unknown (the message gives the nearest known one), an option is missing or given
        twice, or a value is not what the option takes.
    """
    name, _, rest = text.strip().partition(":")
    what = lookup(kind, name, known)
    allowed = what.options()
    given: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        option, equals, values = part.partition("=")
        lookup(f"{name} option", option, allowed)
        if not equals or not values:
            raise ValueError(f"{kind} {name!r}: option {option!r} has no value; write {option}=value")
        if option in given:
            raise ValueError(f"{kind} {name!r}: option {option!r} is given twice")
        given[option] = values.split("|")
    missing = [key for key, f in allowed.items()
               if key not in given and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    if missing:
        raise ValueError(f"{kind} {name!r} needs {' and '.join(missing)}: "
                         f"write {name}:{','.join(f'{key}=...' for key in missing)}")
    hints = typing.get_type_hints(what.type)
    made = []
    for combination in itertools.product(*given.values()):
        texts = dict(zip(given, combination, strict=True))
        options = {key: _value(f"{kind} {name!r}: {key}", value, hints[key]) for key, value in texts.items()}
        spec = f"{name}:{','.join(f'{key}={value}' for key, value in texts.items())}" if texts else name
        try:
            made.append((spec, what.type(**what.fixed, **options)))
        except ValueError as error:
            raise ValueError(f"{kind} {spec!r}: {error}") from None
    return made


def make(kind: str, text: str, known: Mapping[str, Kind]) -> Any:
    """Return what a spec stands for; ValueError as `choices`, and if it offers several values."""
    found = choices(kind, text, known)
    if len(found) > 1:
        raise ValueError(f"{kind} {text!r} offers several values; give one for each option here")
    return found[0][1]


def _value(what: str, text: str, hint: Any) -> Any:
    """Return `text` as the type `hint` says: bool, int, float, str or one of them or None."""
    allowed = typing.get_args(hint) or (hint,)
    if type(None) in allowed and text.lower() == "none":
        return None
    if bool in allowed:
        if text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        raise ValueError(f"{what} is {text!r}; it must be true or false")
    for number, meaning in ((int, "a whole number"), (float, "a number")):
        if number in allowed:
            try:
                return number(text)
            except ValueError:
                if float not in allowed or number is float:
                    raise ValueError(f"{what} is {text!r}; it must be {meaning}") from None
    return text


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def fields_tell_all(kind: type) -> bool:
    """Whether the fields of a dataclass are all its options: no class that is none has put a constructor above it."""
    for base in kind.__mro__:
        if "__dataclass_fields__" in vars(base):
            return True
        if "__init__" in vars(base):
            break
    return False


def describe(thing: Any, name: str = "") -> Any:
    """Return what `thing` is and its options, as JSON can hold it: equal descriptions mean equal behaviour.

    Dataclasses become their type and fields, losses their type and attributes, arrays lists, functions their module and
    name, everything else that JSON cannot hold its ``repr``.

    Parameters
    ----------
    thing : object
    name : str
        What it is called, for messages.

    Raises
    ------
    TypeError
        If `thing`, or something in it, does not tell its options: a lambda, an object of a class that is no dataclass.
    """
    if isinstance(thing, Loss):
        # All that a loss holds are its options, but for what it has sent to a device.
        options = {key: value for key, value in vars(thing).items() if key != "_sent"}
        return {"type": type(thing).__name__, **describe(options, name)}
    if fields_tell_all(type(thing)):
        fields = {f.name: getattr(thing, f.name) for f in dataclasses.fields(thing)}
        return {"type": type(thing).__name__, **describe(fields, name)}
    if isinstance(thing, Mapping):
        return {str(key): describe(value, f"{name}.{key}" if name else str(key)) for key, value in thing.items()}
    if isinstance(thing, Sequence) and not isinstance(thing, str):
        return [describe(value, f"{name}[{position}]") for position, value in enumerate(thing)]
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    if hasattr(thing, "tolist"):
        return describe(thing.tolist(), name)
    if _has_name(thing):
        return f"{thing.__module__}.{thing.__qualname__}"
    text = repr(thing)
    if dataclasses.is_dataclass(type(thing)) or re.search(r" at 0x[0-9a-fA-F]+", text):
        raise TypeError(f"{name or 'it'} is {text}, which does not tell its options: make it a dataclass of them, or a "
                        "function of a module")
    return text


def _has_name(thing: Any) -> bool:
    """Whether `thing` is what its module has under its name."""
    found: Any = sys.modules.get(getattr(thing, "__module__", None) or "")
    for part in getattr(thing, "__qualname__", "").split("."):
        found = getattr(found, part, None)
    return found is thing


def differences(ours: Any, theirs: Any, name: str = "") -> Iterator[str]:
    """Yield, for each place in which two descriptions differ, its name and both values in short."""
    if ours == theirs:
        return
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping) and ours.get("type") == theirs.get("type"):
        for key in dict.fromkeys([*ours, *theirs]):
            yield from differences(ours.get(key), theirs.get(key), f"{name}.{key}" if name else key)
    elif not (isinstance(ours, list) and isinstance(theirs, list)):
        yield f"{name} is {_short(theirs)} there and {_short(ours)} here"
    elif len(ours) != len(theirs):
        yield f"{name} has {len(theirs)} entries there and {len(ours)} here"
    else:
        for position, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(*pair, f"{name}[{position}]")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
