"""Parts in an object store as DuckDB reads them: by ranges, through fsspec.

The manifest says how long each part is and a part never changes, so that opening one asks the store nothing and what
was read stays good: DuckDB opens a file several times a query. Blocks that were read last are kept in memory, at most
BLOCK_BYTES × BLOCKS × PARTS of them.

Not covered: writing; DuckDB writes to local files only.
"""

from __future__ import annotations

import datetime
import functools
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fsspec.caching import BlockCache
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from storage.manifest import Part
from storage.objects import read_range

BLOCK_BYTES = 2 << 20
BLOCKS = 4
PARTS = 16
PROTOCOL = "parts"


class Parts(AbstractFileSystem):
    """The parts that were told to it, by the name that `name` gives."""

    protocol = PROTOCOL

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[str, tuple[Path, int]] = {}
        self._caches: OrderedDict[str, BlockCache] = OrderedDict()
        self._lock = threading.Lock()

    def names(self, root: Path, parts: Iterable[Part]) -> list[str]:
        """How DuckDB names parts of the workspace at `root`; they can be read from now on."""
        found = []
        for part in parts:
            name = f"{root}/{part.path}".replace("://", "/")
            self._known[name] = (root / part.path, part.bytes)
            found.append(f"{PROTOCOL}://{name}")
        return found

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        name = self._strip_protocol(path)
        if name not in self._known:
            raise FileNotFoundError(path)
        return {"name": name, "size": self._known[name][1], "type": "file"}

    def glob(self, path: str, **options: Any) -> list[str]:
        name = self._strip_protocol(path)
        return [name] if name in self._known else []

    def modified(self, path: str) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(0, datetime.UTC)  # of something that never changes

    def _open(self, path: str, mode: str = "rb", **options: Any) -> AbstractBufferedFile:
        if mode != "rb":
            raise PermissionError(f"{path}: parts are read only")
        name = self._strip_protocol(path)
        return _PartFile(self, name, mode, size=self.info(name)["size"], cache_type="none")

    def read_part(self, name: str, start: int, end: int) -> bytes:
        """The bytes from `start` to `end` of a part, from the blocks in memory where they are there."""
        place, size = self._known[name]
        with self._lock:
            cache = self._caches.get(name)
            if cache is None:
                cache = BlockCache(BLOCK_BYTES, lambda low, high: read_range(place, low, high), size, BLOCKS)
                self._caches[name] = cache
            self._caches.move_to_end(name)
            while len(self._caches) > PARTS:
                self._caches.popitem(last=False)
        data: bytes = cache._fetch(start, end)
        return data


@functools.cache
def known_parts() -> Parts:
    """The one of this process: connections share what is in memory."""
    return Parts()


class _PartFile(AbstractBufferedFile):
    def _fetch_range(self, start: int, end: int) -> bytes:
        data: bytes = self.fs.read_part(self.path, start, end)
        return data
