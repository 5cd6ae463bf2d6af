"""Fault campaign: SIGKILL of a run's process group at random moments, each followed by the same command again.

    python tests/faults/kill_campaign.py deploy/recipes/gsm8k_replay.yaml --kills 10 --compare
    python tests/faults/kill_campaign.py deploy/recipes/demo.yaml --kills 10

Proves: the run finishes, its books balance, nothing of a killed run is left running, and (with --compare, for replay
teachers) all tables are row-identical to those of an uninterrupted run. Exits 1 at the first thing that is not so.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import docker
import psutil

from flows.status import workspace_status
from sandbox.container import LABEL, OWNER, alive
from storage.compare import differences
from storage.workspace import Workspace

PROJECT = Path(__file__).resolve().parents[2]
MARK = "STILLHOUSE_CAMPAIGN"


def start(recipe: Path, workspace: Path, extra: list[str], log: Path, mark: str) -> subprocess.Popen[bytes]:
    """The command in a process group of its own; every process of it carries `mark` in its environment."""
    command = [sys.executable, "-m", "flows.cli", "run", str(recipe), "--workspace", str(workspace), *extra]
    with log.open("ab") as out:
        return subprocess.Popen(
            command, cwd=PROJECT, stdout=out, stderr=out, start_new_session=True, env=os.environ | {MARK: mark}
        )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def survivors(mark: str) -> list[psutil.Process]:
    """Processes of a campaign that are still there."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_gone(mark: str, seconds: float = 20.0) -> list[psutil.Process]:
    """What is left of a killed run after the time that its helpers have to notice."""
    deadline = time.monotonic() + seconds
    while (left := survivors(mark)) and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=0.5)
    return left


def stale_containers() -> list[str]:
    """Sandbox containers whose owner is gone; those of other runs on this machine don't count."""
    client = docker.from_env()
    listed = client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)
    return [one.name for one in listed if not alive(one.labels.get(OWNER, "?:0:0"))]


def fail(message: str, log: Path) -> None:
    tail = log.read_text(errors="replace")[-3000:] if log.exists() else ""
    sys.exit(f"FAILED: {message}\n{tail}")


def finish(recipe: Path, workspace: Path, extra: list[str], log: Path, mark: str) -> float:
    started = time.monotonic()
    code = start(recipe, workspace, extra, log, mark).wait()
    if code != 0:
        fail(f"the run ended with exit status {code}", log)
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, help="moments are drawn up to here; default: measured")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--folder", type=Path, default=Path("/tmp/stillhouse-campaign"))
    parser.add_argument("--compare", action="store_true", help="compare with an uninterrupted run")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    given = parser.parse_args()
    extra = [part for override in given.overrides for part in ("--set", override)]
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    log, mark = given.folder / "log", f"campaign-{os.getpid()}"
    draw = random.Random(given.seed)
    print(f"seed {given.seed}", flush=True)

    seconds = given.seconds
    whole = given.folder / "whole"
    if given.compare or seconds is None:
        took = finish(given.recipe, whole, extra, log, mark)
        print(f"uninterrupted: {took:.1f} s", flush=True)
        seconds = seconds or took

    killed = rounds = 0
    while killed < given.kills:  # a round ends when a run finishes; then a new workspace is begun
        rounds += 1
        broken = given.folder / f"round-{rounds}"
        while True:
            moment = draw.uniform(0.5, seconds) if killed < given.kills else None
            process = start(given.recipe, broken, extra, log, mark)
            try:
                code = process.wait(moment)
            except subprocess.TimeoutExpired:
                kill_group(process)
                killed += 1
                print(f"kill {killed}: at {moment:.1f} s of round {rounds}", flush=True)
                if left := wait_gone(mark):
                    fail(f"processes left after the kill: {[' '.join(one.cmdline())[:200] for one in left]}", log)
                continue
            if code != 0:
                fail(f"a run ended by itself with exit status {code}", log)
            break
        check(broken, whole if given.compare else None, log, mark)
        print(
            f"round {rounds}: finished, books balanced, nothing left behind"
            + (", row-identical to the uninterrupted run" if given.compare else ""),
            flush=True,
        )


def check(finished: Path, whole: Path | None, log: Path, mark: str) -> None:
    """What must hold of a finished workspace, however often its runs were killed."""
    workspace = Workspace.open(finished)
    for status in workspace_status(workspace):
        if not status.balanced or status.pending:
            fail(f"{status.step}: balanced {status.balanced}, pending {status.pending}", log)
    if left := wait_gone(mark):
        fail(f"processes left at the end: {[' '.join(one.cmdline())[:200] for one in left]}", log)
    if left_containers := stale_containers():
        fail(f"containers left: {left_containers}", log)
    if whole and (found := differences(Workspace.open(whole), workspace, skip=("report",))):
        fail("not row-identical:\n" + "\n".join(found[:20]), log)


if __name__ == "__main__":
    main()
