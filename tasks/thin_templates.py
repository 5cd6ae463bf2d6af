"""Of each template so many questions stay: chosen over all shards, in DuckDB, with a memory limit and a spill folder.

A row a question goes in (ids, hashes and numbers, no text); what comes out, a shard at a time, are the ones that go.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from storage.database import connect
from tasks.step import Context

_FIELDS: list[pa.Field[Any]] = [
    pa.field("question_id", pa.string()),
    pa.field("shard", pa.string()),
    pa.field("template", pa.string()),
    pa.field("protected", pa.bool_()),
    pa.field("draw", pa.float64()),
]
ROWS = pa.schema(_FIELDS)
SHOWN = 3
"""Questions of a template that stay and are named in the evidence."""


class Templates:
    """`add` every shard, then `settle`, then ask for each shard's; a context manager that removes its files."""

    def __init__(self, context: Context) -> None:
        self._folder = context.workspace.scratch()
        self._database = connect(self._folder, context.memory_mb)
        self._database.register("nothing", ROWS.empty_table())
        self._database.execute("create table drawn as from nothing")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        self._database.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Rows of ROWS; `draw` in [0, 1) orders the questions of a template, `protected` ones stay."""
        self._database.register("piece", pa.Table.from_pylist(list(rows), schema=ROWS))
        self._database.execute("insert into drawn from piece")
        self._database.unregister("piece")

    def settle(self, most: int) -> None:
        """Protected questions are in front, then those with the smallest draws; the first `most` stay."""
        self._database.execute(
            """
            create table gone as
            with large as (
                select template, count(*) as members from drawn group by template having count(*) > $most
            ),
            placed as (
                select question_id, shard, template, protected, members,
                       row_number() over (
                           partition by template order by protected desc, draw, question_id
                       ) as number
                from drawn join large using (template)
            ),
            shown as (
                select template, list(question_id order by number) as kept
                from placed where number <= least($most, $shown) group by template
            )
            select shard, question_id, number, members, kept
            from placed join shown using (template)
            where number > $most and not protected
            order by shard, question_id
            """,
            {"most": most, "shown": SHOWN},
        )
        self._database.execute("drop table drawn")

    def gone(self, shard: str) -> dict[str, tuple[int, int, list[str]]]:
        """Of each question that goes: its number within its template, the template's questions, some that stay."""
        rows = self._database.execute(
            "select question_id, number, members, kept from gone where shard = ?", [shard]
        ).fetchall()
        return {identity: (number, members, kept) for identity, number, members, kept in rows}
