"""The log of one shard: responses that are paid for and that no commit holds yet.

`unfinished/<step>/<shard>-<token>.jsonl` in the workspace, one file a writer, a line a response: the CRC-32 of its
JSON in hex, a blank, the JSON (a list of values; the first line names their columns). A line is written with one
`write` as soon as the response is there, and fsynced within a second; so a killed process loses none of them, a
machine that loses power at most a second's. A reader takes all writers' files and passes over what is torn.

A writer holds a lock (`flock`) on its file while it lives. After a commit it removes its own file and those whose
writers are gone; a file whose writer lives (a frozen process that another one took over from) stays until that one
ends or a later commit finds it gone. Where a shared file system has no locks, a living writer may be taken for a dead
one, and loses what it adds after the commit.

Not covered: object stores, where nothing can be appended; there tasks/segment_log.py keeps the same lines in segments.
Reading, listing and counting here serve both.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import secrets
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

from storage.files import fsync_folder, make_folder, names, read_file
from storage.place import is_local

SYNC_EVERY_S = 1.0

Row = list[Any]
"""Values in the order of the log's columns; only what JSON has."""


class Unfinished(Protocol):
    """Where a shard keeps its responses until they are committed."""

    def add(self, row: Row) -> None:
        """Keep one response; on a file system it is safe from the process's death when this returns."""
        ...

    def rows(self) -> Iterator[Row]:
        """All responses of this and of earlier writers, each writer's in its order; one may come twice."""
        ...

    def committed(self) -> None:
        """What `rows` gave last is in a commit; forget it."""
        ...

    def close(self) -> None:
        """Let go; what isn't committed stays for the next writer."""
        ...


class Held:
    """Responses that cost nothing to get again, such as replayed ones: kept in memory alone."""

    def __init__(self) -> None:
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        self._rows.append(row)

    def rows(self) -> Iterator[Row]:
        return iter(self._rows)

    def committed(self) -> None:
        self._rows = []

    def close(self) -> None:
        pass


class ShardLog:
    """Implements `Unfinished` on a file system. One thread adds; `rows` and `committed` may come from another one
    when nothing is added any more."""

    def __init__(self, folder: Path, shard: str, columns: Sequence[str], syncer: Syncer) -> None:
        self._folder, self._shard, self._columns, self._syncer = folder, shard, list(columns), syncer
        self._mine: Path | None = None
        self._handle = -1
        self._taken: dict[Path, int] = {}
        """logs of writers that are gone, and our locks on them"""

    def add(self, row: Row) -> None:
        if self._handle < 0:
            self._begin()
        self._write(row)
        self._syncer.dirty(self)

    def sync(self) -> bool:
        os.fsync(self._handle)
        return True

    def _begin(self) -> None:
        make_folder(self._folder)
        self._mine = self._folder / f"{self._shard}-{secrets.token_hex(8)}.jsonl"
        self._handle = os.open(self._mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        with contextlib.suppress(OSError):  # no locks on this file system
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._write({"columns": self._columns})
        fsync_folder(self._folder)

    def _write(self, value: Row | dict[str, Any]) -> None:
        line = as_line(value)
        if os.write(self._handle, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._mine))  # a torn tail is cut by the reader

    def rows(self) -> Iterator[Row]:
        for path in logs(self._folder, self._shard):
            if path != self._mine:
                self._take(path)
            yield from read_log(path, self._columns)

    def _take(self, path: Path) -> None:
        """Lock a log if its writer is gone, so that what is read now is all that it will ever hold."""
        if path in self._taken:
            return
        with contextlib.suppress(OSError):  # removed meanwhile, its writer lives, or there are no locks here
            handle = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(handle)
                raise
            self._taken[path] = handle

    def committed(self) -> None:
        for path in [*self._taken, *([self._mine] if self._mine else [])]:
            path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        for handle in self._taken.values():
            os.close(handle)
        self._taken = {}
        if self._handle >= 0:
            self._syncer.forget(self)
            os.close(self._handle)
        self._handle, self._mine = -1, None


class Synced(Protocol):
    def sync(self) -> bool:
        """Make what was added durable; False if it isn't time yet."""
        ...


class Syncer:
    """Has what was written made durable, every second, in a thread of its own, so that nobody waits for the disk."""

    def __init__(self) -> None:
        self._dirty: set[Synced] = set()
        self._fault: OSError | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shard-log-sync", daemon=True)

    def dirty(self, log: Synced) -> None:
        """Raises what the last sync raised: a disk, or a store, that can't keep what it was given."""
        if self._fault is not None:
            raise self._fault
        self._dirty.add(log)

    def forget(self, log: Synced) -> None:
        """Call it before the log is closed."""
        with self._lock:
            if log in self._dirty:
                self._dirty.discard(log)
                log.sync()

    def _run(self) -> None:
        while not self._ended.wait(SYNC_EVERY_S):
            try:
                self._sync()
            except OSError as fault:
                self._fault = fault
                return

    def _sync(self) -> None:
        for log in list(self._dirty):
            with self._lock:
                if log in self._dirty:
                    self._dirty.discard(log)
                    if not log.sync():
                        self._dirty.add(log)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._sync()


def log_folder(root: Path, step: str) -> Path:
    """Where a step's logs lie in the workspace at `root`."""
    return root / "unfinished" / step


def logs(folder: Path, shard: str = "*") -> list[Path]:
    """The logs of one shard, or of all, in the order of their names."""
    found = [name for name in names(folder) if name.endswith(".jsonl") and not name.startswith(".")]
    return [folder / name for name in found if shard in ("*", name.partition("-")[0])]


def shard_of(log: Path) -> str:
    return log.name.partition("-")[0]


def count_rows(log: Path) -> int:
    """How many responses a log holds: by its whole lines, the first of which names the columns; a segment's name says
    it."""
    if not is_local(log):
        return int(log.stem.rpartition("-")[2])
    with contextlib.suppress(FileNotFoundError), log.open("rb") as file:  # its writer may have just committed
        return max(0, sum(line.endswith(b"\n") for line in file) - 1)
    return 0


def as_line(value: Row | dict[str, Any]) -> bytes:
    data = json.dumps(value, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(data), data)


def read_log(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The whole lines of one log, their values in the order of `columns` (null where the log hasn't got one)."""
    try:
        file = path.open("rb") if is_local(path) else io.BytesIO(read_file(path))
    except FileNotFoundError:  # its writer has just committed
        return
    with file:
        yield from whole_lines(file, list(columns))


def whole_lines(file: IO[bytes], columns: list[str]) -> Iterator[Row]:
    named = columns  # where the first line is damaged
    for line in file:
        value = _checked(line)
        if isinstance(value, dict):
            named = value["columns"]
        elif value is None or len(value) != len(named):
            continue
        elif named == columns:
            yield value
        else:
            values = dict(zip(named, value, strict=True))
            yield [values.get(name) for name in columns]


def _checked(line: bytes) -> Row | dict[str, Any] | None:
    """What a line holds; None if it is torn or damaged."""
    data = line[9:-1]
    try:
        if not line.endswith(b"\n") or int(line[:8], 16) != zlib.crc32(data):
            return None
        value: Row | dict[str, Any] = json.loads(data)
    except ValueError:
        return None
    return value
