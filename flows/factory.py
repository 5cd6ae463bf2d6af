"""The factory flow: a recipe from its sources to its report.

    ingest ─► curate ─► generate ─► (score) ─► verify ─► grade ─► select ─► export ─► train ─► evaluate ─► report

Rows don't pass through Prefect (law 8): a task gets a range of shards and returns how many it made. What is done
stands in the workspace's manifest; Prefect's own state is for people to look at.

A finished run tells so in the event `stillhouse.run.finished`, which other deployments may be triggered by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.context import get_run_context
from prefect.futures import PrefectFuture, wait
from prefect.states import Cancelled
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from pydantic import WithJsonSchema

from flows.artifacts import publish, tell_event
from flows.distribute import Spell, check_deployment, distribute
from flows.errors import UsageError
from flows.log_json import logged
from flows.progress import Artifacts, artifact_key, progress, say
from flows.recipe import LoadedRecipe, load_recipe
from flows.run import Range, Wish, carry_out, open_workspace, plan, run_range, sent_out, still_pending
from flows.steps import STAGES, workers
from flows.stop import Stoppable, Stopped
from storage.place import place as parse_place
from storage.run_lock import run_lock
from storage.workspace import Workspace
from tasks.allotment import Allotter
from tasks.step import Context, Heads, Quiet
from tasks.teachers.settings import BudgetSettings

Stage = Annotated[str, WithJsonSchema({"type": "string", "enum": list(STAGES)})]
"""the name of a stage; the form in the Prefect UI lists them to choose from"""

FINISHED = "stillhouse.run.finished"


@task(name="range", task_run_name="{label}", cache_policy=NO_CACHE, persist_result=False)
def range_task(label: str, context: Any, one: Any) -> Any:
    """One step over a range of shards; how many, or the state Cancelled."""
    try:
        with logged(context, one):
            run_range(context, one)
    except Stopped as stopped:
        return Cancelled(message=str(stopped))
    return len(one.work)


@flow(name="factory", persist_result=False)
def factory(
    recipe: str,
    workspace: str | None = None,
    until: Stage | None = None,
    teachers: list[str] | None = None,
    overrides: list[str] | None = None,
    redo_from: Stage | None = None,
    only: Stage | None = None,
    budget: BudgetSettings | None = None,
    student: Literal["here", "apart"] = "here",
) -> dict[str, int]:
    """Run or resume a recipe: only what is missing or changed is made.

    Args:
        recipe: Path of the recipe (YAML).
        workspace: Folder of the data set; empty: the recipe's own, or workspaces/NAME.
        until: Last stage to run; empty: all of them.
        teachers: Ask only these teachers; empty: all of the recipe's.
        overrides: Settings of the recipe to override, one a line, such as curate.heldout=0.1.
        redo_from: Make everything from this stage on again, changed or not.
        only: Run this one stage and no other; its input must be there.
        budget: What may be spent on all teachers, where it differs from the recipe's.
        student: here: train and evaluate in this run. apart: end with the export, and let the deployment `student`,
            which the end of this run triggers, do the rest.

    Returns:
        The pending units by step; empty when all is done.
    """
    limits = budget.as_json() if budget else {}
    limited = [f"budget.{name}={limit}" for name, limit in limits.items() if limit is not None]
    loaded = load_recipe(Path(recipe), (*(overrides or ()), *limited))
    place = open_workspace(loaded, parse_place(workspace) if workspace else None)
    apart = student == "apart" and loaded.recipe.student is not None
    if apart and (until is None or STAGES.index(until) > STAGES.index("export")):
        until = "export"
    wish = Wish(until, redo_from, only, tuple(teachers) if teachers else None)
    pending = make(loaded, place, [wish])
    due = apart and _student_due(loaded, place, wish)
    _tell_finished(loaded, Path(recipe), place, overrides or [], pending, due)
    return pending


def make(loaded: LoadedRecipe, place: Workspace, wishes: Sequence[Wish]) -> dict[str, int]:
    """Carry out wishes one after the other inside a flow run, and publish its artifacts.

    Returns the pending units by step. Raises what a stage raises; a run that is cancelled stops its ranges first.
    """
    recipe = loaded.recipe
    run_id = str(get_run_context().flow_run.id)  # type: ignore[union-attr]
    shown = Artifacts(progress(), artifact_key(recipe.name))
    stoppable = Stoppable(shown)
    context = Context(place, run_id, stoppable, recipe.runner.memory_mb)
    plans = [plan(loaded, place, wish) for wish in wishes]
    away = sent_out(loaded)
    if any(step.key in away for todo in plans for step in todo.wanted()):
        check_deployment(recipe.runner.deployment)
    spells: list[Spell] = []
    allotter = Allotter(recipe.budget, recipe.teachers)

    with run_lock(place.root), shown, _runners(loaded) as (here, mapped):
        _check_unsplit(place)

        def submit(batch: Sequence[Range]) -> None:
            try:
                futures = [_submit(here, mapped, context, one) for one in batch if one.step.key not in away]
                if sent := [one for one in batch if one.step.key in away]:
                    spells.extend(distribute(loaded, context, sent, _tell, allotter))
                wait(futures)  # all of them, so that one's failure doesn't leave another half watched
            except BaseException:  # cancelled, or interrupted: the threads must not go on until they are through
                stoppable.stop()
                raise
            for future in futures:
                future.result()

        done = [one for todo in plans for one in carry_out(todo, submit)]
    heads = Heads(place)
    pending: dict[str, int] = {}
    for todo in plans:
        pending |= still_pending(todo, heads)
    publish(plans[-1], recipe.name, done, pending, spells, heads)
    return pending


def _check_unsplit(place: Workspace) -> None:
    """While this run waited for its turn, `reshard` may have put another workspace in the place of this one."""
    if Workspace.open(place.root).bits != place.bits:
        raise UsageError(f"{place.root}: it has another number of shards since this run began; run again")


def _student_due(loaded: LoadedRecipe, place: Workspace, wish: Wish) -> bool:
    """Whether a run came as far as the export, and the student isn't what that makes of it."""
    todo = plan(loaded, place, Wish())
    heads = Heads(place)
    exported = [step for step in todo.steps if step.stage == "export"]
    if any(not wish.wants(step) or todo.pending(step, heads) != [] for step in exported):
        return False
    return any(todo.pending(step, heads) for step in todo.steps if step.stage in ("train", "evaluate"))


def _tell_finished(loaded: LoadedRecipe, recipe: Path, place: Workspace, overrides: list[str],
                   pending: dict[str, int], student_due: bool) -> None:  # fmt: skip
    """Emit the event of a finished run; `stillhouse.student` says whether a student is to be trained elsewhere."""
    said = {"recipe": str(recipe.absolute()), "workspace": str(place.root), "overrides": overrides, "pending": pending}
    labels = {"stillhouse.student": "due" if student_due else "none"}
    tell_event(FINISHED, place, loaded.recipe.name, said, labels)


def _tell(text: str) -> None:
    get_run_logger().warning(text)
    say(text)


@contextmanager
def _runners(loaded: LoadedRecipe) -> Iterator[tuple[TaskRunner[Any], TaskRunner[Any] | None]]:
    """Where ranges run: in threads of this process, and on a Ray cluster if the recipe has one."""
    runner = loaded.recipe.runner
    with ExitStack() as stack:
        here: TaskRunner[Any] = stack.enter_context(ThreadPoolTaskRunner(max_workers=workers(loaded)))
        mapped = stack.enter_context(_ray(runner.address)) if runner.kind == "ray" else None
        yield here, mapped


def _ray(address: str | None) -> TaskRunner[Any]:
    try:
        from prefect_ray import RayTaskRunner
    except ImportError as fault:
        raise UsageError(f"runner.kind ray: {fault}; install it: pip install 'stillhouse[ray]'") from fault
    runner: TaskRunner[Any] = RayTaskRunner(address=address)
    return runner


def _submit(here: TaskRunner[Any], mapped: TaskRunner[Any] | None, context: Context, one: Range) -> PrefectFuture[Any]:
    """A step whose ranges may run side by side is mapped; another machine has no bars to move."""
    runner = here
    if mapped is not None and one.step.lanes > 1:
        runner, context = mapped, replace(context, progress=Quiet())
    future: PrefectFuture[Any] = runner.submit(range_task, {"label": one.label, "context": context, "one": one})
    return future
