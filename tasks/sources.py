"""Where records come from: files, Hugging Face data sets, generators.

Readers stream. A record that can't be read is yielded as a `BadRecord` with its place, so that it reaches the ledger;
a whole file that can't be read raises UnreadableSource, which names it.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import importlib.metadata
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from storage.fingerprint import file_key, hash_file
from tasks import layouts
from tasks.errors import UnreadableSource
from tasks.layouts import Layout
from tasks.question import BadRecord
from tasks.settings import Settings
from tasks.sources_hub import hub_rows

Category = Literal["math", "code", "science", "instruction", "chat", "other"]
MAX_LINE_BYTES = 64 << 20
GENERATOR_HASH_SEED = "0"
LFS_POINTER = b"version https://git-lfs"
JSON_NAMES = {"list": "an array", "str": "a string", "int": "a number", "float": "a number", "bool": "true or false",
              "NoneType": "null"}  # fmt: skip


class SourceBase(Settings):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name in the books; part of every ledger id."""
    category: Category | None = None
    """Category of every record that has no category column."""
    license: str | None = None
    """Licence of every record that has no license column; SPDX id where there is one."""
    language: str | None = None
    """Programming language asked for, where records don't say."""
    columns: dict[str, str] = {}
    """Our column → theirs; `a.b` reads key b of the object in column a. Unmapped columns go by their own name."""
    metadata: tuple[str, ...] = ()
    """Further columns of theirs to keep in `metadata`."""
    mode: Literal["mirror", "append"] = "mirror"
    """mirror: a record that vanished from the source retires; append: it stays."""
    priority: int = 0
    """Where two sources hold the same question, the higher priority keeps it; then the earlier in the recipe."""
    limit: int | None = Field(default=None, ge=1)
    """Read only so many records."""
    expected_rows: int | None = Field(default=None, ge=0)
    """For `plan`, where counting would mean a download."""


class FileSource(SourceBase):
    kind: Literal["file"]
    path: str | tuple[str, ...]
    """A file or glob, or several; relative to the recipe."""
    format: Literal["auto", "jsonl", "json", "csv", "parquet"] = "auto"
    """jsonl may be compressed: .jsonl.gz, .jsonl.zst"""
    layout: Layout | None = None
    """Records as a published data set has them; `columns` then maps what is left."""


class HuggingFaceSource(SourceBase):
    kind: Literal["huggingface"]
    path: str
    """A data set's folder on disk (relative to the recipe), or its name on the hub."""
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    """Commit or tag on the hub; without one the data may change under you."""
    files: tuple[str, ...] = ()
    """Patterns of the files to read, such as data/*.jsonl; for a set with a loading script, which isn't run."""
    layout: Layout | None = None
    """Records as a published data set has them; `columns` then maps what is left."""


class GeneratorSource(SourceBase):
    kind: Literal["reasoning_gym"]
    dataset: str
    """Name of a reasoning-gym generator, such as chain_sum."""
    size: int = Field(ge=1)
    seed: int = 0
    config: dict[str, Any] = {}


Source = Annotated[FileSource | HuggingFaceSource | GeneratorSource, Field(discriminator="kind")]


@dataclass(frozen=True)
class Record:
    """One source record and its place, `source:file:line` (1-based line, or row)."""

    place: str
    value: dict[str, Any] | BadRecord


def read_source(source: FileSource | HuggingFaceSource | GeneratorSource, base: Path) -> Iterator[Record]:
    """All records of a source, in order."""
    if isinstance(source, FileSource):
        files = source_files(source, base)
        records: Iterator[Record] = (record for path in files for record in read_file(path, source, base))
    elif isinstance(source, HuggingFaceSource):
        records = _read_hub(source, base)
    else:
        records = _generate(source)
    for number, record in enumerate(records):
        if source.limit is not None and number >= source.limit:
            return
        yield record if isinstance(source, GeneratorSource) else _in_our_columns(record, source.layout)


def _in_our_columns(record: Record, layout: Layout | None) -> Record:
    if layout is None or isinstance(record.value, BadRecord):
        return record
    try:
        return Record(record.place, layouts.as_question(layout, record.value))
    except BadRecord as fault:
        return Record(record.place, fault)
    except RecursionError:
        return Record(record.place, BadRecord("broken_json", "nested too deeply"))


def source_files(source: FileSource, base: Path) -> list[Path]:
    """The files that a source names, sorted by pattern, each once; UnreadableSource if a pattern matches none."""
    patterns = (source.path,) if isinstance(source.path, str) else source.path
    found: list[Path] = []
    for pattern in patterns:
        literal = (base / pattern).exists()  # a name may hold brackets
        matches = [pattern] if literal else sorted(glob.glob(pattern, root_dir=base, recursive=True))  # noqa: PTH207
        if not matches:
            raise UnreadableSource(f"source {source.name}: no file matches {base / pattern}; check `path`")
        found += [base / match for match in matches]
    return list(dict.fromkeys(found))


def hash_source_files(source: FileSource, base: Path, cache: Path) -> dict[str, str]:
    """sha256 of each file of a source, by its name in the books."""
    found = {}
    for path in source_files(source, base):
        try:
            found[file_key(path, base)] = hash_file(path, cache)
        except OSError as fault:
            raise UnreadableSource(f"source {source.name}: {path} can't be read: {fault}") from fault
    return found


def fingerprint_files(
    source: FileSource | HuggingFaceSource | GeneratorSource, base: Path, cache: Path
) -> dict[str, str]:
    """Content hashes of what the source reads from disk; a generator is fixed by its settings and its version."""
    if isinstance(source, GeneratorSource):
        return {"reasoning-gym": f"{importlib.metadata.version('reasoning-gym')}, hash seed {GENERATOR_HASH_SEED}"}
    reading = {f"layout {source.layout}": str(layouts.REVISION)} if source.layout else {}
    if isinstance(source, FileSource):
        return hash_source_files(source, base, cache) | reading
    if (base / source.path).is_dir():
        files = sorted(path for path in (base / source.path).rglob("*") if path.is_file())
        return {file_key(path, base): hash_file(path, cache) for path in files} | reading
    return reading


def read_file(path: Path, source: FileSource, base: Path) -> Iterator[Record]:
    """The records of one file."""
    prefix = f"{source.name}:{file_key(path, base)}"
    kind: str = source.format
    try:
        if kind == "auto":
            kind = _format(path)
        reader = {"jsonl": _read_jsonl, "json": _read_json, "csv": _read_csv, "parquet": _read_parquet}[kind]
        for line, value in reader(path):
            yield Record(f"{prefix}:{line}", value)
    except (OSError, pa.ArrowException, ValueError, RecursionError) as fault:
        kind = "a data file" if kind == "auto" else kind
        why = "a Git LFS pointer, not the file; fetch it with git lfs pull" if _is_lfs_pointer(path) else fault
        raise UnreadableSource(
            f"source {source.name}: {path} can't be read as {kind}: {why}; check the file, or set `format`"
        ) from fault


def _is_lfs_pointer(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER
    return False


def _format(path: Path) -> str:
    name = path.name.lower()
    if name.removesuffix(".gz").removesuffix(".zst").endswith((".jsonl", ".ndjson")):
        return "jsonl"
    if name.endswith((".parquet", ".pq")):
        return "parquet"
    if name.endswith(".csv"):
        return "csv"
    if name.endswith(".json"):  # an array, or one object a line
        with path.open("rb") as file:
            return "json" if file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"[" else "jsonl"
    raise UnreadableSource(f"{path}: the ending doesn't tell the format; set `format` to jsonl, json, csv or parquet")


Rows = Iterator[tuple[int, "dict[str, Any] | BadRecord"]]


def _read_jsonl(path: Path) -> Rows:
    with _open(path) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
                yield number, BadRecord("too_long", "a line over 64 MiB", None, MAX_LINE_BYTES)
            elif line.strip():
                yield number, _parse_line(line)


def _open(path: Path) -> IO[bytes]:
    """The bytes of a file, decompressed as they are read."""
    if path.suffix.lower() not in (".gz", ".zst"):
        return path.open("rb")
    stream: Any = pa.input_stream(str(path), compression="detect")
    return io.BufferedReader(stream, 1 << 20)


def _parse_line(line: bytes) -> dict[str, Any] | BadRecord:
    if b"\0" in line:
        return BadRecord("nul_byte", "the line holds a NUL byte")
    try:
        value = json.loads(line.decode("utf-8-sig"), parse_constant=_no_constant)
    except UnicodeDecodeError as fault:
        return BadRecord("invalid_utf8", f"byte {fault.start} of the line is no UTF-8")
    except (ValueError, RecursionError) as fault:
        return BadRecord("broken_json", str(fault) or "nested too deeply")
    if not isinstance(value, dict):
        return _no_object(value)
    return value


def _no_object(value: Any) -> BadRecord:
    return BadRecord("wrong_type", f"found {JSON_NAMES[type(value).__name__]}, expected an object")


def _no_constant(name: str) -> None:
    """NaN, which data frames write for "nothing", is read as null; an infinity is no JSON."""
    if name != "NaN":
        raise ValueError(f"{name} is no JSON")


def _read_json(path: Path) -> Rows:
    values = json.loads(path.read_bytes().decode("utf-8-sig"), parse_constant=_no_constant)
    if not isinstance(values, list):
        raise ValueError("expected an array of objects")
    for number, value in enumerate(values, 1):
        fits = isinstance(value, dict)
        yield number, value if fits else _no_object(value)


def _read_csv(path: Path) -> Rows:
    csv.field_size_limit(MAX_LINE_BYTES)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = next(reader, None)
        if not header:
            raise ValueError("no header line")
        if twice := [name for name in header if name and header.count(name) > 1]:
            raise ValueError(f"two columns are called {twice[0]!r}")
        while True:
            line = reader.line_num + 1  # a quoted cell may span lines: the first one is the place
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as fault:
                yield line, BadRecord("broken_csv", str(fault))
                continue
            if not cells:
                continue
            if len(cells) != len(header):
                yield line, BadRecord("wrong_columns", f"{len(cells)} cells, the header has {len(header)}")
            else:
                yield line, {name: cell or None for name, cell in zip(header, cells, strict=True)}


def _read_parquet(path: Path) -> Rows:
    number = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=4096):
            for value in _batch_rows(batch):
                number += 1
                yield number, value


def _batch_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | BadRecord]:
    """The rows of a batch; row by row only where one of them holds bytes that are no UTF-8."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for start in range(batch.num_rows):
            try:
                yield batch.slice(start, 1).to_pylist()[0]
            except UnicodeDecodeError as fault:
                yield BadRecord("invalid_utf8", str(fault))


def _read_hub(source: HuggingFaceSource, base: Path) -> Iterator[Record]:
    try:
        rows = _folder_rows(source, base / source.path) if (base / source.path).is_dir() else _hub_rows(source)
        for number, value in enumerate(rows, 1):
            yield Record(f"{source.name}:{source.split}:{number}", value)
    except UnreadableSource as fault:
        raise UnreadableSource(f"source {source.name}: {fault}") from fault


def _hub_rows(source: HuggingFaceSource) -> Iterator[dict[str, Any]]:
    return hub_rows(source.path, source.config, source.split, source.revision, files=source.files, limit=source.limit)


def _folder_rows(source: HuggingFaceSource, folder: Path) -> Iterator[dict[str, Any]]:
    """A data set on disk, as files or as `save_to_disk` writes it."""
    import datasets  # slow to import, needed only here

    try:
        if any((folder / mark).exists() for mark in ("dataset_dict.json", "state.json")):  # written by save_to_disk
            stored = datasets.load_from_disk(str(folder))
            yield from stored[source.split] if isinstance(stored, datasets.DatasetDict) else stored
        else:
            files = {source.split: list(source.files)} if source.files else None
            yield from datasets.load_dataset(str(folder), source.config, data_files=files, split=source.split,
                                             streaming=True)  # fmt: skip
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as fault:
        raise UnreadableSource(
            f"data set {folder} can't be loaded: {fault}; check `path`, `config` and `split`"
        ) from fault


def _generate(source: GeneratorSource) -> Iterator[Record]:
    """Records of the program `tasks.generator`, with the hash seed fixed (see there)."""
    asked = json.dumps({"dataset": source.dataset, "size": source.size, "seed": source.seed, "config": source.config})
    with tempfile.TemporaryFile("w+", encoding="utf-8") as faults:
        program = subprocess.Popen(
            [sys.executable, "-m", "tasks.generator"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=faults, text=True, encoding="utf-8",
            env=os.environ | {"PYTHONHASHSEED": GENERATOR_HASH_SEED},
        )  # fmt: skip
        assert program.stdin is not None and program.stdout is not None
        with program:
            try:
                program.stdin.write(asked)
                program.stdin.close()
                for number, line in enumerate(program.stdout, 1):
                    yield Record(f"{source.name}:{source.dataset}:{number}", json.loads(line))
                code = program.wait()
            finally:
                program.kill()  # a source with a limit stops reading before the end
        if code != 0:
            faults.seek(0)
            reason = faults.read().strip().splitlines()[-1:] or [f"exit status {code}"]
            raise UnreadableSource(f"source {source.name}: reasoning-gym generator {source.dataset}: {reason[0]}")
