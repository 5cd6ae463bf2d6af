"""Repair: suspect references are put to a judge, and replaced where it sides with the teachers (AM-Thinking-v1).

The judge sees the question, the reference and the majority's answer, without being told which is which, in both orders
(tasks/verifiers/judge_pair.py). One row of `repairs` a suspect reference says what it decided and in which words. What
it decided stays as long as what it was shown, and the judge itself, are the same; a judge that fails leaves the
question pending (law 5), never "not repaired".

Not covered: verdicts, weights and the comparison of teachers keep the old reference, and so does the evaluation of a
student on held-out questions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa

from storage.fingerprint import hash_text
from storage.manifest import Book
from storage.schemas import REPAIRS
from tasks.grade_profiles import forget, suspects
from tasks.grade_settings import GradeSettings
from tasks.grade_slices import spilling, view_slices
from tasks.grade_standards import Standards, committed_standards
from tasks.step import Context, Step, Work
from tasks.verifiers.bench import secret
from tasks.verifiers.judge_pair import Pair, PairJudge, Ruling, pair_judge_version
from tasks.verifiers.settings import JudgeSettings

VERSION = "1"
COMMIT_EVERY_S = 30.0
STATUSES = {"first": "upheld", "second": "repaired", "unclear": "unclear", "failed": "infra_error"}
"""by the side that the judge takes; the reference is the pair's first"""


def repair_step(settings: GradeSettings, judge: JudgeSettings, teachers: Sequence[str]) -> Step:
    """The step `repair`: a slice of `repairs` a shard."""
    verified = tuple(f"verify.{teacher}" for teacher in teachers)
    described = {
        "suspect_agreement": settings.suspect_agreement, "suspect_answers": settings.suspect_answers,
        "teachers": list(teachers), "judge": pair_judge_version(judge.model, judge.revision),
    }  # fmt: skip

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        standards = committed_standards(context.workspace)
        key = secret("judge", judge.api_key_env)
        asked = PairJudge(judge.base_url, judge.model, key, judge.concurrency, judge.timeout_s, judge.attempts,
                          revision=judge.revision)  # fmt: skip
        with spilling(context, step.lanes) as connection:
            for one in work:
                _Shard(context, step, one, asked, 4 * judge.concurrency).run(connection, settings, teachers, standards)

    return Step("repair", "grade", "shard", VERSION, described, ("curate", "weigh", *verified), run)


class _Shard:
    """The suspect references of one shard; `batch` of them are put to the judge at a time."""

    def __init__(self, context: Context, step: Step, work: Work, judge: PairJudge, batch: int) -> None:
        self._context, self._step, self._work, self._judge, self._batch = context, step, work, judge, batch
        self._transaction = context.begin(step, work)
        self._known: dict[tuple[str, str], dict[str, Any]] = {}
        if self._transaction.base:
            for row in context.workspace.read(step.key, work.shard, "repairs").to_pylist():
                if row["status"] != "infra_error":
                    self._known[row["question_id"], row["asked"]] = row
        self._rows: list[dict[str, Any]] = []

    def run(self, connection: duckdb.DuckDBPyConnection, settings: GradeSettings, teachers: Sequence[str],
            standards: Standards) -> None:  # fmt: skip
        view_slices(connection, self._context.workspace, [self._work.shard], teachers)
        found = suspects(connection, settings, teachers, standards).to_pylist()
        forget(connection)
        self._context.progress.expect(self._step.key, len(found))
        open_ = [(row, pair) for row, pair in self._pairs(found) if not self._recall(row)]
        self._context.progress.advance(self._step.key, len(self._rows))
        last = time.monotonic()
        for start in range(0, len(open_), self._batch):
            batch = open_[start : start + self._batch]
            rulings = self._judge.judge([pair for _, pair in batch])
            self._rows += [_ruled(row, pair, ruling) for (row, pair), ruling in zip(batch, rulings, strict=True)]
            self._context.progress.advance(self._step.key, len(batch))
            if start + len(batch) < len(open_) and time.monotonic() - last > COMMIT_EVERY_S:
                self._commit(len(found))
                last = time.monotonic()
        self._commit(len(found))

    def _pairs(self, found: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], Pair]]:
        """Each suspect as a row of `repairs` to be filled in, with what the judge will be shown."""
        columns = ["question_id", "messages", "ground_truth"]
        curated = self._context.workspace.read("curate", self._work.shard, "curated", columns) if found else None
        questions = {row["question_id"]: row for row in curated.to_pylist()} if curated else {}
        pairs = []
        for one in found:
            question = questions[one["question_id"]]
            asked = "\n\n".join(f"{part['role']}: {part['content']}" for part in question["messages"])
            pair = Pair(asked, one["reference"] or question["ground_truth"] or "",
                        one["written"] or one["majority_answer"])  # fmt: skip
            row = {name: one[name] for name in ("question_id", "category", "majority_answer", "vote_share", "votes")}
            shown = hash_text(self._judge.version, pair.question, pair.first, pair.second)
            row |= {"reference": question["ground_truth"], "judge": self._judge.version, "asked": shown}
            pairs.append((row, pair))
        return pairs

    def _recall(self, row: dict[str, Any]) -> bool:
        """Whether the judge has decided on the same before; today's votes are put beside what it said."""
        known = self._known.get((row["question_id"], row["asked"]))
        if known is not None:
            self._rows.append(known | row)
        return known is not None

    def _commit(self, came: int) -> None:
        settled = sum(row["status"] != "infra_error" for row in self._rows)
        book = Book("reference", came, settled, {}, came - settled)
        self._transaction.commit("repairs", pa.Table.from_pylist(self._rows, schema=REPAIRS), [], [book])


def _ruled(row: dict[str, Any], pair: Pair, ruling: Ruling) -> dict[str, Any]:
    status = STATUSES[ruling.side]
    reason, *swapped = ruling.reasons
    return row | {
        "status": status, "repaired_to": pair.second if status == "repaired" else None, "reason": reason,
        "reason_swapped": swapped[0] if swapped else None,
    }  # fmt: skip


def repaired(workspace: Any, shard: str) -> dict[str, dict[str, Any]]:
    """The repaired references of a shard, rows of `repairs` by question."""
    rows = workspace.read("repair", shard, "repairs").to_pylist()
    return {row["question_id"]: row for row in rows if row["status"] == "repaired"}
