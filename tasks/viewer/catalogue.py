"""Which committed files hold which table of which shard, and queries over them.

The manifest is asked at every page, so that a page shows what is committed now (the whole manifest at most every
`FRESH_S` seconds, for counts); a commit's JSON is read once. A query
names tables as `stillhouse sql` does; only the files of the shards that it is asked for are opened, and every value,
the files' names included, is a bound parameter.

Not covered: a garbage collection that removes a file between asking the manifest and opening the file; the page then
says so, and the next one is right.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.database import connect, files_of
from storage.manifest import Head, Part
from storage.schemas import LEDGER, TABLES
from storage.workspace import Workspace
from tasks.report_data import STEP_ORDER

MEMORY_MB = 1024
FRESH_S = 5.0
BY_TEACHER = {"responses", "verdicts"}
"""tables that are made by one step a teacher: `generate.<teacher>`, `verify.<teacher>`"""

_SCHEMAS = {name: table.schema for name, table in TABLES.items()} | {"ledger": LEDGER}
_NAMES = re.compile(rf"\b({'|'.join(_SCHEMAS)})\b")
_PARAMETERS = re.compile(r"\$(\w+)")


class Catalogue:
    """The committed slices of a workspace and a DuckDB that reads them. Safe to be used by several threads."""

    def __init__(self, workspace: Workspace, spill: Path, memory_mb: int = MEMORY_MB) -> None:
        """`spill` is a folder that DuckDB may write to: the workspace itself may be read-only."""
        self.workspace = workspace
        self._heads: dict[tuple[str, str], Head] = {}
        self._seen: tuple[float, list[Head]] = (-FRESH_S, [])
        self._database = connect(spill, memory_mb)
        for name, schema in _SCHEMAS.items():
            self._database.register("schema_of", _without_f16(schema).empty_table())
            self._database.execute(f"create table empty_{name} as select * from schema_of")
            self._database.unregister("schema_of")

    def close(self) -> None:
        self._database.close()

    # --- the manifest

    def steps(self) -> list[str]:
        """Keys of all steps that have a commit, in the order of the road."""
        return sorted(self.workspace.manifest.steps(), key=_rank)

    def head(self, step: str, shard: str) -> Head | None:
        """The newest commit of a slice."""
        seq = self.workspace.manifest.last_seq(step, shard)
        if not seq:
            return None
        known = self._heads.get((step, shard))
        if known is None or known.seq != seq:
            known = self._heads[step, shard] = self.workspace.manifest.read(step, shard, seq)
        return known

    def heads(self) -> list[Head]:
        """The newest commit of every slice of the workspace, as of at most `FRESH_S` seconds ago."""
        moment, heads = self._seen
        if time.monotonic() - moment >= FRESH_S:
            manifest = self.workspace.manifest
            found = (self.head(step, shard) for step in self.steps() for shard in manifest.shards(step))
            heads = [head for head in found if head is not None]
            self._seen = time.monotonic(), heads
        return heads

    def teachers(self) -> list[str]:
        """Names of all teachers with a committed slice, a former recipe's included."""
        parts = (step.partition(".") for step in self.workspace.manifest.steps())
        return sorted({teacher for stage, _, teacher in parts if stage == "generate" and teacher})

    # --- the tables

    def rows(
        self, query: str, parameters: Mapping[str, Any], shards: Sequence[str], teacher: str | None = None
    ) -> list[dict[str, Any]]:
        """The rows of a query over some shards, of one teacher alone where it is named.

        The query may begin with `with`. Of the parameters, which are named ones, it gets
        those that it mentions.
        """
        names = sorted(set(_NAMES.findall(query)))
        files = self._files(names, shards, teacher)
        used = set(_PARAMETERS.findall(query))
        given = {name: value for name, value in parameters.items() if name in used}
        tables = []
        for name in names:
            read = f"empty_{name}"
            if files[name]:
                read = f"read_parquet($files_of_{name}, hive_partitioning = false)"
                given[f"files_of_{name}"] = files[name]
            tables.append(f"{name} as not materialized (select * from {read})")
        rest = query.strip()
        with_tables = "with " + ", ".join(tables) if tables else ""
        if tables and rest.startswith("with "):
            rest = ", " + rest.removeprefix("with ")
        with self._database.cursor() as cursor:
            table = cursor.sql(f"{with_tables} {rest}", params=given).to_arrow_table()
        return list(table.to_pylist())

    def _files(self, names: Sequence[str], shards: Sequence[str], teacher: str | None) -> dict[str, list[str]]:
        found: dict[str, list[Part]] = {name: [] for name in names}
        steps = self.steps()
        for shard in shards:
            for step in steps:
                head = self.head(step, shard)
                if head is None:
                    continue
                for part in head.parts:
                    name = "ledger" if part.kind == "ledger" else part.table
                    if name in found and not _of_another(step, name, teacher):
                        found[name].append(part)
        return {name: files_of(self._database, self.workspace, parts) for name, parts in found.items()}


def _of_another(step: str, table: str, teacher: str | None) -> bool:
    """Whether this step writes the table's rows of another teacher."""
    return teacher is not None and table in BY_TEACHER and step.partition(".")[2] not in ("", teacher)


def _rank(step: str) -> tuple[int, str]:
    stage = step.partition(".")[0]
    return STEP_ORDER.index(stage) if stage in STEP_ORDER else len(STEP_ORDER), step


def _without_f16(schema: pa.Schema) -> pa.Schema:
    """The schema with f16 as f32, which DuckDB knows."""
    f16 = pa.list_(pa.float16())
    return pa.schema([(field.name, pa.list_(pa.float32()) if field.type == f16 else field.type) for field in schema])
