"""The numbers of an evaluation: each side's accuracy, pass@k, majority@k and lengths, and what training changed.

A side is a teacher of the inner workspace (`before`, `after`, and `before_greedy`, `after_greedy` where both ways of
asking are measured). Groups are all held-out questions, categories, difficulties (the teachers' grade), benchmarks.

Not covered: majority@k of a category whose answers have no canonical form, such as code; it is left out there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow.compute as pc

from storage.workspace import Workspace
from tasks.metrics import accuracy, accuracy_interval, capability, majority_passes, paired_difference

KS = (1, 2, 4, 8, 16, 32, 64)
Row = dict[str, Any]
Pair = tuple[int, int]
Votes = dict[str, dict[str, list[tuple[str | None, bool]]]]
"""side → question → (canonical answer, passed) of each judged sample"""


def measure(
    workspace: Workspace, inner: Workspace, samples: int, sides: Sequence[str], heldout: set[str],
    benchmarks: Mapping[str, set[str]], *, pairs: Sequence[tuple[str, str]],
) -> Row:  # fmt: skip
    """All numbers of an evaluation. `heldout`, `benchmarks`: ids of their questions; `pairs`: sides to compare."""
    difficulty: dict[str, str] = {}
    graded: list[Row] = []
    taught: dict[str, Row] = {}
    for shard in inner.shards:
        graded += inner.read("grade", shard, "grades").to_pylist()
        rows = workspace.read("grade", shard, "grades", ["question_id", "category", "difficulty", "teachers"])
        for row in rows.to_pylist():
            if row["question_id"] in heldout:
                difficulty[row["question_id"]] = row["difficulty"]
                taught[row["question_id"]] = row
    votes = {side: _votes(inner, side) for side in sides}
    lengths = {side: _lengths(inner, side) for side in sides}
    ks = [k for k in KS if k <= samples]

    def group(rows: Sequence[Row]) -> Row:
        return _group(rows, sides, ks, votes, lengths, pairs)

    own = [row for row in graded if row["question_id"] in heldout]
    own_taught = list(taught.values())
    return {
        "questions": len(own),
        "samples": samples,
        "all": group(own),
        "by_category": _by(own, lambda row: row["category"], group),
        "by_difficulty": _by(own, lambda row: difficulty.get(row["question_id"], "ungraded"), group),
        "teachers": _teachers(own_taught, KS),
        "benchmarks": {
            name: group([row for row in graded if row["question_id"] in ids]) for name, ids in benchmarks.items()
        },
        "rates": {side: {row["question_id"]: list(pair) for row, pair in _pairs(graded, side)} for side in sides},
    }


def _by(rows: Sequence[Row], key: Callable[[Row], str], group: Callable[[Sequence[Row]], Row]) -> Row:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return {name: group(found) for name, found in sorted(groups.items())}


def _pairs(rows: Sequence[Row], side: str) -> list[tuple[Row, Pair]]:
    """(question, (n, passes)) of those with a judged sample."""
    found = [(row, grade) for row in rows for grade in row["teachers"] if grade["teacher"] == side and grade["n"]]
    return [(row, (grade["n"], grade["passes"])) for row, grade in found]


def _group(rows: Sequence[Row], sides: Sequence[str], ks: Sequence[int], votes: Mapping[str, Any],
           lengths: Mapping[str, Mapping[str, Any]], pairs: Sequence[tuple[str, str]]) -> Row:  # fmt: skip
    found: Row = {}
    judged = {side: _pairs(rows, side) for side in sides}
    for side in sides:
        found[side] = _side([pair for _, pair in judged[side]], ks)
        if not judged[side]:
            continue
        asked = [row for row, (n, _) in judged[side] if n > 1 and row["category"] in votes[side]["categories"]]
        if asked:
            right = [majority_passes(votes[side]["samples"][row["question_id"]]) for row in asked]
            found[side] |= {"majority": sum(right) / len(right), "majority_questions": len(right)}
        tokens = [number for row in rows for number in lengths[side].get(row["question_id"], ())]
        if tokens:
            found[side]["tokens"] = sum(tokens) / len(tokens)
    for before, after in pairs:
        one, other = ({row["question_id"]: pair for row, pair in judged[side]} for side in (before, after))
        apart = paired_difference([(one[key], other[key]) for key in sorted(one.keys() & other.keys())])
        if apart is not None:
            found["difference" if after == "after" else f"difference_{after}"] = asdict(apart)
    return found


def _side(passes: Sequence[Pair], ks: Sequence[int]) -> Row:
    if not passes:
        return {"questions": 0}
    interval = accuracy_interval(passes)
    return {
        "questions": len(passes), "accuracy": accuracy(passes).value, "low": interval.low, "high": interval.high,
    } | {f"pass@{k}": capability(passes, k).value for k in ks if all(n >= k for n, _ in passes)}  # fmt: skip


def _teachers(rows: Sequence[Row], ks: Sequence[int]) -> Row:
    """Each teacher's round 0 on the same held-out questions, as the grades have it."""
    names = sorted({grade["teacher"] for row in rows for grade in row["teachers"]})
    return {name: _side([pair for _, pair in _pairs(rows, name)], ks) for name in names}


def _votes(inner: Workspace, side: str) -> Row:
    """`samples`: (answer, passed) by question; `categories`: those in which an answer has a canonical form."""
    samples: dict[str, list[tuple[str | None, bool]]] = defaultdict(list)
    answered: set[str] = set()
    categories: dict[str, str] = {}
    for shard in inner.shards:
        curated = inner.read("curate", shard, "curated", ["question_id", "category"]).to_pylist()
        categories |= {row["question_id"]: row["category"] for row in curated}
        columns = ["question_id", "verifier", "verify_score", "passed", "answer"]
        table = inner.read(f"verify.{side}", shard, "verdicts", columns)
        for row in table.filter(pc.field("verifier") == "outcome").to_pylist():
            if row["verify_score"] is not None:
                samples[row["question_id"]].append((row["answer"], bool(row["passed"])))
                if row["answer"] is not None:
                    answered.add(row["question_id"])
    return {"samples": samples, "categories": {categories[key] for key in answered if key in categories}}


def _lengths(inner: Workspace, side: str) -> dict[str, list[int]]:
    """Tokens of the judged answers, thinking included, by question; empty where the engine counts none.

    The table of responses also holds those of earlier settings and weights; they have no verdict any more.
    """
    found: dict[str, list[int]] = defaultdict(list)
    for shard in inner.shards:
        verdicts = inner.read(f"verify.{side}", shard, "verdicts", ["response_id"]).to_pylist()
        judged = {row["response_id"] for row in verdicts}
        columns = ["response_id", "question_id", "completion_tokens", "error_kind"]
        for row in inner.read(f"generate.{side}", shard, "responses", columns).to_pylist():
            if row["response_id"] in judged and row["error_kind"] is None and row["completion_tokens"] is not None:
                found[row["question_id"]].append(row["completion_tokens"])
    return found


def outcome_pairs(inner: Workspace, side: str) -> list[Pair]:
    """(n, passes) of each question that a side has a judged outcome for, straight from its verdicts."""
    samples = _votes(inner, side)["samples"]
    return [(len(judged), sum(passed for _, passed in judged)) for _, judged in sorted(samples.items())]
