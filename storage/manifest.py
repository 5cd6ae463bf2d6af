"""The manifest: for each step and shard, a numbered list of commits. The highest number is the truth.

`manifest/<step>/<shard>/<seq>.json` is created once and never changed. It names the live parts of the shard's output
and ledger with their checksums, the books, and what the slice was made from, so that a later run can say what it
would redo and why.

On an object store all heads of a step cost one listing: a commit is fetched once and kept in a local folder, since it
never changes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from storage import objects
from storage.errors import BooksDontBalance, CommitLost, StorageError, StoreFailed
from storage.files import beside, create_file, names, read_file
from storage.fingerprint import hash_json
from storage.place import is_local


@dataclass(frozen=True)
class Inputs:
    """What a slice is a function of: the fingerprint is a hash of this (law 3)."""

    version: str
    settings: dict[str, Any]
    reads: dict[str, str]
    """step key → content hash of what is read from it"""
    files: dict[str, str] = field(default_factory=dict)
    """file outside the workspace → sha256"""

    @property
    def fingerprint(self) -> str:
        return hash_json(asdict(self))


@dataclass(frozen=True)
class Part:
    """One immutable Parquet file of a slice."""

    path: str
    kind: Literal["data", "ledger"]
    rows: int
    bytes: int
    sha256: str
    content: str

    def __post_init__(self) -> None:
        place = PurePosixPath(self.path)
        if place.is_absolute() or ".." in place.parts:
            raise StorageError(f"{self.path!r} is no path below the workspace; its manifest isn't Stillhouse's own")

    @property
    def table(self) -> str:
        """Of a ledger: the table of the slice that it is of."""
        return self.path.split("/")[1]


@dataclass(frozen=True)
class Book:
    """The fate of every unit of one kind in one slice: units_in = units_out + dropped + pending."""

    unit: str
    units_in: int
    units_out: int
    dropped: dict[str, int] = field(default_factory=dict)
    pending: int = 0

    def check(self, where: str) -> None:
        total = self.units_out + sum(self.dropped.values()) + self.pending
        if min(self.units_in, self.units_out, self.pending, *self.dropped.values()) < 0:
            raise BooksDontBalance(f"{where}: a negative count in {self}; please report this fault in the stage")
        if total != self.units_in:
            raise BooksDontBalance(
                f"{where}: {self.units_in} {self.unit} units came in, but {self.units_out} out + "
                f"{sum(self.dropped.values())} dropped + {self.pending} pending = {total}. "
                "Nothing was committed; this is a fault in the stage, please report it."
            )


@dataclass(frozen=True)
class Head:
    """The newest commit of a slice."""

    step: str
    shard: str
    seq: int
    inputs: Inputs
    content: str
    parts: tuple[Part, ...]
    books: tuple[Book, ...]
    reason: str
    seconds: float
    run_id: str
    created: str
    versions: dict[str, str]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return self.inputs.fingerprint

    @property
    def pending(self) -> int:
        return sum(book.pending for book in self.books)

    def data(self) -> list[Part]:
        return [part for part in self.parts if part.kind == "data"]

    def ledger(self) -> list[Part]:
        return [part for part in self.parts if part.kind == "ledger"]


class Manifest:
    """All commits of a workspace, in the folder `root`; `kept`: where commits of an object store are kept here."""

    def __init__(self, root: Path, kept: Path | None = None) -> None:
        self.root, self._kept = root, kept

    def _folder(self, step: str, shard: str) -> Path:
        return self.root / step / shard

    def last_seq(self, step: str, shard: str) -> int:
        """Highest committed number, 0 if there is none."""
        return max(map(_seq, names(self._folder(step, shard))), default=0)

    def head(self, step: str, shard: str) -> Head | None:
        seq = self.last_seq(step, shard)
        return self.read(step, shard, seq) if seq else None

    def heads(self, step: str) -> dict[str, Head]:
        """The newest commit of every shard of a step that has one; one listing on an object store."""
        if is_local(self.root):
            found = {shard: self.head(step, shard) for shard in self.shards(step)}
            return {shard: head for shard, head in found.items() if head is not None}
        newest: dict[str, int] = {}
        for name in objects.tree(self.root / step):
            shard, _, file = name.rpartition("/")
            if shard and "/" not in shard:
                newest[shard] = max(newest.get(shard, 0), _seq(file))
        wanted = {shard: f"{step}/{shard}/{seq:08d}.json" for shard, seq in sorted(newest.items()) if seq}
        self._keep(list(wanted.values()))
        return {shard: self.read(step, shard, newest[shard]) for shard in wanted}

    def read(self, step: str, shard: str, seq: int) -> Head:
        name = f"{step}/{shard}/{seq:08d}.json"
        path = self.root / name
        try:
            raw = json.loads(self._bytes(name).decode("utf-8"))
        except StoreFailed:
            raise
        except (OSError, ValueError) as fault:
            raise StorageError(f"{path}: the manifest can't be read ({fault}); restore it from a copy") from fault
        return Head(
            **{
                **raw,
                "inputs": Inputs(**raw["inputs"]),
                "parts": tuple(Part(**part) for part in raw["parts"]),
                "books": tuple(Book(**book) for book in raw["books"]),
            }
        )

    def _bytes(self, name: str) -> bytes:
        if self._kept is None:
            return read_file(self.root / name)
        self._keep([name])
        return (self._kept / name).read_bytes()

    def _keep(self, wanted: list[str]) -> None:
        """Fetch the commits that aren't here yet, side by side. Not fsynced: an empty one is fetched again."""
        if self._kept is None:
            return
        copies = {name: self._kept / name for name in wanted}
        missing = [name for name, copy in copies.items() if not copy.exists() or not copy.stat().st_size]
        for name, data in zip(missing, objects.read_many([self.root / name for name in missing]), strict=True):
            _keep_copy(copies[name], data)

    def create(self, head: Head) -> None:
        """Make `head` the newest commit, or raise CommitLost if its number is taken."""
        data = json.dumps(asdict(head), indent=1, sort_keys=True).encode()
        name = f"{head.step}/{head.shard}/{head.seq:08d}.json"
        try:
            create_file(self.root / name, data)
        except FileExistsError as fault:
            raise CommitLost(
                f"{head.step} shard {head.shard}: another writer made commit {head.seq} first; this one's work is "
                "discarded. Run the same command again to go on from there."
            ) from fault
        if self._kept is not None:
            _keep_copy(self._kept / name, data)

    def steps(self) -> list[str]:
        """Keys of all steps that have a commit."""
        return _folders(self.root)

    def shards(self, step: str) -> list[str]:
        return _folders(self.root / step)


def _keep_copy(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(path)
    temporary.write_bytes(data)
    temporary.rename(path)


def _seq(name: str) -> int:
    """The number of a commit's file; 0 for another file."""
    stem, dot, rest = name.partition(".")
    return int(stem) if dot and rest == "json" and stem.isdigit() else 0


def _folders(folder: Path) -> list[str]:
    if not is_local(folder):
        return objects.names(folder)
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.exists() else []


def explain(old: Inputs | None, new: Inputs) -> str:
    """Why a slice made from `old` must be made again from `new`, in one line; empty if it need not be."""
    if old is None:
        return "first run"
    reasons = []
    if old.version != new.version:
        reasons.append(f"stage version {old.version} → {new.version}")
    reasons += [f"{name} {was} → {now}" for name, was, now in _changes(old.settings, new.settings)]
    reasons += [f"input {name} changed" for name in _differing(old.reads, new.reads)]
    reasons += [f"file {name} changed" for name in _differing(old.files, new.files)]
    return "; ".join(reasons)


def _differing(old: dict[str, str], new: dict[str, str]) -> list[str]:
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def _changes(old: Any, new: Any, path: str = "") -> list[tuple[str, str, str]]:
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted(old.keys() | new.keys()):
            found += _changes(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        return found
    return [(path or "settings", _short(old), _short(new))]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
