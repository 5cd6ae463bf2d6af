"""A line of a long text: its beginning, its end, or what stands around a searched text."""

from __future__ import annotations

import re
from dataclasses import dataclass

CHARACTERS = 240


@dataclass(frozen=True)
class Excerpt:
    """A piece of a text; `hit` is the searched text as it stands there, empty where none was searched."""

    before: str
    hit: str = ""
    after: str = ""


def excerpt(text: str, searched: str | None = None, *, end: bool = False) -> Excerpt:
    """About 240 characters around the first place of `searched`, else from the beginning (or the end) of the text."""
    found = re.search(re.escape(searched), text, re.IGNORECASE) if searched else None
    if found is None:
        piece = (
            _squeeze(text[-4 * CHARACTERS :])[-CHARACTERS:] if end else _squeeze(text[: 4 * CHARACTERS])[:CHARACTERS]
        )
        cut = len(_squeeze(text[: 8 * CHARACTERS])) > len(piece)
        return Excerpt(f"… {piece}" if end and cut else f"{piece} …" if cut else piece)
    start, stop = found.span()
    head, tail = text[max(0, start - CHARACTERS // 3) : start], text[stop : stop + CHARACTERS]
    return Excerpt(("… " if start > CHARACTERS // 3 else "") + _squeeze(head), found[0],
                   _squeeze(tail) + (" …" if stop + CHARACTERS < len(text) else ""))  # fmt: skip


def _squeeze(text: str) -> str:
    """The text on one line."""
    return re.sub(r"\s+", " ", text)
