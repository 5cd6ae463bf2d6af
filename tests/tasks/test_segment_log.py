"""Proves that what was put into segments on an object store is given back, whoever died, froze or wrote beside it."""

from __future__ import annotations

import time

import pytest

from storage.errors import StoreFailed
from storage.files import remove_files
from tasks import segment_log
from tasks.segment_log import SegmentLog
from tasks.shard_log import Syncer, count_rows, logs, read_log, shard_of

COLUMNS = ["id", "text"]
ROWS = [["a", "one"], ["b", 'line\nbreak "quoted" \U0001f600'], ["c", None], ["d", "x" * 3000]]


@pytest.fixture
def syncer():
    with Syncer() as syncer:
        yield syncer


@pytest.fixture
def folder(s3):
    return s3.place("ws/unfinished/generate.t")


@pytest.fixture
def open_log(folder, syncer):
    return lambda shard="0", syncer=syncer: SegmentLog(folder, shard, COLUMNS, syncer)


def wait_for(folder, number):
    """Until so many segments are there; the syncer's thread puts them."""
    for _ in range(600):
        if len(found := logs(folder)) >= number:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{number} segments expected, {len(found)} there")


def test_what_was_added_is_read_by_this_writer_and_by_the_next(open_log, folder):
    log = open_log()
    for row in ROWS:
        log.add(row)
    assert list(log.rows()) == ROWS
    log.close()
    [segment] = logs(folder)
    assert count_rows(segment) == 4 and shard_of(segment) == "0" and list(read_log(segment, COLUMNS)) == ROWS
    after = open_log()
    after.add(["e", "next"])
    assert sorted(after.rows()) == sorted([*ROWS, ["e", "next"]])
    assert list(open_log("01").rows()) == []  # another shard whose name begins alike


def test_a_segment_is_put_when_it_is_long_enough(open_log, folder, monkeypatch):
    monkeypatch.setattr(segment_log, "SEGMENT_ROWS", 3)
    monkeypatch.setattr(segment_log, "SEGMENT_S", 3600.0)
    log = open_log()
    for row in ROWS[:2]:
        log.add(row)
    assert not log.sync() and logs(folder) == []
    log.add(ROWS[2])
    [segment] = wait_for(folder, 1)
    log.add(ROWS[3])
    assert count_rows(segment) == 3 and list(log.rows()) == ROWS  # what no segment holds is given too


def test_a_segment_is_put_when_it_is_old_enough(open_log, folder, monkeypatch):
    monkeypatch.setattr(segment_log, "SEGMENT_S", 0.0)
    log = open_log()
    log.add(ROWS[0])
    wait_for(folder, 1)
    log.add(ROWS[1])
    assert [list(read_log(one, COLUMNS)) for one in wait_for(folder, 2)] == [[ROWS[0]], [ROWS[1]]]


def test_a_commit_removes_what_it_read_and_its_own_and_no_more(open_log, folder):
    earlier = open_log()
    earlier.add(ROWS[0])
    earlier.close()
    frozen, mine = open_log(), open_log()
    mine.add(ROWS[1])
    assert list(mine.rows()) == ROWS[:2]
    frozen.add(ROWS[2])
    frozen.close()  # it woke up after the rows were read
    mine.committed()
    mine.close()
    assert [list(read_log(one, COLUMNS)) for one in logs(folder)] == [[ROWS[2]]]
    last = open_log()
    assert list(last.rows()) == [ROWS[2]]
    last.committed()
    assert logs(folder) == []


def test_a_put_that_fails_keeps_its_rows_for_the_next_try(open_log, folder, s3):
    quiet = Syncer()  # its thread doesn't run
    log = open_log(syncer=quiet)
    log.add(ROWS[0])
    s3.fault("403", "PUT", "unfinished", times=100)
    with pytest.raises(StoreFailed):
        log.close()
    s3.heal()
    assert list(log.rows()) == [ROWS[0]]
    log.close()
    assert [list(read_log(one, COLUMNS)) for one in logs(folder)] == [[ROWS[0]]]


def test_a_store_that_fails_is_told_to_whoever_adds_next(open_log, s3, monkeypatch):
    monkeypatch.setattr(segment_log, "SEGMENT_S", 0.0)
    log = open_log()
    s3.fault("403", "PUT", "unfinished", times=100)
    with pytest.raises(StoreFailed):
        for number in range(600):
            log.add([str(number), "x"])
            time.sleep(0.05)
    s3.heal()
    log.close()


def test_what_another_writer_commits_meanwhile_is_left_out(open_log, folder, monkeypatch):
    """A segment that was listed, and is gone when it is read."""
    for row in ROWS[:2]:
        log = open_log()
        log.add(row)
        log.close()
    gone, there = logs(folder)
    [left] = read_log(there, COLUMNS)
    remove_files([gone])
    monkeypatch.setattr(segment_log, "logs", lambda folder, shard: [gone, there])
    assert list(open_log().rows()) == [left]
