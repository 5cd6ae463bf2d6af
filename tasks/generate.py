"""Generate: ask a teacher for every planned response that isn't there yet.

One step per teacher, so that two teachers never race for one slice. A response that was paid for is never asked for
again and never thrown away; a failed request is a row with its error, tried again by the next run unless it was
refused. Replayed responses cost nothing: they are read again when their files or columns change. Finished responses
are committed every half minute within a shard, so that a crash loses no more than that.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.manifest import Book, Head, Inputs, Part
from storage.schemas import RESPONSES, TABLES
from storage.workspace import Transaction
from tasks.errors import BadSetting
from tasks.plan import Planned, model_revision, planned
from tasks.step import ASKED_FOR, Context, Step, Work
from tasks.teachers.replay import ReplayTeacher, Stray, replay_files
from tasks.teachers.settings import (
    OpenAITeacherSettings,
    ReplayTeacherSettings,
    TeacherBase,
    TransformersTeacherSettings,
)
from tasks.teachers.teacher import Reply, Teacher

VERSION = "1"
COMMIT_EVERY_S = 30.0


def generate_step(teacher: TeacherBase, base: Path) -> Step:
    """The step `generate.<teacher>`; `base` is the recipe's folder."""
    revision = model_revision(teacher)

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        with open_teacher(teacher, base, context) as engine:
            for one in work:
                _Shard(context, step, one, teacher, revision, engine).run()

    def files(cache: Path) -> dict[str, str]:
        return replay_files(teacher, base, cache) if isinstance(teacher, ReplayTeacherSettings) else {}

    settings = {"teacher": teacher.asks(), "revision": revision}
    return Step(f"generate.{teacher.name}", "generate", "shard", VERSION, settings, ("curate",), run, files,
                exclusive=isinstance(teacher, TransformersTeacherSettings))  # fmt: skip


def open_teacher(teacher: TeacherBase, base: Path, context: Context) -> Teacher:
    """The engine that a teacher's settings name."""
    if isinstance(teacher, TransformersTeacherSettings):
        from tasks.teachers.local import TransformersTeacher

        return TransformersTeacher(teacher.model, teacher.revision, dtype=teacher.dtype, batch_size=teacher.batch_size,
                                   device=teacher.device, trust_remote_code=teacher.trust_remote_code)  # fmt: skip
    if isinstance(teacher, OpenAITeacherSettings):
        from tasks.teachers.openai import OpenAITeacher

        return OpenAITeacher(teacher.base_urls(), teacher.model, _secret(teacher), concurrency=teacher.concurrency,
                             timeout_s=teacher.timeout_s, attempts=teacher.attempts,
                             extra_body=teacher.extra_body or None)  # fmt: skip
    assert isinstance(teacher, ReplayTeacherSettings)
    return ReplayTeacher(teacher, base, context.workspace)


def _secret(teacher: OpenAITeacherSettings) -> str | None:
    if teacher.api_key_env is None:
        return None
    key = os.environ.get(teacher.api_key_env)
    if not key:
        raise BadSetting(f"teacher {teacher.name}: the environment variable {teacher.api_key_env} is empty; set it")
    return key


class _Shard:
    """The work on one shard of one teacher."""

    def __init__(self, context: Context, step: Step, work: Work, teacher: TeacherBase, revision: str,
                 engine: Teacher) -> None:  # fmt: skip
        self._context, self._step, self._teacher, self._revision = context, step, teacher, revision
        self._engine = engine
        self._shard = work.shard
        self._transaction: Transaction = context.begin(step, work)
        workspace = context.workspace
        questions = workspace.read("curate", work.shard, "curated", ["question_id", "messages", "category"])
        self._plan = {one.request.response_id: one for one in planned(questions.to_pylist(), teacher, revision)}
        self._kept: tuple[Part, ...] = ()
        self._fresh: list[dict[str, Any]] = []
        self._failed: dict[str, dict[str, Any]] = {}
        self._answered: set[str] = set()
        self._spare: dict[str, dict[str, Any]] = {}
        """replayed earlier from files that have changed since; used where those no longer have the response"""
        if self._transaction.base:
            self._take_over(self._transaction.base, work)

    def _take_over(self, base: Head, work: Work) -> None:
        """Keep what is answered. Its parts stay as they are, unless they hold rows that will be replaced."""
        read, table = self._context.workspace.read_parts, TABLES["responses"]
        parts = tuple(base.data())
        earlier = read(parts, table, ["response_id", "error_kind"]).to_pylist()
        answered = {row["response_id"] for row in earlier if row["error_kind"] is None}
        same_source = base.inputs.files == work.inputs.files and _source(base.inputs) == _source(work.inputs)
        self._answered = answered if same_source else answered - self._plan.keys()
        if len(self._answered) == len(earlier):
            self._kept = parts
            return
        for row in read(parts, table).to_pylist():
            key = row["response_id"]
            if key in self._answered:
                self._fresh.append(row)
            elif row["error_kind"] is None:
                self._spare[key] = row
            elif row["error_kind"] == "refused" and key in self._plan and same_source and work.why != ASKED_FOR:
                self._failed[key] = row

    def run(self) -> None:
        missing = [one for key, one in self._plan.items() if key not in self._answered and key not in self._failed]
        self._context.progress.expect(self._step.key, len(missing))
        last = time.monotonic()
        replies = self._engine.generate([one.request for one in missing])
        for reply in replies:
            self._take(self._plan[reply.response_id], reply)
            self._context.progress.advance(self._step.key, 1)
            if time.monotonic() - last > COMMIT_EVERY_S and self._fresh:
                self._commit_part()
                last = time.monotonic()
        self._commit_whole()

    def _take(self, one: Planned, reply: Reply) -> None:
        row = self._row(one, reply)
        if reply.error is not None and reply.response_id in self._spare:
            row = self._spare[reply.response_id]
        if row["error_kind"] is None:
            self._fresh.append(row)
            self._answered.add(reply.response_id)
        else:
            self._failed[reply.response_id] = row

    def _row(self, one: Planned, reply: Reply) -> dict[str, Any]:
        return {
            "response_id": reply.response_id,
            "question_id": one.request.question_id,
            "teacher": self._teacher.name,
            "model_revision": self._revision,
            "round": 0,
            "sample_index": one.request.sample_index,
            "think_content": reply.think_content,
            "answer_content": reply.answer_content,
            "turns": None,
            "finish_reason": reply.finish_reason,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "mean_logprob": reply.mean_logprob,
            "sampling": json.dumps(one.request.sampling, sort_keys=True),
            "latency_s": reply.latency_s,
            "error": reply.error,
            "error_kind": reply.error_kind,
        }

    def _commit_part(self) -> None:
        """Make what is finished safe; the rest stays pending."""
        waiting = len(self._plan.keys() - self._answered)
        book = Book("request", len(self._answered) + waiting, len(self._answered), {}, waiting)
        head = self._transaction.commit("responses", _table(self._fresh), [], [book], keep=self._kept)
        self._kept, self._fresh = tuple(head.data()), []

    def _commit_whole(self) -> None:
        """One part for the whole shard, failed requests included."""
        refused = [row for row in self._failed.values() if row["error_kind"] == "refused"]
        ledger = [
            self._context.drop(self._step.key, "request", row["response_id"], row["finish_reason"] or "request_refused",
                               evidence=json.dumps({"error": row["error"], "question_id": row["question_id"]}))
            for row in refused
        ]  # fmt: skip
        dropped: dict[str, int] = {}
        for entry in ledger:
            dropped[entry["rule"]] = dropped.get(entry["rule"], 0) + 1
        waiting = len(self._plan.keys() - self._answered) - len(refused)
        units = len(self._answered) + len(refused) + waiting
        books = [Book("request", units, len(self._answered), dropped, waiting)]
        if isinstance(self._engine, ReplayTeacher):
            strays = self._engine.strays(self._shard, {one.request.question_id for one in self._plan.values()})
            ledger += [self._stray(stray) for stray in strays.found]
            books.append(Book("record", strays.records, strays.records - len(strays.found), strays.by_rule()))
        rows = _table(self._fresh + list(self._failed.values()))
        if self._kept and (rows.num_rows or len(self._kept) > 1):
            rows = pa.concat_tables([self._context.workspace.read_parts(self._kept, TABLES["responses"]), rows])
            self._kept = ()
        self._transaction.commit("responses", rows, ledger, books, keep=self._kept)

    def _stray(self, stray: Stray) -> dict[str, Any]:
        return self._context.drop(self._step.key, "record", stray.place, stray.rule,
                                  evidence=json.dumps({"detail": stray.detail}, ensure_ascii=False))  # fmt: skip


def _source(inputs: Inputs) -> dict[str, Any]:
    """Where replayed responses are read from, besides the files."""
    return {name: inputs.settings["teacher"].get(name) for name in ("columns", "format")}


def _table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=RESPONSES)
