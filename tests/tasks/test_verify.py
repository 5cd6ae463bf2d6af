"""Proves that a planned response is judged once, that a verdict is reused while its grounds are the same, and law 5."""

from __future__ import annotations

import json

import pytest

from tasks import verify
from tasks.verifiers.bench import Bench
from tasks.verifiers.verdict import Judgement, unscored


def ask(number):
    return f"What is {number} + 1?"


@pytest.fixture
def house(make_house):
    """Four sums; each has a right answer, a wrong one and none."""
    house = make_house(
        bits=1,
        teachers=[{"name": "t", "engine": "replay", "path": "answers.jsonl", "samples": 3}],
        runner={"max_workers": 1},
    )
    house.write("sums.jsonl", [{"question": ask(n), "ground_truth": str(n + 1)} for n in range(4)])
    house.write(
        "answers.jsonl",
        [
            {"question": ask(n), "response": [f"It is \\boxed{{{n + 1}}}.", f"It is \\boxed{{{n + 2}}}."]}
            for n in range(4)
        ],
    )
    return house


class Judge:
    """A verifier that compares text; it can be down, and writes down whom it judged."""

    version = "1"

    def __init__(self):
        self.judged = []
        self.down = lambda item: False

    def judge(self, items):
        found = []
        for item in items:
            self.judged.append((item.question, item.answer_content))
            if self.down(item):
                found.append(unscored("infra_error", "down"))
            else:
                right = item.ground_truth is not None and f"{{{item.ground_truth}}}" in item.answer_content
                found.append(Judgement(float(right), right, "accepted" if right else "wrong_answer", None, {}, 0.1))
        return found


@pytest.fixture
def judge(monkeypatch):
    one = Judge()
    monkeypatch.setattr(Bench, "_math", lambda self: one)
    return one


def statuses(house):
    return sorted(row["status"] for row in house.rows("verify.t", "verdicts") if row["verifier"] == "outcome")


def book(house, step="verify.t"):
    found = [house.workspace.head(step, shard).books[0] for shard in house.workspace.shards]
    dropped = sum(sum(one.dropped.values()) for one in found)
    return (sum(b.units_in for b in found), sum(b.units_out for b in found), dropped, sum(b.pending for b in found))


def test_real_math_verdicts_and_refused_responses_are_booked(house):
    house.run("verify")
    assert statuses(house) == ["accepted"] * 4 + ["wrong_answer"] * 4
    assert book(house) == (12, 8, 4, 0) and house.rules("verify.t") == {"no_response": 4}
    rows = [row for row in house.rows("verify.t", "verdicts") if row["verifier"] == "math"]
    assert {row["answer"] for row in rows if row["status"] == "accepted"} == set("1234")


def test_only_the_question_whose_reference_changed_is_judged_again(house, judge):
    house.run("verify")
    assert len(judge.judged) == 8
    judge.judged.clear()
    house.write("sums.jsonl", [{"question": ask(n), "ground_truth": str(n + (2 if n == 3 else 1))} for n in range(4)])
    house.run("verify")
    assert {question for question, _ in judge.judged} == {ask(3)} and len(judge.judged) == 2
    judge.judged.clear()
    house.run("verify", redo_from="verify")
    assert judge.judged == []
    judge.version = "2"
    house.run("verify", redo_from="verify")
    assert len(judge.judged) == 8


def test_a_replayed_response_that_changed_is_judged_again(house, judge):
    house.run("verify")
    judge.judged.clear()
    house.write(
        "answers.jsonl",
        [
            {"question": ask(n), "response": [f"It is \\boxed{{{n + 1}}}.", f"It is \\boxed{{{n + 1 + (n < 3)}}}."]}
            for n in range(4)
        ],
    )
    house.run("verify")
    assert judge.judged == [(ask(3), "It is \\boxed{4}.")]
    assert statuses(house) == ["accepted"] * 5 + ["wrong_answer"] * 3


def test_what_a_broken_verifier_could_not_judge_is_pending_not_graded_and_tried_again(house, judge):
    judge.down = lambda item: item.question == ask(2)
    house.run("grade")
    assert book(house) == (12, 6, 4, 2)
    assert len(house.rows("grade", "grades")) == 3 and book(house, "grade") == (4, 3, 0, 1)
    judge.judged.clear()
    judge.down = lambda item: False
    done = {one.step: one.why for one in house.run("grade")}
    assert done["verify.t"] == ("2 units pending",) and {question for question, _ in judge.judged} == {ask(2)}
    assert book(house) == (12, 8, 4, 0) and len(house.rows("grade", "grades")) == 4


def test_a_commit_within_the_shard_keeps_the_verdicts_that_are_still_to_come(house, judge, monkeypatch):
    """A kill in a repeated run must not cost verdicts that were paid for."""
    house.bits = 0
    house.run("verify")
    judge.judged.clear()
    monkeypatch.setattr(verify, "BATCH", 2)
    monkeypatch.setattr(verify, "COMMIT_EVERY_S", -1.0)
    commit = verify.JudgedShard._commit

    def then_killed(self, rest):
        commit(self, rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(verify.JudgedShard, "_commit", then_killed)
        house.run("verify", redo_from="verify")
    assert book(house) == (12, 2, 4, 6)
    house.run("verify")
    assert judge.judged == [] and book(house) == (12, 8, 4, 0)


def test_commits_within_the_shard_give_the_content_of_one_go(house, judge, monkeypatch, tmp_path):
    other = house.copy(tmp_path / "other", bits=0)
    house.run("verify")
    monkeypatch.setattr(verify, "BATCH", 1)
    monkeypatch.setattr(verify, "COMMIT_EVERY_S", -1.0)
    other.run("verify")
    assert house.rows("verify.t", "verdicts") == other.rows("verify.t", "verdicts")
    assert other.workspace.head("verify.t", "0").seq == 8 and house.ledger("verify.t") == other.ledger("verify.t")


def test_a_response_that_is_not_there_yet_keeps_its_question_ungraded(house, judge, monkeypatch):
    """Verify and grade run by hand after a generate that was killed within its shard."""
    from tasks import generate
    from tasks.teachers.replay import ReplayTeacher

    house.bits = 0
    monkeypatch.setattr(generate, "COMMIT_EVERY_S", -1.0)
    real = ReplayTeacher.generate

    def dies(self, requests):
        for number, reply in enumerate(real(self, requests)):
            if number == 4:
                raise RuntimeError("killed")
            yield reply

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(ReplayTeacher, "generate", dies)
        house.run("generate")
    for stage in ("verify", "grade"):
        house.run(only=stage)
    total, out, dropped, pending = book(house)
    assert (total, dropped) == (12, 0) and out + pending == 12 and 0 < out < 8
    assert house.rows("grade", "grades") == [] and book(house, "grade") == (4, 0, 0, 4)
    house.run("grade")
    assert book(house) == (12, 8, 4, 0) and len(house.rows("grade", "grades")) == 4


def test_the_first_opinion_is_that_of_the_first_verifier_of_the_route(house, monkeypatch):
    judge, model = Judge(), Judge()
    monkeypatch.setattr(Bench, "_math", lambda self: judge)
    monkeypatch.setattr(Bench, "_judge", lambda self: model)
    model.down = lambda item: item.question == ask(0)
    house.recipe["verify"] = {
        "judge": {"base_url": "http://localhost:1/v1", "model": "m"},
        "route": {"math": ["judge", "math"]},
    }
    house.run("verify")
    outcomes = [row for row in house.rows("verify.t", "verdicts") if row["verifier"] == "outcome"]
    assert {json.loads(row["evidence"])["by"] for row in outcomes} == {"judge"} and len(model.judged) == 8
    house.recipe["verify"]["route"] = {"math": ["math", "judge"]}
    model.judged.clear()
    house.run("verify")  # the rule can judge: nobody pays for a model, and its failure does not matter
    outcomes = [row for row in house.rows("verify.t", "verdicts") if row["verifier"] == "outcome"]
    assert {json.loads(row["evidence"])["by"] for row in outcomes} == {"math"} and model.judged == []


@pytest.mark.parametrize(("policy", "wrong_ones"), [("rule_or_judge", True), ("rule_and_judge", False)])
def test_a_judge_is_asked_only_where_it_can_change_the_outcome(house, judge, monkeypatch, policy, wrong_ones):
    model = Judge()
    monkeypatch.setattr(Bench, "_judge", lambda self: model)
    house.recipe["verify"] = {"judge": {"base_url": "http://localhost:1/v1", "model": "m"}, "policy": {"math": policy}}
    house.run("verify")
    assert set(model.judged) == {(ask(n), f"It is \\boxed{{{n + 1 + wrong_ones}}}.") for n in range(4)}
