"""Looking things up by the names people type."""
from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def lookup(kind: str, name: str, known: Mapping[str, T]) -> T:
    """Return ``known[name]``.

    Raises
    ------
    ValueError
        If there is no such name; the message gives the nearest one and lists all.
    """
    if name in known:
        return known[name]
    near = difflib.get_close_matches(str(name), known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {kind} {name!r}{hint} (known: {', '.join(known)})")
