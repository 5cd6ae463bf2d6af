"""`stillhouse up`: a Prefect server, its workers and the deployments on this machine, for who knows no Prefect.

The server is bound to loopback. Ctrl-C ends all of it, flow runs included: they are cancelled, their workspaces stay
as they are, and the next run goes on there. What an `up` leaves that is killed (SIGKILL, power) is ended by the next
one. Not covered: several machines, which deploy/README.md is about.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, TextIO

import psutil
import typer
from rich.console import Console
from rich.markup import escape

from flows.deploy import (
    Choice,
    CronOption,
    RecipeOption,
    TimezoneOption,
    WorkspaceOption,
    answers,
    apply_deployments,
    deployments_table,
)
from flows.errors import UsageError
from flows.launch import PREFECT_DEFAULTS, LaunchFailed
from flows.printable import printable
from flows.up_processes import MARK, Child, own_mark, sweep
from flows.up_runs import ENDED, UNDERWAY, FlowRun, Server, cancel_all, crash_orphans

HOST = "127.0.0.1"
POOLS = ("cpu", "gpu")
START_S = 180.0
STOP_S = 35.0
"""a worker kills a cancelled flow run after 30 s"""
LOOK_EVERY_S = 2.0


def add_to(app: typer.Typer) -> None:
    app.command()(up)


def up(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the dashboard, on 127.0.0.1.")] = 4200,
    recipe: RecipeOption = None,
    workspace: WorkspaceOption = None,
    cron: CronOption = None,
    timezone: TimezoneOption = None,
) -> None:
    """Start the dashboard with everything that it needs, on this machine; Ctrl-C ends all of it.

    A Prefect server, a worker for each of the pools cpu and gpu, and the deployments: press Run in the dashboard.
    """
    console = Console()
    choice = Choice(recipe, workspace, cron, timezone)
    with _stop_signals():
        try:
            with _only_one() as logs:
                if swept := sweep():
                    console.print(f"ended {swept} processes that a killed `stillhouse up` had left", highlight=False)
                _check_port(port)
                House(port, choice, logs, console).run()
        except KeyboardInterrupt:
            console.print("stopped", highlight=False)


@contextlib.contextmanager
def _stop_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal are like Ctrl-C; so is Ctrl-C where a shell started this in the background."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signs = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {sign: signal.signal(sign, interrupt) for sign in signs}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


@contextlib.contextmanager
def _only_one() -> Iterator[Path]:
    """Where the logs go; held by one `up` at a time, since two would share Prefect's database."""
    folder = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser() / "stillhouse"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"`stillhouse up` runs already ({_read(lock)}); use that dashboard, or end it with Ctrl-C"
            ) from None
        yield folder
        lock.truncate(0)


def _read(lock: TextIO) -> str:
    lock.seek(0)
    return lock.read(200).strip() or "elsewhere"


def _check_port(port: int) -> None:
    """Raises UsageError with who has the port, as far as one may know."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            return
        except OSError as fault:
            reason = fault
    if answers(f"http://{HOST}:{port}/api"):
        raise UsageError(
            f"port {port}: a Prefect server answers there already; put the deployments on it with `stillhouse deploy "
            f"--server http://{HOST}:{port}`, or choose another port: stillhouse up --port {port + 1}"
        )
    raise UsageError(f"port {port} is taken{_holder(port)} ({reason.strerror}); choose another one: "
                     f"stillhouse up --port {port + 1}")  # fmt: skip


def _holder(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for one in psutil.net_connections("tcp"):
            if one.laddr and one.laddr.port == port and one.status == psutil.CONN_LISTEN and one.pid:
                return f" by {psutil.Process(one.pid).name()}, process {one.pid}"
    return ""


class House:
    """Server and workers of one `up`."""

    def __init__(self, port: int, choice: Choice, logs: Path, console: Console) -> None:
        self.url = f"http://{HOST}:{port}/api"
        self.choice, self.logs, self.console, self._port = choice, logs, console, port
        self.server = Server(self.url)
        self.workers = {pool: f"stillhouse-up-{platform.node()}-{pool}" for pool in POOLS}
        self._mark = own_mark()
        bin_folder = str(Path(sys.executable).parent)
        self._environment = os.environ | PREFECT_DEFAULTS | {
            MARK: self._mark, "PREFECT_API_URL": self.url, "PREFECT_LOGGING_LEVEL": "INFO",
            "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "INFO",
            "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "INFO",
            "PREFECT_WORKER_QUERY_SECONDS": os.environ.get("PREFECT_WORKER_QUERY_SECONDS", "3"),
            "PATH": os.pathsep.join([bin_folder, os.environ.get("PATH", os.defpath)]),
        }  # fmt: skip
        self._children: list[Child] = []
        self._seen: dict[str, str] = {}

    def run(self) -> None:
        """Until Ctrl-C (KeyboardInterrupt), or a part ends by itself (LaunchFailed); ends with nothing left running."""
        try:
            self._start()
            self._watch()
        finally:
            self._stop()

    def _start(self) -> None:
        with self.console.status("starting the Prefect server (about 10 s)"):
            self._child("server", "server", "start", "--host", HOST, "--port", str(self._port))
            self._wait(lambda: answers(self.url), "the Prefect server")
        for run in crash_orphans(self.server, set(self.workers.values())):
            self._say(f"{self.server.deployment(run)} {run.name} was under way when the last `up` ended: run it again "
                      "to go on where it stopped")  # fmt: skip
        with self.console.status("putting the deployments on it"):
            applied = apply_deployments(self.url, self.choice)
        with self.console.status("starting the workers"):
            for pool, name in self.workers.items():
                self._child(f"worker-{pool}", "worker", "start", "--pool", pool, "--name", name, "--limit", "1")
            self._wait(lambda: all(self.server.online(*one) for one in self.workers.items()), "the workers")
        with (self.logs / "up.lock").open("w") as note:
            note.write(f"process {os.getpid()}, http://{HOST}:{self._port}")
        self.console.print(deployments_table(applied))
        self.console.print(f"[bold]dashboard:[/] http://{HOST}:{self._port}/deployments", highlight=False)
        self.console.print(f"logs: {escape(str(self.logs))}; Ctrl-C ends all of it", highlight=False, soft_wrap=True)

    def _child(self, name: str, *arguments: str) -> None:
        command = [sys.executable, "-m", "prefect", *arguments]
        self._children.append(Child(name, command, self._environment, self.logs / f"{name}.log"))

    def _wait(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_S
        while True:
            self._check_children()
            with contextlib.suppress(OSError):
                if true():
                    return
            if time.monotonic() > deadline:
                raise LaunchFailed(f"{what} did not come up within {START_S:.0f} s; see the logs in {self.logs}")
            time.sleep(0.3)

    def _check_children(self) -> None:
        for one in self._children:
            if one.ended():
                raise LaunchFailed(f"{one.name} ended with status {one.process.returncode}; {one.log} ends with:\n"
                                   f"{one.last_words()}")  # fmt: skip

    def _watch(self) -> None:
        """Tell of each flow run that begins, ends or changes its state."""
        while True:
            self._check_children()
            with contextlib.suppress(OSError):
                ends = ENDED if self._seen else ()  # asked for from the moment that one was under way
                for run in self.server.runs((*UNDERWAY, *ends)):
                    self._tell(run)
            time.sleep(LOOK_EVERY_S)

    def _tell(self, run: FlowRun) -> None:
        if self._seen.get(run.id) == run.state or (run.over and run.id not in self._seen):
            return
        self._seen[run.id] = run.state
        reason = f": {run.message.splitlines()[0]}" if run.message and run.type in ("FAILED", "CRASHED") else ""
        self._say(f"{self.server.deployment(run)} {run.name}: {run.state.lower()}{reason}")

    def _say(self, text: str) -> None:
        self.console.print(f"{time.strftime('%H:%M:%S')} {printable(text)}", highlight=False, markup=False,
                           soft_wrap=True)  # fmt: skip

    def _stop(self) -> None:
        """In order: no new runs, the running ones cancelled, the workers, the server; at last whatever is left."""
        try:
            with self.console.status("stopping (Ctrl-C again: at once)"):
                workers = self._children[1:]
                for worker in workers:
                    worker.send(signal.SIGINT)  # it takes no further run, and waits for those that it has
                with contextlib.suppress(OSError):
                    for run in cancel_all(self.server, set(self.workers.values()), STOP_S) if workers else ():
                        self._say(f"{self.server.deployment(run)} {run.name}: cancelled; the next run goes on there")
                for child in reversed(self._children):
                    child.send(signal.SIGTERM)
                    child.wait(10)
        except KeyboardInterrupt:
            pass
        finally:
            sweep(self._mark)
