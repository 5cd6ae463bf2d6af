"""The factory flow: a recipe from its sources to its report.

    ingest ─► curate ─► generate ─► (score) ─► verify ─► grade ─► select ─► export ─► train ─► evaluate ─► report

Rows don't pass through Prefect (law 8): a task gets a range of shards and returns how many it made. What is done
stands in the workspace's manifest; Prefect's own state is for people to look at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import get_run_context
from prefect.futures import PrefectFuture, wait
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.distribute import Spell, check_deployment, distribute
from flows.errors import UsageError
from flows.progress import Artifacts, progress, say
from flows.recipe import LoadedRecipe, load_recipe
from flows.run import Range, Wish, carry_out, open_workspace, plan, run_range, sent_out, still_pending
from flows.status import funnel_rows, summary_markdown
from flows.steps import workers
from storage.workspace import Workspace
from tasks.step import Context, Quiet
from tasks.teachers.settings import BudgetSettings


@task(name="range", task_run_name="{label}", cache_policy=NO_CACHE, persist_result=False)
def range_task(label: str, context: Any, one: Any) -> int:
    """One step over a range of shards."""
    run_range(context, one)
    return len(one.work)


@flow(name="factory", persist_result=False)
def factory(
    recipe: str,
    workspace: str | None = None,
    until: str | None = None,
    teachers: list[str] | None = None,
    overrides: list[str] | None = None,
    redo_from: str | None = None,
    only: str | None = None,
    budget: BudgetSettings | None = None,
) -> dict[str, int]:
    """Run or resume a recipe.

    recipe: path of the YAML file. workspace: folder of the data set; unset, the recipe's own. until: last stage.
    teachers: ask only these. overrides: `a.b=value`. budget: what may be spent on all teachers, where it differs from
    the recipe's. Returns the pending units by step; empty when all is done.
    """
    limits = budget.as_json() if budget else {}
    limited = [f"budget.{name}={limit}" for name, limit in limits.items() if limit is not None]
    loaded = load_recipe(Path(recipe), (*(overrides or ()), *limited))
    place = open_workspace(loaded, Path(workspace) if workspace else None)
    wish = Wish(until, redo_from, only, tuple(teachers) if teachers else None)
    todo = plan(loaded, place, wish)
    run_id = str(get_run_context().flow_run.id)  # type: ignore[union-attr]
    shown = Artifacts(progress(), _artifact_key(loaded.recipe.name))
    context = Context(place, run_id, shown, loaded.recipe.runner.memory_mb)
    away = sent_out(loaded)
    if any(step.key in away for step in todo.wanted()):
        check_deployment(loaded.recipe.runner.deployment)
    spells: list[Spell] = []

    with shown, _runners(loaded) as (here, mapped):

        def submit(batch: Sequence[Range]) -> None:
            futures = [_submit(here, mapped, context, one) for one in batch if one.step.key not in away]
            if sent := [one for one in batch if one.step.key in away]:
                spells.extend(distribute(loaded, place, sent, context.progress, _tell))
            wait(futures)  # all of them, so that one's failure doesn't leave another half watched
            for future in futures:
                future.result()

        done = carry_out(todo, submit)
    pending = still_pending(todo)
    _publish(place, loaded.recipe.name, [(one.step, one.shards, "; ".join(one.why)) for one in done], pending)
    if spells:
        create_table_artifact([asdict(one) for one in spells], key=f"{_artifact_key(loaded.recipe.name)}-workers")
    return pending


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


def _submit(here: TaskRunner[Any], mapped: TaskRunner[Any] | None, context: Context, one: Range) -> PrefectFuture[int]:
    """A step whose ranges may run side by side is mapped; another machine has no bars to move."""
    runner = here
    if mapped is not None and one.step.lanes > 1:
        runner, context = mapped, replace(context, progress=Quiet())
    future: PrefectFuture[int] = runner.submit(range_task, {"label": one.label, "context": context, "one": one})
    return future


def _artifact_key(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _publish(workspace: Workspace, name: str, done: Sequence[tuple[str, int, str]], pending: dict[str, int]) -> None:
    """Artifacts for the Prefect UI; their keys are stable, so that they form a history."""
    key = _artifact_key(name)
    create_markdown_artifact(summary_markdown(workspace, done, pending), key=f"{key}-summary")
    create_table_artifact(funnel_rows(workspace), key=f"{key}-funnel")
