"""The parent's side of `runner: {kind: prefect}`: ranges of shards become runs of a deployment on a work pool.

    for every range:  not taken ─► sent ─► held ─► done (the manifest says so)
                          ▲                  │
                          └── given again ◄──┘  silent, crashed, failed, stopped

What is done stands in the manifest, who is at work in the leases; Prefect's states are believed only where they say
that a run is over (a worker that dies leaves its runs "Running"). A range is given again under the next term of its
lease, so that the worker that had it can't come back to it. A parent that is started again finds the leases of living
workers and waits for those; a run that the dead parent had queued finds its term taken and ends at once.

Covered: death, freezing and cancelling of workers and parents, a Prefect server that is away for a while. Not
covered: two parents with recipes that differ on one workspace (their commits are kept apart by law 2, not their costs).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelling

from flows.errors import UsageError
from flows.recipe import LoadedRecipe
from flows.run import Range
from flows.shares import Shares
from flows.workers import Order, left
from storage.fingerprint import hash_text
from storage.lease import Leases, LeaseTaken, Term, Watch
from tasks.allotment import Allotment, Allotter
from tasks.errors import StageError
from tasks.step import ASKED_FOR, Context, Step

POLL_S = 2.0
ATTEMPTS = 3
"""how often a range is given to a worker without a single shard coming of it"""
RUNS_AT_ONCE = 200
"""the most that Prefect's API answers in one page"""


class RangesFailed(StageError):
    """Ranges that no worker could make."""


@dataclass(frozen=True)
class Spell:
    """One worker's time with one range."""

    step: str
    range: str
    term: int
    holder: str
    seconds: float
    """as the parent saw it"""
    answered: int
    ended: str
    """`done`, or why the range was given again"""
    lost_s: float
    """from its last sign of life to its successor's first one, where the range was given again"""


@dataclass
class Sent:
    """One range: what is ordered, and how it stands."""

    step: Step
    name: str
    orders: list[Order]
    redo: bool
    after: int
    """newest term that is over; a worker takes the one that follows"""
    run: UUID | None = None
    sent_s: float = 0.0
    queued_s: float = 0.0
    """when the run was sent, and when it was last seen to be in the queue"""
    attempts: int = 0
    held: Term | None = None
    """the term that is being worked in, as last read"""
    first_s: float = 0.0
    last_s: float = 0.0
    """when that term, and its newest beat, were first seen"""
    queued: bool = False
    """sent, and not yet begun as far as Prefect says"""
    allotment: Allotment | None = None
    """what it may cost, as it was last sent"""
    broken: Spell | None = None
    """the spell that ended before the range was done, until it is known what that cost"""


def check_deployment(name: str) -> None:
    """Raises UsageError if there is no server or no deployment."""
    if not PREFECT_API_URL.value():
        raise UsageError(
            "runner.kind prefect: workers need a Prefect server: start one (prefect server start) and set "
            "PREFECT_API_URL, here and for the workers"
        )
    with get_client(sync_client=True) as client:
        try:
            client.read_deployment_by_name(name)
        except (ObjectNotFound, ValueError) as fault:
            raise UsageError(
                f"runner.deployment: the Prefect server has no deployment {name}; make it with `stillhouse deploy`"
            ) from fault


def distribute(
    loaded: LoadedRecipe, context: Context, ranges: Sequence[Range], tell: Callable[[str], None], allotter: Allotter
) -> list[Spell]:
    """Have all ranges made by workers; returns when each one's shards are committed. `allotter`: one for the whole run.

    Raises RangesFailed if a range came to nothing three times over; the ranges that are at work then are waited for,
    the queued ones are not. Whatever else ends it (a cancelled flow, Ctrl-C) revokes the leases and cancels the runs.
    `tell` is told of each range that is given again, in a line.
    """
    with get_client(sync_client=True) as client:
        return Parent(loaded, context, ranges, tell, allotter, client).run()


@dataclass
class Parent:
    """`tell`: where people are told what becomes of a range."""

    loaded: LoadedRecipe
    context: Context
    ranges: Sequence[Range]
    tell: Callable[[str], None]
    allotter: Allotter
    client: SyncPrefectClient
    sleep: Callable[[float], None] = time.sleep
    spells: list[Spell] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._runner = self.loaded.recipe.runner
        self.place, self.progress = self.context.workspace, self.context.progress
        self._shares = Shares(self.allotter, self.context, self.ranges)
        self._recipe = hash_text(self.loaded.as_yaml())
        self._leases = {one.step.key: Leases(self.place.root, one.step.key) for one in self.ranges}
        self._watches = {key: Watch() for key in self._leases}
        self._open = [sent for one in self.ranges for sent in self._blocks(one)]
        self._failed: list[str] = []
        self._warned = self._away = False
        self._began = datetime.now(UTC)

    def _blocks(self, one: Range) -> Iterable[Sent]:
        """The work in blocks whose bounds depend on the workspace alone, so that a restarted parent means the same."""
        size, shards = self._runner.shards_per_range, self.place.shards
        position = {shard: number for number, shard in enumerate(shards)}
        blocks: dict[int, list[Order]] = {}
        for work in one.work:
            order = Order(shard=work.shard, seq=self.place.manifest.last_seq(one.step.key, work.shard),
                          fingerprint=work.inputs.fingerprint)  # fmt: skip
            blocks.setdefault(position[work.shard] // size, []).append(order)
        redo = one.work[0].why == ASKED_FOR
        for block, orders in blocks.items():
            name = f"{shards[block * size]}-{shards[min((block + 1) * size, len(shards)) - 1]}"
            newest = self._leases[one.step.key].newest(name)
            after = 0 if newest is None else newest.term - (newest.state == "held")
            yield Sent(one.step, name, orders, redo, after)

    # --- the loop

    def run(self) -> list[Spell]:
        try:
            while self._open:
                states = self._states()
                for one in list(self._open):
                    self._look(one, states)
                if not self._open and not self._failed:
                    self._open = [sent for one in self._shares.left_over() for sent in self._blocks(one)]
                if self._open:
                    self.sleep(min(POLL_S, self._runner.lease_s / 4))
        except BaseException:
            self._cancel("the parent was cancelled")
            raise
        if self._failed:
            raise RangesFailed("\n".join(self._failed[:5]) + "\nwhat was answered is kept; run again to go on")
        return self.spells

    def _look(self, one: Sent, states: dict[UUID, State | None]) -> None:
        newest = self._leases[one.step.key].newest(one.name)
        if newest is None or newest.term <= one.after:
            self._not_taken(one, states)
        elif newest.state == "held":
            self._held(one, newest, states)
        else:
            self._see(one, newest)
            self._over(one, newest.term, "done" if newest.state == "done" else newest.reason)

    def _not_taken(self, one: Sent, states: dict[UUID, State | None]) -> None:
        now = time.monotonic()
        if one.run is None:
            if self._failed:
                self._open.remove(one)
            elif not self._blocked(one) and self._shares.may_send(one, self._open):
                self._send(one)
            return
        if one.run not in states:  # the server is away
            return
        state = states[one.run]
        one.queued = state is not None and state.is_scheduled()
        if state is None:
            self._over(one, one.after, "its run is gone from the Prefect server")
        elif state.is_scheduled():
            self._queued(one, one.run, now)
        elif state.is_completed():  # it saw a term that we don't see yet: the folder is slow
            if now - one.queued_s > self._runner.lease_s:
                self._over(one, one.after, "its run ended and left no lease: does the worker see the same workspace?")
        elif state.is_final():
            self._over(one, one.after, state.message or state.name or str(state.type))
        elif now - one.queued_s > self._runner.start_s:
            self._over(one, one.after, f"its run did not begin within {self._runner.start_s:.0f} s (runner.start_s)")

    def _queued(self, one: Sent, run: UUID, now: float) -> None:
        one.queued_s = now
        if self._failed:
            self._stop_run(run)
            self._open.remove(one)
        elif now - one.sent_s > self._runner.start_s and not self._warned:
            self._warned = True
            self.tell(f"{one.step.key} {one.name} waits for a worker: does one run on the work pool of "
                       f"{self._runner.deployment}?")  # fmt: skip

    def _blocked(self, one: Sent) -> bool:
        """Whether a living worker has a range that overlaps: of a parent that cut the shards into other ranges."""
        first, last = one.orders[0].shard, one.orders[-1].shard
        mine = {other.name for other in self._open if other.step is one.step}
        leases, watch = self._leases[one.step.key], self._watches[one.step.key]
        for name in leases.names():
            low, _, high = name.partition("-")
            if name not in mine and low <= last and high >= first:
                newest = leases.newest(name)
                if newest and newest.state == "held" and watch.silent_s(newest) <= self._runner.lease_s:
                    return True
        return False

    def _held(self, one: Sent, newest: Term, states: dict[UUID, State | None]) -> None:
        self._see(one, newest)
        silent = self._watches[one.step.key].silent_s(newest)
        state = states.get(one.run) if one.run and newest.run == str(one.run) else None
        if silent > self._runner.lease_s:
            self._over(one, newest.term, f"silent for {silent:.0f} s")
        elif state is not None and state.is_final() and not state.is_completed():
            self._over(one, newest.term, f"its run is {state.name}: {state.message}")

    def _see(self, one: Sent, newest: Term) -> None:
        """Take note of how far a worker is."""
        now = time.monotonic()
        one.queued = False
        if one.held is None or one.held.term != newest.term:
            if one.broken is not None:
                self._settle(one, now)
            one.held, one.first_s, one.last_s = None, now, now
        if one.held is None or one.held.beat != newest.beat or newest.state != "held":
            one.last_s = now
            was = one.held or Term(newest.range, newest.term, "", "")
            self.progress.expect(one.step.key, newest.expected - was.expected)
            self.progress.advance(one.step.key, newest.answered - was.answered)
        one.held = newest

    def _settle(self, one: Sent, now: float) -> None:
        """It is known now what a broken spell cost."""
        assert one.broken is not None
        lost = now - one.last_s
        self.spells.append(replace(one.broken, lost_s=round(lost, 1)))
        self.tell(f"{one.step.key} {one.name} is at work again: {lost:.1f} s lost")
        one.broken = None

    def _over(self, one: Sent, term: int, reason: str) -> None:
        """A worker is through with the range, or through with itself."""
        rest = left(self.place, one.step.key, one.orders)
        holder = one.held.holder if one.held and one.held.term == term else ""
        answered = one.held.answered if holder and one.held else 0
        seconds = round(time.monotonic() - one.first_s, 1) if holder else 0.0
        if not rest:
            self.spells.append(Spell(one.step.key, one.name, term, holder, seconds, answered, "done", 0.0))
            self._open.remove(one)
            return
        if reason == "done":
            reason = f"it ended without making the shards {', '.join(order.shard for order in rest[:3])}"
        one.attempts = 1 if len(rest) < len(one.orders) else one.attempts + 1
        if holder:
            one.broken = Spell(one.step.key, one.name, term, holder, seconds, answered, reason, 0.0)
        if one.attempts >= ATTEMPTS:
            self._failed.append(f"{one.step.key} range {one.name}: given out {ATTEMPTS} times, nothing came: {reason}")
            self._open.remove(one)
            return
        self.tell(f"{one.step.key} {one.name}{f' at {holder}' if holder else ''}: {reason}; given to another worker")
        one.orders, one.after, one.run, one.queued = rest, term, None, False
        self._not_taken(one, {})

    # --- Prefect

    def _send(self, one: Sent) -> None:
        leases = self._leases[one.step.key]
        one.allotment = self._shares.give(one, self._open, leases)
        if self._shares.closes(one, leases):
            return
        parameters: dict[str, Any] = {
            "workspace": str(self.place.root), "recipe": self._recipe, "base": str(self.loaded.base),
            "step": one.step.key, "range": one.name, "orders": [order.model_dump() for order in one.orders],
            "after": one.after, "redo": one.redo,
            "allotment": one.allotment.as_json() if one.allotment else None,
        }  # fmt: skip
        due = self._began if one.attempts else datetime.now(UTC)  # what is given again goes before what was never begun
        try:
            run: Any = run_deployment(self._runner.deployment, parameters=parameters, timeout=0,
                                      scheduled_time=due, flow_run_name=f"{one.step.key} {one.name}")  # fmt: skip
        except httpx.HTTPError as fault:  # the next round tries again
            self._unreachable(fault)
            return
        one.run, one.sent_s, one.queued_s, one.queued = run.id, time.monotonic(), time.monotonic(), True

    def _states(self) -> dict[UUID, State | None]:
        """The states of the open runs; None for one that the server doesn't know. Empty while the server is away."""
        ids = [one.run for one in self._open if one.run is not None]
        found: dict[UUID, State | None] = dict.fromkeys(ids)
        try:
            for start in range(0, len(ids), RUNS_AT_ONCE):
                some = FlowRunFilter(id=FlowRunFilterId(any_=ids[start : start + RUNS_AT_ONCE]))
                found |= {run.id: run.state for run in self.client.read_flow_runs(flow_run_filter=some,
                                                                                  limit=RUNS_AT_ONCE)}  # fmt: skip
        except httpx.HTTPError as fault:
            self._unreachable(fault)
            return {}
        if ids:
            self._away = False
        return found

    def _unreachable(self, fault: httpx.HTTPError) -> None:
        """Told once for each time that the server goes away, not in every round for every range."""
        if not self._away:
            self.tell(f"the Prefect server can't be reached: {fault}")
        self._away = True

    def _stop_run(self, run: UUID) -> None:
        try:
            self.client.set_flow_run_state(run, Cancelling())
        except (httpx.HTTPError, ObjectNotFound) as fault:
            self.tell(f"run {run} could not be cancelled: {fault}")

    def _cancel(self, reason: str) -> None:
        """Take every open range from its worker: by the lease, which needs no server, and by Prefect, for the UI."""
        for one in self._open:
            leases = self._leases[one.step.key]
            for _ in range(2):  # a worker may take it between the two calls
                newest = leases.newest(one.name)
                try:
                    leases.take(one.name, newest.term if newest else 0, "", revoke=reason)
                    break
                except LeaseTaken:
                    continue
            for run in {one.run, UUID(newest.run) if newest and newest.state == "held" and newest.run else None}:
                if run is not None:
                    self._stop_run(run)
