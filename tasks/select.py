"""Select: which responses become training examples, each with the rule that chose it; every drop with its rule too.

`deepdistill` is Algorithm 1 of arXiv 2504.17565; `verified` keeps what passed. Held-out questions are never read for
training (law 6).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from storage.fingerprint import hash_text
from storage.manifest import Book
from storage.schemas import SELECTION
from tasks.settings import Settings
from tasks.step import Context, Step, Work

VERSION = "1"


class SelectSettings(Settings):
    method: Literal["verified", "deepdistill"] = "verified"
    pass_rate: tuple[float, float] = (0.0, 1.0)
    """Keep questions whose pass rate lies in this closed band."""
    cv_threshold: dict[str, float] = {}
    """deepdistill: CV_t by category, or `default`; unpublished, our default is 0.5."""
    keep_low_cv: float = Field(default=0.5, ge=0, le=1)
    """deepdistill: probability to keep `other` and multi-turn questions with a low CV (the paper: 0.5)."""
    max_per_question: int | None = Field(default=None, ge=1)
    """At most so many responses of one question: the best-scored, then by a hash."""

    def cv_limit(self, category: str) -> float:
        return self.cv_threshold.get(category, self.cv_threshold.get("default", 0.5))


def select_step(settings: SelectSettings, teachers: Sequence[str]) -> Step:
    reads = ("curate", "grade", *(f"verify.{teacher}" for teacher in teachers))

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            _select_shard(context, step, one, settings, teachers)

    return Step("select", "select", "shard", VERSION, settings.as_json(), reads, run)


def _select_shard(context: Context, step: Step, work: Work, settings: SelectSettings, teachers: Sequence[str]) -> None:
    workspace = context.workspace
    transaction = context.begin(step, work)
    grades = workspace.read("grade", work.shard, "grades").to_pylist()
    questions = workspace.read("curate", work.shard, "curated", ["question_id", "messages"]).to_pylist()
    turns = {row["question_id"]: sum(message["role"] == "user" for message in row["messages"]) for row in questions}
    outcomes: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for teacher in teachers:
        columns = ["response_id", "question_id", "teacher", "verifier", "verify_score", "passed", "status"]
        for row in workspace.read(f"verify.{teacher}", work.shard, "verdicts", columns).to_pylist():
            if row["verifier"] == "outcome":
                outcomes[row["question_id"]].append(row)
    chosen: list[dict[str, Any]] = []
    ledger: list[dict[str, Any]] = []
    kept = responses = 0
    for grade in grades:
        identity = grade["question_id"]
        verdict = judge_question(grade, settings, multi_turn=turns[identity] > 1)
        if not verdict.keep:
            ledger.append(context.drop(step.key, "question", identity, verdict.rule, value=verdict.value,
                                       threshold=verdict.threshold))  # fmt: skip
            continue
        kept += 1
        for row, why in choose(outcomes[identity], settings):
            responses += 1
            if why is None:
                chosen.append({
                    "question_id": identity, "response_id": row["response_id"], "teacher": row["teacher"],
                    "rule": verdict.rule, "verify_score": row["verify_score"], "pass_rate": grade["pass_rate"],
                    "cv": grade["cv"], "difficulty": grade["difficulty"],
                })  # fmt: skip
            else:
                evidence = json.dumps({"status": row["status"], "question_id": identity})
                ledger.append(context.drop(step.key, "response", row["response_id"], why, value=row["verify_score"],
                                           evidence=evidence))  # fmt: skip
    rules = Counter((entry["unit"], entry["rule"]) for entry in ledger)
    books = [
        Book("question", len(grades), kept, {rule: n for (unit, rule), n in rules.items() if unit == "question"}),
        Book("response", responses, len(chosen), {rule: n for (unit, rule), n in rules.items() if unit == "response"}),
    ]
    transaction.commit("selection", pa.Table.from_pylist(chosen, schema=SELECTION), ledger, books)


class Choice:
    """Whether a question is kept, by which rule, on what measure."""

    def __init__(self, keep: bool, rule: str, value: float | None = None, threshold: float | None = None) -> None:
        self.keep, self.rule, self.value, self.threshold = keep, rule, value, threshold


def judge_question(grade: dict[str, Any], settings: SelectSettings, *, multi_turn: bool) -> Choice:
    """The question's part of the selection.

    DeepDistill, Algorithm 1: (1) best score below the category's threshold: drop. (2) CV above CV_t: keep, with the
    responses above the threshold only. (3) otherwise drop, but keep `other` and multi-turn with probability 0.5.
    """
    if grade["split"] != "train":
        return Choice(False, "heldout")
    if grade["n"] == 0:
        return Choice(False, "ungraded")
    rate = grade["pass_rate"]
    if grade["passes"] == 0:
        return Choice(False, "unsolved", grade["best_score"])
    low, high = settings.pass_rate
    if not low <= rate <= high:
        return Choice(False, "pass_rate_band", rate, low if rate < low else high)
    if settings.method == "verified":
        return Choice(True, "verified", rate)
    limit = settings.cv_limit(grade["category"])
    if grade["cv"] is not None and grade["cv"] > limit:
        return Choice(True, "high_cv", grade["cv"], limit)
    if grade["category"] == "other" or multi_turn:
        draw = int(hash_text("keep_low_cv", grade["question_id"])[:8], 16) / 2**32
        if draw < settings.keep_low_cv:
            return Choice(True, "low_cv_kept", grade["cv"], limit)
    return Choice(False, "low_cv", grade["cv"], limit)


def choose(outcomes: Sequence[dict[str, Any]], settings: SelectSettings) -> list[tuple[dict[str, Any], str | None]]:
    """Each outcome of a kept question with the rule that drops its response, or None for a chosen one."""
    ranked = sorted(outcomes, key=lambda row: (-(row["verify_score"] or 0.0), hash_text("rank", row["response_id"])))
    found: list[tuple[dict[str, Any], str | None]] = []
    taken = 0
    for row in ranked:
        if not row["passed"]:
            found.append((row, "not_passed" if row["passed"] is False else row["status"]))
        elif settings.max_per_question is not None and taken >= settings.max_per_question:
            found.append((row, "over_max_per_question"))
        else:
            taken += 1
            found.append((row, None))
    return found
