"""The manifest: for each step and shard, a numbered list of commits. The highest number is the truth.

`manifest/<step>/<shard>/<seq>.json` is created once and never changed. It names the live parts of the shard's output
and ledger with their checksums, the books, and what the slice was made from, so that a later run can say what it
would redo and why.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from storage.errors import BooksDontBalance, CommitLost, StorageError
from storage.files import create_file
from storage.fingerprint import hash_json


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
    """All commits of a workspace, in the folder `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _folder(self, step: str, shard: str) -> Path:
        return self.root / step / shard

    def last_seq(self, step: str, shard: str) -> int:
        """Highest committed number, 0 if there is none."""
        folder = self._folder(step, shard)
        try:
            names = [path.stem for path in folder.iterdir() if path.suffix == ".json" and path.stem.isdigit()]
        except FileNotFoundError:
            return 0
        return max((int(name) for name in names), default=0)

    def head(self, step: str, shard: str) -> Head | None:
        seq = self.last_seq(step, shard)
        return self.read(step, shard, seq) if seq else None

    def read(self, step: str, shard: str, seq: int) -> Head:
        path = self._folder(step, shard) / f"{seq:08d}.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
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

    def create(self, head: Head) -> None:
        """Make `head` the newest commit, or raise CommitLost if its number is taken."""
        data = json.dumps(asdict(head), indent=1, sort_keys=True).encode()
        try:
            create_file(self._folder(head.step, head.shard) / f"{head.seq:08d}.json", data)
        except FileExistsError as fault:
            raise CommitLost(
                f"{head.step} shard {head.shard}: another writer made commit {head.seq} first; this one's work is "
                "discarded. Run the same command again to go on from there."
            ) from fault

    def steps(self) -> list[str]:
        """Keys of all steps that have a commit."""
        return _folders(self.root)

    def shards(self, step: str) -> list[str]:
        return _folders(self.root / step)


def _folders(folder: Path) -> list[str]:
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
