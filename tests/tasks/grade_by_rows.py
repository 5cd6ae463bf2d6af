"""Grading row by row in plain Python: test_grade.py's second opinion, and what tests/bench/grade compares with."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from math import comb
from typing import Any

from tasks.grade import GradeSettings
from tasks.grade_standards import Standards


def grade_by_rows(question: dict[str, Any], outcomes: Sequence[dict[str, Any]], settings: GradeSettings,
                  teachers: Sequence[str], standards: Standards) -> dict[str, Any] | None:  # fmt: skip
    """The row of `grades` for a question (question_id, category, split) from its outcomes; None if it is pending."""
    if any(row["status"] == "infra_error" for row in outcomes):
        return None
    weights = {teacher: standards.weights.get((question["category"], teacher), 50) for teacher in teachers}
    elected = elect(outcomes, weights)
    judged = [row for row in outcomes if row["verify_score"] is not None]
    basis = "verifiers" if judged else "none"
    enough = elected["answers"] >= settings.suspect_answers
    if not judged and settings.vote_from is not None and enough and elected["vote_share"] >= settings.vote_from:
        basis = "vote"
        agrees = [row["answer"] == elected["majority_answer"] for row in outcomes]
        judged = [row | {"verify_score": float(a), "passed": a} for row, a in zip(outcomes, agrees, strict=True)]
    suspect = (
        basis == "verifiers" and enough and elected["vote_share"] >= settings.suspect_agreement
        and not any(row["passed"] for row in judged if row["answer"] == elected["majority_answer"])
    )  # fmt: skip
    overall = measure(judged, settings.cv_ddof)
    votes = Counter((row["answer"], row["teacher"]) for row in outcomes if row["answer"] is not None)
    listed = [
        {"answer": answer, "teacher": teacher, "votes": number, "weight": weights[teacher] / 100}
        for (answer, teacher), number in sorted(votes.items(), key=lambda one: (one[0][0], teachers.index(one[0][1])))
    ]
    return {
        **question,
        **overall,
        "best_score": max((row["verify_score"] for row in judged), default=None),
        "teachers": [
            {"teacher": teacher, "n_extra": 0, "passes_extra": 0}
            | measure([row for row in judged if row["teacher"] == teacher], settings.cv_ddof)
            for teacher in teachers
        ],
        "difficulty": band(overall["pass_rate"], standards),
        "basis": basis,
        "majority_answer": elected["majority_answer"],
        "agreement": elected["agreement"],
        "vote_share": elected["vote_share"],
        "reference_suspect": suspect,
        "votes": listed if suspect or basis == "vote" else None,
    }


def measure(judged: Sequence[dict[str, Any]], ddof: int) -> dict[str, Any]:
    scores = [row["verify_score"] for row in judged]
    n, passes = len(judged), sum(bool(row["passed"]) for row in judged)
    return {
        "n": n,
        "passes": passes,
        "pass_rate": passes / n if n else None,
        "mean_score": math.fsum(scores) / n if n else None,
        "cv": coefficient_of_variation(scores, ddof),
    } | {f"pass_at_{k}": 1 - comb(n - passes, k) / comb(n, k) if k <= n else None for k in (2, 4, 8, 16)}


def coefficient_of_variation(scores: Sequence[float], ddof: int) -> float | None:
    count = len(scores)
    if count - ddof < 1:
        return None
    mean = math.fsum(scores) / count
    if mean == 0:
        return None
    if min(scores) == max(scores):
        return 0.0
    variance = math.fsum((score - mean) ** 2 for score in scores) / (count - ddof)
    return math.sqrt(variance) / mean


def band(rate: float | None, standards: Standards) -> str:
    if rate is None:
        return "ungraded"
    if rate == 0:
        return "unsolved"
    if rate >= standards.easy_from:
        return "easy"
    return "hard" if rate <= standards.hard_to else "medium"


def elect(outcomes: Sequence[dict[str, Any]], weights: dict[str, int]) -> dict[str, Any]:
    numbers: Counter[str] = Counter()
    weighed: Counter[str] = Counter()
    for row in outcomes:
        if row["answer"] is not None:
            numbers[row["answer"]] += 1
            weighed[row["answer"]] += weights[row["teacher"]]
    if not numbers:
        return {"majority_answer": None, "agreement": None, "vote_share": None, "answers": 0}
    best = min(weighed, key=lambda answer: (-weighed[answer], answer))
    return {
        "majority_answer": best,
        "agreement": numbers[best] / numbers.total(),
        "vote_share": weighed[best] / weighed.total(),
        "answers": numbers.total(),
    }
