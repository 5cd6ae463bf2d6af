"""The worker's side of `runner: {kind: prefect}`: one flow run works through one range of shards of one teacher.

It takes the range's lease, starts the teacher's servers once, and commits shard after shard. The lease is renewed by
a thread for as long as responses come in. Whoever loses it stops at once: what was answered is in the shard's log,
where the next worker finds it.

What is to be made comes from the recipe that is frozen in the workspace and is checked against what the parent
means, so that a worker with another version of Stillhouse, or other files, says so and makes nothing.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Literal, Self

import yaml
from prefect import flow
from prefect.context import get_run_context
from pydantic import BaseModel

from flows.recipe import LoadedRecipe, check_recipe
from flows.run import Plan, Wish, plan
from storage.files import read_file
from storage.lease import Lease, LeaseLost, Leases, LeaseTaken
from storage.manifest import Head
from storage.place import place as parse_place
from storage.workspace import Workspace
from tasks.allotment import Allotment
from tasks.errors import MissingInput, StageError
from tasks.step import Context, Step, Work

BEATS_A_LEASE = 4


class NotTheSame(StageError):
    """This worker would make something else of a shard than its parent means."""


class Order(BaseModel):
    """One shard that is to be made: its newest commit when it was ordered (0: none), and what it is made from."""

    shard: str
    seq: int
    fingerprint: str

    def done(self, head: Head | None) -> bool:
        return head is not None and head.seq > self.seq and head.fingerprint == self.fingerprint


def left(workspace: Workspace, step: str, orders: list[Order]) -> list[Order]:
    """The orders that no commit fulfils yet."""
    return [one for one in orders if not one.done(workspace.head(step, one.shard))]


@flow(name="generate", flow_run_name="{step} {range}", persist_result=False)
def generate_range(
    workspace: str, recipe: str, base: str, step: str, range: str, orders: list[Order], after: int, redo: bool = False,
    allotment: Allotment | None = None,
) -> dict[str, int]:  # fmt: skip
    """Make the shards of one range, unless somebody else is at it.

    workspace: its folder, the same for all workers. recipe: hash of the frozen recipe. base: the folder that the
    recipe's relative paths start from. range: the lease's name. after: the newest term of it that is over. redo: ask
    again what was refused. allotment: what the range may cost; null: it is under no budget. Returns the number of
    shards made; 0 where another run has the range.
    """
    place = Workspace.open(parse_place(workspace))
    loaded = frozen_recipe(place, recipe, Path(base))
    run_id = str(get_run_context().flow_run.id)  # type: ignore[union-attr]
    try:
        share = allotment.as_json() if allotment else None
        lease = Leases(place.root, step).take(range, after, run_id, allotment=share)
    except LeaseTaken:
        return {"shards": 0}
    runner = loaded.recipe.runner
    with Heartbeat(lease, runner.lease_s, runner.stalled_s) as heartbeat:
        todo = plan(loaded, place, Wish(only="generate", redo_from="generate" if redo else None))
        one = next(one for one in todo.steps if one.key == step)
        work = ordered(todo, one, orders)
        if work:
            one.run(Context(place, run_id, heartbeat, runner.memory_mb, allotment), one, work)
    return {"shards": len(work)}


def frozen_recipe(place: Workspace, recipe: str, base: Path) -> LoadedRecipe:
    path = place.root / "recipes" / f"{recipe}.yaml"
    return check_recipe(yaml.safe_load(read_file(path).decode("utf-8")), base, path=path)


def ordered(todo: Plan, step: Step, orders: list[Order]) -> list[Work]:
    """What is left of the orders as work. Raises NotTheSame, MissingInput."""
    pending = todo.pending(step)
    if pending is None:
        raise MissingInput(f"{step.key} reads {', '.join(step.reads)}, and this worker sees not all of that")
    by_shard = {one.shard: one for one in pending}
    work = []
    for order in left(todo.workspace, step.key, orders):
        one = by_shard.get(order.shard)
        if one is None or one.inputs.fingerprint != order.fingerprint:
            raise NotTheSame(
                f"{step.key} shard {order.shard}: this worker would make something else of it than its parent means; "
                "both need the same version of Stillhouse, the same model files and an unchanged workspace"
            )
        work.append(one)
    return work


class Heartbeat:
    """Renews a lease from a thread of its own while the work makes progress, which it is told as the progress.

    When the lease is lost, whatever the main thread waits for is interrupted, and the with-block raises LeaseLost.
    """

    def __init__(self, lease: Lease, lease_s: float, stalled_s: float) -> None:
        self._lease, self._lease_s, self._stalled_s = lease, lease_s, stalled_s
        self._expected = self._answered = 0
        self._moved = self._renewed = time.monotonic()
        self._lost: LeaseLost | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def expect(self, step: str, units: int) -> None:
        self._expected += units
        self._moved = time.monotonic()

    def advance(self, step: str, units: int = 1) -> None:
        """Raises LeaseLost, also when this process slept for longer than its lease and only now finds out."""
        if units:
            self._answered += units
            self._moved = time.monotonic()
        if time.monotonic() - self._renewed > self._lease_s:
            self._beat()
        if self._lost is not None:
            raise self._lost

    def _run(self) -> None:
        while not self._ended.wait(self._lease_s / BEATS_A_LEASE):
            self._beat()
            with self._lock:
                if self._lost is not None and not self._ended.is_set():
                    if self._in_main:
                        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                    return

    def _beat(self) -> None:
        with self._lock:
            now = time.monotonic()
            if self._lost is not None or self._ended.is_set():
                return
            if now - self._moved > self._stalled_s:
                self._lost = LeaseLost(f"range {self._lease.term.range}: nothing came for {now - self._moved:.0f} s "
                                       "(runner.stalled_s); its lease is given up")  # fmt: skip
                with contextlib.suppress(OSError, LeaseLost):
                    self._end("failed", str(self._lost))
                return
            try:
                self._lease.renew(self._expected, self._answered)
                self._renewed = time.monotonic()
            except LeaseLost as lost:
                self._lost = lost
            except OSError as fault:  # the folder may come back; for longer than the lease it is not ours
                if now - self._renewed > self._lease_s:
                    self._lost = LeaseLost(f"range {self._lease.term.range}: the lease could not be renewed: {fault}")

    def __enter__(self) -> Self:
        self._in_main = threading.current_thread() is threading.main_thread()
        if self._in_main:  # a signal, since nothing else wakes a thread that waits for a lock or a socket
            self._handler = signal.signal(signal.SIGUSR1, self._interrupt)
        self._thread.start()
        return self

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._lost is not None:
            raise self._lost

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._ended.set()
        self._thread.join()
        if self._in_main:
            signal.signal(signal.SIGUSR1, self._handler)
        if self._lost is not None:
            if error is self._lost:
                return
            raise self._lost from error
        if error is None:
            self._end("done")
        else:
            with contextlib.suppress(OSError, LeaseLost):
                self._end("failed", f"{type(error).__name__}: {error}"[:2000])

    def _end(self, state: Literal["done", "failed"], reason: str = "") -> None:
        self._lease.end(state, self._expected, self._answered, reason)
