"""The factory flow: a recipe from its sources to its report.

    ingest ─► curate ─► generate ─► verify ─► grade ─► select ─► export ─► train ─► evaluate ─► report

Rows don't pass through Prefect (law 8): a task gets a range of shards and returns how many it made. What is done
stands in the workspace's manifest; Prefect's own state is for people to look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import get_run_context
from prefect.futures import PrefectFuture, wait
from prefect.task_runners import ThreadPoolTaskRunner

from flows.progress import progress
from flows.recipe import load_recipe
from flows.run import Range, Wish, carry_out, open_workspace, plan, run_range, still_pending
from flows.status import funnel_rows, summary_markdown
from flows.steps import workers
from storage.workspace import Workspace
from tasks.step import Context


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
) -> dict[str, int]:
    """Run or resume a recipe.

    recipe: path of the YAML file. workspace: folder of the data set; unset, the recipe's own. until: last stage.
    teachers: ask only these. overrides: `a.b=value`. Returns the pending units by step; empty when all is done.
    """
    loaded = load_recipe(Path(recipe), tuple(overrides or ()))
    place = open_workspace(loaded, Path(workspace) if workspace else None)
    wish = Wish(until, redo_from, only, tuple(teachers) if teachers else None)
    todo = plan(loaded, place, wish)
    run_id = str(get_run_context().flow_run.id)  # type: ignore[union-attr]
    context = Context(place, run_id, progress(), loaded.recipe.runner.memory_mb)
    lanes = ThreadPoolTaskRunner(max_workers=workers(loaded))  # type: ignore[var-annotated]

    with lanes:

        def submit(batch: Sequence[Range]) -> None:
            futures: list[PrefectFuture[int]] = [
                lanes.submit(range_task, {"label": one.label, "context": context, "one": one}) for one in batch
            ]
            wait(futures)  # all of them, so that one's failure doesn't leave another half watched
            for future in futures:
                future.result()

        done = carry_out(todo, submit)
    pending = still_pending(todo)
    _publish(place, loaded.recipe.name, [(one.step, one.shards, "; ".join(one.why)) for one in done], pending)
    return pending


def _publish(workspace: Workspace, name: str, done: Sequence[tuple[str, int, str]], pending: dict[str, int]) -> None:
    """Artifacts for the Prefect UI; their keys are stable, so that they form a history."""
    key = name.lower().replace("_", "-").replace(".", "-")
    create_markdown_artifact(summary_markdown(workspace, done, pending), key=f"{key}-summary")
    create_table_artifact(funnel_rows(workspace), key=f"{key}-funnel")
