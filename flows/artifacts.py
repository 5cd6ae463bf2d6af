"""What a flow run leaves in the Prefect UI: events, and tables, a summary, a link to the report, whose keys are stable,
so that the runs of a recipe form a history.

    <recipe>-summary          what was made, why, what is pending, where the report is
    <recipe>-funnel           units in, out, dropped and pending, by step
    <recipe>-stage-<stage>    the same for the steps of one stage that this run made, with shards and seconds
    <recipe>-metrics          rows, tokens, their rates, drops and pending units of each step
    <recipe>-report           link to the report
    <recipe>-workers          what GPU workers did

Progress artifacts are written while a step runs: flows/progress.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL

from flows.distribute import Spell
from flows.metrics import metrics_rows, workspace_figures, write_metrics
from flows.progress import artifact_key
from flows.run import Plan, StepDone
from flows.status import StepStatus, step_status, summary_markdown
from storage.workspace import ALL, Workspace
from tasks.step import Heads


def publish(todo: Plan, name: str, done: Sequence[StepDone], pending: dict[str, int], spells: Sequence[Spell],
            heads: Heads) -> None:  # fmt: skip
    """Write all artifacts of a run of the recipe `name`; needs a running flow. `heads`: as they are after the run."""
    key = artifact_key(name)
    place = todo.workspace
    report = place.root / "report.html"
    summary = summary_markdown(place, [(one.step, one.shards, "; ".join(one.why)) for one in done], pending, heads)
    there = heads.get("report", ALL) is not None
    if there:
        summary += f"\n\nReport: `{report}`; to page through the data: `stillhouse view {place.root}`"
    create_markdown_artifact(summary, key=f"{key}-summary", description=f"What the last run made of {place.root}.")
    statuses = {step.key: step_status(place, step.key, step.shards(place), heads) for step in todo.steps}
    funnel = [row for status in statuses.values() for row in _units(status)]
    create_table_artifact(funnel, key=f"{key}-funnel", description="Units by step, over all runs.")
    figures = workspace_figures(place, heads)
    create_table_artifact(
        metrics_rows(figures), key=f"{key}-metrics", description="Rates are those of the run that came last."
    )
    write_metrics(place, figures)
    made = {one.step: one for one in done}
    for stage in dict.fromkeys(step.stage for step in todo.steps if step.key in made):
        of_stage = [statuses[step.key] for step in todo.steps if step.stage == stage]
        rows = [row | _made(status, made.get(status.step)) for status in of_stage for row in _units(status)]
        create_table_artifact(rows, key=f"{key}-stage-{stage}", description=f"{stage}: its steps after this run.")
    if there:
        create_link_artifact(
            report.as_uri(), link_text=str(report), key=f"{key}-report",
            description="Where the report lies; a browser opens a file on the machine that has it, and on no other.",
        )  # fmt: skip
    if spells:
        create_table_artifact([asdict(one) for one in spells], key=f"{key}-workers")


def tell_event(event: str, place: Workspace, name: str, payload: dict[str, Any],
               labels: dict[str, str] | None = None) -> None:  # fmt: skip
    """Emit an event about a workspace, for deployments and automations; a temporary server has neither."""
    if PREFECT_API_URL.value():
        resource = {
            "prefect.resource.id": f"stillhouse.workspace.{artifact_key(str(place.root))}",
            "prefect.resource.name": name,
        }
        emit_event(event, resource=resource | (labels or {}), payload=payload)


def _units(status: StepStatus) -> list[dict[str, Any]]:
    """One row per unit of a step; none before its first commit."""
    rows = []
    for unit, counts in status.units.items():
        drops = {rule: number for (of, rule), number in status.dropped.items() if of == unit}
        rows.append({
            "step": status.step, "unit": unit, "in": counts["in"], "out": counts["out"],
            "dropped": ", ".join(f"{rule} {number}" for rule, number in sorted(drops.items())),
            "pending": counts["pending"],
        })  # fmt: skip
    return rows


def _made(status: StepStatus, done: StepDone | None) -> dict[str, Any]:
    """What a stage's table says beside the units; `made now` counts the shards that this run made."""
    return {
        "shards": f"{status.shards_done}/{status.shards}", "made now": done.shards if done else 0,
        "why": "; ".join(done.why) if done else "", "seconds": round(status.seconds, 1),
    }  # fmt: skip
