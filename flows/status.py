"""What a workspace holds: per step its shards, units, drops by rule, pending, and what would be redone and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from flows.run import Plan
from storage.errors import BooksDontBalance
from storage.manifest import Head
from storage.workspace import Workspace
from tasks.label import agreement_lines
from tasks.pairs import pair_lines
from tasks.shard_log import count_rows, log_folder, logs
from tasks.step import Heads, Step


@dataclass
class Booked:
    """What the newest commits of a step's shards say, added up."""

    step: str
    shards: int = 0
    units: dict[str, Counter[str]] = field(default_factory=dict)
    """unit → in, out, pending"""
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(unit, rule) → number"""
    seconds: float = 0.0
    """of work; shards that ran side by side count each for itself"""

    @property
    def pending(self) -> int:
        return sum(counts["pending"] for counts in self.units.values())

    def add(self, head: Head) -> None:
        self.seconds += head.seconds
        for book in head.books:
            counts = self.units.setdefault(book.unit, Counter())
            counts.update({"in": book.units_in, "out": book.units_out, "pending": book.pending})
            self.dropped.update({(book.unit, rule): number for rule, number in book.dropped.items()})


@dataclass
class StepStatus(Booked):
    """One step as the manifest has it, and what a run would do to it."""

    shards_done: int = 0
    made_because: tuple[str, ...] = ()
    """why the newest commits were made"""
    created: str = ""
    budget: Counter[str] = field(default_factory=Counter)
    """which budget was reached, with numbers → requests that it left unasked"""
    unfinished: int = 0
    """responses in the logs of shards that aren't committed"""
    todo: int = 0
    todo_because: tuple[str, ...] = ()
    balanced: bool = True


def step_status(workspace: Workspace, step: str, shards: Sequence[str], heads: Heads | None = None) -> StepStatus:
    """A step's books, added up over its shards, each checked again. `heads` spares reading the manifest again where
    nothing was committed since."""
    status = StepStatus(step, shards=len(shards))
    reasons: Counter[str] = Counter()
    there = (heads or Heads(workspace)).of(step)
    for shard in shards:
        head = there.get(shard)
        if head is None:
            continue
        status.shards_done += 1
        status.add(head)
        status.created = max(status.created, head.created)
        reasons[head.reason] += 1
        status.balanced = status.balanced and _balanced(head)
        if left := head.extra.get("budget"):
            status.budget[left["reached"]] += left["not_asked"]
    status.unfinished = sum(map(count_rows, logs(log_folder(workspace.root, step))))
    status.made_because = tuple(reason for reason, _ in reasons.most_common())
    return status


def _balanced(head: Head) -> bool:
    try:
        for book in head.books:
            book.check(f"{head.step} shard {head.shard}")
    except BooksDontBalance:
        return False
    return True


def budget_lines(status: StepStatus) -> list[str]:
    """What budgets left unasked."""
    return [f"{reached}: {number:,} requests not asked" for reached, number in status.budget.items()]


def curation_lines(workspace: Workspace) -> list[str]:
    """What curation measured of itself: recall of the pairs, agreement of the labels."""
    return [*pair_lines(workspace), *agreement_lines(workspace)]


def recipe_status(plan: Plan) -> list[StepStatus]:
    """The status of each step of a recipe, with what a run would redo.

    A step behind one that will be redone is shown as waiting for it: whether it changes is known only then.
    """
    found = []
    moving: list[Step] = []
    heads = Heads(plan.workspace)
    for step in plan.steps:
        status = step_status(plan.workspace, step.key, step.shards(plan.workspace), heads)
        work = plan.pending(step, heads)
        behind = [one.key for one in moving if one.key in step.reads]
        if work is None:
            status.todo, status.todo_because = status.shards, ("its input isn't there yet",)
        elif work:
            status.todo, status.todo_because = len(work), tuple(sorted({one.why for one in work}))
        elif behind:
            status.todo_because = (f"if {behind[0]}{' or another input' if len(behind) > 1 else ''} changes",)
        if status.unfinished:
            status.todo_because += (f"{status.unfinished:,} responses are there and not committed",)
        status.todo_because += tuple(budget_lines(status))
        if work != [] or behind:
            moving.append(step)
        found.append(status)
    return found


def workspace_status(workspace: Workspace, heads: Heads | None = None) -> list[StepStatus]:
    """The status of every step that has a commit, without a recipe."""
    manifest, heads = workspace.manifest, heads or Heads(workspace)
    return [step_status(workspace, step, manifest.shards(step), heads) for step in manifest.steps()]


def summary_markdown(workspace: Workspace, done: Sequence[tuple[str, int, str]], pending: dict[str, int],
                     heads: Heads | None = None) -> str:  # fmt: skip
    """What a run did, as Markdown."""
    lines = [f"# {workspace.root.name}", "", "| step | shards | why |", "|---|---|---|"]
    lines += [f"| {step} | {shards} | {why.replace('|', '/')} |" for step, shards, why in done]
    if pending:
        lines += ["", "Pending: " + ", ".join(f"{step} {number}" for step, number in pending.items())]
    for one in workspace_status(workspace, heads):
        lines += [f"\n{one.step} stopped: {line}" for line in budget_lines(one)]
    if measured := curation_lines(workspace):
        lines += ["", "## Curation", "", *(f"- {line}" for line in measured)]
    return "\n".join(lines)
