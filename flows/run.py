"""Carrying out a recipe: which steps, in which order, split into which ranges of shards.

Plain Python without Prefect: the flow hands in how to submit a range. A step starts when all that it reads is there;
the manifest alone says what is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from flows.errors import UsageError
from flows.recipe import LoadedRecipe
from flows.steps import STAGES, build_steps
from storage.workspace import Workspace
from tasks.errors import MissingInput
from tasks.plan import slices
from tasks.step import Context, Heads, Step, Work, pending_work
from tasks.teachers.settings import ReplayTeacherSettings


@dataclass(frozen=True)
class Wish:
    """What of a recipe is to be done."""

    until: str | None = None
    """last stage to run"""
    redo_from: str | None = None
    """first stage whose steps are made again, changed or not"""
    only: str | None = None
    """this one stage and nothing else"""
    teachers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("until", "redo_from", "only"):
            stage = getattr(self, name)
            if stage is not None and stage not in STAGES:
                raise UsageError(f"no stage {stage}; there are {', '.join(STAGES)}")

    def wants(self, step: Step) -> bool:
        if self.only is not None:
            return step.stage == self.only
        return self.until is None or STAGES.index(step.stage) <= STAGES.index(self.until)

    def redoes(self, step: Step) -> bool:
        return self.redo_from is not None and STAGES.index(step.stage) >= STAGES.index(self.redo_from)


@dataclass
class Plan:
    """The steps that a wish names and what the manifest says of them."""

    workspace: Workspace
    steps: list[Step]
    wish: Wish
    redone: set[str] = field(default_factory=set)

    def pending(self, step: Step, heads: Heads | None = None) -> list[Work] | None:
        """Slices that must be made now; None if something that the step reads isn't there.

        `heads` spares reading the manifest again where nothing runs in between.
        """
        redo = self.wish.redoes(step) and step.key not in self.redone
        files = step.files(self.workspace.cache / "files")
        by_key = {one.key: one for one in self.steps}
        return pending_work(step, by_key, heads or Heads(self.workspace), files, redo=redo)

    def wanted(self) -> list[Step]:
        return [step for step in self.steps if self.wish.wants(step)]

    def anything_to_do(self) -> bool:
        """Whether any wanted step has work, or can't be judged because an earlier one has."""
        heads = Heads(self.workspace)
        return any(self.pending(step, heads) != [] for step in self.wanted())


def plan(loaded: LoadedRecipe, workspace: Workspace, wish: Wish) -> Plan:
    steps = build_steps(loaded, wish.teachers)
    away = sent_out(loaded)  # fills other machines, not this one
    alone = loaded.recipe.budget is not None  # a budget that teachers share is spent by one at a time
    return Plan(workspace, [replace(step, exclusive=alone) if step.key in away else step for step in steps], wish)


def sent_out(loaded: LoadedRecipe) -> set[str]:
    """The steps whose ranges of shards go to a work pool: all teachers but replayed ones, which cost nothing."""
    if loaded.recipe.runner.kind != "prefect":
        return set()
    teachers = [one for one in loaded.recipe.teachers if not isinstance(one, ReplayTeacherSettings)]
    return {f"generate.{part}" for one in teachers for part in slices(one)}


def open_workspace(loaded: LoadedRecipe, folder: Path | None) -> Workspace:
    """The workspace of a run, made if it isn't there; the recipe is frozen into it."""
    workspace = Workspace.create(folder or loaded.default_workspace(), bits=loaded.bits)
    workspace.keep_recipe(loaded.as_yaml(), str(loaded.base))
    return workspace


def waves(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """Steps that may run side by side: neighbours that don't read each other; an exclusive one runs alone."""
    wave: list[Step] = []
    for step in steps:
        if wave and (step.exclusive or wave[-1].exclusive or any(one.key in step.reads for one in wave)):
            yield wave
            wave = []
        wave.append(step)
    if wave:
        yield wave


@dataclass(frozen=True)
class Range:
    """A task: one step over some of its shards."""

    step: Step
    work: tuple[Work, ...]

    @property
    def label(self) -> str:
        first, last = self.work[0].shard, self.work[-1].shard
        return f"{self.step.key} {first}" if first == last else f"{self.step.key} {first}…{last}"


def ranges(step: Step, work: Sequence[Work]) -> list[Range]:
    """The step's work in at most as many ranges of neighbouring shards as it has lanes."""
    lanes = min(step.lanes, len(work)) if step.scope == "shard" else 1
    size = -(-len(work) // lanes)
    return [Range(step, tuple(work[start : start + size])) for start in range(0, len(work), size)]


@dataclass(frozen=True)
class StepDone:
    """What one step did in this run."""

    step: str
    shards: int
    why: tuple[str, ...]


def carry_out(plan: Plan, submit: Callable[[Sequence[Range]], None]) -> list[StepDone]:
    """Run all wanted steps in order; `submit` runs ranges side by side and returns when all are done.

    Raises MissingInput if a step's input isn't there and isn't among the wanted steps.
    """
    done = []
    for wave in waves(plan.wanted()):
        batch: list[Range] = []
        for step in wave:
            work = plan.pending(step)
            if work is None:
                raise MissingInput(f"{step.key} reads {', '.join(step.reads)}, and not all of that is there; "
                                   f"run `stillhouse run` with --until {step.stage}")  # fmt: skip
            plan.redone.add(step.key)
            if work:
                batch += ranges(step, work)
                done.append(StepDone(step.key, len(work), tuple(sorted({one.why for one in work}))))
        if batch:
            submit(batch)
    return done


def run_range(context: Context, one: Range) -> None:
    one.step.run(context, one.step, one.work)


def still_pending(plan: Plan, heads: Heads | None = None) -> dict[str, int]:
    """Pending units of the wanted steps, by step."""
    heads = heads or Heads(plan.workspace)
    found: dict[str, int] = {}
    for step in plan.wanted():
        there = heads.of(step.key)
        number = sum(there[shard].pending for shard in step.shards(plan.workspace) if shard in there)
        if number:
            found[step.key] = number
    return found
