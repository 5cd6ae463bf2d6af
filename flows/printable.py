"""Text for a terminal, without what a terminal obeys: escape sequences, C1 controls, turned directions (law 10)."""

from __future__ import annotations

import json


def printable(text: str, keep: str = "\n", instead: str = "·") -> str:
    """The text with `instead` for each character that is not printable, but for those in `keep`."""
    return "".join(char if char.isprintable() or char in keep else instead for char in text)


def printable_json(text: str) -> str:
    """JSON text with such characters as JSON writes them: `\\u009b`. It means the same."""
    return "".join(
        char if char.isprintable() or char == "\n" else json.dumps(char, ensure_ascii=True)[1:-1] for char in text
    )
