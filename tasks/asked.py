"""Asking a model one thing about each question of a shard: what the steps `label` and `rewrite` share.

A row a question. While the request stays the same, a row stays from run to run; a request that fails is pending, and
asked again by the next run (law 5). What has come is committed every half minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.fingerprint import hash_text
from storage.manifest import Book, Inputs
from storage.schemas import TABLES
from tasks.generate import open_teacher
from tasks.step import Context, Step, Work
from tasks.teachers.replay import replay_files
from tasks.teachers.settings import TeacherBase, request_hash
from tasks.teachers.teacher import Reply, Request, Teacher

COMMIT_EVERY_S = 30.0

Row = dict[str, Any]


def asking_step(key: str, version: str, identity: dict[str, Any], reads: Sequence[str], teacher: TeacherBase,
                base: Path, begin: Callable[[Teacher], Callable[[Context, Step, Work], None]]) -> Step:  # fmt: skip
    """A step of the stage `curate` that asks `teacher`; `begin` is handed the open engine and returns what does a
    shard."""

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        with open_teacher(teacher, base, context) as engine:
            shard = begin(engine)
            for one in work:
                shard(context, step, one)

    return Step(key, "curate", "shard", version, identity, tuple(reads), run, partial(replay_files, teacher, base),
                exclusive=teacher.fills_machine)  # fmt: skip


def refuse_rounds(teacher: TeacherBase, kind: str) -> None:
    """Raises ValueError where a model that is asked once about each question is told to sample again, or limited."""
    if teacher.until is not None:
        raise ValueError(f"a {kind} is asked once about each question: leave `until` out, found {teacher.until}")
    if teacher.budget is not None:
        raise ValueError(f"a budget counts what teachers cost, not a {kind}: leave `budget` out; `stillhouse plan` "
                         "says how many requests it gets")  # fmt: skip


def request_about(kind: str, question: str, messages: tuple[dict[str, str], ...], sampling: dict[str, Any],
                  teacher: TeacherBase, revision: str) -> Request:  # fmt: skip
    """The request of a `kind` about a question; its id covers all that it asks and whom."""
    asked = request_hash(messages, sampling, teacher.further_fields)
    identity = hash_text(kind, question, teacher.name, revision, asked)
    seed = int(identity[:8], 16) >> 1 if teacher.seeds else None
    return Request(identity, question, 0, messages, sampling, seed)


class AskedShard:
    """One shard of such a step. Make it before anything is read: the commit is against what was there then.

    `table` holds the rows; `key` is its column with the request's id, and a row's `status` is `infra_error` where the
    request failed.
    """

    def __init__(self, context: Context, step: Step, work: Work, table: str, key: str) -> None:
        self._context, self._step, self._work, self._table, self._key = context, step, work, table, key
        self._transaction = context.begin(step, work)
        self._rows: dict[str, Row] = {}

    def run(
        self,
        requests: Mapping[str, Request],
        keep: Callable[[Row], Row | None],
        ask: Callable[[Sequence[Request]], Iterator[Reply]],
        row: Callable[[str, Reply], Row],
    ) -> None:
        """Ask what is missing of `requests` (by question) and commit.

        `keep`: an earlier row of the same request, as it stands now; None has it asked again. `row`: a reply as a row.
        """
        self._take_over(requests, keep)
        missing = [one for question, one in requests.items() if question not in self._rows]
        self._context.progress.expect(self._step.key, len(missing))
        asked = {one.response_id: one.question_id for one in missing}
        last = time.monotonic()
        for reply in ask(missing) if missing else ():
            question = asked[reply.response_id]
            self._rows[question] = row(question, reply)
            self._context.progress.advance(self._step.key, 1)
            if time.monotonic() - last > COMMIT_EVERY_S:
                self._commit(len(requests))
                last = time.monotonic()
        self._commit(len(requests))

    def _take_over(self, requests: Mapping[str, Request], keep: Callable[[Row], Row | None]) -> None:
        """Keep what was answered to the same request; replayed replies are read again when their files change."""
        base = self._transaction.base
        if base is None or _source(base.inputs) != _source(self._work.inputs):
            return
        for row in self._context.workspace.read(self._step.key, self._work.shard, self._table).to_pylist():
            request = requests.get(row["question_id"])
            if request and request.response_id == row[self._key] and (kept := keep(row)) is not None:
                self._rows[row["question_id"]] = kept

    def _commit(self, questions: int) -> None:
        """What isn't answered yet, or failed, is pending."""
        settled = sum(row["status"] != "infra_error" for row in self._rows.values())
        book = Book("question", questions, settled, {}, questions - settled)
        rows = sorted(self._rows.values(), key=lambda row: row["question_id"])
        self._transaction.commit(self._table, pa.Table.from_pylist(rows, schema=TABLES[self._table].schema), [], [book])


def _source(inputs: Inputs) -> tuple[Any, ...]:
    """Where replayed replies are read from."""
    return inputs.files, inputs.settings.get("source")
