"""Findings: one self-contained HTML page of what a curation command found, with pairs of texts side by side.

The page needs no network and runs no script, is meant for light, dark and paper, and shows everything that comes from
data as text. Texts are cut around what matched; how much is left out stands in the gap.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.files import replace_file
from tasks.page import count, decimal, environment

WHOLE = 2400
"""A text of so many characters is shown whole."""
HEAD, AROUND, TAIL = 500, 160, 200
"""Of a longer one: its start, what stands around each match, its end."""
MATCHES = 200
"""Most places that are marked in one text."""

Cell = str | int | float | None


@dataclass(frozen=True)
class Example:
    """Two texts beside each other, or one (`right` None), and why they are shown."""

    label: str
    left_title: str
    left: str
    right_title: str = ""
    right: str | None = None
    facts: Sequence[tuple[str, Cell]] = ()
    """(name, value): scores, thresholds, ids."""
    matched: Sequence[str] = ()
    """Words or runs of words that are marked in both texts; case, and the signs between words, don't count."""


@dataclass(frozen=True)
class Section:
    """One rule, one benchmark, one kind of planted copy: what it is, its table and its examples."""

    name: str
    explanation: str
    headers: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    examples: Sequence[Example] = ()


@dataclass(frozen=True)
class Piece:
    """A run of a shown text: plain, marked, or a gap of `left_out` characters."""

    text: str
    marked: bool = False
    left_out: int = 0


def write_findings(path: Path, title: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section]) -> None:
    """Write the page to `path`; `facts` (name, value) open it. The same arguments give the same bytes."""
    page = (
        environment()
        .get_template("findings.html.j2")
        .render(title=title, facts=facts, sections=sections, cell=cell, numeric=_numeric_columns, pieces=pieces)
    )
    replace_file(path, page.encode())


def cell(value: Cell) -> str:
    """A value as the page prints it: whole numbers with separators, others with four digits."""
    if value is None:
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    return count(value) if isinstance(value, int) else decimal(value)


def _numeric_columns(section: Section) -> list[bool]:
    columns = zip(*section.rows, strict=True) if section.rows else iter([()] * len(section.headers))
    return [all(isinstance(value, int | float | None) for value in column) for column in columns]


def pieces(text: str, matched: Sequence[str]) -> list[Piece]:
    """The text as runs, in order; long texts are cut around the matches."""
    spans = _spans(text, matched)
    shown = _windows(len(text), spans)
    found, position = [], 0
    for start, end in shown:
        if start > position:
            found.append(Piece("", left_out=start - position))
        found += _marked(text, start, end, spans)
        position = end
    return found


def _spans(text: str, matched: Sequence[str]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for wanted in dict.fromkeys(matched):
        if pattern := _pattern(wanted):
            for match in pattern.finditer(text):
                found.append(match.span())
                if len(found) >= MATCHES:
                    return _merged(found)
    return _merged(found)


def _pattern(wanted: str) -> re.Pattern[str] | None:
    """Matches the words of `wanted` with any signs between them; a run of signs alone matches as it is."""
    words = re.findall(r"\w+", wanted)
    if words:
        return re.compile(r"(?<!\w)" + r"\W{1,40}".join(map(re.escape, words)) + r"(?!\w)", re.IGNORECASE)
    return re.compile(re.escape(wanted.strip())) if wanted.strip() else None


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same places, in order, those that touch made one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _windows(length: int, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    if length <= WHOLE:
        return [(0, length)]
    around = [(max(start - AROUND, 0), min(end + AROUND, length)) for start, end in spans]
    return _merged([(0, HEAD), *around, (length - TAIL, length)])


def _marked(text: str, start: int, end: int, spans: Sequence[tuple[int, int]]) -> list[Piece]:
    found, position = [], start
    for left, right in spans:
        left, right = max(left, start), min(right, end)
        if left >= right:
            continue
        found += [Piece(text[position:left]), Piece(text[left:right], marked=True)]
        position = right
    return [piece for piece in [*found, Piece(text[position:end])] if piece.text]
