"""The short form of the soak, and proof that it would notice: it is run again with things broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import Sandbox

PROJECT = Path(__file__).resolve().parents[2]
SCRIPT = PROJECT / "tests" / "bench" / "sandbox" / "soak.py"
RUN = f"""
import runpy, sys
sys.path.append({str(SCRIPT.parent)!r})
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""


def soak(*arguments: str, broken: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", broken + RUN, *arguments],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_the_same_programs_twice_without_a_wrong_verdict_or_a_leak(sandbox: Sandbox) -> None:
    done = soak("--programs", "150", "--runs", "2", "--containers", "2", "--languages", "python", "c")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    assert "2 x 150 programs: 0 wrong, 0 flaky, 0 leaks" in done.stdout
    assert "left out" not in done.stdout


JUDGE_THAT_KEEPS = """
import itertools, threading
import sandbox.judge
from sandbox.pool import Sandbox
judge, turn, kept = Sandbox.judge, itertools.count(), []
sandbox.judge.compare_output = lambda expected, got: None if next(turn) < 20 else "no"
def keep(*args, **named):
    kept.append(open("/dev/null"))
    kept.append(b"x" * (2 << 20))
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    return judge(*args, **named)
Sandbox.judge = keep
"""
CONTAINERS_THAT_STAY = """
import itertools
import sandbox.pool
from sandbox.container import Container, engine
from sandbox.pool import Sandbox
judge, turn, kept = Sandbox.judge, itertools.count(1), []
def leave(self, *args, **named):
    verdict = judge(self, *args, **named)
    if verdict.run and next(turn) == 40:  # the first run is over
        with engine() as client:
            for one in self._solutions.known:
                client.containers.get(one.id).exec_run(["sleep", "60"], detach=True)
    return verdict
Sandbox.judge, sandbox.pool.remove_ended = leave, lambda: True
Container.close, Container.hang_up = lambda self: kept.append(self) or True, lambda self: kept.append(self)
"""


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (JUDGE_THAT_KEEPS, {"WRONG", "FLAKY", "LEAK: descriptors", "LEAK: threads", "LEAK: memory"}),
        (CONTAINERS_THAT_STAY, {"LEAK: containers", "LEAK: descriptors", "LEAK: processes"}),
    ],
    ids=["judge", "containers"],
)
def test_the_soak_notices(sandbox: Sandbox, broken: str, expected: set[str]) -> None:
    done = soak("--programs", "40", "--runs", "2", "--hostile", "0", "--containers", "1", broken=broken)
    assert done.returncode == 1, done.stdout[-6000:] + done.stderr
    lines = [line.split(":") for line in done.stdout.splitlines() if line.startswith(("WRONG", "FLAKY", "LEAK"))]
    found = {":".join(line[:2]) if line[0] == "LEAK" else line[0] for line in lines}
    assert found == expected, done.stdout[-6000:] + done.stderr
