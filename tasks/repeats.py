"""Repeats: strings of words that stand in the responses to many questions, counted over all planned responses.

DeepDistill (arXiv 2504.17565) removes 20-token strings that occur more than 20 times in the corpus. Here a string is a
run of `verify.trace.ngram` words, and what is counted is questions: samples of one question may share their words, and
a response that repeats itself is `repeated_run`'s matter. What stands in the question, or in the prompt that it was put
in, is nobody's repeat. Two passes over the texts, one batch at a time, with the runs on disk in between.

The step writes what it found, a row of `repeats` for each response with such a run; select decides (trace_limits).

Not covered: where there are more than MAX_STORED runs, only a sample of them, by hash, is counted (`rate` in the
commit), so that a short repeated string may be missed, and a long one, being many runs, hardly.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.manifest import Book
from storage.schemas import REPEATS
from storage.workspace import Workspace
from tasks.plan import slices
from tasks.repeats_runs import Runs, RunStore, hash_runs
from tasks.step import Context, Step, Work
from tasks.teachers.settings import TeacherBase, render

VERSION = "1"
BATCH_ROWS, BATCH_CHARS = 4096, 2 << 20


def repeats_step(teachers: Sequence[TeacherBase], ngram: int, limit: int) -> Step:
    """The step `repeats`: a slice of `repeats` a shard, all of them made together."""
    described = {
        "ngram": ngram, "limit": limit, "teachers": [teacher.name for teacher in teachers],
        "prompts": [teacher.model_dump(mode="json", include={"prompts"}) for teacher in teachers],
    }  # fmt: skip
    stages = [f"{stage}.{part}" for stage in ("generate", "verify") for teacher in teachers
              for part in slices(teacher)]  # fmt: skip

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        transactions = [context.begin(step, one) for one in work]
        workspace = context.workspace
        context.progress.expect(step.key, 2 * len(workspace.shards))
        folder = workspace.scratch()
        try:
            store = RunStore(folder)
            for number, shard in enumerate(workspace.shards):
                for batch in _batches(workspace, shard, teachers):
                    runs, own = _own_runs(batch, ngram)
                    store.add(runs.hashes[own], (number << 20) + batch.questions[runs.texts[own]])
                context.progress.advance(step.key)
            frequent, counts = store.frequent(limit)
            kept = {"rate": store.rate, "runs": store.stored, "frequent": len(frequent)}
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        for transaction in transactions:
            rows = [row for batch in (_batches(workspace, transaction.shard, teachers) if len(frequent) else ())
                    for row in _found(batch, ngram, frequent, counts)]  # fmt: skip
            book = Book("repeat", len(rows), len(rows))
            transaction.commit("repeats", pa.Table.from_pylist(rows, schema=REPEATS), [], [book], extra=kept)
            context.progress.advance(step.key)

    return Step("repeats", "select", "global", VERSION, described, ("curate", *stages), run)


@dataclass(frozen=True)
class _Batch:
    """Responses of one teacher: their ids, texts, and the place of their question in the shard; then the prompts."""

    teacher: str
    ids: list[tuple[str, str]]
    """response_id, question_id"""
    texts: list[str]
    """of the responses, then of the prompts of their questions"""
    questions: np.ndarray
    """of each text"""


def _batches(workspace: Workspace, shard: str, teachers: Sequence[TeacherBase]) -> Iterator[_Batch]:
    """The planned responses of a shard (those with an outcome, law 4)."""
    columns = ["question_id", "messages", "category"]
    curated = workspace.read("curate", shard, "curated", columns).to_pylist()
    places = {row["question_id"]: place for place, row in enumerate(curated)}
    for teacher, part in [(one, part) for one in teachers for part in slices(one)]:
        verdicts = workspace.read(f"verify.{part}", shard, "verdicts", ["response_id", "verifier"])
        planned = verdicts.filter(pc.field("verifier") == "outcome").column("response_id")
        for rows in _responses(workspace, shard, part, planned):
            asked = {row["question_id"] for row in rows}
            prompts = [
                (identity, render(curated[places[identity]]["messages"], template))
                for identity in sorted(asked)
                for template in teacher.templates(curated[places[identity]]["category"])
            ]
            texts = [f"{row['think_content'] or ''}\n{row['answer_content'] or ''}" for row in rows]
            texts += ["\n".join(message["content"] for message in messages) for _, messages in prompts]
            questions = [places[row["question_id"]] for row in rows] + [places[identity] for identity, _ in prompts]
            ids = [(row["response_id"], row["question_id"]) for row in rows]
            yield _Batch(teacher.name, ids, texts, np.array(questions, np.uint32))


def _responses(workspace: Workspace, shard: str, teacher: str, planned: Any) -> Iterator[list[dict[str, Any]]]:
    """Answered and planned responses, at most about BATCH_CHARS of them at a time."""
    columns = ["response_id", "question_id", "think_content", "answer_content", "error_kind"]
    for part in workspace.need(f"generate.{teacher}", shard).data():
        with workspace.open_part(part) as source, pq.ParquetFile(source) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                wanted = pc.and_(pc.is_in(batch["response_id"], planned), pc.is_null(batch["error_kind"]))
                rows, chars = [], 0
                for row in batch.filter(wanted).to_pylist():
                    rows.append(row)
                    chars += len(row["think_content"] or "") + len(row["answer_content"] or "")
                    if chars >= BATCH_CHARS:
                        yield rows
                        rows, chars = [], 0
                if rows:
                    yield rows


def _own_runs(batch: _Batch, ngram: int) -> tuple[Runs, np.ndarray]:
    """The runs of a batch, and the places of those that are the response's own: not in the prompt of its question."""
    runs = hash_runs(batch.texts, ngram)
    salted = runs.hashes ^ (batch.questions[runs.texts].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    responses = runs.texts < len(batch.ids)
    return runs, np.flatnonzero(responses & ~np.isin(salted, np.unique(salted[~responses])))


def _found(batch: _Batch, ngram: int, frequent: np.ndarray, counts: np.ndarray) -> Iterator[dict[str, Any]]:
    """A row of `repeats` for each response of the batch with a frequent run."""
    runs, own = _own_runs(batch, ngram)
    places = np.minimum(np.searchsorted(frequent, runs.hashes[own]), len(frequent) - 1)
    hit = frequent[places] == runs.hashes[own]
    own, occurs = own[hit], counts[places[hit]]
    texts, first = np.unique(runs.texts[own], return_index=True)
    ends = [*first[1:], len(own)][: len(first)]
    for text, start, end in zip(texts, first, ends, strict=True):
        most = int(start + occurs[start:end].argmax())
        covered = np.zeros(int(runs.lengths[text]) + 1, np.int64)
        begins = runs.starts[own[start:end]] - runs.first_words[text]
        covered[begins] += 1
        covered[begins + ngram] -= 1
        response, question = batch.ids[text]
        yield {
            "response_id": response, "question_id": question, "teacher": batch.teacher, "questions": int(occurs[most]),
            "share": round(float((np.cumsum(covered) > 0).sum() / runs.lengths[text]), 4),
            "text": runs.shown(own[most]),
        }  # fmt: skip
