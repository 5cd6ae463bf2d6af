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
import pyarrow.compute as pc
from pydantic import Field

from storage.fingerprint import hash_text
from storage.manifest import Book
from storage.schemas import SELECTION
from tasks.scorers.limits import UNKNOWN, over_perplexity
from tasks.scorers.settings import PerplexityLimits
from tasks.settings import Settings
from tasks.step import Context, Step, Work
from tasks.verifiers.trace_limits import TraceLimits, over_corpus, over_limits

VERSION = "3"


KEPT_BY_BASIS = {"vote": "voted", "repaired": "repaired"}
"""Rule by which `verified` keeps a question whose responses are judged by the majority's answer."""


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
    trace: TraceLimits | None = TraceLimits()
    """Which traces are left out, right or not; null: none."""
    perplexity: PerplexityLimits | None = None
    """Leave out responses that a scorer finds too unlikely; null: none."""

    def cv_limit(self, category: str) -> float:
        return self.cv_threshold.get(category, self.cv_threshold.get("default", 0.5))


def select_step(settings: SelectSettings, teachers: Sequence[str], scorers: Sequence[str] = ()) -> Step:
    """The step `select`; `scorers`: those of the recipe."""
    repeats = ("repeats",) if settings.trace and settings.trace.corpus_repeats else ()
    limits = settings.perplexity
    scored = [teacher for teacher in teachers if limits and limits.limit(teacher) is not None]
    reads = (
        "curate",
        "grade",
        *repeats,
        *(f"verify.{teacher}" for teacher in teachers),
        *(f"score.{teacher}" for teacher in scored),
    )

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            _select_shard(context, step, one, settings, teachers, scorer)

    scorer = limits.scorer or scorers[0] if limits else ""
    described = settings.as_json() | ({"scorer": scorer} if limits else {})
    return Step("select", "select", "shard", VERSION, described, reads, run)


def _select_shard(
    context: Context, step: Step, work: Work, settings: SelectSettings, teachers: Sequence[str], scorer: str
) -> None:
    workspace = context.workspace
    transaction = context.begin(step, work)
    grades = workspace.read("grade", work.shard, "grades").to_pylist()
    questions = workspace.read("curate", work.shard, "curated", ["question_id", "messages"]).to_pylist()
    turns = {row["question_id"]: sum(message["role"] == "user" for message in row["messages"]) for row in questions}
    outcomes = _outcomes(context, work.shard, settings.trace, teachers)
    if settings.perplexity:
        _add_perplexities(context, work.shard, settings.perplexity, scorer, outcomes)
    chosen: list[dict[str, Any]] = []
    ledger: list[dict[str, Any]] = []
    kept = responses = waiting = waiting_responses = 0
    for grade in grades:
        identity = grade["question_id"]
        verdict = judge_question(grade, settings, multi_turn=turns[identity] > 1)
        if not verdict.keep:
            ledger.append(context.drop(step.key, "question", identity, verdict.rule, value=verdict.value,
                                       threshold=verdict.threshold))  # fmt: skip
            continue
        found = choose(on_basis(outcomes[identity], grade), settings)
        responses += len(found)
        if all(why for _, why in found) and any(why == UNKNOWN.rule for _, why in found):
            waiting += 1
        elif all(why for _, why in found):
            ledger.append(context.drop(step.key, "question", identity, "no_whole_trace"))
        else:
            kept += 1
        for row, why in found:
            if why is None:
                chosen.append({
                    "question_id": identity, "response_id": row["response_id"], "teacher": row["teacher"],
                    "rule": verdict.rule, "verify_score": row["verify_score"], "pass_rate": grade["pass_rate"],
                    "cv": grade["cv"], "difficulty": grade["difficulty"], "basis": grade["basis"],
                })  # fmt: skip
            elif why == UNKNOWN.rule:
                waiting_responses += 1
            else:
                ledger.append(_dropped(context, step, row, why))
    rules = Counter((entry["unit"], entry["rule"]) for entry in ledger)
    books = [
        Book("question", len(grades), kept, _of_unit(rules, "question"), waiting),
        Book("response", responses, len(chosen), _of_unit(rules, "response"), waiting_responses),
    ]
    transaction.commit("selection", pa.Table.from_pylist(chosen, schema=SELECTION), ledger, books)


def _of_unit(rules: Counter[tuple[str, str]], wanted: str) -> dict[str, int]:
    return {rule: number for (unit, rule), number in rules.items() if unit == wanted}


def _add_perplexities(context: Context, shard: str, limits: PerplexityLimits, scorer: str,
                      outcomes: dict[str, list[dict[str, Any]]]) -> None:  # fmt: skip
    """Put a perplexity over its limit to each outcome's `over_limits`."""
    rows = [row for found in outcomes.values() for row in found]
    for teacher in sorted({row["teacher"] for row in rows}):
        own = {row["response_id"]: row for row in rows if row["teacher"] == teacher}
        for key, finding in over_perplexity(context.workspace, shard, limits, scorer, teacher, own).items():
            own[key]["over_limits"].append(finding)


def _outcomes(context: Context, shard: str, limits: TraceLimits | None,
              teachers: Sequence[str]) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """The outcomes by question, each with `over_limits`: what its trace has too much of."""
    columns = ["response_id", "question_id", "teacher", "verifier", "verify_score", "passed", "status",
               "answer"]  # fmt: skip
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    repeats: dict[str, list[dict[str, Any]]] = defaultdict(list)
    if limits and limits.corpus_repeats:
        for row in context.workspace.read("repeats", shard, "repeats").to_pylist():
            repeats[row["teacher"]].append(row)
    for teacher in teachers:
        table = context.workspace.read(f"verify.{teacher}", shard, "verdicts", [*columns, "evidence"])
        over = {}
        if limits:
            for row in table.filter(pc.field("verifier") == "trace").to_pylist():
                over[row["response_id"]] = over_limits(json.loads(row["evidence"]), limits, teacher)
            for row in repeats[teacher]:
                over[row["response_id"]] = over.get(row["response_id"], []) + over_corpus(row, limits)
        for row in table.filter(pc.field("verifier") == "outcome").select(columns).to_pylist():
            found[row["question_id"]].append(row | {"over_limits": over.get(row["response_id"], [])})
    return found


def _dropped(context: Context, step: Step, row: dict[str, Any], why: str) -> dict[str, Any]:
    """The ledger's row of a response that is not chosen."""
    evidence: dict[str, Any] = {"status": row["status"], "question_id": row["question_id"]}
    value, threshold = row["verify_score"], None
    if row["over_limits"] and why == row["over_limits"][0].rule:
        first, *others = row["over_limits"]
        value, threshold = first.value, first.threshold
        evidence |= {"where": json.loads(first.seen), "also": [one.rule for one in others]}
    return context.drop(step.key, "response", row["response_id"], why, value=value, threshold=threshold,
                        evidence=json.dumps(evidence, ensure_ascii=False))  # fmt: skip


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
        return Choice(True, KEPT_BY_BASIS.get(grade["basis"], "verified"), rate)
    limit = settings.cv_limit(grade["category"])
    if grade["cv"] is not None and grade["cv"] > limit:
        return Choice(True, "high_cv", grade["cv"], limit)
    if grade["category"] == "other" or multi_turn:
        draw = int(hash_text("keep_low_cv", grade["question_id"])[:8], 16) / 2**32
        if draw < settings.keep_low_cv:
            return Choice(True, "low_cv_kept", grade["cv"], limit)
    return Choice(False, "low_cv", grade["cv"], limit)


def on_basis(outcomes: Sequence[dict[str, Any]], grade: dict[str, Any]) -> list[dict[str, Any]]:
    """The outcomes as the grade counted them: where the majority stands in for the reference, who agrees has passed."""
    if grade["basis"] not in KEPT_BY_BASIS:
        return list(outcomes)
    agrees = [row["answer"] == grade["majority_answer"] for row in outcomes]
    return [row | {"verify_score": float(a), "passed": a} for row, a in zip(outcomes, agrees, strict=True)]


def choose(outcomes: Sequence[dict[str, Any]], settings: SelectSettings) -> list[tuple[dict[str, Any], str | None]]:
    """Each outcome of a kept question with the rule that drops its response, or None for a chosen one."""
    ranked = sorted(outcomes, key=lambda row: (-(row["verify_score"] or 0.0), hash_text("rank", row["response_id"])))
    found: list[tuple[dict[str, Any], str | None]] = []
    taken = 0
    for row in ranked:
        if not row["passed"]:
            found.append((row, "not_passed" if row["passed"] is False else row["status"]))
        elif row.get("over_limits"):
            found.append((row, row["over_limits"][0].rule))
        elif settings.max_per_question is not None and taken >= settings.max_per_question:
            found.append((row, "over_max_per_question"))
        else:
            taken += 1
            found.append((row, None))
    return found
