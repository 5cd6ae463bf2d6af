"""Steps: what a recipe unfolds into, and what of it is left to do.

A step makes one slice of one table per shard (`scope` shard or global) or one result for the workspace (`one`). Its
fingerprint covers its version, the settings it reads, the files it reads and the content of the slices it reads; a
slice whose newest commit has the same fingerprint and nothing pending is done (law 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from storage.fingerprint import combine
from storage.manifest import Head, Inputs, explain
from storage.workspace import ALL, Transaction, Workspace

if TYPE_CHECKING:
    from tasks.allotment import Allotment

ASKED_FOR = "asked for (--from)"


class Progress(Protocol):
    """Where a stage says how far it is; units are the stage's own (records, questions, requests)."""

    def expect(self, step: str, units: int) -> None: ...

    def advance(self, step: str, units: int = 1) -> None: ...


class Quiet:
    """Progress that nobody watches."""

    def expect(self, step: str, units: int) -> None:
        pass

    def advance(self, step: str, units: int = 1) -> None:
        pass


@dataclass(frozen=True)
class Context:
    """What every stage is handed."""

    workspace: Workspace
    run_id: str
    progress: Progress = field(default_factory=Quiet)
    memory_mb: int = 4096
    allotment: Allotment | None = None
    """of a worker: what its range may cost"""

    def begin(self, step: Step, work: Work) -> Transaction:
        return self.workspace.begin(step.key, work.shard, work.inputs, run_id=self.run_id, why=work.why)

    def drop(self, step: str, unit: str, unit_id: str, rule: str, *, value: float | None = None,
             threshold: float | None = None, evidence: str = "{}") -> dict[str, Any]:  # fmt: skip
        """One row of the ledger."""
        return {
            "stage": step, "unit": unit, "unit_id": unit_id, "rule": rule, "value": value, "threshold": threshold,
            "evidence": evidence, "run_id": self.run_id,
        }  # fmt: skip


@dataclass(frozen=True)
class Work:
    """One slice to make, from what, and why."""

    shard: str
    inputs: Inputs
    why: str


@dataclass(frozen=True)
class Step:
    """One step of a recipe.

    `run` gets all of its work at once for `global` and `one` steps, and a range of it for `shard` steps.
    """

    key: str
    stage: str
    """the command that runs it: ingest, curate, generate, …"""
    scope: Literal["shard", "global", "one"]
    version: str
    settings: dict[str, Any]
    reads: tuple[str, ...]
    run: Callable[[Context, Step, Sequence[Work]], None]
    files: Callable[[Path], dict[str, str]] = lambda cache: {}
    """sha256 of each file read from outside the workspace, by its name in the books"""
    lanes: int = 1
    """into how many ranges of shards its work may be split, to run side by side"""
    exclusive: bool = False
    """runs alone, because it fills the machine by itself"""

    def shards(self, workspace: Workspace) -> list[str]:
        return [ALL] if self.scope == "one" else workspace.shards


class Heads:
    """The newest commits, those of a step read at once: one look at the manifest for one round of planning."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._heads: dict[str, dict[str, Head]] = {}

    def of(self, step: str) -> dict[str, Head]:
        """Of every shard of a step that has one."""
        if step not in self._heads:
            self._heads[step] = self.workspace.heads(step)
        return self._heads[step]

    def get(self, step: str, shard: str) -> Head | None:
        return self.of(step).get(shard)


def pending_work(
    step: Step, by_key: dict[str, Step], heads: Heads, files: dict[str, str], *, redo: bool = False
) -> list[Work] | None:
    """The slices of `step` that must be made; None if a slice that it reads isn't there yet.

    With `redo` every slice is made again.
    """
    workspace = heads.workspace
    whole: dict[str, str] = {}
    work = []
    for shard in step.shards(workspace):
        reads = {}
        for key in step.reads:
            same = step.scope == "shard" and by_key[key].scope != "one"
            if same:
                head = heads.get(key, shard)
                content = head.content if head else None
            else:
                if key not in whole:
                    whole[key] = _whole_content(by_key[key], heads) or ""
                content = whole[key]
            if not content:
                return None
            reads[key] = content
        inputs = Inputs(step.version, step.settings, reads, files)
        head = heads.get(step.key, shard)
        why = _why(head, inputs, redo)
        if why:
            work.append(Work(shard, inputs, why))
    return work


def _whole_content(step: Step, heads: Heads) -> str | None:
    found = [heads.get(step.key, shard) for shard in step.shards(heads.workspace)]
    contents = [head.content for head in found if head is not None]
    return combine(contents) if len(contents) == len(found) else None


def _why(head: Head | None, inputs: Inputs, redo: bool) -> str:
    if redo:
        return ASKED_FOR
    changed = explain(head.inputs if head else None, inputs)
    if changed or head is None:
        return changed
    return f"{head.pending} units pending" if head.pending else ""


def chunks(work: Sequence[Work], size: int) -> list[list[Work]]:
    return [list(work[start : start + size]) for start in range(0, len(work), size)]
