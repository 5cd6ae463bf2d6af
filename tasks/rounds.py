"""Rounds: which questions get further samples of a teacher, from what is judged so far. `until` in the recipe.

`verified`: until one sample is verified ("Not All Correct Answers Are Equal", arXiv 2505.14464). `settled`: until the
band of the pass rate is decided: its Clopper-Pearson interval (Biometrika 26, 1934) lies within one of the bands that
grading draws. Both stop at a cap. Round r >= 1 has the samples k + (r - 1)s up to k + rs, k being those of round 0; a
question is in it if all its earlier samples are judged and it isn't done. The plan is a function of the committed
verdicts, so that a run that was killed goes on as if it had not been.

Pass rates, CV and difficulty come from round 0 alone (law 4), under `settled` too: a rate of samples that ended when
it looked decided leans to the extremes, and is no match for one of a fixed number.

Not covered: the interval is taken after each round at the full confidence, as if it were the only look.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import pyarrow.compute as pc

from storage.workspace import Workspace
from tasks.grade_settings import GradeSettings
from tasks.plan import ROUNDS, Planned, planned
from tasks.teachers.settings import TeacherBase


class Fate(Enum):
    """What became of a planned sample."""

    PASSED = "passed"
    FAILED = "failed"
    UNVERIFIABLE = "unverifiable"
    REFUSED = "refused"
    """the request was refused for good, so that there is no response"""
    WAITING = "waiting"
    """not asked, not answered or not judged yet; or we failed to (infra_error)"""


Done = Literal["verified", "settled", "unverifiable", "refused", "capped", "waiting"]
Fates = Mapping[str, Mapping[int, Fate]]
"""question_id → sample_index → fate"""


@dataclass(frozen=True)
class Rule:
    """When a teacher's questions get further samples."""

    until: Literal["verified", "settled"]
    samples: int
    """of round 0"""
    each: int
    """samples of a later round"""
    cap: int
    """of all rounds together"""
    confidence: float
    hard_below: float
    easy_from: float

    def as_json(self) -> dict[str, Any]:
        """What the plan depends on."""
        described: dict[str, Any] = {"until": self.until, "samples_per_round": self.each, "max_samples": self.cap}
        if self.until == "settled":
            described |= {"confidence": self.confidence, "hard_below": self.hard_below, "easy_from": self.easy_from}
        return described

    def planned(self, fates: Mapping[int, Fate]) -> tuple[int, Done]:
        """How many samples of a question are planned, round 0 included, and why no more."""
        number = self.samples
        while True:
            known = [fates.get(index, Fate.WAITING) for index in range(number)]
            if Fate.WAITING in known:
                return number, "waiting"
            if done := self._done(known):
                return number, done
            if number >= self.cap:
                return number, "capped"
            number = min(self.cap, number + self.each)

    def _done(self, known: Sequence[Fate]) -> Done | None:
        passes, n = known.count(Fate.PASSED), known.count(Fate.PASSED) + known.count(Fate.FAILED)
        if not n:  # the same question would be refused, or be beyond our verifiers, once more
            return "unverifiable" if Fate.UNVERIFIABLE in known else "refused"
        if self.until == "verified":
            return "verified" if passes else None
        low, high = interval(passes, n, self.confidence)
        decided = high <= self.hard_below or low >= self.easy_from or (low > self.hard_below and high < self.easy_from)
        return "settled" if decided else None


def interval(passes: int, n: int, confidence: float) -> tuple[float, float]:
    """Clopper-Pearson: a share of at least `confidence` of such intervals holds the true rate. `n` is 1 or more."""
    from scipy.stats import beta  # seconds

    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, passes, n - passes + 1)) if passes else 0.0
    high = float(beta.ppf(1 - tail, passes + 1, n - passes)) if passes < n else 1.0
    return low, high


def rule(teacher: TeacherBase, grading: GradeSettings) -> Rule | None:
    """A teacher's rule; None if it is sampled once."""
    if teacher.until is None:
        return None
    return Rule(teacher.until, teacher.samples, teacher.samples_per_round, teacher.max_samples, teacher.confidence,
                grading.hard_below, grading.easy_from)  # fmt: skip


def fate(outcome: Mapping[str, Any]) -> Fate:
    """Of an `outcome` row of the verdicts."""
    if outcome["status"] == "infra_error":
        return Fate.WAITING
    if outcome["passed"] is None:
        return Fate.UNVERIFIABLE
    return Fate.PASSED if outcome["passed"] else Fate.FAILED


def committed_fates(workspace: Workspace, shard: str, teacher: TeacherBase) -> dict[str, dict[int, Fate]]:
    """What the newest verdicts of all rounds say; a sample that they don't name is not judged yet."""
    found = _of_step(workspace, f"verify.{teacher.name}", shard)
    refused: dict[str, int] = {}
    for evidence in _refusals(workspace, f"verify.{teacher.name}", shard):
        refused[evidence["question_id"]] = refused.get(evidence["question_id"], 0) + 1
    for question, number in refused.items():  # round 0's don't say which sample they were: any that isn't there
        own = found.setdefault(question, {})
        absent = [index for index in range(teacher.samples) if index not in own]
        own.update(dict.fromkeys(absent[:number], Fate.REFUSED))
    later = f"verify.{teacher.name}{ROUNDS}"
    if workspace.head(later, shard) is not None:
        for question, fates in _of_step(workspace, later, shard).items():
            found.setdefault(question, {}).update(fates)
        for evidence in _refusals(workspace, later, shard):
            found.setdefault(evidence["question_id"], {})[evidence["sample_index"]] = Fate.REFUSED
    return found


def _of_step(workspace: Workspace, step: str, shard: str) -> dict[str, dict[int, Fate]]:
    columns = ["question_id", "sample_index", "verifier", "status", "passed"]
    found: dict[str, dict[int, Fate]] = {}
    rows = workspace.read(step, shard, "verdicts", columns).filter(pc.field("verifier") == "outcome")
    for row in rows.to_pylist():
        found.setdefault(row["question_id"], {})[row["sample_index"]] = fate(row)
    return found


def _refusals(workspace: Workspace, step: str, shard: str) -> Iterable[dict[str, Any]]:
    return (json.loads(row["evidence"]) for row in workspace.ledger(step, shard).to_pylist())


def planned_later(workspace: Workspace, shard: str, questions: Sequence[dict[str, Any]], teacher: TeacherBase,
                  revision: str, rule: Rule) -> Iterator[Planned]:  # fmt: skip
    """The requests that the later rounds mean for a shard by now; `questions`: its curated ones."""
    wanted, _ = later_samples(questions, teacher, rule, committed_fates(workspace, shard, teacher))
    return planned(questions, teacher, revision, wanted)


def later_samples(questions: Iterable[dict[str, Any]], teacher: TeacherBase, rule: Rule,
                  fates: Fates) -> tuple[dict[str, range], dict[Done, int]]:  # fmt: skip
    """The samples that the later rounds mean, by question; and how many of the teacher's questions are done, and
    how. `questions` need question_id and category."""
    wanted: dict[str, range] = {}
    counts: dict[Done, int] = {}
    for question in questions:
        if teacher.categories is not None and question["category"] not in teacher.categories:
            continue
        number, done = rule.planned(fates.get(question["question_id"], {}))
        counts[done] = counts.get(done, 0) + 1
        if number > teacher.samples:
            wanted[question["question_id"]] = range(teacher.samples, number)
    return wanted, counts
