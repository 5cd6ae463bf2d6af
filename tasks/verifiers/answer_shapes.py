r"""The outer shape of a normalised answer: list, set, tuple or interval, matrix; and comparison part by part.

Lists and sets are compared without order and without repeats, tuples, intervals and matrices in order. `\pm` is two
values. Decides only between shapes that it knows; unions, set-builders and the like are left to Math-Verify.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tasks.verifiers.answer_forms import plain_number

Kind = Literal["list", "set", "tuple", "matrix"]
MAX_PARTS, MAX_DEPTH = 200, 8


@dataclass(frozen=True)
class Shape:
    """`parts` in order; `form` tells what must be the same besides: brackets of a tuple, columns of a matrix."""

    kind: Kind
    parts: tuple[str, ...]
    form: str = ""


_MATRIX = re.compile(
    r"(?:[(\[]\s*)?\\begin\{([pb]?matrix|array)\}(?:\s*\{[^{}]*\})?(.*)\\end\{\1\}(?:\s*[)\]])?", re.DOTALL
)
_ROW_END = re.compile(r"\\\\\s*(?:\[[^\]]*\])?")
_SEPARATOR = re.compile(r"\\[{}]|[()\[\]{}]|[,;]|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")
_ASSIGNED = re.compile(r"([a-zA-Z])\s*=\s*(.*)", re.DOTALL)
_OPENING, _CLOSING = ("(", "[", "{", "\\{"), (")", "]", "}", "\\}")


def shape(normal: str) -> Shape | None:
    """The shape of a normalised text, None for a scalar or for what this module does not know."""
    text = normal.strip()
    if (matrix := _MATRIX.fullmatch(text)) is not None:
        return _matrix(matrix[2])
    parts = split_top(text)
    if parts is None or len(parts) > MAX_PARTS:
        return None
    if len(parts) > 1:
        return Shape("list", _with_signs(parts))
    if "\\pm" in text and not _encloses(text):
        return Shape("list", _with_signs(parts))
    return _enclosed(text)


def _matrix(body: str) -> Shape | None:
    rows = [row.split("&") for row in _ROW_END.split(body.strip()) if row.strip()]
    if not rows or len({len(row) for row in rows}) != 1 or "\\begin" in body:
        return None
    cells = tuple(cell.strip() for row in rows for cell in row)
    return Shape("matrix", cells, f"{len(rows)}x{len(rows[0])}")


def _encloses(text: str) -> bool:
    return text.startswith(_OPENING) and text.endswith(_CLOSING) and _matching(text) == len(text)


def _matching(text: str) -> int:
    """Position behind the bracket that closes the one at the start; -1 if none does."""
    depth = 0
    for match in _SEPARATOR.finditer(text):
        depth += (match.group() in _OPENING) - (match.group() in _CLOSING)
        if depth == 0:
            return match.end()
    return -1


def _enclosed(text: str) -> Shape | None:
    if not _encloses(text):
        return None
    braces = text.startswith("\\{"), text.endswith("\\}")
    if any(braces) or text[0] == "{":
        if not all(braces) and (text[0] != "{" or text[-1] != "}"):
            return None
        inner = text[2:-2] if all(braces) else text[1:-1]
        if any(mark in inner for mark in (":", "\\mid", "|")):
            return None
        parts = split_top(inner)
        return None if parts is None else Shape("set", _with_signs([part for part in parts if part]))
    parts = split_top(text[1:-1])
    if parts is None or len(parts) < 2 or "\\pm" in text:
        return None
    return Shape("tuple", tuple(parts), text[0] + text[-1])


def split_top(text: str) -> list[str] | None:
    """The text split at commas, semicolons, `and` and `or` outside brackets; None where brackets don't balance or nest
    too deep or a part is missing. A single comma-grouped number stays whole."""
    if plain_number(text) is not None:
        return [text]
    parts, depth, start = [], 0, 0
    for match in _SEPARATOR.finditer(text):
        token = match.group()
        if token in _OPENING:
            depth += 1
            if depth > MAX_DEPTH:
                return None
        elif token in _CLOSING:
            depth -= 1
            if depth < 0:
                return None
        elif depth == 0:
            part = text[start : match.start()].strip()
            if part or token in (",", ";"):
                parts.append(part)
            start = match.end()
    last = text[start:].strip()
    if depth != 0 or (parts and not last) or not all(parts):
        return None
    return [*parts, last]


def ungrouped(normal: str) -> Shape | None:
    """The list that a comma-grouped number may also be: `70,110` as 70 and 110."""
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+", normal, re.ASCII):
        return Shape("list", tuple(normal.split(",")))
    return None


def _with_signs(parts: Sequence[str]) -> tuple[str, ...]:
    signed: list[str] = []
    for part in parts:
        if "\\pm" in part:
            for plus, minus in (("+", "-"), ("-", "+")):
                bare = part.replace("\\pm", plus).replace("\\mp", minus)
                signed.append(re.sub(r"(^|=)\s*\+\s*", r"\1", bare).strip())
        else:
            signed.append(part)
    return tuple(dict.fromkeys(signed))


Leaf = Callable[[str, str], bool | None]


def compare_shapes(left: Shape, right: Shape, leaf: Leaf) -> bool | None:
    """Whether two shapes hold the same parts; None where `leaf` could not decide or the kinds are for Math-Verify.

    `leaf(reference part, answer part)` gives True, False or None. A set in braces is no tuple in parentheses;
    `x = 3, y = 4` is the point (3, 4). An answer may leave out a tuple's
    parentheses; several values are no tuple.
    """
    if left.kind == right.kind and left.kind in ("tuple", "matrix"):
        if left.form != right.form or len(left.parts) != len(right.parts):
            return False
        return _in_order(left.parts, right.parts, leaf)
    if left.kind in ("list", "set") and right.kind in ("list", "set"):
        return _without_order(left.parts, right.parts, leaf)
    if left.kind == "tuple" and right.kind == "list":
        return _point(left, right, _coordinates(right.parts) or right.parts, leaf)
    if left.kind == "list" and right.kind == "tuple" and (named := _coordinates(left.parts)):
        return _point(Shape("tuple", named, "()"), right, right.parts, leaf)
    return False


def _point(left: Shape, right: Shape, parts: Sequence[str], leaf: Leaf) -> bool | None:
    if {left.form, right.form} - {"()", ""} or len(left.parts) != len(parts):
        return False
    return _in_order(left.parts, parts, leaf)


def _coordinates(parts: Sequence[str]) -> tuple[str, ...]:
    """The values of `x = 3, y = 4`, empty where that is not what the parts are."""
    assigned = [_ASSIGNED.fullmatch(part) for part in parts]
    names = [match[1] for match in assigned if match]
    if len(names) == len(parts) and names == sorted(set(names)):
        return tuple(match[2] for match in assigned if match)
    return ()


def _in_order(left: Sequence[str], right: Sequence[str], leaf: Leaf) -> bool | None:
    unknown = False
    for one, other in zip(left, right, strict=True):
        same = leaf(one, other)
        if same is False:
            return False
        unknown = unknown or same is None
    return None if unknown else True


def _without_order(left: Sequence[str], right: Sequence[str], leaf: Leaf) -> bool | None:
    """Every part of each side equals one of the other. Repeats count once, however they are spelled."""
    if len(left) * len(right) > 2_500:
        return None
    table = [[leaf(one, other) for other in right] for one in left]
    lines = [*table, *(list(column) for column in zip(*table, strict=True))] if table and right else [[False]]
    if not left and not right:
        return True
    if any(all(same is False for same in line) for line in lines):
        return False
    return True if all(any(same for same in line) for line in lines) else None
