"""Verify: every planned response gets one judgement from each verifier of its category, one outcome, and the
measurements of its trace, which have no part in the outcome.

A verdict is reused while its verifier's version, which covers libraries, settings, the means of verification and the
text that was judged, stays the same. `infra_error` is ours: the response is pending, graded by a later run. One step
per teacher.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from storage.fingerprint import hash_json, hash_text
from storage.manifest import Book
from storage.schemas import VERDICTS
from storage.workspace import Transaction
from tasks.plan import ROUNDS, model_revision, planned
from tasks.step import Context, Step, Work
from tasks.teachers.settings import TeacherBase
from tasks.teachers.teacher import Request
from tasks.verifiers.bench import Bench, Subject, static_versions
from tasks.verifiers.outcome import Opinion, combine_opinions, in_order, is_asked
from tasks.verifiers.settings import Policy, VerifierName, VerifySettings
from tasks.verifiers.trace import TraceVerifier
from tasks.verifiers.verdict import Judgement, unscored

VERSION = "2"
BATCH = 256
COMMIT_EVERY_S = 30.0
MEANS = ("ground_truth", "test_cases", "checker", "time_limit_s", "memory_limit_mb", "language", "entry_point",
         "instruction_constraints")  # fmt: skip


def verify_step(settings: VerifySettings, teacher: TeacherBase, *, workers: int) -> Step:
    """The step `verify.<teacher>`; `workers` is the number of verifier processes and containers."""
    revision = model_revision(teacher)

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        with Bench(settings, workers) as bench:
            for one in work:
                JudgedShard(context, step, one, settings, teacher, revision, bench).run()

    reads = ("curate", f"generate.{teacher.name}")
    described = judged_by(settings, teacher)
    return Step(f"verify.{teacher.name}", "verify", "shard", VERSION, described, reads, run)


def judged_by(settings: VerifySettings, teacher: TeacherBase) -> dict[str, Any]:
    """What a teacher's verdicts depend on, besides what is judged."""
    return {
        "verify": settings.judging(),
        "versions": static_versions(settings) | {"trace": TraceVerifier(settings.trace).version},
        "teacher": teacher.asks(),
        "revision": model_revision(teacher),
    }


class JudgedShard:
    """The work on one shard of one teacher."""

    def __init__(self, context: Context, step: Step, work: Work, settings: VerifySettings, teacher: TeacherBase,
                 revision: str, bench: Bench) -> None:  # fmt: skip
        self._context, self._step, self._settings, self._bench = context, step, settings, bench
        self._trace = TraceVerifier(settings.trace)
        self._shard = work.shard
        self._transaction: Transaction = context.begin(step, work)
        workspace = context.workspace
        questions = workspace.read("curate", work.shard, "curated").to_pylist()
        self._questions = {question["question_id"]: question for question in questions}
        self._teacher = teacher
        self._revision = revision
        self._plan = self._planned()
        self._responses = {
            row["response_id"]: row
            for key in step.reads if key.startswith("generate.")
            for row in workspace.read(key, work.shard, "responses").to_pylist()
        }  # fmt: skip
        self._known: dict[tuple[str, str, str], dict[str, Any]] = {}
        first = f"verify.{teacher.name}"
        for key in (first, f"{first}{ROUNDS}"):  # a sample may move from one to the other
            if workspace.head(key, work.shard) is not None:
                for row in workspace.read(key, work.shard, "verdicts").to_pylist():
                    self._known[row["response_id"], row["verifier"], row["verifier_version"]] = row
        self._rows: list[dict[str, Any]] = []
        self._ledger: list[dict[str, Any]] = []
        self._waiting = 0

    def _planned(self) -> dict[str, Request]:
        """What is to be judged, by response_id."""
        questions = self._questions.values()
        return {one.request.response_id: one.request for one in planned(questions, self._teacher, self._revision)}

    def run(self) -> None:
        self._work(list(self._plan))
        self._commit([])

    def _work(self, keys: Sequence[str]) -> None:
        """Judge these of the plan, with a commit now and then."""
        answered = [key for key in keys if self._account(key)]
        self._context.progress.expect(self._step.key, len(answered))
        last = time.monotonic()
        for start in range(0, len(answered), BATCH):
            batch = answered[start : start + BATCH]
            self._judge(batch)
            self._context.progress.advance(self._step.key, len(batch))
            rest = answered[start + len(batch) :]
            if rest and time.monotonic() - last > COMMIT_EVERY_S:
                self._commit(rest)
                last = time.monotonic()

    def _account(self, key: str) -> bool:
        """Whether a planned response is there to be judged; what isn't is pending or in the ledger."""
        row = self._responses.get(key)
        if row is not None and row["error_kind"] is None:
            return True
        if row is None or row["error_kind"] == "transient":
            self._waiting += 1
            reason = f"the request failed: {row['error']}" if row else "the request isn't answered yet"
            request = self._plan[key]
            asked = {"response_id": key, "question_id": request.question_id, "teacher": self._teacher.name,
                     "sample_index": request.sample_index}  # fmt: skip
            self._rows.append(_row(asked, "outcome", "request", unscored("infra_error", reason)))
        else:
            evidence = json.dumps(self._no_response(row))
            self._ledger.append(self._context.drop(self._step.key, "response", key, "no_response", evidence=evidence))
        return False

    def _no_response(self, row: dict[str, Any]) -> dict[str, Any]:
        """What the ledger says of a request that was refused."""
        return {"error": row["error"], "question_id": row["question_id"]}

    def _judge(self, keys: Sequence[str]) -> None:
        """Judge a batch: all its open verdicts, verifier by verifier, then the outcomes."""
        opinions: dict[str, list[Opinion]] = {key: [] for key in keys}
        for name in self._bench.order:
            subjects = [self._subject(key) for key in keys if name in self._rules(key)[1]]
            verifier = self._bench.version(name) if subjects else ""
            open_: list[tuple[Subject, str]] = []
            for subject in subjects:
                version = f"{verifier}; means {_means(subject)}"
                known = self._known.get((subject.response_id, name, version))
                if known is not None and known["status"] != "infra_error":
                    self._rows.append(known)
                    opinions[subject.response_id].append(Opinion(name, version, _judgement(known)))
                elif is_asked(name, opinions[subject.response_id], *self._rules(subject.response_id)):
                    open_.append((subject, version))
            judged = self._bench.judge(name, [subject for subject, _ in open_])
            for (subject, version), judgement in zip(open_, judged, strict=True):
                self._rows.append(_row(subject.response, name, version, judgement))
                opinions[subject.response_id].append(Opinion(name, version, judgement))
        self._rows += [self._outcome(key, opinions[key]) for key in keys] + self._traced(keys)

    def _rules(self, key: str) -> tuple[Policy, tuple[VerifierName, ...]]:
        """Policy and route of a response's category."""
        category = self._questions[self._responses[key]["question_id"]]["category"]
        return self._settings.policy_for(category), self._settings.verifiers(category)

    def _subject(self, key: str) -> Subject:
        response = self._responses[key]
        return Subject(key, self._questions[response["question_id"]], response)

    def _traced(self, keys: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of verifier `trace`: no opinions, so that they change no outcome."""
        name, rows, open_ = self._trace.name, [], []
        for subject in map(self._subject, keys):
            version = f"{self._trace.version}; means {self._trace.means(subject)}"
            known = self._known.get((subject.response_id, name, version))
            if known is None:
                open_.append((subject, version))
            else:
                rows.append(known)
        judged = self._bench.judge(name, [subject for subject, _ in open_])
        new = zip(open_, judged, strict=True)
        return rows + [_row(subject.response, name, version, found) for (subject, version), found in new]

    def _outcome(self, key: str, opinions: Sequence[Opinion]) -> dict[str, Any]:
        response = self._responses[key]
        policy, route = self._rules(key)
        outcome = combine_opinions(opinions, policy, route)
        version = hash_text(policy, *(f"{one.verifier}={one.version}" for one in in_order(opinions, route)))
        if outcome.status == "infra_error":
            self._waiting += 1
        return _row(response, "outcome", version, outcome)

    def _commit(self, rest: Sequence[str]) -> None:
        """All rows so far; `rest` are still to come in this run: they keep their verdicts, but have no outcome yet."""
        dropped = dict(Counter(entry["rule"] for entry in self._ledger))
        out = len(self._plan) - self._waiting - len(self._ledger) - len(rest)
        book = Book("response", len(self._plan), out, dropped, self._waiting + len(rest))
        coming = set(rest)
        known = {(key, name): row for (key, name, _), row in self._known.items() if key in coming and name != "outcome"}
        table = pa.Table.from_pylist([*self._rows, *known.values()], schema=VERDICTS)
        self._transaction.commit("verdicts", table, self._ledger, [book])


def _means(subject: Subject) -> str:
    """Hash of what the response is verified by, and of its text, which a replay file may change under the same id."""
    question, response = subject.question, subject.response
    text = (response["think_content"], response["answer_content"])
    return hash_json([{name: question[name] for name in MEANS}, question["messages"], text])[:12]


def _row(response: dict[str, Any], verifier: str, version: str, judgement: Judgement) -> dict[str, Any]:
    evidence = dict(judgement.evidence)
    timing = {"seconds": round(judgement.seconds, 6)} | dict(evidence.pop("timing", {}))  # type: ignore[call-overload]
    return {
        "response_id": response["response_id"],
        "question_id": response["question_id"],
        "teacher": response["teacher"],
        "sample_index": response["sample_index"],
        "verifier": verifier,
        "verifier_version": version,
        "verify_score": judgement.score,
        "passed": judgement.passed,
        "status": judgement.status,
        "answer": judgement.answer,
        "evidence": json.dumps(evidence, ensure_ascii=False, sort_keys=True, default=str),
        "timing": json.dumps(timing),
    }


def _judgement(row: dict[str, Any]) -> Judgement:
    return Judgement(row["verify_score"], row["passed"], row["status"], row["answer"], json.loads(row["evidence"]),
                     json.loads(row["timing"])["seconds"])  # fmt: skip
