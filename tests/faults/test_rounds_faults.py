"""Later rounds against a real server on loopback: under SIGKILL in the middle of a round, under a budget, with faults.

Proves that a resumed run asks only for what is missing, that a budget closes what it leaves and a larger one goes on,
and that the engine is opened once for all rounds of a run. Not covered: workers, tests/flows/test_workers.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tasks import generate_rounds
from tests.faults.bad_server import BadServer
from tests.faults.test_generate_faults import RUN, fill

PROJECT = Path(__file__).resolve().parents[2]
QUESTIONS = 24
STEP = "generate.t.rounds"


def teacher(server, **more):
    return {"name": "t", "engine": "openai", "model": "m", "base_url": server.url, "samples": 2, "concurrency": 4,
            "attempts": 2, "until": "verified", "max_samples": 8, "samples_per_round": 2} | more  # fmt: skip


@pytest.fixture
def house(make_house):
    """No answer of the server is right, so that every question is asked up to the cap: 6 requests beyond round 0."""

    def make(server, **more):
        house = make_house(bits=1, teachers=[teacher(server, **more)], select={"trace": None})
        house.write("sums.jsonl", [{"question": f"What is {n} + {n}?", "ground_truth": "-1"} for n in range(QUESTIONS)])
        return house

    return make


def requests(house, step=STEP):
    found = [house.workspace.head(step, shard).books[0] for shard in house.workspace.shards]
    return sum(book.units_in for book in found), sum(book.units_out for book in found), sum(b.pending for b in found)


def later(house):
    rows = house.rows(STEP, "responses")
    assert len({(row["question_id"], row["sample_index"]) for row in rows}) == len(rows)
    return [row for row in rows if row["error_kind"] is None]


def test_a_run_killed_in_the_middle_of_a_round_asks_again_only_for_what_was_in_flight(house):
    with BadServer(0.0, pause_s=0.005) as server:
        house = house(server)
        house.run("generate")
        script = RUN.format(tests=str(PROJECT / "tests"), base=str(house.base), recipe=house.recipe,
                            root=str(house.root), bits=1).replace('"generate"', '"verify"')  # fmt: skip
        for delivered in (70, 120):  # in rounds 1 and 2; 48 of them are round 0's
            enough = server.when_delivered(delivered)
            with subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT) as process:
                assert enough.wait(120)
                process.kill()
            server.settled()
        house.run("verify")
        assert house.run("verify") == []
    assert len(later(house)) == 6 * QUESTIONS and requests(house) == (144, 144, 0)
    again = sum(times - 1 for times in server.asked.values())
    assert again <= 2 * (2 * 4 + 1)  # in flight, or on the way to the log, at each of two kills
    assert list((house.root / "unfinished").rglob("*.jsonl")) == []


def test_a_budget_closes_what_it_leaves_and_a_larger_one_goes_on(house):
    with BadServer(0.0) as server:
        house = house(server, budget={"requests": 60})
        house.run("verify")
        # 12 of round 1 are answered, which calls for 12 of round 2
        assert len(server.asked) == 60 and requests(house) == (60, 12, 48)
        stops = [house.workspace.head(STEP, shard).extra.get("budget") for shard in house.workspace.shards]
        assert sum(stop["not_asked"] for stop in stops if stop) == 48
        house.run("verify")
        assert len(server.asked) == 60
        house.recipe["teachers"][0]["budget"] = None
        house.run("verify")
        assert len(server.asked) == 192 and requests(house) == (144, 144, 0)
        assert house.run("verify") == []


def test_more_samples_take_in_what_later_rounds_have_paid_for(house):
    with BadServer(0.0) as server:
        house = house(server)
        house.run("verify")
        house.recipe["teachers"][0]["samples"] = 4
        house.run("verify")
        assert set(server.asked.values()) == {1} and len(server.asked) == 8 * QUESTIONS
        assert requests(house, "generate.t") == (96, 96, 0) and requests(house) == (96, 96, 0)
        assert {row["round"] for row in house.rows("generate.t", "responses")} == {0}
        judged = [row for step in ("verify.t", "verify.t.rounds") for row in house.rows(step, "verdicts")]
        assert len({(row["response_id"], row["verifier"]) for row in judged}) == len(judged)
        assert house.run("verify") == []


def test_failed_requests_wait_for_the_next_run_and_the_engine_is_opened_once(house, monkeypatch):
    opened = []
    real = generate_rounds.open_teacher
    monkeypatch.setattr(generate_rounds, "open_teacher", lambda *given: opened.append(1) or real(*given))
    with BadServer(0.15) as server:
        house = house(server, attempts=2, timeout_s=1)
        house.run("verify")
        assert opened == [1]
        for _ in range(20):
            if not house.run("verify"):
                break
    assert len(later(house)) == 6 * QUESTIONS and requests(house) == (144, 144, 0)
    assert set(map(len, server.delivered.values())) == {1}


def test_a_question_that_nothing_can_verify_is_not_asked_again(house):
    with BadServer(0.0) as server:
        house = house(server)
        fill(house, QUESTIONS)  # without a reference: nothing to verify by, however often it is asked
        house.run("verify")
    assert len(server.asked) == 2 * QUESTIONS and later(house) == []
