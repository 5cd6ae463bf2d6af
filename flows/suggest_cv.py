"""`stillhouse suggest-cv`: a CV_t for each category from the data's own CVs, as a line of the recipe, with a plot."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from flows.errors import UsageError
from flows.inspect import WorkspaceArgument
from storage.database import connect
from storage.files import replace_file
from storage.workspace import Workspace
from tasks.select_suggest import Suggestion, suggest

BINS = 40


def add_to(app: typer.Typer) -> None:
    """Register the command."""

    @app.command("suggest-cv")
    def suggest_cv(
        workspace: WorkspaceArgument,
        plot: Annotated[Path | None, typer.Option(help="Write the CVs and CV_t of each category as SVG here.")] = None,
    ) -> None:
        """Propose CV_t by category for `select.method: deepdistill`, from the spread of the CVs."""
        place = Workspace.open(workspace)
        folder = place.scratch()
        try:
            with connect(folder) as connection:
                found = suggest(connection, place)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if not found:
            raise UsageError(f"{workspace}: no training question has a CV; it takes two judged responses, one of them "
                             "right")  # fmt: skip
        console = Console(highlight=False)
        console.print(table(found))
        console.print(recipe_line(found), markup=False, soft_wrap=True)
        if plot:
            replace_file(plot.absolute(), draw(found).encode())
            console.print(f"plot: {plot}", markup=False)


def table(found: list[Suggestion]) -> Table:
    made = Table("category", "solved questions", "CVs", "CV_t", "above it", "why")
    for one in found:
        share = f"{one.kept / one.questions:.0%}" if one.cv_t is not None else "–"
        shown = "–" if one.cv_t is None else f"{one.cv_t:g}"
        made.add_row(one.category, f"{one.questions:,}", str(len(one.counts)), shown, share, one.reason)
    return made


def recipe_line(found: list[Suggestion]) -> str:
    inner = ", ".join(f"{one.category}: {one.cv_t:g}" for one in found if one.cv_t is not None)
    return f"select: {{method: deepdistill, cv_threshold: {{{inner}}}}}"


def draw(found: list[Suggestion]) -> str:
    """An SVG with one histogram a category, questions by CV, and a line at CV_t."""
    from matplotlib import rc_context  # slow to import
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.8 * len(found)), layout="constrained")
    for number, one in enumerate(found, start=1):
        axes = figure.add_subplot(len(found), 1, number)
        values, weights = zip(*one.counts, strict=True)
        axes.hist(values, bins=BINS, weights=weights, color="0.6")
        if one.cv_t is not None:
            axes.axvline(one.cv_t, color="black", linestyle="--", label=f"CV_t = {one.cv_t:g}")
            axes.legend(frameon=False)
        axes.set_title(one.category, loc="left", fontsize=10)
        axes.set_ylabel("questions")
    axes.set_xlabel("CV of the scores")
    target = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(target, format="svg", metadata={"Date": None})
    return target.getvalue()
