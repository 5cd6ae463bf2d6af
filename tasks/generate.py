"""Generate: ask a teacher for every planned response that isn't there yet.

One step per teacher, so that two teachers never race for one slice. The requests of a range of shards are in flight
together: the pipeline isn't drained at a shard's end, and each shard is committed when its last reply is there, beside
the asking. A budget that is used up ends the asking: what is in flight is kept, what wasn't asked is pending, and the
commit says which limit was reached. Every response is in the shard's log as soon as it has come, so that a crash loses
no more than what was in flight. Replayed responses cost nothing: they have no log but a commit every half minute, and
are read again when their files or columns change.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from storage.database import open_views
from storage.place import is_local
from storage.schemas import RESPONSES
from storage.workspace import Workspace
from tasks.allotment import begin
from tasks.budget import Answer, Budget, missing
from tasks.generate_shard import Shard, close_unasked
from tasks.plan import model_revision
from tasks.segment_log import SegmentLog
from tasks.shard_log import Held, ShardLog, Syncer, Unfinished, log_folder
from tasks.step import ASKED_FOR, Context, Step, Work
from tasks.tally import ShowsTally, Tally
from tasks.teachers.api_key import api_key
from tasks.teachers.replay import ReplayTeacher, replay_files
from tasks.teachers.settings import (
    OpenAITeacherSettings,
    ReplayTeacherSettings,
    TeacherBase,
    TransformersTeacherSettings,
    VLLMTeacherSettings,
)
from tasks.teachers.teacher import Reply, Request, Teacher

VERSION = "2"
COMMIT_EVERY_S = 30.0
"""How often a shard without a log is committed before it is whole."""
BLOCK = 16_384
"""Requests that an engine gets at once if it wants them all before it begins."""
BLOCK_BY_THE_CLOCK = 256
"""The same under a budget in hours, which may end between two blocks."""
PROGRESS_EVERY_S = 0.2
ShardMaker = Callable[[Context, Step, Work, TeacherBase, str, Teacher, Unfinished], Shard]
COMMITS_WAITING = 2
"""Shards that may wait for their commit before the replies do: what they hold must fit into memory."""


def generate_step(teacher: TeacherBase, base: Path, budget: Budget | None = None) -> Step:
    """The step `generate.<teacher>`; `base` is the recipe's folder. `budget`: what the steps of all teachers share."""
    revision = model_revision(teacher)
    spending = budget or Budget(None, [teacher])

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        begin(spending, context.workspace, step, teacher, context.allotment)
        opened = Nobody() if spending.reached(teacher.name) else open_teacher(teacher, base, context)
        with opened as engine, Syncer() as syncer:
            AskedRange(context, step, work, teacher, revision, engine, syncer, spending).run()

    settings: dict[str, Any] = {"teacher": teacher.asks(), "revision": revision}
    if teacher.until and not teacher.costs:  # records that later rounds read are no strays
        settings["teacher"] |= {"max_samples": teacher.max_samples}
    return Step(f"generate.{teacher.name}", "generate", "shard", VERSION, settings, ("curate",), run,
                partial(replay_files, teacher, base),
                exclusive=teacher.fills_machine or spending.shared(teacher.name))  # fmt: skip


def open_teacher(teacher: TeacherBase, base: Path, context: Context) -> Teacher:
    """The engine that a teacher's settings name."""
    if isinstance(teacher, TransformersTeacherSettings):
        from tasks.teachers.local import TransformersTeacher

        return TransformersTeacher(teacher.model, teacher.revision, dtype=teacher.dtype, batch_size=teacher.batch_size,
                                   device=teacher.device, trust_remote_code=teacher.trust_remote_code)  # fmt: skip
    if isinstance(teacher, OpenAITeacherSettings):
        from tasks.teachers.openai import OpenAITeacher

        endpoints = teacher.endpoints()
        return OpenAITeacher([one.url for one in endpoints], teacher.model, api_key(teacher),
                             concurrency=teacher.concurrency, timeout_s=teacher.timeout_s, attempts=teacher.attempts,
                             extra_body=teacher.extra_body, idle_timeout_s=teacher.idle_timeout_s,
                             weights=[one.weight for one in endpoints], patience_s=teacher.patience_s)  # fmt: skip
    if isinstance(teacher, VLLMTeacherSettings):
        from tasks.teachers.vllm import VLLMTeacher

        return VLLMTeacher(teacher, base, context.progress)
    assert isinstance(teacher, ReplayTeacherSettings)
    return ReplayTeacher(teacher, base, context.workspace)


class Nobody:
    """The engine of a teacher whose budget is used up: it starts no server and draws no request."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Reply]:
        return iter(())

    def __enter__(self) -> Nobody:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class AskedRange:
    """The work of one task: some shards of one teacher.

    At most as many shards are open as the engine has requests in hand, since one with nothing in flight is committed;
    and an open one holds only what it still waits for, its responses being in its log.
    """

    def __init__(self, context: Context, step: Step, work: Sequence[Work], teacher: TeacherBase, revision: str,
                 engine: Teacher, syncer: Syncer, budget: Budget, shards: ShardMaker | None = None,
                 tally: Tally | None = None) -> None:  # fmt: skip
        self._shards = shards or Shard
        self._later = shards is not None
        self._context, self._step, self._work = context, step, deque(work)
        self._teacher, self._revision, self._engine, self._syncer = teacher, revision, engine, syncer
        self._budget = budget
        self._asked: dict[str, Shard] = {}
        """the shard of each request that waits for its reply"""
        self._open: dict[str, Shard] = {}
        self._feeding: Shard | None = None
        """the open shard that requests are drawn from"""
        self._fed: queue.SimpleQueue[Shard] = queue.SimpleQueue()
        """shards that have asked for all they miss; the engine's thread tells ours"""
        self._commits: deque[Future[None]] = deque()
        self._unreported, self._reported = 0, time.monotonic()
        self._logged = not isinstance(engine, ReplayTeacher)
        self._committed = time.monotonic()
        self._tally = tally or _tally(context, step, work, teacher)

    def run(self) -> None:
        try:
            with ThreadPoolExecutor(1, "commit") as self._committer:
                while self._ask() is Answer.LATER:
                    pass
                self._stop()
                self._settle(0)
        finally:
            for shard in self._open.values():
                shard.close()
            self._report()

    def _ask(self) -> Answer:
        """Ask until nothing is left or the budget says no more; returns what it said last."""
        self._said = Answer.GO
        feed = self._requests()
        with closing(self._replies(feed)) as replies:  # so that a fault here ends the asking
            for reply in replies:
                shard = self._asked.pop(reply.response_id)
                shard.take(reply)
                self._budget.answered(self._teacher.name, reply)
                self._advance(reply)
                self._commit_in_time(shard)
                self._commit_finished(shard)
        deque(feed, maxlen=0)  # of an engine that stopped early, so that what it left is booked as pending
        self._budget.nothing_in_flight(self._teacher.name)
        return self._said

    def _stop(self) -> None:
        """Commit what is open, and, where a budget left shards unasked, that they are."""
        reached = self._budget.reached(self._teacher.name)
        for shard in list(self._open.values()):
            shard.stopped = reached
            self._commit(shard)
        while self._work:
            one = self._work.popleft()
            if self._later or not close_unasked(self._context, self._step, one, self._teacher, reached):
                shard = self._begin(one)
                shard.stopped = reached
                self._commit(shard)
            self._report()  # so that a lease is kept

    def _requests(self) -> Iterator[Request]:
        """All missing requests that the budget allows, shard by shard; a shard is opened when its first one is
        drawn. Called again it goes on."""
        name = self._teacher.name
        while self._feeding or self._work:
            if self._feeding is None:
                if self._budget.reached(name):  # before the next shard is opened for nothing
                    self._said = Answer.NO
                    return
                self._feeding = self._begin(self._work.popleft())
            shard = self._feeding
            while shard.missing:
                self._said = self._budget.admit(name)
                if self._said is not Answer.GO:
                    return
                request = shard.missing.popleft()
                shard.waiting[request.response_id] = request
                self._asked[request.response_id] = shard
                yield request
            shard.fed, self._feeding = True, None
            self._fed.put(shard)

    def _begin(self, work: Work) -> Shard:
        shard = self._shards(self._context, self._step, work, self._teacher, self._revision, self._engine,
                             self._unfinished(work.shard))  # fmt: skip
        self._open[shard.name] = shard
        self._context.progress.expect(self._step.key, len(shard.missing))
        self._tally.skipped += shard.skipped
        return shard

    def _unfinished(self, shard: str) -> Unfinished:
        if not self._logged:
            return Held()
        folder = log_folder(self._context.workspace.root, self._step.key)
        if is_local(folder):
            return ShardLog(folder, shard, RESPONSES.names, self._syncer)
        return SegmentLog(folder, shard, RESPONSES.names, self._syncer)

    def _replies(self, feed: Iterator[Request]) -> Generator[Reply, None, None]:
        if self._teacher.draws_lazily:
            lazy: Any = self._engine
            yield from lazy.generate(feed)
            return
        size = BLOCK_BY_THE_CLOCK if self._budget.limits_hours(self._teacher.name) else BLOCK
        while block := list(islice(feed, size)):
            yield from self._engine.generate(block)

    def _commit_in_time(self, shard: Shard) -> None:
        if not self._logged and time.monotonic() - self._committed > COMMIT_EVERY_S:
            shard.commit_part()
            self._committed = time.monotonic()

    def _commit_finished(self, answered: Shard) -> None:
        """Commit the shard that was just answered and those that were fed meanwhile, if they wait for nothing."""
        done = {answered.name: answered}
        while not self._fed.empty():
            fed = self._fed.get()
            done[fed.name] = fed
        for shard in done.values():
            if shard.fed and not shard.waiting and shard.name in self._open:
                self._commit(shard)

    def _commit(self, shard: Shard) -> None:
        """In a thread of its own, while others are asked; a replayed one here, where its files are being read."""
        del self._open[shard.name]
        if not self._logged:
            shard.commit()
            return
        self._settle(COMMITS_WAITING)
        self._commits.append(self._committer.submit(_commit, shard))

    def _settle(self, waiting: int) -> None:
        """Wait until at most so many commits are under way. Raises what one of them raised."""
        while len(self._commits) > waiting or (self._commits and self._commits[0].done()):
            self._commits.popleft().result()

    def _advance(self, reply: Reply) -> None:
        self._unreported += 1
        tally = self._tally
        if reply.error_kind == "transient":
            tally.failed += 1
        else:
            tally.done += 1
            tally.tokens += reply.completion_tokens or 0
            if tally.cost is not None:
                tally.cost += self._teacher.price(reply.prompt_tokens or 0, reply.completion_tokens or 0) or 0.0
        if time.monotonic() - self._reported > PROGRESS_EVERY_S:
            self._report()

    def _report(self) -> None:
        self._tally.in_flight = len(self._asked)
        self._context.progress.advance(self._step.key, self._unreported)
        self._unreported, self._reported = 0, time.monotonic()


def _tally(context: Context, step: Step, work: Sequence[Work], teacher: TeacherBase) -> Tally:
    """A fresh one, in the hands of the progress if that shows tallies."""
    if not isinstance(context.progress, ShowsTally) or not teacher.costs:
        return Tally(cost=teacher.price(0, 0))
    judged, passed = verified_so_far(context.workspace, teacher)
    expected = sum(missing(context.workspace, step, teacher, one.shard, again=one.why == ASKED_FOR) for one in work)
    tally = Tally(expected, cost=teacher.price(0, 0), judged=judged, passed=passed)
    context.progress.tally(step.key, tally)
    return tally


def verified_so_far(workspace: Workspace, teacher: TeacherBase) -> tuple[int, int]:
    """Responses of a teacher's round 0 that have an outcome, and those of them that passed."""
    if not workspace.manifest.shards(f"verify.{teacher.name}"):
        return 0, 0
    with closing(open_views(workspace)) as views:
        [found] = views.execute(
            """
            select count(passed), count(*) filter (passed)
            from verdicts
            where verifier = 'outcome' and teacher = $teacher and sample_index < $samples
            """,
            {"teacher": teacher.name, "samples": teacher.samples},
        ).fetchall()
    return found[0], found[1]


def _commit(shard: Shard) -> None:
    try:
        shard.commit()
    finally:
        shard.close()
