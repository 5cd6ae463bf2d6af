"""Files of an export, written as the rows come: a data set of any size takes the memory of a few hundred rows.

Everything is written into a scratch folder, which is swapped into its place when it is whole. The same rows give the
same bytes and the same content hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.fingerprint import combine, content_hash, hash_text

SPLITS = ("train", "validation")
ROWS_PER_FILE = 50_000
ROWS_PER_GROUP = 512


class ParquetFiles:
    """`data/<split>-00000-of-00002.parquet`, of at most ROWS_PER_FILE rows each."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema) -> None:
        self._folder, self._split, self._schema = folder, split, schema
        self._rows: list[dict[str, Any]] = []
        self._paths: list[Path] = []
        self._writer: pq.ParquetWriter | None = None
        self._in_file = 0
        self._contents: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append({name: row[name] for name in self._schema.names})
        if len(self._rows) == ROWS_PER_GROUP or self._in_file + len(self._rows) == ROWS_PER_FILE:
            self._flush()

    def close(self) -> str:
        """The hash of the content. A data set without any file can't be loaded: the train split may be an empty one."""
        if self._rows:
            self._flush()
        if not self._paths and self._split == "train":
            self._open()
        self._finish()
        for number, path in enumerate(self._paths):
            path.rename(self._folder / f"{self._split}-{number:05d}-of-{len(self._paths):05d}.parquet")
        return hash_text(self._split, *self._contents)

    def _open(self) -> pq.ParquetWriter:
        if self._writer is None:
            path = self._folder / f"{self._split}-{len(self._paths):05d}.tmp"
            self._writer = pq.ParquetWriter(path, self._schema.remove_metadata(), compression="zstd")
            self._paths.append(path)
            self._in_file = 0
        return self._writer

    def _flush(self) -> None:
        table = pa.Table.from_pylist(self._rows, schema=self._schema)
        self._open().write_table(table.replace_schema_metadata(None).cast(self._schema.remove_metadata()))
        self._contents.append(content_hash(table))
        self._in_file += len(self._rows)
        self._rows = []
        if self._in_file >= ROWS_PER_FILE:
            self._finish()

    def _finish(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            _sync(self._paths[-1])


class JsonLines:
    """Files of one JSON object a line; `name` is a path within the folder, such as train.jsonl."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self._hashes: dict[str, Any] = {}
        self.rows: dict[str, int] = {}

    def add(self, name: str, record: dict[str, Any]) -> None:
        self.open(name)
        line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
        self._files[name].write(line)
        self._hashes[name].update(line)
        self.rows[name] += 1

    def open(self, name: str) -> None:
        """Make the file, even if no row comes."""
        if name not in self._files:
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files[name] = path.open("wb")
            self._hashes[name] = hashlib.sha256()
            self.rows[name] = 0

    def close(self) -> str:
        """The hash of the content."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        return combine([hash_text(name, self._hashes[name].hexdigest()) for name in sorted(self._hashes)])


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def swap_folder(fresh: Path, target: Path) -> None:
    """Put a folder in the place of another; a reader finds the old one, or for an instant none, never a mixture."""
    target.parent.mkdir(parents=True, exist_ok=True)
    old = fresh.with_name(f"{fresh.name}.old")
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
