"""Generate: ask a teacher for every planned response that isn't there yet.

One step per teacher, so that two teachers never race for one slice. A response that was paid for is never asked for
again and never thrown away; a failed request is a row with its error, tried again by the next run. Finished
responses are committed every half minute within a shard, so that a crash loses no more than that.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.manifest import Book, Part
from storage.schemas import RESPONSES
from storage.workspace import Transaction
from tasks.errors import BadSetting
from tasks.plan import Planned, model_revision, planned
from tasks.step import Context, Step, Work
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
        base = self._transaction.base
        self._kept: tuple[Part, ...] = tuple(base.data()) if base else ()
        self._fresh: list[dict[str, Any]] = []
        self._failed: dict[str, dict[str, Any]] = {}
        self._answered: set[str] = set()
        if base:
            earlier = workspace.read(step.key, work.shard, "responses", ["response_id", "error_kind"]).to_pylist()
            self._answered = {row["response_id"] for row in earlier if row["error_kind"] is None}
            if len(self._answered) < len(earlier):  # failed rows are asked again: they don't stay in a kept part
                rows = workspace.read(step.key, work.shard, "responses").to_pylist()
                self._fresh = [row for row in rows if row["error_kind"] is None]
                self._kept = ()

    def run(self) -> None:
        missing = [one for key, one in self._plan.items() if key not in self._answered]
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
        if reply.error is None:
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
        workspace = self._context.workspace
        refused = [row for row in self._failed.values() if row["error_kind"] == "refused"]
        ledger = [
            self._context.drop(self._step.key, "request", row["response_id"], row["finish_reason"] or "request_refused",
                               evidence=json.dumps({"error": row["error"], "question_id": row["question_id"]}))
            for row in refused
        ]  # fmt: skip
        dropped: dict[str, int] = {}
        for entry in ledger:
            dropped[entry["rule"]] = dropped.get(entry["rule"], 0) + 1
        units = len(self._answered) + len(self._failed)
        books = [Book("request", units, len(self._answered), dropped, len(self._failed) - len(refused))]
        if isinstance(self._engine, ReplayTeacher):
            strays = self._engine.strays(self._shard, {one.request.question_id for one in self._plan.values()})
            ledger += [self._stray(stray) for stray in strays.found]
            books.append(Book("record", strays.records, strays.records - len(strays.found), strays.by_rule()))
        pieces = [_table(self._fresh + list(self._failed.values()))]
        if self._kept:
            pieces.insert(0, workspace.read(self._step.key, self._shard, "responses"))
        self._transaction.commit("responses", pa.concat_tables(pieces), ledger, books)

    def _stray(self, stray: Stray) -> dict[str, Any]:
        return self._context.drop(self._step.key, "record", stray.place, stray.rule,
                                  evidence=json.dumps({"detail": stray.detail}, ensure_ascii=False))  # fmt: skip


def _table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=RESPONSES)


