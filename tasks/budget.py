"""Budgets: what may be spent on a recipe's teachers, in requests, tokens, money and hours, by teacher and in all.

What is spent is counted from what the workspace holds: every response that was ever paid for, whatever recipe it was
asked by, those in the logs of unfinished shards too. So a second run with the same budget spends nothing more, and one
with a larger budget goes on. Hours are those of one run.

A request that fails counts against `requests` in its own run only, so that a broken server isn't asked for ever.
How long a response gets is known only when it is there: requests in flight are reckoned at the mean of those before
(of the first ones: `expected_tokens`, else max_tokens), so that tokens and money overshoot by as much as those in
flight differ from it, at most by what is in flight.

Covered: one process that asks all teachers; how workers share a budget is in tasks/allotment.py. Not covered: what
scorers, judges and labellers cost; teachers that have left the recipe.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pyarrow.compute as pc

from storage.manifest import Head
from storage.schemas import TABLES
from storage.workspace import Workspace
from tasks.plan import slices
from tasks.shard_log import log_folder, logs, read_log, shard_of
from tasks.step import Step
from tasks.teachers.settings import BudgetSettings, TeacherBase
from tasks.teachers.teacher import Reply

GUESSED_TOKENS = 2048
"""Of a response, where neither the recipe nor an earlier response says."""


class Answer(Enum):
    """May one more request be sent?"""

    GO = "go"
    LATER = "later"
    """what is in flight may use up the budget; ask again when it is there"""
    NO = "no"


@dataclass(frozen=True)
class Spent:
    requests: int = 0
    """answered or refused"""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.requests + other.requests, self.prompt_tokens + other.prompt_tokens,
                     self.completion_tokens + other.completion_tokens)  # fmt: skip


@dataclass
class _Account:
    """One teacher's spending."""

    teacher: TeacherBase
    spent: Spent = Spent()
    counted: bool = False
    in_flight: int = 0
    failed: int = 0
    """in this run"""

    @property
    def asked(self) -> int:
        return self.spent.requests + self.failed + self.in_flight

    @property
    def tokens(self) -> int:
        return self.spent.prompt_tokens + self.spent.completion_tokens

    @property
    def money(self) -> float:
        return self.teacher.price(self.spent.prompt_tokens, self.spent.completion_tokens) or 0.0

    def expected(self) -> tuple[float, float]:
        """Tokens and money that the requests in flight may cost."""
        if self.spent.requests:
            each = self.in_flight / self.spent.requests
            return each * self.tokens, each * self.money
        tokens = self.in_flight * _guess(self.teacher)
        return tokens, self.teacher.price(0, tokens) or 0.0


def _guess(teacher: TeacherBase) -> int:
    samplings = (teacher.sampling, *teacher.sampling_by_category.values())
    longest = max((one.max_tokens for one in samplings if one.max_tokens), default=GUESSED_TOKENS)
    return teacher.expected_tokens or longest


@dataclass
class _Purse:
    """One budget and the teachers that it is for."""

    whose: str
    limits: BudgetSettings
    accounts: list[_Account]
    began: float | None = None

    def judge(self, account: _Account) -> tuple[Answer, str]:
        """Whether `account` may send one more, and if not, what is used up."""
        later = False
        for name, limit, used, expected in self._amounts():
            if used >= limit:
                return Answer.NO, f"{self.whose}: {_shown(used)} of {_shown(limit)} {name}"
            later |= used + expected >= limit
        return (Answer.LATER if later and account.in_flight else Answer.GO), ""

    def _amounts(self) -> Iterator[tuple[str, float, float, float]]:
        """(name, limit, used, expected of what is in flight)"""
        limits, accounts = self.limits, self.accounts
        if limits.requests is not None:
            yield "requests", limits.requests, sum(one.asked for one in accounts), 0
        if limits.tokens is not None:
            yield ("tokens", limits.tokens, sum(one.tokens for one in accounts),
                   sum(one.expected()[0] for one in accounts))  # fmt: skip
        if limits.money is not None:
            yield ("money", limits.money, sum(one.money for one in accounts),
                   sum(one.expected()[1] for one in accounts))  # fmt: skip
        if limits.hours is not None:
            yield "hours", limits.hours, (time.monotonic() - (self.began or time.monotonic())) / 3600, 0


class Budget:
    """What one process may spend on its teachers. Threads may share it.

    `total`: for all `teachers` together; each one's own is in its settings. Replayed teachers cost nothing.
    """

    def __init__(self, total: BudgetSettings | None, teachers: Sequence[TeacherBase]) -> None:
        paid = [one for one in teachers if one.costs]
        self._accounts = {one.name: _Account(one) for one in paid}
        self._total = _Purse("budget of all teachers", total, list(self._accounts.values())) if total else None
        self._purses: dict[str, list[_Purse]] = {one.name: [] for one in teachers}
        """each teacher's own, then the one for all"""
        for name, account in self._accounts.items():
            own = account.teacher.budget
            self._purses[name] += [_Purse(f"budget of {name}", own, [account])] if own else []
            self._purses[name] += [self._total] if self._total else []
        self._lock = threading.Lock()

    def shared(self, teacher: str) -> bool:
        """Whether this teacher spends from the same budget as the others: they are asked one after the other then."""
        return self._total is not None and teacher in self._accounts

    def begin(self, workspace: Workspace, teacher: TeacherBase) -> None:
        """Count what is spent and start the clocks; call it before a teacher's first request."""
        with self._lock:
            for purse in self._purses[teacher.name]:
                purse.began = purse.began or time.monotonic()
                for account in purse.accounts:
                    if not account.counted:
                        for one in slices(account.teacher):
                            account.spent += spent(workspace, f"generate.{one}")
                        account.counted = True

    def begin_share(self, teacher: TeacherBase, whose: str, limits: BudgetSettings, cost: Spent, ran_s: float) -> None:
        """Go by these limits alone: on requests that have cost so much, in a run that began `ran_s` seconds ago."""
        account = _Account(teacher, cost, counted=True)
        with self._lock:
            self._accounts[teacher.name] = account
            self._purses[teacher.name] = [_Purse(whose, limits, [account], time.monotonic() - ran_s)]

    def admit(self, teacher: str) -> Answer:
        """GO takes one request into flight."""
        if not (purses := self._purses[teacher]):
            return Answer.GO
        with self._lock:
            account = self._accounts[teacher]
            answers = [purse.judge(account)[0] for purse in purses]
            for worst in (Answer.NO, Answer.LATER):
                if worst in answers:
                    return worst
            account.in_flight += 1
            return Answer.GO

    def answered(self, teacher: str, reply: Reply) -> None:
        if not self._purses[teacher]:
            return
        with self._lock:
            account = self._accounts[teacher]
            account.in_flight -= 1
            if reply.error_kind == "transient":
                account.failed += 1
            else:
                account.spent += Spent(1, reply.prompt_tokens or 0, reply.completion_tokens or 0)

    def nothing_in_flight(self, teacher: str) -> None:
        """Of an engine that left requests without a reply: they count as failed."""
        with self._lock:
            if teacher in self._accounts:
                account = self._accounts[teacher]
                account.failed, account.in_flight = account.failed + account.in_flight, 0

    def reached(self, teacher: str) -> str:
        """Which limit is reached, with numbers; empty if none is."""
        with self._lock:
            for purse in self._purses[teacher]:
                answer, text = purse.judge(self._accounts[teacher])
                if answer is Answer.NO:
                    return text
        return ""

    def limits_hours(self, teacher: str) -> bool:
        return any(purse.limits.hours is not None for purse in self._purses[teacher])


def allot(left: BudgetSettings, missing: Sequence[int]) -> list[BudgetSettings]:
    """What is left of a budget, divided over ranges by the requests that each one misses.

    Requests and tokens are whole and add up to what is left (largest remainders, ties to the earlier range); money is
    divided in proportion; hours are not divided, since ranges are worked on side by side. Raises ValueError if a
    number of missing requests is negative.
    """
    if any(one < 0 for one in missing):
        raise ValueError(f"missing requests of a range are 0 or more, found {min(missing)}")
    total = sum(missing)
    shares = [one / total if total else 0.0 for one in missing]
    requests, tokens = (None if amount is None else _whole(amount, missing) for amount in (left.requests, left.tokens))
    return [
        BudgetSettings(
            requests=None if requests is None else requests[number],
            tokens=None if tokens is None else tokens[number],
            money=None if left.money is None else left.money * share,
            hours=left.hours,
        )
        for number, share in enumerate(shares)
    ]


def _whole(amount: int, missing: Sequence[int]) -> list[int]:
    total = sum(missing)
    if not total:
        return [0] * len(missing)
    given = [amount * one // total for one in missing]
    by_remainder = sorted(range(len(missing)), key=lambda number: -(amount * missing[number] % total))
    for number in by_remainder[: amount - sum(given)]:
        given[number] += 1
    return given


def by_price(teachers: Sequence[TeacherBase]) -> list[TeacherBase]:
    """The cheapest first; equals, and those without a price, which count as free, as they stand. By the price of a
    response where every priced teacher has `expected_tokens`, else by that of a token."""
    paid = [one for one in teachers if one.costs and one.price(0, 0) is not None]
    known = all(one.expected_tokens for one in paid)

    def price(teacher: TeacherBase) -> float:
        if not teacher.costs:
            return -1.0
        return teacher.price(0, (teacher.expected_tokens or 0) if known else 1) or 0.0

    return sorted(teachers, key=price)


# --- counting


def spent(workspace: Workspace, step: str) -> Spent:
    """What a generate step's responses have cost: those committed, and those in the logs of unfinished shards."""
    return sum(spent_by_shard(workspace, step).values(), Spent())


def spent_by_shard(workspace: Workspace, step: str, shards: Sequence[str] | None = None) -> dict[str, Spent]:
    """The same by shard; of these alone, if some are named. Shards that cost nothing are left out."""
    found: dict[str, Spent] = {}
    unfinished: dict[str, list[Path]] = {}
    for log in logs(log_folder(workspace.root, step)):
        unfinished.setdefault(shard_of(log), []).append(log)
    heads = workspace.heads(step) if shards is None else {}
    for shard in workspace.shards if shards is None else shards:
        head = heads.get(shard) if shards is None else workspace.head(step, shard)
        if head is not None:
            found[shard] = _committed(workspace, head)
        if shard in unfinished:
            found[shard] = found.get(shard, Spent()) + _logged(workspace, head, unfinished[shard])
    return found


def _committed(workspace: Workspace, head: Head) -> Spent:
    requests = sum(book.units_out + sum(book.dropped.values()) for book in head.books if book.unit == "request")
    names = ("prompt_tokens", "completion_tokens")
    if all(name in head.extra for name in names):
        return Spent(requests, *(int(head.extra[name]) for name in names))
    rows = workspace.read_parts(head.data(), TABLES["responses"], names)  # committed before the totals were kept
    return Spent(requests, *(pc.sum(rows.column(name)).as_py() or 0 for name in names))


def _logged(workspace: Workspace, head: Head | None, unfinished: Sequence[Path]) -> Spent:
    there = set()
    if head is not None:
        there.update(workspace.read_parts(head.data(), TABLES["responses"], ["response_id"])["response_id"].to_pylist())
    found = Spent()
    for path in unfinished:
        for identity, prompt, completion in read_log(path, ["response_id", "prompt_tokens", "completion_tokens"]):
            if identity not in there:
                there.add(identity)
                found += Spent(1, prompt or 0, completion or 0)
    return found


def missing(workspace: Workspace, step: Step, teacher: TeacherBase, shard: str, *, again: bool = False) -> int:
    """Requests of a shard that wait to be asked, without computing them: pending ones of its newest commit, or all of
    its questions' if that was made from something else. An upper bound: a log or a smaller change may leave fewer."""
    head, curated = workspace.head(step.key, shard), workspace.need("curate", shard)
    if head is None or head.inputs.settings != step.settings or head.inputs.reads.get("curate") != curated.content:
        return planned_requests(workspace, teacher, shard)
    if not again:
        return head.pending
    kept = sum(book.units_out for book in head.books if book.unit == "request")
    return max(0, planned_requests(workspace, teacher, shard) - kept)


def planned_requests(workspace: Workspace, teacher: TeacherBase, shard: str) -> int:
    """How many requests a recipe means for a shard."""
    if teacher.categories is None:
        return teacher.samples * sum(part.rows for part in workspace.need("curate", shard).data())
    asked = workspace.read("curate", shard, "curated", ["category"]).column("category").to_pylist()
    return teacher.samples * sum(one in teacher.categories for one in asked)


def _shown(amount: float) -> str:
    if isinstance(amount, int):
        return f"{amount:,}"
    return f"{amount:,.2f}" if amount >= 0.1 or not amount else f"{amount:.3g}"
