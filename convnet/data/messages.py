"""What files contain, made fit for a message of one line."""
from __future__ import annotations


def brief(text: object, longest: int = 200) -> str:
    """Return `text` on one line, of printable characters, and not too long."""
    line = "".join(character if character.isprintable() else "?" for character in " ".join(str(text).split()))
    return line if len(line) <= longest else line[:longest] + "..."
