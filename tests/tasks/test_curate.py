"""Proves that curation with real embeddings drops duplicates and benchmark items with evidence, and redoes little."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tasks.embeddings import EmbeddingSettings, embed

QUESTIONS = [
    "A baker bakes twelve trays of nine rolls and sells seven. How many rolls are left?",
    "A baker bakes twelve trays with nine rolls and sells seven. How many rolls are left over?",
    "What is the capital of Mongolia, and on which river does it lie?",
    "Write a function that reverses a list in place.",
    "See https://example.org for the task.",
    "How many legs do six spiders and four ants have together?",
]
BENCHMARK = "How many legs have six spiders and four ants got altogether?"


@pytest.fixture
def house(make_house):
    house = make_house(
        bits=1,
        curate={
            "near_duplicates": {"threshold": 0.9},
            "decontaminate": {
                "benchmarks": [{"name": "zoo", "path": "zoo.jsonl", "question": "q"}],
                "similarity": 0.85,
            },
        },
    )
    house.write("sums.jsonl", [{"question": text} for text in QUESTIONS])
    house.write("zoo.jsonl", [{"q": "Who let the dogs out of the house?"}, {"q": BENCHMARK}])
    return house


def test_each_drop_has_its_rule_measure_and_evidence(house):
    house.run("curate")
    by_rule = {row["rule"]: row for row in house.ledger("curate")}
    assert set(by_rule) == {"near_duplicate", "url", "benchmark_similarity"}
    assert json.loads(by_rule["url"]["evidence"]) == {"seen": "https://example.org"}
    found = json.loads(by_rule["benchmark_similarity"]["evidence"])
    assert (found["benchmark"], found["item"], found["item_text"]) == ("zoo", 1, BENCHMARK)
    assert by_rule["benchmark_similarity"]["value"] > by_rule["benchmark_similarity"]["threshold"] == 0.85
    kept = {row["question_id"]: row["messages"][-1]["content"] for row in house.rows("curate", "curated")}
    assert kept[json.loads(by_rule["near_duplicate"]["evidence"])["kept"]] == QUESTIONS[1]  # the longer one
    assert 0.9 <= by_rule["near_duplicate"]["value"] < 1
    vectors = embed(QUESTIONS[:2], EmbeddingSettings()).astype(np.float32)
    assert by_rule["near_duplicate"]["value"] == pytest.approx(float(vectors[0] @ vectors[1]), abs=2e-3)


def test_all_rules_off_keeps_all(house):
    house.recipe["curate"] = {"filters": None, "exact_duplicates": False, "near_duplicates": None}
    assert "embed" not in [step.key for step in house.plan().steps]
    house.run("curate")
    assert len(house.rows("curate", "curated")) == len(QUESTIONS) and house.ledger("curate") == []


def test_a_changed_threshold_embeds_nothing_again_and_says_why(house):
    house.run("curate")
    house.recipe["curate"]["near_duplicates"] = {"threshold": 0.999}
    done = {one.step: one for one in house.run("curate")}
    assert (
        done["dedup"].why == ("near_duplicates.threshold 0.9 → 0.999",) and "embed" not in done and "screen" not in done
    )
    assert "near_duplicate" not in house.rules("curate")
    assert done["curate"].shards <= 2 and house.run("curate") == []


def test_an_added_question_is_the_only_one_embedded(house, monkeypatch):
    house.run("curate")
    house.write("sums.jsonl", [{"question": text} for text in [*QUESTIONS, "Name three noble gases and their uses."]])
    asked = []
    real = embed

    def watched(texts, settings):
        asked.extend(texts)
        return real(texts, settings)

    monkeypatch.setattr("tasks.embeddings.embed", watched)
    house.run("curate")
    assert asked == ["Name three noble gases and their uses."]


def test_the_number_of_shards_does_not_change_what_is_kept(house, tmp_path):
    other = house.copy(tmp_path / "other", bits=0)
    house.run("curate")
    other.run("curate")
    for step, table in (
        ("embed", "embeddings"),
        ("screen", "screened"),
        ("dedup", "duplicates"),
        ("curate", "curated"),
    ):
        assert house.rows(step, table) == other.rows(step, table)
    assert house.ledger("curate") == other.ledger("curate")


def test_that_no_question_is_left_is_no_fault(house):
    house.write("sums.jsonl", [{"question": QUESTIONS[4]}])
    house.run("curate")
    assert house.rows("curate", "curated") == []
