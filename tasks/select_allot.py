"""Rules on the whole data set, over what the other rules would choose: the step `allot`, which writes for each shard
which responses they leave out.

In this order: coreset, quota of the category, of the source, mix of the teachers, budget. Each takes the questions in
the order of `prefer`. Numbers are integers or quotients of two, and ties go to the lesser id, so that neither shards
nor threads change what is chosen.

Not covered: after a mix, a budget of tokens may move the shares a little.
"""

from __future__ import annotations

import shutil
from fractions import Fraction

import duckdb
import numpy as np
import pyarrow as pa

from storage.fingerprint import hash_text
from storage.workspace import Workspace
from tasks.embeddings import matrix
from tasks.errors import BadSetting
from tasks.grade_profiles import literal
from tasks.select_coreset import VectorFile, k_centres
from tasks.select_settings import SelectSettings

CANDIDATES = """
    create or replace temp table candidates
        (question uuid, response uuid, category varchar, source varchar, teacher varchar, tokens bigint, ease double,
        cv double);
    create or replace temp table dropped (question uuid, response uuid, rule varchar, value double, threshold double)
"""

# Ids are 128-bit hashes: as uuids they take half the memory of their digits.
ADD = """
    insert into candidates
    select question_id::uuid, response_id::uuid, category, question_source, teacher, tokens, measure, cv
    from fates
    join (select question_id, question_source, measure, cv from questions) using (question_id)
    where why is null
"""

DROPPED = """
    select replace(response::varchar, '-', '') as response_id, replace(question::varchar, '-', '') as question_id,
        rule, value, threshold
    from dropped
    where question between $first::uuid and $last::uuid
    order by response
"""


def allot(connection: duckdb.DuckDBPyConnection, workspace: Workspace, settings: SelectSettings) -> None:
    """Move from the table `candidates` to `dropped` what the rules leave out."""
    if settings.coreset:
        _coreset(connection, workspace, settings, settings.coreset)
    for column, quotas in (("category", settings.categories), ("source", settings.sources)):
        if quotas:
            _quotas(connection, settings, f"{column}_quota", column, dict(quotas), others=None)
    if settings.mix:
        _quotas(connection, settings, "mix", "teacher", _shares(connection, settings), others=0)
    if settings.budget:
        for limit, amount in ((settings.budget.examples, "1"), (settings.budget.tokens, "coalesce(tokens, 0)")):
            if limit is not None:
                spent = f"sum({amount}) over (order by place)"
                _drop(
                    connection, settings, "budget", f"select response, {spent} as value, {limit} as most from ordered"
                )


def _ordered(connection: duckdb.DuckDBPyConnection, settings: SelectSettings) -> None:
    """Make the table `ordered`: the candidates with `place`, 1 for the one to take first.

    matched: questions in the order of their ease are a line from 0 (easiest) to 1; what the budget can buy, as a share
    f of all, is bought around the point f: a small budget buys the easiest, one for all up to the hardest.
    """
    draw = f"md5(concat('prefer ', {settings.seed}, ' ', question))"
    key = {"random": draw, "high_cv": "cv desc nulls last", "easiest": "ease desc nulls last",
           "hardest": "ease nulls last", "matched": "abs(line - share) nulls last"}[settings.prefer]  # fmt: skip
    line = ""
    if settings.prefer == "matched":
        assert settings.budget
        examples, tokens = settings.budget.examples, settings.budget.tokens
        amounts = ((examples, "count(*)"), (tokens, "sum(tokens)"))
        parts = [f"{limit} / greatest(1, (select {total} from candidates))"
                 for limit, total in amounts if limit is not None]  # fmt: skip
        line = f""", least(1, {", ".join(parts)}) as share, if(ease is null, null,
            (rank() over (order by ease desc nulls last) - 1 + count(*) over (partition by ease) / 2)
            / count(*) over ()) as line"""
    connection.execute(f"""
        create or replace temp table ordered as
        with keyed as (select *{line} from candidates)
        select question, response, category, source, teacher, tokens,
            row_number() over (order by {key}, {draw}, question, response) as place
        from keyed
    """)


def _drop(connection: duckdb.DuckDBPyConnection, settings: SelectSettings, rule: str, query: str) -> None:
    """Drop the candidates whose `value` is over `most` in the query's rows (response, value, most)."""
    _ordered(connection, settings)
    connection.execute(f"""
        create or replace temp table leaving as
        select response, value::double as value, most::double as most from ({query}) where value > most;
        insert into dropped
        select question, response, '{rule}', value, most from candidates join leaving using (response);
        delete from candidates where response in (select response from leaving)
    """)


def _quotas(connection: duckdb.DuckDBPyConnection, settings: SelectSettings, rule: str, column: str,
            quotas: dict[str, int], *, others: int | None) -> None:  # fmt: skip
    """At most so many candidates of each value of a column; `others`: of each value that isn't named, null: any."""
    cases = " ".join(f"when {literal(name)} then {quota}" for name, quota in quotas.items())
    most = f"case {column} {cases} else {'null' if others is None else others} end"
    place = f"row_number() over (partition by {column} order by place)"
    _drop(connection, settings, rule, f"select response, {place} as value, {most} as most from ordered")


def _shares(connection: duckdb.DuckDBPyConnection, settings: SelectSettings) -> dict[str, int]:
    """How many examples each teacher of the mix gives: the most that have the shares asked for, within the budget."""
    rows = connection.execute("select teacher, count(*) from candidates group by teacher").fetchall()
    counts: dict[str, int] = dict(rows)
    if not counts:
        return dict.fromkeys(settings.mix, 0)
    missing = sorted(name for name in settings.mix if not counts.get(name))
    if missing:
        raise BadSetting(f"select.mix: no response of {missing[0]} is left for its share; take it out of the mix, or "
                         "loosen the rules that leave its responses out (`stillhouse status` counts them)")  # fmt: skip
    weights = {name: Fraction(str(weight)) for name, weight in settings.mix.items()}
    whole = sum(weights.values())
    total = min(counts[name] * whole / weight for name, weight in weights.items())
    if settings.budget and settings.budget.examples:
        total = min(total, Fraction(settings.budget.examples))
    return {name: int(total * weight / whole) for name, weight in weights.items()}


def _coreset(connection: duckdb.DuckDBPyConnection, workspace: Workspace, settings: SelectSettings,
             wanted: int) -> None:  # fmt: skip
    """Keep the questions that are centres; the others leave with their distance to the nearest centre."""
    rows = connection.execute("select distinct replace(question::varchar, '-', '') as q from candidates order by q")
    ids = np.array([name for (name,) in rows.fetchall()], "U32")
    folder = workspace.scratch()
    file, known = None, np.zeros(len(ids), bool)
    for shard in workspace.shards if len(ids) else ():
        vectors = workspace.read("embed", shard, "embeddings", ["question_id", "vector", "fault"])
        vectors = vectors.filter([fault is None for fault in vectors.column("fault").to_pylist()])
        if not vectors.num_rows:
            continue
        names, values = np.array(vectors.column("question_id").to_pylist(), "U32"), matrix(vectors)
        places = np.minimum(np.searchsorted(ids, names), len(ids) - 1)
        mine = np.flatnonzero(ids[places] == names)
        file = file or VectorFile(folder / "vectors.npy", len(ids), values.shape[1])
        file.put(places[mine], values[mine])
        known[places[mine]] = True
    keep, distances = np.zeros(len(ids), bool), np.full(len(ids), np.nan)
    usable = np.flatnonzero(known)
    if file is not None and len(usable):
        vectors_there = file.vectors if known.all() else file.vectors[usable]
        first = min(range(len(usable)), key=lambda place: _draw(settings.seed, str(ids[usable[place]])))
        centres, found = k_centres(vectors_there, wanted, first)
        keep[usable[centres]] = True
        distances[usable] = found
    left = pa.table({"name": ids[~keep].tolist(), "value": distances[~keep]})
    connection.register("left_out", left)
    connection.execute("""
        create or replace temp table leaving as
        select response, question, if(isnan(left_out.value), 'no_embedding', 'coreset') as rule,
            if(isnan(left_out.value), null, round(left_out.value, 3)) as value
        from candidates
        join left_out on candidates.question = left_out.name::uuid;
        insert into dropped select question, response, rule, value, null from leaving;
        delete from candidates where response in (select response from leaving)
    """)
    connection.unregister("left_out")
    shutil.rmtree(folder, ignore_errors=True)


def _draw(seed: int, question_id: str) -> str:
    return hash_text("coreset", str(seed), question_id)


def of_shard(connection: duckdb.DuckDBPyConnection, workspace: Workspace, shard: str) -> pa.Table:
    """The rows of `dropped` of one shard, which is a range of ids, as an Arrow table."""
    first, last = bounds(workspace, shard)
    given = {"first": first, "last": last}
    found: pa.Table = connection.sql(DROPPED, params=given).to_arrow_table()
    return found


def bounds(workspace: Workspace, shard: str) -> tuple[str, str]:
    """The least and the greatest question_id that a shard can hold."""
    number, rest = workspace.shards.index(shard), 128 - workspace.bits
    return f"{number << rest:032x}", f"{((number + 1) << rest) - 1:032x}"
