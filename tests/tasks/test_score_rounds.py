"""Proves on real models that the samples of later rounds are scored and traced once the verdicts name them, that select
goes by these scores as by those of round 0, and that a larger `samples`, which moves samples to round 0, scores none
of them again. (A smaller one does score again what it moves.)

Not covered: servers as scorers, and kills within a shard, which tests/tasks/test_score.py has for the same code.
"""

from __future__ import annotations

import pytest

from tasks.scorers.local import TransformersScorer
from tasks.scorers.scorer import Failure
from tests.tasks.tiny_student import make_student

REAL = {"name": "real", "engine": "transformers", "device": "cpu"}
SOUND = "<think>I count: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15.</think>It is \\boxed{{{}}}."
GIBBERISH = "<think>qx zzv 7 wq blorp.</think>\\boxed{{{}}}"
WRONG = SOUND.format(0)


def answers(number):
    """Three stored answers a question; the rounds are sample 0, then samples 1 and 2."""
    right = number + 2
    return [
        [SOUND.format(right), WRONG, WRONG],  # verified in round 0
        [WRONG, SOUND.format(right), WRONG],
        [WRONG, GIBBERISH.format(right), WRONG],
        [WRONG, WRONG, WRONG],
        [WRONG, GIBBERISH.format(right), SOUND.format(right)],
    ][number]


@pytest.fixture
def house(make_house):
    house = make_house(
        bits=1,
        teachers=[{"name": "t", "engine": "replay", "path": "sums.jsonl", "samples": 1, "until": "verified",
                   "samples_per_round": 2, "max_samples": 3}],
        score={"scorers": [dict(REAL)]},
        select={"trace": None},
        runner={"max_workers": 1},
    )  # fmt: skip
    rows = [{"question": ask(n), "ground_truth": str(n + 2), "response": answers(n)} for n in range(5)]
    house.write("sums.jsonl", rows)
    return house


@pytest.fixture
def tiny(tmp_path):
    """A scorer that has learnt nothing, and is loaded at once."""
    return REAL | {"name": "tiny", "model": str(make_student(tmp_path / "tiny"))}


def ask(number):
    return f"What is {number} + 2?"


@pytest.fixture
def reads(monkeypatch):
    """How many sequences the model read; `reads.fails` makes it fail."""
    real = TransformersScorer.logprobs

    class Reads(list):
        fails = False

    read = Reads()

    def counted(scorer, sequences):
        read.extend(sequences)
        return [Failure("down")] * len(sequences) if read.fails else real(scorer, sequences)

    monkeypatch.setattr(TransformersScorer, "logprobs", counted)
    return read


def scored(house, step):
    workspace = house.workspace
    return {row["response_id"]: row for shard in workspace.shards
            for row in workspace.read(step, shard, "scores").to_pylist()}  # fmt: skip


def book(house, step, unit):
    books = [b for shard in house.workspace.shards for b in house.workspace.head(step, shard).books if b.unit == unit]
    return sum(b.units_in for b in books), sum(b.units_out for b in books), sum(b.pending for b in books)


def chosen(house):
    """(question's number, sample_index) of the examples."""
    numbers = {
        row["question_id"]: int(row["messages"][0]["content"].split()[2]) for row in house.rows("curate", "curated")
    }
    samples = {row["response_id"]: row["sample_index"] for step in ("generate.t", "generate.t.rounds")
               for row in house.rows(step, "responses")}  # fmt: skip
    rows = house.rows("select", "selection")
    return sorted((numbers[row["question_id"]], samples[row["response_id"]]) for row in rows)


def test_a_limit_on_perplexity_judges_later_samples_too(house):
    house.recipe["select"] |= {"perplexity": {"of": "response", "max": 300}}
    house.run("select")
    assert book(house, "score.t", "score") == (5, 5, 0) and book(house, "score.t.rounds", "score") == (8, 8, 0)
    later = {row["response_id"] for row in house.rows("generate.t.rounds", "responses")}
    found = scored(house, "score.t.rounds")
    assert found.keys() == later and {row["teacher"] for row in found.values()} == {"t"}
    assert chosen(house) == [(0, 0), (1, 1), (4, 2)]
    over = [row for row in house.ledger("select") if row["rule"] == "perplexity"]
    assert {row["unit_id"] for row in over} == {key for key, row in found.items() if row["perplexity"] > 300}
    assert len(over) == 2
    assert house.run("select") == []


def test_the_least_perplexity_is_chosen_among_later_samples(house):
    house.recipe["select"] |= {"best_by": "perplexity", "max_per_question": 1}
    house.run("select")
    assert chosen(house) == [(0, 0), (1, 1), (2, 1), (4, 2)]


def test_teacher_sentences_of_later_samples_count(house, tiny):
    house.recipe["score"] = {"scorers": [dict(REAL), tiny], "provenance": {"teacher": "real", "student": "tiny"}}
    house.recipe["select"] |= {"best_by": "teacher_sentences", "max_per_question": 1, "min_teacher_share": 0.1}
    house.run("select")
    assert book(house, "provenance.t.rounds", "response") == (8, 8, 0)
    assert chosen(house) == [(0, 0), (1, 1), (4, 2)]  # nothing of the gibberish is a teacher's sentence
    assert house.run("select") == []


def test_a_later_sample_whose_score_is_pending_is_pending_in_select(house, tiny, reads):
    house.recipe["score"]["scorers"] = [tiny]
    house.recipe["select"] |= {"perplexity": {"max": 1e9}}
    house.run("score")
    reads.fails = True
    house.run("select")
    assert book(house, "score.t.rounds", "score") == (8, 0, 8)
    assert chosen(house) == [(0, 0)] and book(house, "select", "response")[2] == 4
    reads.fails = False
    house.run("select")
    assert chosen(house) == [(0, 0), (1, 1), (2, 1), (4, 1), (4, 2)] and book(house, "select", "response")[2] == 0


def test_a_sample_that_more_samples_move_to_round_0_is_not_scored_again(house, tiny, reads):
    house.recipe["score"]["scorers"] = [tiny]
    house.run("verify")
    assert len(reads) == 13
    reads.clear()
    house.recipe["teachers"][0]["samples"] = 2  # two samples of round 0: one of them new for question 0
    house.run("verify")
    assert len(reads) == 1
    assert book(house, "score.t", "score") == (10, 10, 0)
    assert book(house, "score.t.rounds", "score") == (1, 1, 0)  # only question 3 is still unsolved
