"""Proves that a garbage collection takes what nothing names and nothing else: not what a commit or an edition names,
what was overtaken a moment ago, what is young, what a worker holds, or responses that are paid for; killed in the
middle, that the next one goes on.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage.collect import collect
from storage.editions import Edition, create_edition, drop_editions, keep_files, slices_of, stored_file
from storage.files import names
from storage.lease import Leases
from storage.manifest import Book
from storage.workspace import Workspace

PROJECT = Path(__file__).resolve().parents[2]
HOUR, DAY = 3600, 86400


@pytest.fixture
def commit(workspace, inputs, screened):
    """`commit("a")`: the slice screen 0 holds this row now."""

    def made(row):
        transaction = workspace.begin("screen", "0", inputs, run_id="r")
        return transaction.commit("screened", screened(row), [], [Book("question", 1, 1)])

    return made


def age(folder: Path, seconds: float) -> None:
    """Make everything below a folder older."""
    for path in [folder, *folder.rglob("*")]:
        stat = path.lstat()
        os.utime(path, (stat.st_atime - seconds, stat.st_mtime - seconds))


def there(workspace, head):
    return [(workspace.root / part.path).exists() for part in head.parts]


def test_what_was_overtaken_long_ago_goes(workspace, commit):
    old, new = commit("a"), commit("b")
    age(workspace.root, 2 * DAY)
    before = (workspace.root / old.parts[0].path).stat().st_size
    assert collect(workspace, dry_run=True).bytes == before and there(workspace, old) == [True]
    found = collect(workspace)
    assert [one.kind for one in found.found] == ["part"] and found.bytes == before
    assert there(workspace, old) == [False] and there(workspace, new) == [True]
    assert workspace.read("screen", "0", "screened").num_rows == 1
    assert collect(workspace).found == ()


def test_what_was_overtaken_a_moment_ago_stays_for_its_readers(workspace, commit):
    old, middle = commit("a"), commit("b")
    age(workspace.root, 2 * DAY)
    new = commit("c")
    assert len(collect(workspace).found) == 1  # the first: the second was the newest until now
    assert there(workspace, old) == [False] and there(workspace, middle) == there(workspace, new) == [True]


def test_a_slice_whose_first_commits_are_not_there_is_collected_all_the_same(workspace, commit):
    """As reshard leaves them: the newest commit alone."""
    old, new = commit("a"), commit("b")
    (workspace.manifest.root / "screen" / "0" / "00000001.json").unlink()
    age(workspace.root / "tables", 2 * DAY)
    assert len(collect(workspace).found) == 1 and there(workspace, old) == [False] and there(workspace, new) == [True]


def test_young_files_stay(workspace, commit):
    commit("a")
    written = workspace.root / "tables" / "screened" / "0" / "screen-000002-00000000.parquet"
    written.write_bytes(b"a part whose commit is about to come")
    torn = written.with_name(f".{written.name}.abc.tmp")
    torn.write_bytes(b"half a part")
    found = collect(workspace)
    assert found.found == () and found.young == 2 and written.exists()
    age(written.parent, 2 * DAY)
    assert len(collect(workspace).found) == 2 and not written.exists() and not torn.exists()


def test_a_clock_that_was_set_back_or_forward_removes_nothing_young(workspace, commit, monkeypatch):
    commit("a"), commit("b")
    monkeypatch.setattr(time, "time", lambda: 4e9)  # another machine's clock; files are dated by the file system
    assert collect(workspace).found == ()


def test_a_step_whose_range_a_worker_holds_is_left_alone(workspace, commit):
    old = commit("a")
    commit("b")
    age(workspace.root, 2 * DAY)
    lease = Leases(workspace.root, "screen").take("0", 0, "run")
    assert collect(workspace).found == () and there(workspace, old) == [True]
    lease.end("done", 1, 1)
    assert len(collect(workspace).found) == 1


def test_parts_and_files_of_an_edition_stay_until_it_is_dropped(workspace, commit):
    (workspace.root / "exports" / "plain").mkdir(parents=True)
    (workspace.root / "exports" / "plain" / "a.jsonl").write_text("{}\n")
    old = commit("a")
    for number in (1, 2):
        files = keep_files(workspace, ["plain"]) if number == 1 else ()
        create_edition(workspace, Edition(number, "", "t", "", "", {}, {}, slices_of([old]), files))
        old = old if number == 2 else commit("b")
    first = workspace.manifest.read("screen", "0", 1)
    (workspace.root / "exports" / "plain" / "a.jsonl").unlink()
    age(workspace.root, 2 * DAY)
    assert collect(workspace).found == ()
    assert drop_editions(workspace, 1) == [1]
    found = collect(workspace)
    assert sorted(one.kind for one in found.found) == ["edition file", "part"]
    assert there(workspace, first) == [False] and not list((workspace.root / "editions" / "files").iterdir())


def test_an_export_file_that_is_about_to_be_named_stays(workspace, commit):
    """A file that a dropped edition has left is taken up by the next one: it counts as young from then on."""
    (workspace.root / "exports" / "plain").mkdir(parents=True)
    (workspace.root / "exports" / "plain" / "a.jsonl").write_text("{}\n")
    keep_files(workspace, ["plain"])
    age(workspace.root, 2 * DAY)
    [file] = keep_files(workspace, ["plain"])
    collect(workspace)
    assert stored_file(workspace, file.sha256).exists()


def test_paid_responses_manifests_and_students_are_never_touched(workspace, commit):
    commit("a")
    kept = [workspace.root / name for name in ("unfinished/generate.t/0-1.jsonl", "students/s/model.bin", "cache/x")]
    gone = [workspace.root / name for name in ("tmp/12ab/spill.parquet", "exports/left/data.jsonl")]
    for path in [*kept, *gone]:
        path.parent.mkdir(parents=True)
        path.write_text("x")
    head = workspace.begin("export", "all", workspace.head("screen", "0").inputs, run_id="r").commit_result(
        [Book("example", 0, 0)], content="x", extra={"folders": ["exports/plain"]}
    )
    age(workspace.root, 30 * DAY)
    manifests = sorted(workspace.manifest.root.rglob("*.json"))
    found = collect(workspace)
    assert sorted(one.kind for one in found.found) == ["export", "scratch"]
    assert all(path.exists() for path in kept) and not any(path.exists() for path in gone)
    assert sorted(workspace.manifest.root.rglob("*.json")) == manifests and workspace.head("export", "all") == head


def test_killed_in_the_middle_nothing_live_is_lost_and_the_next_one_ends_it(workspace, commit):
    """SIGKILL of the collecting process when it has removed a part of the garbage."""
    for number in range(3):
        head = commit(f"{number}")
    folder = workspace.root / "tables" / "screened" / "0"
    for number in range(3000):
        (folder / f"screen-000009-{number:08x}.parquet").write_bytes(b"garbage")
    age(workspace.root, 2 * DAY)
    program = "import sys\nfrom pathlib import Path\nfrom storage.collect import collect\n" \
              "from storage.workspace import Workspace\ncollect(Workspace.open(Path(sys.argv[1])))"  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", program, str(workspace.root)], cwd=PROJECT)
    left = random.Random(1).randint(500, 2500)
    while len(names(folder)) > left and process.poll() is None:
        pass
    process.send_signal(signal.SIGKILL)
    assert process.wait() in (-signal.SIGKILL, 0)
    assert len(names(folder)) > 1
    again = Workspace.open(workspace.root)
    assert again.read("screen", "0", "screened").num_rows == 1
    collect(again)
    assert names(folder) == [Path(head.parts[0].path).name]
    assert json.loads((workspace.root / "workspace.json").read_text())["shard_bits"] == 1
