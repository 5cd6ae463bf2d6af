"""One run at a time: a second one is refused and told who is there; a killed one holds nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage.run_lock import RunningAlready, run_lock

HOLD = """
import sys, os, time
from pathlib import Path
from storage.run_lock import run_lock
with run_lock(Path(sys.argv[1])):
    if os.fork() == 0:
        os.close(1)
        time.sleep(20)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    project = Path(__file__).resolve().parents[2]
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], cwd=project, stdout=subprocess.PIPE, text=True,
                              start_new_session=True)  # fmt: skip
    assert holder.stdout and holder.stdout.readline() == "held\n"
    told = rf"another run works on it \(process {holder.pid} on .* UTC\); wait"
    with pytest.raises(RunningAlready, match=told), run_lock(tmp_path, patience_s=0.3):
        pass
    holder.kill()  # the child that it forked lives on, and holds nothing
    holder.wait()
    with run_lock(tmp_path, patience_s=0.3):
        assert f"process {os.getpid()} on" in (tmp_path / "run.lock").read_text()
    assert (tmp_path / "run.lock").read_text() == ""
    os.killpg(holder.pid, 9)
