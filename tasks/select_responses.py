"""Rules on the responses of one question: which pass, which are left out for their form, which are the best of n.

In this order: not passed, over a limit of trace or perplexity, of too few or too many tokens, with too few of the
teacher's sentences, not of the best teacher, nearly equal to a better one, over the most of one teacher, over the most
of one question. The first that holds is the response's reason. Equal ones are told apart by id.

Not covered: near-equality is by words in common (Jaccard index of runs of five), so a response that says the same in
other words stays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa

from tasks.scorers.limits import COLUMNS, UNKNOWN
from tasks.select_settings import SelectSettings

RUN = 5
"""words of a run that near-equal responses have in common"""
CHARACTERS_PER_TOKEN = 4
"""where a teacher counts no tokens"""
TRAIT_FIELDS: list[pa.Field[Any]] = [
    pa.field("response_id", pa.string()), pa.field("trait", pa.string()), pa.field("trait_value", pa.float64()),
    pa.field("trait_threshold", pa.float64()), pa.field("seen", pa.string()),
]  # fmt: skip
TRAITS = pa.schema(TRAIT_FIELDS)
COPY_FIELDS: list[pa.Field[Any]] = [
    pa.field("response_id", pa.string()), pa.field("similarity", pa.float64()), pa.field("of", pa.string()),
]  # fmt: skip
COPIES = pa.schema(COPY_FIELDS)

ORDERS = {
    "score": "verify_score desc nulls last",
    "reward": "reward desc nulls last",
    "longest": "tokens desc nulls last",
    "shortest": "tokens nulls last",
    "perplexity": "perplexity nulls last",
    "teacher_sentences": "teacher_sentences desc nulls last",
    "random": "md5(concat('best_of_n ', $seed, ' ', response_id))",
}
"""`best_by` → how the responses of a question are ordered, the best one first"""


def gather(connection: duckdb.DuckDBPyConnection, settings: SelectSettings, scorer: str) -> None:
    """Make the table `found`: the outcomes of the questions that stay, with what the rules go by.

    Where the majority's answer is the basis, who agrees with it has passed. Reads the views `verdicts` and, as rules
    need them, `responses`, `scores`, `provenance`.
    """
    needs = {"tokens": settings.needs_tokens(), "reward": settings.best_by == "reward",
             "perplexity": settings.best_by == "perplexity",
             "teacher_sentences": settings.best_by == "teacher_sentences",
             "teacher_share": settings.min_teacher_share is not None}  # fmt: skip
    of = settings.perplexity.of if settings.perplexity else "response"
    tables = {
        "tokens": f"select response_id, {_tokens(connection) if needs['tokens'] else ''} as tokens from responses",
        "reward": "select response_id, verify_score as reward from verdicts where verifier = 'reward'",
        "perplexity": f"select response_id, round({COLUMNS[of]}, 3) as perplexity from scores "
                      "where scorer = $scorer and error is null",
        "teacher_sentences": "select response_id, teacher_count as teacher_sentences from provenance",
        "teacher_share": "select response_id, teacher_share from provenance",
    }  # fmt: skip
    joins = "".join(f"\n        left join ({tables[name]}) using (response_id)" for name in needs if needs[name])
    none = "".join(f", null::double as {name}" for name in needs if not needs[name])
    some = "".join(f", {name}" for name in needs if needs[name])
    connection.execute(
        f"""
        create or replace temp table found as
        with outcomes as (
            select response_id, question_id, teacher, status, verify_score, passed, answer
            from verdicts
            where verifier = 'outcome'
        ), judged as (
            select response_id, question_id, teacher, status, category,
                basis in ('vote', 'repaired') as by_vote, coalesce(answer = majority_answer, false) as agrees,
                if(by_vote, agrees::double, verify_score) as verify_score, if(by_vote, agrees, passed) as passed
            from outcomes
            join questions using (question_id)
            where keep
        )
        select judged.* exclude (by_vote, agrees){some}{none}
        from judged{joins}
        """,
        {"scorer": scorer} if needs["perplexity"] else {},
    )


def _tokens(connection: duckdb.DuckDBPyConnection) -> str:
    """Tokens as SQL; the texts are only read where a response has no count."""
    ((uncounted,),) = connection.execute(
        "select count(*) from responses where completion_tokens is null and error_kind is null"
    ).fetchall()
    if not uncounted:
        return "completion_tokens"
    length = "length(concat(think_content, answer_content))"
    return f"coalesce(completion_tokens, ceil({length} / {CHARACTERS_PER_TOKEN})::bigint)"


def judge_responses(
    connection: duckdb.DuckDBPyConnection, settings: SelectSettings, best: dict[str, str], traits: pa.Table
) -> None:
    """Make the table `fates`: each row of `found` with `why` it is left out (null: it is chosen), `value` and
    `threshold`. `best`: category → its best teacher; `traits` (schema TRAITS): what has too much of something."""
    connection.register("traits", traits)
    names = {"category": list(best), "best_teacher": list(best.values())}
    connection.register("best", pa.table({name: pa.array(values, pa.string()) for name, values in names.items()}))
    low, high = settings.tokens or (0, 0)
    rules = []
    if settings.method != "all":
        rules += [("passed is null", "status", "null", "null"),
                  ("not passed", "'not_passed'", "verify_score", "null")]  # fmt: skip
    rules.append(("trait is not null", "trait", "trait_value", "trait_threshold"))
    if settings.tokens:
        rules += [(f"tokens < {low}", "'too_few_tokens'", "tokens", str(low)),
                  (f"tokens > {high}", "'too_many_tokens'", "tokens", str(high))]  # fmt: skip
    if settings.min_teacher_share is not None:
        least = str(settings.min_teacher_share)
        rules.append((f"coalesce(teacher_share, 0) < {least}", "'few_teacher_sentences'", "teacher_share", least))
    if settings.teachers == "best_in_category":
        rules.append(("teacher is distinct from best_teacher", "'not_best_teacher'", "null", "null"))
    whys = " ".join(f"when {holds} then {{'why': {why}, 'value': ({value})::double, 'threshold': ({limit})::double}}"
                    for holds, why, value, limit in rules)  # fmt: skip
    connection.execute(f"""
        create or replace temp table fates as
        select *, reason.why as why, reason.value as value, reason.threshold as threshold
        from (
            select *, case {whys} end as reason
            from found
            left join traits using (response_id)
            left join best using (category)
        )
    """)
    if settings.near_equal:
        connection.register("copies", _copies(connection, settings))
        _leave_out(connection, "'near_equal'", "similarity", repr(settings.near_equal), "copies",
                   seen="""concat(', "of": "', copies.of, '"')""")  # fmt: skip
    for column, most in (("teacher", settings.max_per_teacher), ("question", settings.max_per_question)):
        if most is not None:
            across = "question_id, teacher" if column == "teacher" else "question_id"
            connection.execute(
                f"""
                create or replace temp table placed as
                select response_id, row_number() over (partition by {across} order by {ORDERS[settings.best_by]},
                    response_id) as place
                from fates
                where why is null
                """,
                _seed(settings),
            )
            _leave_out(connection, f"'over_max_per_{column}'", "place", str(most), f"placed where place > {most}")


def _seed(settings: SelectSettings) -> dict[str, int]:
    return {"seed": settings.seed} if settings.best_by == "random" else {}


def _leave_out(connection: duckdb.DuckDBPyConnection, why: str, value: str, threshold: str, source: str,
               seen: str = "null") -> None:  # fmt: skip
    """Give the rows of `fates` that stand in `source` their reason."""
    name, _, where = source.partition(" where ")
    connection.execute(f"""
        update fates set why = {why}, value = {name}.{value}, threshold = {threshold}, seen = {seen}
        from {name}
        where fates.response_id = {name}.response_id {"and " + where if where else ""}
    """)


def _copies(connection: duckdb.DuckDBPyConnection, settings: SelectSettings) -> pa.Table:
    """The responses that are nearly equal to a better one that stays, with their similarity and that one."""
    reader = connection.execute(
        f"""
        with several as (
            select question_id from fates where why is null group by question_id having count(*) > 1
        )
        select question_id, response_id, concat(think_content, ' ', answer_content) as text
        from fates
        join several using (question_id)
        join (select response_id, think_content, answer_content from responses) using (response_id)
        where why is null
        order by question_id, {ORDERS[settings.best_by]}, response_id
        """,
        _seed(settings),
    )
    found: list[dict[str, Any]] = []
    question, kept = "", list[tuple[str, frozenset[int]]]()
    while rows := reader.fetchmany(256):
        for question_id, response_id, text in rows:
            if question_id != question:
                question, kept = question_id, []
            runs = word_runs(text)
            nearest = max(((jaccard(runs, other), name) for name, other in kept), default=(0.0, ""))
            if settings.near_equal is not None and nearest[0] >= settings.near_equal:
                found.append({"response_id": response_id, "similarity": nearest[0], "of": nearest[1]})
            else:
                kept.append((response_id, runs))
    return pa.Table.from_pylist(found, schema=COPIES)


def word_runs(text: str) -> frozenset[int]:
    """All runs of RUN words of a text, hashed; of a shorter text its one run."""
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    return frozenset(hash(tuple(words[start : start + RUN])) for start in range(max(1, len(words) - RUN + 1)))


def jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    """|A ∩ B| / |A ∪ B|, 0..1; neither is empty."""
    both = len(one & other)
    return both / (len(one) + len(other) - both)


def forget(connection: duckdb.DuckDBPyConnection, names: Sequence[str] = ("found", "fates", "placed")) -> None:
    """Drop what was made here, so that its memory is free for the commit."""
    for name in names:
        connection.execute(f"drop table if exists {name}")


WAITING = UNKNOWN.rule
