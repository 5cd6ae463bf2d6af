"""`stillhouse deploy`: the deployments of deploy/prefect.yaml on a Prefect server, with a recipe of one's own.

Covered: pools that are missing are made, as process pools; a pool that is there stays as it is, and where it runs
containers, its runs start where deploy/vllm/Dockerfile puts Stillhouse. Not covered: whether a worker's machine has
the recipe and the workspace under the same paths.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.errors import UsageError
from flows.launch import PREFECT_DEFAULTS, LaunchFailed, set_prefect_defaults
from flows.printable import printable
from flows.recipe import load_recipe
from storage.place import is_local
from storage.place import place as parse_place

PREFECT_FILE = Path(__file__).resolve().parents[1] / "deploy" / "prefect.yaml"
IN_CONTAINERS = [{"prefect.deployments.steps.set_working_directory": {"directory": "/opt/stillhouse"}}]
PATIENCE_S = 300

RecipeOption = Annotated[
    Path | None, typer.Option(help="Recipe that the deployments run unless told otherwise; default: the demo.")
]
WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace", "-w", parser=parse_place, metavar="FOLDER|URL",
        help="Where the data set lies: a folder or s3://BUCKET/PATH; default: the recipe's.",
    ),
]  # fmt: skip
CronOption = Annotated[
    str | None, typer.Option(help='When `nightly` runs, such as "30 1 * * *"; default: 02:00 every night.')
]
TimezoneOption = Annotated[str | None, typer.Option(help="Time zone of --cron, such as Europe/Berlin; default: UTC.")]


@dataclass(frozen=True)
class Choice:
    """What the deployments are to run, and when."""

    recipe: Path | None = None
    workspace: Path | None = None
    cron: str | None = None
    timezone: str | None = None

    def __post_init__(self) -> None:
        if self.recipe is not None:
            load_recipe(self.recipe)
        if self.cron is None and self.timezone is None:
            return
        from prefect.client.schemas.schedules import CronSchedule

        try:
            CronSchedule(cron=self.cron or "0 0 * * *", timezone=self.timezone)
        except ValueError as fault:
            raise UsageError(
                f"--cron {self.cron} --timezone {self.timezone}: {_reason(fault)}; expected five fields such as "
                '"30 1 * * *" (minute, hour, day, month, weekday) and a name such as Europe/Berlin'
            ) from fault


def _reason(fault: ValueError) -> str:
    """What a validation error says, without where in the model."""
    lines = str(fault).splitlines()
    return lines[2].strip() if len(lines) > 2 else lines[0]


def add_to(app: typer.Typer) -> None:
    app.command()(deploy)


def deploy(
    server: Annotated[
        str | None, typer.Option(help="Address of the Prefect server; default: PREFECT_API_URL.", metavar="URL")
    ] = None,
    recipe: RecipeOption = None,
    workspace: WorkspaceOption = None,
    cron: CronOption = None,
    timezone: TimezoneOption = None,
) -> None:
    """Put the deployments factory, nightly, generate, verify, student and evaluate on a Prefect server.

    Their runs start in the folder in which this was called: relative paths of recipes and workspaces start there.
    """
    console = Console()
    url = api_url(server)
    with console.status("deploying"):
        found = apply_deployments(url, Choice(recipe, workspace, cron, timezone))
    console.print(deployments_table(found))
    console.print(f"dashboard: {url.removesuffix('/api')}", highlight=False, soft_wrap=True)


def api_url(server: str | None) -> str:
    """The address of a server's API that answers. Raises UsageError."""
    given = server or os.environ.get("PREFECT_API_URL")
    if not given:
        raise UsageError("no Prefect server: start one with `stillhouse up`, or name one: --server http://HOST:4200")
    url = given.rstrip("/").removesuffix("/api") + "/api"
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--server {given}: expected an address such as http://127.0.0.1:4200")
    if not answers(url):
        raise UsageError(f"{url}: no Prefect server answers; start one (stillhouse up), or name another: --server URL")
    return url


def answers(url: str) -> bool:
    """Whether a Prefect server is well at this address."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.read().strip() == b"true")
    except (OSError, ValueError):
        return False


def apply_deployments(url: str, choice: Choice) -> list[dict[str, Any]]:
    """Make the pools that are missing, and all deployments; returns these as they were applied.

    Raises LaunchFailed with what Prefect says if it refuses one.
    """
    declared = yaml.safe_load(PREFECT_FILE.read_text(encoding="utf-8"))
    kinds = _pools(url, sorted({one["work_pool"]["name"] for one in declared["deployments"]}))
    rendered = declared | {"deployments": [_rendered(one, choice, kinds) for one in declared["deployments"]]}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prefect.yaml"
        file.write_text(yaml.safe_dump(rendered, sort_keys=False), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--prefect-file", str(file), "--all"],
            env=os.environ | PREFECT_DEFAULTS | {"PREFECT_API_URL": url, "COLUMNS": "200"},
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise LaunchFailed("Prefect refused the deployments:\n" + "\n".join(lines[-8:]))
    applied: list[dict[str, Any]] = rendered["deployments"]
    return applied


def _rendered(declared: dict[str, Any], choice: Choice, kinds: dict[str, str]) -> dict[str, Any]:
    """A deployment with the recipe, the workspace and the schedule of one's own."""
    one = dict(declared)
    parameters = dict(one.get("parameters", {}))
    if "recipe" in parameters:
        recipe = choice.recipe or PREFECT_FILE.parents[1] / parameters["recipe"]
        parameters["recipe"] = str(recipe.resolve())
        if choice.workspace is not None:
            place = choice.workspace
            parameters["workspace"] = str(place.absolute() if is_local(place) else place)
        one["parameters"] = parameters
    if one.get("schedules"):
        changed = {"cron": choice.cron, "timezone": choice.timezone}
        given = {key: value for key, value in changed.items() if value is not None}
        one["schedules"] = [schedule | given for schedule in one["schedules"]]
    if kinds[one["work_pool"]["name"]] != "process":
        one["pull"] = IN_CONTAINERS
    return one


def _pools(url: str, names: list[str]) -> dict[str, str]:
    """The type of each work pool; one that is missing becomes a process pool."""
    set_prefect_defaults()
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.workers.process import ProcessWorker

    kinds = {}
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        for name in names:
            try:
                pool = client.read_work_pool(name)
            except ObjectNotFound:
                template = ProcessWorker.get_default_base_job_template()
                pool = client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))
            kinds[name] = pool.type
    return kinds


def deployments_table(deployments: list[dict[str, Any]]) -> Table:
    """Name, pool, when it runs and what for."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("deployment", "pool", "runs", "what it does"):
        table.add_column(title, overflow="fold")
    for one in deployments:
        schedules = [f"{schedule.get('cron', 'on a schedule')} {schedule.get('timezone', '')}".strip()
                     for schedule in one.get("schedules", [])]  # fmt: skip
        when = ", ".join(schedules) or ("after factory, or by hand" if one.get("triggers") else "by hand")
        if one["name"] == "generate":
            when = "when the factory sends it"
        table.add_row(*(escape(printable(text)) for text in
                        (one["name"], one["work_pool"]["name"], when, one["description"])))  # fmt: skip
    return table
