"""`stillhouse reshard`: twice as many shards, when a workspace has outgrown those that it was made with."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from storage.place import place
from storage.reshard import reshard as split
from storage.workspace import Workspace


def add_to(app: typer.Typer) -> None:
    app.command()(reshard)


def reshard(workspace: Annotated[str, typer.Argument(help="Folder of the data set; nothing may run on it.")]) -> None:
    """Split every shard in two by one more bit of question_id; a run afterwards finds nothing to do."""
    where = Workspace.open(place(workspace))
    console = Console()
    with console.status("splitting") as status:
        done = split(where, lambda step: status.update(f"splitting {step}"))
    console.print(f"{done.root}: {1 << where.bits:,} shards became {1 << done.bits:,}", highlight=False, soft_wrap=True)
