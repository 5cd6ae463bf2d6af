"""The flow runs that the workers of `stillhouse up` have, as its Prefect server knows them."""

from __future__ import annotations

import json
import time
import urllib.request
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.error import HTTPError

import psutil

JSON = {"Content-Type": "application/json"}
UNDERWAY = ("PENDING", "RUNNING", "CANCELLING")
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
CRASHED = "stillhouse up was stopped in the middle; run it again to go on where it stopped"
STOPPED = "stopped with stillhouse up; run it again to go on where it stopped"
BUSY_S = 10
"""so long an answer is waited for while the server's database is locked (status 503), as it is on a busy machine"""
AT_ONCE = 200
"""the most that Prefect's API answers in one page"""


@dataclass(frozen=True)
class FlowRun:
    id: str
    name: str
    deployment: str | None
    """id"""
    state: str
    type: str
    message: str
    worker: str
    pid: int | None
    """of its process, once it has one"""

    @property
    def over(self) -> bool:
        return self.type in ENDED


class Server:
    """A Prefect server, asked over HTTP; a call raises OSError if it doesn't answer."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._names: dict[str, str] = {}

    def runs(self, types: tuple[str, ...] = UNDERWAY) -> list[FlowRun]:
        """The newest flow runs in states of these types."""
        wanted = {"flow_runs": {"state": {"type": {"any_": list(types)}}}, "limit": AT_ONCE, "sort": "START_TIME_DESC"}
        return [_flow_run(one) for one in self._call("POST", "/flow_runs/filter", wanted)]

    def set_state(self, run: FlowRun, kind: str, name: str, message: str, *, force: bool = False) -> None:
        state = {"type": kind, "name": name, "message": message}
        self._call("POST", f"/flow_runs/{run.id}/set_state", {"state": state, "force": force})

    def deployment(self, run: FlowRun) -> str:
        """Name of the deployment that a run is of."""
        if run.deployment is None:
            return "run"
        if run.deployment not in self._names:
            self._names[run.deployment] = self._call("GET", f"/deployments/{run.deployment}")["name"]
        return self._names[run.deployment]

    def online(self, pool: str, worker: str) -> bool:
        found = self._call("POST", f"/work_pools/{pool}/workers/filter", {})
        return any(one["name"] == worker and one["status"] == "ONLINE" for one in found)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.url + path, data, JSON, method=method)
        for left in reversed(range(BUSY_S)):
            try:
                with urllib.request.urlopen(asked, timeout=10) as answer:
                    return json.load(answer)
            except HTTPError as fault:
                if fault.code != HTTPStatus.SERVICE_UNAVAILABLE or not left:
                    raise
                time.sleep(1)
        return None


def _flow_run(raw: dict[str, Any]) -> FlowRun:
    pid = str(raw.get("infrastructure_pid") or "").rpartition(":")[2]
    return FlowRun(
        raw["id"], raw["name"], raw["deployment_id"], raw["state_name"] or "", raw["state_type"] or "",
        (raw["state"] or {}).get("message") or "", (raw["labels"] or {}).get("prefect.worker.name", ""),
        int(pid) if pid.isdigit() else None,
    )  # fmt: skip


def crash_orphans(server: Server, workers: set[str]) -> list[FlowRun]:
    """Runs that the server believes to be under way at workers of these names, when none of them runs: they crashed.

    Else a dead run would go on to count as the one that a deployment may have at a time.
    """
    orphans = [one for one in server.runs() if one.worker in workers]
    for one in orphans:
        server.set_state(one, "CRASHED", "Crashed", CRASHED, force=True)
    return orphans


def cancel_all(server: Server, workers: set[str], seconds: float) -> list[FlowRun]:
    """Cancel what these workers have under way, and wait until the processes have gone; returns the cancelled runs.

    A flow run stops its threads, containers and servers at once; the worker kills it if it hasn't after 30 s.
    """
    runs = [one for one in server.runs() if one.worker in workers]
    for one in runs:
        server.set_state(one, "CANCELLING", "Cancelling", STOPPED)
    deadline = time.monotonic() + seconds
    pids = [one.pid for one in runs if one.pid is not None]
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for one in runs:
        server.set_state(one, "CANCELLED", "Cancelled", STOPPED, force=True)
    return runs
