"""A real Prefect server on loopback with a `process` pool; its workers can be killed and frozen as whole trees."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

PROJECT = Path(__file__).resolve().parents[2]
PREFECT = [sys.executable, "-m", "prefect"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], Any], seconds: float = 60.0, what: str = "") -> Any:
    """Poll what no event tells of; returns the first true value."""
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(0.05)
    return value


class Tree:
    """A process with all that it started."""

    def __init__(self, command: list[Any], environment: dict[str, str], log: Path) -> None:
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                list(map(str, command)), cwd=PROJECT, env=environment, stdout=out, stderr=out, start_new_session=True
            )
        self.log = log

    def all(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def send(self, sign: signal.Signals) -> None:
        for one in self.all():
            one.send_signal(sign)

    def kill(self) -> None:
        found = self.all()
        for one in found:
            one.kill()
        psutil.wait_procs(found, timeout=20)
        self.process.wait(20)

    def finish(self, code: int = 0, seconds: float = 120.0) -> str:
        """What it printed by its end, which must come with this exit code."""
        found = self.process.wait(seconds)
        text = self.log.read_text()
        assert found == code, f"exit status {found}, expected {code}:\n{text[-4000:]}"
        return text


class Pool:
    """A context manager: server, pool `gpu` and the deployment of deploy/prefect.yaml."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/api"
        self.environment = os.environ | {
            "PREFECT_HOME": str(folder / "home"), "PREFECT_API_URL": self.url, "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_WORKER_QUERY_SECONDS": "0.5",
            "PREFECT_WORKER_PREFETCH_SECONDS": "1", "COLUMNS": "300",
        }  # fmt: skip
        self._port = port
        self._trees: list[Tree] = []
        self.workers: list[Tree] = []

    def __enter__(self) -> Self:
        self._start([*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", self._port, "--no-ui"], "server.log")
        wait_until(self._healthy, 120, "the Prefect server")
        self._prefect("work-pool", "create", "--type", "process", "gpu")
        self._prefect("--no-prompt", "deploy", "--prefect-file", "deploy/prefect.yaml", "--name", "generate")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tree in reversed(self._trees):
            tree.kill()

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=2).is_success
        except httpx.HTTPError:
            return False

    def _prefect(self, *arguments: str) -> None:
        done = subprocess.run([*PREFECT, *arguments], cwd=PROJECT, env=self.environment, capture_output=True, text=True,
                              timeout=120, check=False)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def _start(self, command: list[Any], log: str) -> Tree:
        tree = Tree(command, self.environment, self.folder / log)
        self._trees.append(tree)
        return tree

    def have_workers(self, number: int) -> None:
        """Start as many as are missing."""
        self.workers = [one for one in self.workers if one.process.poll() is None]
        while len(self.workers) < number:
            log = f"worker-{len(self._trees)}.log"
            self.workers.append(self._start([*PREFECT, "worker", "start", "--pool", "gpu", "--limit", "1"], log))

    def worker_of(self, pid: int) -> Tree:
        """The worker that started a process."""
        return next(tree for tree in self.workers if pid in [one.pid for one in tree.all()])

    def run(self, recipe: Path, workspace: Path, *more: str) -> Tree:
        """`stillhouse run`, started."""
        command = [sys.executable, "-m", "flows.cli", "run", recipe, "--workspace", workspace, *more]
        return self._start(command, f"run-{len(self._trees)}.log")

    def flow_runs(self, **filters: Any) -> list[dict[str, Any]]:
        answer = httpx.post(f"{self.url}/flow_runs/filter", json=filters, timeout=20)
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()
        return found
