"""Commands that look and change nothing: plan, status, show, sql, report, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import duckdb
import pyarrow as pa
import typer
import yaml
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flows.doctor import check_all
from flows.errors import UsageError
from flows.launch import funnel_table, launch
from flows.perplexities import perplexity_table
from flows.plan_command import plan
from flows.printable import printable, printable_json
from flows.recipe import LoadedRecipe, check_recipe, load_recipe
from flows.run import Wish
from flows.run import plan as plan_run
from flows.status import StepStatus, curation_lines, recipe_status
from flows.status_watch import watch
from storage.database import open_views
from storage.place import is_local
from storage.place import place as parse_place
from storage.workspace import Workspace
from tasks.viewer.question import FACTS

WorkspaceArgument = Annotated[
    Path, typer.Argument(parser=parse_place, metavar="WORKSPACE", help="The data set: its folder, or s3://BUCKET/PATH.")
]
ROWS_SHOWN = 100


def add_to(app: typer.Typer) -> None:
    app.command()(plan)
    app.command()(status)
    app.command()(show)
    app.command()(sql)
    app.command()(report)
    app.command()(doctor)


def kept_recipe(workspace: Workspace, overrides: tuple[str, ...] = ()) -> LoadedRecipe:
    """The recipe that a workspace was last run with."""
    text, base = workspace.kept_recipe()
    return check_recipe(yaml.safe_load(text), Path(base), overrides, workspace.root / "recipe.yaml")


def status(
    workspace: WorkspaceArgument,
    recipe: Annotated[
        Path | None, typer.Option(help="Compare with this recipe; default: the one that was last run.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="…with a setting overridden.")
    ] = None,
    watch_: Annotated[
        bool, typer.Option("--watch", help="How far a run is, every few seconds anew, until Ctrl-C.")
    ] = False,
) -> None:
    """Each step: shards done, units, drops by rule, pending, books, and what would be redone and why."""
    place = Workspace.open(workspace)
    console = Console()
    overrides = tuple(set_ or ())
    loaded = load_recipe(recipe, overrides) if recipe else kept_recipe(place, overrides)
    if watch_:
        watch(plan_run(loaded, place, Wish()), console)
        return
    statuses = recipe_status(plan_run(loaded, place, Wish()))
    console.print(funnel_table(statuses))
    console.print(_state_table(statuses))
    if perplexities := perplexity_table(place):
        console.print(perplexities)
    unknown = set(place.manifest.steps()) - {one.step for one in statuses}
    if unknown:
        console.print(f"also there, not in the recipe: {', '.join(sorted(unknown))}", highlight=False)
    for line in curation_lines(place):
        console.print(escape(line), highlight=False)
    if not all(one.balanced for one in statuses):
        raise UsageError("the books of a step don't balance (see above); make it again with `stillhouse run --from`")


def _state_table(statuses: list[StepStatus]) -> Table:
    table = Table(title="state", title_justify="left")
    for name in ("step", "shards", "books", "seconds", "last made because", "to do"):
        table.add_column(name, justify="right" if name in ("shards", "seconds") else "left")
    for one in statuses:
        todo = "; ".join(one.todo_because)
        if one.todo:
            todo = f"{one.todo} of {one.shards} shards: {todo}"
        books = "–" if not one.shards_done else "balanced" if one.balanced else "NOT BALANCED"
        table.add_row(one.step, f"{one.shards_done}/{one.shards}", books, f"{one.seconds:,.1f}",
                      escape("; ".join(one.made_because)), escape(todo) or "nothing")  # fmt: skip
    return table


def show(workspace: WorkspaceArgument,
         identity: Annotated[str, typer.Argument(metavar="ID", help="A question_id or response_id, or its beginning.")],
         ) -> None:  # fmt: skip
    """One question with all its responses, verdicts, grade and fate."""
    place = Workspace.open(workspace)
    views = open_views(place)
    found = views.execute(
        """
        select question_id from questions where starts_with(question_id, $1)
        union select question_id from responses where starts_with(response_id, $1) limit 2
        """,
        [identity],
    ).fetchall()
    if len(found) != 1:
        raise UsageError(f"{identity}: {'several questions begin so' if found else 'no such question or response'}")
    question = found[0][0]
    console = Console()
    for title, query in FACTS.items():
        rows = _rows(views, query, {"question_id": question}).to_pylist()
        console.rule(title, align="left")
        if not rows:
            console.print("none")
        for row in rows:
            shown = {name: value for name, value in row.items() if value is not None}
            text = json.dumps(shown, default=str, indent=2, ensure_ascii=False)
            console.print(JSONHighlighter()(Text(printable_json(text))), soft_wrap=True)


def sql(
    workspace: WorkspaceArgument,
    query: Annotated[str | None, typer.Argument(help="A DuckDB query; without one the views are listed.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a row, all rows.")] = False,
) -> None:
    """Ask the tables with DuckDB; each table is a view, and so are `ledger` and `books`."""
    views = open_views(Workspace.open(workspace))
    console = Console()
    query = query or "select table_name as view, string_agg(column_name, ', ' order by ordinal_position) as columns " \
                     "from information_schema.columns group by 1 order by 1"  # fmt: skip
    try:
        result = _rows(views, query, {})
    except duckdb.Error as fault:
        raise UsageError(f"the query failed: {fault}") from fault
    if as_json:
        for row in result.to_pylist():
            typer.echo(printable_json(json.dumps(row, default=str, ensure_ascii=False)))
        return
    table = Table()
    for name in result.column_names:
        table.add_column(name, overflow="fold")
    for row in result.slice(0, ROWS_SHOWN).to_pylist():
        table.add_row(*(escape(_cell(value)) for value in row.values()))
    console.print(table)
    if result.num_rows > ROWS_SHOWN:
        console.print(f"{ROWS_SHOWN} of {result.num_rows:,} rows; --json prints all", highlight=False)


def _rows(views: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, str]) -> pa.Table:
    """A query's rows; a statement that gives none is an empty table."""
    result = views.sql(query, params=parameters)
    rows: pa.Table = pa.table({}) if result is None else result.to_arrow_table()
    return rows


def _cell(value: Any) -> str:
    """A value on one line."""
    return printable("" if value is None else str(value)[:400], keep="")


def report(
    recipe: Annotated[
        Path, typer.Argument(parser=parse_place, metavar="RECIPE", help="Recipe (YAML), or the place of a data set.")
    ],
    workspace: Annotated[
        Path | None,
        typer.Option("--workspace", "-w", parser=parse_place, metavar="FOLDER|URL", help="Where the data set lies."),
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting.")] = None,
) -> None:
    """Write report.html of a data set."""
    if not is_local(recipe) or recipe.is_dir():
        from tasks.report import prices_of, write_report

        place = Workspace.open(recipe)
        loaded = kept_recipe(place)
        student = loaded.recipe.student
        prices = prices_of(loaded.recipe.teachers)
        path = write_report(place, loaded.recipe.name, student.name if student else None, prices)
        Console().print(f"report: {path}", highlight=False, soft_wrap=True)
        return
    raise typer.Exit(launch(recipe, workspace, set_, only="report"))


def doctor() -> None:
    """Check Python, Docker engine, sandbox, GPU, vLLM, Prefect server, its GPU workers, disk; say how to mend each."""
    console = Console()
    broken = False
    with console.status("looking"):
        findings = check_all()
    for one in findings:
        mark = {"ok": "[green]ok[/]      ", "absent": "[yellow]absent[/]  ", "broken": "[red]broken[/]  "}[one.state]
        console.print(f"{mark}{one.name:<16}{escape(one.detail)}", highlight=False, soft_wrap=True)
        if one.remedy:
            console.print(f"        {'':<16}→ {escape(one.remedy)}", highlight=False, soft_wrap=True)
        broken = broken or one.state == "broken"
    raise typer.Exit(1 if broken else 0)
