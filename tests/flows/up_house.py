"""`stillhouse up` as a user starts it, on a port and with a Prefect home of its own; its API is asked over HTTP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from flows.up_processes import marked, sweep
from tests.faults.worker_pool import PROJECT, free_port, wait_until

OVER = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def environment(home: Path) -> dict[str, str]:
    return os.environ | {
        "PREFECT_HOME": str(home), "PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_WORKER_PREFETCH_SECONDS": "1",
        "COLUMNS": "200", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip


class UpHouse:
    """One Prefect home; `start` may be called again after `interrupt` or `kill`."""

    def __init__(self, folder: Path, *options: str | Path) -> None:
        self.folder, self.options = folder, list(map(str, options))
        self.port = free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.log = folder / "up.log"

    def start(self) -> None:
        command = [sys.executable, "-m", "flows.cli", "up", "--port", str(self.port), *self.options]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment(self.folder / "home") | {"PYTHONPATH": str(PROJECT)},
                stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        wait_until(self._ready, 200, "the dashboard's address")

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return "dashboard:" in self.log.read_text()

    def interrupt(self) -> str:
        """Ctrl-C; returns what `up` had said."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(90) == 0, self.log.read_text()
        return self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)

    def end(self) -> None:
        """Leave nothing, whatever happened."""
        mark = [its for one, its in marked() if its.startswith(f"{self.process.pid}:")]
        if self.process.poll() is None:
            self.kill()
        for its in set(mark):
            sweep(its)

    def processes(self) -> list[psutil.Process]:
        """What this `up` has started, all the way down."""
        return [one for one, its in marked() if its.startswith(f"{self.process.pid}:")]

    # --- the API

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        for _ in range(60):
            answer = httpx.request(method, self.api + path, json=body, timeout=120)
            if answer.status_code != 503:  # its database is locked for a moment; Prefect's own client tries again, too
                break
            time.sleep(1)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def deployment(self, name: str) -> dict[str, Any]:
        (found,) = self.ask("POST", "/deployments/filter", {"deployments": {"name": {"any_": [name]}}})
        return dict(found)

    def run(self, deployment: str, **parameters: Any) -> str:
        """Start a run as the dashboard's button does; returns its id."""
        path = f"/deployments/{self.deployment(deployment)['id']}/create_flow_run"
        made: str = self.ask("POST", path, {"parameters": parameters})["id"]
        return made

    def flow_run(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"/flow_runs/{run}")
        return found

    def runs_of(self, deployment: str, *, scheduled: bool = False) -> list[dict[str, Any]]:
        """The runs of a deployment that aren't waiting for their time, or (`scheduled`) that a schedule made."""
        wanted = {"deployments": {"id": {"any_": [self.deployment(deployment)["id"]]}}}
        found = self.ask("POST", "/flow_runs/filter", wanted)
        return [one for one in found if one["state_type"] != "SCHEDULED" and one["auto_scheduled"] == scheduled]

    def over(self, run: str, seconds: float = 180) -> dict[str, Any]:
        """The run when it has ended."""
        return wait_until(lambda: (one := self.flow_run(run))["state_type"] in OVER and one, seconds, f"run {run}")

    def completed(self, run: str, seconds: float = 180) -> dict[str, Any]:
        found = self.over(run, seconds)
        assert found["state_type"] == "COMPLETED", found["state"]
        return found

    def cancel(self, run: str) -> None:
        """As the dashboard's Cancel does."""
        self.ask("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})

    def artifacts(self, key: str) -> list[dict[str, Any]]:
        """All versions of a key, the newest first."""
        found: list[dict[str, Any]] = self.ask(
            "POST", "/artifacts/filter", {"artifacts": {"key": {"any_": [key]}}, "sort": "UPDATED_DESC"}
        )
        return found
