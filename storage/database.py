"""DuckDB over a workspace: one view per table, bounded memory, a spill folder, no extension but the built-in ones.

Parts in an object store are read by ranges through fsspec, since DuckDB's own extension for it isn't built in.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from storage.manifest import Head, Part
from storage.place import is_local
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
    return [head for step in workspace.manifest.steps() for head in workspace.heads(step).values()]


def files_of(connection: duckdb.DuckDBPyConnection, workspace: Workspace, parts: Iterable[Part]) -> list[str]:
    """How this connection names parts, so that `read_parquet` finds them."""
    if is_local(workspace.root):
        return [str(workspace.root / part.path) for part in parts]
    from storage.parts import PROTOCOL, known_parts  # fsspec is slow to import

    if not connection.filesystem_is_registered(PROTOCOL):
        connection.register_filesystem(known_parts())
    return known_parts().names(workspace.root, parts)


def open_views(workspace: Workspace, memory_mb: int = DEFAULT_MEMORY_MB) -> duckdb.DuckDBPyConnection:
    """A connection with a view for each table, for `ledger`, and for `books` (one row per step, shard and unit)."""
    connection = connect(workspace.local / "tmp" / "duckdb", memory_mb)
    heads = live_heads(workspace)
    parts: dict[str, list[Part]] = {name: [] for name in [*TABLES, "ledger"]}
    for head in heads:
        for part in head.parts:
            parts["ledger" if part.kind == "ledger" else part.table].append(part)
    for name, found in parts.items():
        paths = files_of(connection, workspace, found)
        _create_view(connection, name, paths, LEDGER if name == "ledger" else TABLES[name].schema)
    connection.register("books", pa.Table.from_pylist([row for head in heads for row in _books(head)], schema=BOOKS))
    return connection


def _create_view(connection: duckdb.DuckDBPyConnection, name: str, paths: list[str], schema: pa.Schema) -> None:
    if not paths:
        connection.register(name, _plain(schema).empty_table())
        return
    listed = ", ".join(map(quoted, paths))
    connection.execute(f"create view {name} as select * from read_parquet([{listed}], hive_partitioning = false)")


def quoted(path: object) -> str:
    """A path as a literal of SQL."""
    return "'" + str(path).replace("'", "''") + "'"


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
