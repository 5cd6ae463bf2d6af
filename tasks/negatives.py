"""Negatives: a verified and a failed trace of the same question, side by side, for REDI, DPO and KTO.

The chosen side is a response that `select` chose, so that every rule of the selection holds for it. The rejected side
is one that was judged and failed. Only real failures count: what could not be judged (`unverifiable`), what broke on
our side (`infra_error`, a comparison of ours that ran out of time) and, by default, what broke off at the token limit
say nothing about the reasoning. "Correct means that the rule and the judge say so" (REDI, arXiv 2505.24850) is
`verify.policy: rule_and_judge`: the outcome is followed here, whatever the policy.

Pairs are matched by length, since a pair whose sides differ much in length teaches length.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from storage.manifest import Book
from storage.schemas import PREFERENCE_PAIRS
from tasks.select import on_basis
from tasks.settings import Settings
from tasks.step import Context, Step, Work
from tasks.verifiers.trace import TRUNCATED

VERSION = "1"

FAILURES = ("wrong_answer", "no_answer", "wrong_format", "no_code", "runtime_error", "compile_error", "output_limit")
"""Statuses that are a statement about the response, whoever judged."""
PROGRAM_LIMITS = ("time_limit", "memory_limit")
"""The response's own fault where a program of it was run; elsewhere our comparison took too long."""


class NegativeSettings(Settings):
    max_per_question: int = Field(default=1, ge=1)
    """Pairs of one question; a response stands in one of them at most."""
    length_ratio: float | None = Field(default=3.0, ge=1)
    """The longer side's characters over the shorter one's may be so much (default ours); null: any."""
    teacher: Literal["any", "prefer", "require"] = "prefer"
    """Whether both sides are one teacher's: as it comes, where it can be had, or always."""
    truncated: bool = False
    """Count what broke off at the token limit as a failure."""


@dataclass(frozen=True)
class Trace:
    """One side of a pair; `length` is its characters, thinking and answer."""

    response_id: str
    teacher: str
    length: int
    status: str = "accepted"


@dataclass(frozen=True)
class Matched:
    """The pairs of a question, or the rule by which it has none."""

    pairs: tuple[tuple[Trace, Trace], ...]
    rule: str | None = None
    nearest: float | None = None
    """`no_match_in_length`: the least ratio of lengths that there was"""


def ratio(one: Trace, other: Trace) -> float:
    """The longer side's length over the shorter one's, 1 or more."""
    short, long = sorted((max(one.length, 1), max(other.length, 1)))
    return long / short


def match(chosen: Sequence[Trace], failed: Sequence[Trace], settings: NegativeSettings) -> Matched:
    """Pair a question's verified traces with its failed ones: nearest length first, ties by id.

    With `teacher: prefer` every pair of one teacher comes before any of two. Greedy: a response is taken once.
    """
    if not chosen:
        return Matched((), "no_success")
    if not failed:
        return Matched((), "no_failure")
    couples = [(one, other) for one in chosen for other in failed]
    if settings.teacher == "require":
        couples = [(one, other) for one, other in couples if one.teacher == other.teacher]
        if not couples:
            return Matched((), "no_match_in_teacher")
    limit = settings.length_ratio
    near = [(one, other) for one, other in couples if limit is None or ratio(one, other) <= limit]
    if not near:
        return Matched((), "no_match_in_length", min(ratio(one, other) for one, other in couples))
    near.sort(
        key=lambda pair: (
            settings.teacher == "prefer" and pair[0].teacher != pair[1].teacher,
            ratio(*pair),
            pair[0].response_id,
            pair[1].response_id,
        )
    )
    taken: set[str] = set()
    pairs: list[tuple[Trace, Trace]] = []
    for one, other in near:
        if len(pairs) < settings.max_per_question and not {one.response_id, other.response_id} & taken:
            pairs.append((one, other))
            taken |= {one.response_id, other.response_id}
    return Matched(tuple(pairs))


def set_aside(outcome: dict[str, Any], *, by_vote: bool, length: int, truncated: bool,
              settings: NegativeSettings) -> str | None:  # fmt: skip
    """Why a response that did not pass is no negative, or None if it is one.

    `outcome` is its outcome row, with `by`, the deciding verifier; `by_vote`: the majority's answer stands in for the
    reference, so that an answer of its own is wrong although no verifier could say so.
    """
    status: str = outcome["status"]
    if status == "infra_error":
        return status
    if length == 0:
        return "empty"
    if truncated and not settings.truncated:
        return "truncated"
    if by_vote:
        return None if outcome["answer"] is not None else "no_answer_to_vote"
    if status in FAILURES or (status in PROGRAM_LIMITS and outcome["by"] == "code"):
        return None
    return status


def negatives_step(settings: NegativeSettings, teachers: Sequence[str]) -> Step:
    """The step `negatives`, which makes the table `preference_pairs`."""

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            _pair_shard(context, step, one, settings, teachers)

    reads = ("grade", "select", *(f"generate.{name}" for name in teachers), *(f"verify.{name}" for name in teachers))
    return Step("negatives", "select", "shard", VERSION, settings.as_json(), reads, run)


def _pair_shard(context: Context, step: Step, work: Work, settings: NegativeSettings,
                teachers: Sequence[str]) -> None:  # fmt: skip
    transaction = context.begin(step, work)
    grades = context.workspace.read("grade", work.shard, "grades").to_pylist()
    selected: dict[str, set[str]] = defaultdict(set)
    for row in context.workspace.read("select", work.shard, "selection", ["question_id", "response_id"]).to_pylist():
        selected[row["question_id"]].add(row["response_id"])
    outcomes = _outcomes(context, work.shard, teachers)
    pairs: list[dict[str, Any]] = []
    ledger: list[dict[str, Any]] = []
    kept = 0
    for grade in grades:
        identity = grade["question_id"]
        if grade["split"] != "train":
            ledger.append(context.drop(step.key, "question", identity, "heldout"))
            continue
        chosen, failed, others = _sides(outcomes[identity], grade, selected[identity], settings)
        found = match(chosen, failed, settings)
        kept += found.rule is None
        if found.rule is not None:
            threshold = settings.length_ratio if found.rule == "no_match_in_length" else None
            evidence = json.dumps({"selected": len(chosen), "failures": len(failed), "set_aside": others})
            ledger.append(context.drop(step.key, "question", identity, found.rule, value=found.nearest,
                                       threshold=threshold, evidence=evidence))  # fmt: skip
        pairs += [_row(grade, *pair) for pair in found.pairs]
    dropped = Counter(row["rule"] for row in ledger)
    books = [Book("question", len(grades), kept, dict(dropped)), Book("pair", len(pairs), len(pairs))]
    transaction.commit("preference_pairs", pa.Table.from_pylist(pairs, schema=PREFERENCE_PAIRS), ledger, books)


def _sides(
    outcomes: Sequence[dict[str, Any]], grade: dict[str, Any], selected: set[str], settings: NegativeSettings
) -> tuple[list[Trace], list[Trace], dict[str, int]]:
    """A question's selected traces, its failed ones, and how many others there are by the reason that says so."""
    chosen: list[Trace] = []
    failed: list[Trace] = []
    others: Counter[str] = Counter()
    by_vote = grade["basis"] in ("vote", "repaired")
    for row in on_basis(outcomes, grade):
        trace = Trace(row["response_id"], row["teacher"], row["length"], row["status"])
        if row["response_id"] in selected:
            chosen.append(trace)
        elif row["passed"]:
            others["passed_not_selected"] += 1
        else:
            why = set_aside(row, by_vote=by_vote, length=row["length"], truncated=row["truncated"], settings=settings)
            if why:
                others[why] += 1
            else:
                failed.append(trace)
    return chosen, failed, dict(sorted(others.items()))


def _outcomes(context: Context, shard: str, teachers: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The outcomes by question, each with its length, whether it broke off, and `by`, the verifier that decided."""
    columns = ["response_id", "question_id", "teacher", "verifier", "verify_score", "passed", "status", "answer",
               "evidence"]  # fmt: skip
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for teacher in teachers:
        parts = ["response_id", "think_content", "answer_content", "finish_reason"]
        responses = context.workspace.read(f"generate.{teacher}", shard, "responses", parts)
        seen = {
            identity: (think + answer, broke_off)
            for identity, think, answer, broke_off in zip(
                responses["response_id"].to_pylist(),
                *(
                    pc.fill_null(pc.utf8_length(responses[part]), 0).to_pylist()
                    for part in ("think_content", "answer_content")
                ),
                pc.is_in(responses["finish_reason"], value_set=pa.array(TRUNCATED)).to_pylist(),
                strict=True,
            )
        }
        verdicts = context.workspace.read(f"verify.{teacher}", shard, "verdicts", columns)
        for row in verdicts.filter(pc.field("verifier") == "outcome").to_pylist():
            length, truncated = seen.get(row["response_id"], (0, False))
            by = json.loads(row.pop("evidence")).get("by")
            found[row["question_id"]].append(row | {"length": length, "truncated": truncated, "by": by})
    return found


def _row(grade: dict[str, Any], chosen: Trace, rejected: Trace) -> dict[str, Any]:
    return {
        "question_id": grade["question_id"], "chosen_id": chosen.response_id, "rejected_id": rejected.response_id,
        "chosen_teacher": chosen.teacher, "rejected_teacher": rejected.teacher,
        "chosen_length": chosen.length, "rejected_length": rejected.length, "length_ratio": ratio(chosen, rejected),
        "rejected_status": rejected.status, "basis": grade["basis"],
    }  # fmt: skip
