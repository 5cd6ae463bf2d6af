"""The teacher-hacking watch: does the student near its teachers while it drifts from the truth (arXiv 2502.02671)?

The step `watch.<student>` takes the base model, each model that a stage kept on its way (`student.keep_checkpoints`),
and what each stage left, and measures of each the likelihood of held-out teacher text (the teachers' verified answers,
by the scorers' machinery) and the verified accuracy on the held-out questions. The proxy that rises while accuracy
falls is the sign.

Checkpoints to resume from are deleted when a training ends (tasks/student_program.py) and are no points. Costs a
scoring and an evaluation per point; off unless `evaluate.watch` is set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from storage.fingerprint import hash_json
from storage.manifest import Book
from storage.workspace import ALL, Workspace
from tasks.evaluate import EvaluateSettings, commit_questions, run_all
from tasks.evaluate_measure import outcome_pairs
from tasks.generate import generate_step
from tasks.metrics import accuracy, accuracy_interval
from tasks.provenance_student import heldout_messages, score_answers
from tasks.scorers.settings import TransformersScorerSettings
from tasks.step import Context, Step, Work
from tasks.student import KEPT, MODEL, STEP
from tasks.student_stages import StudentSettings
from tasks.train import base_model
from tasks.verifiers.settings import VerifySettings
from tasks.verify import verify_step

VERSION = "2"
Row = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """Weights to be watched: a name for people, one for the tables, the folder."""

    label: str
    name: str
    weights: str


def watch_step(settings: EvaluateSettings, student: StudentSettings, verify: VerifySettings, teachers: Sequence[str],
               *, workers: int) -> Step:  # fmt: skip
    """The step `watch.<student>` of the stage `evaluate`, by the engine transformers."""

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            _watch(context, step, one, settings, student, verify, teachers, workers)

    described = {
        "evaluate": settings.as_json(exclude={"batch_size", "device", "lm_eval"}), "verify": verify.judging(),
        "points": [*(stage.label for stage in student.all_stages()), student.keep_checkpoints],
    }  # fmt: skip
    reads = ("curate", "grade", f"train.{student.name}", f"evaluate.{student.name}",
             *(f"generate.{name}" for name in teachers), *(f"verify.{name}" for name in teachers))  # fmt: skip
    return Step(f"watch.{student.name}", "evaluate", "one", VERSION, described, reads, run, exclusive=True)


def points(workspace: Workspace, student: StudentSettings) -> list[Point]:
    """The base model, then stage by stage what it kept on its way and what it left."""
    found = [Point("base", "base", base_model(student))]
    for stage in student.all_stages():
        folder = workspace.fetch(f"students/{student.name}/{stage.label}")
        for kept in sorted((folder / KEPT).glob(f"{STEP}*")):
            number = int(kept.name.removeprefix(STEP))
            found.append(Point(f"{stage.label} {number}", f"{stage.label}-{kept.name}", str(kept)))
        if (folder / MODEL).is_dir():
            found.append(Point(stage.label, stage.label, str(folder / MODEL)))
    return found


def _watch(context: Context, step: Step, work: Work, settings: EvaluateSettings, student: StudentSettings,
           verify: VerifySettings, teachers: Sequence[str], workers: int) -> None:  # fmt: skip
    workspace = context.workspace
    transaction = context.begin(step, work)
    texts = teacher_texts(workspace, teachers, settings.watch or 0)
    inner = Workspace.create(workspace.root / "students" / student.name / "watch", bits=workspace.bits)
    for shard in inner.shards:
        curated = workspace.read("curate", shard, "curated")
        commit_questions(context, inner, shard, curated.filter(pc.field("split") == "heldout"), VERSION, {})
    watched = points(workspace, student)
    context.progress.expect(step.key, len(watched))
    rows = []
    for point in watched:
        rows.append(_measure(context, inner, point, texts, settings, verify, workers))
        context.progress.advance(step.key)
    book = Book("point", len(rows), len(rows))
    transaction.commit_result([book], content=hash_json(rows), extra={"watch": rows})


def _measure(context: Context, inner: Workspace, point: Point, texts: Sequence[Row], settings: EvaluateSettings,
             verify: VerifySettings, workers: int) -> Row:  # fmt: skip
    scorer = TransformersScorerSettings(name="watch", engine="transformers", model=point.weights)
    scored = [one for one in score_answers(scorer, texts).values() if isinstance(one, dict)]
    tokens = sum(one["tokens"] for one in scored)
    teacher = settings.asked("after", point.weights).model_copy(update={"name": point.name})
    steps = [generate_step(teacher, Path()), verify_step(verify, teacher, workers=workers)]
    run_all(replace(context, workspace=inner), steps)
    pairs = outcome_pairs(inner, point.name)
    interval = accuracy_interval(pairs) if pairs else None
    return {
        "point": point.label,
        "texts": len(scored),
        "mean_logprob": sum(one["mean_logprob"] * one["tokens"] for one in scored) / tokens if tokens else None,
        "questions": len(pairs),
        "accuracy": accuracy(pairs).value,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
    }


def teacher_texts(workspace: Workspace, teachers: Sequence[str], most: int) -> list[Row]:
    """The teachers' passed answers to held-out questions, at most so many, by id, with their questions' `messages`."""
    found: list[Row] = []
    for shard in workspace.shards:
        messages = heldout_messages(workspace, shard)
        for teacher in teachers:
            verdicts = workspace.read(f"verify.{teacher}", shard, "verdicts", ["response_id", "verifier", "passed"])
            outcomes = verdicts.filter(pc.field("verifier") == "outcome").to_pylist()
            passed = {row["response_id"] for row in outcomes if row["passed"]}
            columns = ["response_id", "question_id", "think_content", "answer_content"]
            for row in workspace.read(f"generate.{teacher}", shard, "responses", columns).to_pylist():
                if row["response_id"] in passed and row["question_id"] in messages:
                    found.append(row | {"messages": messages[row["question_id"]]})
    return sorted(found, key=lambda row: str(row["response_id"]))[:most]


def watched(workspace: Workspace, student: str) -> list[Row]:
    """The committed points in their order: point, mean_logprob (nats a token), accuracy and its interval."""
    head = workspace.head(f"watch.{student}", ALL)
    return list(head.extra["watch"]) if head else []
