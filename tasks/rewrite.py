"""Rewrite: a model puts a question into other words or another form before the teachers are asked.

Optional; asked are the train questions that would be curated. The question keeps its id, its place and its means of
verification; `curated` holds the new text of the last user message and, in `metadata`, the old one. A request that
fails is pending: the question waits, and the next run asks again (law 5). A rewriting that loses a number of the
question, or is none, is on record and not used. Not covered: whether the new words mean the same; duplicates and
benchmarks are looked for in the old ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import model_validator

from storage.fingerprint import hash_json
from storage.schemas import CATEGORIES
from tasks.asked import AskedShard, asking_step, refuse_rounds, request_about
from tasks.label import survivors
from tasks.plan import model_revision
from tasks.settings import CategoryName, Settings
from tasks.step import ASKED_FOR, Context, Step, Work
from tasks.teachers.prompts import Prompt, render
from tasks.teachers.settings import ReplayTeacherSettings, TeacherSettings
from tasks.teachers.teacher import Reply, Request, Teacher, failed

VERSION = "1"
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
    categories: tuple[CategoryName, ...] = CATEGORIES
    """Questions of these are rewritten."""
    keep_numbers: bool = True
    """Use no rewriting that lacks a number of the question."""

    @model_validator(mode="after")
    def _asked_once(self) -> RewriteSettings:
        refuse_rounds(self.teacher, "rewriter")
        return self

    def sampling(self) -> dict[str, Any]:
        return DEFAULT_SAMPLING | self.teacher.resolved_sampling("default")

    def identity(self) -> dict[str, Any]:
        """What the rewritings depend on."""
        source = self.teacher.columns if isinstance(self.teacher, ReplayTeacherSettings) else None
        return {"rewriter": self.teacher.name, "revision": model_revision(self.teacher), "source": source,
                "sampling": self.sampling(), "extra_body": self.teacher.further_fields,
                **self.as_json(exclude={"teacher"})}  # fmt: skip


def rewrite_step(settings: RewriteSettings, base: Path, *, thinned: bool) -> Step:
    """The step `rewrite`; `base` is the recipe's folder; `thinned`: what the step `thin` drops isn't asked about."""

    def begin(engine: Teacher) -> Callable[[Context, Step, Work], None]:
        return partial(_rewrite_shard, settings, engine)

    reads = ("ingest", "screen", "dedup", *(("thin",) if thinned else ()))
    return asking_step("rewrite", VERSION, settings.identity(), reads, settings.teacher, base, begin)


def _rewrite_shard(settings: RewriteSettings, engine: Teacher, context: Context, step: Step, work: Work) -> None:
    shard = AskedShard(context, step, work, "rewrites", "rewrite_id")
    teacher, revision, sampling = settings.teacher, model_revision(settings.teacher), settings.sampling()
    version = f"{revision}; prompt {hash_json(settings.prompt.as_json())[:8]}"
    questions = _questions(context, step, work, settings.categories)
    requests = {
        identity: request_about("rewrite", identity, render(messages, settings.prompt), sampling, teacher, revision)
        for identity, messages in questions.items()
    }

    def judged(row: dict[str, Any]) -> dict[str, Any]:
        """Whether a text that came can be used; judged anew each time, since the rule is a setting."""
        if row["status"] in ("rewritten", "numbers_lost", "unusable"):
            lost = row["text"] is not None and _loses_numbers(questions[row["question_id"]][-1]["content"], row["text"])
            row["status"] = (
                "unusable" if row["text"] is None
                else "numbers_lost" if lost and settings.keep_numbers
                else "rewritten"
            )  # fmt: skip
        return row

    def keep(row: dict[str, Any]) -> dict[str, Any] | None:
        again = row["status"] == "infra_error" or (work.why == ASKED_FOR and row["text"] is None)
        return None if again else judged(row)

    def answered(question: str, reply: Reply) -> dict[str, Any]:
        text = (reply.answer_content or "").strip() or None
        if reply.error is not None:
            status, text = "refused" if reply.error_kind == "refused" else "infra_error", None
        elif reply.finish_reason == "length":
            status, text = "unusable", None
        else:
            status = "rewritten"
        return judged({
            "question_id": question, "rewrite_id": reply.response_id, "text": text, "status": status,
            "rewriter": teacher.name, "rewriter_version": version, "error": reply.error,
        })  # fmt: skip

    shard.run(requests, keep, partial(_all_replies, engine), answered)


def _questions(context: Context, step: Step, work: Work, categories: Sequence[str]) -> dict[str, list[dict[str, str]]]:
    """The messages of the train questions that would be curated, by id."""
    dropped: set[str] = set()
    if "thin" in step.reads:
        rows = context.workspace.read("thin", work.shard, "thinned", ["question_id", "rule"]).to_pylist()
        dropped = {row["question_id"] for row in rows if row["rule"]}
    return {
        row["question_id"]: row["messages"]
        for row in survivors(context.workspace, work.shard, ["messages", "category"])
        if row["split"] == "train" and row["category"] in categories and row["question_id"] not in dropped
    }


def _all_replies(engine: Teacher, requests: Sequence[Request]) -> Iterator[Reply]:
    """One reply a request, also of an engine that stopped early."""
    silent = {one.response_id: one for one in requests}
    for reply in engine.generate(requests):
        del silent[reply.response_id]
        yield reply
    for one in silent.values():
        yield failed(one, "no reply came", "transient")


def _loses_numbers(question: str, text: str) -> bool:
    return not set(NUMBER.findall(question)) <= set(NUMBER.findall(text))
