"""Figures of a workspace for a monitor: Prometheus text, and a table for the Prefect UI, both from the manifest alone.

`stillhouse metrics WORKSPACE` prints them; every flow run leaves them in `metrics.prom` of the workspace, for the
textfile collector of Prometheus' node exporter, and in the artifact `<recipe>-metrics`. A rate is that of the run that
made a step's newest commit: what it committed, over the time from the beginning of its first slice to its last commit.
Not covered: what is under way and not committed; `stillhouse status --watch` and the progress artifacts show that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from flows.status import Booked
from storage.files import replace_file
from storage.manifest import Head
from storage.place import is_local
from storage.place import place as parse_place
from storage.workspace import Workspace
from tasks.step import Heads

FILE = "metrics.prom"


def add_to(app: typer.Typer) -> None:
    app.command()(metrics)


def metrics(
    workspace: Annotated[
        Path, typer.Argument(parser=parse_place, metavar="WORKSPACE", help="The data set: its folder, or its URL.")
    ],
) -> None:
    """Rows, tokens and verdicts, their rates, drops and pending units of each step, as Prometheus text."""
    place = Workspace.open(workspace)
    typer.echo(prometheus_text(place, workspace_figures(place)), nl=False)


@dataclass
class StepFigures(Booked):
    """One step, added up over the newest commits of its shards."""

    rows: int = 0
    tokens: int = 0
    """of responses, where the step asks teachers"""
    finished: float = 0.0
    """when the newest commit was made, in seconds since 1970"""
    rows_per_second: float = 0.0
    tokens_per_second: float = 0.0


def step_figures(step: str, heads: Sequence[Head]) -> StepFigures:
    """The figures of a step from its newest commits; at least one."""
    found = StepFigures(step, shards=len(heads))
    for head in heads:
        found.rows += _rows(head)
        found.tokens += _tokens(head)
        found.add(head)
    newest = max(heads, key=lambda head: (head.created, head.seq))
    found.finished = _time(newest)
    same = [head for head in heads if head.run_id == newest.run_id]
    began = min(_time(head) - head.seconds for head in same)
    span = max(found.finished - began, *(head.seconds for head in same), 1e-3)  # commits are dated to the second
    found.rows_per_second = sum(map(_rows, same)) / span
    found.tokens_per_second = sum(map(_tokens, same)) / span
    return found


def _rows(head: Head) -> int:
    return sum(part.rows for part in head.data())


def _tokens(head: Head) -> int:
    return int(head.extra.get("completion_tokens", 0))


def _time(head: Head) -> float:
    return datetime.fromisoformat(head.created).timestamp()


def workspace_figures(workspace: Workspace, heads: Heads | None = None) -> list[StepFigures]:
    """The figures of every step that has a commit, in the order of their newest ones."""
    heads = heads or Heads(workspace)
    found = [
        step_figures(step, list(there.values())) for step in workspace.manifest.steps() if (there := heads.of(step))
    ]
    return sorted(found, key=lambda one: one.finished)


def prometheus_text(workspace: Workspace, figures: Sequence[StepFigures]) -> str:
    """All figures in Prometheus' text format; the labels are workspace, step, and unit, fate or rule."""
    registry = CollectorRegistry()
    root = str(workspace.root)

    def gauge(name: str, help_: str, *labels: str) -> Gauge:
        return Gauge(f"stillhouse_step_{name}", help_, ["workspace", "step", *labels], registry=registry)

    plain = {
        "shards": gauge("shards", "Shards that are committed."),
        "rows": gauge("rows", "Rows in the newest commits: of verify.* verdicts, of generate.* responses."),
        "tokens": gauge("tokens", "Completion tokens of the responses."),
        "seconds": gauge("seconds", "Seconds of work; shards that ran side by side count each for itself."),
        "rows_per_second": gauge("rows_per_second", "Rows committed per second of the run that came last."),
        "tokens_per_second": gauge("tokens_per_second", "Completion tokens per second of the run that came last."),
        "finished": gauge("finished_timestamp_seconds", "When the newest commit was made."),
    }
    units = gauge("units", "Units by fate: in, out, pending.", "unit", "fate")
    dropped = gauge("dropped_units", "Units dropped, by rule.", "unit", "rule")
    for one in figures:
        for name, target in plain.items():
            target.labels(root, one.step).set(getattr(one, name))
        for unit, counts in one.units.items():
            for fate, number in counts.items():
                units.labels(root, one.step, unit, fate).set(number)
        for (unit, rule), number in one.dropped.items():
            dropped.labels(root, one.step, unit, rule).set(number)
    return generate_latest(registry).decode()


def write_metrics(workspace: Workspace, figures: Sequence[StepFigures]) -> None:
    """Write `metrics.prom`; an object store has no exporter that would read it."""
    if is_local(workspace.root):
        replace_file(workspace.root / FILE, prometheus_text(workspace, figures).encode())


def metrics_rows(figures: Sequence[StepFigures]) -> list[dict[str, Any]]:
    """One row per step, for a table."""
    return [
        {
            "step": one.step, "rows": one.rows, "rows/s": round(one.rows_per_second, 1), "tokens": one.tokens,
            "tokens/s": round(one.tokens_per_second, 1), "dropped": one.dropped.total(), "pending": one.pending,
            "seconds": round(one.seconds, 1),
        }
        for one in figures
    ]  # fmt: skip
