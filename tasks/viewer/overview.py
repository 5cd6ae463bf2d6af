"""The first page: the funnel from the books of every commit, with links to what it counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode

from storage.manifest import Head


@dataclass
class FunnelRow:
    """The books of one step and unit, added up over its shards."""

    step: str
    unit: str
    units_in: int = 0
    units_out: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    pending: int = 0

    @property
    def rows_link(self) -> str | None:
        """The list that shows what the step put out."""
        stage, _, teacher = self.step.partition(".")
        whose = f"?{urlencode({'teacher': teacher})}" if teacher else ""
        return {
            "ingest": "/questions", "curate": "/questions?fate=kept", "generate": f"/responses{whose}",
            "verify": f"/verdicts{whose}", "select": "/responses?selected=yes" if self.unit == "response" else None,
        }.get(stage)  # fmt: skip


def funnel(heads: Sequence[Head]) -> list[FunnelRow]:
    """One row per step and unit, in the order of the heads."""
    rows: dict[tuple[str, str], FunnelRow] = {}
    for head in heads:
        for book in head.books:
            row = rows.setdefault((head.step, book.unit), FunnelRow(head.step, book.unit))
            row.units_in += book.units_in
            row.units_out += book.units_out
            row.pending += book.pending
            row.dropped.update(book.dropped)
    return list(rows.values())


def rules(heads: Sequence[Head], unit: str | None = None) -> list[str]:
    """All rules that dropped something, or something of this unit."""
    return sorted({
        rule
        for head in heads for book in head.books if unit in (None, book.unit)
        for rule, number in book.dropped.items() if number
    })  # fmt: skip


def row_counts(heads: Sequence[Head]) -> dict[str, int]:
    """Table → rows, by the manifest."""
    counts: Counter[str] = Counter()
    for head in heads:
        for part in head.data():
            counts[part.table] += part.rows
    return dict(counts)
