"""One workspace on its way into twice as many shards: every slice in two, with the hashes that a run compares.

A half holds the rows of its questions, the ledger's rows of them, and books that balance. What a slice was made from is
named by the new hashes, so that a run finds it as it should be. A slice with pending units is marked to be made again,
since which half they belong to isn't known; what it has is reused. A ledger row goes to the half of its question; one
of a record whose question isn't known, to the first. Slices of the whole workspace (`all`) are linked as they are.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.files import make_folder
from storage.fingerprint import combine, hash_text
from storage.manifest import Book, Head, Part
from storage.schemas import LEDGER, TABLES
from storage.workspace import ALL, Workspace, write_part

RESHARDED = ", resharded"
"""What the version of a slice ends with that had pending units."""


@dataclass
class Contents:
    """Content hashes before and after, of one workspace: step → shard → hash."""

    old: dict[str, dict[str, str]] = field(default_factory=dict)
    new: dict[str, dict[str, str]] = field(default_factory=dict)

    def translate(self, step: str, content: str, shard: str, half: str) -> str | None:
        """The hash after, of what was read from a step with this hash; None if it isn't of this workspace's commits.
        `half`: the shard after, of the slice that reads it."""
        old, new = self.old.get(step, {}), self.new.get(step, {})
        if old.get(shard) == content:
            return new[half]
        return combine(list(new.values())) if combine(list(old.values())) == content else None


def copy_links(folder: Path, target: Path) -> None:
    """The symbolic links right in a folder; relative ones, which hold as the tree is the same."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_symlink():
            make_folder(target)
            (target / path.name).symlink_to(path.readlink())


def link(path: Path, target: Path) -> None:
    make_folder(target.parent)
    try:
        os.link(path, target)
    except OSError:
        shutil.copy2(path, target)


class Splitting:
    """One workspace on its way into twice as many shards."""

    def __init__(self, old: Workspace, new: Workspace, outer: Sequence[Contents],
                 advance: Callable[[str], None]) -> None:  # fmt: skip
        self._old, self._new, self._outer, self._advance = old, new, outer, advance
        self._contents = Contents()
        self._questions: dict[str, dict[str, str]] = {}
        """old shard → response_id → question_id"""

    def run(self) -> Contents:
        """Split all slices but those that are another workspace's (an ablation reads its parent's through links)."""
        manifest = self._old.manifest
        made: list[tuple[Head, str]] = []
        for folder in ("manifest", "tables"):
            copy_links(self._old.root / folder, self._new.root / folder)
        for step in manifest.steps():
            if (manifest.root / step).is_symlink():
                continue
            self._advance(step)
            for shard in manifest.shards(step):
                head = manifest.head(step, shard)
                if head is None:
                    continue
                whole = shard == ALL
                halves = [self._linked(head)] if whole else self._split(head)
                self._contents.old.setdefault(step, {})[shard] = head.content
                for half in halves:
                    self._contents.new.setdefault(step, {})[half.shard] = half.content
                made += [(half, shard) for half in halves]
        for half, shard in made:
            inputs = replace(half.inputs, reads=self._reads(half, shard))
            self._new.manifest.create(replace(half, inputs=inputs))
        return self._contents

    def _reads(self, half: Head, shard: str) -> dict[str, str]:
        """What it was made from, by the new hashes; what is of no newest commit stays, and is made again as before."""
        found = {}
        for step, content in half.inputs.reads.items():
            known = (one.translate(step, content, shard, half.shard) for one in (self._contents, *self._outer))
            found[step] = next((one for one in known if one is not None), content)
        return found

    def _linked(self, head: Head) -> Head:
        for part in head.parts:
            link(self._old.root / part.path, self._new.root / part.path)
        return head

    def _split(self, head: Head) -> list[Head]:
        names = self._halves(head.shard)
        parts: list[list[Part]] = [[], []]
        rows: list[list[pa.Table]] = [[], []]
        drops: list[pa.Table] = [LEDGER.empty_table(), LEDGER.empty_table()]
        for part in head.parts:
            table = self._old.read_part(part)
            second = self._in_second(table, part, names[1])
            for place, mask in enumerate((pc.invert(second), second)):
                some = table.filter(mask)
                if not some.num_rows:
                    continue
                parts[place].append(self._write(part, names[place], head, some))
                if part.kind == "ledger":
                    drops[place] = pa.concat_tables([drops[place], some.cast(LEDGER)])
                else:
                    rows[place].append(some.select(_counted(part, some)))
        books = _split_books(head, rows, drops)
        inputs = head.inputs
        if head.pending:
            inputs = replace(inputs, version=inputs.version.removesuffix(RESHARDED) + RESHARDED)
        own = head.content == combine([part.content for part in head.data()])
        return [
            replace(
                head, shard=names[place], inputs=inputs, parts=tuple(parts[place]), books=books[place],
                content=combine([one.content for one in parts[place] if one.kind == "data"]) if own else head.content,
                reason="resharded", extra=_extra(head, rows[place], place),
            )
            for place in (0, 1)
        ]  # fmt: skip

    def _halves(self, shard: str) -> tuple[str, str]:
        if self._old.bits == 0:
            return "0", "1"
        return f"{shard}0", f"{shard}1"

    def _write(self, part: Part, shard: str, head: Head, rows: pa.Table) -> Part:
        return write_part(self._new.root, part.table, shard, head.step, head.seq, part.kind, rows)

    # --- which half

    def _in_second(self, rows: pa.Table, part: Part, second: str) -> Any:
        """Which rows belong to the second half, as a mask."""
        if part.kind == "data":
            first_key = "question_id" if "question_id" in rows.column_names else TABLES[part.table].key[0]
            start = format(int(second, 2) << (32 - self._new.bits), "08x")  # an id's hex digits order as its bits do
            return pc.greater_equal(rows.column(first_key), pa.scalar(start))
        shard = part.path.split("/")[2]
        placed = [
            self._half_of(row, shard) == second for row in rows.select(["unit", "unit_id", "evidence"]).to_pylist()
        ]
        return pa.array(placed, pa.bool_())

    def _half_of(self, row: dict[str, Any], shard: str) -> str:
        """The new shard of a row of the ledger."""
        for identity in self._candidates(row, shard):
            if _is_id(identity) and self._old.shard_of(identity) == shard:
                return self._new.shard_of(identity)
        return self._halves(shard)[0]

    def _candidates(self, row: dict[str, Any], shard: str) -> Iterator[str]:
        """What may be the question's id: of the evidence, by the response, the unit itself, the hash of a place."""
        with suppress(ValueError):
            evidence = json.loads(row["evidence"])
            if isinstance(evidence, dict):
                yield str(evidence.get("question_id", ""))
        beginning = row["unit_id"].partition(":")[0].partition("/")[0]
        yield self._responses(shard).get(beginning, "")
        yield row["unit_id"]
        yield hash_text(row["unit_id"])

    def _responses(self, shard: str) -> dict[str, str]:
        if shard not in self._questions:
            found = self._questions[shard] = {}
            manifest = self._old.manifest
            for step in manifest.steps():
                head = manifest.head(step, shard)
                for part in head.data() if head else ():
                    if part.table == "responses":
                        rows = self._old.read_part(part, ["response_id", "question_id"]).to_pydict()
                        found |= dict(zip(rows["response_id"], rows["question_id"], strict=True))
        return self._questions[shard]


def _is_id(text: str) -> bool:
    return len(text) == 32 and all(character in "0123456789abcdef" for character in text)


def _counted(part: Part, rows: pa.Table) -> list[str]:
    """The columns that books and totals of a half are reckoned from."""
    spec = TABLES[part.table]
    wanted = (*spec.key, *spec.counted, "question_id", "prompt_tokens", "completion_tokens", "finish_reason")
    return [name for name in dict.fromkeys(wanted) if name in rows.column_names]


def _split_books(head: Head, rows: Sequence[Sequence[pa.Table]], drops: Sequence[pa.Table]) -> list[tuple[Book, ...]]:
    """Both halves' books: dropped units as their ledgers have them; what came out by the rows, where these tell;
    pending units in the first, as the slice is made again."""
    tables = [pa.concat_tables(some, promote_options="default") if some else None for some in rows]
    halves: list[list[Book]] = [[], []]
    for book in head.books:
        out = _units_out(head, book, tables)
        for place in (0, 1):
            dropped = _dropped(drops[place], book.unit)
            pending = book.pending if place == 0 else 0
            total = out[place] + sum(dropped.values()) + pending
            halves[place].append(Book(book.unit, total, out[place], dropped, pending))
    return [tuple(half) for half in halves]


def _dropped(ledger: pa.Table, unit: str) -> dict[str, int]:
    counts = ledger.filter(pc.field("unit") == unit).group_by("rule").aggregate([([], "count_all")]).to_pydict()
    return dict(sorted(zip(counts["rule"], counts["count_all"], strict=True)))


def _units_out(head: Head, book: Book, tables: Sequence[pa.Table | None]) -> tuple[int, int]:
    """How a book's units_out divide. Those of another unit than the table's are its questions, if there are as many;
    else they divide as the rows do, since what came of which half was not written down."""
    data = head.data()
    spec = TABLES[data[0].table] if data else None
    counts = [0, 0]
    for place, table in enumerate(tables):
        if table is None or spec is None:
            continue
        if book.unit == spec.unit:
            counts[place] = spec.count_units(table)
        elif "question_id" in table.column_names:
            counts[place] = len(pc.unique(table.column("question_id")))
    if sum(counts) == book.units_out:
        return counts[0], counts[1]
    sizes = [0 if table is None else table.num_rows for table in tables]
    first = book.units_out * sizes[0] // sum(sizes) if sum(sizes) else book.units_out
    return first, book.units_out - first


def _extra(head: Head, rows: Sequence[pa.Table], place: int) -> dict[str, Any]:
    """What a commit says besides: totals of responses by half; counts that no row tells stay with the first half."""
    extra = dict(head.extra)
    if "completion_tokens" in extra:
        table = pa.concat_tables(rows, promote_options="default") if rows else None
        for name in ("prompt_tokens", "completion_tokens"):
            extra[name] = (pc.sum(table.column(name)).as_py() or 0) if table is not None else 0
        extra["truncated"] = table.filter(pc.field("finish_reason") == "length").num_rows if table is not None else 0
    if place == 1:
        for name in ("over_window", "computed"):
            if name in extra:
                extra[name] = 0
        extra.pop("budget", None)
        if "questions" in extra:
            extra["questions"] = {}
    return extra
