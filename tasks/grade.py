"""Grade: each question's profile over all teachers, from the outcomes of round 0.

Two steps: `weigh` looks at the whole data set once (tasks/grade_standards.py), `grade` measures each question by that
(tasks/grade_profiles.py), so that a grade depends on its own shard and on the standards only.

pass_rate = passes / n (DeepDistill, arXiv 2504.17565); CV = σ/μ of the scores. The paper's formula divides by n, its
worked examples only come out with n − 1: n − 1 is the default. μ = 0 has no CV: the question is `unsolved`. pass@k is
the unbiased estimate of Chen et al. 2021 (arXiv 2107.03374, equation 1).

With `grade.repair` a step `repair` (tasks/repair.py) lies between the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa

from storage.manifest import Book
from storage.schemas import GRADES
from storage.workspace import Workspace
from tasks.grade_profiles import forget, profile
from tasks.grade_settings import GradeSettings
from tasks.grade_slices import spilling, view_slices, view_steps
from tasks.grade_standards import Standards, committed_standards, weigh_step
from tasks.plan import ROUNDS
from tasks.repair import repair_step
from tasks.step import Context, Step, Work
from tasks.verifiers.settings import JudgeSettings

__all__ = ["GradeSettings", "grade_steps"]

VERSION = "3"
QUESTIONS_AT_ONCE = 16_384


def grade_steps(settings: GradeSettings, teachers: Sequence[str], judge: JudgeSettings | None = None,
                later: Sequence[str] = ()) -> list[Step]:  # fmt: skip
    """The steps in order: `weigh` (one result), `repair` (if it is set; needs `judge`), `grade` (a slice a shard).

    `later`: the teachers with later rounds, whose samples are counted as `n_extra` and `passes_extra` only (law 4).
    """
    verified = tuple(f"verify.{teacher}" for teacher in teachers)
    rounds = tuple(f"verify.{teacher}{ROUNDS}" for teacher in later)
    repairing = [repair_step(settings, judge, teachers)] if settings.repair and judge else []

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        standards = committed_standards(context.workspace)
        with spilling(context, step.lanes) as connection:
            for some in _batches(context.workspace, work):
                _grade(context, step, some, connection, settings, teachers, standards, rounds)

    described = settings.as_json() | {"teachers": list(teachers)}
    reads = ("curate", "weigh", *(step.key for step in repairing), *verified, *rounds)
    return [
        weigh_step(settings, teachers),
        *repairing,
        Step("grade", "grade", "shard", VERSION, described, reads, run),
    ]


def _batches(workspace: Workspace, work: Sequence[Work]) -> Iterator[list[Work]]:
    """Neighbouring shards, small ones together: a query has its price whatever it reads."""
    batch: list[Work] = []
    questions = 0
    for one in work:
        batch.append(one)
        questions += _questions(workspace, one.shard)
        if questions >= QUESTIONS_AT_ONCE:
            yield batch
            batch, questions = [], 0
    if batch:
        yield batch


def _questions(workspace: Workspace, shard: str) -> int:
    return sum(part.rows for part in workspace.need("curate", shard).data())


def _grade(context: Context, step: Step, work: Sequence[Work], connection: duckdb.DuckDBPyConnection,
           settings: GradeSettings, teachers: Sequence[str], standards: Standards,
           rounds: Sequence[str]) -> None:  # fmt: skip
    workspace = context.workspace
    transactions = [context.begin(step, one) for one in work]  # before anything is read: the base is what we saw
    questions = {one.shard: _questions(workspace, one.shard) for one in work}
    context.progress.expect(step.key, sum(questions.values()))
    view_slices(connection, workspace, list(questions), teachers)
    view_steps(connection, workspace, "verdicts", rounds, list(questions), view="later_verdicts")
    if settings.repair:
        view_steps(connection, workspace, "repairs", ["repair"], list(questions))
    made = profile(connection, settings, teachers, standards, "later_verdicts")
    forget(connection)
    grades = {work[0].shard: made} if len(work) == 1 else _by_shard(workspace, made)
    for transaction in transactions:
        rows = grades.get(transaction.shard, GRADES.empty_table())
        came = questions[transaction.shard]
        book = Book("question", came, rows.num_rows, {}, came - rows.num_rows)
        transaction.commit("grades", rows, [], [book])
        context.progress.advance(step.key, came)


def _by_shard(workspace: Workspace, grades: pa.Table) -> dict[str, pa.Table]:
    """Grades ordered by question_id, cut where a shard ends: a shard is a range of ids."""
    if not grades.num_rows:
        return {}
    shards = [workspace.shard_of(str(identity)) for identity in grades.column("question_id").to_pylist()]
    starts = [row for row, shard in enumerate(shards) if row == 0 or shards[row - 1] != shard]
    ends = [*starts[1:], len(shards)]
    return {shards[start]: grades[start:end] for start, end in zip(starts, ends, strict=True) if end > start}
