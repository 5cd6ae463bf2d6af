"""Report: one self-contained HTML page for a workspace.

The page needs no network and runs no script. Its numbers come from aggregate queries (tasks/report_data.py),
so that its cost in memory does not grow with the table; it quotes a few traces and drops
(tasks/report_samples.py). The same workspace gives the same bytes: the report's own commit is left out of
what it reports.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb

from storage.database import open_views
from storage.files import replace_file
from storage.fingerprint import hash_text
from storage.manifest import Book
from storage.workspace import Workspace
from tasks import report_data, report_samples
from tasks.evaluate import evaluated
from tasks.evaluate_harness import harness_lines
from tasks.evaluate_table import change_lines, loss_curves, side_rows
from tasks.evaluate_watch import watched
from tasks.export import export_lines
from tasks.findings import cell, pieces
from tasks.label import agreement_lines
from tasks.page import count, environment, percent
from tasks.pairs import pair_lines
from tasks.provenance_student import trace_lines
from tasks.report_data import Prices
from tasks.report_pairs import pair_facts
from tasks.step import Context, Step, Work
from tasks.teachers.settings import TeacherBase
from tasks.train import trained

VERSION = "6"


def prices_of(teachers: Iterable[TeacherBase]) -> dict[str, tuple[float, float]]:
    """Of the teachers that cost something and have a price in the recipe."""
    return {
        one.name: (one.price_per_million_prompt_tokens or 0.0, one.price_per_million_tokens or 0.0)
        for one in teachers if one.costs and one.price(0, 0) is not None
    }  # fmt: skip


def report_step(name: str, reads: Sequence[str], student: str | None, prices: Prices | None = None) -> Step:
    """The step that writes `report.html` from all that was made; `student` is the student's name, if any."""

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            transaction = context.begin(step, one)
            path = write_report(context.workspace, name, student, prices, memory_mb=context.memory_mb)
            book = Book("page", 1, 1)
            transaction.commit_result([book], content=hash_text(path.read_text(encoding="utf-8")))

    settings = {"name": name, "student": student, "prices": {one: list(price) for one, price in (prices or {}).items()}}
    return Step("report", "report", "one", VERSION, settings, tuple(reads), run)


def write_report(
    workspace: Workspace, name: str, student: str | None, prices: Prices | None = None, *, memory_mb: int = 4096
) -> Path:
    """Write the page and return its path; `name` is the recipe's."""
    with closing(open_views(workspace, memory_mb)) as connection:
        facts = _facts(connection, prices or {})
    facts |= {"exported": export_lines(workspace)}
    facts |= {"curation": [*pair_lines(workspace), *agreement_lines(workspace)]}
    facts |= _student_facts(workspace, student) | _edition_facts(workspace)
    page = environment().get_template("report.html.j2").render(name=name, cell=cell, pieces=pieces, **facts)
    path = workspace.local / "report.html"
    replace_file(path, page.encode())
    workspace.publish("report.html")
    return path


def _facts(connection: duckdb.DuckDBPyConnection, prices: Prices) -> dict[str, Any]:
    """All that the page says of questions and teachers."""
    from tasks import report_figures  # matplotlib, which only a page needs, is slow to import
    from tasks.report_comparison import comparison_facts
    from tasks.report_cost import cost_facts
    from tasks.report_spread import spread_facts

    funnel = report_data.funnel(connection)
    report_data.gather_lengths(connection)
    teachers = report_data.teachers(connection)
    rates = report_data.pass_rates(connection)
    statuses = report_data.statuses(connection)
    lengths = report_data.length_quantiles(connection)
    difficulties = report_data.difficulties(connection)
    agreement, suspects = report_data.agreement(connection)
    return {
        "made": _moment(report_data.made_at(connection)),
        "funnel": funnel,
        "funnel_svg": report_figures.funnel_chart(funnel),
        "unbalanced": [row for row in funnel if not row.balanced],
        "pending": [row for row in funnel if row.pending],
        "headline": _headline(funnel, teachers),
        "teachers": teachers,
        "rates": rates,
        "rate_bands": report_data.RATE_BANDS,
        "rates_svg": report_figures.pass_rate_chart(rates) if rates else None,
        "statuses": statuses,
        "seen_statuses": _seen(statuses, report_data.STATUSES),
        "statuses_svg": report_figures.status_chart(statuses) if statuses else None,
        "lengths": lengths,
        "lengths_svg": report_figures.length_chart(lengths) if lengths else None,
        "difficulties": difficulties,
        "seen_difficulties": _seen(difficulties, report_data.DIFFICULTIES),
        "difficulties_svg": report_figures.difficulty_chart(difficulties) if difficulties else None,
        "agreement": agreement,
        "suspects": suspects,
        "repairs": report_data.repairs(connection),
        "suspect_samples": report_samples.suspect_samples(connection),
        "questions": report_samples.question_samples(connection),
        "drops": report_samples.drop_samples(connection),
        **spread_facts(connection),
        **cost_facts(connection, prices),
        **pair_facts(connection),
        **comparison_facts(connection),
    }


def _seen(counts: report_data.Counts, order: Sequence[str]) -> list[str]:
    return [name for name in order if any(row.get(name) for row in counts.values())]


def _headline(
    funnel: Sequence[report_data.FunnelRow], teachers: Sequence[report_data.TeacherRow]
) -> list[tuple[str, str, str]]:
    """(name, number, remark) of what the page opens with; a stage that has not run is left out."""
    units_out: dict[tuple[str, str], int] = {}
    for row in funnel:
        key = (row.step.split(".")[0], row.unit)
        units_out[key] = units_out.get(key, 0) + row.units_out
    found = []
    if ("curate", "question") in units_out:
        read = sum(row.units_in for row in funnel if row.step == "ingest")
        kept = count(units_out["curate", "question"])
        found.append(("questions", kept, f"of {count(read)} records read"))
    if teachers:
        responses = sum(row.responses for row in teachers)
        asked = f"from {len(teachers)} teachers" if len(teachers) > 1 else f"from {teachers[0].teacher}"
        found.append(("judged responses", count(responses), asked))
        judged, passed = (sum(getattr(row, name) for row in teachers) for name in ("judged", "passed"))
        found.append(("passed", percent(passed / judged if judged else None), f"{count(passed)} responses"))
    if ("export", "example") in units_out:
        found.append(("examples", count(units_out["export", "example"]), "selected and exported"))
    return found


def _edition_facts(workspace: Workspace) -> dict[str, Any]:
    from tasks.report_editions import edition_facts  # draws, too

    return edition_facts(workspace)


def _student_facts(workspace: Workspace, student: str | None) -> dict[str, Any]:
    """The student before and after, if one was trained; all None otherwise."""
    from tasks import report_figures

    name = student or ""
    training = trained(workspace, student) if student else None
    metrics = evaluated(workspace, student) if student else None
    rows = _evaluation_rows(metrics) if metrics else []
    watch = watched(workspace, student) if student else []
    curves: dict[str, list[tuple[int, float]]] = {}
    if training:
        curves = loss_curves(training.stages) or {"": list(training.loss_curve)}
    return {
        "student": student,
        "training": training,
        "metrics": metrics,
        "evaluation": rows,
        "evaluation_ks": _ks(rows),
        "accuracy_svg": report_figures.accuracy_chart(rows) if rows else None,
        "watch_svg": report_figures.watch_chart(watch) if watch else None,
        "side_by_side": side_rows(metrics) if metrics else [],
        "changes": [*change_lines(metrics), *harness_lines(workspace, name), *trace_lines(workspace, name)]
        if metrics
        else [],
        "watch": watch,
        "losses": [
            (stage, report_figures.loss_chart(curve, f"loss-{place}"), _thinned(curve))
            for place, (stage, curve) in enumerate(curves.items())
            if curve
        ],
    }


LOSS_ROWS = 40
"""of the table behind a loss curve"""


def _thinned(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """About LOSS_ROWS points of it, the last one among them."""
    every = -(-len(curve) // LOSS_ROWS)
    return list(curve[::-1][::every][::-1])


EvaluationRow = tuple[str, dict[str, float], dict[str, float]]


def _evaluation_rows(metrics: dict[str, Any]) -> list[EvaluationRow]:
    """(group, before, after): all held-out questions, then by category, then by difficulty."""
    groups = [("all", metrics["all"])]
    groups += sorted(metrics["by_category"].items())
    order = report_data.DIFFICULTIES
    groups += sorted(metrics["by_difficulty"].items(), key=lambda group: order.index(group[0]))
    nobody: dict[str, float] = {"questions": 0}  # the base model was not asked
    return [(name, sides.get("before", nobody), sides["after"]) for name, sides in groups]


def _ks(rows: Sequence[EvaluationRow]) -> list[str]:
    """The pass@k, k > 1, that any group has: pass@1 is the accuracy."""
    names = {name for _, *sides in rows for side in sides for name in side if name.startswith("pass@")}
    return sorted(names - {"pass@1"}, key=lambda name: int(name.removeprefix("pass@")))


def _moment(created: str | None) -> str | None:
    """`24 November 2026, 03:52 UTC`, of an ISO time."""
    if created is None:
        return None
    moment = datetime.datetime.fromisoformat(created).astimezone(datetime.UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"
