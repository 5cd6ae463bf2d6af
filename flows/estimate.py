"""`plan`: what a recipe would ask for, from its sources and the rates that it names. Spends nothing, asks nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq

from flows.recipe import LoadedRecipe
from tasks.sources import FileSource, GeneratorSource, HuggingFaceSource, read_source, source_files
from tasks.teachers.settings import ReplayTeacherSettings, TeacherBase

BYTES_PER_TOKEN = 1.6
"""Of a response on disk: about 4 characters a token, compressed 2.5 times by zstd."""
MAX_COUNTED_BYTES = 2 << 30


@dataclass(frozen=True)
class SourceEstimate:
    name: str
    rows: int | None
    how: str


@dataclass(frozen=True)
class TeacherEstimate:
    name: str
    requests: int
    tokens: float | None
    gpu_hours: float | None
    money: float | None


@dataclass(frozen=True)
class Estimate:
    """Upper bounds: curation only takes questions away."""

    sources: tuple[SourceEstimate, ...]
    teachers: tuple[TeacherEstimate, ...]
    total: TeacherEstimate
    disk_gb: float
    shards: int
    notes: tuple[str, ...]


def estimate(loaded: LoadedRecipe) -> Estimate:
    sources = tuple(_count(source, loaded) for source in loaded.recipe.sources)
    known = sum(source.rows for source in sources if source.rows is not None)
    teachers = tuple(_teacher(teacher, known) for teacher in loaded.recipe.teachers)
    total = TeacherEstimate(
        "all",
        sum(one.requests for one in teachers),
        _sum([one.tokens for one in teachers]),
        _sum([one.gpu_hours for one in teachers]),
        _sum([one.money for one in teachers]),
    )
    notes = ["questions are counted before curation, so these are upper bounds"]
    unknown = [source.name for source in sources if source.rows is None]
    if unknown:
        notes.append(f"not counted: {', '.join(unknown)}; set expected_rows there")
    for teacher in loaded.recipe.teachers:
        lacking = [name for name in ("expected_tokens", "tokens_per_second") if getattr(teacher, name) is None]
        if lacking and not isinstance(teacher, ReplayTeacherSettings):
            notes.append(f"teacher {teacher.name}: set {' and '.join(lacking)} for tokens and GPU-hours")
    disk = sum(one.tokens or 0 for one in teachers) * BYTES_PER_TOKEN / 1e9
    return Estimate(sources, teachers, total, disk, 1 << loaded.bits, tuple(notes))


def _count(source: FileSource | HuggingFaceSource | GeneratorSource, loaded: LoadedRecipe) -> SourceEstimate:
    if isinstance(source, GeneratorSource):
        return SourceEstimate(source.name, source.size, "size")
    if source.expected_rows is not None:
        rows = min(source.expected_rows, source.limit or source.expected_rows)
        return SourceEstimate(source.name, rows, "expected_rows")
    if isinstance(source, HuggingFaceSource):
        return SourceEstimate(source.name, source.limit, "limit" if source.limit else "unknown without a download")
    files = source_files(source, loaded.base)
    if all(path.suffix == ".parquet" for path in files):
        rows = sum(pq.read_metadata(path).num_rows for path in files)
        return SourceEstimate(source.name, min(rows, source.limit or rows), "Parquet footers")
    if sum(path.stat().st_size for path in files) > MAX_COUNTED_BYTES:
        return SourceEstimate(source.name, source.limit, "too large to count")
    return SourceEstimate(source.name, sum(1 for _ in read_source(source, loaded.base)), "counted")


def _teacher(teacher: TeacherBase, questions: int) -> TeacherEstimate:
    requests = questions * teacher.samples
    if isinstance(teacher, ReplayTeacherSettings):
        return TeacherEstimate(teacher.name, requests, 0.0, 0.0, 0.0)
    tokens = requests * teacher.expected_tokens if teacher.expected_tokens else None
    hours = tokens / teacher.tokens_per_second / 3600 if tokens and teacher.tokens_per_second else None
    price = teacher.price_per_million_tokens
    return TeacherEstimate(teacher.name, requests, tokens, hours, tokens * price / 1e6 if tokens and price else None)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
