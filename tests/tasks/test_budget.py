"""Proves that a budget ends the asking where it says, that nothing paid for is lost or asked twice, and that the books
show what wasn't asked. The server on loopback counts by itself what it was asked and what it delivered.

Not covered: the prices that a provider really bills.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from flows.errors import RecipeError
from flows.recipe import budget_overrides, check_recipe
from flows.steps import build_steps
from tasks import generate
from tasks.budget import Budget, _committed, allot, by_price, missing, spent
from tasks.teachers.settings import BudgetSettings, OpenAITeacherSettings
from tasks.teachers.teacher import Reply, failed
from tests.faults.bad_server import BadServer

QUESTIONS, SAMPLES = 60, 2
PROMPT_TOKENS = 9
"""what the server says of every request"""


def settings(name="t", **more):
    return OpenAITeacherSettings(name=name, engine="openai", model="m", base_url="http://localhost:1/v1", **more)


def teacher(server, name="t", **more):
    return {
        "name": name, "engine": "openai", "model": "m", "base_url": server.url, "samples": SAMPLES, "concurrency": 4,
        "attempts": 1,
    } | more  # fmt: skip


@pytest.fixture
def server():
    with BadServer(0.0) as server:
        yield server


@pytest.fixture
def house(make_house, server):
    """120 planned requests of teacher `t` in four shards."""
    house = make_house(bits=2, teachers=[teacher(server)])
    house.write("sums.jsonl", [{"question": f"What is {number} + 1?"} for number in range(QUESTIONS)])
    return house


def books(house, step="generate.t"):
    found = [house.workspace.head(step, shard).books[0] for shard in house.workspace.shards]
    return sum(book.units_in for book in found), sum(book.units_out for book in found), sum(b.pending for b in found)


def stops(house, step="generate.t"):
    """What the commits say of the budget: reached → requests not asked."""
    found = {}
    for shard in house.workspace.shards:
        if stop := house.workspace.head(step, shard).extra.get("budget"):
            found[stop["reached"]] = found.get(stop["reached"], 0) + stop["not_asked"]
    return found


def tokens(house, step="generate.t"):
    rows = house.rows(step, "responses")
    return sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)


def delivered(server):
    assert all(len(one) == 1 for one in server.delivered.values())
    return sum(one[0] + PROMPT_TOKENS for one in server.delivered.values())


def test_a_cap_on_requests_is_exact_kept_by_a_second_run_and_lifted_by_a_larger_one(house, server):
    house.recipe["budget"] = {"requests": 50}
    house.run("generate")
    assert len(server.asked) == 50 and books(house) == (120, 50, 70)
    assert stops(house) == {"budget of all teachers: 50 of 50 requests": 70}
    house.run("generate")
    assert len(server.asked) == 50 and books(house) == (120, 50, 70)
    assert stops(house) == {"budget of all teachers: 50 of 50 requests": 70}
    house.recipe["budget"] = {"requests": 1000}
    house.run("generate")
    assert set(server.asked.values()) == {1} and len(server.asked) == 120
    assert books(house) == (120, 120, 0) and stops(house) == {} and house.run("generate") == []


@pytest.mark.parametrize("whose", ["teacher", "all"])
def test_a_cap_on_tokens_stops_at_it_but_for_what_is_in_flight(house, server, whose):
    place = house.recipe if whose == "all" else house.recipe["teachers"][0]
    place["budget"] = {"tokens": 20_000}
    house.run("generate")
    assert tokens(house) == delivered(server)
    assert 20_000 <= tokens(house) < 20_000 + 4 * (997 + PROMPT_TOKENS)
    answered = len(server.asked)
    assert books(house) == (120, answered, 120 - answered) and 20 < answered < 100
    [reached] = stops(house)
    assert reached.endswith(f"{tokens(house):,} of 20,000 tokens") and stops(house)[reached] == 120 - answered
    house.run("generate")
    assert len(server.asked) == answered
    place["budget"] = {"tokens": 10_000_000}
    house.run("generate")
    assert set(server.asked.values()) == {1} and books(house) == (120, 120, 0) and tokens(house) == delivered(server)


def test_a_cap_on_money_goes_by_the_prices_of_prompt_and_response(house, server):
    house.recipe["teachers"][0] |= {"price_per_million_tokens": 10, "price_per_million_prompt_tokens": 100}
    house.recipe["budget"] = {"money": 0.2}
    house.run("generate")
    rows = house.rows("generate.t", "responses")
    paid = sum(10 * row["completion_tokens"] + 100 * row["prompt_tokens"] for row in rows) / 1e6
    assert 0.2 <= paid < 0.2 + 4 * (10 * 997 + 100 * PROMPT_TOKENS) / 1e6
    assert list(stops(house)) == [f"budget of all teachers: {paid:.2f} of 0.20 money"]
    asked = len(server.asked)
    house.run("generate")
    assert len(server.asked) == asked
    house.recipe["teachers"][0]["price_per_million_tokens"] = 5  # the price went down: there is money left
    house.run("generate")
    assert asked < len(server.asked) < 120


def test_a_cap_on_hours_is_one_of_each_run(house, server):
    server.pause_s = 0.05
    house.recipe["budget"] = {"hours": 0.3 / 3600}
    house.run("generate")
    first = len(server.asked)
    assert 4 <= first < 120 and books(house) == (120, first, 120 - first)
    [reached] = stops(house)
    assert reached.endswith("8.33e-05 hours")
    house.run("generate")
    assert first < len(server.asked) and set(server.asked.values()) == {1}
    del house.recipe["budget"]
    house.run("generate")
    assert books(house) == (120, 120, 0) and set(server.asked.values()) == {1}


def test_a_budget_of_nothing_commits_every_shard_as_pending(house, server):
    house.recipe["budget"] = {"requests": 0}
    house.run("generate")
    assert server.asked == {} and books(house) == (120, 0, 120)
    heads = [house.workspace.head("generate.t", shard) for shard in house.workspace.shards]
    assert [head.seq for head in heads] == [1, 1, 1, 1]
    house.run("generate")
    assert server.asked == {} and books(house) == (120, 0, 120)


def test_the_cheapest_is_asked_first_and_the_rest_of_the_budget_is_the_next_ones(house, server):
    house.recipe["teachers"] = [
        teacher(server, "dear", price_per_million_tokens=9),
        teacher(server, "cheap", price_per_million_tokens=1),
    ]
    house.recipe["budget"] = {"requests": 150}
    house.run("generate")
    assert books(house, "generate.cheap") == (120, 120, 0) and books(house, "generate.dear") == (120, 30, 90)
    house.run("generate")
    assert len(server.asked) == 150
    house.recipe["budget"]["requests"] = 160
    house.recipe["teachers"] = house.recipe["teachers"][:1]  # the other has left; what it cost no longer counts
    house.run("generate")
    assert books(house, "generate.dear") == (120, 120, 0)


def test_each_teachers_own_cap_holds_beside_the_one_for_all(house, server):
    house.recipe["teachers"] = [teacher(server, "a", budget={"requests": 20}), teacher(server, "b")]
    house.recipe["budget"] = {"requests": 50}
    house.run("generate")
    assert books(house, "generate.a") == (120, 20, 100) and books(house, "generate.b") == (120, 30, 90)
    assert stops(house, "generate.a") == {"budget of a: 20 of 20 requests": 100}
    assert stops(house, "generate.b") == {"budget of all teachers: 50 of 50 requests": 90}


def test_what_a_crash_left_in_the_log_is_counted(house, server, crash_after):
    house.recipe["budget"] = {"requests": 50}
    with crash_after(30) as taken:
        house.run("generate")
    in_log = spent(house.workspace, "generate.t")
    assert in_log.requests == 30
    assert in_log.completion_tokens == sum(reply.completion_tokens for reply in taken)
    house.run("generate")
    assert books(house) == (120, 50, 70)  # 20 more, whatever was in flight at the crash


class Blocks:
    """An engine that wants a block of requests before it begins; each response has 2 tokens."""

    def __init__(self):
        self.blocks = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def generate(self, requests):
        self.blocks.append(len(requests))
        for request in requests:
            yield Reply(request.response_id, None, "answer", "stop", 1, 1, None, 0.1)


@pytest.mark.parametrize(
    ("budget", "blocks"),
    [({"tokens": 30}, [4, 11]), ({"requests": 33}, [33]), ({"requests": 33, "hours": 1.0}, [10, 10, 10, 3])],
)
def test_an_engine_that_takes_blocks_gets_none_beyond_the_budget(house, monkeypatch, budget, blocks):
    engine = Blocks()
    monkeypatch.setattr(generate, "open_teacher", lambda *_: engine)
    monkeypatch.setattr(generate, "BLOCK_BY_THE_CLOCK", 10)
    monkeypatch.setattr(OpenAITeacherSettings, "draws_lazily", False)
    house.recipe["teachers"][0]["expected_tokens"] = 8  # the first four are expected to use it up, and don't
    house.recipe["budget"] = budget
    house.run("generate")
    assert engine.blocks == blocks
    assert books(house) == (120, sum(blocks), 120 - sum(blocks))


def test_a_broken_server_is_not_asked_beyond_the_cap_and_its_failures_are_asked_again(house, server):
    server.share = 1.0
    house.recipe["teachers"][0]["timeout_s"] = 0.2
    house.recipe["budget"] = {"requests": 10}
    house.run("generate")
    assert server.asked.total() == 10 and books(house) == (120, 0, 120)
    server.share = 0.0
    house.run("generate")
    assert books(house) == (120, 10, 110)


def test_questions_with_unasked_requests_are_pending_for_the_grade(house):
    sums = [{"question": f"What is {number} + 1?", "ground_truth": str(number + 1)} for number in range(QUESTIONS)]
    house.write("sums.jsonl", sums)
    house.recipe["budget"] = {"requests": 51}
    house.run("grade")
    assert books(house, "verify.t")[2] == 69
    graded = {row["question_id"] for row in house.rows("grade", "grades")}
    assert graded == {question for question, number in _answers(house).items() if number == SAMPLES}
    assert 20 < len(graded) < 26
    assert books(house, "grade") == (60, len(graded), 60 - len(graded))


def _answers(house):
    found = {}
    for row in house.rows("generate.t", "responses"):
        found[row["question_id"]] = found.get(row["question_id"], 0) + 1
    return found


def test_shares_add_up_and_follow_what_is_missing():
    left = BudgetSettings(requests=10, tokens=1001, money=4.0, hours=2.0)
    shares = allot(left, [3, 0, 1, 3])
    assert [one.requests for one in shares] == [4, 0, 2, 4]  # of 4.29, 0, 1.43 and 4.29
    assert sum(one.tokens for one in shares) == 1001 and shares[1].tokens == 0
    assert [round(one.money, 6) for one in shares] == [1.714286, 0.0, 0.571429, 1.714286]
    assert {one.hours for one in shares} == {2.0}
    assert allot(BudgetSettings(), [1, 2]) == [BudgetSettings(), BudgetSettings()]
    assert [one.requests for one in allot(left, [0, 0])] == [0, 0]
    with pytest.raises(ValueError, match="found -1"):
        allot(left, [2, -1])


def test_requests_in_flight_are_reckoned_before_they_are_answered():
    """1,000 tokens, 100 expected of each: ten may be in flight; when five turn out shorter, others follow."""
    one = settings(expected_tokens=100, budget={"tokens": 1000})
    budget = Budget(None, [one])
    answers = [budget.admit("t").name for _ in range(12)]
    assert answers == ["GO"] * 10 + ["LATER"] * 2
    for _ in range(5):
        budget.answered("t", Reply("x", None, "a", "stop", 0, 20, None, 0.1))
    assert budget.admit("t").name == "GO"
    budget.answered("t", failed_reply())
    assert budget.reached("t") == ""


def failed_reply():
    from tasks.teachers.teacher import Request

    return failed(Request("x", "q", 0, (), {}, None), "no luck", "transient")


def test_teachers_go_by_price_and_those_without_one_first():
    def order(*teachers):
        return "".join(one.name for one in by_price(teachers))

    a, b, c = settings("a", price_per_million_tokens=5), settings("b", price_per_million_tokens=2), settings("c")
    assert order(a, b, c) == "cba"
    long = {"expected_tokens": 20_000}
    short = {"expected_tokens": 1_000}
    assert order(b.model_copy(update=long), a.model_copy(update=short)) == "ab"


def test_steps_stand_in_the_order_of_cost_unless_the_recipe_says_otherwise(house, server):
    def asked(**more):
        steps = build_steps(check_recipe(house.recipe | more, house.base))
        return [step.key for step in steps if step.stage == "generate"]

    house.recipe["teachers"] = [
        teacher(server, "dear", price_per_million_tokens=9), teacher(server, "cheap", price_per_million_tokens=1),
    ]  # fmt: skip
    assert asked() == ["generate.cheap", "generate.dear"]
    assert asked(ask_first="listed") == ["generate.dear", "generate.cheap"]


def test_money_without_a_price_is_refused(house):
    with pytest.raises(RecipeError, match="set price_per_million_tokens of t"):
        check_recipe(house.recipe | {"budget": {"money": 1}}, house.base)
    house.recipe["teachers"][0]["budget"] = {"money": 1}
    with pytest.raises(RecipeError, match="needs a price"):
        check_recipe(house.recipe, house.base)


def test_the_option_names_what_it_takes():
    assert budget_overrides("requests=5, hours=0.5") == ("budget.requests=5", "budget.hours=0.5")
    with pytest.raises(RecipeError, match=r"found 'dollars=1', expected .* requests, tokens, money, hours"):
        budget_overrides("dollars=1")


def test_budgets_change_no_fingerprint(house, server):
    house.run("generate")
    house.recipe["budget"] = {"requests": 1}
    house.recipe["teachers"][0]["budget"] = {"tokens": 1}
    assert house.run("generate") == [] and len(server.asked) == 120


def test_threads_share_a_cap_exactly():
    budget = Budget(BudgetSettings(requests=1000), [settings("a"), settings("b")])
    went = []

    def draw(name):
        while budget.admit(name).name == "GO":
            went.append(name)
            budget.answered(name, Reply("x", None, "a", "stop", 1, 1, None, 0.1))

    threads = [threading.Thread(target=draw, args=(name,)) for name in "abab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(went) == 1000


def test_what_a_commit_without_totals_cost_is_read_from_its_rows(house, server):
    house.run("generate")
    head = house.workspace.head("generate.t", house.workspace.shards[0])
    assert _committed(house.workspace, replace(head, extra={})) == _committed(house.workspace, head)
    assert spent(house.workspace, "generate.t").requests == 120


def test_missing_requests_follow_commit_and_settings(house, server):
    house.recipe["budget"] = {"requests": 50}
    house.run("generate")

    def number(**more):
        one = house.recipe["teachers"][0] | more
        house.recipe["teachers"] = [one]
        context, step, _ = house.step("generate.t")
        asks = OpenAITeacherSettings(**one)
        return sum(missing(context.workspace, step, asks, shard) for shard in context.workspace.shards)

    assert number() == 70
    assert number(categories=["code"]) == 0
    assert number(categories=["math"], samples=3) == 180
