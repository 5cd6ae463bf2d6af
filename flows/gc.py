"""`stillhouse gc`: remove what no commit and no edition names."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from storage.collect import MIN_AGE_S, Collected, collect
from storage.nested import with_nested
from storage.place import need_folder, place
from storage.workspace import Workspace


def add_to(app: typer.Typer) -> None:
    app.command()(gc)


def gc(
    workspace: Annotated[str, typer.Argument(help="Folder of the data set.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    min_age: Annotated[
        float, typer.Option(metavar="HOURS", help="Spare what is younger: a run or a reader may hold it.", min=0)
    ] = MIN_AGE_S / 3600,
) -> None:
    """Remove parts, exported files and scratch that no commit and no edition names; say how much room that gives."""
    where = Workspace.open(place(workspace))
    console = Console()
    need_folder(where.root, "stillhouse gc")
    each = [collect(one, min_age_s=min_age * 3600, dry_run=dry_run) for one in with_nested(where)]
    found = Collected(tuple(one for some in each for one in some.found), sum(some.young for some in each))
    if found.found:
        table = Table()
        for name in ("what", "files", "bytes"):
            table.add_column(name, justify="left" if name == "what" else "right")
        for kind, (files, size) in sorted(found.by_kind().items()):
            table.add_row(kind, f"{files:,}", f"{size:,}")
        console.print(table)
    said = "would be removed" if dry_run else "removed"
    console.print(f"{len(found.found):,} {said}, {found.bytes:,} bytes freed", highlight=False)
    if found.young:
        console.print(f"{found.young:,} that nothing names are younger than {min_age:g} h: a later gc takes them",
                      highlight=False)  # fmt: skip
