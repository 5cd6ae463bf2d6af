"""Garbage collection: remove parts, exports and scratch that nothing names any more.

Named is what the newest commit of a slice names, and what an edition names. A commit that was overtaken less than
`min_age_s` ago still counts, since a reader may be in the middle of it; and nothing younger than that is removed, since
a running writer names a part only after it was written. A step whose range of shards a worker holds (storage/lease.py)
is left alone as a whole.

Never touched: `unfinished/` (responses that are paid for), `manifest/`, `students/`, `cache/`, `leases/`. Ages are
reckoned by the clock of the file system that holds the workspace, so that another machine's clock, or one that was set,
removes nothing. Every removal is one file that nothing names: killed at any moment, the next run goes on. Not covered:
a writer that was frozen for longer than `min_age_s` between its part and its commit; `fsck` finds what it commits.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from storage.editions import NoEdition, editions_folder, numbers, read_edition
from storage.files import beside, make_folder
from storage.lease import held_since
from storage.manifest import Head
from storage.place import need_folder
from storage.workspace import Workspace

MIN_AGE_S = 24 * 3600.0
EXPORTS = ("export", "export.pairs")


@dataclass(frozen=True)
class Garbage:
    """Something that nothing names."""

    path: Path
    kind: str
    """part | edition file | export | scratch"""
    bytes: int


@dataclass(frozen=True)
class Collected:
    """What was removed, or would be."""

    found: tuple[Garbage, ...]
    young: int
    """files that nobody names, too young to be removed"""

    @property
    def bytes(self) -> int:
        return sum(one.bytes for one in self.found)

    def by_kind(self) -> dict[str, tuple[int, int]]:
        """kind → files and bytes"""
        counts: dict[str, tuple[int, int]] = {}
        for one in self.found:
            files, size = counts.get(one.kind, (0, 0))
            counts[one.kind] = files + 1, size + one.bytes
        return counts


def collect(workspace: Workspace, *, min_age_s: float = MIN_AGE_S, dry_run: bool = False) -> Collected:
    """Remove what nothing names and is older than `min_age_s` seconds; with `dry_run` only say what it is."""
    need_folder(workspace.root, "stillhouse gc")
    before = _now(workspace) - min_age_s
    candidates = [*_parts(workspace), *_edition_files(workspace)]  # listed before what is live is read
    live = _live(workspace, before)
    held = {step for step, _ in held_since(workspace.root, before)}
    exports = _live_exports(workspace)
    found, young = [], 0
    for path, kind in [*candidates, *_exports(workspace, exports), *_scratch(workspace)]:
        relative = path.relative_to(workspace.root).as_posix()
        if relative in live or (kind == "part" and _step_of(path) in held):
            continue
        newest, size = _newest(path)
        if newest is not None and newest > before:
            young += 1
        elif newest is not None:  # else it went meanwhile
            found.append(Garbage(path, kind, size))
            if not dry_run:
                _remove(path)
    return Collected(tuple(found), young)


def _now(workspace: Workspace) -> float:
    """Now, by the clock of the file system that dates the files."""
    probe = beside(workspace.root / "tmp" / "clock")
    make_folder(probe.parent)
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


# --- what is live


def _live(workspace: Workspace, before: float) -> set[str]:
    """Paths, from the workspace's folder, that a commit or an edition names."""
    manifest = workspace.manifest
    live: set[str] = set()
    for step in manifest.steps():
        for shard in manifest.shards(step):
            for head in _readable(workspace, step, shard, before):
                live.update(part.path for part in head.parts)
    for number in numbers(workspace):
        with suppress(NoEdition):  # dropped meanwhile
            edition = read_edition(workspace, number)
            live.update(part.path for part in edition.parts())
            live.update(f"editions/files/{file.sha256}" for file in edition.files)
    return live


def _readable(workspace: Workspace, step: str, shard: str, before: float) -> Iterator[Head]:
    """The newest commit, and those that one younger than `before` has overtaken."""
    manifest = workspace.manifest
    for seq in range(manifest.last_seq(step, shard), 0, -1):
        path = manifest.root / step / shard / f"{seq:08d}.json"
        if not path.exists():  # a split workspace begins with the commits that were the newest
            return
        yield manifest.read(step, shard, seq)
        if path.stat().st_mtime <= before:
            return


def _live_exports(workspace: Workspace) -> set[str]:
    """Folders that a commit of an export names, from the workspace's folder."""
    found: set[str] = set()
    for step in EXPORTS:
        for head in (workspace.head(step, shard) for shard in workspace.manifest.shards(step)):
            found.update(head.extra.get("folders", ()) if head else ())
    return found


# --- what is there


def _parts(workspace: Workspace) -> Iterator[tuple[Path, str]]:
    """All files of tables, those that a killed writer left half written among them."""
    for folder, _, names in os.walk(workspace.root / "tables"):
        yield from ((Path(folder) / name, "part") for name in names)


def _edition_files(workspace: Workspace) -> Iterator[tuple[Path, str]]:
    """Exported files that editions keep, and what a dropped or unfinished edition has left."""
    folder = editions_folder(workspace)
    files = folder / "files"
    yield from ((path, "edition file") for path in (files.iterdir() if files.is_dir() else ()))
    there = {str(number) for number in numbers(workspace)}
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_file() and path.name.partition(".")[0] not in there:
            yield path, "edition file"


def _exports(workspace: Workspace, live: set[str]) -> Iterator[tuple[Path, str]]:
    """Folders of exports that no commit names; none while nothing was exported, which is then under way."""
    folder = workspace.root / "exports"
    for path in sorted(folder.iterdir()) if live and folder.is_dir() else ():
        if path.relative_to(workspace.root).as_posix() not in live:
            yield path, "export"


def _scratch(workspace: Workspace) -> Iterator[tuple[Path, str]]:
    folder = workspace.root / "tmp"
    yield from ((path, "scratch") for path in (sorted(folder.iterdir()) if folder.is_dir() else ()))


def _step_of(part: Path) -> str:
    """`generate.good` of `generate.good-000001-1a2b3c4d.parquet`."""
    return part.name.lstrip(".").rsplit("-", 2)[0]


def _newest(path: Path) -> tuple[float | None, int]:
    """When the youngest file of a tree was changed, and the bytes that it takes; None if it has gone."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None, 0
    newest, size = stat.st_mtime, 0 if path.is_dir() else _frees(stat)
    for folder, folders, files in os.walk(path):
        for name in [*folders, *files]:
            with suppress(FileNotFoundError):
                stat = (Path(folder) / name).lstat()
                newest = max(newest, stat.st_mtime)
                size += _frees(stat) if name in files else 0
    return newest, size


def _frees(stat: os.stat_result) -> int:
    """Bytes that are free when this name goes: none while another name is left, as of an exported file."""
    return stat.st_size if stat.st_nlink == 1 else 0


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
