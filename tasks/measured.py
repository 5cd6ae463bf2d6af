"""What a workspace has measured, for `plan`: how many questions, how long responses are, what is paid for already.

Reads what is committed and changes nothing. Not seen: responses in the log of a run that was cut off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import duckdb

from storage.database import open_views
from storage.manifest import Part
from storage.workspace import Workspace
from tasks.plan import model_revision, planned
from tasks.teachers.settings import TeacherBase

LOOKED_AT = 50_000
"""Questions whose requests are compared with what is there, by teacher; of more, a sample of whole shards is."""


@dataclass(frozen=True)
class Length:
    """Tokens of a teacher's answered requests in one category."""

    teacher: str
    category: str
    responses: int
    mean: float
    deviation: float
    """standard deviation of one response, n - 1"""
    p10: float
    median: float
    p90: float
    prompt: float | None
    """mean tokens of the prompt, where the engine told"""
    cut_off: int
    """responses that max_tokens ended, so that their length is a lower bound"""


@dataclass(frozen=True)
class Settled:
    """Planned requests of a teacher that need not be asked again: answered, or refused."""

    by_category: dict[str, float]
    """scaled up from the questions looked at"""
    looked_at: int
    questions: int


@dataclass(frozen=True)
class Measured:
    questions: dict[str, int] = field(default_factory=dict)
    """by category: the curated ones, or, before there are any, the ingested"""
    curated: bool = False
    prompt_chars: dict[str, float] = field(default_factory=dict)
    """mean characters of a question, by category"""
    lengths: tuple[Length, ...] = ()
    settled: dict[str, Settled] = field(default_factory=dict)
    """by teacher"""
    verdicts: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    """(teacher, category) → verifier → responses that it has judged; `outcome` counts them all"""
    scores: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(teacher, scorer) → responses scored"""
    labels: int = 0
    rewrites: int = 0
    bytes_per_token: float | None = None
    """of a response on disk"""


def measure(workspace: Workspace, teachers: Sequence[TeacherBase]) -> Measured:
    """Everything that `plan` can learn from a workspace about these teachers."""
    with closing(open_views(workspace)) as views:
        curated, (questions, chars) = True, _questions(views, "curated")
        if not questions:
            curated, (questions, chars) = False, _questions(views, "questions")
        lengths = tuple(_lengths(views, teachers))
        labels = _count(views, "select count(*) from labels where status <> 'infra_error'")
        rewrites = _count(views, "select count(*) from rewrites where status <> 'infra_error'")
        scored = views.execute("select teacher, scorer, count(*) from scores where error is null group by all")
        scores = Counter({(teacher, scorer): count for teacher, scorer, count in scored.fetchall()})
        verdicts = _verdicts(views)
        tokens = _tokens(views)
    settled = {one.name: _settled(workspace, one, sum(questions.values())) for one in teachers} if curated else {}
    size = sum(part.bytes for name in tokens for part in _parts(workspace, f"generate.{name}"))
    per_token = size / sum(tokens.values()) if tokens else None
    return Measured(questions, curated, chars, lengths, settled, verdicts, scores, labels, rewrites, per_token)


def _count(views: duckdb.DuckDBPyConnection, query: str) -> int:
    return int(views.execute(query).fetchall()[0][0])


def _tokens(views: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Tokens of all responses of a teacher, for those teachers whose every response has its count."""
    rows = views.execute(
        """
        select teacher, sum(completion_tokens)
        from responses
        where error_kind is null
        group by teacher
        having bool_and(completion_tokens is not null) and sum(completion_tokens) > 0
        """
    ).fetchall()
    return {teacher: int(tokens) for teacher, tokens in rows}


def _questions(views: duckdb.DuckDBPyConnection, table: str) -> tuple[dict[str, int], dict[str, float]]:
    rows = views.execute(
        f"""
        select category, count(*), avg(list_sum(list_transform(messages, lambda m: length(m.content))))
        from {table}
        group by category
        order by category
        """
    ).fetchall()
    return {row[0]: row[1] for row in rows}, {row[0]: row[2] for row in rows}


def _lengths(views: duckdb.DuckDBPyConnection, teachers: Sequence[TeacherBase]) -> Iterator[Length]:
    """Of the models that these teachers are now, whatever prompt they were asked with."""
    for teacher in teachers:
        rows = views.execute(
            """
            select q.category, count(*), avg(completion_tokens), coalesce(stddev_samp(completion_tokens), 0),
                quantile_cont(completion_tokens, 0.1), quantile_cont(completion_tokens, 0.5),
                quantile_cont(completion_tokens, 0.9), avg(prompt_tokens), count(*) filter (finish_reason = 'length')
            from responses r
            join curated q using (question_id)
            where teacher = $teacher and model_revision = $revision and completion_tokens is not null
            group by q.category
            order by q.category
            """,
            {"teacher": teacher.name, "revision": model_revision(teacher)},
        ).fetchall()
        for row in rows:
            yield Length(teacher.name, *row)


def _verdicts(views: duckdb.DuckDBPyConnection) -> dict[tuple[str, str], Counter[str]]:
    rows = views.execute(
        """
        select v.teacher, q.category, v.verifier, count(*)
        from verdicts v
        join curated q using (question_id)
        where v.status <> 'infra_error'
        group by all
        """
    ).fetchall()
    found: dict[tuple[str, str], Counter[str]] = {}
    for teacher, category, verifier, count in rows:
        found.setdefault((teacher, category), Counter())[verifier] = count
    return found


def _settled(workspace: Workspace, teacher: TeacherBase, questions: int) -> Settled:
    """Law 3's comparison of plan and responses, over evenly spread shards if there are many questions."""
    step, revision = f"generate.{teacher.name}", model_revision(teacher)
    shards = workspace.shards
    chosen = shards[:: max(1, -(-questions // LOOKED_AT))]
    looked_at, found = 0, Counter[str]()
    for shard in chosen:
        if workspace.head("curate", shard) is None:
            continue
        asked = workspace.read("curate", shard, "curated", ["question_id", "messages", "category"]).to_pylist()
        looked_at += len(asked)
        if workspace.head(step, shard) is None:
            continue
        rows = workspace.read(step, shard, "responses", ["response_id", "error_kind"]).to_pylist()
        there = {row["response_id"] for row in rows if row["error_kind"] != "transient"}
        found.update(one.category for one in planned(asked, teacher, revision) if one.request.response_id in there)
    scale = questions / looked_at if looked_at else 0.0
    return Settled({category: count * scale for category, count in found.items()}, looked_at, questions)


def _parts(workspace: Workspace, step: str) -> Iterator[Part]:
    for shard in workspace.manifest.shards(step):
        if (head := workspace.head(step, shard)) is not None:
            yield from head.data()
