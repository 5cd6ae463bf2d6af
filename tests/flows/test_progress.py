"""Proves what the panel of teachers says, that a plain console gets lines, and when Prefect's artifacts are written."""

from __future__ import annotations

import io

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.testing.utilities import prefect_test_harness
from rich.console import Console

from flows import progress
from flows.progress import Artifacts, Bars, Rates, duration, teacher_row
from tasks.step import Quiet
from tasks.tally import ShowsTally, Tally


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=160, color_system=None)


def text(where: Console) -> str:
    assert isinstance(where.file, io.StringIO)
    return where.file.getvalue()


def test_speed_and_time_left_are_those_of_the_last_minute(clock):
    tally = Tally(expected=10_000)
    rates = Rates(tally, clock)
    assert rates.look() == (None, None)
    for second in range(1, 121):  # one reply of 10 tokens a second, then ten of 30
        clock.now = float(second)
        tally.done += 1 if second <= 60 else 10
        tally.tokens += 10 if second <= 60 else 300
        rates.look()
    speed, left = rates.look()
    assert speed == pytest.approx(300, rel=0.02)
    assert left == pytest.approx((10_000 - 660) / 10, rel=0.02)


def test_failed_requests_are_replies_too(clock):
    tally = Tally(expected=20)
    rates = Rates(tally, clock)
    clock.now, tally.failed = 5.0, 10
    assert rates.look() == (0.0, 5.0)


def test_a_teachers_row_says_what_is_known(clock):
    tally = Tally(expected=4000, done=1000, failed=3, skipped=77, in_flight=64, tokens=2_000_000, cost=1.5,
                  judged=200, passed=50)  # fmt: skip
    rates = Rates(tally, clock)
    assert teacher_row("generate.big", rates) == ["big", "1,000", "64", "3", "77", "–", "25.0%", "1.50", "–"]
    clock.now = 10.0
    assert teacher_row("generate.big", rates)[5:] == ["200,000", "25.0%", "1.50", "0:00:29"]
    assert teacher_row("generate.free", Rates(Tally(), clock))[6:] == ["–", "–", "–"]


def test_durations():
    assert [duration(one) for one in (0, 61.9, 7509, 100 * 3600)] == ["0:00:00", "0:01:01", "2:05:09", "4 d 04:00"]


def test_the_panel_stands_below_the_bars():
    where = console(True)
    with Bars(where) as bars:
        bars.expect("generate.big", 10)
        bars.tally("generate.big", Tally(expected=10, done=4, in_flight=2))
        bars.advance("generate.big", 4)
        bars.say("a worker died")
    shown = text(where)
    assert "4/10" in shown and "in flight" in shown and "a worker died" in shown
    assert shown.index("4/10") < shown.index("in flight")


def test_a_plain_console_gets_a_line_every_so_often(monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", -1.0)
    where = console(False)
    with Bars(where) as bars:
        bars.expect("curate", 2)
        bars.advance("curate")
        bars.expect("generate.big", 10)
        bars.tally("generate.big", Tally(expected=10, done=3, failed=1, cost=0.25))
        bars.advance("generate.big", 4)
    first, second = text(where).splitlines()
    assert first == "curate: 1 of 2"
    assert second.startswith("generate.big: 4 of 10; done 3, in flight 0, failed 1, skipped 0") and "0.25" in second


def test_who_shows_tallies():
    assert isinstance(Bars(console(False)), ShowsTally) and isinstance(Artifacts(Quiet(), "k"), ShowsTally)
    assert not isinstance(Quiet(), ShowsTally)


def test_a_progress_artifact_for_each_step_that_takes_long_and_for_no_other():
    tally = Tally(expected=40)

    @flow
    def asking() -> None:
        bars = Bars(console(False))
        with Artifacts(bars, "set") as shown:
            shown.tally("generate.far_away", tally)
            for step, units in (("curate", 5), ("generate.far_away", 40), ("generate.elsewhere", 8), ("verify.far", 4)):
                shown.expect(step, units)
            shown._write()
            tally.done, tally.tokens, tally.in_flight = 10, 900, 5
            shown.advance("generate.far_away", 10)
            shown.advance("generate.elsewhere", 2)
            shown.advance("verify.far", 1)
        assert bars._done == {"generate.far_away": 10, "generate.elsewhere": 2, "verify.far": 1}

    with prefect_test_harness(server_startup_timeout=120):
        asking()
        found = ArtifactFilter(key=ArtifactFilterKey(like_="set-%"))
        with get_client(sync_client=True) as client:
            artifacts = {one.key: one for one in client.read_artifacts(artifact_filter=found)}
    assert {key: one.data for key, one in artifacts.items()} == {
        "set-generate-far-away": 25.0, "set-generate-elsewhere": 25.0, "set-verify-far": 25.0,
    }  # fmt: skip
    assert "done 10, in flight 5, failed 0" in artifacts["set-generate-far-away"].description
    assert artifacts["set-generate-elsewhere"].description == "generate.elsewhere: 2 of 8 requests"
    assert artifacts["set-verify-far"].description == "verify.far: 1 of 4"


def test_a_server_that_fails_ends_the_artifacts_and_not_the_run(monkeypatch):
    calls = []

    def broken(*arguments):
        calls.append(arguments)
        raise RuntimeError("no server")

    monkeypatch.setattr("prefect.artifacts.create_progress_artifact", broken)
    with Artifacts(Quiet(), "set") as shown:
        shown.expect("generate.a", 5)
        shown._write()
        shown.advance("generate.a", 5)
    assert len(calls) == 1
