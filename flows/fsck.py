"""`stillhouse fsck`: read everything that commits and editions name, and mark what is damaged to be made again."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from flows.launch import EXIT_PENDING
from storage.check import Checked, check, mark_for_redo
from storage.nested import with_nested
from storage.place import need_folder, place
from storage.run_lock import run_lock
from storage.workspace import Workspace

EXIT_DAMAGED = 1


def add_to(app: typer.Typer) -> None:
    app.command()(fsck)


def fsck(
    workspace: Annotated[str, typer.Argument(help="Folder of the data set.")],
    repair: Annotated[bool, typer.Option("--repair", help="Let the next run make damaged shards again.")] = False,
) -> None:
    """Check every checksum, book and key order of what commits and editions name (exit status 1: something is damaged;
    3: it is marked, the next run makes it again)."""
    where = Workspace.open(place(workspace))
    need_folder(where.root, "stillhouse fsck")
    console = Console()
    damaged = left = 0
    with run_lock(where.root) if repair else nullcontext():
        for one in with_nested(where):
            checked = _check(one, console)
            damaged += len(checked.damage)
            left += _told(one, checked, repair, console)
    if damaged and not repair:
        console.print("`stillhouse fsck --repair` marks damaged shards, so that the next run makes them again",
                      highlight=False)  # fmt: skip
    raise typer.Exit(EXIT_DAMAGED if left else EXIT_PENDING if damaged else 0)


def _check(workspace: Workspace, console: Console) -> Checked:
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} parts read"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        return check(workspace, lambda parts: bar.advance(task, parts))


def _told(workspace: Workspace, checked: Checked, repair: bool, console: Console) -> int:
    """Say what was found; with `repair` mark it. Returns how much stays damaged."""
    for one in checked.damage:
        console.print(f"[red]{escape(one.where())}[/] {escape(one.what)}", highlight=False, soft_wrap=True)
    marked = checked.slices_to_redo() if repair else []
    for step, shard in marked:
        kept = len(mark_for_redo(workspace, step, shard).parts)
        reused = f", {kept} whole parts are reused" if kept else ""
        console.print(f"{step} shard {shard}: the next run makes it again{reused}", highlight=False)
    state = f"{len(checked.damage)} damaged" if checked.damage else "all as they were written"
    console.print(f"{workspace.root}: {checked.parts:,} parts ({checked.bytes:,} bytes) of {checked.slices:,} slices, "
                  f"{checked.editions:,} editions: {state}", highlight=False, soft_wrap=True)  # fmt: skip
    lost = [one for one in checked.damage if not one.step]
    if repair and lost:
        console.print(f"{len(lost)} damaged files are of editions: nothing makes them again; restore them from a copy, "
                      "or let the editions be dropped", highlight=False, soft_wrap=True)  # fmt: skip
    return len(lost) if repair else len(checked.damage)
