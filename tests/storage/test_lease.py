"""Leases: of two takers one wins, the newest term is the truth, and silence is measured without comparing clocks."""

from __future__ import annotations

import threading

import pytest

from storage.lease import LeaseLost, Leases, LeaseTaken, Watch, holder_here


@pytest.fixture
def leases(tmp_path):
    return Leases(tmp_path, "generate.t")


def test_a_range_is_taken_renewed_and_given_back(leases):
    assert leases.newest("00-01") is None
    assert leases.names() == []
    lease = leases.take("00-01", 0, "run-1")
    lease.renew(10, 4)
    newest = leases.newest("00-01")
    assert (newest.term, newest.holder, newest.run, newest.state) == (1, holder_here(), "run-1", "held")
    assert (newest.beat, newest.expected, newest.answered) == (1, 10, 4)
    lease.end("done", 10, 10)
    assert leases.newest("00-01").state == "done"
    assert leases.names() == ["00-01"]


def test_of_many_takers_one_wins(leases):
    start, won = threading.Barrier(8), []

    def take(number):
        start.wait()
        try:
            leases.take("00-01", 0, f"run-{number}")
        except LeaseTaken:
            return
        won.append(f"run-{number}")

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [leases.newest("00-01").run] == won


def test_whoever_was_overtaken_can_neither_renew_nor_end(leases):
    first = leases.take("00-01", 0, "run-1")
    second = leases.take("00-01", 1, "run-2")
    with pytest.raises(LeaseLost, match="term 1 was this process's, a later one is held by"):
        first.renew(1, 1)
    with pytest.raises(LeaseLost):
        first.end("done", 1, 1)
    second.renew(1, 1)
    assert leases.newest("00-01").run == "run-2"


def test_a_term_that_is_long_past_is_not_taken_again(leases):
    """The files of old terms are removed; who still waits for one must not believe that it is free."""
    for term in range(4):
        leases.take("00-01", term, f"run-{term}")
    for after in range(4):
        with pytest.raises(LeaseTaken):
            leases.take("00-01", after, "late")
    assert leases.newest("00-01").run == "run-3"


def test_a_revoked_range_is_nobodys(leases):
    lease = leases.take("00-01", 0, "run-1")
    leases.take("00-01", 1, "", revoke="the parent was cancelled")
    with pytest.raises(LeaseLost, match="revoked"):
        lease.renew(1, 1)
    leases.take("00-01", 2, "run-2")


def test_silence_begins_when_a_beat_is_first_seen(leases):
    now = 100.0
    watch = Watch(lambda: now)
    lease = leases.take("00-01", 0, "run-1")
    assert watch.silent_s(leases.newest("00-01")) == 0
    now = 130.0
    assert watch.silent_s(leases.newest("00-01")) == 30
    lease.renew(1, 0)
    assert watch.silent_s(leases.newest("00-01")) == 0
    now = 131.0
    leases.take("00-01", 1, "run-2")
    assert watch.silent_s(leases.newest("00-01")) == 0
