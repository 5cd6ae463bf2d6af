"""Where records come from: files, Hugging Face data sets, generators.

Readers stream. A record that can't be read is yielded as a `BadRecord` with its place, so that it reaches the ledger;
a whole file that can't be read raises UnreadableSource, which names it.
"""

from __future__ import annotations

import csv
import glob
import importlib.metadata
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from storage.fingerprint import file_key, hash_file
from tasks.errors import UnreadableSource
from tasks.question import BadRecord
from tasks.settings import Settings

Category = Literal["math", "code", "science", "instruction", "chat", "other"]
MAX_LINE_BYTES = 64 << 20


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


class HuggingFaceSource(SourceBase):
    kind: Literal["huggingface"]
    path: str
    """A data set's folder on disk (relative to the recipe), or its name on the hub."""
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    """Commit or tag on the hub; without one the data may change under you."""


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
        records = (record for path in source_files(source, base) for record in read_file(path, source, base))
    elif isinstance(source, HuggingFaceSource):
        records = _read_hub(source, base)
    else:
        records = _generate(source)
    for number, record in enumerate(records):
        if source.limit is not None and number >= source.limit:
            return
        yield record


def source_files(source: FileSource, base: Path) -> list[Path]:
    """The files that a source names, sorted; UnreadableSource if a pattern matches none."""
    patterns = (source.path,) if isinstance(source.path, str) else source.path
    found: list[Path] = []
    for pattern in patterns:
        matches = sorted(glob.glob(str(base / pattern), recursive=True))
        if not matches:
            raise UnreadableSource(f"source {source.name}: no file matches {base / pattern}; check `path`")
        found += [Path(match) for match in matches]
    return found


def fingerprint_files(source: FileSource | HuggingFaceSource | GeneratorSource, base: Path, cache: Path) -> dict[str, str]:
    """Content hashes of what the source reads from disk; a generator is fixed by its settings and its version."""
    if isinstance(source, FileSource):
        return {file_key(path, base): hash_file(path, cache) for path in source_files(source, base)}
    if isinstance(source, HuggingFaceSource) and (base / source.path).is_dir():
        files = sorted(path for path in (base / source.path).rglob("*") if path.is_file())
        return {file_key(path, base): hash_file(path, cache) for path in files}
    if isinstance(source, GeneratorSource):
        return {"reasoning-gym": importlib.metadata.version("reasoning-gym")}
    return {}


def read_file(path: Path, source: FileSource, base: Path) -> Iterator[Record]:
    """The records of one file."""
    prefix = f"{source.name}:{file_key(path, base)}"
    kind = _format(path) if source.format == "auto" else source.format
    reader = {"jsonl": _read_jsonl, "json": _read_json, "csv": _read_csv, "parquet": _read_parquet}[kind]
    try:
        for line, value in reader(path):
            yield Record(f"{prefix}:{line}", value)
    except (OSError, pa.ArrowException, ValueError) as fault:
        raise UnreadableSource(f"source {source.name}: {path} can't be read as {kind}: {fault}") from fault


def _format(path: Path) -> str:
    name = path.name.lower()
    if name.endswith((".jsonl", ".ndjson")):
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
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
                yield number, BadRecord("too_long", "a line over 64 MiB", None, MAX_LINE_BYTES)
            elif line.strip():
                yield number, _parse_line(line)


def _parse_line(line: bytes) -> dict[str, Any] | BadRecord:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as fault:
        return BadRecord("invalid_utf8", f"byte {fault.start} of the line is no UTF-8")
    except (ValueError, RecursionError) as fault:
        return BadRecord("broken_json", str(fault) or "nested too deeply")
    return value if isinstance(value, dict) else BadRecord("wrong_type", f"a {type(value).__name__}, expected an object")


def _read_json(path: Path) -> Rows:
    values = json.loads(path.read_bytes().decode("utf-8-sig"))
    if not isinstance(values, list):
        raise ValueError("expected an array of objects")
    for number, value in enumerate(values, 1):
        fits = isinstance(value, dict)
        yield number, value if fits else BadRecord("wrong_type", f"a {type(value).__name__}, expected an object")


def _read_csv(path: Path) -> Rows:
    csv.field_size_limit(MAX_LINE_BYTES)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = next(reader, None)
        if not header:
            raise ValueError("no header line")
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as fault:
                yield reader.line_num, BadRecord("broken_csv", str(fault))
                continue
            if not cells:
                continue
            if len(cells) != len(header):
                yield reader.line_num, BadRecord("wrong_columns", f"{len(cells)} cells, the header has {len(header)}")
            else:
                yield reader.line_num, {name: cell or None for name, cell in zip(header, cells, strict=True)}


def _read_parquet(path: Path) -> Rows:
    number = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=4096):
            for start in range(batch.num_rows):
                number += 1
                try:
                    yield number, batch.slice(start, 1).to_pylist()[0]
                except UnicodeDecodeError as fault:
                    yield number, BadRecord("invalid_utf8", str(fault))


def _read_hub(source: HuggingFaceSource, base: Path) -> Iterator[Record]:
    import datasets  # slow to import, needed only here

    folder = base / source.path
    name = str(folder) if folder.is_dir() else source.path
    try:
        rows = datasets.load_dataset(
            name, source.config, split=source.split, revision=source.revision, streaming=True
        )
        for number, value in enumerate(rows, 1):
            yield Record(f"{source.name}:{source.split}:{number}", value)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as fault:
        raise UnreadableSource(f"source {source.name}: data set {name} can't be loaded: {fault}") from fault


def _generate(source: GeneratorSource) -> Iterator[Record]:
    import reasoning_gym  # slow to import, needed only here

    try:
        items = reasoning_gym.create_dataset(source.dataset, size=source.size, seed=source.seed, **source.config)
    except (ValueError, TypeError, AssertionError) as fault:
        raise UnreadableSource(f"source {source.name}: reasoning-gym generator {source.dataset}: {fault}") from fault
    for number in range(source.size):
        item = items[number]
        record = {"question": item["question"], "ground_truth": str(item["answer"]), "metadata": item["metadata"]}
        yield Record(f"{source.name}:{source.dataset}:{number + 1}", record)
