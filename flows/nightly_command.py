"""`stillhouse nightly`: the nightly flow from the command line. Nothing new starts no flow, as with `run`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from flows.editions import headline
from flows.launch import EXIT_PENDING, set_prefect_defaults
from flows.nightly import Night, NightResult, begin_night, end_night
from flows.progress import Bars
from flows.recipe import budget_overrides
from storage.place import place


def add_to(app: typer.Typer) -> None:
    app.command()(nightly)


def nightly(
    recipe: Annotated[Path, typer.Argument(help="Recipe (YAML); its `nightly` says what a night does.")],
    workspace: Annotated[
        str | None, typer.Option("--workspace", "-w", help="Folder of the data set; default: the recipe's.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="NAME=NUMBER,…", help="Most to spend on all teachers: requests, tokens, …")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting.")] = None,
) -> None:
    """Make what is new or changed, write the next edition, promote it if its checks pass (exit status 3: it isn't)."""
    overrides = [*(set_ or ()), *(budget_overrides(budget) if budget else ())]
    console = Console()
    started = time.monotonic()
    night = begin_night(recipe, place(workspace) if workspace else None, overrides)
    if night.anything_to_do() or night.settings.notify:
        result, pending = _run_flow(night, console)
    else:
        result, pending = end_night(night, "no run"), {}
    _tell(result, pending, console)
    console.print(f"{time.monotonic() - started:.0f} s", highlight=False)
    raise typer.Exit(0 if result.promoted and not pending else EXIT_PENDING)


def _run_flow(night: Night, console: Console) -> tuple[NightResult, dict[str, int]]:
    set_prefect_defaults()
    console.print(f"{night.loaded.recipe.name} → {night.place.root}", highlight=False)
    with console.status("starting Prefect"):
        from flows.nightly_flow import nightly as flow  # imports Prefect, seconds

    with Bars(console):
        done: tuple[NightResult, dict[str, int]] = flow(
            recipe=str(night.loaded.path), workspace=str(night.place.root), overrides=list(night.loaded.overrides)
        )
    return done


def _tell(result: NightResult, pending: dict[str, int], console: Console) -> None:
    console.print(escape(headline(result)), highlight=False, soft_wrap=True)
    for change, reasons in result.edition.diff["changes"].items() if result.fresh else ():
        for why, rows in reasons.items():
            console.print(f"  {change:<9}{rows:>9,}  {why}", highlight=False)
    for one in result.faults():
        console.print(f"[yellow]not promoted:[/] {escape(one)}", highlight=False, soft_wrap=True)
    if result.collected.found:
        console.print(f"collected: {len(result.collected.found):,} files that nothing names, "
                      f"{result.collected.bytes:,} bytes", highlight=False)  # fmt: skip
    if result.dropped:
        console.print(f"dropped: editions {', '.join(map(str, result.dropped))}", highlight=False)
    if pending:
        listed = ", ".join(f"{step} {number}" for step, number in pending.items())
        console.print(f"[yellow]pending:[/] {listed}; the next night tries them again", highlight=False)
