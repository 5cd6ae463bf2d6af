"""Standards: what single grades are measured by, but only the whole data set can tell. The step `weigh`.

Two things: the weight of a teacher's vote in a category, which is its verified accuracy there, and the pass rates at
which quantile bands begin. Both come from integer counts added up over all shards, so that neither the number of
shards nor of threads changes them; both are coarse (hundredths; one of the pass rates that occur), so that a few new
questions rarely move them, and unmoved standards redo no grade (law 3).

Not covered: weights are not corrected for suspect references, and no teacher is discounted for copying another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import duckdb

from storage.fingerprint import hash_json
from storage.manifest import Book
from storage.workspace import ALL, Workspace
from tasks.grade_settings import GradeSettings
from tasks.grade_slices import batches
from tasks.step import Context, Step, Work

VERSION = "1"
UNKNOWN_WEIGHT = 50
"""hundredths; what (0 + 1) / (0 + 2) gives"""


@dataclass(frozen=True)
class Standards:
    """Weights by category and teacher, in hundredths (1..100); the pass rates that bound the bands."""

    weights: dict[tuple[str, str], int]
    hard_to: float
    """a question with a pass rate up to this is hard…"""
    easy_from: float
    """…unless its pass rate is this or more: then it is easy"""

    def as_json(self) -> dict[str, Any]:
        weights = [[category, teacher, weight] for (category, teacher), weight in sorted(self.weights.items())]
        return {"weights": weights, "hard_to": self.hard_to, "easy_from": self.easy_from}

    @staticmethod
    def from_json(kept: dict[str, Any]) -> Standards:
        weights = {(category, teacher): weight for category, teacher, weight in kept["weights"]}
        return Standards(weights, kept["hard_to"], kept["easy_from"])


def weigh_step(settings: GradeSettings, teachers: Sequence[str]) -> Step:
    """One result for the workspace: the standards, in the commit's `extra`."""
    described: dict[str, Any] = {"teachers": list(teachers), "bands": settings.bands}
    if settings.bands == "quantile":
        described |= {"hard_below": settings.hard_below, "easy_from": settings.easy_from}
    reads = ("curate", *(f"verify.{teacher}" for teacher in teachers))

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            transaction = context.begin(step, one)
            counts = _count(context, step, teachers, quantiles=settings.bands == "quantile")
            standards = counts.standards(settings, teachers)
            judged = sum(n for n, _ in counts.judged.values())
            kept = {"standards": standards.as_json()}
            transaction.commit_result([Book("response", judged, judged)], content=hash_json(kept), extra=kept)

    return Step("weigh", "grade", "one", VERSION, described, reads, run)


def committed_standards(workspace: Workspace) -> Standards:
    """What the newest commit of `weigh` says; NotCommitted if there is none."""
    return Standards.from_json(workspace.need("weigh", ALL).extra["standards"])


class Counts:
    """Integer counts that are added up over batches of shards."""

    def __init__(self) -> None:
        self.categories: set[str] = set()
        self.judged: dict[tuple[str, str], tuple[int, int]] = {}
        """(category, teacher) → judged responses, passed ones"""
        self.rates: Counter[Fraction] = Counter()
        """pass rate → questions with it; those with 0 passes are a band of their own and not counted"""

    def add(self, connection: duckdb.DuckDBPyConnection, *, quantiles: bool) -> None:
        """Count what the views `curated` and `verdicts` hold."""
        for (category,) in connection.execute("select distinct category from curated").fetchall():
            self.categories.add(category)
        for category, teacher, n, passes in connection.execute(_JUDGED).fetchall():
            before = self.judged.get((category, teacher), (0, 0))
            self.judged[category, teacher] = (before[0] + n, before[1] + passes)
        for n, passes, questions in connection.execute(_RATES).fetchall() if quantiles else ():
            self.rates[Fraction(passes, n)] += questions

    def standards(self, settings: GradeSettings, teachers: Sequence[str]) -> Standards:
        weights = {
            (category, teacher): weight(*self.judged.get((category, teacher), (0, 0)))
            for category in self.categories for teacher in teachers
        }  # fmt: skip
        if settings.bands == "pass_rate":
            return Standards(weights, settings.hard_below, settings.easy_from)
        hard_to, easy_from = (quantile(self.rates, share) for share in (settings.hard_below, settings.easy_from))
        return Standards(weights, hard_to, easy_from)


def weight(n: int, passes: int) -> int:
    """The weight of a vote in hundredths, 1..100: Laplace's rule of succession, (passes + 1) / (n + 2).

    With nothing verified it is 50 for every teacher, so that all votes are equal.
    """
    return max(1, (200 * (passes + 1) + n + 2) // (2 * (n + 2)))  # halves go up


def quantile(counts: Counter[Fraction], share: float) -> float:
    """The least pass rate that `share` (0..1) of the questions do not exceed; 1.0 where there are no questions."""
    total, seen = counts.total(), 0
    for rate, questions in sorted(counts.items()):
        seen += questions
        if seen >= share * total:
            return rate.numerator / rate.denominator
    return 1.0


def _count(context: Context, step: Step, teachers: Sequence[str], *, quantiles: bool) -> Counts:
    counts = Counts()
    for connection, _ in batches(context, step, teachers):
        counts.add(connection, quantiles=quantiles)
    return counts


_JUDGED = """
    with judged as (
        select question_id, teacher, passed
        from verdicts
        where verifier = 'outcome' and verify_score is not null
    )
    select category, teacher, count(*), count(*) filter (passed)
    from judged
    join curated using (question_id)
    group by category, teacher
"""

_RATES = """
    with rated as (
        select question_id, count(verify_score) as n, count(*) filter (passed and verify_score is not null) as passes,
            bool_or(status = 'infra_error') as incomplete
        from verdicts
        where verifier = 'outcome'
        group by question_id
    )
    select n, passes, count(*)
    from rated
    join curated using (question_id)
    where passes > 0 and not incomplete
    group by n, passes
"""
