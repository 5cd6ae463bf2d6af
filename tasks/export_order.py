"""The order of an export's rows: as the questions lie, or, where the selection has a curriculum, the least of it first.

A curriculum runs across all shards, so rows are put into a file first and read back sorted by DuckDB, which spills to
disk: memory doesn't grow with the table. Rows without a number come last; ties go by question and response.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.database import connect
from storage.workspace import Workspace

AT_ONCE = 512
KEYED_FIELDS: list[pa.Field[Any]] = [
    pa.field("curriculum", pa.float64()), pa.field("question_id", pa.string()), pa.field("response_id", pa.string()),
    pa.field("row", pa.string()),
]  # fmt: skip
KEYED = pa.schema(KEYED_FIELDS)


def has_curriculum(workspace: Workspace) -> bool:
    """Whether the selection gives its rows an order."""
    tables = (workspace.read("select", shard, "selection", ["curriculum"]) for shard in workspace.shards)
    return any(table.column("curriculum").null_count < table.num_rows for table in tables)


def in_curriculum_order(rows: Iterable[dict[str, Any]], scratch: Path, memory_mb: int) -> Iterator[dict[str, Any]]:
    """The rows with the least `curriculum` first. `scratch`: an empty folder; it is removed in the end."""
    try:
        yield from _ordered(iter(rows), scratch, memory_mb)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _ordered(rows: Iterator[dict[str, Any]], scratch: Path, memory_mb: int) -> Iterator[dict[str, Any]]:
    file = scratch / "rows.parquet"
    with pq.ParquetWriter(file, KEYED, compression="zstd") as writer:
        while batch := list(islice(rows, AT_ONCE)):
            keyed = [{name: row[name] for name in KEYED.names[:3]} | {"row": json.dumps(row)} for row in batch]
            writer.write_table(pa.Table.from_pylist(keyed, schema=KEYED))
    with closing(connect(scratch / "spill", memory_mb)) as database:
        reader = database.execute(
            "select row from read_parquet($file) order by curriculum nulls last, question_id, response_id",
            {"file": str(file)},
        )
        while found := reader.fetchmany(AT_ONCE):
            for (row,) in found:
                yield json.loads(row)
