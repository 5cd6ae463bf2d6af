"""Allotments: how a parent divides what is left of a budget over the ranges of shards that workers make side by side.

A range is allotted its share, by the requests that it misses, when it is sent out, and its lease carries that. An
allotment is a ceiling on what the range may have cost when its worker is through, whatever it cost before included: so
whoever follows a worker that died goes by what that one committed or left in its logs. What a range at work has not
spent of its allotment is kept for it; once it is over, that is there for others.

All workers together exceed a budget by no more than what each had in flight. Not covered: what a worker that froze,
and whose range was given to another, had in flight; hours on machines whose clocks differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from storage.workspace import Workspace
from tasks.budget import Budget, Spent, allot, missing, spent_by_shard
from tasks.plan import ROUNDS, slices
from tasks.settings import Settings
from tasks.step import Step
from tasks.teachers.settings import BudgetSettings, TeacherBase

AMOUNTS = ("requests", "tokens", "money")


class Allotment(Settings):
    """What the shards from `first` to `last` may have cost in all at one step; null: no limit."""

    whose: str
    """the budgets that it is a share of"""
    first: str
    last: str
    requests: int | None = None
    tokens: int | None = None
    money: float | None = None
    hours: float | None = None
    """of the whole run, which began at `began`, seconds of the epoch"""
    began: float = 0.0

    def shards(self, workspace: Workspace) -> list[str]:
        return shards_between(workspace, self.first, self.last)

    def limits(self) -> BudgetSettings:
        return BudgetSettings(requests=self.requests, tokens=self.tokens, money=self.money, hours=self.hours)


def shards_between(workspace: Workspace, first: str, last: str) -> list[str]:
    return [shard for shard in workspace.shards if first <= shard <= last]


@dataclass(frozen=True)
class Reserved:
    """A range that is queued or at work, and what it was allotted."""

    step: str
    allotment: Allotment


@dataclass(frozen=True)
class _Purse:
    whose: str
    limits: BudgetSettings
    teachers: tuple[TeacherBase, ...]


class Allotter:
    """The budgets of a recipe, in the hands of the one who sends ranges out; make one for a whole run, since hours are
    counted from the first allotment. `total` is for all `teachers` together, each one's own is in its settings."""

    def __init__(self, total: BudgetSettings | None, teachers: Sequence[TeacherBase],
                 clock: Callable[[], float] = time.time) -> None:  # fmt: skip
        self._clock = clock
        paid = tuple(one for one in teachers if one.costs)
        self._teachers = {one.name: one for one in paid}
        shared = [_Purse("budget of all teachers", total, paid)] if total else []
        self._purses = {
            one.name: [*([_Purse(f"budget of {one.name}", one.budget, (one,))] if one.budget else []), *shared]
            for one in paid
        }
        self._began: dict[str, float] = {}

    def limits(self, step: str) -> bool:
        """Whether what a step asks is under a budget."""
        return bool(self._purses.get(teacher_of(step)))

    def missing(self, workspace: Workspace, step: Step, shards: Iterable[str], *, again: bool) -> int:
        """Requests of some shards that wait to be asked, an upper bound."""
        teacher = self._teachers[teacher_of(step.key)]
        if step.key.endswith(ROUNDS):
            teacher = teacher.model_copy(update={"samples": teacher.max_samples - teacher.samples})
        return sum(missing(workspace, step, teacher, shard, again=again) for shard in shards)

    def allot(self, workspace: Workspace, step: str, shards: Sequence[str], own: int, rest: int,
              reserved: Sequence[Reserved]) -> Allotment:  # fmt: skip
        """The ceiling of a range, `shards`, that misses `own` requests, where ranges that were not sent out yet miss
        `rest` more and `reserved` are."""
        costs = _Costs(workspace)
        before = costs.amounts(self._teachers[teacher_of(step)], costs.of(step, shards))
        ceilings: dict[str, list[float]] = {}
        purses = self._purses[teacher_of(step)]
        for purse in purses:
            self._began.setdefault(purse.whose, self._clock())
            share = allot(self._left(purse, costs, reserved), [own, rest])[0].as_json()
            for name in AMOUNTS:
                if share[name] is not None:
                    ceilings.setdefault(name, []).append(before[name] + share[name])
        timed = [(self._began[one.whose] + 3600 * one.limits.hours, one) for one in purses if one.limits.hours]
        first = min(timed, key=lambda one: one[0])[1] if timed else None
        return Allotment.model_validate({
            "whose": f"{' and '.join(one.whose for one in purses)}, the share of {shards[0]}-{shards[-1]}",
            "first": shards[0], "last": shards[-1], **{name: min(found) for name, found in ceilings.items()},
            "hours": first.limits.hours if first else None, "began": self._began[first.whose] if first else 0.0,
        })  # fmt: skip

    def used_up(self, workspace: Workspace, step: str, allotment: Allotment) -> bool:
        """Whether an allotment lets nothing be asked."""
        spent = _Costs.amounts(self._teachers[teacher_of(step)], _spent_of(workspace, step, allotment))
        limits = allotment.limits().as_json()
        late = allotment.hours is not None and self._clock() >= allotment.began + 3600 * allotment.hours
        return late or any(limits[name] is not None and spent[name] >= limits[name] for name in AMOUNTS)

    def anything_left(self, workspace: Workspace, step: str) -> bool:
        """Whether every budget of a step's teacher has something left."""
        costs = _Costs(workspace)
        for purse in self._purses[teacher_of(step)]:
            left = self._left(purse, costs, ()).as_json()
            began = self._began.get(purse.whose, self._clock())
            late = purse.limits.hours is not None and self._clock() >= began + 3600 * purse.limits.hours
            if late or any(left[name] is not None and left[name] <= 0 for name in AMOUNTS):
                return False
        return True

    def _left(self, purse: _Purse, costs: _Costs, reserved: Sequence[Reserved]) -> BudgetSettings:
        """What is neither spent nor kept for a range."""
        used: dict[str, float] = dict.fromkeys(AMOUNTS, 0)
        for teacher in purse.teachers:
            for part in slices(teacher):
                for name, amount in costs.amounts(teacher, costs.of(f"generate.{part}")).items():
                    used[name] += amount
        own = {one.name: one for one in purse.teachers}
        for one in reserved:
            if (whose := own.get(teacher_of(one.step))) is not None:
                spent = costs.amounts(whose, costs.of(one.step, one.allotment.shards(costs.workspace)))
                ceilings = one.allotment.limits().as_json()
                for name in AMOUNTS:
                    used[name] += max(0, ceilings[name] - spent[name]) if ceilings[name] is not None else 0
        limits = purse.limits.as_json()
        return purse.limits.model_copy(
            update={name: max(0, limits[name] - used[name]) for name in AMOUNTS if limits[name] is not None}
            | {"hours": None}
        )


class _Costs:
    """What each shard has cost, each step's counted once."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._spent: dict[str, dict[str, Spent]] = {}

    def of(self, step: str, shards: Iterable[str] | None = None) -> Spent:
        if step not in self._spent:
            self._spent[step] = spent_by_shard(self.workspace, step)
        found = self._spent[step]
        return sum((found.get(shard, Spent()) for shard in (found if shards is None else shards)), Spent())

    @staticmethod
    def amounts(teacher: TeacherBase, spent: Spent) -> dict[str, float]:
        prompt, completion = spent.prompt_tokens, spent.completion_tokens
        return {"requests": spent.requests, "tokens": prompt + completion,
                "money": teacher.price(prompt, completion) or 0.0}  # fmt: skip


def teacher_of(step: str) -> str:
    """Whose requests a step `generate.<teacher>` or `generate.<teacher>.rounds` asks."""
    return step.removeprefix("generate.").removesuffix(ROUNDS)


def begin(budget: Budget, workspace: Workspace, step: Step, teacher: TeacherBase, allotment: Allotment | None) -> None:
    """Start a teacher's asking: within the allotment, else within the whole budget."""
    if allotment is None:
        budget.begin(workspace, teacher)
    else:
        spent = _spent_of(workspace, step.key, allotment)
        budget.begin_share(teacher, allotment.whose, allotment.limits(), spent, time.time() - allotment.began)


def _spent_of(workspace: Workspace, step: str, allotment: Allotment) -> Spent:
    """What the shards of an allotment have cost."""
    return sum(spent_by_shard(workspace, step, allotment.shards(workspace)).values(), Spent())
