"""The profile of each question over all teachers, as SQL over its outcomes.

Exact whatever the order of the rows, the threads or the shards: scores are counted in billionths, as integers, and so
are their sums and sums of squares; the one rounding to a float comes at the end. Scores that are all equal have a
variance of exactly 0, so a CV of exactly 0. A score under 5e-10 counts as 0, and a mean is right to 5e-10.
Votes are integers too: a number of answers times a weight in hundredths. Ties go to the smaller answer. Where a vote
or a repaired reference is the basis, who agrees with the majority has passed.

Not covered: answers are equal where their canonical forms are; a verifier that gives two forms of one value splits
its votes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa

from storage.schemas import TEACHER_GRADE
from tasks.grade_settings import GradeSettings
from tasks.grade_standards import UNKNOWN_WEIGHT, Standards
from tasks.metrics import pass_at_k

KS = (2, 4, 8, 16)
"""pass@1 is the pass rate"""

WEIGHT_FIELDS: list[pa.Field[Any]] = [
    pa.field("category", pa.string()),
    pa.field("teacher", pa.string()),
    pa.field("weight", pa.int64()),
]
WEIGHTS = pa.schema(WEIGHT_FIELDS)
CHANCE_FIELDS: list[pa.Field[Any]] = [
    pa.field("n", pa.int64()),
    pa.field("passes", pa.int64()),
    *(pa.field(f"pass_at_{k}", pa.float64()) for k in KS),
]
CHANCES = pa.schema(CHANCE_FIELDS)


def profile(
    connection: duckdb.DuckDBPyConnection,
    settings: GradeSettings,
    teachers: Sequence[str],
    standards: Standards,
    later: str = "",
) -> pa.Table:
    """One row (schema GRADES) for each question of the view `curated`, by id, from the outcomes in `verdicts`.

    A question with an `infra_error` among its outcomes is left out: it is pending (law 5). With `settings.repair` so is
    one with a suspect reference that the view `repairs` doesn't settle. `later`: the view with the verdicts of later
    rounds, which are counted beside the grade.
    """
    seated, least = {"teachers": list(teachers)}, {"least": settings.suspect_answers}
    _elect(connection, teachers, standards)
    connection.execute(_VOTED, {"vote_from": settings.vote_from} | least)
    if settings.repair:
        connection.execute(_SUSPECTS, {"suspect_from": settings.suspect_agreement} | least)
        connection.execute(_REPAIRED)
    if settings.repair or settings.vote_from is not None:
        connection.execute(_JUDGE_BY_MAJORITY)
    connection.execute(_totals(len(teachers)))
    connection.execute(_later(len(teachers), later or "(from verdicts limit 0)"), seated)
    _register_chances(connection, len(teachers))
    limits = {"suspect_from": settings.suspect_agreement, "hard_to": standards.hard_to,
              "easy_from": standards.easy_from}  # fmt: skip
    query = _profiles(teachers, settings.cv_ddof, repair=settings.repair)
    found: pa.Table = connection.sql(query, params=limits | seated | least).to_arrow_table()
    return found


def suspects(
    connection: duckdb.DuckDBPyConnection, settings: GradeSettings, teachers: Sequence[str], standards: Standards
) -> pa.Table:
    """One row for each question of the view `curated` whose reference is suspect and whose outcomes are all there.

    Columns question_id, category, majority_answer, vote_share, votes as in GRADES, and, as a rule's evidence has them,
    `written` (the majority's answer as it stands in a box) and `reference` (what was read from the ground truth).
    """
    _elect(connection, teachers, standards)
    limits = {"suspect_from": settings.suspect_agreement, "least": settings.suspect_answers}
    connection.execute(_SUSPECTS, limits)
    found: pa.Table = connection.sql(_SUSPECT_ROWS, params={"teachers": list(teachers)}).to_arrow_table()
    return found


def _elect(connection: duckdb.DuckDBPyConnection, teachers: Sequence[str], standards: Standards) -> None:
    """The tables `asked`, `outcomes` and `elected`: what was asked, what was judged, what the majority says."""
    _register_weights(connection, standards)
    connection.execute(_ASKED)
    connection.execute(_OUTCOMES, {"unknown": UNKNOWN_WEIGHT, "teachers": list(teachers)})
    connection.execute(_ELECTED)


def forget(connection: duckdb.DuckDBPyConnection) -> None:
    """Drop what `profile` or `suspects` left in the connection, so that its memory is free for the commit."""
    for name in ("asked", "outcomes", "elected", "voted", "suspects", "unsettled", "totals", "later"):
        connection.execute(f"drop table if exists {name}")


def _register_weights(connection: duckdb.DuckDBPyConnection, standards: Standards) -> None:
    rows = [
        {"category": category, "teacher": teacher, "weight": weight}
        for (category, teacher), weight in standards.weights.items()
    ]
    connection.register("weights", pa.Table.from_pylist(rows, schema=WEIGHTS))


def _register_chances(connection: duckdb.DuckDBPyConnection, teachers: int) -> None:
    """pass@k of each (n, passes) that occurs, as the table `chances`: few rows, from the one formula of metrics.py."""
    seats = ["", *(f"_{seat}" for seat in range(1, teachers + 1))]
    pairs = connection.execute(
        " union ".join(f"select n{seat}, passes{seat} from totals where n{seat} > 0" for seat in seats)
    ).fetchall()
    rows = [
        {"n": n, "passes": passes} | {f"pass_at_{k}": pass_at_k(n, passes, k) if k <= n else None for k in KS}
        for n, passes in pairs
    ]
    connection.register("chances", pa.Table.from_pylist(rows, schema=CHANCES))


# Questions by number: joins and groups below are on integers.
_ASKED = """
    create or replace temp table asked as
    select row_number() over (order by question_id) as number, question_id, category, split
    from curated
"""

_OUTCOMES = """
    create or replace temp table outcomes as
    select number, list_position($teachers, teacher)::tinyint as seat, coalesce(weight, $unknown) as weight, answer,
        verify_score as score, if(verify_score is null, null, coalesce(passed, false)) as passed,
        round(verify_score * 1e9)::bigint as units, status = 'infra_error' as failed
    from verdicts
    join asked using (question_id)
    left join weights using (category, teacher)
    where verifier = 'outcome'
"""

_ELECTED = """
    create or replace temp table elected as
    with votes as (
        select number, answer, count(*) as answers, sum(weight) as weight, coalesce(bool_or(passed), false) as passed
        from outcomes
        where answer is not null
        group by number, answer
    ), won as (
        select number, sum(answers) as answers, sum(weight) as weight,
            min({'weight': -weight, 'answer': answer, 'answers': answers, 'passed': passed}) as best
        from votes
        group by number
    )
    select number, best.answer as majority_answer, best.passed as majority_passed, answers,
        best.answers / answers as agreement, -best.weight / weight as vote_share
    from won
"""

# By whose majority the outcomes are judged: questions that nothing could verify, but whose teachers agree…
_VOTED = """
    create or replace temp table voted as
    select number, 'vote' as basis
    from elected
    where vote_share >= $vote_from and answers >= $least
        and number not in (select number from outcomes where units is not null)
"""

# …and those whose reference a judge found wrong. A repair for another majority than today's settles nothing.
_REPAIRED = """
    insert into voted
    select number, 'repaired'
    from suspects
    join repairs using (question_id, majority_answer)
    where status = 'repaired';

    create or replace temp table unsettled as
    select number
    from suspects
    anti join (select * from repairs where status <> 'infra_error') using (question_id, majority_answer)
"""

SUSPECT = "n > 0 and not majority_passed and vote_share >= $suspect_from and answers >= $least"

_SUSPECTS = f"""
    create or replace temp table suspects as
    with judged as (
        select number, count(units) as n, bool_or(failed) as incomplete
        from outcomes
        group by number
    )
    select number, question_id, category, majority_answer, vote_share
    from elected
    join judged using (number)
    join asked using (number)
    where not incomplete and {SUSPECT}
"""

# The shortest spelling, so that the order of the rows doesn't matter.
_SUSPECT_ROWS = """
    with read as (
        select question_id, answer, evidence->>'$.extracted' as extracted, evidence->>'$.answer_from' as found_by,
            evidence->>'$.reference' as reference
        from verdicts
        where verifier in ('math', 'quantity') and question_id in (select question_id from suspects)
    ), spelled as (
        select question_id, answer as majority_answer, min({'n': length(extracted), 'text': extracted}).text as written
        from read
        where found_by <> 'last_expression' and not starts_with(extracted, '…')
        group by all
    ), referred as (
        select question_id, min(reference) as reference
        from read
        where not starts_with(reference, '…')
        group by question_id
    ), ballots as (
        select number, seat, answer, weight, count(*) as votes
        from outcomes
        where answer is not null and number in (select number from suspects)
        group by all
    ), listed as (
        select number, list({'answer': answer, 'teacher': ($teachers)[seat], 'votes': votes, 'weight': weight / 100}
            order by answer, seat) as votes
        from ballots
        group by number
    )
    select question_id, category, majority_answer, vote_share, votes, written, reference
    from suspects
    join listed using (number)
    left join spelled using (question_id, majority_answer)
    left join referred using (question_id)
    order by question_id
"""

_JUDGE_BY_MAJORITY = """
    update outcomes
    set passed = agrees, score = agrees::double, units = agrees::bigint * 1_000_000_000
    from (
        select o.rowid as row, coalesce(o.answer = e.majority_answer, false) as agrees
        from outcomes o
        join elected e using (number)
        join voted using (number)
    ) as ballot
    where outcomes.rowid = ballot.row
"""


def _totals(teachers: int) -> str:
    """`totals`: one row a question, with the integer sums over all teachers and, as `_1`, `_2`, …, over each."""
    own = "".join(
        f""",
        count(units) filter (seat = {seat}) as n_{seat},
        count(*) filter (seat = {seat} and passed) as passes_{seat},
        sum(units) filter (seat = {seat}) as units_{seat},
        sum(units * units) filter (seat = {seat}) as squares_{seat}"""
        for seat in range(1, teachers + 1)
    )
    return f"""
    create or replace temp table totals as
    select number, count(units) as n, count(*) filter (passed) as passes, sum(units) as units,
        sum(units * units) as squares, max(score) as best_score, coalesce(bool_or(failed), false) as incomplete{own}
    from asked
    left join outcomes using (number)
    group by number
    """


def _later(teachers: int, view: str) -> str:
    """`later`: one row a question with later rounds: per teacher its judged samples and the passed ones. Where a vote
    or a repaired reference is the basis, it is theirs too."""
    own = "".join(
        f""",
        count(passed) filter (seat = {seat}) as n_{seat},
        count(*) filter (seat = {seat} and passed) as passes_{seat}"""
        for seat in range(1, teachers + 1)
    )
    return f"""
    create or replace temp table later as
    with judged as (
        select number, list_position($teachers, teacher) as seat,
            if(number in (select number from voted), coalesce(answer = majority_answer, false),
                if(verify_score is null, null, coalesce(passed, false))) as passed
        from (select * from {view}) as v
        join asked using (question_id)
        left join (select number, majority_answer from elected) using (number)
        where verifier = 'outcome' and status <> 'infra_error'
    )
    select number{own}
    from judged
    group by number
    """


def _measures(seat: str, ddof: int) -> dict[str, str]:
    """Name → SQL of what is measured over all teachers (seat "") or over one ("_1", …), from `totals` and `chances`.

    CV = σ/μ with σ² = Σ(x − μ)² / (n − ddof) = (n·Σx² − (Σx)²) / (n·(n − ddof)).
    """
    n, units, squares = f"t.n{seat}", f"t.units{seat}", f"t.squares{seat}"
    deviation = f"sqrt(({n} * {squares} - {units} * {units})::double * {n} / ({n} - {ddof}))"
    return {
        "n": n,
        "passes": f"t.passes{seat}",
        "pass_rate": f"if({n} > 0, t.passes{seat} / {n}, null)",
        "mean_score": f"if({n} > 0, {units}::double / ({n} * 1e9), null)",
        "cv": f"if({n} > {ddof} and {units} > 0, {deviation} / {units}::double, null)",
        **{f"pass_at_{k}": f"c{seat}.pass_at_{k}" for k in KS},
    }


def _teacher_grade(teacher: str, seat: str, ddof: int) -> str:
    """A struct with the fields of TEACHER_GRADE, in their order."""
    values = {"teacher": literal(teacher), **_measures(seat, ddof), "n_extra": f"coalesce(l.n{seat}, 0)",
              "passes_extra": f"coalesce(l.passes{seat}, 0)"}  # fmt: skip
    return "{" + ", ".join(f"'{field.name}': {values[field.name]}" for field in TEACHER_GRADE) + "}"


def literal(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def _profiles(teachers: Sequence[str], ddof: int, *, repair: bool) -> str:
    seats = {teacher: f"_{number}" for number, teacher in enumerate(teachers, start=1)}
    own = ",\n            ".join(_teacher_grade(teacher, seat, ddof) for teacher, seat in seats.items())
    overall = ", ".join(f"{value} as {name}" for name, value in _measures("", ddof).items())
    chances = "\n    ".join(
        f"left join chances c{seat} on c{seat}.n = t.n{seat} and c{seat}.passes = t.passes{seat}"
        for seat in ["", *seats.values()]
    )
    waiting = "and number not in (select number from unsettled)" if repair else ""
    return f"""
    with decided as (
        select *, coalesce(ballot, if(n > 0, 'verifiers', 'none')) as basis,
            ballot is null and coalesce({SUSPECT}, false) as reference_suspect
        from totals
        left join elected using (number)
        left join (select number, basis as ballot from voted) using (number)
        where not incomplete {waiting}
    ), ballots as (
        select number, seat, answer, weight, count(*) as votes
        from outcomes
        where answer is not null
            and number in (select number from decided where reference_suspect or ballot is not null)
        group by all
    ), listed as (
        select number, list({{'answer': answer, 'teacher': ($teachers)[seat], 'votes': votes, 'weight': weight / 100}}
            order by answer, seat) as votes
        from ballots
        group by number
    )
    select question_id, category, split, {overall}, best_score,
        list_value(
            {own}
        ) as teachers,
        case
            when t.n = 0 then 'ungraded'
            when t.passes = 0 then 'unsolved'
            when t.passes / t.n >= $easy_from then 'easy'
            when t.passes / t.n <= $hard_to then 'hard'
            else 'medium'
        end as difficulty,
        basis, majority_answer, agreement, vote_share, reference_suspect, votes
    from decided t
    join asked using (number)
    left join listed using (number)
    left join later l using (number)
    {chances}
    order by number
    """
