"""Grade: each question's profile over all teachers, from the outcomes of round 0.

pass_rate = passes / n (DeepDistill, arXiv 2504.17565); CV = σ/μ of the scores. The paper's formula divides by n, its
worked examples only come out with n − 1: n − 1 is the default. μ = 0 has no CV: the question is `unsolved`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from storage.manifest import Book
from storage.schemas import GRADES
from tasks.settings import Settings
from tasks.step import Context, Step, Work

VERSION = "1"


class GradeSettings(Settings):
    cv_ddof: Literal[0, 1] = 1
    """1: divide by n − 1; 0: by n, as the paper's formula is printed."""
    easy_from: float = Field(default=0.75, gt=0, le=1)
    """pass_rate from which a question is easy; the bands are ours."""
    hard_below: float = Field(default=0.25, ge=0, lt=1)
    """pass_rate up to which a question is hard; 0 passes are `unsolved`."""
    suspect_agreement: float = Field(default=0.6, gt=0, le=1)
    """Share of equal answers, other than the reference, from which the reference is suspect."""
    suspect_answers: int = Field(default=3, ge=2)
    """At least so many answers must be there for that."""

    @model_validator(mode="after")
    def _bands(self) -> GradeSettings:
        if self.hard_below >= self.easy_from:
            raise ValueError(f"hard_below ({self.hard_below}) must lie below easy_from ({self.easy_from})")
        return self


def grade_step(settings: GradeSettings, teachers: Sequence[str]) -> Step:
    verified = tuple(f"verify.{teacher}" for teacher in teachers)

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            _grade_shard(context, step, one, settings, teachers)

    return Step("grade", "grade", "shard", VERSION, settings.as_json() | {"teachers": list(teachers)},
                ("curate", *verified), run)  # fmt: skip


def _grade_shard(context: Context, step: Step, work: Work, settings: GradeSettings, teachers: Sequence[str]) -> None:
    workspace = context.workspace
    transaction = context.begin(step, work)
    questions = workspace.read("curate", work.shard, "curated", ["question_id", "category", "split"]).to_pylist()
    outcomes: dict[str, list[dict[str, Any]]] = defaultdict(list)
    columns = ["response_id", "question_id", "teacher", "verifier", "verify_score", "passed", "status", "answer"]
    incomplete: set[str] = set()
    for teacher in teachers:
        for row in workspace.read(f"verify.{teacher}", work.shard, "verdicts", columns).to_pylist():
            if row["verifier"] == "outcome":
                outcomes[row["question_id"]].append(row)
                if row["status"] == "infra_error":
                    incomplete.add(row["question_id"])
    context.progress.expect(step.key, len(questions))
    rows = [
        grade(question, outcomes[question["question_id"]], settings, teachers)
        for question in questions if question["question_id"] not in incomplete
    ]  # fmt: skip
    book = Book("question", len(questions), len(rows), {}, len(questions) - len(rows))
    transaction.commit("grades", pa.Table.from_pylist(rows, schema=GRADES), [], [book])
    context.progress.advance(step.key, len(questions))


def grade(question: dict[str, Any], outcomes: Sequence[dict[str, Any]], settings: GradeSettings,
          teachers: Sequence[str]) -> dict[str, Any]:  # fmt: skip
    """The grade of one question (question_id, category, split) from its outcome rows of round 0."""
    judged = [row for row in outcomes if row["verify_score"] is not None]
    scores = [row["verify_score"] for row in judged]
    passes = sum(bool(row["passed"]) for row in judged)
    rate = passes / len(judged) if judged else None
    majority, agreement, suspect = _majority(judged, settings)
    return {
        **question,
        "teachers": [_teacher_grade(teacher, judged, settings.cv_ddof) for teacher in teachers],
        "n": len(judged),
        "passes": passes,
        "pass_rate": rate,
        "mean_score": _mean(scores),
        "cv": coefficient_of_variation(scores, settings.cv_ddof),
        "best_score": max(scores, default=None),
        "difficulty": _difficulty(rate, settings),
        "majority_answer": majority,
        "agreement": agreement,
        "reference_suspect": suspect,
    }


def coefficient_of_variation(scores: Sequence[float], ddof: int = 1) -> float | None:
    """σ/μ of scores in 0..1, σ with n − ddof; None where μ is 0 or n − ddof < 1. Always ≥ 0."""
    count = len(scores)
    if count - ddof < 1:
        return None
    mean = math.fsum(scores) / count
    if mean == 0:
        return None
    if min(scores) == max(scores):
        return 0.0  # exactly, whatever rounding does to the mean
    variance = math.fsum((score - mean) ** 2 for score in scores) / (count - ddof)
    return math.sqrt(variance) / mean


def _mean(scores: Sequence[float]) -> float | None:
    return math.fsum(scores) / len(scores) if scores else None


def _teacher_grade(teacher: str, judged: Sequence[dict[str, Any]], ddof: int) -> dict[str, Any]:
    own = [row for row in judged if row["teacher"] == teacher]
    scores = [row["verify_score"] for row in own]
    passes = sum(bool(row["passed"]) for row in own)
    return {
        "teacher": teacher, "n": len(own), "passes": passes, "pass_rate": passes / len(own) if own else None,
        "mean_score": _mean(scores), "cv": coefficient_of_variation(scores, ddof), "n_extra": 0, "passes_extra": 0,
    }  # fmt: skip


def _difficulty(rate: float | None, settings: GradeSettings) -> str:
    if rate is None:
        return "ungraded"
    if rate == 0:
        return "unsolved"
    if rate >= settings.easy_from:
        return "easy"
    return "hard" if rate <= settings.hard_below else "medium"


def _majority(judged: Sequence[dict[str, Any]], settings: GradeSettings) -> tuple[str | None, float | None, bool]:
    """The commonest answer, its share, and whether it speaks against the reference (AM-Thinking-v1)."""
    answers = [row["answer"] for row in judged if row["answer"] is not None]
    if not answers:
        return None, None, False
    counts = Counter(answers)
    answer, number = min(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    share = number / len(answers)
    passed = any(row["passed"] for row in judged if row["answer"] == answer)
    suspect = not passed and share >= settings.suspect_agreement and len(answers) >= settings.suspect_answers
    return answer, share, suspect
