"""The list of drops: the ledger, step after step along the road, shard after shard.

The books in the manifest say how many units of which rule each slice dropped, so a slice without any is never opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from storage.manifest import Head
from tasks.viewer.catalogue import Catalogue
from tasks.viewer.excerpt import Excerpt, excerpt
from tasks.viewer.filters import BadAddress, Filter
from tasks.viewer.scan import PAGE, Cursor, Key, Page, beyond, gather, page_from

UNITS = ("record", "question", "request", "score", "response", "example", "pair")
ORDER = ("unit_id", "unit", "rule")
"""of the rows of one slice"""


def filters(steps: Sequence[str], rules: Sequence[str]) -> list[Filter]:
    """`steps` and `rules` are the workspace's own."""
    return [
        Filter("step", "Step", choices=steps),
        Filter("rule", "Rule", choices=rules),
        Filter("unit", "Unit", choices=UNITS),
        Filter("text", "Id or evidence", "text"),
    ]


@dataclass(frozen=True)
class DropRow:
    """One row of the ledger."""

    step: str
    shard: str
    unit: str
    unit_id: str
    rule: str
    value: float | None
    threshold: float | None
    evidence: Excerpt

    @property
    def key(self) -> Key:
        return (self.step, self.shard, self.unit, self.rule, self.unit_id)


def read_cursor(after: str | None, before: str | None) -> Cursor:
    """The cursor of a URL, whose key stands as `step~shard~unit~rule~unit_id`. Raises BadAddress."""
    text = after or before
    if text is None:
        return Cursor(None)
    key = tuple(text.split("~", 4))
    if len(key) != 5:
        raise BadAddress(f"{'after' if after else 'before'}: found {text[:80]}, expected a key of this list")
    return Cursor(key, bool(after))


def count(heads: Sequence[Head], given: Mapping[str, str]) -> int:
    """How many drops the books name for these filters; a text is not among what they know."""
    return sum(_booked(head, given) for head in heads)


def _booked(head: Head, given: Mapping[str, str]) -> int:
    if given.get("step", head.step) != head.step:
        return 0
    return sum(
        number
        for book in head.books if given.get("unit", book.unit) == book.unit
        for rule, number in book.dropped.items() if given.get("rule", rule) == rule
    )  # fmt: skip


def page_of(
    catalogue: Catalogue, heads: Sequence[Head], given: Mapping[str, str], cursor: Cursor
) -> tuple[list[DropRow], Page]:
    """One page of drops of `heads`, which are in the list's order."""
    slices = [head for head in heads if head.ledger() and _booked(head, given)]
    if cursor.key:
        slices = list(_from(slices, heads, cursor))
    if not cursor.forward:
        slices = slices[::-1]

    def look(batch: Sequence[Head], most: int) -> list[DropRow]:
        return _read(catalogue, batch[0], given, cursor, most)

    found, looked = gather(slices, look, PAGE + 1, at_once=1)
    by_key = {row.key: row for row in found}
    page = page_from(list(by_key), cursor, looked, len(slices), lambda: _edge(slices[looked - 1], cursor.forward))
    return [by_key[key] for key in page.keys], page


def _from(slices: Sequence[Head], heads: Sequence[Head], cursor: Cursor) -> Iterator[Head]:
    """The slices from the cursor's own on, or up to it."""
    order = {(head.step, head.shard): number for number, head in enumerate(heads)}
    key = cursor.key or ()
    if key[:2] not in order:
        raise BadAddress(f"found a key of step {key[0][:80]} shard {key[1][:80]}, which isn't there (any more)")
    place = order[key[0], key[1]]
    for head in slices:
        number = order[head.step, head.shard]
        if number >= place if cursor.forward else number <= place:
            yield head


def _read(catalogue: Catalogue, head: Head, given: Mapping[str, str], cursor: Cursor, most: int) -> list[DropRow]:
    conditions = ["stage = $stage"]
    conditions += [f"{name} = ${name}" for name in ("rule", "unit") if name in given]
    if "text" in given:
        conditions.append("regexp_matches(concat(unit_id, ' ', evidence), regexp_escape($text), 'i')")
    parameters: dict[str, object] = dict(given) | {"stage": head.step, "most": most}
    if cursor.key and cursor.key[:2] == (head.step, head.shard):
        _, _, unit, rule, unit_id = cursor.key
        parameters |= {"key_0": unit_id, "key_1": unit, "key_2": rule}
        conditions += beyond(ORDER, cursor.forward)
    rows = catalogue.rows(
        f"""
        select stage as step, unit, unit_id, rule, value, threshold, evidence
        from ledger
        where {" and ".join(f"({one})" for one in conditions)}
        order by {", ".join(f"{name} {'asc' if cursor.forward else 'desc'}" for name in ORDER)}
        limit $most
        """,
        parameters,
        [head.shard],
    )
    return [
        DropRow(shard=head.shard, **row | {"evidence": excerpt(row["evidence"], given.get("text"))}) for row in rows
    ]


def _edge(head: Head, forward: bool) -> Key:
    """A key that none of the slice lies beyond."""
    return (head.step, head.shard, "", "", "\U0010ffff" if forward else "")
