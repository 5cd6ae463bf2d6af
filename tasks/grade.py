"""Grade: each question's profile over all teachers, from the outcomes of round 0.

Two steps: `weigh` looks at the whole data set once (tasks/grade_standards.py), `grade` measures each question by that
(tasks/grade_profiles.py), so that a grade depends on its own shard and on the standards only.

pass_rate = passes / n (DeepDistill, arXiv 2504.17565); CV = σ/μ of the scores. The paper's formula divides by n, its
worked examples only come out with n − 1: n − 1 is the default. μ = 0 has no CV: the question is `unsolved`. pass@k is
the unbiased estimate of Chen et al. 2021 (arXiv 2107.03374, equation 1).

Not covered: a suspect reference is flagged with its votes, not repaired by a judge.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from storage.manifest import Book
from tasks.grade_profiles import profile
from tasks.grade_settings import GradeSettings
from tasks.grade_slices import spilling, view_slices
from tasks.grade_standards import Standards, committed_standards, weigh_step
from tasks.step import Context, Step, Work

__all__ = ["GradeSettings", "grade_steps"]

VERSION = "2"


def grade_steps(settings: GradeSettings, teachers: Sequence[str]) -> list[Step]:
    """The steps in order: `weigh` (one result), `grade` (a slice a shard)."""
    verified = tuple(f"verify.{teacher}" for teacher in teachers)

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        standards = committed_standards(context.workspace)
        with spilling(context, step.lanes) as connection:
            for one in work:
                _grade_shard(context, step, one, connection, settings, teachers, standards)

    described = settings.as_json() | {"teachers": list(teachers)}
    return [
        weigh_step(settings, teachers),
        Step("grade", "grade", "shard", VERSION, described, ("curate", "weigh", *verified), run),
    ]


def _grade_shard(context: Context, step: Step, work: Work, connection: duckdb.DuckDBPyConnection,
                 settings: GradeSettings, teachers: Sequence[str], standards: Standards) -> None:  # fmt: skip
    transaction = context.begin(step, work)
    view_slices(connection, context.workspace, [work.shard], teachers)
    ((questions,),) = connection.execute("select count(*) from curated").fetchall()
    context.progress.expect(step.key, questions)
    grades = profile(connection, settings, teachers, standards)
    book = Book("question", questions, grades.num_rows, {}, questions - grades.num_rows)
    transaction.commit("grades", grades, [], [book])
    context.progress.advance(step.key, questions)
