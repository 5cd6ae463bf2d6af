"""Processes that race for one shard, on a folder or an object store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]

WRITER = """
import sys
from pathlib import Path
import pyarrow as pa
from storage.errors import CommitLost
from storage.manifest import Book, Inputs
from storage.place import place
from storage.schemas import SCREENED
from storage.workspace import Workspace

workspace = Workspace.open(place(sys.argv[1]))
name = sys.argv[2]
row = {"question_id": name, "text_hash": "0", "rule": None, "value": None, "threshold": None, "evidence": "{}"}
rows = pa.Table.from_pylist([row], schema=SCREENED)
transaction = workspace.begin("screen", "0", Inputs("1", {}, {}), run_id=name)
{prepare}
print("ready", flush=True)
sys.stdin.readline()
try:
    transaction.commit("screened", rows, [], [Book("question", 1, 1)])
    print("won", flush=True)
except CommitLost:
    print("lost", flush=True)
"""


def start(workspace, name, prepare=""):
    """A writer that says `ready` and commits its one row when it is sent a line; `prepare` runs before that."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER.replace("{prepare}", prepare), str(workspace.root), name],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ids(workspace):
    return workspace.read("screen", "0", "screened").column("question_id").to_pylist()


def exactly_one_wins(workspace):
    writers = [start(workspace, name) for name in ("a", "b", "c")]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:  # all have read their base: only now they go
        writer.stdin.write("go\n")
        writer.stdin.flush()
    answers = {name: writer.communicate()[0].strip() for name, writer in zip("abc", writers, strict=True)}
    assert sorted(answers.values()) == ["lost", "lost", "won"]
    assert [name for name, answer in answers.items() if answer == "won"] == ids(workspace)
    assert workspace.head("screen", "0").seq == 1
