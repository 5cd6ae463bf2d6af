"""Provenance of a trained student's held-out answers: what it has from its teacher, and what it could say before.

The step `trace.<student>` scores the answers of `evaluate` (teacher `after` in students/<name>/eval) under teacher,
base student and trained student, and commits the table `provenance` there, as `provenance.after`; its own commit holds
the counts. A student that writes nothing but marks of its template has empty answers: they are dropped as such
(`empty_response`), and a line says how many. Not covered: resuming within the step. Held-out answers are few, so that
all their scores are in memory, and a step that was cut off scores them again; answers to benchmarks are not traced.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.fingerprint import hash_json
from storage.manifest import Book, Inputs
from storage.schemas import PROVENANCE, PROVENANCE_CLASSES
from storage.workspace import ALL, Workspace
from tasks.evaluate import EvaluateSettings, eval_folder
from tasks.provenance_classes import ProvenanceSettings, trace
from tasks.score import measure, open_scorer
from tasks.scorers.rendering import Rendered, Rendering, Unscorable
from tasks.scorers.scorer import Failure
from tasks.scorers.settings import ScorerBase, ScoreSettings, TransformersScorerSettings
from tasks.step import Context, Step, Work
from tasks.teachers.revision import resolve_revision
from tasks.train import StudentSettings, student_model

VERSION = "2"
SIDE = "after"
EMPTY = "empty_response"
ANSWERS = f"generate.{SIDE}"
TRACED = f"provenance.{SIDE}"
TRAINED = "trained"
Row = dict[str, Any]
Scored = dict[str, Any] | Unscorable | Failure


def trace_step(score: ScoreSettings, student: StudentSettings, evaluate: EvaluateSettings) -> Step:
    """The step `trace.<student>` of the stage `evaluate`; `score.provenance` must be set."""
    settings = score.provenance
    assert settings is not None
    named = {one.name: one for one in score.scorers}
    scorers = [named[settings.teacher], named[settings.student]]

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            _trace(context, step, one, settings, student.name, scorers)

    described = settings.as_json(exclude={"trained"}) | {
        "scorers": [one.asks() | {"revision": resolve_revision(one.weights(), one.revision)} for one in scorers],
        "answers": evaluate.as_json(exclude={"batch_size", "device"}),  # equal metrics may be other answers'
    }
    reads = (f"train.{student.name}", f"evaluate.{student.name}")
    return Step(f"trace.{student.name}", "evaluate", "one", VERSION, described, reads, run, exclusive=True)


def _trace(context: Context, step: Step, work: Work, settings: ProvenanceSettings, student: str,
           scorers: Sequence[ScorerBase]) -> None:  # fmt: skip
    transaction = context.begin(step, work)
    inner = Workspace.open(eval_folder(context.workspace, student))
    answers = {shard: _answers(context.workspace, inner, shard) for shard in inner.shards}
    weights = student_model(context.workspace, student)
    whole = [row for rows in answers.values() for row in rows]
    context.progress.expect(step.key, 3 * len(whole))
    models: list[dict[str, Scored]] = []
    for scorer in (*scorers, trained_scorer(str(weights), scorers[1])):
        models.append(score_answers(scorer, whole))
        context.progress.advance(step.key, len(whole))
    counts: Counter[str] = Counter()
    dropped: list[Row] = []
    for shard, rows in answers.items():
        found, own = _commit(context, step, work, inner, shard, rows, models, settings)
        for row in found:
            counts.update({name: row[name] for name in ("cut", *(f"{one}_count" for one in PROVENANCE_CLASSES))})
        counts["responses"] += len(found)
        dropped += own
    rules = dict(Counter(row["rule"] for row in dropped))
    book = Book("response", len(whole), counts["responses"], rules, len(whole) - counts["responses"] - len(dropped))
    transaction.commit_result(
        [book], content=hash_json(dict(counts)), ledger=dropped, extra={"provenance": dict(counts)}
    )


def trained_scorer(weights: str, like: ScorerBase) -> TransformersScorerSettings:
    """The scorer of the trained student's weights, with dtype, device and limits of `like` where it has them."""
    shared = ("dtype", "device", "batch_tokens", "max_tokens")
    alike = {name: value for name, value in like.model_dump().items() if name in shared}
    return TransformersScorerSettings(name=TRAINED, engine="transformers", model=weights, **alike)


def heldout_messages(workspace: Workspace, shard: str) -> dict[str, Any]:
    """question_id → messages of a shard's held-out questions."""
    curated = workspace.read("curate", shard, "curated", ["question_id", "messages", "split"])
    heldout = curated.filter(pc.field("split") == "heldout").to_pylist()
    return {row["question_id"]: row["messages"] for row in heldout}


def _answers(workspace: Workspace, inner: Workspace, shard: str) -> list[Row]:
    """The student's answers to held-out questions, with the `messages` of these.

    The table of responses also holds those of earlier settings and weights; they have no verdict any more.
    """
    messages = heldout_messages(workspace, shard)
    judged = set(inner.read(f"verify.{SIDE}", shard, "verdicts", ["response_id"]).column("response_id").to_pylist())
    columns = ["response_id", "question_id", "think_content", "answer_content", "error_kind"]
    rows = inner.read(ANSWERS, shard, "responses", columns).to_pylist()
    there = [row for row in rows if row["response_id"] in judged and row["error_kind"] is None]
    return [row | {"messages": messages[row["question_id"]]} for row in there if row["question_id"] in messages]


def score_answers(scorer: ScorerBase, rows: Sequence[Row]) -> dict[str, Scored]:
    """Of each response (by id) what a row of SCORES says of it, or why it can't be scored, for now or at all."""
    rendering = Rendering(scorer)
    rendered = rendering.render_all([(row["messages"], row["think_content"], row["answer_content"]) for row in rows])
    keys = [row["response_id"] for row in rows]
    ready = [(key, one) for key, one in zip(keys, rendered, strict=True) if isinstance(one, Rendered)]
    with open_scorer(scorer) as engine:
        found = engine.logprobs([one.ids for _, one in ready])
    scored: dict[str, Scored] = {
        key: one for key, one in zip(keys, rendered, strict=True) if isinstance(one, Unscorable)
    }
    for (key, one), logprobs in zip(ready, found, strict=True):
        scored[key] = logprobs if isinstance(logprobs, Failure) else measure(one, logprobs)
    return scored


def _commit(
    context: Context, step: Step, work: Work, inner: Workspace, shard: str, rows: Sequence[Row],
    models: Sequence[Mapping[str, Scored]], settings: ProvenanceSettings,
) -> tuple[list[Row], list[Row]]:  # fmt: skip
    """One shard of the inner table; what was traced, and what can never be."""
    traced: list[Row] = []
    dropped: list[Row] = []
    for row in rows:
        scores = [one[row["response_id"]] for one in models]
        never = [one for one in scores if isinstance(one, Unscorable)]
        measured = [one for one in scores if isinstance(one, dict)]
        if never:
            evidence = json.dumps({"rule": never[0].rule, "detail": never[0].detail}, ensure_ascii=False)
            rule = EMPTY if never[0].rule == EMPTY else "not_scorable"  # nothing written is the student's doing
            dropped.append(context.drop(step.key, "response", row["response_id"], rule, value=never[0].value,
                                        threshold=never[0].threshold, evidence=evidence))  # fmt: skip
        elif len(measured) == len(models):
            identity = {"response_id": row["response_id"], "question_id": row["question_id"], "teacher": SIDE}
            traced.append(identity | trace(measured, settings))
    inputs = Inputs(VERSION, work.inputs.settings, {ANSWERS: inner.need(ANSWERS, shard).content} | work.inputs.reads)
    rules = dict(Counter(one["rule"] for one in dropped))
    book = Book("response", len(rows), len(traced), rules, len(rows) - len(traced) - len(dropped))
    ledger = [one | {"stage": TRACED} for one in dropped]
    transaction = inner.begin(TRACED, shard, inputs, run_id=context.run_id, why=work.why)
    transaction.commit("provenance", pa.Table.from_pylist(traced, schema=PROVENANCE), ledger, [book])
    return traced, dropped


def traced_counts(workspace: Workspace, student: str) -> dict[str, int] | None:
    """Responses, sentences of each class and cut ones, of the student's held-out answers; None before they are."""
    head = workspace.head(f"trace.{student}", ALL)
    return head.extra["provenance"] if head else None


def trace_lines(workspace: Workspace, student: str) -> list[str]:
    """The committed tracing in words: sentences by class, and why answers have none. Empty before there is one."""
    head = workspace.head(f"trace.{student}", ALL)
    if head is None:
        return []
    counts, book = head.extra["provenance"], head.books[0]
    total = sum(counts.get(f"{name}_count", 0) for name in PROVENANCE_CLASSES)
    shares = ", ".join(f"{name} {counts.get(f'{name}_count', 0) / total:.0%}" for name in PROVENANCE_CLASSES if total)
    lines = [f"provenance: {total:,} sentences in {counts['responses']:,} of {book.units_in:,} held-out answers"
             + (f": {shares}" if total else "")]  # fmt: skip
    if empty := book.dropped.get(EMPTY):
        lines.append(f"provenance: {empty:,} of {book.units_in:,} answers are empty: the trained student wrote nothing "
                     "but marks of its template; train it longer, at a higher rate, or on more examples")  # fmt: skip
    if other := book.dropped.get("not_scorable"):
        lines.append(f"provenance: {other:,} answers can't be scored; the ledger of trace.{student} says why")
    return lines
