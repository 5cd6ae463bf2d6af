"""Proves the step on real models: whose sentences are whose, its books, what is pending or can never be traced, and
that a setting redoes it without a model."""

from __future__ import annotations

import json
import math
import re

import pytest

from flows.errors import RecipeError
from flows.recipe import check_recipe
from tasks.scorers.local import TransformersScorer
from tasks.scorers.scorer import Failure
from tasks.teachers import smollm2
from tests.tasks.tiny_student import make_student

REAL = {"name": "real", "engine": "transformers", "model": smollm2.NAME, "device": "cpu"}
TRACE = "<think>I count: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15.</think>It is \\boxed{{{0}}}."


@pytest.fixture
def house(make_house, tmp_path):
    """Sums with two answers each; the teacher is SmolLM2, the student a model that has learnt nothing."""
    tiny = REAL | {"name": "tiny", "model": str(make_student(tmp_path / "tiny"))}
    house = make_house(
        bits=1,
        teachers=[{"name": "t", "engine": "replay", "path": "sums.jsonl", "samples": 2}],
        score={"scorers": [dict(REAL), tiny], "provenance": {"teacher": "real", "student": "tiny"}},
        runner={"max_workers": 1},
    )
    house.write(
        "sums.jsonl",
        [
            {"question": f"What is {n} + 1?", "ground_truth": str(n + 1),
             "response": [TRACE.format(n + 1), "<think>qx zzv 7 wq blorp.</think>\\boxed{0}"]}
            for n in range(4)
        ],
    )  # fmt: skip
    return house


def traced(house):
    workspace = house.workspace
    return [
        one for shard in workspace.shards for one in workspace.read("provenance.t", shard, "provenance").to_pylist()
    ]


def book(house):
    heads = [house.workspace.head("provenance.t", shard) for shard in house.workspace.shards]
    books = [one for head in heads for one in head.books]
    dropped = sum(sum(one.dropped.values()) for one in books)
    return (sum(b.units_in for b in books), sum(b.units_out for b in books), dropped, sum(b.pending for b in books))


def test_sentences_are_compared_under_both_models(house):
    house.run("score")
    rows = traced(house)
    assert book(house) == (8, 8, 0, 0)
    scores = {
        (row["response_id"], row["scorer"]): row
        for shard in house.workspace.shards
        for row in house.workspace.read("score.t", shard, "scores").to_pylist()
    }
    texts = {row["response_id"]: row for row in house.rows("generate.t", "responses")}
    for row in rows:
        own, other = (scores[row["response_id"], name]["sentences"] for name in ("real", "tiny"))
        assert len(row["sentences"]) == len(own) == len(other) == row["sentence_count"]
        for found, real, tiny in zip(row["sentences"], own, other, strict=True):
            p, q = math.exp(real["mean_logprob"]), math.exp(tiny["mean_logprob"])
            assert (found["part"], found["start"], found["end"]) == (real["part"], real["start"], real["end"])
            assert found["teacher_prob"] == pytest.approx(p, abs=6e-4)
            assert found["student_prob"] == pytest.approx(q, abs=6e-4)
            assert found["class"] == ("shared" if abs(p - q) <= 0.05 else "teacher" if p - q > 0.1 else "boosted")
        if "blorp" in texts[row["response_id"]]["think_content"]:  # neither model would write it
            assert row["sentences"][0]["class"] == "shared"
        else:
            assert row["teacher_count"] > 0
        assert sum(row[f"{name}_count"] for name in ("shared", "teacher", "student", "boosted")) == len(own)
    assert house.run("score") == []


def test_a_setting_redoes_the_step_and_asks_no_model(house, monkeypatch):
    house.run("score")
    before = sum(row["teacher_count"] for row in traced(house))
    monkeypatch.setattr(TransformersScorer, "logprobs", lambda *_: pytest.fail("a model was asked"))
    house.recipe["score"]["provenance"]["beta"] = 1.0
    assert {one.step for one in house.run("score")} == {"provenance.t"}
    assert before > 0 and sum(row["teacher_count"] for row in traced(house)) == 0


def test_a_pending_score_is_pending_here_and_traced_when_it_is_there(house, monkeypatch):
    real = TransformersScorer.logprobs
    monkeypatch.setattr(TransformersScorer, "logprobs", lambda self, ids: [Failure("down"), *real(self, ids)[1:]])
    house.run("score")
    assert book(house)[2] == 0 and 0 < book(house)[3] < 8
    monkeypatch.setattr(TransformersScorer, "logprobs", real)
    house.run("score")
    assert book(house) == (8, 8, 0, 0)


def test_what_a_scorer_can_never_score_is_in_the_ledger_once(house):
    for one in house.recipe["score"]["scorers"]:
        one["max_tokens"] = 10
    house.run("score")
    assert book(house) == (8, 0, 8, 0) and house.rules("provenance.t") == {"not_scorable": 8}
    entry = house.ledger("provenance.t")[0]
    assert json.loads(entry["evidence"])["rule"] == "question_too_long" and entry["threshold"] == 9


@pytest.mark.parametrize(
    ("provenance", "said"),
    [
        ({"teacher": "x", "student": "tiny"}, "provenance.teacher: no scorer x; there are real, tiny"),
        ({"teacher": "real", "student": "real"}, "teacher and student are both real"),
        ({"teacher": "real", "student": "tiny", "trained": True}, "held-out answers: set `evaluate`"),
    ],
)
def test_wrong_settings_are_answered_with_what_there_is(house, provenance, said):
    house.recipe["score"]["provenance"] = provenance
    with pytest.raises(RecipeError, match=re.escape(said)):
        check_recipe(house.recipe, house.base)


def test_selection_goes_by_teacher_sentences(house):
    house.recipe["select"] = {"method": "all", "max_per_question": 1, "best_by": "teacher_sentences"}
    house.run("select")
    shares = {row["response_id"]: (row["teacher_share"], row["teacher_count"]) for row in traced(house)}
    by_question: dict[str, list[str]] = {}
    for row in traced(house):
        by_question.setdefault(row["question_id"], []).append(row["response_id"])
    best = {max(several, key=lambda one: shares[one][1]) for several in by_question.values()}
    assert all(len({shares[one][1] for one in several}) == 2 for several in by_question.values())
    assert {row["response_id"] for row in house.rows("select", "selection")} == best

    least = min(shares[one][0] for one in best)
    house.recipe["select"] = {"method": "all", "min_teacher_share": least}
    house.run("select")
    chosen = {row["response_id"] for row in house.rows("select", "selection")}
    assert chosen == {one for one, (share, _) in shares.items() if share >= least} and best <= chosen
    gone = [row for row in house.ledger("select") if row["unit"] == "response"]
    assert {row["rule"] for row in gone} == {"few_teacher_sentences"} and gone[0]["threshold"] == least
