"""Proves law 2 with real processes: of two writers one wins, and a writer killed anywhere leaves the old state."""

from __future__ import annotations

import os
import signal

import pytest

from storage.manifest import Book
from storage.workspace import Workspace
from tests.storage.writers import exactly_one_wins, ids, start


def test_of_writers_that_race_for_one_shard_exactly_one_wins(workspace):
    exactly_one_wins(workspace)


STOPS = {
    "before the parts are written": ("storage.workspace.write_file", ""),
    "with a part half written": ("storage.workspace.pq.write_table", "Path(a[1]).write_bytes(b'PAR1 half')"),
    "before a part gets its name": ("storage.files.Path.rename", ""),
    "before the manifest is created": ("storage.workspace.Manifest.create", ""),
    "with the manifest half written": ("storage.files._write_bytes", "a[0].write_bytes(a[1][:40])"),
    "before the manifest is linked": ("storage.files.os.link", ""),
}


@pytest.mark.parametrize("moment", STOPS)
def test_a_writer_killed_in_a_commit_leaves_the_old_state(workspace, inputs, screened, moment):
    """The child stops itself at the moment; it is killed there, and the next writer commits as if it had never been."""
    workspace.begin("screen", "0", inputs, run_id="r").commit("screened", screened("old"), [], [Book("question", 1, 1)])
    target, before = STOPS[moment]
    module, _, name = target.rpartition(".")
    prepare = f"""
import os, signal, storage.files, storage.workspace
def stop(*a, **k):
    {before or "pass"}
    os.kill(os.getpid(), signal.SIGSTOP)
{module}.{name} = stop
"""
    writer = start(workspace, "new", prepare)
    assert writer.stdout.readline() == "ready\n"
    writer.stdin.write("go\n")
    writer.stdin.flush()
    _, status = os.waitpid(writer.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    assert ids(workspace) == ["old"]  # while it hangs
    writer.send_signal(signal.SIGKILL)
    os.waitpid(writer.pid, 0)
    writer.returncode = -signal.SIGKILL
    for pipe in (writer.stdin, writer.stdout):
        pipe.close()
    again = Workspace.open(workspace.root)
    assert ids(again) == ["old"] and again.head("screen", "0").seq == 1
    again.begin("screen", "0", inputs, run_id="r").commit("screened", screened("next"), [], [Book("question", 1, 1)])
    assert ids(again) == ["next"]


def test_a_writer_killed_right_after_its_commit_has_committed(workspace, inputs, screened):
    prepare = """
import os, signal, storage.workspace
create = storage.workspace.Manifest.create
def then_stop(self, head):
    create(self, head)
    os.kill(os.getpid(), signal.SIGKILL)
storage.workspace.Manifest.create = then_stop
"""
    writer = start(workspace, "new", prepare)
    writer.stdout.readline()
    writer.communicate("go\n")
    assert writer.returncode == -signal.SIGKILL and ids(workspace) == ["new"]
