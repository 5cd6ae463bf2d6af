"""Later rounds of a teacher, for `until`: ask, judge, plan the next round, until no question needs another one.

Two steps. `generate.<teacher>.rounds` does it all: it opens the engine once, and after each round over its shards
commits the responses, then judges them, which the commits of `verify.<teacher>.rounds` hold. That second step has
something to do by itself only where verdicts are still missing, or a verifier has changed. A commit between two rounds
says in its settings that the rounds are under way, so that whoever takes over goes on (law 3); the last one closes
each question: done, or pending where a request or a verdict is missing (laws 1 and 5).

Not covered: what a round lacks because requests failed is asked again by the next run.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.manifest import Book, Inputs
from storage.schemas import RESPONSES, TABLES
from tasks.allotment import begin
from tasks.budget import Budget
from tasks.generate import AskedRange, Nobody, open_teacher
from tasks.generate_shard import Shard
from tasks.plan import ROUNDS, model_revision, planned
from tasks.rounds import Done, Fate, Rule, committed_fates, fate, later_samples, planned_later
from tasks.shard_log import Syncer, log_folder, logs
from tasks.step import ASKED_FOR, Context, Step, Work
from tasks.tally import ShowsTally, Tally
from tasks.teachers.replay import replay_files
from tasks.teachers.settings import TeacherBase
from tasks.teachers.teacher import Request, Teacher
from tasks.verifiers.bench import Bench
from tasks.verifiers.settings import VerifySettings
from tasks.verify import VERSION as VERIFY_VERSION
from tasks.verify import JudgedShard, judged_by

VERSION = "1"
UNDER_WAY = {"rounds": "under way"}
QUESTION = ["question_id", "messages", "category"]


def rounds_steps(teacher: TeacherBase, rule: Rule, settings: VerifySettings, base: Path, budget: Budget, *,
                 workers: int) -> list[Step]:  # fmt: skip
    """The steps `generate.<teacher>.rounds` and `verify.<teacher>.rounds`, in that order; both of the stage `verify`,
    since a round is planned by the verdicts of the one before."""
    revision = model_revision(teacher)
    described = judged_by(settings, teacher) | {"rule": rule.as_json()}

    def ask(context: Context, step: Step, work: Sequence[Work]) -> None:
        begin(budget, context.workspace, step, teacher, context.allotment)
        with Bench(settings, workers) as bench, ExitStack() as opened:
            judge = partial(_judge, context, judging, settings, teacher, revision, rule, bench)
            _Rounds(context, step, work, teacher, revision, rule, budget, base, opened, judge).run()

    def verify(context: Context, step: Step, work: Sequence[Work]) -> None:
        with Bench(settings, workers) as bench:
            for one in work:
                _judge(context, step, settings, teacher, revision, rule, bench, one)

    first = ("curate", f"generate.{teacher.name}", f"verify.{teacher.name}")
    asking = Step(f"generate.{teacher.name}{ROUNDS}", "verify", "shard", VERSION, described, first, ask,
                  partial(replay_files, teacher, base),
                  exclusive=teacher.fills_machine or budget.shared(teacher.name))  # fmt: skip
    judging = Step(f"verify.{teacher.name}{ROUNDS}", "verify", "shard", VERIFY_VERSION, described,
                   (*first, asking.key), verify)  # fmt: skip
    return [asking, judging]


def _judge(context: Context, step: Step, settings: VerifySettings, teacher: TeacherBase, revision: str, rule: Rule,
           bench: Bench, work: Work) -> None:  # fmt: skip
    _JudgedLater(context, step, work, settings, teacher, revision, bench, rule).run()


class _Rounds:
    """The work of one task: some shards of one teacher, one round over all of them after the other."""

    def __init__(self, context: Context, step: Step, work: Sequence[Work], teacher: TeacherBase, revision: str,
                 rule: Rule, budget: Budget, base: Path, opened: ExitStack, judge: Any) -> None:  # fmt: skip
        self._context, self._step, self._work, self._teacher = context, step, work, teacher
        self._revision, self._rule, self._budget, self._base = revision, rule, budget, base
        self._opened, self._judge = opened, judge
        self._engine: Teacher | None = None
        self._tally = Tally(cost=teacher.price(0, 0))
        if isinstance(context.progress, ShowsTally) and teacher.costs:
            context.progress.tally(step.key, self._tally)
        self._asked: dict[str, int] = {}
        """by shard, how many requests were planned when it was last asked"""
        self._again: set[str] = set()
        """shards that were asked in this run, so that what `--from` asks again is asked once"""
        self._missing: dict[str, int] = {}
        self._judged: dict[str, tuple[int, int]] = {}
        """by shard, judged and passed samples of later rounds"""

    def run(self) -> None:
        for one in self._work:
            self._judge_shard(one)
        while todo := [one for one in self._work if self._needs_asking(one)]:
            self._ask(todo)
            for one in todo:
                self._judge_shard(one)
        for one in self._work:
            self._close(one)

    def _needs_asking(self, one: Work) -> bool:
        """Whether something is missing; a second time only if verdicts have made the plan longer meanwhile."""
        requests, missing = self._requests(one.shard, refused_too=one.why == ASKED_FOR and one.shard not in self._asked)
        longer = one.shard not in self._asked or requests > self._asked[one.shard]
        self._asked[one.shard], self._missing[one.shard] = requests, missing
        return longer and bool(missing or self._logs(one.shard))

    def _requests(self, shard: str, *, refused_too: bool = False) -> tuple[int, int]:
        """How many requests the later rounds mean by now, and how many of them aren't answered (nor refused)."""
        workspace, name = self._context.workspace, self._teacher.name
        questions = workspace.read("curate", shard, "curated", QUESTION).to_pylist()
        later = planned_later(workspace, shard, questions, self._teacher, self._revision, self._rule)
        keys = {one.request.response_id for one in later}
        if not keys:
            return 0, 0
        there: set[str] = set()
        for step in (f"generate.{name}", self._step.key):
            if workspace.head(step, shard) is not None:
                rows = workspace.read(step, shard, "responses", ["response_id", "error_kind"]).to_pylist()
                fine = (None, "refused") if step == self._step.key and not refused_too else (None,)
                there |= {row["response_id"] for row in rows if row["error_kind"] in fine}
        return len(keys), len(keys - there)

    def _logs(self, shard: str) -> list[Path]:
        return logs(log_folder(self._context.workspace.root, self._step.key), shard)

    def _plan(self, shard: str) -> tuple[dict[str, range], dict[Done, int]]:
        workspace = self._context.workspace
        questions = workspace.read("curate", shard, "curated", ["question_id", "category"]).to_pylist()
        return later_samples(questions, self._teacher, self._rule, committed_fates(workspace, shard, self._teacher))

    def _ask(self, todo: Sequence[Work]) -> None:
        under_way = [
            replace(one, inputs=_under_way(one.inputs), why="the next round" if one.shard in self._again else one.why)
            for one in todo
        ]
        self._again |= {one.shard for one in todo}
        self._tally.expected += sum(self._missing[one.shard] for one in todo)
        make = partial(_LaterShard, rule=self._rule)
        with Syncer() as syncer:
            AskedRange(self._context, self._step, under_way, self._teacher, self._revision, self._open(), syncer,
                       self._budget, make, self._tally).run()  # fmt: skip

    def _open(self) -> Teacher:
        """The engine, once for all rounds; not where the budget lets nothing be asked."""
        if self._engine is None:
            if self._budget.reached(self._teacher.name):
                return Nobody()
            self._engine = self._opened.enter_context(open_teacher(self._teacher, self._base, self._context))
        return self._engine

    def _judge_shard(self, one: Work) -> None:
        workspace = self._context.workspace
        asked = workspace.head(self._step.key, one.shard)
        if asked is None:
            return
        reads = one.inputs.reads | {self._step.key: asked.content}
        inputs = Inputs(VERIFY_VERSION, one.inputs.settings, reads)
        judged = workspace.head(f"verify.{self._teacher.name}{ROUNDS}", one.shard)
        if judged is None or judged.inputs != inputs or judged.pending:
            self._judge(replace(one, inputs=inputs))
        fates = committed_fates(workspace, one.shard, self._teacher).values()
        later = [found for own in fates for index, found in own.items() if index >= self._rule.samples]
        passed = later.count(Fate.PASSED)
        self._judged[one.shard] = passed + later.count(Fate.FAILED), passed
        self._tally.judged, self._tally.passed = (sum(column) for column in zip(*self._judged.values(), strict=True))

    def _close(self, one: Work) -> None:
        """The last commit of a shard: the same rows, the questions' book, and no more under way."""
        workspace, key = self._context.workspace, self._step.key
        transaction = self._context.begin(self._step, one)
        _, counts = self._plan(one.shard)
        waiting = counts.pop("waiting", 0)
        done = sum(counts.values())
        closed = Book("question", done + waiting, done, {}, waiting)
        extra: dict[str, Any] = {"questions": dict(sorted(counts.items()))}
        base = transaction.base
        if base is None:
            transaction.commit("responses", RESPONSES.empty_table(), [], [Book("request", 0, 0), closed], extra=extra)
            return
        keep, rows = base.data(), RESPONSES.empty_table()
        held = workspace.read_parts(keep, TABLES["responses"], ["response_id", "error_kind"])
        first = workspace.read(f"generate.{self._teacher.name}", one.shard, "responses", ["response_id"])
        twice = pc.is_in(held["response_id"], first["response_id"].combine_chunks())
        if pc.any(twice).as_py():  # `samples` has grown: round 0 has taken them in
            rows = workspace.read_parts(keep, TABLES["responses"]).filter(pc.invert(twice))
            keep, held = [], rows
        answered, dropped = held["error_kind"].null_count, [book for book in base.books if book.unit == "request"]
        _, missing = self._requests(one.shard)
        asked = _request_book(answered, dropped[0].dropped, missing)
        if not missing:
            extra = {"budget": None} | extra
        kept = {name: value for name, value in (base.extra | extra).items() if value is not None}
        transaction.commit("responses", rows, workspace.ledger(key, one.shard), [asked, closed], keep=keep, extra=kept)


def _request_book(answered: int, dropped: dict[str, int], pending: int) -> Book:
    return Book("request", answered + sum(dropped.values()) + pending, answered, dropped, pending)


def _under_way(inputs: Inputs) -> Inputs:
    return replace(inputs, settings=inputs.settings | UNDER_WAY)


class _LaterShard(Shard):
    """One shard of a round: what the verdicts so far plan, beyond what round 0's slice has paid for."""

    def __init__(self, *given: Any, rule: Rule) -> None:
        self._rule = rule
        super().__init__(*given)

    def _planned(self, questions: list[dict[str, Any]]) -> dict[str, Request]:
        workspace, name = self._context.workspace, self._teacher.name
        rows = workspace.read(f"generate.{name}", self.name, "responses", ["response_id", "error_kind"])
        paid = set(rows.filter(pc.is_null(rows["error_kind"]))["response_id"].to_pylist())
        later = planned_later(workspace, self.name, questions, self._teacher, self._revision, self._rule)
        return {one.request.response_id: one.request for one in later if one.request.response_id not in paid}

    def _answered_elsewhere(self, plan: dict[str, Request], there: set[str]) -> pa.Table:
        return RESPONSES.empty_table()

    def _further_book(self, whole: bool) -> tuple[list[Book], list[dict[str, Any]]]:
        return [], []


class _JudgedLater(JudgedShard):
    """The later samples of a shard, round by round as far as they are answered: a round's verdicts say which samples
    of the next one are planned."""

    def __init__(self, context: Context, step: Step, work: Work, settings: VerifySettings, teacher: TeacherBase,
                 revision: str, bench: Bench, rule: Rule) -> None:  # fmt: skip
        self._rule = rule
        super().__init__(context, step, work, settings, teacher, revision, bench)
        self._fates = {
            question: {index: one for index, one in fates.items() if index < rule.samples}
            for question, fates in committed_fates(context.workspace, work.shard, teacher).items()
        }

    def _planned(self) -> dict[str, Request]:
        return {}  # until round 0's verdicts are read

    def run(self) -> None:
        while fresh := self._extend():
            rows, drops = len(self._rows), len(self._ledger)
            self._work(fresh)
            for row in self._rows[rows:]:
                if row["verifier"] == "outcome":
                    self._fates.setdefault(row["question_id"], {})[row["sample_index"]] = fate(row)
            for entry in self._ledger[drops:]:
                request = self._plan[entry["unit_id"]]
                self._fates.setdefault(request.question_id, {})[request.sample_index] = Fate.REFUSED
        self._commit([])

    def _extend(self) -> list[str]:
        """Plan what the verdicts so far call for; the response_ids that are new."""
        questions, fates = list(self._questions.values()), self._fates
        wanted, _ = later_samples(questions, self._teacher, self._rule, fates)
        made = (one.request for one in planned(questions, self._teacher, self._revision, wanted))
        fresh = {one.response_id: one for one in made if one.response_id not in self._plan}
        self._plan |= fresh
        return list(fresh)

    def _no_response(self, row: dict[str, Any]) -> dict[str, Any]:
        return super()._no_response(row) | {"sample_index": row["sample_index"]}
