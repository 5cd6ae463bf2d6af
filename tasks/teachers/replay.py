"""Engine `replay`: responses that exist already, in files.

The files are read once into an index by shard, kept in the workspace's cache under the hash of what it was made from.
A record that matches no planned request goes to the ledger of its shard: of a question that isn't curated, beyond the
k planned samples, or broken. The responses to a question are numbered in the order of the files and of their records;
of a file with several teachers' responses, `where` takes this one's, and the others' records are not in its books.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from storage.fingerprint import hash_json, hash_text
from storage.workspace import Workspace
from tasks import layouts
from tasks.question import (
    BadRecord,
    check_characters,
    check_last_message,
    lookup,
    question_id,
    read_messages,
)
from tasks.sources import FileSource, fingerprint_files, read_source
from tasks.spill import Spill
from tasks.teachers.settings import ReplayTeacherSettings, TeacherBase
from tasks.teachers.teacher import Reply, Request, TeacherError, failed, split_think

INDEX_VERSION = 3
"""Raise it when a record is read in another way."""
INDEX_FIELDS: list[pa.Field[Any]] = [
    pa.field("place", pa.string()),
    pa.field("question_id", pa.string()),
    pa.field("sample_index", pa.int64()),
    pa.field("think_content", pa.string()),
    pa.field("answer_content", pa.string()),
    pa.field("finish_reason", pa.string()),
    pa.field("prompt_tokens", pa.int64()),
    pa.field("completion_tokens", pa.int64()),
    pa.field("mean_logprob", pa.float64()),
    pa.field("bad_rule", pa.string()),
    pa.field("bad_detail", pa.string()),
]
INDEX = pa.schema(INDEX_FIELDS)


@dataclass(frozen=True)
class Stray:
    """A record that no planned request asks for."""

    place: str
    rule: str
    detail: str


@dataclass(frozen=True)
class Strays:
    records: int
    """All records of the shard."""
    found: tuple[Stray, ...]

    def by_rule(self) -> dict[str, int]:
        return dict(Counter(stray.rule for stray in self.found))


def replay_files(teacher: TeacherBase, base: Path, cache: Path) -> dict[str, str]:
    """Content hashes of the files, and how they are read where that is not by `columns`: a response is read again when
    one of these differs. Nothing for a teacher that is really asked."""
    if not isinstance(teacher, ReplayTeacherSettings):
        return {}
    found = fingerprint_files(_source(teacher), base, cache)
    if teacher.layout:
        found[f"layout {teacher.layout}"] = str(layouts.REVISION)
    if teacher.where:
        found["where"] = json.dumps(teacher.where, sort_keys=True)
    return found


def _source(teacher: ReplayTeacherSettings) -> FileSource:
    return FileSource(name=teacher.name, kind="file", path=teacher.path, format=teacher.format)


class ReplayTeacher:
    """Answers from files; a request without a stored response is refused as `not_in_replay`."""

    def __init__(self, teacher: ReplayTeacherSettings, base: Path, workspace: Workspace) -> None:
        self._teacher, self._base, self._workspace = teacher, base, workspace
        self._shard: tuple[str, dict[tuple[str, int], dict[str, Any]]] | None = None

    def __enter__(self) -> Self:
        self._index = self._build()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shard = None

    def generate(self, requests: Sequence[Request]) -> Iterator[Reply]:
        for request in requests:
            stored = self._stored(self._workspace.shard_of(request.question_id))
            row = stored.get((request.question_id, request.sample_index))
            if row is None:
                yield _missing(request, self._teacher)
                continue
            yield Reply(
                request.response_id, row["think_content"], row["answer_content"], row["finish_reason"],
                row["prompt_tokens"], row["completion_tokens"], row["mean_logprob"], latency_s=0.0,
            )  # fmt: skip

    def strays(self, shard: str, asked: set[str]) -> Strays:
        """The records of a shard that serve none of the questions in `asked`, or lie beyond the planned samples."""
        rows = self._read(shard)
        most = self._teacher.max_samples if self._teacher.until else self._teacher.samples
        found = []
        for row in rows:
            if row["bad_rule"]:
                found.append(Stray(row["place"], row["bad_rule"], row["bad_detail"]))
            elif row["question_id"] not in asked:
                found.append(Stray(row["place"], "question_not_asked", row["question_id"]))
            elif row["sample_index"] >= most:
                found.append(Stray(row["place"], "beyond_samples", f"sample {row['sample_index']}"))
        return Strays(len(rows), tuple(found))

    def _stored(self, shard: str) -> dict[tuple[str, int], dict[str, Any]]:
        if self._shard is None or self._shard[0] != shard:
            rows = self._read(shard)
            self._shard = shard, {(row["question_id"], row["sample_index"]): row for row in rows if not row["bad_rule"]}
        return self._shard[1]

    def _read(self, shard: str) -> list[dict[str, Any]]:
        if not self._index.exists():  # the cache may be deleted at any time
            self._index = self._build()
        path = self._index / f"{shard}.parquet"
        return pq.read_table(path, partitioning=None).to_pylist() if path.exists() else []

    def _build(self) -> Path:
        """The index folder; two processes may build it at once, the first to finish wins."""
        teacher, workspace = self._teacher, self._workspace
        files = replay_files(teacher, self._base, workspace.cache / "files")
        made_from = {"files": files, "columns": teacher.columns, "format": teacher.format, "layout": teacher.layout,
                     "where": teacher.where, "bits": workspace.bits, "version": INDEX_VERSION}  # fmt: skip
        target = workspace.cache / "replay" / hash_json(made_from)
        if target.exists():
            return target
        spill = Spill(workspace, INDEX)
        folder = workspace.scratch()
        try:
            counts: dict[str, int] = defaultdict(int)
            for place, record in self._records():
                for row in _rows(place, record, teacher, counts):
                    spill.add(workspace.shard_of(row["question_id"] or hash_text(place)), row)
            for shard in workspace.shards:
                if (table := spill.read(shard)).num_rows:
                    pq.write_table(table, folder / f"{shard}.parquet")
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                folder.rename(target)
            except OSError:
                if not target.exists():
                    raise
        finally:
            spill.close()
            shutil.rmtree(folder, ignore_errors=True)
        return target

    def _records(self) -> Iterator[tuple[str, dict[str, Any] | BadRecord]]:
        """The records that are this teacher's, and the broken ones, which may be. TeacherError if `where` fits none."""
        where = self._teacher.where
        fits, others = 0, Counter[str]()
        for one in read_source(_source(self._teacher), self._base):
            value = one.value
            if not isinstance(value, BadRecord):
                found = {name: lookup(value, name) for name in where}
                if lacking := [name for name, there in found.items() if there is None]:
                    value = BadRecord("missing_column", f"no {', '.join(lacking)}, which `where` asks for")
                elif any(str(found[name]) != wanted for name, wanted in where.items()):
                    others[", ".join(f"{name} {there}" for name, there in found.items())] += 1
                    continue
                else:
                    fits += 1
            yield one.place, value
        if others and not fits:
            there = "; ".join(f"{name} ({count:,} records)" for name, count in others.most_common(8))
            raise TeacherError(f"teacher {self._teacher.name}: no record has {where}; found {there}. Correct `where`")


def _missing(request: Request, teacher: ReplayTeacherSettings) -> Reply:
    reply = failed(request, f"no stored response {request.sample_index} in {teacher.path}", "refused")
    return Reply(**{**reply.__dict__, "finish_reason": "not_in_replay"})


def _rows(place: str, record: dict[str, Any] | BadRecord, teacher: ReplayTeacherSettings,
          counts: dict[str, int]) -> Iterator[dict[str, Any]]:  # fmt: skip
    """One row of the index per response of a record; a row with `bad_rule` for what can't be used."""
    empty: dict[str, Any] = dict.fromkeys(INDEX.names) | {"place": place}
    try:
        if isinstance(record, BadRecord):
            raise record
        identity, responses, facts = _read_record(record, teacher)
    except BadRecord as fault:
        yield empty | {"bad_rule": fault.rule, "bad_detail": fault.detail}
        return
    for think, answer in responses:
        try:
            if not isinstance(answer, str) or not isinstance(think, str | None):
                kinds = f"the response is {type(answer).__name__}, its thinking {type(think).__name__}"
                raise BadRecord("wrong_type", f"{kinds}; expected text")
            check_characters([think, answer])
        except BadRecord as fault:
            yield empty | {"bad_rule": fault.rule, "bad_detail": fault.detail}
            continue
        yield empty | facts | {"question_id": identity, "sample_index": counts[identity], "think_content": think,
                               "answer_content": answer}  # fmt: skip
        counts[identity] += 1


def _read_record(
    record: dict[str, Any], teacher: ReplayTeacherSettings
) -> tuple[str, list[tuple[Any, Any]], dict[str, Any]]:
    """The record's question_id, its responses as (think, answer), and what it says of them."""

    def get(name: str) -> Any:
        return lookup(record, teacher.columns.get(name, name))

    try:
        if teacher.layout:
            record = layouts.as_response(teacher.layout, record)
        messages = read_messages(get)
    except RecursionError as fault:
        raise BadRecord("broken_json", "nested too deeply") from fault
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    check_last_message(messages)
    response = get("response")
    if response is None:
        responses = [(get("think_content"), get("answer_content"))] if get("answer_content") is not None else []
    else:
        texts = response if isinstance(response, list) else [response]
        responses = [split_think(text) if isinstance(text, str) else (None, text) for text in texts]
    if not responses:
        raise BadRecord("missing_response", "no column `response` or `answer_content`; map it with `columns`")
    facts = {
        "finish_reason": _finish_reason(get("finish_reason")),
        "prompt_tokens": _count("prompt_tokens", get("prompt_tokens")),
        "completion_tokens": _count("completion_tokens", get("completion_tokens")),
        "mean_logprob": _float("mean_logprob", get("mean_logprob")),
    }
    return question_id(messages), responses, facts


def _finish_reason(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise BadRecord("wrong_type", f"finish_reason is {type(value).__name__}, expected text")
    check_characters(value)
    return value


def _float(name: str, value: Any) -> float | None:
    try:
        number = math.nan if value is None else float(value)
    except (TypeError, ValueError, OverflowError) as fault:
        raise BadRecord("wrong_type", f"{name} is {value!r}, expected a number") from fault
    return number if math.isfinite(number) else None


def _count(name: str, value: Any) -> int | None:
    number = _float(name, value)
    if number is None:
        return None
    if not 0 <= number < 2**53 or not number.is_integer():
        raise BadRecord("wrong_type", f"{name} is {value!r}, expected a whole number")
    return int(number)
