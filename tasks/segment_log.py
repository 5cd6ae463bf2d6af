"""The log of one shard on an object store: responses that are paid for, in create-only segments.

`unfinished/<step>/<shard>-<token>-<number>-<rows>.jsonl`: an object each, of the lines that tasks/shard_log.py writes.
What was added is put as the next segment when it is SEGMENT_ROWS or SEGMENT_S old; a crash pays again only for what no
segment held. A segment is never changed, and whoever commits removes those that it has read: what a frozen writer puts
later lies in segments of its own, which the next commit takes in.

Covered: a process killed at any moment, two writers of one shard, a store that fails for as long as its client tries.
A store that fails longer ends the run; what was added meanwhile stays in memory and is put when the log is let go, if
that succeeds.
"""

from __future__ import annotations

import io
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.files import create_file, remove_files
from storage.objects import read_many
from tasks.shard_log import Row, Syncer, as_line, logs, read_log, whole_lines

SEGMENT_ROWS = 200
SEGMENT_S = 5.0
"""A segment is put when it has so many rows, or its first row is so old; looked at every second"""
READ_AT_ONCE = 16


class SegmentLog:
    """Implements `Unfinished` on an object store. One thread adds; the syncer's puts; `rows` and `committed` may come
    from another one when nothing is added any more."""

    def __init__(self, folder: Path, shard: str, columns: Sequence[str], syncer: Syncer) -> None:
        self._folder, self._shard, self._columns, self._syncer = folder, shard, list(columns), syncer
        self._token = secrets.token_hex(8)
        self._number = 0
        self._buffer: list[Row] = []
        self._since = 0.0
        self._adding = threading.Lock()
        self._putting = threading.RLock()
        """held while a segment is under way: its rows are in no other place then"""
        self._seen: set[Path] = set()
        """segments that were read, or are this writer's own"""

    def add(self, row: Row) -> None:
        with self._adding:
            if not self._buffer:
                self._since = time.monotonic()
            self._buffer.append(row)
        self._syncer.dirty(self)

    def sync(self) -> bool:
        """Put a segment if it is time."""
        with self._adding:
            due = len(self._buffer) >= SEGMENT_ROWS or time.monotonic() - self._since >= SEGMENT_S
            if not due and self._buffer:
                return False
        self._put()
        return True

    def _put(self) -> None:
        with self._putting:
            with self._adding:
                rows, self._buffer = self._buffer, []
            if not rows:
                return
            name = f"{self._shard}-{self._token}-{self._number:06d}-{len(rows)}.jsonl"
            data = as_line({"columns": self._columns}) + b"".join(map(as_line, rows))
            try:
                create_file(self._folder / name, data)
            except BaseException:
                with self._adding:
                    self._buffer = rows + self._buffer
                raise
            self._number += 1
            self._seen.add(self._folder / name)

    def rows(self) -> Iterator[Row]:
        with self._putting:
            found = logs(self._folder, self._shard)
            kept = list(self._buffer)
        self._seen.update(found)
        for start in range(0, len(found), READ_AT_ONCE):
            some = found[start : start + READ_AT_ONCE]
            try:
                pieces = [whole_lines(io.BytesIO(data), self._columns) for data in read_many(some)]
            except FileNotFoundError:  # another writer has just committed: what is left of these, one by one
                pieces = [read_log(path, self._columns) for path in some]
            for piece in pieces:
                yield from piece
        yield from kept

    def committed(self) -> None:
        with self._putting, self._adding:
            self._buffer = []
        self._syncer.forget(self)
        remove_files(sorted(self._seen))
        self._seen = set()

    def close(self) -> None:
        self._syncer.forget(self)
        self._put()
