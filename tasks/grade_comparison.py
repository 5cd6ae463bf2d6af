"""The step `compare`: the teachers side by side, one row of `comparison` for each category and teacher.

Pass rates with their intervals (which teacher for which category), lengths and perplexities as quantiles, and how
often two teachers give the same answer. All from integer histograms added up over batches of shards, so that memory
follows the number of different values, not of responses, and nothing depends on shards or threads.

Not covered: lengths of teachers that count no tokens (the report has their characters); perplexity is the teacher's
own, from `mean_logprob`, where its engine gives one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import sqrt
from typing import Any

import duckdb
import pyarrow as pa

from storage.manifest import Book
from storage.schemas import COMPARISON
from tasks.grade_slices import batches, view_steps
from tasks.grade_standards import Standards, committed_standards
from tasks.metrics import Z_95, Interval, wilson_interval
from tasks.step import Context, Step, Work

VERSION = "1"
SHARES = {"p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}

Key = tuple[str, str]
"""category, teacher"""


def compare_step(teachers: Sequence[str]) -> Step:
    """One result for the workspace: the table `comparison`."""
    stages = [f"{stage}.{teacher}" for stage in ("generate", "verify") for teacher in teachers]

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            transaction = context.begin(step, one)
            histograms = _gather(context, step, teachers)
            rows = histograms.rows(committed_standards(context.workspace), teachers)
            book = Book("teacher", len(rows), len(rows))
            transaction.commit("comparison", pa.Table.from_pylist(rows, schema=COMPARISON), [], [book])

    described = {"teachers": list(teachers)}
    return Step("compare", "grade", "one", VERSION, described, ("curate", "weigh", *stages), run)


@dataclass
class Histograms:
    """Counts by category and teacher."""

    rates: dict[Key, Counter[tuple[int, int]]] = field(default_factory=lambda: defaultdict(Counter))
    """(judged, passed) responses of a question → questions"""
    tokens: dict[Key, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """tokens of a response → responses"""
    perplexities: dict[Key, Counter[float]] = field(default_factory=lambda: defaultdict(Counter))
    """perplexity in hundredths → responses"""
    equal: dict[tuple[Key, str], Counter[tuple[int, int]]] = field(default_factory=lambda: defaultdict(Counter))
    """with another teacher: (pairs of answers, equal pairs) of a question → questions"""

    def add(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Count what the views `curated`, `verdicts` and `responses` hold."""
        for category, teacher, n, passes, questions in connection.execute(_RATES).fetchall():
            self.rates[category, teacher][n, passes] += questions
        connection.execute(_LENGTHS)
        for category, teacher, tokens, responses in connection.execute(_TOKENS).fetchall():
            self.tokens[category, teacher][tokens] += responses
        for category, teacher, hundredths, responses in connection.execute(_PERPLEXITIES).fetchall():
            self.perplexities[category, teacher][hundredths / 100] += responses
        for category, teacher, other, pairs, equal, questions in connection.execute(_AGREEMENTS).fetchall():
            self.equal[(category, teacher), other][pairs, equal] += questions

    def rows(self, standards: Standards, teachers: Sequence[str]) -> list[dict[str, Any]]:
        """Rows of COMPARISON for every category and teacher of the standards."""
        accuracies = {key: _accuracy(self.rates[key]) for key in standards.weights}
        return [
            {
                "category": category,
                "teacher": teacher,
                "questions": self.rates[category, teacher].total(),
                "n": sum(n * number for (n, _), number in self.rates[category, teacher].items()),
                "passes": sum(passes * number for (_, passes), number in self.rates[category, teacher].items()),
                "pass_rate": _float(accuracies[category, teacher]),
                **_interval(self.rates[category, teacher]),
                "rank": _rank(accuracies, category, teacher),
                "weight": weight / 100,
                "tokens": _quantiles(self.tokens[category, teacher]),
                "perplexity": _quantiles(self.perplexities[category, teacher]),
                "agreement": [_agreement(other, self.equal[(category, teacher), other]) for other in teachers],
            }
            for (category, teacher), weight in standards.weights.items()
        ]


def _gather(context: Context, step: Step, teachers: Sequence[str]) -> Histograms:
    histograms = Histograms()
    answered = [f"generate.{teacher}" for teacher in teachers]
    for connection, shards in batches(context, step, teachers):
        view_steps(connection, context.workspace, "responses", answered, shards)
        histograms.add(connection)
    return histograms


def _accuracy(rates: Counter[tuple[int, int]]) -> Fraction | None:
    """Mean over questions of passes / n (arXiv 2505.14216)."""
    total = sum((Fraction(passes, n) * number for (n, passes), number in rates.items()), Fraction())
    return total / rates.total() if rates else None


def _interval(rates: Counter[tuple[int, int]]) -> dict[str, float | None]:
    """95 % interval of the accuracy, over questions, since samples of one question depend on each other.

    Normal, from the variance between questions; Wilson's where one sample a question, or equal rates, leave none.
    """
    mean, questions = _accuracy(rates), rates.total()
    if mean is None:
        return {"low": None, "high": None}
    spread = sum(((Fraction(passes, n) - mean) ** 2 * number for (n, passes), number in rates.items()), Fraction())
    if spread == 0 or all(n == 1 for n, _ in rates):
        found = wilson_interval(float(mean * questions), questions)
    else:
        half = Z_95 * sqrt(spread / (questions * (questions - 1)))
        found = Interval(max(0.0, float(mean) - half), min(1.0, float(mean) + half), "normal")
    return {"low": found.low, "high": found.high}


def _rank(accuracies: dict[Key, Fraction | None], category: str, teacher: str) -> int | None:
    """1 for the teacher with the highest accuracy of the category; equal ones share a rank."""
    own = accuracies[category, teacher]
    if own is None:
        return None
    return 1 + sum(value is not None and value > own for (place, _), value in accuracies.items() if place == category)


def _agreement(other: str, equal: Counter[tuple[int, int]]) -> dict[str, Any]:
    """Mean over questions of the share of equal pairs of answers."""
    total = sum((Fraction(same, pairs) * number for (pairs, same), number in equal.items()), Fraction())
    return {"other": other, "questions": equal.total(), "equal": _float(total / equal.total()) if equal else None}


def _quantiles(counts: Counter[Any]) -> dict[str, Any] | None:
    """For each share the least value that so many responses do not exceed; None without responses."""
    return {name: _quantile(sorted(counts.items()), share) for name, share in SHARES.items()} if counts else None


def _quantile(counted: Iterable[tuple[Any, int]], share: float) -> Any:
    pairs = list(counted)
    total, seen = sum(number for _, number in pairs), 0
    for value, number in pairs:
        seen += number
        if seen >= share * total:
            return value
    return pairs[-1][0]


def _float(value: Fraction | None) -> float | None:
    return None if value is None else float(value)


_RATES = """
    with rated as (
        select question_id, teacher, count(*) as n, count(*) filter (passed) as passes
        from verdicts
        where verifier = 'outcome' and verify_score is not null
        group by question_id, teacher
    )
    select category, teacher, n, passes, count(*)
    from rated
    join curated using (question_id)
    group by all
"""

# Only responses with an outcome are meant by the plan (law 4).
_LENGTHS = """
    create or replace temp table lengths as
    with planned as (
        select response_id
        from verdicts
        where verifier = 'outcome'
    )
    select category, teacher, completion_tokens as tokens,
        if(mean_logprob is null, null, round(100 * exp(least(-mean_logprob, 30)))::bigint) as hundredths,
        count(*) as responses
    from responses
    semi join planned using (response_id)
    join curated using (question_id)
    where error_kind is null
    group by all
"""

_TOKENS = """
    select category, teacher, tokens, sum(responses)::bigint
    from lengths
    where tokens is not null
    group by all
"""

_PERPLEXITIES = """
    select category, teacher, hundredths, sum(responses)::bigint
    from lengths
    where hundredths is not null
    group by all
"""

# With itself: pairs of two different samples.
_AGREEMENTS = """
    with votes as (
        select question_id, teacher, answer, count(*) as votes
        from verdicts
        where verifier = 'outcome' and answer is not null
        group by all
    ), given as (
        select question_id, teacher, sum(votes)::bigint as votes
        from votes
        group by all
    ), pairs as (
        select a.question_id, a.teacher, b.teacher as other,
            a.votes * if(a.teacher = b.teacher, b.votes - 1, b.votes) as pairs
        from given a
        join given b using (question_id)
    ), same as (
        select a.question_id, a.teacher, b.teacher as other,
            sum(a.votes * if(a.teacher = b.teacher, b.votes - 1, b.votes))::bigint as equal
        from votes a
        join votes b using (question_id, answer)
        group by all
    )
    select category, teacher, other, pairs, coalesce(equal, 0), count(*)
    from pairs
    left join same using (question_id, teacher, other)
    join curated using (question_id)
    where pairs > 0
    group by all
"""
