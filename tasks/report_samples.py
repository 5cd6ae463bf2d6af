"""What the report quotes word for word: a few traces, suspect references and drops, those of the lowest ids.

Texts are cut in the query, so that a page stays small whatever a model wrote; the page says how much is cut.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import duckdb

from tasks.report_data import DIFFICULTIES

TRACES_PER_DIFFICULTY = 2
DROPS_PER_RULE = 2
SUSPECTS = 3
HEAD_CHARACTERS, TAIL_CHARACTERS = 3_000, 1_000


@dataclass(frozen=True)
class Cut:
    """A text, or its beginning and end with the number of characters between them."""

    head: str
    left_out: int
    tail: str


NOTHING = Cut("", 0, "")


@dataclass(frozen=True)
class Trace:
    """A teacher's first response to a question, and its outcome."""

    teacher: str
    thinking: Cut | None
    answer: Cut | None
    error: str | None
    finish_reason: str | None
    status: str | None
    passed: bool | None
    extracted: str | None
    """the answer that the verifier read"""


@dataclass(frozen=True)
class QuestionSample:
    """A graded question and its traces."""

    question_id: str
    category: str
    difficulty: str
    passes: int
    n: int
    majority_answer: str | None
    question: Cut
    reference: Cut | None
    traces: list[Trace] = field(default_factory=list)


@dataclass(frozen=True)
class Drop:
    """One row of the ledger, and the question that it is about, if it is about one."""

    unit_id: str
    value: float | None
    threshold: float | None
    evidence: Cut
    question: Cut | None


@dataclass(frozen=True)
class DropRule:
    """All drops of one stage, unit and rule, and a few of them."""

    stage: str
    unit: str
    rule: str
    number: int
    examples: list[Drop]


def cut_sql(column: str) -> str:
    """A text column as its length, beginning and end, for `_cut`."""
    whole = HEAD_CHARACTERS + TAIL_CHARACTERS
    return f"""
        length({column}), if(length({column}) > {whole}, {column}[:{HEAD_CHARACTERS}], {column}),
        if(length({column}) > {whole}, {column}[-{TAIL_CHARACTERS}:], '')
    """


def _cut(length: int | None, head: str | None, tail: str | None) -> Cut | None:
    if length is None or head is None or tail is None:
        return None
    return Cut(head, length - len(head) - len(tail), tail)


def question_samples(connection: duckdb.DuckDBPyConnection) -> list[QuestionSample]:
    """The first questions of every difficulty by id, from easy to ungraded, each with its traces."""
    picked = connection.execute(f"""
        select unnest(min(question_id, {TRACES_PER_DIFFICULTY}))
        from grades
        group by difficulty
    """).fetchall()
    ids = [row[0] for row in picked]
    samples = _questions(connection, ids, _traces(connection, ids))
    return sorted(samples, key=lambda one: (DIFFICULTIES.index(one.difficulty), one.question_id))


def suspect_samples(connection: duckdb.DuckDBPyConnection) -> list[QuestionSample]:
    """A few questions whose reference the teachers' majority speaks against, without traces."""
    picked = connection.execute(f"""
        select unnest(min(question_id, {SUSPECTS}))
        from grades
        where reference_suspect
    """).fetchall()
    samples = _questions(connection, [row[0] for row in picked], {})
    return sorted(samples, key=lambda one: one.question_id)


def _questions(
    connection: duckdb.DuckDBPyConnection, ids: list[str], traces: dict[str, list[Trace]]
) -> list[QuestionSample]:
    rows = connection.execute(
        f"""
        select question_id, g.category, g.difficulty, g.passes, g.n, g.majority_answer,
            {cut_sql(ASKED)}, {cut_sql("ground_truth")}
        from grades g
        join curated c using (question_id)
        where g.question_id in (select unnest($ids::varchar[]))
            and c.question_id in (select unnest($ids::varchar[]))
        """,
        {"ids": ids},
    ).fetchall()
    found = []
    for identity, category, difficulty, passes, n, majority, *texts in rows:
        asked, reference = _cut(*texts[:3]) or NOTHING, _cut(*texts[3:])
        profile = (identity, category, difficulty, passes, n, majority)
        found.append(QuestionSample(*profile, asked, reference, traces.get(identity, [])))
    return found


# The whole conversation that was asked, turn by turn; a single turn stands bare.
ASKED = """
    if(len(messages) = 1, messages[1].content,
        array_to_string(list_transform(messages, lambda m: m.role || ': ' || m.content), e'\\n\\n'))
"""


def _traces(connection: duckdb.DuckDBPyConnection, ids: list[str]) -> dict[str, list[Trace]]:
    """Each teacher's first planned response to these questions: one with an outcome before one without."""
    rows = connection.execute(
        f"""
        with wanted as (
            select unnest($ids::varchar[]) as question_id
        ), outcomes as (
            select response_id, status, passed, answer
            from verdicts
            where verifier = 'outcome' and question_id in (select question_id from wanted)
        ), answered as (
            select r.*, o.status, o.passed, o.answer as extracted
            from responses r
            left join outcomes o using (response_id)
            where r.question_id in (select question_id from wanted)
        )
        select question_id, teacher, {cut_sql("think_content")}, {cut_sql("answer_content")}, error[:500],
            finish_reason, status, passed, extracted[:200]
        from answered
        qualify row_number() over (
            partition by question_id, teacher order by status is null, sample_index, round, response_id
        ) = 1
        order by question_id, teacher
        """,
        {"ids": ids},
    ).fetchall()
    found: dict[str, list[Trace]] = {}
    for question_id, teacher, *rest in rows:
        trace = Trace(teacher, _cut(*rest[:3]), _cut(*rest[3:6]), *rest[6:])
        found.setdefault(question_id, []).append(trace)
    return found


def drop_samples(connection: duckdb.DuckDBPyConnection) -> list[DropRule]:
    """Every rule that dropped something, the commonest first, with its first units by id."""
    rules = connection.execute(f"""
        select split_part(stage, '.', 1) as stage, unit, rule, count(*) as number,
            min(unit_id, {DROPS_PER_RULE})
        from ledger
        group by 1, 2, 3
        order by number desc, 1, 2, 3
    """).fetchall()
    wanted = sorted({unit_id for *_, ids in rules for unit_id in ids})
    examples: dict[tuple[str, str, str, str], Drop] = {}
    for stage, unit, rule, unit_id, *rest in _drops(connection, wanted):
        drop = Drop(unit_id, rest[0], rest[1], _cut(*rest[2:5]) or NOTHING, _cut(*rest[5:8]))
        examples.setdefault((stage, unit, rule, unit_id), drop)
    return [
        DropRule(stage, unit, rule, number, [examples[stage, unit, rule, unit_id] for unit_id in ids])
        for stage, unit, rule, number, ids in rules
    ]


def _drops(connection: duckdb.DuckDBPyConnection, unit_ids: list[str]) -> list[tuple[Any, ...]]:
    return connection.execute(
        f"""
        with picked as (
            select split_part(stage, '.', 1) as stage, unit, rule, unit_id, value, threshold, evidence,
                case
                    when unit = 'question' then unit_id
                    when json_valid(evidence) then evidence ->> '$.question_id'
                end as question_id
            from ledger
            where unit_id in (select unnest($ids::varchar[]))
        ), asked as (
            select question_id, {ASKED} as question
            from questions
            where question_id in (select question_id from picked)
        )
        select stage, unit, rule, unit_id, value, threshold, {cut_sql("evidence")}, {cut_sql("question")}
        from picked
        left join asked using (question_id)
        order by all
        """,
        {"ids": unit_ids},
    ).fetchall()
