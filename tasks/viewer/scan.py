"""Pages by key: shards are gone through in order until a page is full or its time is up.

Every list is ordered by a key that begins with question_id, and a shard holds the questions whose id begins with its
name, so the shards' order is the list's. A page begins after the last key of the one before, whatever is committed
meanwhile: no page is counted from the start, and a URL shows the same rows tomorrow. A filter that few rows pass would
read the whole table; a page that has not filled in `SECONDS` stops and says how far it has looked.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tasks.viewer.catalogue import Catalogue
from tasks.viewer.filters import BadAddress

PAGE = 50
SECONDS = 1.0
"""a page takes no further shards after so long"""
SOON, LATE = 0.15, 0.5
"""seconds of a query under which the next one takes twice as many shards, and above which half as many"""
MOST_SHARDS = 64

Key = tuple[str, ...]
Unit = TypeVar("Unit")
Found = TypeVar("Found")
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Page:
    """The keys of one page, and where the ones before and after it begin."""

    keys: list[Key]
    before: Key | None
    after: Key | None
    stopped: bool
    """the time was up before the page was full"""
    looked: int
    """shards (for drops: slices) gone through, of `of` that there are from here on"""
    of: int


@dataclass(frozen=True)
class Cursor:
    """Where a page begins: after a key, or, going back, before one."""

    key: Key | None
    forward: bool = True


def read_cursor(after: str | None, before: str | None, columns: int) -> Cursor:
    """The cursor of a URL, whose key stands as `id~id~…`. Raises BadAddress."""
    text = after or before
    if text is None:
        return Cursor(None)
    key = tuple(text.split("~", columns - 1))
    if len(key) != columns or not _ID.fullmatch(key[0]):
        raise BadAddress(f"{'after' if after else 'before'}: found {text[:80]}, expected a key of this list")
    return Cursor(key, bool(after))


@dataclass(frozen=True)
class Listing:
    """What a list shows: a table, the columns of its key, and for each filter its condition.

    A condition uses the parameter of the filter's name, and is written here: nothing of a URL stands in a query.
    """

    table: str
    key: tuple[str, ...]
    conditions: Mapping[str, str]


def page_of(catalogue: Catalogue, listing: Listing, given: Mapping[str, str], cursor: Cursor) -> Page:
    """The keys of one page of a list; `given` holds values of its filters."""
    shards = catalogue.workspace.shards
    if "question" in given:
        shards = [catalogue.workspace.shard_of(given["question"])]
    elif cursor.key:
        start = shards.index(catalogue.workspace.shard_of(cursor.key[0]))
        shards = shards[start:] if cursor.forward else shards[: start + 1]
    if not cursor.forward:
        shards = shards[::-1]
    query = _query(listing, given, cursor)
    parameters: dict[str, Any] = dict(given) | {f"key_{number}": part for number, part in enumerate(cursor.key or ())}

    def look(batch: Sequence[str], most: int) -> list[Key]:
        rows = catalogue.rows(query, parameters | {"most": most}, batch, given.get("teacher"))
        return [tuple(row.values()) for row in rows]

    found, looked = gather(shards, look, PAGE + 1)
    bits = catalogue.workspace.bits
    return page_from(
        found, cursor, looked, len(shards), lambda: _edge(bits, shards[looked - 1], listing, cursor.forward)
    )


def gather(
    units: Sequence[Unit], look: Callable[[Sequence[Unit], int], list[Found]], most: int, at_once: int = MOST_SHARDS
) -> tuple[list[Found], int]:
    """Go through the units in order until `most` are found or the time is up: what was found, units gone through."""
    found: list[Found] = []
    looked, size, end = 0, 1, time.monotonic() + SECONDS
    while looked < len(units) and len(found) < most and (not looked or time.monotonic() < end):
        started = time.monotonic()
        batch = units[looked : looked + size]
        found += look(batch, most - len(found))
        looked += len(batch)
        seconds = time.monotonic() - started
        if seconds < SOON:
            size = min(2 * size, at_once)
        elif seconds > LATE:
            size = max(size // 2, 1)
    return found, looked


def page_from(found: Sequence[Key], cursor: Cursor, looked: int, of: int, edge: Callable[[], Key]) -> Page:
    """The page of what was found in the cursor's direction; `edge` is where to go on if it stopped."""
    more, stopped = len(found) > PAGE, len(found) <= PAGE and looked < of
    keys = list(found[:PAGE])
    onward = keys[-1] if more else edge() if stopped else None
    back = keys[0] if keys and cursor.key else None
    if cursor.forward:
        return Page(keys, back, onward, stopped, looked, of)
    return Page(keys[::-1], onward, back, stopped, looked, of)


def _query(listing: Listing, given: Mapping[str, str], cursor: Cursor) -> str:
    conditions = [listing.conditions[name] for name in given] or ["true"]
    if cursor.key:
        conditions += beyond(listing.key, cursor.forward)
    order = ", ".join(f"{name} {'asc' if cursor.forward else 'desc'}" for name in listing.key)
    return f"""
        select {", ".join(listing.key)}
        from {listing.table}
        where {" and ".join(f"({one})" for one in conditions)}
        order by {order}
        limit $most
    """


def beyond(columns: Sequence[str], forward: bool) -> list[str]:
    """Conditions that a row's key comes after (or before) the parameters key_0, key_1, …"""
    sign = ">" if forward else "<"
    either = []
    for number, name in enumerate(columns):
        same = [f"{other} = $key_{place}" for place, other in enumerate(columns[:number])]
        either.append(" and ".join([*same, f"{name} {sign} $key_{number}"]))
    return [f"{columns[0]} {sign}= $key_0", " or ".join(f"({one})" for one in either)]


def _edge(bits: int, shard: str, listing: Listing, forward: bool) -> Key:
    """Where the next shard begins (going back: ends), so that the next page doesn't begin with this one again."""
    number = int(shard, 2)
    place = (number + 1) << (32 - bits) if forward else (number << (32 - bits)) - 1
    identity = f"{place:08x}" + ("0" if forward else "f") * 24
    return (identity, *("" for _ in listing.key[1:]))
