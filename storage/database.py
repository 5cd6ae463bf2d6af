"""DuckDB over a workspace: one view per table, bounded memory, a spill folder, no extension but the built-in ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from storage.manifest import Head
from storage.schemas import LEDGER, TABLES
from storage.workspace import Workspace

DEFAULT_MEMORY_MB = 4096

BOOKS_FIELDS: list[pa.Field[Any]] = [
    pa.field("step", pa.string()),
    pa.field("shard", pa.string()),
    pa.field("seq", pa.int64()),
    pa.field("unit", pa.string()),
    pa.field("units_in", pa.int64()),
    pa.field("units_out", pa.int64()),
    pa.field("dropped", pa.int64()),
    pa.field("pending", pa.int64()),
    pa.field("seconds", pa.float64()),
    pa.field("reason", pa.string()),
    pa.field("created", pa.string()),
]
BOOKS = pa.schema(BOOKS_FIELDS)


def connect(spill: Path, memory_mb: int = DEFAULT_MEMORY_MB, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB that spills to `spill` above `memory_mb` MiB and never reaches for the network."""
    spill.mkdir(parents=True, exist_ok=True)
    return duckdb.connect(
        config={
            "memory_limit": f"{memory_mb}MiB",
            "temp_directory": str(spill),
            "threads": threads or os.cpu_count() or 1,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    )


def live_heads(workspace: Workspace) -> list[Head]:
    """The newest commit of every slice of the workspace."""
    manifest = workspace.manifest
    heads = (manifest.head(step, shard) for step in manifest.steps() for shard in manifest.shards(step))
    return [head for head in heads if head is not None]


def open_views(workspace: Workspace, memory_mb: int = DEFAULT_MEMORY_MB) -> duckdb.DuckDBPyConnection:
    """A connection with a view for each table, for `ledger`, and for `books` (one row per step, shard and unit)."""
    connection = connect(workspace.root / "tmp" / "duckdb", memory_mb)
    heads = live_heads(workspace)
    parts: dict[str, list[str]] = {name: [] for name in [*TABLES, "ledger"]}
    for head in heads:
        for part in head.parts:
            name = "ledger" if part.kind == "ledger" else Path(part.path).parts[1]
            parts[name].append(str(workspace.root / part.path))
    for name, paths in parts.items():
        _create_view(connection, name, paths, LEDGER if name == "ledger" else TABLES[name].schema)
    connection.register("books", pa.Table.from_pylist([row for head in heads for row in _books(head)], schema=BOOKS))
    return connection


def _create_view(connection: duckdb.DuckDBPyConnection, name: str, paths: list[str], schema: pa.Schema) -> None:
    if not paths:
        connection.register(name, _plain(schema).empty_table())
        return
    listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    connection.execute(f"create view {name} as select * from read_parquet([{listed}], hive_partitioning = false)")


def _plain(schema: pa.Schema) -> pa.Schema:
    """The schema with f16 as f32, which DuckDB knows."""
    kinds = [pa.list_(pa.float32()) if field.type == pa.list_(pa.float16()) else field.type for field in schema]
    return pa.schema(list(zip(schema.names, kinds, strict=True)))


def _books(head: Head) -> list[dict[str, Any]]:
    return [
        {
            "step": head.step, "shard": head.shard, "seq": head.seq, "unit": book.unit, "units_in": book.units_in,
            "units_out": book.units_out, "dropped": sum(book.dropped.values()), "pending": book.pending,
            "seconds": head.seconds, "reason": head.reason, "created": head.created,
        }
        for book in head.books
    ]  # fmt: skip
