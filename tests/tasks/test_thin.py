"""Thinning: by labels only, at the set rates, the same every time; held-out and paid-for questions stay."""

from __future__ import annotations

import json

import pytest

from flows.recipe import check_recipe
from tasks.thin import draw

COUNT = 300
LEVELS = ("easy", "medium", "hard")


def question(number):
    words = ["apple", "river", "engine", "violin", "cloud", "matrix", "poem", "bridge", "enzyme", "voter"]
    return f"Question {number}: tell of the {words[number % 10]} and the {words[number // 30]}."


@pytest.fixture
def house(make_house):
    """300 questions, a third of each difficulty; every tenth has no label."""
    house = make_house(
        bits=1,
        curate={
            "filters": None, "exact_duplicates": False, "near_duplicates": None,
            "labels": {"teacher": {"name": "stored", "engine": "replay", "path": "labels.jsonl"}},
            "thin": {"easy": 0.25, "medium": 0.5},
        },
    )  # fmt: skip
    house.write("sums.jsonl", [{"question": question(number)} for number in range(COUNT)])
    stored = []
    for number in range(COUNT):
        if number % 10 != 9:
            label = json.dumps({"category": "math", "difficulty": LEVELS[number % 3]})
            stored.append({"question": question(number), "response": label})
    house.write("labels.jsonl", stored)
    return house


def kept(house):
    texts = {row["messages"][-1]["content"] for row in house.rows("curate", "curated")}
    return {number for number in range(COUNT) if question(number) in texts}


def test_easy_and_medium_are_kept_at_their_rates_and_the_rest_whole(house):
    house.run("curate")
    left = kept(house)
    labelled = [number for number in range(COUNT) if number % 10 != 9]
    share = {
        level: len([n for n in left if n % 3 == place and n % 10 != 9]) / len([n for n in labelled if n % 3 == place])
        for place, level in enumerate(LEVELS)
    }
    assert share["easy"] == pytest.approx(0.25, abs=0.12) and share["medium"] == pytest.approx(0.5, abs=0.14)
    assert share["hard"] == 1 and {n for n in range(COUNT) if n % 10 == 9} <= left
    rows = house.ledger("curate")
    assert {row["rule"] for row in rows} == {"thinned_easy", "thinned_medium"} and len(rows) == COUNT - len(left)
    for row in rows:
        assert row["value"] >= row["threshold"] == (0.25 if row["rule"] == "thinned_easy" else 0.5)
        assert row["value"] == draw(row["unit_id"], row["rule"], 0)
        assert json.loads(row["evidence"])["labeller"] == "stored"


def test_a_higher_rate_keeps_all_that_a_lower_one_kept_and_another_seed_does_not(house):
    house.run("curate")
    before = kept(house)
    house.recipe["curate"]["thin"] = {"easy": 0.6, "medium": 0.9}
    house.run("curate")
    assert before < kept(house)
    house.recipe["curate"]["thin"] = {"easy": 0.25, "medium": 0.5, "seed": 1}
    house.run("curate")
    assert kept(house) != before


def test_the_number_of_shards_and_the_order_of_rows_change_nothing(house, tmp_path):
    house.run("curate")
    other = house.copy(tmp_path / "other", bits=0)
    house.write("sums.jsonl", [{"question": question(number)} for number in reversed(range(COUNT))])
    other.run("curate")
    assert other.rows("thin", "thinned") == house.rows("thin", "thinned")
    assert kept(house) == kept(other)


def test_held_out_questions_stay(house):
    house.recipe["curate"] |= {"heldout": 0.4, "thin": {"easy": 0, "medium": 0}}
    house.run("curate")
    rows = house.rows("curate", "curated")
    heldout = [row for row in rows if row["split"] == "heldout"]
    assert len(heldout) > 80 and len(kept(house)) < 230
    all_heldout = [row for row in house.rows("dedup", "duplicates") if row["split"] == "heldout"]
    assert len(all_heldout) == len(heldout)


def test_answered_questions_stay_unless_told_otherwise(house):
    house.recipe["teachers"] = [{"name": "t", "engine": "replay", "path": "answers.jsonl", "samples": 1}]
    house.write("answers.jsonl", [{"question": question(number), "response": "so"} for number in range(0, COUNT, 2)])
    house.recipe["curate"].pop("thin")
    house.run("generate")
    house.recipe["curate"]["thin"] = {"easy": 0, "medium": 0}
    house.run("curate")
    assert set(range(0, COUNT, 2)) <= kept(house)
    assert not {number for number in kept(house) if number % 2 and number % 3 < 2 and number % 10 != 9}
    house.recipe["curate"]["incumbents"] = False
    house.run("curate")
    assert kept(house) == {number for number in range(COUNT) if number % 3 == 2 or number % 10 == 9}


def test_crowded_regions_are_thinned_and_lonely_questions_are_not(house):
    crowd = [f"A baker bakes {number} trays with 9 rolls each. How many rolls are there?" for number in range(40)]
    lonely = ["Name the capital of Mongolia.", "Prove that the square root of two is irrational.",
              "Write a sonnet about the sea.", "What does mitochondrial DNA code for?"]  # fmt: skip
    label = json.dumps({"category": "math", "difficulty": "hard"})
    house.write("sums.jsonl", [{"question": text} for text in crowd + lonely])
    house.write("labels.jsonl", [{"question": text, "response": label} for text in crowd[:-5] + lonely])
    house.recipe["curate"]["thin"] = {"crowded": {"cosine": 0.8, "neighbours": 20, "keep": 0.2}}
    house.run("curate")
    rows = house.ledger("curate")
    assert {row["rule"] for row in rows} == {"thinned_crowded"} and 20 < len(rows) < 35
    left = {row["messages"][-1]["content"] for row in house.rows("curate", "curated")}
    assert set(lonely) | set(crowd[-5:]) <= left
    for row in rows:
        evidence = json.loads(row["evidence"])
        assert 20 < row["value"] <= 39 and row["threshold"] == 20
        assert evidence["draw"] >= evidence["keep"] == 0.2 and evidence["among"] == 44
    assert house.run("curate") == []


def test_of_a_template_so_many_are_kept_without_labels(house):
    family = [f"Add {number} to {number * 7}.5 and double it." for number in range(20)]
    others = ["Add a to b and double it.", "What is a noble gas?"]
    house.write("sums.jsonl", [{"question": text} for text in family + others])
    house.recipe["curate"].pop("labels")
    house.recipe["curate"]["thin"] = {"max_per_template": 3}
    house.run("curate")
    left = [row["messages"][-1]["content"] for row in house.rows("curate", "curated")]
    assert len([text for text in left if text in family]) == 3 and set(others) <= set(left)
    rows = house.ledger("curate")
    assert {row["rule"] for row in rows} == {"template_duplicate"} and len(rows) == 17
    assert sorted(row["value"] for row in rows) == list(range(4, 21)) and rows[0]["threshold"] == 3
    assert json.loads(rows[0]["evidence"])["of_template"] == 20


def test_answered_questions_of_a_template_stay(house):
    family = [f"Add {number} to {number * 7} and double it." for number in range(20)]
    house.write("sums.jsonl", [{"question": text} for text in family])
    house.write("answers.jsonl", [{"question": text, "response": "so"} for text in family[:8]])
    house.recipe["teachers"] = [{"name": "t", "engine": "replay", "path": "answers.jsonl", "samples": 1}]
    house.recipe["curate"] = {key: house.recipe["curate"][key] for key in ("filters", "exact_duplicates")}
    house.recipe["curate"]["near_duplicates"] = None
    house.run("generate")
    house.recipe["curate"]["thin"] = {"max_per_template": 3}
    house.run("curate")
    assert {row["messages"][-1]["content"] for row in house.rows("curate", "curated")} == set(family[:8])


def test_thinning_that_sets_nothing_is_a_fault_of_the_recipe(house):
    with pytest.raises(Exception, match="nothing is set"):
        check_recipe(house.recipe | {"curate": {"thin": {}}}, house.base)
