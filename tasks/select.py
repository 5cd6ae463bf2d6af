"""Select: which responses become training examples, each with the rule that chose it; every drop with its rule too.

Rules on questions (tasks/select_questions.py), then on the responses of each (tasks/select_responses.py), both within a
shard; where the recipe has rules on the whole data set (tasks/select_allot.py), the step `allot` lies before `select`:
it looks at what the other rules would choose and writes for each shard what it leaves out of that, so that an unchanged
slice redoes nothing.

Held-out questions are never read for training (law 6). docs/selection.md has all rules.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from storage.fingerprint import canonical_json
from storage.manifest import Book
from storage.schemas import ALLOTTED, LEDGER, SELECTION
from storage.workspace import Workspace
from tasks.grade_slices import spilling, view_slices, view_steps
from tasks.grade_standards import committed_standards
from tasks.plan import ROUNDS
from tasks.scorers.limits import over_perplexity
from tasks.select_allot import ADD, CANDIDATES, allot, bounds, of_shard
from tasks.select_questions import KEPT_BY_BASIS, judge_questions
from tasks.select_responses import TRAITS, WAITING, forget, gather, judge_responses
from tasks.select_settings import SelectSettings
from tasks.step import Context, Step, Work
from tasks.verifiers.trace_limits import over_corpus, over_limits

__all__ = ["SelectSettings", "on_basis", "select_steps"]

VERSION = "4"
ALLOT_VERSION = "1"
QUESTIONS_AT_ONCE = 16_384
AT_ONCE = 1024
"""trace verdicts that are read into Python at once"""

CURRICULA = {"high_cv": "-cv", "low_cv": "cv", "easy_first": "-measure", "hard_first": "measure", None: "null"}


def select_steps(settings: SelectSettings, teachers: Sequence[str], scorers: Sequence[str] = (),
                 later: Sequence[str] = ()) -> list[Step]:  # fmt: skip
    """`allot`, if a rule looks at the whole data set, then `select`; `scorers`: those of the recipe; `later`: the
    teachers with later rounds."""
    scorer = (settings.perplexity and settings.perplexity.scorer) or (scorers[0] if scorers else "")
    rules = Rules(settings, tuple(teachers), scorer, tuple(later))
    everything = settings.as_json() | ({"scorer": scorer} if rules.scored() else {})
    reads = rules.reads()

    def run_allot(context: Context, step: Step, work: Sequence[Work]) -> None:
        _allot(context, step, work, rules)

    def run_select(context: Context, step: Step, work: Sequence[Work]) -> None:
        _select(context, step, work, rules)

    if not settings.looks_at_all():
        return [Step("select", "select", "shard", VERSION, everything, reads, run_select)]
    embedded = ("embed",) if settings.coreset else ()
    return [
        Step("allot", "select", "global", f"{VERSION}.{ALLOT_VERSION}", everything, (*reads, *embedded), run_allot),
        Step("select", "select", "shard", VERSION, everything, (*reads, "allot"), run_select),
    ]


class Rules:
    """The rules within a shard, on a connection over some shards."""

    def __init__(self, settings: SelectSettings, teachers: tuple[str, ...], scorer: str,
                 later: tuple[str, ...] = ()) -> None:  # fmt: skip
        self.settings, self.teachers, self.scorer = settings, teachers, scorer
        self.slices = (*teachers, *(f"{name}{ROUNDS}" for name in later))
        """what stands behind `generate.` and `verify.` in the keys of the steps that are read"""

    def reads(self) -> tuple[str, ...]:
        found = ["curate", "grade", *(f"verify.{name}" for name in self.slices)]
        if self.settings.trace and self.settings.trace.corpus_repeats:
            found.append("repeats")
        if self.settings.teachers == "best_in_category":
            found.append("weigh")
        if self.texts():
            found += [f"generate.{name}" for name in self.slices]
        if self.settings.needs_provenance():
            found += [f"provenance.{name}" for name in self.slices]
        return (*found, *(step for name in self.scored() for step in self.score_steps(name)))

    def texts(self) -> bool:
        return self.settings.needs_tokens() or self.settings.near_equal is not None

    def scored(self) -> list[str]:
        limits = self.settings.perplexity
        if self.settings.best_by == "perplexity":
            return list(self.teachers)
        return [name for name in self.teachers if limits and limits.limit(name) is not None]

    def score_steps(self, teacher: str) -> list[str]:
        """The steps that hold the scores of a teacher's responses."""
        return [f"score.{name}" for name in self.slices if name.removesuffix(ROUNDS) == teacher]

    def judge(self, connection: duckdb.DuckDBPyConnection, workspace: Workspace, shards: Sequence[str]) -> None:
        """Make the tables `questions` and `fates` over these shards."""
        view_slices(connection, workspace, shards, self.slices)
        view_steps(connection, workspace, "grades", ["grade"], shards)
        for needed, table, stage in (
            (self.texts(), "responses", "generate"),
            (self.settings.best_by == "perplexity", "scores", "score"),
            (self.settings.needs_provenance(), "provenance", "provenance"),
        ):
            if needed:
                view_steps(connection, workspace, table, [f"{stage}.{name}" for name in self.slices], shards)
        judge_questions(connection, self.settings)
        gather(connection, self.settings, self.scorer)
        best = self._best_teachers(workspace) if self.settings.teachers == "best_in_category" else {}
        judge_responses(connection, self.settings, best, self._traits(connection, workspace, shards))

    def _best_teachers(self, workspace: Workspace) -> dict[str, str]:
        """Category → the teacher with the greatest verified accuracy there (in hundredths; ties to the one that the
        recipe lists first)."""
        weights = committed_standards(workspace).weights
        return {
            category: max(self.teachers, key=lambda name: weights.get((category, name), 0))
            for category in sorted({category for category, _ in weights})
        }

    def _traits(self, connection: duckdb.DuckDBPyConnection, workspace: Workspace, shards: Sequence[str]) -> pa.Table:
        """What the traces and perplexities have too much of, schema TRAITS: first finding, others' names."""
        found: dict[str, list[Any]] = {}
        limits = self.settings.trace
        if limits:
            reader = connection.execute("""
                select response_id, teacher, evidence
                from verdicts
                where verifier = 'trace' and question_id in (select question_id from questions where keep)
            """)
            while rows := reader.fetchmany(AT_ONCE):
                for response_id, teacher, evidence in rows:
                    if over := over_limits(json.loads(evidence), limits, teacher):
                        found[response_id] = over
        if limits and limits.corpus_repeats:
            for shard in shards:
                for row in workspace.read("repeats", shard, "repeats").to_pylist():
                    if over := over_corpus(row, limits):
                        found[row["response_id"]] = found.get(row["response_id"], []) + over
        if self.settings.perplexity:
            for shard in shards:
                for teacher in self.teachers:
                    ids = _ids(connection, workspace, shard, teacher)
                    over_limit = over_perplexity(workspace, shard, self.settings.perplexity, self.scorer, teacher,
                                                 self.score_steps(teacher), ids)  # fmt: skip
                    for response_id, finding in over_limit.items():
                        found.setdefault(response_id, []).append(finding)
        rows_ = [
            {"response_id": key, "trait": first.rule, "trait_value": first.value, "trait_threshold": first.threshold,
             "seen": f', "where": {first.seen}, "also": {canonical_json([one.rule for one in others])}'}
            for key, (first, *others) in found.items()
        ]  # fmt: skip
        return pa.Table.from_pylist(rows_, schema=TRAITS)


def _ids(connection: duckdb.DuckDBPyConnection, workspace: Workspace, shard: str, teacher: str) -> list[str]:
    query = "select response_id from found where teacher = ? and question_id between ? and ? order by 1"
    return [name for (name,) in connection.execute(query, [teacher, *bounds(workspace, shard)]).fetchall()]


def _batches(workspace: Workspace, shards: Sequence[str]) -> Iterator[list[str]]:
    """Neighbouring shards, small ones together: a query has its price whatever it reads."""
    batch: list[str] = []
    questions = 0
    for shard in shards:
        batch.append(shard)
        questions += sum(part.rows for part in workspace.need("grade", shard).data())
        if questions >= QUESTIONS_AT_ONCE:
            yield batch
            batch, questions = [], 0
    if batch:
        yield batch


def _allot(context: Context, step: Step, work: Sequence[Work], rules: Rules) -> None:
    workspace = context.workspace
    transactions = [context.begin(step, one) for one in work]
    context.progress.expect(step.key, len(workspace.shards))
    with spilling(context) as connection:
        connection.execute(CANDIDATES)
        for shards in _batches(workspace, workspace.shards):
            rules.judge(connection, workspace, shards)
            connection.execute(ADD)
            forget(connection)
            context.progress.advance(step.key, len(shards))
        allot(connection, workspace, rules.settings)
        for transaction in transactions:
            rows = of_shard(connection, workspace, transaction.shard).select(ALLOTTED.names)
            transaction.commit("allotted", rows, [], [Book("response", rows.num_rows, rows.num_rows)])


def _select(context: Context, step: Step, work: Sequence[Work], rules: Rules) -> None:
    workspace = context.workspace
    transactions = {one.shard: context.begin(step, one) for one in work}  # before anything is read
    with spilling(context, step.lanes) as connection:
        for shards in _batches(workspace, list(transactions)):
            rules.judge(connection, workspace, shards)
            if "allot" in step.reads:
                view_steps(connection, workspace, "allotted", ["allot"], shards)
                connection.execute(_APPLY)
            connection.execute(_OUTCOME, {"waiting": WAITING})
            for shard in shards:
                _commit(context, connection, step, transactions[shard], rules.settings)
            forget(connection)


def _commit(context: Context, connection: duckdb.DuckDBPyConnection, step: Step, transaction: Any,
            settings: SelectSettings) -> None:  # fmt: skip
    first, last = bounds(context.workspace, transaction.shard)
    within = {"first": first, "last": last}
    chosen = connection.sql(_chosen(settings), params=within).to_arrow_table()
    ledger = connection.sql(_LEDGER, params=within | {"waiting": WAITING, "step": step.key, "run": context.run_id})
    dropped = ledger.to_arrow_table().select(LEDGER.names)
    ((questions, kept, waiting, responses, waiting_responses),) = connection.execute(
        _COUNTS, within | {"waiting": WAITING}
    ).fetchall()
    books = [
        Book("question", questions, kept, _by_rule(dropped, "question"), waiting),
        Book("response", responses, chosen.num_rows, _by_rule(dropped, "response"), waiting_responses),
    ]
    transaction.commit("selection", chosen.select(SELECTION.names), dropped, books)


def _by_rule(ledger: pa.Table, unit: str) -> dict[str, int]:
    rules = ledger.filter(pc.field("unit") == unit).group_by("rule").aggregate([([], "count_all")]).to_pydict()
    return dict(zip(rules["rule"], rules["count_all"], strict=True))


_APPLY = """
    update fates set why = a.rule, value = a.value, threshold = a.threshold, seen = null
    from allotted a
    where fates.response_id = a.response_id and fates.why is null
"""

# Why a kept question gives no example: a rule on the whole data set, else that no response of it is whole.
_OUTCOME = """
    create or replace temp table outcome as
    with tried as (
        select question_id, bool_or(why is null) as chosen, bool_or(why = $waiting) as waits,
            max(why) filter (why in ('coreset', 'no_embedding', 'category_quota', 'source_quota', 'mix', 'budget'))
                as allotted
        from fates
        group by question_id
    )
    select q.question_id, case
            when not keep then 'dropped' when chosen then 'kept' when waits then 'waits' else 'dropped'
        end as fate,
        if(keep, coalesce(allotted, 'no_whole_trace'), q.rule) as rule, if(keep, null, q.value) as value,
        if(keep, null, q.threshold) as threshold
    from questions q
    left join tried using (question_id)
"""

_COUNTS = """
    select (select count(*) from outcome where question_id between $first and $last),
        (select count(*) from outcome where fate = 'kept' and question_id between $first and $last),
        (select count(*) from outcome where fate = 'waits' and question_id between $first and $last),
        (select count(*) from fates where question_id between $first and $last),
        (select count(*) from fates where why = $waiting and question_id between $first and $last)
"""

_LEDGER = """
    select $step as stage, 'question' as unit, question_id as unit_id, rule, value, threshold, '{}' as evidence,
        $run as run_id
    from outcome
    where fate = 'dropped' and question_id between $first and $last
    union all
    select $step, 'response', response_id, why, value, threshold,
        concat('{"status": "', status, '", "question_id": "', question_id, '"', seen, '}'), $run
    from fates
    where why is not null and why <> $waiting and question_id between $first and $last
"""


def _chosen(settings: SelectSettings) -> str:
    """The rows of SELECTION; `rule` is the question's, with what chose among its responses or among all questions."""
    capped = settings.max_per_question or settings.max_per_teacher
    best = f"+{settings.best_by}" if capped and settings.best_by != "score" else ""
    spread = "+coreset" if settings.coreset else ""
    return f"""
    select f.question_id, response_id, teacher, concat(q.rule, '{best}{spread}') as rule, verify_score, pass_rate, cv,
        difficulty, basis, ({CURRICULA[settings.curriculum]})::double as curriculum
    from fates f
    join questions q using (question_id)
    where why is null and f.question_id between $first and $last
    order by f.question_id, response_id
    """


def on_basis(outcomes: Sequence[dict[str, Any]], grade: dict[str, Any]) -> list[dict[str, Any]]:
    """The outcomes as the grade counted them: where the majority stands in for the reference, who agrees has passed."""
    if grade["basis"] not in KEPT_BY_BASIS:
        return list(outcomes)
    agrees = [row["answer"] == grade["majority_answer"] for row in outcomes]
    return [row | {"verify_score": float(a), "passed": a} for row, a in zip(outcomes, agrees, strict=True)]
