"""Rows on their way to their shards: buffered, spilled to one Arrow file per shard, read back one shard at a time."""

from __future__ import annotations

import shutil
from collections import defaultdict
from typing import Any

import pyarrow as pa

from storage.workspace import Workspace

BUFFERED_ROWS = 50_000
BUFFERED_CHARS = 128 << 20


class Spill:
    """Partition rows by shard within bounded memory; nothing here is durable."""

    def __init__(self, workspace: Workspace, schema: pa.Schema) -> None:
        self._folder = workspace.scratch()
        self._schema = schema
        self._buffers: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._pieces: dict[str, int] = defaultdict(int)
        self._rows = self._chars = 0

    def add(self, shard: str, row: dict[str, Any]) -> None:
        self._buffers[shard].append(row)
        self._rows += 1
        self._chars += sum(_size(value) for value in row.values())
        if self._rows >= BUFFERED_ROWS or self._chars >= BUFFERED_CHARS:
            self._flush()

    def read(self, shard: str) -> pa.Table:
        """All rows added for a shard, in the order they came."""
        self._flush()
        pieces = []
        for number in range(self._pieces[shard]):
            with pa.ipc.open_file(str(self._folder / f"{shard}-{number}.arrow")) as file:
                pieces.append(file.read_all())
        return pa.concat_tables(pieces) if pieces else self._schema.empty_table()

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _flush(self) -> None:
        for shard, rows in self._buffers.items():
            table = pa.Table.from_pylist(rows, schema=self._schema)
            with pa.ipc.new_file(str(self._folder / f"{shard}-{self._pieces[shard]}.arrow"), self._schema) as file:
                file.write_table(table)
            self._pieces[shard] += 1
        self._buffers.clear()
        self._rows = self._chars = 0


def _size(value: Any) -> int:
    """About how many characters a value holds."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list | dict):
        return sum(_size(inner) for inner in (value.values() if isinstance(value, dict) else value))
    return 8
