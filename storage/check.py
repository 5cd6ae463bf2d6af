"""File system check: is every part, every book and every edition what was written down?

Of each slice's newest commit: each part is there, has its bytes and its sha256, holds as many rows as it should, with
the columns of its table; the rows' content has its hash; keys rise and none stands twice; the books balance and agree
with rows and ledger. Of each edition: its parts and exported files are there with their sha256.

`mark_for_redo` commits a damaged slice once more, without the damaged parts and with its units pending, so that the
next run makes it again from its inputs, with the same rows. Where an earlier commit of the slice is whole (a garbage
collection has not taken it), its parts are named again, so that responses that are paid for are asked once.

Not covered: a part of an edition that no commit names any more can't be made again; students, reports and the exports
in place have no checksums (those that an edition holds have).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from storage.editions import Edition, diff_path, numbers, read_edition, stored_file
from storage.errors import BooksDontBalance, StorageError
from storage.fingerprint import combine, content_hash, hash_file
from storage.manifest import Book, Head, Part
from storage.place import need_folder
from storage.schemas import LEDGER, TABLES, Table
from storage.workspace import Workspace, ledger_fault

DAMAGED = ", damaged"
"""What the version of a slice ends with that waits to be made again."""


@dataclass(frozen=True)
class Damage:
    """One thing that isn't as it was written."""

    what: str
    step: str = ""
    shard: str = ""
    path: str = ""
    edition: int | None = None

    def where(self) -> str:
        if self.edition is not None:
            return f"edition {self.edition}: {self.path}"
        return f"{self.step} shard {self.shard}" + (f": {self.path}" if self.path else "")


@dataclass(frozen=True)
class Checked:
    parts: int
    bytes: int
    slices: int
    editions: int
    damage: tuple[Damage, ...]

    def slices_to_redo(self) -> list[tuple[str, str]]:
        """(step, shard) of what the next run can make again."""
        return sorted({(one.step, one.shard) for one in self.damage if one.step})


def check(workspace: Workspace, advance: Callable[[int], None] = lambda parts: None) -> Checked:
    """Read everything that commits and editions name; `advance` gets how many parts were read."""
    need_folder(workspace.root, "stillhouse fsck")
    heads, damage = _heads(workspace)
    seen: dict[str, str] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for head, found in zip(heads, pool.map(lambda head: check_slice(workspace, head), heads), strict=True):
            damage += found
            broken = {one.path for one in found}
            seen |= {part.path: "" if part.path in broken else part.sha256 for part in head.parts}
            advance(len(head.parts))
    size = sum(part.bytes for head in heads for part in head.parts)
    there = numbers(workspace)
    for number in there:
        damage += list(_check_edition(workspace, number, seen))
    return Checked(len(seen), size, len(heads), len(there), tuple(damage))


def _heads(workspace: Workspace) -> tuple[list[Head], list[Damage]]:
    heads, damage = [], []
    manifest = workspace.manifest
    for step in manifest.steps():
        if (manifest.root / step).is_symlink():
            continue  # an ablation's link to its parent's commits, which are checked there
        for shard in manifest.shards(step):
            try:
                head = manifest.head(step, shard)
            except (StorageError, TypeError, KeyError) as fault:
                damage.append(Damage(f"its newest commit can't be read: {fault}", step, shard))
                continue
            if head is not None:
                heads.append(head)
    return heads, damage


def check_slice(workspace: Workspace, head: Head) -> list[Damage]:
    """What is wrong with the newest commit of a slice."""
    found: list[Damage] = []
    rows: list[pa.Table] = []
    ledger = [LEDGER.empty_table().select(["unit", "rule"])]
    for part in head.parts:
        what, table = _check_part(workspace, part)
        if what:
            found.append(Damage(what, head.step, head.shard, part.path))
        elif table is not None:
            (ledger if part.kind == "ledger" else rows).append(table)
    for book in head.books:
        try:
            book.check(f"{head.step} shard {head.shard}")
        except BooksDontBalance as fault:
            found.append(Damage(f"its book doesn't balance: {fault}", head.step, head.shard))
    if not found:
        found += [Damage(what, head.step, head.shard) for what in _disagreements(head, rows, pa.concat_tables(ledger))]
    return found


def _check_part(workspace: Workspace, part: Part) -> tuple[str, pa.Table | None]:
    """What is wrong with a part, or its key columns and those that its books count."""
    path = workspace.root / part.path
    if what := _check_file(path, part.bytes, part.sha256):
        return what, None
    spec = _spec(part)
    schema = LEDGER if spec is None else spec.schema
    try:
        table = pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as fault:
        return f"can't be read: {fault}", None
    if unknown := set(table.column_names) - set(schema.names):
        return f"has columns that its table hasn't: {', '.join(sorted(unknown))}", None
    if table.num_rows != part.rows:
        return f"has {table.num_rows} rows, the commit says {part.rows}", None
    if content_hash(table) != part.content:
        return "its rows have another content hash than the commit says", None
    names = ("unit", "rule") if spec is None else tuple(dict.fromkeys((*spec.key, *spec.counted)))
    return "", table.select([name for name in names if name in table.column_names])


def _check_file(path: Path, size: int, sha256: str) -> str:
    try:
        there = path.stat().st_size
        if there != size:
            return f"has {there:,} bytes, expected {size:,}"
        found = hash_file(path)
    except OSError as fault:
        return "is missing" if isinstance(fault, FileNotFoundError) else f"can't be read: {fault.strerror}"
    return "" if found == sha256 else f"has changed: sha256 {found[:12]}…, expected {sha256[:12]}…"


def _spec(part: Part) -> Table | None:
    """The table of a part; None of a ledger."""
    return None if part.kind == "ledger" else TABLES[part.table]


def _disagreements(head: Head, rows: Sequence[pa.Table], ledger: pa.Table) -> Iterator[str]:
    """Key order within each part, keys over all parts, and the books against rows and ledger."""
    parts = head.data()
    if parts:
        spec = TABLES[parts[0].table]
        key: list[tuple[str, Literal["ascending", "descending"]]] = [(name, "ascending") for name in spec.key]
        for part, table in zip(parts, rows, strict=True):
            keys = table.select(list(spec.key))
            if not keys.equals(keys.sort_by(key)):
                yield f"{part.path}: its rows are not in the order of {', '.join(spec.key)}"
        whole = pa.concat_tables(rows, promote_options="default")
        if whole.num_rows != whole.group_by(list(spec.key)).aggregate([]).num_rows:
            yield f"two rows have the same {', '.join(spec.key)}"
        out = {book.unit: book.units_out for book in head.books}
        if spec.unit in out and out[spec.unit] != spec.count_units(whole):
            yield f"its book says {out[spec.unit]} {spec.unit} units out, the rows {spec.count_units(whole)}"
    if fault := ledger_fault(ledger, head.books):
        yield fault


def _check_edition(workspace: Workspace, number: int, seen: dict[str, str]) -> Iterator[Damage]:
    """`seen`: parts that were read already, path → sha256, empty for a damaged one."""
    try:
        edition = read_edition(workspace, number)
    except (StorageError, TypeError, KeyError) as fault:
        yield Damage(f"can't be read: {fault}", path=f"editions/{number}.json", edition=number)
        return
    for part in edition.parts():
        if seen.get(part.path) != part.sha256:
            if what := _check_file(workspace.root / part.path, part.bytes, part.sha256):
                yield Damage(what, path=part.path, edition=number)
            else:
                seen[part.path] = part.sha256
    for file in edition.files:
        stored = stored_file(workspace, file.sha256)
        if what := _check_file(stored, file.bytes, file.sha256):
            yield Damage(f"({file.path}) {what}", path=f"editions/files/{file.sha256}", edition=number)
    yield from _check_diff(workspace, edition)


def _check_diff(workspace: Workspace, edition: Edition) -> Iterator[Damage]:
    path = diff_path(workspace, edition.number)
    expected = sum(sum(reasons.values()) for reasons in edition.diff["changes"].values())
    try:
        rows = pq.read_metadata(path).num_rows if path.exists() else expected
    except (OSError, pa.ArrowException) as fault:
        yield Damage(f"can't be read ({fault}); remove it, the next night makes it again",
                     path=path.relative_to(workspace.root).as_posix(), edition=edition.number)  # fmt: skip
        return
    if rows != expected:
        yield Damage(f"has {rows} rows, the edition says {expected}; remove it, the next night makes it again",
                     path=path.relative_to(workspace.root).as_posix(), edition=edition.number)  # fmt: skip


# --- repair


def mark_for_redo(workspace: Workspace, step: str, shard: str) -> Head:
    """Commit a damaged slice without its damaged parts, all its units pending; the next run makes it again.

    Raises StorageError where not even an earlier commit can be read, CommitLost if a run was first.
    """
    seq = workspace.manifest.last_seq(step, shard)
    base = _sound_commit(workspace, step, shard, seq)
    parts = tuple(part for part in base.data() if not _check_part(workspace, part)[0])
    out = _units(workspace, parts)
    books = tuple(
        Book(book.unit, book.units_in, out.get(book.unit, 0), {}, book.units_in - out.get(book.unit, 0))
        for book in base.books
    )  # fmt: skip
    version = base.inputs.version.removesuffix(DAMAGED) + DAMAGED
    head = replace(
        base, seq=seq + 1, inputs=replace(base.inputs, version=version), parts=parts, books=books,
        content=combine([part.content for part in parts]), reason="fsck --repair: a part was damaged",
    )  # fmt: skip
    workspace.manifest.create(head)
    return head


def _units(workspace: Workspace, parts: Sequence[Part]) -> dict[str, int]:
    """Unit of the parts' table → how many they hold; nothing without a part."""
    if not parts:
        return {}
    spec = TABLES[parts[0].table]
    return {spec.unit: spec.count_units(workspace.read_parts(parts, spec, [*spec.key, *spec.counted]))}


def _sound_commit(workspace: Workspace, step: str, shard: str, seq: int) -> Head:
    """The newest commit whose data parts are whole; else the newest that can be read."""
    readable = None
    for number in range(seq, 0, -1):
        try:
            head = workspace.manifest.read(step, shard, number)
        except (StorageError, TypeError, KeyError):
            continue
        readable = readable or head
        if (head.data() or number == seq) and all(not _check_part(workspace, part)[0] for part in head.data()):
            return head
    if readable is None:
        raise StorageError(f"{step} shard {shard}: no commit can be read; restore manifest/{step}/{shard} from a copy, "
                           "or remove that folder: the next run makes the slice anew")  # fmt: skip
    return readable
