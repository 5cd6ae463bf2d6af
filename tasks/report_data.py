"""The numbers of the report, each from one aggregate query over DuckDB.

Nothing here holds a row per response: the largest result has one row per teacher, status and response length.
What a page quotes word for word is in tasks/report_samples.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import duckdb

from storage.schemas import STATUSES

STEP_ORDER = (
    "ingest", "embed", "screen", "pairs", "lexical", "dedup", "label", "thin", "rewrite", "curate", "generate",
    "score", "verify", "weigh", "repair", "grade", "compare", "repeats", "allot", "select", "negatives", "export",
    "train", "evaluate",
)  # fmt: skip
DIFFICULTIES = ("easy", "medium", "hard", "unsolved", "ungraded")
RATE_BANDS = ("0 %", "1–25 %", "26–50 %", "51–75 %", "76–99 %", "100 %")
BAND = "case when rate = 0 then 0 when rate = 1 then 5 else least(ceil(rate * 4), 4) end::int"
"""SQL: the place of a column `rate` in RATE_BANDS"""
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""of the quantiles"""
AGREEMENTS = ("unanimous", "majority", "split", "one answer", "no answer")

Counts = dict[str, dict[str, int]]
"""row name → column name → number"""
Prices = Mapping[str, tuple[float, float]]
"""teacher → price of a million prompt tokens, and of a million completion tokens"""


@dataclass(frozen=True)
class FunnelRow:
    """The books of one step and unit, added up over its shards, and the drops as the ledger has them."""

    step: str
    unit: str
    units_in: int
    units_out: int
    booked_drops: int
    pending: int
    dropped: dict[str, int]
    """rule → rows of the ledger"""

    @property
    def balanced(self) -> bool:
        in_ledger = sum(self.dropped.values())
        return self.units_in == self.units_out + in_ledger + self.pending and in_ledger == self.booked_drops


@dataclass(frozen=True)
class TeacherRow:
    """One teacher: what it was asked, what came back, what passed."""

    teacher: str
    responses: int
    """those with an outcome, which are the ones that the plan names"""
    judged: int
    passed: int
    truncated: int
    failed: int
    unjudged: int
    """answered, but without an outcome: kept from an earlier plan, or not verified yet"""
    mean_length: float | None
    length_unit: str
    """tokens | characters, where the teacher counts no tokens"""

    @property
    def pass_rate(self) -> float | None:
        return self.passed / self.judged if self.judged else None


@dataclass(frozen=True)
class LengthRow:
    """Quantiles of the lengths of one teacher's passed or failed responses."""

    teacher: str
    passed: bool
    unit: str
    responses: int
    p5: int
    p25: int
    p50: int
    p75: int
    p95: int


def made_at(connection: duckdb.DuckDBPyConnection) -> str | None:
    """When the newest commit but the report's own was made, ISO 8601; None for an empty workspace."""
    query = "select max(created) from books where step <> 'report'"
    found = connection.execute(query).fetchone()
    return found[0] if found else None


def funnel(connection: duckdb.DuckDBPyConnection) -> list[FunnelRow]:
    """One row per step and unit, in the order of the road."""
    drops: dict[tuple[str, str], dict[str, int]] = {}
    by_rule = connection.execute("""
        select stage, unit, rule, count(*)
        from ledger
        group by all
        order by all
    """).fetchall()
    for step, unit, rule, number in by_rule:
        drops.setdefault((step, unit), {})[rule] = number
    books = connection.execute("""
        select step, unit, sum(units_in)::bigint, sum(units_out)::bigint, sum(dropped)::bigint,
            sum(pending)::bigint
        from books
        where step <> 'report'
        group by all
    """).fetchall()
    rows = [
        FunnelRow(step, unit, came, went, dropped, pending, drops.get((step, unit), {}))
        for step, unit, came, went, dropped, pending in books
    ]
    return sorted(rows, key=lambda row: (_rank(row.step), row.step, row.unit))


def _rank(step: str) -> int:
    stage = step.split(".")[0]
    return STEP_ORDER.index(stage) if stage in STEP_ORDER else len(STEP_ORDER)


def gather_lengths(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the temporary table `lengths`: responses by teacher, status, truncation and length.

    The one join of responses with their outcomes. Only teachers that count no tokens have their text read,
    for its characters.
    """
    connection.execute("""
        create or replace temp table token_counters as
        select teacher
        from responses
        where error_kind is null
        group by teacher
        having count(completion_tokens) > 0
    """)
    columns = {True: "completion_tokens", False: "length(concat(think_content, answer_content))"}
    halves = [
        f"""
        select r.teacher, {counts} as counts_tokens, o.status, o.passed, o.verify_score is not null as judged,
            r.round = 0 as planned,
            coalesce(r.finish_reason = 'length', false) as truncated, {length} as length,
            count(*) as responses
        from responses r
        join outcomes o using (response_id)
        where r.error_kind is null
            and r.teacher {"in" if counts else "not in"} (select teacher from token_counters)
        group by all
        """
        for counts, length in columns.items()
    ]
    connection.execute(f"""
        create or replace temp table lengths as
        with outcomes as (
            select response_id, status, passed, verify_score
            from verdicts
            where verifier = 'outcome'
        )
        {" union all ".join(halves)}
    """)


def teachers(connection: duckdb.DuckDBPyConnection) -> list[TeacherRow]:
    """One row per teacher, by name. Reads `lengths`."""
    rows = connection.execute("""
        with asked as (
            select teacher, count(*) filter (error_kind is null) as answered, count(error_kind) as failed
            from responses
            group by teacher
        ), judged as (
            select teacher, sum(responses) as responses, sum(responses) filter (judged and planned) as judged,
                sum(responses) filter (judged and passed and planned) as passed,
                sum(responses) filter (truncated) as truncated,
                sum(length * responses) / sum(responses) filter (length is not null) as mean_length,
                bool_or(counts_tokens) as counts_tokens
            from lengths
            group by teacher
        )
        select teacher, coalesce(responses, 0)::bigint, coalesce(judged, 0)::bigint,
            coalesce(passed, 0)::bigint, coalesce(truncated, 0)::bigint, failed,
            (answered - coalesce(responses, 0))::bigint, mean_length,
            if(counts_tokens, 'tokens', 'characters')
        from asked
        left join judged using (teacher)
        order by teacher
    """).fetchall()
    return [TeacherRow(*row) for row in rows]


def length_quantiles(connection: duckdb.DuckDBPyConnection) -> list[LengthRow]:
    """Lengths of passed and failed responses by teacher; unknown lengths and the unjudged are left out."""
    counts = connection.execute("""
        select teacher, passed, if(counts_tokens, 'tokens', 'characters'), length, sum(responses)::bigint
        from lengths
        where judged and length is not null
        group by all
        order by teacher, passed desc, length
    """).fetchall()
    groups = counted_quantiles(((teacher, passed, unit), length, number)
                               for teacher, passed, unit, length, number in counts)  # fmt: skip
    return [LengthRow(*key, total, *quantiles) for key, total, quantiles in groups]  # type: ignore[call-arg]


def counted_quantiles(
    rows: Iterable[tuple[tuple[Any, ...], Any, int]],
) -> list[tuple[tuple[Any, ...], int, tuple[Any, ...]]]:
    """(key, number, quantiles at SHARES) of each group; `rows` are (key, value, number), by key and then value."""
    found = []
    for key, group in groupby(rows, key=lambda row: row[0]):
        counted = [(value, number) for _, value, number in group]
        total = sum(number for _, number in counted)
        found.append((key, total, tuple(_quantile(counted, share * total) for share in SHARES)))
    return found


def _quantile(counted: Sequence[tuple[Any, int]], rank: float) -> Any:
    """The least value that `rank` of all do not exceed; `counted` is (value, number), ascending."""
    seen = 0
    for value, number in counted:
        seen += number
        if seen >= rank:
            return value
    return counted[-1][0]


def statuses(connection: duckdb.DuckDBPyConnection) -> Counts:
    """teacher → status → outcomes, statuses in the order of STATUSES."""
    rows = connection.execute("""
        select teacher, status, count(*)
        from verdicts
        where verifier = 'outcome'
        group by all
        order by teacher
    """).fetchall()
    return _ordered(rows, STATUSES)


def pass_rates(connection: duckdb.DuckDBPyConnection) -> Counts:
    """teacher → band of RATE_BANDS → questions; all teachers together come first where there are several.

    0 % and 100 % are bands of their own: nobody learns from the first, everybody knows the second.
    """
    rows = connection.execute(f"""
        with each as (
            select unnest(teachers, recursive := true)
            from grades
        ), rated as (
            select 1 as rank, teacher, passes / n as rate from each where n > 0
            union all
            select 0, 'all teachers', passes / n from grades where n > 0
        )
        select teacher, {BAND}, count(*)
        from rated
        group by rank, 1, 2
        order by rank, 1, 2
    """).fetchall()
    found = _ordered([(teacher, RATE_BANDS[band], number) for teacher, band, number in rows], RATE_BANDS)
    if len(found) == 2:  # one teacher: it is all teachers
        del found["all teachers"]
    return found


def difficulties(connection: duckdb.DuckDBPyConnection) -> Counts:
    """category → difficulty → questions."""
    rows = connection.execute("""
        select category, difficulty, count(*)
        from grades
        group by all
        order by category
    """).fetchall()
    return _ordered(rows, DIFFICULTIES)


def agreement(connection: duckdb.DuckDBPyConnection) -> tuple[dict[str, int], int]:
    """Questions by how far their answers agree (AGREEMENTS), and how many references are suspect."""
    rows = connection.execute("""
        select
            case
                when agreement is null then 'no answer'
                when n = 1 then 'one answer'
                when agreement = 1 then 'unanimous'
                when agreement > 0.5 then 'majority'
                else 'split'
            end,
            count(*), count_if(reference_suspect)
        from grades
        group by 1
    """).fetchall()
    found = Counter({name: number for name, number, _ in rows})
    return {name: found[name] for name in AGREEMENTS if found[name]}, sum(suspect for _, _, suspect in rows)


def repairs(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """What a judge said of suspect references: status → questions; empty where none was asked."""
    return dict(connection.execute("select status, count(*) from repairs group by 1 order by 1").fetchall())


def _ordered(rows: Sequence[tuple[str, str, int]], columns: Sequence[str]) -> Counts:
    found: Counts = {}
    for row, column, number in rows:
        found.setdefault(row, {})[column] = number
    return {row: {name: counts[name] for name in columns if name in counts} for row, counts in found.items()}
