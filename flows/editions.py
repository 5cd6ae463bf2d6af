"""`stillhouse editions`: list the editions of a data set, show one, read one as it was."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import duckdb
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.errors import UsageError
from flows.nightly import NightResult
from flows.printable import printable
from storage.editions import (
    Edition,
    checks,
    copy_files,
    diff_path,
    numbers,
    promotion,
    read_edition,
)
from storage.place import need_folder, place
from storage.workspace import Workspace

ROWS_SHOWN = 100
REASONS_SHOWN = 4


def add_to(app: typer.Typer) -> None:
    app.command()(editions)


def editions(
    workspace: Annotated[str, typer.Argument(help="Folder of the data set.")],
    number: Annotated[int | None, typer.Argument(help="Show this edition; without it all are listed.", min=1)] = None,
    diff: Annotated[bool, typer.Option("--diff", help="Which examples changed since the edition before.")] = False,
    copy_to: Annotated[Path | None, typer.Option(help="Write the edition's exported files into this folder.")] = None,
    promoted: Annotated[bool, typer.Option("--promoted", help="Take the newest promoted one.")] = False,
) -> None:
    """The editions of a data set: list them, show one and what it changed, read one as it was."""
    where = Workspace.open(place(workspace))
    need_folder(where.root, "stillhouse editions")
    console = Console()
    if promoted:
        number = _newest_promoted(where)
    if number is None:
        if diff or copy_to:
            raise UsageError("--diff and --copy-to take an edition: name its NUMBER, or give --promoted")
        _list(where, console)
        return
    edition = read_edition(where, number)
    if copy_to:
        files = copy_files(where, edition, copy_to)
        console.print(f"edition {number}: {files} files → {copy_to}", highlight=False, soft_wrap=True)
        return
    _show(where, edition, console)
    if diff:
        _show_diff(where, edition, console)


def _newest_promoted(workspace: Workspace) -> int:
    found = [number for number in numbers(workspace) if promotion(workspace, number)]
    if not found:
        raise UsageError("no edition is promoted yet; `stillhouse editions WORKSPACE` says why the newest isn't")
    return found[-1]


def _list(workspace: Workspace, console: Console) -> None:
    there = numbers(workspace)
    if not there:
        console.print(f"{workspace.root}: no edition yet; `stillhouse nightly RECIPE` writes them", highlight=False)
        return
    table = Table(title="editions", title_justify="left")
    for name in ("edition", "made", "examples", "added", "gone", "regraded", "state"):
        table.add_column(name, justify="left" if name in ("made", "state") else "right")
    for number in there:
        edition = read_edition(workspace, number)
        sums = [sum(edition.diff["changes"].get(change, {}).values()) for change in ("added", "gone", "regraded")]
        table.add_row(str(number), edition.created[:16].replace("T", " "), f"{edition.counts['examples']:,}",
                      *(f"{one:,}" for one in sums), escape(_state(workspace, number)))  # fmt: skip
    console.print(table)
    last = there[-1]
    if promotion(workspace, last) is None:
        for one in _faults(workspace, last):
            console.print(f"edition {last} is not promoted: {escape(one)}", highlight=False, soft_wrap=True)


def _state(workspace: Workspace, number: int) -> str:
    if promotion(workspace, number):
        return "promoted"
    failed = [one["name"] for one in checks(workspace, number) if not one["passed"]]
    return f"held: {', '.join(failed)}" if failed else "not checked"


def _faults(workspace: Workspace, number: int) -> list[str]:
    return [f"{one['name']}: {one['found']}" for one in checks(workspace, number) if not one["passed"]]


def _show(workspace: Workspace, edition: Edition, console: Console) -> None:
    counts = edition.counts
    console.print(f"edition {edition.number} of {edition.name}, {edition.created}: {counts['examples']:,} examples of "
                  f"{counts['questions']:,} questions, {_state(workspace, edition.number)}",
                  highlight=False, soft_wrap=True)  # fmt: skip
    rate = "–" if counts["pass_rate"] is None else f"{counts['pass_rate']:.1%}"
    console.print(f"recipe {edition.recipe}; mean pass rate {rate} over {counts['graded']:,} graded train questions",
                  highlight=False, soft_wrap=True)  # fmt: skip
    tables = (
        ("checks", ("check", "passed", "found"),
         [(one["name"], "yes" if one["passed"] else "NO", one["found"]) for one in checks(workspace, edition.number)]),
        (f"changes since edition {edition.diff['against']}" if edition.diff["against"] else "changes since nothing",
         ("change", "why", "examples"), [(change, why, f"{rows:,}") for change, why, rows in _changes(edition)]),
        ("files", ("file", "rows", "sha256"),
         [(file.path, "" if file.rows is None else f"{file.rows:,}", file.sha256[:16]) for file in edition.files]),
    )  # fmt: skip
    for title, columns, rows in tables:
        table = Table(title=title, title_justify="left")
        for name in columns:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*(escape(printable(cell)) for cell in row))
        console.print(table)


def _changes(edition: Edition) -> list[tuple[str, str, int]]:
    changes = edition.diff["changes"]
    return [(change, why, rows) for change, reasons in changes.items() for why, rows in reasons.items()]


def _show_diff(workspace: Workspace, edition: Edition, console: Console) -> None:
    path = diff_path(workspace, edition.number)
    if not path.exists():
        raise UsageError(
            f"edition {edition.number}: its diff isn't there; the next `stillhouse nightly` makes it again"
        )
    with closing(duckdb.connect()) as connection:
        rows = connection.execute(
            """
            select change, why, detail, question_id, teacher, old_pass_rate, new_pass_rate, old_difficulty,
                new_difficulty, question_source, source_id
            from read_parquet($path) limit $rows
            """,
            {"path": str(path), "rows": ROWS_SHOWN},
        ).fetchall()
    table = Table(title="examples", title_justify="left")
    for name in ("change", "why", "question", "teacher", "pass rate", "difficulty", "source"):
        table.add_column(name, overflow="fold")
    for change, why, detail, question, teacher, was, is_, band, new_band, source, source_id in rows:
        cells = (change, f"{why} ({detail})" if detail else why, question[:12], teacher, _moved(was, is_),
                 _moved(band, new_band), f"{source}:{source_id}")  # fmt: skip
        table.add_row(*(escape(printable(cell)) for cell in cells))
    console.print(table)
    total = sum(rows for _, _, rows in _changes(edition))
    if total > ROWS_SHOWN:
        console.print(f"{ROWS_SHOWN} of {total:,}; all in {path}", highlight=False, soft_wrap=True)


def _moved(was: Any, is_: Any) -> str:
    shown = ["–" if one is None else f"{one:.2f}" if isinstance(one, float) else str(one) for one in (was, is_)]
    return shown[0] if shown[0] == shown[1] else " → ".join(shown)


# --- how a night ended


def headline(result: NightResult) -> str:
    """One line: the edition, whether it is promoted, what changed."""
    edition = result.edition
    state = "promoted" if result.promoted else "NOT promoted"
    if not result.fresh:
        return f"edition {edition.number}: nothing changed since; {state}"
    sums = {change: sum(reasons.values()) for change, reasons in edition.diff["changes"].items()}
    listed = ", ".join(f"{rows:,} {change}" for change, rows in sums.items()) or "no example changed"
    return f"edition {edition.number}: {edition.counts['examples']:,} examples ({listed}); {state}"


def edition_markdown(result: NightResult, pending: dict[str, int]) -> str:
    """The same with its checks and reasons, for Prefect's page."""
    lines = [f"# {headline(result)}", "", "| check | passed | found |", "|---|---|---|"]
    lines += [f"| {one.name} | {'yes' if one.passed else '**no**'} | {one.found.replace('|', '/')} |"
              for one in result.checks]  # fmt: skip
    if result.fresh:
        lines += ["", "| change | why | examples |", "|---|---|---|"]
        lines += [f"| {change} | {why} | {rows:,} |" for change, why, rows in _changes(result.edition)]
    if pending:
        lines += ["", "Pending: " + ", ".join(f"{step} {number}" for step, number in pending.items())]
    if result.dropped:
        lines += ["", f"Dropped: editions {', '.join(map(str, result.dropped))}"]
    return "\n".join(lines)
