"""What an edition holds, and what changed since the one before: example by example, with the reason.

An example is a row of `selection`; its key is response_id. It was `added`, is `gone`, or was `regraded`: it stays, and
its question's pass rate or difficulty, or its own score, is another one. The reason is the first that holds in the
order of the SQL below: of the question (new, changed, retired, dropped in curation, another reference), of the
teachers (new, left, another revision, further responses), of grades and verdicts, and at last of the rules. A changed
question has another id; (question_source, source_id) links the two.

A function of the two editions alone, so that a diff that was lost can be made again. Covered: parts that are older
than a column. Not covered: what changed in the texts of an example that kept its ids (a rewritten prompt of the
export), which changes the exported files and no row here.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from storage.database import DEFAULT_MEMORY_MB, connect, quoted
from storage.editions import Edition, StepMark
from storage.files import write_file
from storage.manifest import Part
from storage.schemas import LEDGER, TABLES
from storage.workspace import Workspace

_TABLES = {"curated": ("curate",), "questions": ("ingest",), "selection": ("select",), "grades": ("grade",)}
_COLUMNS = {
    "curated": "question_id, messages, category, question_source, source_id, ground_truth, test_cases, checker, "
    "time_limit_s, memory_limit_mb, language, entry_point, instruction_constraints",
    "questions": "question_id, question_source, source_id",
    "selection": "question_id, response_id, teacher, verify_score, pass_rate, difficulty",
    "grades": "question_id, split, pass_rate, difficulty, teachers",
    "responses": "response_id, question_id, teacher, model_revision",
}


def measure(workspace: Workspace, edition: Edition, memory_mb: int = DEFAULT_MEMORY_MB) -> dict[str, Any]:
    """Counts of an edition: examples and their questions, by category and teacher; graded questions and their mean pass
    rate (0..1, null without one); mean characters of an example's response (thinking and answer)."""
    with _session(workspace, memory_mb) as connection:
        _views(connection, workspace, "new", edition)
        paths = _listed(workspace, edition.of_step(*_generated(edition)))
        texts = f"read_parquet({paths}, hive_partitioning = false)" if paths else "(select '' as response_id, " \
                "'' as think_content, '' as answer_content where false)"  # fmt: skip
        [(examples, questions, length)] = connection.execute(
            f"""
            select count(*), count(distinct s.question_id),
                avg(length(coalesce(think_content, '')) + length(coalesce(answer_content, '')))
            from new_selection s
            left join (
                select distinct on (response_id) response_id, think_content, answer_content from {texts}
                where response_id in (select response_id from new_selection)
            ) using (response_id)
            """
        ).fetchall()
        [(graded, pass_rate)] = connection.execute(
            "select count(pass_rate), avg(pass_rate) from new_grades where split = 'train'"
        ).fetchall()
        categories = dict(connection.execute(
            "select category, count(*) from new_selection join new_curated using (question_id) group by 1 order by 1"
        ).fetchall())  # fmt: skip
        teachers = dict(
            connection.execute("select teacher, count(*) from new_selection group by 1 order by 1").fetchall()
        )
    return {"examples": examples, "questions": questions, "categories": categories, "teachers": teachers,
            "graded": graded, "pass_rate": pass_rate, "response_chars": length}  # fmt: skip


def write_diff(workspace: Workspace, old: Edition | None, new: Edition, target: Path | None = None,
               memory_mb: int = DEFAULT_MEMORY_MB) -> dict[str, dict[str, int]]:  # fmt: skip
    """Count the changes from `old` (None: from nothing) to `new`, as change → why → rows; with `target`, write them
    there as Parquet, ordered by change and ids."""
    with _session(workspace, memory_mb) as connection:
        for side, edition in (("old", old), ("new", new)):
            _views(connection, workspace, side, edition)
        _ledger(connection, workspace, new)
        _marks(connection, old, new)
        connection.execute(_ADDED)
        connection.execute(_GONE)
        connection.execute(_REGRADED)
        connection.execute("create table changes as from added union all from gone union all from regraded")
        counts: dict[str, dict[str, int]] = {}
        for change, why, rows in connection.execute(
            "select change, why, count(*) from changes group by all order by all"
        ).fetchall():
            counts.setdefault(change, {})[why] = rows
        if target is not None:
            write_file(target, lambda path: _copy(connection, path))
    return counts


def _copy(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    connection.execute(
        "copy (from changes order by change, question_id, response_id) "
        f"to {quoted(path)} (format parquet, compression zstd)"
    )


@contextmanager
def _session(workspace: Workspace, memory_mb: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that spills into a folder of its own, which is removed with it."""
    folder = workspace.scratch()
    try:
        with closing(connect(folder, memory_mb)) as connection:
            yield connection
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _generated(edition: Edition) -> list[str]:
    return sorted({one.step for one in edition.slices if one.step.startswith("generate.")})


def _listed(workspace: Workspace, parts: Iterable[Part]) -> str:
    """The parts' files as an SQL list; empty text without one."""
    names = [quoted(workspace.root / part.path) for part in parts]
    return f"[{', '.join(names)}]" if names else ""


def _views(connection: duckdb.DuckDBPyConnection, workspace: Workspace, side: str, edition: Edition | None) -> None:
    """`<side>_curated`, `_questions`, `_selection`, `_grades`, `_responses` over an edition's parts."""
    for table, columns in _COLUMNS.items():
        steps = _TABLES.get(table) or (_generated(edition) if edition else ())
        paths = _listed(workspace, edition.of_step(*steps)) if edition else ""
        if paths:
            connection.execute(
                f"create view {side}_{table}_rows as select * "
                f"from read_parquet({paths}, hive_partitioning = false, union_by_name = true)"
            )
        else:
            connection.register(f"{side}_{table}_rows", TABLES[table].schema.empty_table())
        there = "where error_kind is null" if table == "responses" else ""  # a request that failed is no response
        connection.execute(f"create view {side}_{table} as select {columns} from {side}_{table}_rows {there}")
    connection.execute(
        f"""
        create table {side}_means as
        select question_id, category, question_source, source_id, hash(messages) as asked,
            hash(ground_truth, test_cases, checker, time_limit_s, memory_limit_mb, language, entry_point,
                 instruction_constraints) as means
        from {side}_curated
        """
    )


def _ledger(connection: duckdb.DuckDBPyConnection, workspace: Workspace, new: Edition) -> None:
    """What curation and selection say now of units that they dropped."""
    for step in ("curate", "select"):
        parts = [part for one in new.slices if one.step == step for part in one.parts if part.kind == "ledger"]
        if paths := _listed(workspace, parts):
            connection.execute(
                f"create view {step}_ledger as "
                f"select unit_id, rule from read_parquet({paths}, hive_partitioning = false) where stage = '{step}'"
            )
        else:
            connection.register(f"{step}_ledger", LEDGER.empty_table().select(["unit_id", "rule"]))


_MARKS = pa.schema([pa.field("name", pa.string()), pa.field("teacher", pa.string()), pa.field("value", pa.string())])


def _marks(connection: duckdb.DuckDBPyConnection, old: Edition | None, new: Edition) -> None:
    """The table `revisions` (side, teacher, revision), and variables that say which stages' settings have changed."""
    rows = []
    for side, edition in (("old", old), ("new", new)):
        for step in _generated(edition) if edition else ():
            mark, teacher = edition.steps.get(step) if edition else None, step.removeprefix("generate.")
            rows.append({"name": side, "teacher": teacher, "value": mark.revision if mark else None})
    connection.register("marks", pa.Table.from_pylist(rows, schema=_MARKS))
    connection.execute("create table revisions as select name as side, teacher, value as revision from marks")
    for stage in ("select", "grade", "verify"):
        changed = old is not None and _of_stage(old, stage) != _of_stage(new, stage)
        connection.execute(f"set variable {stage}_changed = {changed}")


def _of_stage(edition: Edition, stage: str) -> set[StepMark]:
    """By what its steps are made; how many there are tells of the teachers, not of the rules."""
    return {mark for step, mark in edition.steps.items() if step.partition(".")[0] == stage}


_ADDED = """
    create table added as
    select 'added' as change,
        case
            when o.question_id is null and before.source_id is not null then 'question changed'
            when o.question_id is null and oq.question_id is null then 'new question'
            when o.question_id is null then 'curation changed'
            when o.asked <> n.asked then 'question changed'
            when o.means <> n.means then 'reference changed'
            when orr.response_id is null and not exists (
                from revisions r where side = 'old' and r.teacher = s.teacher) then 'new teacher'
            when orr.response_id is null and not exists (
                from revisions r where side = 'old' and r.teacher = s.teacher
                and r.revision is not distinct from nr.model_revision) then 'new model revision'
            when orr.response_id is null then 'new response'
            when og.pass_rate is distinct from s.pass_rate then 'grade changed'
            when getvariable('select_changed') then 'rule changed'
            else 'chosen otherwise'
        end as why,
        null::varchar as detail, s.question_id, s.response_id, before.question_id as other_question_id, s.teacher,
        n.category, n.question_source, n.source_id,
        og.pass_rate as old_pass_rate, s.pass_rate as new_pass_rate,
        og.difficulty as old_difficulty, s.difficulty as new_difficulty,
        null::double as old_verify_score, s.verify_score as new_verify_score
    from new_selection s
    anti join old_selection using (response_id)
    left join new_means n on n.question_id = s.question_id
    left join old_means o on o.question_id = s.question_id
    left join (select distinct question_id from old_questions) oq on oq.question_id = s.question_id
    left join (
        select question_source, source_id, any_value(question_id) as question_id
        from old_questions group by all) before
        on before.question_source = n.question_source and before.source_id = n.source_id
        and before.question_id <> s.question_id
    left join (select distinct response_id from old_responses) orr on orr.response_id = s.response_id
    left join (select distinct on (response_id) response_id, model_revision from new_responses) nr
        on nr.response_id = s.response_id
    left join old_grades og on og.question_id = s.question_id
"""

_GONE = """
    create table gone as
    select 'gone' as change,
        case
            when nq.question_id is null and later.source_id is not null then 'question changed'
            when nq.question_id is null then 'question retired'
            when n.question_id is null then 'dropped in curation'
            when o.asked <> n.asked then 'question changed'
            when o.means <> n.means then 'reference changed'
            when not exists (from revisions r where side = 'new' and r.teacher = s.teacher) then 'teacher left'
            when orr.model_revision is distinct from (
                select any_value(revision) from revisions r where side = 'new' and r.teacher = s.teacher)
                and (select any_value(revision) from revisions r where side = 'new' and r.teacher = s.teacher)
                is not null then 'new model revision'
            when ng.pass_rate is distinct from s.pass_rate then 'grade changed'
            when getvariable('select_changed') then 'rule changed'
            else 'chosen otherwise'
        end as why,
        coalesce(lr.rule, lq.rule, lc.rule) as detail, s.question_id, s.response_id,
        later.question_id as other_question_id, s.teacher, o.category, o.question_source, o.source_id,
        s.pass_rate as old_pass_rate, ng.pass_rate as new_pass_rate,
        s.difficulty as old_difficulty, ng.difficulty as new_difficulty,
        s.verify_score as old_verify_score, null::double as new_verify_score
    from old_selection s
    anti join new_selection using (response_id)
    left join old_means o on o.question_id = s.question_id
    left join new_means n on n.question_id = s.question_id
    left join (select distinct question_id from new_questions) nq on nq.question_id = s.question_id
    left join (
        select question_source, source_id, any_value(question_id) as question_id
        from new_questions group by all) later
        on later.question_source = o.question_source and later.source_id = o.source_id
        and later.question_id <> s.question_id
    left join (select distinct on (response_id) response_id, model_revision from old_responses) orr
        on orr.response_id = s.response_id
    left join new_grades ng on ng.question_id = s.question_id
    left join (select unit_id, any_value(rule) as rule from select_ledger group by all) lr
        on lr.unit_id = s.response_id
    left join (select unit_id, any_value(rule) as rule from select_ledger group by all) lq
        on lq.unit_id = s.question_id
    left join (select unit_id, any_value(rule) as rule from curate_ledger group by all) lc
        on lc.unit_id = s.question_id
"""

_REGRADED = """
    create table regraded as
    select 'regraded' as change,
        case
            when o.means <> n.means then 'reference changed'
            when list_sort(list_transform(og.teachers, lambda one: one.teacher))
                is distinct from list_sort(list_transform(ng.teachers, lambda one: one.teacher)) then 'teachers changed'
            when exists (
                from revisions a join revisions b using (teacher)
                where a.side = 'old' and b.side = 'new' and a.revision is distinct from b.revision)
                then 'new model revision'
            when list_sum(list_transform(og.teachers, lambda one: one.n))
                is distinct from list_sum(list_transform(ng.teachers, lambda one: one.n)) then 'further verdicts'
            when getvariable('verify_changed') then 'verifiers changed'
            when getvariable('grade_changed') then 'grading changed'
            else 'verdicts changed'
        end as why,
        null::varchar as detail, b.question_id, b.response_id, null::varchar as other_question_id, b.teacher,
        n.category, n.question_source, n.source_id,
        a.pass_rate as old_pass_rate, b.pass_rate as new_pass_rate,
        a.difficulty as old_difficulty, b.difficulty as new_difficulty,
        a.verify_score as old_verify_score, b.verify_score as new_verify_score
    from old_selection a
    join new_selection b using (response_id)
    left join old_means o on o.question_id = b.question_id
    left join new_means n on n.question_id = b.question_id
    left join old_grades og on og.question_id = b.question_id
    left join new_grades ng on ng.question_id = b.question_id
    where a.pass_rate is distinct from b.pass_rate or a.difficulty is distinct from b.difficulty
        or a.verify_score is distinct from b.verify_score
"""
