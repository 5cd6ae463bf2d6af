"""Duplicates and benchmark hits of the report, side by side with what they were taken for.

Shown are those nearest to their rule's threshold, where the rule is most likely to be wrong.
"""

from __future__ import annotations

import json
from typing import Any

import duckdb

from tasks.findings import Example, Section
from tasks.report_samples import ASKED

EXAMPLES = 3
"""of each rule"""
LONGEST = 20_000
"""characters of a text that are looked at"""
DUPLICATES = {
    "exact_duplicate": "The same text after normalising; the first by priority stays.",
    "near_duplicate": "Vectors as near as the threshold or nearer; one of a cluster stays.",
    "lexical_duplicate": "Sets of words as alike as the threshold or more; one of a cluster stays.",
    "near_heldout": "Too like a held-out question to be trained on.",
}


def pair_facts(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """`pairs`: a findings section for each rule that found one question like another, or like a benchmark's item."""
    picked = connection.execute(
        """
        select rule, count(*),
            arg_min(unit_id, (coalesce(abs(value - threshold), 1e9), unit_id), $examples)
        from ledger
        where unit = 'question' and (rule in (select unnest($duplicates)) or starts_with(rule, 'benchmark_'))
        group by rule
        order by starts_with(rule, 'benchmark_'), rule
        """,
        {"examples": EXAMPLES, "duplicates": list(DUPLICATES)},
    ).fetchall()
    ids = sorted({identity for *_, found in picked for identity in found})
    rows = _dropped(connection, ids)
    others = {other for row in rows.values() if (other := _other(row))}
    texts = _texts(connection, sorted({*ids, *others}))
    return {"pairs": [_section(rule, number, found, rows, texts) for rule, number, found in picked]}


Row = dict[str, Any]


def _dropped(connection: duckdb.DuckDBPyConnection, ids: list[str]) -> dict[tuple[str, str], Row]:
    """(rule, question) → value, threshold and evidence of these drops."""
    rows = connection.execute(
        """
        select rule, unit_id, value, threshold, if(length(evidence) <= $longest, evidence, '{}')
        from ledger
        where unit = 'question' and unit_id in (select unnest($ids::varchar[]))
        """,
        {"ids": ids, "longest": LONGEST},
    ).fetchall()
    return {
        (rule, identity): {"value": value, "threshold": threshold, "evidence": _object(evidence)}
        for rule, identity, value, threshold, evidence in rows
    }


def _object(evidence: str) -> dict[str, Any]:
    try:
        found = json.loads(evidence)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _other(row: Row) -> str | None:
    """The question that the dropped one is most like, else the one that was kept."""
    other = row["evidence"].get("like") or row["evidence"].get("kept")
    return other if isinstance(other, str) else None


def _texts(connection: duckdb.DuckDBPyConnection, ids: list[str]) -> dict[str, str]:
    return dict(
        connection.execute(
            f"select question_id, ({ASKED})[:{LONGEST}] from questions "
            "where question_id in (select unnest($ids::varchar[]))",
            {"ids": ids},
        ).fetchall()
    )


def _section(
    rule: str, number: int, ids: list[str], rows: dict[tuple[str, str], Row], texts: dict[str, str]
) -> Section:
    examples = [_example(identity, rows[rule, identity], texts) for identity in ids]
    explained = DUPLICATES.get(rule, "A benchmark’s item, or too like one.")
    return Section(rule, f"{number:,} dropped. {explained}", examples=examples)


def _example(identity: str, row: Row, texts: dict[str, str]) -> Example:
    evidence = row["evidence"]
    facts = [(name, row[name]) for name in ("value", "threshold") if row[name] is not None]
    if "item_text" in evidence:
        title = f"{evidence.get('benchmark', 'benchmark')}, item {evidence.get('item', '?')}"
        matched = tuple(str(evidence.get("matched", "")).split("; "))
        facts += [(name, str(evidence[name])) for name in ("verdict", "found_by", "reason") if evidence.get(name)]
        right: str | None = str(evidence["item_text"])
    else:
        other = _other(row)
        title, matched = f"stays: {other[:8]}" if other else "", ()
        right = texts.get(str(other)) if other else None
    return Example(identity[:8], "dropped", texts.get(identity, ""), title, right, facts, matched)
