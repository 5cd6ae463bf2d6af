"""Editions: numbered, frozen states of a data set.

    editions/<n>.json             the parts that the exports were made from, the exported files, counts; never changed
    editions/<n>.diff.parquet     which examples came, went, or have another grade, and why (storage/edition_diff.py)
    editions/<n>.promoted.json    there if its checks passed, with their figures; never changed
    editions/<n>.checks.json      what its checks found last
    editions/files/<sha256>       exported files; one that stays the same lies there once

An edition is there when `<n>.json` is: that file is created once, after all that it names. A garbage collection
(storage/collect.py) removes no part and no file that an edition names, so that it can be read as it was until it is
dropped. Covered: two writers at once (one gets the number, the other EditionTaken), a writer that is killed at any
moment (what it left is named by nobody, and collected). Not covered: object stores, where exports lie elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from storage.errors import StorageError
from storage.files import beside, create_file, fsync_folder, make_folder, replace_file
from storage.fingerprint import hash_file, hash_json
from storage.manifest import Head, Part
from storage.workspace import Workspace

FORMAT = 1
CARD = "README.md"
"""Of an export; it tells of settings and books, which may differ where no row does."""


class EditionTaken(StorageError):
    """Another writer has written this edition meanwhile; this one's is discarded, nothing is damaged."""


class NoEdition(StorageError):
    """An edition was asked for that isn't there."""


class DamagedEdition(StorageError):
    """A file of an edition isn't what the edition says."""


@dataclass(frozen=True)
class Slice:
    """One slice that the exports read, as it was committed."""

    step: str
    shard: str
    seq: int
    content: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class StepMark:
    """What a step's slices were made by, so that a diff can say which rule has changed."""

    version: str
    settings: str
    """hash of the step's settings, without what names the teachers"""
    revision: str | None = None
    """of a generate step: what answers"""


@dataclass(frozen=True)
class ExportedFile:
    """One exported file; its bytes lie in editions/files/<sha256>."""

    path: str
    """below exports/"""
    sha256: str
    bytes: int
    rows: int | None = None
    """of a table or of JSON lines"""


@dataclass(frozen=True)
class Edition:
    number: int
    created: str
    """ISO time, UTC"""
    name: str
    """the recipe's"""
    recipe: str
    """hash of the recipe; `recipes/<hash>.yaml` is it"""
    run_id: str
    versions: dict[str, str]
    steps: dict[str, StepMark]
    slices: tuple[Slice, ...]
    files: tuple[ExportedFile, ...]
    counts: dict[str, Any] = field(default_factory=dict)
    diff: dict[str, Any] = field(default_factory=dict)
    """`against` (number of the edition before; null for the first) and `changes`: change → why → rows"""

    def parts(self) -> Iterable[Part]:
        return (part for one in self.slices for part in one.parts)

    def of_step(self, *steps: str) -> list[Part]:
        """The data parts of these steps."""
        return [part for one in self.slices if one.step in steps for part in one.parts if part.kind == "data"]

    def same_data(self, other: Edition) -> bool:
        """Whether both hold the same rows and the same exported files, whoever made them."""
        rows = [{(part.step, part.shard, part.content) for part in one.slices} for one in (self, other)]
        files = [
            {(file.path, file.sha256) for file in one.files if not file.path.endswith(CARD)} for one in (self, other)
        ]
        return rows[0] == rows[1] and files[0] == files[1]


def editions_folder(workspace: Workspace) -> Path:
    return workspace.root / "editions"


def diff_path(workspace: Workspace, number: int) -> Path:
    return editions_folder(workspace) / f"{number}.diff.parquet"


def stored_file(workspace: Workspace, sha256: str) -> Path:
    return editions_folder(workspace) / "files" / sha256


# --- reading


def numbers(workspace: Workspace) -> list[int]:
    """The numbers of all editions that are kept, rising."""
    folder = editions_folder(workspace)
    if not folder.is_dir():
        return []
    return sorted(int(path.stem) for path in folder.iterdir() if path.suffix == ".json" and path.stem.isdigit())


def read_edition(workspace: Workspace, number: int) -> Edition:
    """Raises NoEdition, which names those that are there, or StorageError for a file that can't be read."""
    path = editions_folder(workspace) / f"{number}.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as fault:
        there = ", ".join(map(str, numbers(workspace))) or "none yet; `stillhouse nightly` writes them"
        raise NoEdition(f"no edition {number}; there are: {there}") from fault
    except (OSError, ValueError) as fault:
        raise StorageError(f"{path}: the edition can't be read ({fault}); restore it from a copy") from fault
    if raw.pop("format", None) != FORMAT:
        raise StorageError(f"{path}: not an edition of format {FORMAT}; read it with the version that wrote it")
    slices = (
        Slice(**{**one, "parts": tuple(Part(**part) for part in one["parts"])}) for one in raw.pop("slices")
    )  # fmt: skip
    steps = {step: StepMark(**mark) for step, mark in raw.pop("steps").items()}
    files = tuple(ExportedFile(**file) for file in raw.pop("files"))
    return Edition(**raw, steps=steps, slices=tuple(slices), files=files)


def newest(workspace: Workspace) -> Edition | None:
    found = numbers(workspace)
    return read_edition(workspace, found[-1]) if found else None


def promotion(workspace: Workspace, number: int) -> dict[str, Any] | None:
    """What was written when the edition was promoted; None if it wasn't."""
    found: dict[str, Any] | None = _read_json(_promoted_path(workspace, number), "restore it from a copy")
    return found


def promoted(workspace: Workspace) -> list[int]:
    """The numbers of the promoted ones among the editions that are kept, rising."""
    return [number for number in numbers(workspace) if _promoted_path(workspace, number).exists()]


def checks(workspace: Workspace, number: int) -> list[dict[str, Any]]:
    """What the checks of an edition found last; empty before any was made."""
    found: list[dict[str, Any]] | None = _read_json(
        _checks_path(workspace, number), "`stillhouse nightly` makes it again"
    )
    return found or []


def _read_json(path: Path, remedy: str) -> Any:
    """None where there is no file. Raises StorageError with the remedy for one that can't be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as fault:
        raise StorageError(f"{path}: can't be read ({fault}); {remedy}") from fault


def _promoted_path(workspace: Workspace, number: int) -> Path:
    return editions_folder(workspace) / f"{number}.promoted.json"


def _checks_path(workspace: Workspace, number: int) -> Path:
    return editions_folder(workspace) / f"{number}.checks.json"


# --- writing


def slices_of(heads: Iterable[Head]) -> tuple[Slice, ...]:
    return tuple(Slice(head.step, head.shard, head.seq, head.content, head.parts) for head in heads)


def mark_of(head: Head) -> StepMark:
    settings = head.inputs.settings
    plain = {name: value for name, value in settings.items() if name not in ("teacher", "teachers", "revision")}
    return StepMark(head.inputs.version, hash_json(plain), settings.get("revision"))


def create_edition(workspace: Workspace, edition: Edition) -> None:
    """Make the edition, once all that it names is there. Raises EditionTaken."""
    data = json.dumps({"format": FORMAT, **asdict(edition)}, sort_keys=True).encode()
    try:
        create_file(editions_folder(workspace) / f"{edition.number}.json", data)
    except FileExistsError as fault:
        raise EditionTaken(
            f"edition {edition.number} was written by another run meanwhile; this one's is discarded. "
            "Run the same command again to go on from there"
        ) from fault


def keep_checks(workspace: Workspace, number: int, found: Sequence[dict[str, Any]]) -> None:
    """Write down what the checks of an edition found; a later look replaces it."""
    replace_file(_checks_path(workspace, number), json.dumps(list(found), indent=1).encode())


def promote(workspace: Workspace, number: int, record: dict[str, Any]) -> bool:
    """Mark an edition as promoted; False if it is already."""
    try:
        create_file(_promoted_path(workspace, number), json.dumps(record, indent=1, sort_keys=True).encode())
    except FileExistsError:
        return False
    return True


def drop_editions(workspace: Workspace, keep: int) -> list[int]:
    """Drop all but the last `keep` (1 or more), and the newest promoted one; returns their numbers.

    The newest stays always, so that no number is used twice. What they alone named is for the next collection."""
    if keep < 1:
        raise ValueError(f"keep is 1 or more, found {keep}")
    found = numbers(workspace)
    kept = promoted(workspace)[-1:]
    gone = [number for number in found[:-keep] if number not in kept]
    for number in gone:
        for path in (
            editions_folder(workspace) / f"{number}.json",  # first: without it the edition isn't there
            diff_path(workspace, number),
            _checks_path(workspace, number),
            _promoted_path(workspace, number),
        ):
            path.unlink(missing_ok=True)
    return gone


def keep_files(workspace: Workspace, folders: Sequence[str]) -> tuple[ExportedFile, ...]:
    """Put all files of these folders below exports/ where editions keep theirs: as links, so that they take no room
    while the export is the same; as copies where the file system has none. They become read-only."""
    exports = workspace.root / "exports"
    found = []
    for folder in folders:
        for path in sorted((exports / folder).rglob("*")):
            if path.is_file():
                found.append(_keep_file(workspace, path, path.relative_to(exports).as_posix()))
    return tuple(found)


def _keep_file(workspace: Workspace, path: Path, name: str) -> ExportedFile:
    place = editions_folder(workspace) / "files"
    make_folder(place)
    temporary = beside(place / "new")
    try:
        _link_or_copy(path, temporary)
        sha256, size, lines = _read_through(temporary)
        temporary.chmod(0o444)
        target = place / sha256
        if not target.exists():
            temporary.rename(target)
            fsync_folder(place)
        os.utime(target)  # no edition names it yet: as a young file it isn't collected before one does
    finally:
        temporary.unlink(missing_ok=True)
    rows = lines if path.suffix == ".jsonl" else None
    if path.suffix == ".parquet":
        rows = pq.read_metadata(target).num_rows
    return ExportedFile(name, sha256, size, rows)


def _link_or_copy(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _read_through(path: Path) -> tuple[str, int, int]:
    """sha256, bytes and line ends of a file."""
    digest, size, lines = hashlib.sha256(), 0, 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
            lines += block.count(b"\n")
    return digest.hexdigest(), size, lines


# --- as it was


def copy_files(workspace: Workspace, edition: Edition, folder: Path) -> int:
    """Write the exported files of an edition into `folder`, which must not exist or be empty; returns their number.

    Each is checked on the way: DamagedEdition for one that is missing or another than it was. `folder` is there when
    it is whole."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StorageError(f"{folder}: isn't an empty folder; name another one")
    make_folder(folder.absolute().parent)
    fresh = beside(folder.absolute())
    try:
        fresh.mkdir()
        for file in edition.files:
            _copy_file(workspace, edition, file, fresh)
        if folder.exists():
            folder.rmdir()
        fresh.rename(folder.absolute())
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return len(edition.files)


def _copy_file(workspace: Workspace, edition: Edition, file: ExportedFile, folder: Path) -> None:
    name = PurePosixPath(file.path)
    if name.is_absolute() or ".." in name.parts or not file.sha256.isalnum():
        raise DamagedEdition(f"edition {edition.number}: {file.path!r} is no path below exports/; it isn't written")
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(stored_file(workspace, file.sha256), target)
    except FileNotFoundError as fault:
        raise DamagedEdition(
            f"edition {edition.number}: {file.path} is missing; `stillhouse fsck {workspace.root}` lists what is"
        ) from fault
    sha256 = hash_file(target)
    if sha256 != file.sha256:
        raise DamagedEdition(
            f"edition {edition.number}: {file.path} has changed since (sha256 {sha256[:12]}…, expected "
            f"{file.sha256[:12]}…); `stillhouse fsck {workspace.root}` lists what else has"
        )
