"""Proves that a log gives back what was added, whatever was torn, killed or written beside it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.shard_log import Held, ShardLog, Syncer, read_log

PROJECT = Path(__file__).resolve().parents[2]
COLUMNS = ["id", "text"]
ROWS = [["a", "one"], ["b", 'line\nbreak "quoted" \U0001f600'], ["c", None], ["d", "x" * 3000]]


@pytest.fixture
def syncer():
    with Syncer() as syncer:
        yield syncer


@pytest.fixture
def open_log(tmp_path, syncer):
    return lambda shard="0": ShardLog(tmp_path / "logs", shard, COLUMNS, syncer)


def files(tmp_path):
    return sorted((tmp_path / "logs").iterdir())


def written(open_log, tmp_path):
    """The bytes of a log of ROWS, let go without a commit."""
    log = open_log()
    for row in ROWS:
        log.add(row)
    log.close()
    [path] = files(tmp_path)
    return path


def test_what_was_added_is_read_by_this_writer_and_by_the_next(open_log, tmp_path):
    written(open_log, tmp_path)
    after = open_log()
    after.add(["e", "next"])
    assert sorted(after.rows()) == sorted([*ROWS, ["e", "next"]])
    assert list(open_log("01").rows()) == []  # another shard whose name begins alike


def test_a_log_torn_anywhere_gives_its_whole_lines(open_log, tmp_path):
    path = written(open_log, tmp_path)
    whole = path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for cut in [*range(0, ends[3] + 1), *range(ends[3] + 1, len(whole), 97)]:
        path.write_bytes(whole[:cut])
        assert list(read_log(path, COLUMNS)) == ROWS[: max(0, sum(end <= cut for end in ends) - 1)]


def test_a_damaged_line_loses_itself_alone(open_log, tmp_path):
    path = written(open_log, tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    for number in range(len(lines)):
        damaged = bytearray(lines[number])
        damaged[len(damaged) // 2] ^= 1
        path.write_bytes(b"".join([*lines[:number], bytes(damaged), *lines[number + 1 :]]))
        left = ROWS if number == 0 else [*ROWS[: number - 1], *ROWS[number:]]
        assert list(read_log(path, COLUMNS)) == left


def test_a_log_of_another_version_is_read_by_the_names_of_its_columns(open_log, tmp_path):
    path = written(open_log, tmp_path)
    assert next(read_log(path, ["new", "text"])) == [None, "one"]


def test_a_commit_removes_its_own_log_and_those_of_writers_that_are_gone(open_log, tmp_path):
    written(open_log, tmp_path)
    living, mine = open_log(), open_log()
    living.add(["f", "frozen"])
    mine.add(["e", "mine"])
    assert len(list(mine.rows())) == 6
    mine.committed()
    [left] = files(tmp_path)
    assert list(read_log(left, COLUMNS)) == [["f", "frozen"]]
    living.add(["g", "woken"])
    living.close()
    last = open_log()
    assert list(last.rows()) == [["f", "frozen"], ["g", "woken"]]
    last.committed()
    assert files(tmp_path) == []


def test_a_log_that_was_not_read_is_not_removed(open_log, tmp_path):
    log = open_log()
    log.add(["a", "one"])
    list(log.rows())
    written_later = ShardLog(tmp_path / "logs", "0", COLUMNS, Syncer())
    written_later._begin()
    written_later._write(["z", "late"])
    log.committed()
    written_later.close()
    assert [row for path in files(tmp_path) for row in read_log(path, COLUMNS)] == [["z", "late"]]


def test_a_process_killed_right_after_adding_has_lost_nothing(open_log, tmp_path):
    script = (
        "import os, signal, pathlib\n"
        "from tasks.shard_log import ShardLog, Syncer\n"
        f"log = ShardLog(pathlib.Path({str(tmp_path / 'logs')!r}), '0', {COLUMNS!r}, Syncer())\n"
        "for number in range(100):\n"
        "    log.add([str(number), 'text'])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=PROJECT, check=False).returncode == -signal.SIGKILL
    log = open_log()
    assert [row[0] for row in log.rows()] == [str(number) for number in range(100)]
    log.committed()
    assert files(tmp_path) == []


def test_what_is_held_in_memory_is_forgotten_after_the_commit():
    held = Held()
    held.add(["a", "one"])
    assert list(held.rows()) == [["a", "one"]]
    held.committed()
    assert list(held.rows()) == []
