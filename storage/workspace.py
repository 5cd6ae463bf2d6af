"""A workspace: one folder that holds all tables of a data set, their manifest and what was made from them.

    workspace.json            format, number of shard bits
    recipe.yaml               the recipe as last run; recipes/<hash>.yaml keeps every one
    tables/<table>/<shard>/   immutable Parquet parts
    manifest/<step>/<shard>/  numbered commits: what is true
    unfinished/<step>/        responses that are paid for and that no commit holds yet: never delete them
    leases/<step>/            which worker has which range of shards
    exports/, students/, report.html
    cache/, tmp/              may be deleted at any time

On an object store (storage/place.py) all of this lies there but `cache/` and `tmp/`, which are in the workspace's local
folder, `$STILLHOUSE_CACHE/workspaces/<hash>/`. Exports, students and the report are made in that folder too and
published from it (storage/mirror.py); it may be deleted when nothing runs.

Covered: atomic commits by several writers, on one machine, a shared folder or an object store; books checked at every
commit.
Not covered: parts that no commit names (left by a killed writer) stay until a garbage collection removes them.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import platform
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage import mirror, objects
from storage.errors import BooksDontBalance, NotAWorkspace, NotCommitted, SchemaMismatch
from storage.files import create_file, names, read_file, remove_tree, replace_file, write_file
from storage.fingerprint import combine, content_hash, hash_text
from storage.manifest import Book, Head, Inputs, Manifest, Part, explain
from storage.place import cache_home, is_local
from storage.schemas import LEDGER, TABLES, Table

FORMAT = 1
ROWS_PER_SHARD = 4096
MAX_SHARD_BITS = 12
ALL = "all"
"""Shard name of steps that write one result for the whole workspace, such as an export."""
SMALL_PART_BYTES = 4 << 20
MOST_SMALL_PARTS = 16
"""of a slice; a commit that adds one more writes them as one"""
READ_WHOLE_BYTES = 32 << 20
"""A part up to this size is fetched from an object store by one request, a larger one by the columns that are read"""


def shard_bits(expected_questions: int) -> int:
    """Bits b such that 2^b shards hold about 4,096 questions each; at most 12, so that a flow's tasks stay few."""
    bits = 0
    while bits < MAX_SHARD_BITS and ROWS_PER_SHARD << bits < expected_questions:
        bits += 1
    return bits


class Workspace:
    """Open with `Workspace.create` or `Workspace.open`.

    `root`: the folder, or the place in an object store. `local`: a folder of this machine; the root itself, where that
    is a folder.
    """

    def __init__(self, root: Path, bits: int, identity: str = "") -> None:
        """`identity` tells a workspace from an earlier one at the same place of an object store."""
        self.bits = bits
        if is_local(root):
            self.root = self.local = root.absolute()  # so that a change of the working directory moves nothing
            self.manifest = Manifest(self.root / "manifest")
        else:
            self.root = root
            self.local = cache_home().absolute() / "workspaces" / hash_text(str(root), identity)
            self.manifest = Manifest(self.root / "manifest", self.local / "manifest")

    @classmethod
    def create(cls, root: Path, *, bits: int) -> Workspace:
        """Make the folder, or open it if it is a workspace already; its number of shards never changes here.

        Raises NotAWorkspace where something else lies there, NoConditionalPut on a store that can't commit safely.
        """
        there = names(root)
        if "workspace.json" not in there:
            if is_local(root) and root.exists() and not root.is_dir():
                raise NotAWorkspace(f"{root}: a file, not a folder; name another one")
            if set(there) - {"cache", "tmp"}:
                raise NotAWorkspace(f"{root}: the folder isn't empty and isn't a workspace; name another one")
            record: dict[str, Any] = {"format": FORMAT, "shard_bits": bits}
            if not is_local(root):
                objects.check_create_only(root)
                record["id"] = secrets.token_hex(16)
            with contextlib.suppress(FileExistsError):  # another process made it at the same moment: open that one
                create_file(root / "workspace.json", json.dumps(record, indent=1).encode())
        return cls.open(root)

    @classmethod
    def open(cls, root: Path) -> Workspace:
        path = root / "workspace.json"
        try:
            record = json.loads(read_file(path).decode("utf-8"))
            bits = int(record["shard_bits"]) if record["format"] == FORMAT else 0
        except (FileNotFoundError, NotADirectoryError) as fault:
            raise NotAWorkspace(
                f"{root}: no workspace here (no workspace.json); "
                f"make one with `stillhouse run RECIPE --workspace {root}`"
            ) from fault
        except (ValueError, TypeError, KeyError) as fault:
            raise NotAWorkspace(f"{path}: can't be read ({fault!r}); restore it from a copy") from fault
        if record["format"] != FORMAT:
            raise NotAWorkspace(f"{path}: format {record['format']}, this version reads {FORMAT}")
        return cls(root, bits, str(record.get("id", "")))

    # --- shards

    @cached_property
    def shards(self) -> list[str]:
        """All shard names: the first b bits of question_id, written in binary; one shard `0` where b = 0."""
        return [format(number, f"0{max(self.bits, 1)}b") for number in range(1 << self.bits)]

    def shard_of(self, hex_id: str) -> str:
        number = int(hex_id[:8], 16) >> (32 - self.bits)
        return self.shards[number]

    # --- reading

    def head(self, step: str, shard: str) -> Head | None:
        return self.manifest.head(step, shard)

    def heads(self, step: str) -> dict[str, Head]:
        """The newest commit of every shard of a step that has one."""
        return self.manifest.heads(step)

    def need(self, step: str, shard: str) -> Head:
        head = self.head(step, shard)
        if head is None:
            raise NotCommitted(f"{step} shard {shard} isn't there yet; run the step `{step}` first")
        return head

    def read(self, step: str, shard: str, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """All live rows of a slice, ordered by the table's key."""
        return self.read_parts(self.need(step, shard).data(), TABLES[table], columns)

    def read_parts(self, parts: Iterable[Part], table: Table, columns: Sequence[str] | None = None) -> pa.Table:
        wanted = None if columns is None else list(dict.fromkeys([*columns, *table.key]))
        pieces = [self.read_part(part, wanted) for part in parts]
        schema = table.schema if wanted is None else pa.schema([table.schema.field(name) for name in wanted])
        pieces = [_with_all_columns(piece, schema, table.name).cast(schema) for piece in pieces]
        rows = pa.concat_tables(pieces) if pieces else schema.empty_table()
        if len(pieces) > 1:
            rows = rows.sort_by([(name, "ascending") for name in table.key])
        return rows if columns is None else rows.select(list(columns))

    def ledger(self, step: str, shard: str) -> pa.Table:
        pieces = [self.read_part(part) for part in self.need(step, shard).ledger()]
        return pa.concat_tables(pieces) if pieces else LEDGER.empty_table()

    def read_part(self, part: Part, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one part as they were written."""
        with self.open_part(part) as source:
            wanted = None if columns is None else list(columns)
            rows: pa.Table = pq.read_table(source, columns=wanted, partitioning=None)
        return rows

    @contextlib.contextmanager
    def open_part(self, part: Part) -> Iterator[Any]:
        """What pyarrow reads a part from: its path, or an object of a store as a file."""
        path = self.root / part.path
        if is_local(path):
            yield path
        elif part.bytes <= READ_WHOLE_BYTES:
            yield pa.BufferReader(read_file(path))
        else:
            with objects.open_file(path) as file:
                yield file

    # --- writing

    def begin(self, step: str, shard: str, inputs: Inputs, *, run_id: str, why: str = "") -> Transaction:
        """Start work on a slice. The commit will succeed only if nobody else commits it in between."""
        head = self.head(step, shard)
        return Transaction(self, step, shard, inputs, head, run_id, why)

    @property
    def cache(self) -> Path:
        return self.local / "cache"

    def scratch(self) -> Path:
        """A fresh folder for intermediate files; what is left there by a killed run may be deleted."""
        folder = self.local / "tmp" / secrets.token_hex(8)
        folder.mkdir(parents=True)
        return folder

    # --- results that are files: exports, students, the report

    def publish(self, name: str, skip: Sequence[str] = ()) -> None:
        """Put a result that was made in the local folder into the store, before the commit that speaks of it.

        name: a file or a folder, such as `exports/huggingface`. skip: patterns of files below it that stay here.
        Nothing to do in a folder.
        """
        if not is_local(self.root):
            mirror.publish(self.root, self.local, name, skip)

    def discard(self, name: str) -> None:
        """Remove a result, here and in the store."""
        if is_local(self.root):
            remove_tree(self.local / name)
        else:
            mirror.discard(self.root, self.local, name)

    def fetch(self, name: str) -> Path:
        """A result's local path, once what is there is what was published last; it may be that there is none."""
        if not is_local(self.root):
            mirror.fetch(self.root, self.local, name)
        return self.local / name

    def keep_recipe(self, text: str, base: str) -> None:
        """Freeze the recipe of this run, and the folder that its relative paths start from."""
        data = f"# base: {base}\n{text}".encode()
        for name in (f"recipes/{hash_text(text)}.yaml", "recipe.yaml"):
            kept = _read_if_there(self.root / name)
            if kept is None or (name == "recipe.yaml" and kept != data):
                replace_file(self.root / name, data)

    def kept_recipe(self) -> tuple[str, str]:
        """The recipe as last run, and the folder that its relative paths start from."""
        data = _read_if_there(self.root / "recipe.yaml")
        if data is None:
            raise NotCommitted(f"{self.root}: no recipe was run here yet")
        first, _, rest = data.decode("utf-8").partition("\n")
        return rest, first.removeprefix("# base: ")


@dataclass
class Transaction:
    """One writer's work on one slice, from reading its base to the commit."""

    workspace: Workspace
    step: str
    shard: str
    inputs: Inputs
    base: Head | None
    run_id: str
    why: str

    def __post_init__(self) -> None:
        self._started = time.monotonic()
        self._seq = (self.base.seq if self.base else 0) + 1

    def commit(
        self,
        table: str,
        rows: pa.Table,
        ledger: Sequence[dict[str, Any]] | pa.Table,
        books: Sequence[Book],
        *,
        keep: Sequence[Part] = (),
        extra: dict[str, Any] | None = None,
    ) -> Head:
        """Write `rows` and `ledger` as new parts and make them, with the parts in `keep`, the slice's live ones.

        Raises BooksDontBalance or SchemaMismatch before anything is written, CommitLost if another writer was first.
        The books must count the table's own unit, one book a unit.
        """
        spec = TABLES[table]
        where = f"{self.step} shard {self.shard}"
        rows = conform(rows, spec, where)
        dropped = ledger if isinstance(ledger, pa.Table) else pa.Table.from_pylist(list(ledger), schema=LEDGER)
        self._check(spec, rows, dropped, books, keep, where)
        parts, rows = self._merge_small(spec, keep, rows)
        if rows.num_rows:
            parts.append(self._write(spec.name, "data", rows))
        if dropped.num_rows:
            parts.append(self._write(spec.name, "ledger", conform_ledger(dropped)))
        return self._create(parts, books, extra or {})

    def commit_result(self, books: Sequence[Book], *, content: str, ledger: Sequence[dict[str, Any]] = (),
                      extra: dict[str, Any] | None = None) -> Head:  # fmt: skip
        """Commit a step whose result is no table (an export, a student); `content` is the hash of that result."""
        where = f"{self.step} shard {self.shard}"
        dropped = pa.Table.from_pylist(list(ledger), schema=LEDGER)
        _check_books(books, where)
        _check_ledger(dropped, books, where)
        parts = [self._write(self.step, "ledger", conform_ledger(dropped))] if dropped.num_rows else []
        return self._create(parts, books, extra or {}, content=content)

    def _check(self, spec: Table, rows: pa.Table, dropped: pa.Table, books: Sequence[Book], keep: Sequence[Part],
               where: str) -> None:  # fmt: skip
        _check_books(books, where)
        out = {book.unit: book.units_out for book in books}
        units = spec.count_units(rows)
        if keep:
            kept = self.workspace.read_parts(keep, spec, [*spec.key, *spec.counted])
            units += spec.count_units(kept)
            keys = pa.concat_tables([kept.select(list(spec.key)), rows.select(list(spec.key))])
            _check_keys(keys, spec, where)
        if out.get(spec.unit) != units:
            raise BooksDontBalance(f"{where}: the books say {out.get(spec.unit)} {spec.unit} out, the rows {units}")
        _check_ledger(dropped, books, where)

    def _merge_small(self, spec: Table, keep: Sequence[Part], rows: pa.Table) -> tuple[list[Part], pa.Table]:
        """The parts that stay, and the rows of a new one: where small parts have become many, these take them in. Not
        without new rows, which change the slice's content anyway: the same rows in other parts have another hash."""
        small = [part for part in keep if part.kind == "data" and part.bytes < SMALL_PART_BYTES]
        if not rows.num_rows or len(small) < MOST_SMALL_PARTS:
            return list(keep), rows
        merged = pa.concat_tables([self.workspace.read_parts(small, spec), rows])
        merged = merged.sort_by([(name, "ascending") for name in spec.key])
        return [part for part in keep if part not in small], merged

    def _write(self, table: str, kind: Any, rows: pa.Table) -> Part:
        return write_part(self.workspace.root, table, self.shard, self.step, self._seq, kind, rows)

    def _create(self, parts: Sequence[Part], books: Sequence[Book], extra: dict[str, Any],
                content: str | None = None) -> Head:  # fmt: skip
        head = Head(
            step=self.step,
            shard=self.shard,
            seq=self._seq,
            inputs=self.inputs,
            content=content or combine([part.content for part in parts if part.kind == "data"]),
            parts=tuple(parts),
            books=tuple(books),
            reason=self.why or explain(self.base.inputs if self.base else None, self.inputs),
            seconds=round(time.monotonic() - self._started, 3),
            run_id=self.run_id,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            versions={"python": platform.python_version(), "pyarrow": pa.__version__},
            extra=extra,
        )
        self.workspace.manifest.create(head)
        self.base = head
        self._seq = head.seq + 1
        return head


def write_part(root: Path, table: str, shard: str, step: str, seq: int, kind: Any, rows: pa.Table) -> Part:
    """Write rows as a part of a slice's commit `seq`; until that commit is made nobody reads it."""
    name = f"{step}-{seq:06d}-{secrets.token_hex(4)}{'.ledger' if kind == 'ledger' else ''}.parquet"
    relative = f"tables/{table}/{shard}/{name}"
    written = write_file(root / relative, lambda temporary: pq.write_table(
        rows, temporary, compression="zstd", row_group_size=32_768))  # fmt: skip
    return Part(relative, kind, rows.num_rows, written.bytes, written.sha256, content_hash(rows))


def _read_if_there(path: Path) -> bytes | None:
    try:
        return read_file(path)
    except FileNotFoundError:
        return None


def _with_all_columns(rows: pa.Table, schema: pa.Schema, table: str) -> pa.Table:
    """Rows of a part in the schema's order; null where the part is older than a column."""
    if rows.column_names == schema.names:
        return rows
    columns = []
    for field in schema:
        if field.name in rows.column_names:
            columns.append(rows.column(field.name))
        elif field.nullable:
            columns.append(pa.nulls(rows.num_rows, field.type))
        else:
            raise SchemaMismatch(
                f"a part of {table} was written before its column {field.name} was; make it again with `run --from`"
            )
    return pa.table(columns, schema=schema)


def conform(rows: pa.Table, spec: Table, where: str) -> pa.Table:
    """Rows with exactly the schema's columns, ordered by the key, keys unique; else SchemaMismatch."""
    if set(rows.column_names) != set(spec.schema.names):
        missing = sorted(set(spec.schema.names) - set(rows.column_names))
        extra = sorted(set(rows.column_names) - set(spec.schema.names))
        raise SchemaMismatch(f"{where}: table {spec.name} lacks columns {missing} and has unknown columns {extra}")
    try:
        rows = rows.select(spec.schema.names).cast(spec.schema)
    except (pa.ArrowException, ValueError) as fault:
        raise SchemaMismatch(f"{where}: the rows don't fit table {spec.name}: {fault}") from fault
    for field in spec.schema:
        if not field.nullable and rows.column(field.name).null_count:
            raise SchemaMismatch(f"{where}: column {field.name} of {spec.name} may hold no null")
    _check_keys(rows, spec, where)
    return rows.sort_by([(name, "ascending") for name in spec.key])


def conform_ledger(rows: pa.Table) -> pa.Table:
    return rows.select(LEDGER.names).cast(LEDGER).sort_by([("unit_id", "ascending"), ("rule", "ascending")])


def _check_keys(rows: pa.Table, spec: Table, where: str) -> None:
    if rows.num_rows and rows.group_by(list(spec.key)).aggregate([]).num_rows != rows.num_rows:
        raise SchemaMismatch(f"{where}: two rows of {spec.name} have the same {', '.join(spec.key)}")


def _check_books(books: Sequence[Book], where: str) -> None:
    units = [book.unit for book in books]
    if len(set(units)) != len(units):
        raise BooksDontBalance(f"{where}: two books of the same unit among {', '.join(units)}")
    for book in books:
        book.check(where)


def _check_ledger(dropped: pa.Table, books: Sequence[Book], where: str) -> None:
    if fault := ledger_fault(dropped, books):
        raise BooksDontBalance(f"{where}: {fault}")


def ledger_fault(dropped: pa.Table, books: Sequence[Book]) -> str:
    """Empty if every dropped unit has one row in the ledger, and every row of the ledger is a dropped unit."""
    grouped = dropped.select(["unit", "rule"]).group_by(["unit", "rule"]).aggregate([([], "count_all")])
    counted = {(row["unit"], row["rule"]): row["count_all"] for row in grouped.to_pylist()}
    booked = {(book.unit, rule): number for book in books for rule, number in book.dropped.items() if number}
    return "" if counted == booked else f"the ledger holds {counted}, the books say {booked}"
