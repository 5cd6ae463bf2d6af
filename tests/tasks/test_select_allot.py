"""Proves each rule on the whole data set, that the number of shards changes nothing, and that the books balance."""

from __future__ import annotations

import numpy as np
import pytest

from storage.workspace import Workspace
from tasks.errors import BadSetting
from tasks.select_allot import bounds
from tasks.select_coreset import k_centres

QUESTIONS = 40


def line(n, right):
    """A question with four responses, `right` of them correct; later ones are longer."""
    return {"question": f"What is {n} + 1?", "ground_truth": str(n + 1),
            "response": [f"{'So. ' * (4 + k)} \\boxed{{{n + 1 if k < right else 99}}}" for k in range(4)]}  # fmt: skip


@pytest.fixture
def house(make_house, make_source):
    """Two sources; teacher `a` solves one to four of four, `b` half of its two, by question."""
    sources = [make_source(), make_source("more", "more.jsonl")]
    teachers = [{"name": name, "engine": "replay", "path": [f"{name}.jsonl"], "samples": samples}
                for name, samples in (("a", 4), ("b", 2))]  # fmt: skip
    house = make_house(*sources, teachers=teachers, runner={"max_workers": 1}, bits=2)
    rows = [line(n, 1 + n % 4) for n in range(QUESTIONS)]
    house.write("sums.jsonl", rows[: QUESTIONS // 2])
    house.write("more.jsonl", rows[QUESTIONS // 2 :])
    house.write("a.jsonl", rows)
    house.write("b.jsonl", [row | {"response": row["response"][::-3]} for row in rows])
    return house


def select(house, **settings):
    """The rows chosen; the books of the step balance with the ledger, or the commit would have failed."""
    house.recipe["select"] = settings
    house.run("select")
    rows = house.rows("select", "selection")
    books = [book for shard in house.workspace.shards for book in house.workspace.need("select", shard).books]
    for unit in ("question", "response"):
        came, went = (sum(getattr(book, side) for book in books if book.unit == unit) for side in
                      ("units_in", "units_out"))  # fmt: skip
        assert came == went + sum(row["unit"] == unit for row in house.ledger("select")) > 0
    return rows


def count(rows, column):
    found = {}
    for row in rows:
        found[row[column]] = found.get(row[column], 0) + 1
    return found


def by_id(house):
    return {row["question_id"]: row for row in house.rows("curate", "curated")}


def test_quotas_of_categories_and_sources(house):
    everything = select(house)
    rows = select(house, categories={"math": 7})
    questions = by_id(house)
    assert len(rows) == 7 < len(everything) == len(select(house, categories={"code": 7}))
    select(house, categories={"math": 7})
    assert {row["threshold"] for row in house.ledger("select") if row["rule"] == "category_quota"} >= {7.0}
    rows = select(house, sources={"sums": 5, "more": 0})
    assert count([questions[row["question_id"]] for row in rows], "question_source") == {"sums": 5}
    assert {row["rule"] for row in house.ledger("select") if row["unit"] == "question"} == {"source_quota"}


def test_a_mix_has_the_shares_asked_for_and_is_as_large_as_it_can_be(house):
    had = count(select(house), "teacher")
    rows = count(select(house, mix={"a": 3, "b": 1}), "teacher")
    most = min(had["a"] * 4 / 3, had["b"] * 4)
    assert rows == {"a": int(most * 3 / 4), "b": int(most / 4)}
    assert count(select(house, mix={"b": 1}), "teacher") == {"b": had["b"]}
    assert count(select(house, mix={"a": 3, "b": 1}, budget={"examples": 8}), "teacher") == {"a": 6, "b": 2}


def test_a_mix_with_a_teacher_that_has_nothing_left_says_so(house):
    with pytest.raises(BadSetting, match="no response of b is left"):
        select(house, mix={"a": 1, "b": 1}, teachers="best_in_category")


def test_a_budget_of_examples_or_tokens(house):
    assert len(select(house, budget={"examples": 11})) == 11
    rows = select(house, budget={"tokens": 100})
    spent = [row for row in house.ledger("select") if row["rule"] == "budget" and row["unit"] == "response"]
    assert rows and min(row["value"] for row in spent) > 100
    assert {row["question_id"] for row in select(house, budget={"examples": 11}, seed=1)} != {
        row["question_id"] for row in select(house, budget={"examples": 11}, seed=2)
    }


def test_what_is_preferred_is_taken_first(house):
    everything = select(house)
    rates = sorted({row["pass_rate"] for row in everything})
    assert {row["pass_rate"] for row in select(house, budget={"examples": 8}, prefer="easiest")} == {rates[-1]}
    assert {row["pass_rate"] for row in select(house, budget={"examples": 8}, prefer="hardest")} == {rates[0]}
    cvs = [row["cv"] for row in select(house, budget={"examples": 8}, prefer="high_cv")]
    assert min(cvs) == max(row["cv"] for row in everything)


def test_a_small_budget_buys_easier_questions_than_a_large_one(house):
    def mean(examples):
        rows = select(house, budget={"examples": examples}, prefer="matched", max_per_question=1)
        assert len(rows) == min(examples, QUESTIONS)
        return sum(row["pass_rate"] for row in rows) / len(rows)

    assert mean(4) > mean(20) and mean(4) > mean(40)
    easiest = max(row["pass_rate"] for row in select(house))
    assert mean(4) == easiest


def test_a_curriculum_is_an_order_that_rows_carry(house):
    for curriculum, column, sign in (("high_cv", "cv", -1), ("low_cv", "cv", 1), ("easy_first", "pass_rate", -1),
                                     ("hard_first", "pass_rate", 1)):  # fmt: skip
        assert all(row["curriculum"] == sign * row[column] for row in select(house, curriculum=curriculum))
    rows = select(house, curriculum="hard_first", pass_rate_of="a")
    assert {row["curriculum"] for row in rows} == {0.25, 0.5, 0.75, 1.0}
    assert {row["curriculum"] for row in select(house)} == {None}


def test_the_best_teacher_of_a_category_is_the_one_that_is_right_most_often(house):
    assert count(select(house, teachers="best_in_category"), "teacher").keys() == {"a"}
    assert house.rules("select")["not_best_teacher"] > 0


def test_a_coreset_keeps_so_many_questions_and_says_how_near_the_others_are(house):
    house.recipe["curate"] = {"filters": None, "near_duplicates": {"threshold": 1.0}}
    rows = select(house, coreset=6)
    assert len({row["question_id"] for row in rows}) == 6 and {row["rule"] for row in rows} == {"verified+coreset"}
    values = [row["value"] for row in house.ledger("select") if row["rule"] == "coreset" and row["unit"] == "response"]
    assert all(0 < value <= 2 for value in values)


def test_k_centres_are_the_farthest_each_time():
    angles = np.radians([0, 1, 2, 90, 91, 180])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    centres, distances = k_centres(vectors, 3, 0)
    assert centres == [0, 5, 3]
    assert distances == pytest.approx(1 - np.cos(np.radians([0, 1, 2, 0, 1, 0])), abs=1e-6)
    same, _ = k_centres(np.ones((4, 1), np.float32), 3, 2)
    assert same == [2]  # no other row differs


def test_the_number_of_shards_changes_nothing(house, tmp_path):
    house.recipe["curate"] = {"filters": None, "near_duplicates": {"threshold": 1.0}}
    settings = {"coreset": 30, "categories": {"math": 28}, "mix": {"a": 2, "b": 1}, "budget": {"tokens": 50},
                "prefer": "matched", "max_per_question": 2, "best_by": "longest", "near_equal": 0.99,
                "curriculum": "easy_first"}  # fmt: skip
    rows = select(house, **settings)
    other = house.copy(tmp_path / "other", bits=0)
    assert rows == select(other, **settings) and rows and house.ledger("select") == other.ledger("select")
    assert {"near_equal", "coreset", "category_quota", "mix", "budget"} <= house.rules("select").keys()


def test_a_rule_that_leaves_a_shard_as_it_was_redoes_nothing_there(house):
    select(house, budget={"examples": 1000})
    before = {shard: house.workspace.head("select", shard).content for shard in house.workspace.shards}
    house.run("select", redo_from=None)
    assert [one.step for one in house.run("select")] == []
    select(house, budget={"examples": 999})
    assert before == {shard: house.workspace.head("select", shard).content for shard in house.workspace.shards}


def test_the_bounds_of_shards_follow_each_other(tmp_path):
    workspace = Workspace.create(tmp_path / "ws", bits=2)
    found = [bounds(workspace, shard) for shard in workspace.shards]
    assert found[0][0] == "0" * 32 and found[-1][1] == "f" * 32
    assert all(int(one[1], 16) + 1 == int(other[0], 16) for one, other in zip(found, found[1:], strict=False))
    assert all(workspace.shard_of(edge) == shard for shard, edges in zip(workspace.shards, found, strict=True)
               for edge in edges)  # fmt: skip
