"""The command line: `stillhouse`.

Every command exits 0 only when what it was asked for is done, 3 when it is done but for pending units, 130 when it was
interrupted; errors are one or two lines that name the remedy, with no traceback unless --debug.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import duckdb
import typer
from rich.console import Console

import flows.ablate as ablate_command
import flows.decontaminate_command as decontaminate_command
import flows.dedup_command as dedup_command
import flows.deploy as deploy_command
import flows.editions as editions_command
import flows.fsck as fsck_command
import flows.gc as gc_command
import flows.inspect as inspect_commands
import flows.metrics as metrics_command
import flows.nightly_command as nightly_command
import flows.reshard as reshard_command
import flows.standalone as standalone_commands
import flows.suggest_cv as suggest_cv_command
import flows.suspects as suspects_command
import flows.up as up_command
import flows.view as view_command
from flows.errors import RecipeError, UsageError, machine_remedy
from flows.launch import EXIT_INTERRUPTED, LaunchFailed, launch
from flows.printable import printable
from flows.recipe import budget_overrides
from flows.steps import STAGES
from sandbox import SandboxError
from storage.errors import StorageError
from storage.place import place as parse_place
from tasks.errors import StageError
from tasks.student import TrainingFailed
from tasks.teachers.teacher import TeacherError

KNOWN_ERRORS = (
    RecipeError, UsageError, StorageError, StageError, SandboxError, TeacherError, TrainingFailed, LaunchFailed,
)  # fmt: skip

app = typer.Typer(
    name="stillhouse",
    help="A data factory for reasoning distillation: from questions over teachers' verified traces to a student.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipeArgument = Annotated[Path, typer.Argument(help="Recipe (YAML); ready-made ones lie in deploy/recipes/.")]
WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        "-w",
        parser=parse_place,
        metavar="FOLDER|URL",
        help="Where the data set lies: a folder or s3://BUCKET/PATH; default: the recipe's, or workspaces/NAME.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as --set curate.heldout=0.1."),
]
TeacherOption = Annotated[list[str] | None, typer.Option("--teacher", help="Ask only this teacher; may be repeated.")]
BudgetOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME=NUMBER,…",
        help="Most to spend on all teachers: requests, tokens, money (all that the workspace holds counts), hours.",
    ),
]
UnknownLicenseOption = Annotated[
    bool,
    typer.Option("--allow-unknown-license", help="Export rows whose licence nobody stated; the card says so."),
]
STAGE_NAMES = ", ".join(STAGES)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="A line of JSON on standard error for each range of shards.")
    ] = False,
) -> None:
    if debug:
        os.environ["STILLHOUSE_DEBUG"] = "1"
    if log_json:
        os.environ["STILLHOUSE_LOG_JSON"] = "1"


@app.command()
def run(
    recipe: RecipeArgument,
    workspace: WorkspaceOption = None,
    until: Annotated[str | None, typer.Option(help=f"Last stage: {STAGE_NAMES}.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="Make everything from this stage on again.")] = None,
    teacher: TeacherOption = None,
    budget: BudgetOption = None,
    allow_unknown_license: UnknownLicenseOption = False,
    set_: SetOption = None,
) -> None:
    """Run a recipe, or go on where the last run stopped. Only what is missing or changed is made."""
    overrides = [*_license_overrides(set_, allow_unknown_license), *(budget_overrides(budget) if budget else ())]
    raise typer.Exit(launch(recipe, workspace, overrides, until=until, redo_from=from_, teachers=teacher))


@app.command()
def demo(
    workspace: Annotated[
        Path,
        typer.Option(
            "--workspace", "-w", parser=parse_place, metavar="FOLDER|URL", help="Where the demo's data set lies."
        ),
    ] = Path("workspaces/demo"),
    set_: SetOption = None,
) -> None:
    """The whole road with an embedded teacher: questions, traces, verdicts, a data set, a trained student, a report."""
    recipe = Path(__file__).resolve().parent.parent / "deploy" / "recipes" / "demo.yaml"
    raise typer.Exit(launch(recipe, workspace, set_))


def _license_overrides(set_: list[str] | None, allow_unknown_license: bool) -> list[str]:
    return [*(set_ or ()), *(["export.allow_unknown_license=true"] if allow_unknown_license else [])]


def _stage_command(stage: str, summary: str) -> None:
    def command(
        recipe: RecipeArgument,
        workspace: WorkspaceOption = None,
        teacher: TeacherOption = None,
        redo: Annotated[bool, typer.Option("--redo", help="Make it again, changed or not.")] = False,
        set_: SetOption = None,
    ) -> None:
        raise typer.Exit(
            launch(recipe, workspace, set_, only=stage, redo_from=stage if redo else None, teachers=teacher)
        )

    command.__doc__ = f"{summary} One stage of `run`; its input must be there."
    app.command(name=stage)(command)


for _stage, _summary in (
    ("ingest", "Read the sources into questions."),
    ("curate", "Filter, de-duplicate and decontaminate the questions."),
    ("generate", "Ask the teachers for what is missing."),
    ("score", "Let the scorers read the responses: perplexity, log-probability of each sentence."),
    ("grade", "Compute pass rates, CV and difficulty."),
    ("select", "Choose the training examples."),
):
    _stage_command(_stage, _summary)


@app.command()
def export(
    recipe: RecipeArgument,
    workspace: WorkspaceOption = None,
    teacher: TeacherOption = None,
    redo: Annotated[bool, typer.Option("--redo", help="Make it again, changed or not.")] = False,
    allow_unknown_license: UnknownLicenseOption = False,
    set_: SetOption = None,
) -> None:
    """Write the data sets that trainers load. One stage of `run`; its input must be there."""
    overrides = _license_overrides(set_, allow_unknown_license)
    redo_from = "export" if redo else None
    raise typer.Exit(launch(recipe, workspace, overrides, only="export", redo_from=redo_from, teachers=teacher))


for _stage, _summary in (
    ("train", "Train the student."),
    ("evaluate", "Measure the student before and after on held-out questions."),
):
    _stage_command(_stage, _summary)

inspect_commands.add_to(app)
ablate_command.add_to(app)
suspects_command.add_to(app)
suggest_cv_command.add_to(app)
view_command.add_to(app)
standalone_commands.add_to(app)
decontaminate_command.add_to(app)
dedup_command.add_to(app)
up_command.add_to(app)
deploy_command.add_to(app)
metrics_command.add_to(app)
nightly_command.add_to(app)
editions_command.add_to(app)
gc_command.add_to(app)
fsck_command.add_to(app)
reshard_command.add_to(app)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Known faults in one or two lines; all of them with a traceback under --debug."""
    errors = Console(stderr=True)
    try:
        yield
    except KeyboardInterrupt:
        errors.print("interrupted; run the same command again to go on", style="yellow")
        sys.exit(EXIT_INTERRUPTED)
    except (*KNOWN_ERRORS, OSError, duckdb.IOException) as fault:
        remedy = "" if isinstance(fault, KNOWN_ERRORS) else machine_remedy(fault)
        if remedy is None or os.environ.get("STILLHOUSE_DEBUG"):
            raise
        errors.print(printable(f"error: {fault}{remedy}"), style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


def main() -> None:
    """Entry point of the command."""
    with _plain_errors():
        app()


if __name__ == "__main__":
    main()
