"""Are two workspaces the same data set? Rows are compared without their volatile columns (law 11)."""

from __future__ import annotations

import pyarrow as pa

from storage.manifest import Head
from storage.schemas import LEDGER, TABLES, is_volatile
from storage.workspace import Workspace


def differences(one: Workspace, other: Workspace, skip: tuple[str, ...] = ()) -> list[str]:
    """What differs, one line a slice; empty if all live rows and books are equal. `skip` names steps left out."""
    found = []
    steps = sorted({*one.manifest.steps(), *other.manifest.steps()} - set(skip))
    for step in steps:
        for shard in sorted({*one.manifest.shards(step), *other.manifest.shards(step)}):
            heads = one.head(step, shard), other.head(step, shard)
            if heads[0] is None or heads[1] is None:
                found.append(f"{step} {shard}: committed in one of the two only")
                continue
            found += [f"{step} {shard}: {what}" for what in _slice_differences(one, heads[0], other, heads[1])]
    return found


def _slice_differences(one: Workspace, first: Head, other: Workspace, second: Head) -> list[str]:
    found = []
    if first.books != second.books:
        found.append(f"books {first.books} and {second.books}")
    if first.content != second.content:
        found.append("content hashes differ")
    for kind in ("data", "ledger"):
        rows = [_rows(workspace, head, kind) for workspace, head in ((one, first), (other, second))]
        if not rows[0].equals(rows[1]):
            found.append(f"{kind} rows differ ({rows[0].num_rows} and {rows[1].num_rows})")
    return found


def _rows(workspace: Workspace, head: Head, kind: str) -> pa.Table:
    parts = [part for part in head.parts if part.kind == kind]
    if not parts:
        return pa.table({})
    key: tuple[str, ...]
    if kind == "ledger":
        schema, key = LEDGER, ("unit_id", "rule")
    else:
        table = TABLES[parts[0].table]
        schema, key = table.schema, table.key
    rows = pa.concat_tables([workspace.read_part(part) for part in parts])
    rows = rows.sort_by([(name, "ascending") for name in key])
    steady = [field.name for field in schema if not is_volatile(field)]
    return rows.select(steady).replace_schema_metadata(None).combine_chunks()
