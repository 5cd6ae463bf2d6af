"""Proves that similar pairs are found exactly, and who stays of a cluster in which split, over runs (laws 6 and 7)."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tasks import dedup
from tasks.dedup import Candidate, _decide, _exact_links, similar_pairs


def candidate(identity, *preference, text="", split=None):
    return Candidate(identity.ljust(32, "0"), "0", text or identity, (*preference, identity), split)


def decide(candidates, *links, heldout=0.0):
    rows = _decide(candidates, [(one, other, 0.97, "near_duplicate") for one, other in links], heldout)
    return by_letter(rows)


def by_letter(rows):
    """The rows by the first letter of their id."""
    return {
        row["question_id"].rstrip("0"): row | {"kept_id": row["kept_id"].rstrip("0")}
        for shard in rows.values()
        for row in shard
    }


@pytest.mark.parametrize("block", [7, 64, 2048])
def test_pairs_are_those_of_brute_force(monkeypatch, block):
    monkeypatch.setattr(dedup, "BLOCK", block)
    random = np.random.default_rng(1)
    vectors = random.normal(size=(150, 32))
    vectors[::5] = vectors[1::5] + random.normal(scale=0.15, size=vectors[::5].shape)
    vectors[149] = vectors[0]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    exact = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    expected = {(i, j) for i in range(150) for j in range(i + 1, 150) if exact[i, j] >= 0.9}
    found = list(similar_pairs(vectors, 0.9))
    assert len(found) == len(expected) > 20 and {(i, j) for i, j, _ in found} == expected
    assert all(abs(exact[i, j] - value) < 1e-3 and value <= 1 for i, j, value in found)


def test_equal_texts_are_linked_to_the_first():
    links = list(_exact_links([candidate("a", text="t"), candidate("b", text="u"), candidate("c", text="t")]))
    assert links == [(0, 2, 1.0, "exact_duplicate")]


def test_an_exact_duplicate_stays_one_beside_a_near_one():
    members = [candidate("a"), candidate("b"), candidate("c")]
    links = [(0, 1, 1.0, "exact_duplicate"), (0, 1, 1.0, "near_duplicate"), (1, 2, 0.96, "near_duplicate")]
    rows = by_letter(_decide(members, links, 0.0))
    assert [rows[one]["rule"] for one in "abc"] == [None, "exact_duplicate", "near_duplicate"]
    assert {row["kept_id"] for row in rows.values()} == {"a"} and rows["c"]["similarity"] == 0.96


def test_a_chain_is_one_cluster_with_one_representative():
    rows = decide([candidate("a", 3), candidate("b", 2), candidate("c", 1), candidate("d", 0)], (0, 1), (1, 2))
    assert {one: row["kept_id"] for one, row in rows.items()} == {"a": "c", "b": "c", "c": "c", "d": "d"}


def test_a_cluster_has_one_split_and_it_is_sticky():
    assert {row["split"] for row in decide([candidate("a"), candidate("b", split="heldout")], (0, 1)).values()} == {
        "heldout"
    }
    assert {
        row["split"] for row in decide([candidate("a"), candidate("b", split="train")], (0, 1), heldout=0.99).values()
    } == {"train"}


def test_a_train_question_next_to_a_held_out_one_is_dropped_even_if_it_were_preferred():
    rows = decide([candidate("a", 0, split="train"), candidate("b", 1, split="heldout")], (0, 1))
    assert rows["a"]["rule"] == "near_heldout" and rows["b"]["rule"] is None
    assert rows["a"]["split"] == rows["b"]["split"] == "heldout"


def test_the_share_of_held_out_clusters_is_about_what_was_asked():
    ids = [f"{number * 2654435761 % 2**32:08x}" * 4 for number in range(2000)]
    held = sum(row["split"] == "heldout" for row in decide([candidate(one) for one in ids], heldout=0.1).values())
    assert 150 < held < 250


def curated(house):
    return {row["messages"][-1]["content"]: row for row in house.rows("curate", "curated")}


EXACT = {"filters": None, "near_duplicates": None}


def test_the_representative_is_chosen_by_source_then_reference_then_length(make_house, make_source):
    house = make_house(make_source("good", "good.jsonl", priority=2), make_source("bad", "bad.jsonl"), curate=EXACT)
    house.write(
        "good.jsonl",
        [
            {"question": "Who is one"},
            {"question": "what is two"},
            {"question": "WHAT IS TWO", "ground_truth": "2"},
            {"question": "Who is three"},
            {"question": "Who  is    three"},
        ],
    )
    house.write("bad.jsonl", [{"question": "who is ONE", "ground_truth": "1"}])
    house.run("curate")
    assert set(curated(house)) == {"Who is one", "WHAT IS TWO", "Who  is    three"}
    kept = {row["question_id"] for row in curated(house).values()}
    assert all(json.loads(row["evidence"])["kept"] in kept and row["value"] == 1 for row in house.ledger("curate"))


@pytest.mark.parametrize(("incumbents", "left"), [(True, "who is one"), (False, "Who is one")])
def test_a_question_whose_answers_are_paid_for_is_not_deposed(make_house, make_source, incumbents, left):
    teacher = {"name": "t", "engine": "replay", "path": "old.jsonl", "samples": 1}
    house = make_house(
        make_source("old", "old.jsonl"),
        make_source("new", "new.jsonl", priority=1),
        curate=EXACT | {"incumbents": incumbents},
        teachers=[teacher],
    )
    house.write("old.jsonl", [{"question": "who is one", "response": "me"}])
    house.write("new.jsonl", [{"question": "Who is nobody"}])
    house.run("generate")
    house.write("new.jsonl", [{"question": "Who is one"}])
    house.run("curate")
    assert set(curated(house)) == {left}


def test_what_was_held_out_stays_held_out_and_its_train_neighbour_goes(make_house, make_source):
    """Threshold 1 first; then blanks around signs count no more: the question for training joins the held-out one."""
    house = make_house(
        bits=1, curate={"filters": None, "exact_duplicates": False, "near_duplicates": None, "heldout": 0.5}
    )
    pairs = [(f"Who is {number}?", f"WHO is {number}") for number in range(12)]
    house.write("sums.jsonl", [{"question": text} for pair in pairs for text in pair])
    house.run("curate")
    before = {text: row["split"] for text, row in curated(house).items()}
    mixed = [pair for pair in pairs if len({before[text] for text in pair}) == 2]
    assert len(before) == 24 and mixed
    house.recipe["curate"]["exact_duplicates"] = True
    house.run("curate")
    after = curated(house)
    for pair in pairs:
        [text] = [text for text in pair if text in after]
        assert after[text]["split"] == before[text]
        assert (after[text]["split"] == "heldout") == ("heldout" in {before[one] for one in pair})
    assert house.rules("curate")["near_heldout"] == len(mixed)
    house.run("curate", redo_from="curate")  # what it was dropped for is still known
    assert house.rules("curate")["near_heldout"] == len(mixed)
    house.recipe["curate"]["exact_duplicates"] = False
    house.run("curate")
    again = {text: row["split"] for text, row in curated(house).items()}
    assert {text: again[text] for pair in mixed for text in pair} == {
        text: before[text] for pair in mixed for text in pair
    }


def test_a_new_neighbour_of_a_held_out_question_is_held_out(make_house):
    house = make_house(curate=EXACT | {"heldout": 0.5})
    house.write("sums.jsonl", [{"question": f"Who is {number}?"} for number in range(12)])
    house.run("curate")
    held = [text for text, row in curated(house).items() if row["split"] == "heldout"]
    assert 0 < len(held) < 12
    house.write("sums.jsonl", [{"question": text.upper(), "ground_truth": "x"} for text in held])
    house.run("ingest")
    house.write(
        "sums.jsonl",
        [{"question": text} for text in held] + [{"question": text.upper(), "ground_truth": "x"} for text in held],
    )
    house.run("curate")
    rows = curated(house)
    assert set(rows) == {text.upper() for text in held} and {row["split"] for row in rows.values()} == {"heldout"}


def test_a_global_step_killed_between_two_shards_gives_what_one_go_gives(make_house, tmp_path):
    house = make_house(
        bits=2, curate={"filters": None, "exact_duplicates": False, "near_duplicates": None, "heldout": 0.4}
    )
    house.write(
        "sums.jsonl",
        [{"question": text.format(number)} for number in range(20) for text in ("Who is {}?", "WHO IS {}")],
    )
    other = house.copy(tmp_path / "other")
    for one in (house, other):
        one.run("curate")
        one.recipe = json.loads(json.dumps(one.recipe))
        one.recipe["curate"]["exact_duplicates"] = True
    house.run("curate")
    for count in (1, 2):  # a run that was killed has committed some shards, and no more
        context, step, work = other.step("dedup")
        assert len(work) == 4 - (count - 1)
        step.run(context, step, work[:1])
    other.run("curate")
    assert house.rows("dedup", "duplicates") == other.rows("dedup", "duplicates")
    assert house.rows("curate", "curated") == other.rows("curate", "curated")
    assert house.ledger("curate") == other.ledger("curate") and house.rules("curate")["near_heldout"]


def test_a_zombie_that_read_before_anothers_commit_loses(make_house, monkeypatch):
    from storage.errors import CommitLost

    house = make_house(curate=EXACT)
    house.write("sums.jsonl", [{"question": "Who is one?"}])
    house.run("ingest")
    context, step, _ = house.step("screen")
    house.run("curate")
    context, step, work = house.step("dedup")
    work = house.plan(redo_from="curate").pending(step)
    candidates = dedup._candidates

    def overtaken(*arguments):
        found = candidates(*arguments)
        monkeypatch.setattr(dedup, "_candidates", candidates)
        house.run("curate", redo_from="curate")
        return found

    monkeypatch.setattr(dedup, "_candidates", overtaken)
    with pytest.raises(CommitLost):
        step.run(context, step, work)
