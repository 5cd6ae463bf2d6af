"""The slices that grading reads, as views of a DuckDB connection that spills into a folder of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb

from storage.database import connect, files_of
from storage.schemas import TABLES
from storage.workspace import Workspace
from tasks.step import Context, Step

SHARDS_AT_ONCE = 64


@contextmanager
def spilling(context: Context, lanes: int = 1) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with this lane's share of the memory and of the cores; what it spilled is removed at the end."""
    folder = context.workspace.scratch()  # two databases that spill into one folder would take each other's files
    try:
        with connect(folder, context.memory_mb // lanes, max(1, (os.cpu_count() or 1) // lanes)) as connection:
            connection.execute("set enable_progress_bar = false")  # it would write over the stage's own
            yield connection
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def batches(
    context: Context, step: Step, teachers: Sequence[str]
) -> Iterator[tuple[duckdb.DuckDBPyConnection, list[str]]]:
    """All shards, SHARDS_AT_ONCE a time, with the views of `view_slices` over them; each is one step of progress."""
    workspace = context.workspace
    context.progress.expect(step.key, len(workspace.shards))
    with spilling(context) as connection:
        for start in range(0, len(workspace.shards), SHARDS_AT_ONCE):
            shards = list(workspace.shards[start : start + SHARDS_AT_ONCE])
            view_slices(connection, workspace, shards, teachers)
            yield connection, shards
            context.progress.advance(step.key, len(shards))


def view_slices(
    connection: duckdb.DuckDBPyConnection, workspace: Workspace, shards: Sequence[str], teachers: Sequence[str]
) -> None:
    """Make the views `curated` and `verdicts` over these shards, the verdicts those of these teachers."""
    view_steps(connection, workspace, "curated", ["curate"], shards)
    view_steps(connection, workspace, "verdicts", [f"verify.{teacher}" for teacher in teachers], shards)


def view_steps(
    connection: duckdb.DuckDBPyConnection,
    workspace: Workspace,
    table: str,
    steps: Sequence[str],
    shards: Sequence[str],
    view: str = "",
) -> None:
    """Make the view `view` (default: `table`) over the live rows of these steps; NotCommitted if one of the slices
    isn't there."""
    parts = [part for step in steps for shard in shards for part in workspace.need(step, shard).data()]
    if not parts:
        connection.from_arrow(TABLES[table].schema.empty_table()).create_view(view or table, replace=True)
        return
    paths = files_of(connection, workspace, parts)
    connection.read_parquet(paths, hive_partitioning=False).create_view(view or table, replace=True)
