"""Rewrite: a model puts a question into other words or another form before the teachers are asked.

Optional; asked are the train questions that would be curated. The question keeps its id, its place and its means of
verification; `curated` holds the new text of the last user message and, in `metadata`, the old one. A request that
fails is pending: the question waits, and the next run asks again (law 5). A rewriting that loses a number of the
question, or is none, is on record and not used. Not covered: whether the new words mean the same; duplicates and
benchmarks are looked for in the old ones.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.fingerprint import hash_json, hash_text
from storage.manifest import Book, Inputs
from storage.schemas import CATEGORIES, REWRITES
from tasks.generate import open_teacher
from tasks.label import survivors
from tasks.plan import model_revision
from tasks.settings import Settings
from tasks.step import ASKED_FOR, Context, Step, Work
from tasks.teachers.prompts import Prompt, render
from tasks.teachers.replay import replay_files
from tasks.teachers.settings import (
    OpenAITeacherSettings,
    ReplayTeacherSettings,
    TeacherSettings,
    TransformersTeacherSettings,
    VLLMTeacherSettings,
    request_hash,
)
from tasks.teachers.teacher import Reply, Request, Teacher, failed

VERSION = "1"
COMMIT_EVERY_S = 30.0
DEFAULT_SAMPLING = {"temperature": 0.0, "max_tokens": 4096}
INSTRUCTIONS = (
    "Rewrite the question below in other words, clearly and completely. Keep its language, every number, name, symbol, "
    "condition and example, and what is asked for, so that its answer stays the same. Don't answer it. Reply with the "
    "rewritten question alone.\n\n{question}"
)
"""Ours; a change of its words is another request."""
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


class RewriteSettings(Settings):
    teacher: TeacherSettings
    """The rewriter, set up like a teacher; its samples and prompts don't count. Unset, temperature is 0 and max_tokens
    4096."""
    prompt: Prompt = Prompt(user=INSTRUCTIONS)
    """What it is told; the default asks for other words."""
    categories: tuple[str, ...] = CATEGORIES
    """Questions of these are rewritten."""
    keep_numbers: bool = True
    """Use no rewriting that lacks a number of the question."""

    def sampling(self) -> dict[str, Any]:
        return DEFAULT_SAMPLING | self.teacher.resolved_sampling("default")

    def extra_body(self) -> dict[str, Any]:
        teacher = self.teacher
        return teacher.extra_body if isinstance(teacher, (OpenAITeacherSettings, VLLMTeacherSettings)) else {}

    def identity(self) -> dict[str, Any]:
        """What the rewritings depend on."""
        source = self.teacher.columns if isinstance(self.teacher, ReplayTeacherSettings) else None
        return {"rewriter": self.teacher.name, "revision": model_revision(self.teacher), "sampling": self.sampling(),
                "extra_body": self.extra_body(), "source": source, **self.as_json(exclude={"teacher"})}  # fmt: skip


def rewrite_step(settings: RewriteSettings, base: Path, *, thinned: bool) -> Step:
    """The step `rewrite`; `base` is the recipe's folder; `thinned`: what the step `thin` drops isn't asked about."""
    teacher = settings.teacher

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        with open_teacher(teacher, base, context) as engine:
            for one in work:
                _Shard(context, step, one, settings).run(engine)

    def files(cache: Path) -> dict[str, str]:
        return replay_files(teacher, base, cache) if isinstance(teacher, ReplayTeacherSettings) else {}

    reads = ("ingest", "screen", "dedup", *(("thin",) if thinned else ()))
    return Step("rewrite", "curate", "shard", VERSION, settings.identity(), reads, run, files,
                exclusive=isinstance(teacher, (TransformersTeacherSettings, VLLMTeacherSettings)))  # fmt: skip


class _Shard:
    """The work on one shard."""

    def __init__(self, context: Context, step: Step, work: Work, settings: RewriteSettings) -> None:
        self._context, self._step, self._settings = context, step, settings
        self._transaction = context.begin(step, work)
        self._revision = model_revision(settings.teacher)
        self._version = f"{self._revision}; prompt {hash_json(settings.prompt.as_json())[:8]}"
        dropped: set[str] = set()
        if "thin" in step.reads:
            rows = context.workspace.read("thin", work.shard, "thinned", ["question_id", "rule"]).to_pylist()
            dropped = {row["question_id"] for row in rows if row["rule"]}
        self._questions = {
            row["question_id"]: row["messages"]
            for row in survivors(context.workspace, work.shard, ["messages", "category"])
            if row["split"] == "train" and row["category"] in settings.categories and row["question_id"] not in dropped
        }
        self._requests = {identity: self._request(identity) for identity in self._questions}
        self._rows: dict[str, dict[str, Any]] = {}
        base = self._transaction.base
        if base is not None and _source(base.inputs) == _source(work.inputs):
            for row in context.workspace.read(step.key, work.shard, "rewrites").to_pylist():
                request = self._requests.get(row["question_id"])
                stands = row["status"] != "infra_error" and not (work.why == ASKED_FOR and row["text"] is None)
                if request and request.response_id == row["rewrite_id"] and stands:
                    self._rows[row["question_id"]] = self._judged(row)

    def _request(self, question: str) -> Request:
        settings = self._settings
        messages, sampling = render(self._questions[question], settings.prompt), settings.sampling()
        asked = request_hash(messages, sampling, settings.extra_body())
        identity = hash_text("rewrite", question, settings.teacher.name, self._revision, asked)
        seed = int(identity[:8], 16) >> 1 if settings.teacher.seeds else None
        return Request(identity, question, 0, messages, sampling, seed)

    def run(self, engine: Teacher) -> None:
        missing = [one for identity, one in self._requests.items() if identity not in self._rows]
        self._context.progress.expect(self._step.key, len(missing))
        asked = {one.response_id: one.question_id for one in missing}
        last = time.monotonic()
        for reply in engine.generate(missing) if missing else ():
            question = asked[reply.response_id]
            self._rows[question] = self._row(question, reply)
            self._context.progress.advance(self._step.key, 1)
            if time.monotonic() - last > COMMIT_EVERY_S:
                self._commit()
                last = time.monotonic()
        for one in missing:
            if one.question_id not in self._rows:  # an engine that stopped early
                self._rows[one.question_id] = self._row(one.question_id, failed(one, "no reply came", "transient"))
        self._commit()

    def _row(self, question: str, reply: Reply) -> dict[str, Any]:
        text = (reply.answer_content or "").strip() or None
        if reply.error is not None:
            status, text = "refused" if reply.error_kind == "refused" else "infra_error", None
        elif reply.finish_reason == "length":
            status, text = "unusable", None
        else:
            status = "rewritten"
        return self._judged({
            "question_id": question, "rewrite_id": reply.response_id, "text": text, "status": status,
            "rewriter": self._settings.teacher.name, "rewriter_version": self._version, "error": reply.error,
        })  # fmt: skip

    def _judged(self, row: dict[str, Any]) -> dict[str, Any]:
        """Whether a text that came can be used; judged anew each time, since the rule is a setting."""
        if row["status"] in ("rewritten", "numbers_lost", "unusable"):
            numbers = set(NUMBER.findall(self._questions[row["question_id"]][-1]["content"]))
            lost = row["text"] is not None and not numbers <= set(NUMBER.findall(row["text"]))
            row["status"] = (
                "unusable" if row["text"] is None
                else "numbers_lost" if lost and self._settings.keep_numbers
                else "rewritten"
            )  # fmt: skip
        return row

    def _commit(self) -> None:
        """What isn't answered yet, or failed, is pending."""
        settled = sum(row["status"] != "infra_error" for row in self._rows.values())
        book = Book("question", len(self._questions), settled, {}, len(self._questions) - settled)
        rows = sorted(self._rows.values(), key=lambda row: row["question_id"])
        self._transaction.commit("rewrites", pa.Table.from_pylist(rows, schema=REWRITES), [], [book])


def _source(inputs: Inputs) -> tuple[Any, ...]:
    """Where replayed rewritings are read from."""
    return inputs.files, inputs.settings.get("source")
