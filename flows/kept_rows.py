"""What a command on one file writes: the rows that stay, unchanged, and the ledger of those that go.

The file is read again and copied row by row, so that a command holds one byte a row and no row. Covered: JSON lines
stay byte for byte, Parquet rows value for value with the file's schema; any other pair of formats goes through the
records. Not covered: a file that is written to between the two readings is noticed by its number of rows only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import compress, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from flows.errors import UsageError
from storage.files import write_file
from tasks.sources import Record

ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet"}
BATCH = 16_384
KINDS: dict[str, pa.DataType] = {
    "row": pa.int64(), "rule": pa.string(), "value": pa.float64(), "threshold": pa.float64(), "evidence": pa.string(),
}  # fmt: skip
LEDGER = pa.schema(KINDS)

Kept = npt.NDArray[np.bool_]
Open = Callable[[], Iterator[Record]]


def check_files(file: Path, out: Path) -> None:
    """UsageError for an input that isn't there, or that would be written over."""
    if not file.exists():
        raise UsageError(f"{file}: no such file")
    if out.exists() and out.samefile(file):
        raise UsageError(f"--out {out}: is the input; name another file")


def read_columns(pairs: Iterable[str]) -> dict[str, str]:
    """`--column OURS=THEIRS` as a mapping."""
    columns = {}
    for pair in pairs:
        ours, found, theirs = pair.partition("=")
        if not found:
            raise UsageError(f"--column {pair}: expected OURS=THEIRS, such as question=problem")
        columns[ours] = theirs
    return columns


def refuse_without_questions(file: Path, rows: int, unread: int, first: str) -> None:
    """UsageError where not one row is a question; `first` says why the first isn't."""
    if rows == 0:
        raise UsageError(f"{file}: found no rows, expected one question a row")
    if unread == rows:
        raise UsageError(
            f"{file}: none of its {rows:,} rows is a question; the first: {first}. --column OURS=THEIRS names columns"
        )


def beside(out: Path, ending: str) -> Path:
    return out.with_name(f"{out.name}.{ending}")


def write_ledger(out: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Rows of LEDGER, written as they come."""

    def write(path: Path) -> None:
        with pq.ParquetWriter(path, LEDGER, compression="zstd") as target:
            for piece in _pieces(rows):
                target.write_table(pa.Table.from_pylist(piece, schema=LEDGER))

    write_file(beside(out, "ledger.parquet"), write)


def write_kept(file: Path, out: Path, kept: Kept, open_: Open) -> None:
    """Write the rows of `file` that stay; `kept` says so of each record that `open_` gives, in that order.

    Raises UsageError where a Parquet column would hold values of several types, or the file has changed since.
    """
    formats = ENDINGS.get(file.suffix.lower()), ENDINGS.get(out.suffix.lower())
    if formats == ("jsonl", "jsonl"):
        write_file(out, lambda path: _copy_lines(file, path, kept))
    elif formats == ("parquet", "parquet"):
        write_file(out, lambda path: _copy_rows(file, path, kept))
    elif formats[1] == "jsonl":
        write_file(out, lambda path: _write_lines(path, _stay(open_, kept)))
    else:
        write_file(out, lambda path: _write_table(out, path, lambda: _stay(open_, kept)))


def _copy_lines(file: Path, path: Path, kept: Kept) -> None:
    row = 0
    with file.open("rb") as lines, path.open("wb") as target:
        for line in lines:
            if line.strip():  # as `read_file` counts
                if row < len(kept) and kept[row]:
                    target.write(line if line.endswith(b"\n") else line + b"\n")
                row += 1
    _refuse_change(row, kept)


def _copy_rows(file: Path, path: Path, kept: Kept) -> None:
    row = 0
    with pq.ParquetFile(file) as source, pq.ParquetWriter(path, source.schema_arrow, compression="zstd") as target:
        for batch in source.iter_batches(batch_size=BATCH):
            mask = kept[row : row + batch.num_rows]
            row += batch.num_rows
            if len(mask) == batch.num_rows and mask.any():
                target.write_batch(batch.filter(pa.array(mask)))
    _refuse_change(row, kept)


def _stay(open_: Open, kept: Kept) -> Iterator[dict[str, Any]]:
    for record in compress(open_(), kept):
        assert isinstance(record.value, dict), "the file changed while it was read"
        yield record.value


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as target:
        for row in rows:
            target.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def _write_table(out: Path, path: Path, rows: Callable[[], Iterator[dict[str, Any]]]) -> None:
    """Once through the rows for the types of the columns, once to write them."""
    try:
        schema = pa.schema([])
        for piece in _pieces(rows()):
            names = dict.fromkeys(name for row in piece for name in row)
            columns = {name: pa.array([row.get(name) for row in piece]) for name in names}
            schema = pa.unify_schemas([schema, pa.table(columns).schema], promote_options="permissive")
        with pq.ParquetWriter(path, schema, compression="zstd") as target:
            for piece in _pieces(rows()):
                target.write_table(pa.Table.from_pylist(piece, schema=schema))
    except pa.ArrowException as fault:
        raise UsageError(
            f"--out {out}: a column holds values of several types ({fault}); give a .jsonl name"
        ) from fault


def _pieces(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    rows = iter(rows)
    while piece := list(islice(rows, BATCH)):
        yield piece


def _refuse_change(rows: int, kept: Kept) -> None:
    if rows != len(kept):
        raise UsageError(f"the file had {len(kept):,} rows when they were judged and has {rows:,} now; run it again "
                         "when nothing else writes to it")  # fmt: skip
