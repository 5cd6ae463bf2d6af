"""From the command line to the flow: nothing to do starts no flow, and Prefect is imported only when there is."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.perplexities import perplexity_table
from flows.progress import Bars
from flows.recipe import LoadedRecipe, load_recipe
from flows.run import Wish, open_workspace, plan
from flows.status import StepStatus, budget_lines, step_status
from storage.database import open_views
from storage.workspace import ALL, Workspace
from tasks.evaluate import evaluated
from tasks.evaluate_harness import harness_lines
from tasks.evaluate_table import SideRow, change_lines, side_rows
from tasks.export import export_lines
from tasks.provenance_student import trace_lines

EXIT_PENDING = 3
EXIT_INTERRUPTED = 130

PREFECT_DEFAULTS = {
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "CRITICAL",  # faults are told once, by the command itself
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "CRITICAL",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def set_prefect_defaults() -> None:
    """Before Prefect is imported; what the environment says already stays."""
    for name, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)


class LaunchFailed(Exception):
    """The flow could not be started or broke off for a reason of its own."""


def launch(
    recipe: Path, workspace: Path | None, overrides: Sequence[str] | None, *, until: str | None = None,
    redo_from: str | None = None, only: str | None = None, teachers: Sequence[str] | None = None,
) -> int:  # fmt: skip
    """Run a recipe in this process; returns the exit code."""
    console = Console()
    loaded = load_recipe(recipe, tuple(overrides or ()))
    place = open_workspace(loaded, workspace)
    wish = Wish(until, redo_from, only, tuple(teachers) if teachers else None)
    todo = plan(loaded, place, wish)
    started = time.monotonic()
    if not todo.anything_to_do():
        console.print(f"{place.root}: nothing to do, everything is as the recipe says", highlight=False)
        return 0
    pending = _run_flow(loaded, place, wish, console)
    statuses = [step_status(place, step.key, step.shards(place)) for step in todo.steps]
    show_result(loaded, place, statuses, console)
    console.print(f"{time.monotonic() - started:.0f} s", highlight=False)
    if pending:
        for status in statuses:
            for line in budget_lines(status) if status.step in pending else ():
                console.print(f"[yellow]{status.step} stopped:[/] {escape(line)}", highlight=False, soft_wrap=True)
        listed = ", ".join(f"{step} {number}" for step, number in pending.items())
        console.print(f"[yellow]pending:[/] {listed}; the next run tries them again")
        return EXIT_PENDING
    return 0


def _run_flow(loaded: LoadedRecipe, place: Workspace, wish: Wish, console: Console) -> dict[str, int]:
    set_prefect_defaults()
    console.print(f"{loaded.recipe.name} → {place.root}", highlight=False)
    with console.status("starting Prefect"):
        from flows.factory import factory  # imports Prefect, seconds

    with Bars(console):
        pending: dict[str, int] = factory(
            recipe=str(loaded.path), workspace=str(place.root), until=wish.until, redo_from=wish.redo_from,
            only=wish.only, teachers=list(wish.teachers) if wish.teachers else None, overrides=list(loaded.overrides),
        )  # fmt: skip
    return pending


def show_result(loaded: LoadedRecipe, place: Workspace, statuses: Sequence[StepStatus], console: Console) -> None:
    """What a person wants to see at the end: the funnel, pass rates, the student's accuracy."""
    console.print(funnel_table([status for status in statuses if status.shards_done]))
    rates = pass_rate_table(place, [status.step for status in statuses])
    if rates.row_count:
        console.print(rates)
    if loaded.recipe.score and (perplexities := perplexity_table(place)):
        console.print(perplexities)
    if loaded.recipe.student:
        name = loaded.recipe.student.name
        metrics = evaluated(place, name)
        if metrics:
            console.print(accuracy_table(metrics))
        for line in (*harness_lines(place, name), *trace_lines(place, name)):
            console.print(escape(line), highlight=False, soft_wrap=True)
    for line in export_lines(place):
        console.print(escape(line), highlight=False, soft_wrap=True)
    if place.head("report", ALL):
        console.print(f"report: {place.root / 'report.html'}", highlight=False, soft_wrap=True)


def funnel_table(statuses: Sequence[StepStatus]) -> Table:
    table = Table(title="units by step", title_justify="left")
    for name in ("step", "unit", "in", "out", "dropped", "pending"):
        table.add_column(name, justify="right" if name in ("in", "out", "pending") else "left")
    for status in statuses:
        for unit, counts in status.units.items():
            drops = [(rule, number) for (of, rule), number in status.dropped.most_common() if of == unit]
            table.add_row(status.step, unit, f"{counts['in']:,}", f"{counts['out']:,}",
                          escape(", ".join(f"{rule} {number:,}" for rule, number in drops)),
                          f"{counts['pending']:,}")  # fmt: skip
    return table


def pass_rate_table(place: Workspace, steps: Sequence[str]) -> Table:
    """Pass rate per teacher, from the outcomes of round 0."""
    table = Table(title="pass rate by teacher", title_justify="left")
    for name in ("teacher", "responses", "passed", "pass rate"):
        table.add_column(name, justify="left" if name == "teacher" else "right")
    with closing(open_views(place)) as views:
        counts = views.execute(
            """
            select teacher, count(passed), count(*) filter (passed)
            from verdicts
            semi join (select response_id from responses where round = 0) using (response_id)
            where verifier = 'outcome'
            group by teacher
            """
        ).fetchall()
    by_teacher = {teacher: (judged, passed) for teacher, judged, passed in counts}
    for step in steps:
        teacher = step.removeprefix("verify.")
        if step.startswith("verify.") and teacher in by_teacher:
            judged, passed = by_teacher[teacher]
            table.add_row(teacher, f"{judged:,}", f"{passed:,}", f"{passed / judged:.1%}" if judged else "–")
    return table


def accuracy_table(metrics: dict[str, Any]) -> Table:
    """Base, student and teachers side by side, without columns that say nothing; what training changed stands below."""
    rows, heldout = side_rows(metrics), metrics["questions"]
    table = Table(title=f"student on {heldout} held-out questions", title_justify="left")
    columns = {
        "on": [row.on for row in rows] if any(row.on != "held-out" for row in rows) else [],
        "who": [row.who for row in rows],
        "questions": [f"{row.questions:,}" for row in rows] if {row.questions for row in rows} - {heldout} else [],
        "accuracy [95 %]": [_accuracy(row) for row in rows],
        "at best": [row.best_of for row in rows],
        "majority": ["" if row.majority is None else f"{row.majority:.1%}" for row in rows],
        "tokens": ["" if row.tokens is None else f"{row.tokens:,.0f}" for row in rows],
        "tokens/s": ["" if row.tokens_per_second is None else f"{row.tokens_per_second:,.0f}" for row in rows],
    }
    said = {name: cells for name, cells in columns.items() if any(cells)}
    for name in said:
        table.add_column(name, justify="left" if name in ("on", "who") else "right", overflow="fold",
                         no_wrap=name.startswith("accuracy"))  # fmt: skip
    for cells in zip(*said.values(), strict=True):
        table.add_row(*map(escape, cells))
    table.caption = "\n".join(change_lines(metrics)) or None
    table.caption_justify = "left"
    return table


def _accuracy(row: SideRow) -> str:
    if row.accuracy is None:
        return "–"
    interval = "" if row.low is None or row.high is None else f" [{100 * row.low:.1f}, {100 * row.high:.1f}]"
    return f"{row.accuracy:.1%}{interval}"
