"""The command `plan`: the estimate of flows/estimate.py as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.estimate import Estimate, TeacherEstimate, estimate
from flows.license_notes import license_notes
from flows.printable import printable
from flows.reach import reach
from flows.recipe import LoadedRecipe, load_recipe
from storage.files import names
from storage.place import place as parse_place
from storage.workspace import Workspace

HOURS_A_YEAR = 24 * 365.25
MANY_HOURS = 1_000
WORDS = ("source", "counted from", "teacher", "category", "model", "counted as")
"""columns that hold no numbers"""


def plan(
    recipe: Annotated[Path, typer.Argument(help="Recipe (YAML).")],
    workspace: Annotated[
        Path | None,
        typer.Option(
            parser=parse_place,
            metavar="FOLDER|URL",
            help="Workspace with what is measured and paid for; default: the recipe's, if it's there.",
        ),
    ] = None,
    questions: Annotated[
        int | None, typer.Option(min=1, help="Scale to so many questions: from a probe to the whole.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting.")] = None,
) -> None:
    """What a recipe would still ask for: questions, requests, tokens, GPU-hours, money, disk. Spends nothing."""
    console = Console()
    loaded = load_recipe(recipe, tuple(set_ or ()))
    place = _place(loaded, workspace)
    found = estimate(loaded, place, questions)
    if place:
        console.print(escape(f"measured in {place.root}"), highlight=False)
    console.print(_sources(found))
    kinds = ", ".join(f"{name} {count:,}" for name, count in sorted(found.questions.items()))
    console.print(f"{sum(found.questions.values()):,} questions to ask: {kinds}", highlight=False)
    for table in (_teachers(found), _lengths(found), _others(found)):
        if table.row_count:
            console.print(table)
    hours = found.total.gpu_hours or 0
    if hours >= MANY_HOURS:
        console.print(f"{number(hours)} hours of one GPU are {hours / HOURS_A_YEAR:,.1f} GPU-years", highlight=False)
    console.print(f"disk for these responses: {number(found.disk_bytes)}B ({found.shards:,} shards)", highlight=False)
    for note in [*found.notes, *license_notes(loaded, place)]:
        console.print(escape(f"note: {note}"), highlight=False)
    for line in reach(loaded.recipe.model_dump(mode="json"), loaded.base):
        console.print(escape(printable(f"reaches: {line}")), highlight=False, soft_wrap=True)


def _place(loaded: LoadedRecipe, folder: Path | None) -> Workspace | None:
    """The workspace that was named, or the recipe's own if there is one."""
    if folder is not None:
        return Workspace.open(folder)
    own = loaded.default_workspace()
    return Workspace.open(own) if "workspace.json" in names(own) else None


def number(value: float | None) -> str:
    """A count, amount or duration to about three figures; large ones in millions (M) and billions (G)."""
    if value is None:
        return "unknown"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:,.3g} {unit}" if value < 999.5 * size else f"{value / size:,.0f} {unit}"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:,.2f}"


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="left" if name in WORDS else "right", overflow="fold")  # no number cut short
    return table


def _sources(found: Estimate) -> Table:
    table = _table("sources", ("source", "records", "counted from"))
    for source in found.sources:
        table.add_row(escape(source.name), "unknown" if source.rows is None else f"{source.rows:,}", source.how)
    return table


def _teachers(found: Estimate) -> Table:
    amounts = ("prompt tokens", "response tokens", "hours of one GPU", "money")
    table = _table("teachers", ("teacher", "requests", "done", "to ask", *amounts))
    for one in [*found.teachers, found.total]:
        table.add_row(one.name, f"{one.requests:,}", f"{one.settled:,}", f"{one.left:,}", number(one.prompt_tokens),
                      _with_spread(one), number(one.gpu_hours), number(one.money))  # fmt: skip
    return table


def _with_spread(one: TeacherEstimate) -> str:
    return f"{number(one.tokens)} ± {number(one.spread)}" if one.tokens and one.spread else number(one.tokens)


def _lengths(found: Estimate) -> Table:
    lengths = ("responses", "mean", "10 % up to", "half up to", "90 % up to", "cut off", "prompt")
    table = _table("measured lengths, tokens", ("teacher", "category", *lengths))
    for one in found.lengths:
        table.add_row(one.teacher, one.category, f"{one.responses:,}", number(one.mean), number(one.p10),
                      number(one.median), number(one.p90), f"{one.cut_off:,}", number(one.prompt))  # fmt: skip
    return table


def _others(found: Estimate) -> Table:
    table = _table("other models", ("model", "requests", "done", "to ask", "counted as"))
    for one in found.others:
        left = max(0, one.requests - one.done)
        table.add_row(escape(one.name), f"{one.requests:,}", f"{one.done:,}", f"{left:,}", one.how)
    return table
