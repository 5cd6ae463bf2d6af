"""A parent's ranges under a budget: which may be sent, and what each is allotted (tasks/allotment.py has the sums).

One range at a time waits in the queue, so that what the others are allotted follows what the ones before have spent;
those at work are as many as there are workers. What is left when all ranges are over goes round once more, to the
shards that ran out of their share, until nothing is left or nothing more is spent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from flows.run import Range
from storage.lease import Leases, LeaseTaken
from storage.manifest import Head
from tasks.allotment import Allotment, Allotter, Reserved, shards_between
from tasks.budget import spent
from tasks.step import Context, Quiet, Work

if TYPE_CHECKING:
    from flows.distribute import Sent


class Shares:
    """`ranges`: all of them, as the parent was given them."""

    def __init__(self, allotter: Allotter, context: Context, ranges: Sequence[Range]) -> None:
        self._allotter, self._context = allotter, context
        self._limited = [one for one in ranges if allotter.limits(one.step.key)]
        self._work = {(one.step.key, work.shard): work for one in self._limited for work in one.work}
        self._requests: dict[tuple[str, str, int], int] = {}
        self._spent: dict[str, int] = {}

    def may_send(self, one: Sent, others: Sequence[Sent]) -> bool:
        """False while another range of the step waits in the queue; those that a worker had go first."""
        if not self._allotter.limits(one.step.key):
            return True
        mine = [other for other in others if other.step is one.step and other is not one]
        before = not one.attempts and any(other.attempts and other.run is None and not other.held for other in mine)
        return not before and not any(other.queued for other in mine)

    def give(self, one: Sent, others: Sequence[Sent], leases: Leases) -> Allotment | None:
        """What a range may have cost when it is done; None if it is under no budget."""
        if not self._allotter.limits(one.step.key):
            return None
        reserved = list(self._reserved(one, others, leases))
        at_work = {name for _, name in reserved}
        rest = sum(
            self._missing(other)
            for other in others
            if other.step is one.step and other is not one and other.name not in at_work
        )
        workspace = self._context.workspace
        first, _, last = one.name.partition("-")
        return self._allotter.allot(workspace, one.step.key, shards_between(workspace, first, last),
                                    self._missing(one), rest, [found for found, _ in reserved])  # fmt: skip

    def _reserved(self, one: Sent, others: Sequence[Sent], leases: Leases) -> Iterator[tuple[Reserved, str]]:
        """What the other ranges of the step keep: those that any parent's worker holds, and those sent before that."""
        held = set()
        for name in leases.names():
            newest = leases.newest(name) if name != one.name else None
            if newest and newest.state == "held" and newest.allotment:
                held.add(name)
                yield Reserved(one.step.key, Allotment.model_validate(newest.allotment)), name
        for other in others:
            if other.step is one.step and other is not one and other.run and other.allotment and other.name not in held:
                yield Reserved(other.step.key, other.allotment), other.name

    def _missing(self, one: Sent) -> int:
        key = (one.step.key, one.name, one.after)
        if key not in self._requests:
            shards = [order.shard for order in one.orders]
            self._requests[key] = self._allotter.missing(self._context.workspace, one.step, shards, again=one.redo)
        return self._requests[key]

    def closes(self, one: Sent, leases: Leases) -> bool:
        """Book here what a range leaves that is allotted nothing: no worker starts for that. False if something is."""
        if one.allotment is None or not self._allotter.used_up(self._context.workspace, one.step.key, one.allotment):
            return False
        try:
            lease = leases.take(one.name, one.after, "")
        except LeaseTaken:
            return True  # by a run that another parent had sent
        context = replace(self._context, progress=Quiet(), allotment=one.allotment)
        one.step.run(context, one.step, [self._work[one.step.key, order.shard] for order in one.orders])
        lease.end("done", 0, 0)
        return True

    def left_over(self) -> list[Range]:
        """The shards that stopped at their share, as ranges, where the budget has something left and the round before
        spent something."""
        found = []
        for one in self._limited:
            key, workspace = one.step.key, self._context.workspace
            heads = workspace.heads(key)
            stopped = [
                replace(work, why="the budget has something left")
                for work in one.work if _stopped(heads.get(work.shard), work)
            ]  # fmt: skip
            cost = spent(workspace, key).requests
            if stopped and cost > self._spent.get(key, -1) and self._allotter.anything_left(workspace, key):
                found.append(Range(one.step, tuple(stopped)))
            self._spent[key] = cost
        return found


def _stopped(head: Head | None, work: Work) -> bool:
    return head is not None and head.fingerprint == work.inputs.fingerprint and "budget" in head.extra
