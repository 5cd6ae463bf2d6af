"""What a list can be filtered by, and a URL's parameters checked against that.

A wrong name or value is answered with the right ones. Values reach a query as bound parameters only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

PLACES = {"after", "before"}
"""parameters that say where a page begins"""
LONGEST = 200
"""characters of a value"""


class BadAddress(Exception):
    """A URL that can't be answered; the text says what was found and what is allowed."""


@dataclass(frozen=True)
class Filter:
    """One filter of a list."""

    name: str
    label: str
    kind: Literal["choice", "text", "id"] = "choice"
    choices: Sequence[str] = ()


def check(query: Sequence[tuple[str, str]], filters: Sequence[Filter]) -> tuple[dict[str, str], dict[str, str]]:
    """The values of a URL's filters, empty ones left out, and its places. Raises BadAddress."""
    by_name = {one.name: one for one in filters}
    given: dict[str, str] = {}
    places: dict[str, str] = {}
    for name, value in query:
        if name in PLACES:
            places[name] = value
        elif name not in by_name:
            raise BadAddress(f"{name[:80]}: no filter of this list; there are {', '.join(by_name)}")
        elif value:
            given[name] = _checked(by_name[name], value)
    if len(places) > 1:
        raise BadAddress("after and before: a page begins after a key or before one, not both")
    return given, places


def _checked(one: Filter, value: str) -> str:
    if one.kind == "choice" and value not in one.choices:
        raise BadAddress(f"{one.name}: found {value[:80]}, expected one of {', '.join(one.choices) or 'none'}")
    if one.kind == "id" and not re.fullmatch("[0-9a-f]{32}", value):
        raise BadAddress(f"{one.name}: found {value[:80]}, expected 32 hex digits")
    if len(value) > LONGEST:
        raise BadAddress(f"{one.name}: found {len(value):,} characters, expected {LONGEST} at most")
    return value


def shown(given: Mapping[str, str], filters: Sequence[Filter]) -> list[tuple[str, str]]:
    """(label, value) of what a list is filtered by."""
    return [(one.label, given[one.name]) for one in filters if one.name in given]
