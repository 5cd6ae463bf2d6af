"""Proves what a range is allotted of a budget: by what it misses, out of what neither the workspace nor other ranges
have taken; that a worker keeps to it, whatever was spent before; and that logs of dead workers count.

How a parent sends ranges out is in tests/flows/test_workers.py, real workers in tests/faults/test_worker_faults.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tasks.allotment import Allotment, Allotter, Reserved
from tasks.teachers.settings import BudgetSettings, OpenAITeacherSettings
from tests.faults.bad_server import BadServer

STEP = "generate.t"
PROMPT_TOKENS = 9


@pytest.fixture
def server():
    with BadServer(0.0) as server:
        yield server


@pytest.fixture
def house(make_house, server):
    """120 planned requests of teacher `t` in four shards, about 30 each."""
    teacher = {"name": "t", "engine": "openai", "model": "m", "base_url": server.url, "samples": 2, "concurrency": 4,
               "attempts": 1}  # fmt: skip
    house = make_house(bits=2, teachers=[teacher])
    house.write("sums.jsonl", [{"question": f"What is {number} + 1?"} for number in range(60)])
    house.run("curate")
    return house


def allotter(house, budget=None, clock=lambda: 1000.0, **more):
    teachers = [OpenAITeacherSettings(**one | more) for one in house.recipe["teachers"]]
    return Allotter(budget and BudgetSettings(**budget), teachers, clock)


def work_off(house, shards, allotment=None):
    context, step, work = house.step(STEP)
    step.run(replace(context, allotment=allotment), step, [one for one in work if one.shard in shards])


def missing(house, one, *shards):
    _, step, _ = house.step(STEP)
    return one.missing(house.workspace, step, shards, again=False)


def tokens_of(house, shards):
    rows = [row for shard in shards for row in house.workspace.read(STEP, shard, "responses").to_pylist()]
    return sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)


def test_a_range_gets_its_share_and_the_last_one_all_that_is_left(house, server):
    one = allotter(house, {"requests": 60})
    first, last = ("00", "01"), ("10", "11")
    own, rest = missing(house, one, *first), missing(house, one, *last)
    assert own + rest == 120
    share = one.allot(house.workspace, STEP, first, own, rest, [])
    assert share.requests == round(60 * own / 120) and (share.tokens, share.money, share.hours) == (None, None, None)
    assert share.whose == "budget of all teachers, the share of 00-01"
    kept = one.allot(house.workspace, STEP, last, rest, 0, [Reserved(STEP, share)])
    assert kept.requests == 60 - share.requests
    work_off(house, first, share)
    assert len(server.asked) == share.requests
    assert one.used_up(house.workspace, STEP, share) and not one.used_up(house.workspace, STEP, kept)
    again = one.allot(house.workspace, STEP, last, rest, 0, [Reserved(STEP, share)])  # spent now, not reserved
    assert again == kept and one.anything_left(house.workspace, STEP)
    work_off(house, last, kept)
    assert len(server.asked) == 60 and not one.anything_left(house.workspace, STEP)


def test_an_allotment_is_a_ceiling_with_what_was_spent_before(house, server, crash_after):
    """A worker that died left 10 responses in a log; whoever follows asks for the rest of the share."""
    one = allotter(house, {"requests": 40})
    share = one.allot(house.workspace, STEP, ("00", "01"), 1, 1, [])
    assert share.requests == 20
    with crash_after(10):
        work_off(house, ("00", "01"), share)
    assert one.allot(house.workspace, STEP, ("00", "01"), 1, 1, []).requests == 10 + 15  # half of the 30 that are left
    kept = one.allot(house.workspace, STEP, ("10", "11"), 1, 0, [Reserved(STEP, share)])
    assert kept.requests == 20  # of the 20 of the share 10 are spent and 10 still its own
    server.asked.clear()
    work_off(house, ("00", "01"), share)
    assert len(server.asked) == 10


def test_tokens_and_money_are_shared_by_what_they_cost_so_far(house, server):
    priced = {"price_per_million_tokens": 10, "price_per_million_prompt_tokens": 100, "budget": {"money": 0.3}}
    house.recipe["teachers"][0] |= priced
    one = allotter(house, {"tokens": 40_000})
    share = one.allot(house.workspace, STEP, ("00", "01"), 1, 1, [])
    assert (share.tokens, share.money) == (20_000, pytest.approx(0.15))
    assert share.whose == "budget of t and budget of all teachers, the share of 00-01"
    work_off(house, ("00", "01"), share)
    spent = tokens_of(house, ("00", "01"))
    asked = len(server.asked)
    paid = (10 * (spent - PROMPT_TOKENS * asked) + 100 * PROMPT_TOKENS * asked) / 1e6
    assert 0.15 <= paid < 0.15 + 4 * (10 * 997 + 100 * PROMPT_TOKENS) / 1e6 and spent < 20_000
    left = one.allot(house.workspace, STEP, ("10", "11"), 1, 0, [])
    assert left.tokens == 40_000 - spent
    assert left.money == pytest.approx(0.3 - paid)


def test_hours_run_from_the_first_allotment_of_the_run(house, server):
    now = [1000.0]
    one = allotter(house, {"hours": 2.0}, lambda: now[0])
    first = one.allot(house.workspace, STEP, ("00", "01"), 1, 1, [])
    now[0] += 3600
    second = one.allot(house.workspace, STEP, ("10", "11"), 1, 0, [])
    assert (first.hours, first.began) == (second.hours, second.began) == (2.0, 1000.0)
    assert not one.used_up(house.workspace, STEP, second) and one.anything_left(house.workspace, STEP)
    now[0] += 3600
    assert one.used_up(house.workspace, STEP, second) and not one.anything_left(house.workspace, STEP)
    work_off(house, ("00",), second)  # began in 1970, by this machine's clock
    assert server.asked == {}
    assert house.workspace.head(STEP, "00").extra["budget"]["reached"].endswith("of 2.00 hours")


def test_later_rounds_are_counted_with_the_first_one(house):
    house.recipe["teachers"][0] |= {"until": "verified", "max_samples": 6, "samples_per_round": 2}
    one = allotter(house, {"requests": 100})
    assert one.limits("generate.t.rounds") and one.limits(STEP)
    work_off(house, ("00",))
    answered = house.workspace.head(STEP, "00").books[0].units_out
    share = one.allot(house.workspace, "generate.t.rounds", ("00", "01"), 1, 0, [])
    assert share.requests == 100 - answered
    step = next(step for step in house.plan().steps if step.key == "generate.t.rounds")
    assert one.missing(house.workspace, step, ["00"], again=False) == 2 * answered  # 4 further samples at most, k is 2


def test_a_teacher_under_no_budget_has_no_allotment(house):
    assert not allotter(house).limits(STEP)


def test_an_allotment_survives_the_way_to_the_worker(house):
    share = allotter(house, {"requests": 60, "hours": 1.5}).allot(house.workspace, STEP, ("00", "10"), 1, 1, [])
    assert Allotment.model_validate(share.as_json()) == share
    assert share.shards(house.workspace) == ["00", "01", "10"]
