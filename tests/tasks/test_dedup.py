"""Proves who stays of a cluster in which split, over runs (laws 6 and 7), by exact, near and lexical rules."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tasks import dedup
from tasks.dedup import PREFERENCES
from tasks.dedup_clusters import (
    EXACT,
    HELDOUT,
    LEXICAL,
    NEAR,
    RULES,
    TRAIN,
    UNSEEN,
    Links,
    Questions,
    decide,
    exact_links,
    hardness,
)

SPLITS = {None: UNSEEN, "train": TRAIN, "heldout": HELDOUT}


def candidate(name, priority=0, *, split=None, **more):
    return {"name": name, "priority": priority, "split": split} | more


def questions_of(candidates):
    def column(name, kind, default=0):
        return np.array([one.get(name, default) for one in candidates], kind)

    return Questions(
        ids=np.array([one["name"].ljust(32, "0") for one in candidates], "S32"),
        paid=column("paid", bool), priority=column("priority", int), referenced=column("referenced", bool),
        length=column("length", int), hardness=column("hardness", int),
        split=np.array([SPLITS[one["split"]] for one in candidates]), faulty=column("faulty", bool),
    )  # fmt: skip


def links_of(links):
    links = [link if len(link) == 4 else (*link, 0.97, NEAR) for link in links]
    left, right, value, rule = zip(*links, strict=True) if links else ((), (), (), ())
    return Links(np.array(left, int), np.array(right, int), np.array(value, np.float32), np.array(rule, int))


def decided(candidates, *links, heldout=0.0, prefer=PREFERENCES, by="components", texts=None):
    """What became of each, by its name."""
    found = decide(questions_of(candidates), links_of(links), prefer, heldout, by, texts)
    names = [one["name"] for one in candidates]
    return {
        name: {
            "kept": names[found.kept[place]],
            "rule": RULES[found.rule[place]],
            "linked": names[found.linked[place]] if found.linked[place] >= 0 else None,
            "similarity": round(float(found.similarity[place]), 4),
            "split": "heldout" if found.heldout[place] else "train",
        }
        for place, name in enumerate(names)
    }


def staying(rows):
    return {name for name, row in rows.items() if row["rule"] is None}


def test_equal_texts_are_linked_to_the_first_and_to_no_other():
    links = exact_links(np.array(["t", "u", "t", "t"], "S32"))
    assert (links.left.tolist(), links.right.tolist()) == ([0, 0], [2, 3])
    assert len(exact_links(np.full(100_000, "t", "S32")).left) == 99_999


def test_an_exact_duplicate_stays_one_beside_a_near_one():
    links = [(0, 1, 1.0, EXACT), (0, 1, 1.0, NEAR), (1, 2, 0.96, NEAR), (1, 2, 0.96, LEXICAL)]
    rows = decided([candidate("a"), candidate("b"), candidate("c")], *links)
    assert [rows[one]["rule"] for one in "abc"] == [None, "exact_duplicate", "near_duplicate"]
    assert {row["kept"] for row in rows.values()} == {"a"}
    assert (rows["c"]["linked"], rows["c"]["similarity"]) == ("b", 0.96)


def test_a_chain_is_one_cluster_with_one_representative():
    rows = decided([candidate("a", 3), candidate("b", 2), candidate("c", 1), candidate("d", 0)], (0, 1), (1, 2))
    assert {one: row["kept"] for one, row in rows.items()} == {"a": "c", "b": "c", "c": "c", "d": "d"}


def test_representatives_drop_only_what_is_like_one_that_stays():
    """a–b–c–d: the best is b; a and c go by their links to it, d is like c only and stays."""
    members = [candidate("a", 1), candidate("b", 0), candidate("c", 1), candidate("d", 2)]
    links = [(0, 1, 0.96, NEAR), (1, 2, 0.97, NEAR), (2, 3, 0.98, NEAR)]
    rows = decided(members, *links, by="representatives")
    assert staying(rows) == {"b", "d"} and rows["d"]["kept"] == "d"
    assert [(rows[one]["kept"], rows[one]["linked"], rows[one]["similarity"]) for one in "ac"] == [
        ("b", "b", 0.96),
        ("b", "b", 0.97),
    ]
    assert staying(decided(members, *links)) == {"b"}


def test_of_equal_texts_one_representative_stays_whichever_is_preferred():
    """Links of equal texts are all with the first of them, here a; b has priority."""
    members = [candidate("a", 1), candidate("b", 0), candidate("c", 1), candidate("d", 2)]
    rows = decided(members, (0, 1, 1.0, EXACT), (0, 2, 1.0, EXACT), by="representatives")
    assert staying(rows) == {"b", "d"} and rows["c"]["linked"] == "b"
    assert [rows[one]["rule"] for one in "ac"] == ["exact_duplicate"] * 2


def test_what_is_like_a_text_is_like_the_question_that_stays_for_that_text():
    """a, b and c have one text, and d is linked with a for all of them."""
    members = [candidate("a", 1), candidate("b", 0), candidate("c", 1), candidate("d", 2)]
    links = [(0, 1, 1.0, NEAR), (0, 2, 1.0, NEAR), (0, 3, 0.96, NEAR)]
    rows = decided(members, *links, by="representatives", texts=np.array([5, 5, 5, 7]))
    assert staying(rows) == {"b"} and {row["linked"] for name, row in rows.items() if name != "b"} == {"b"}
    assert rows["d"]["similarity"] == 0.96
    assert staying(decided(members, *links, by="components")) == {"b"}


def test_representatives_of_random_links_are_independent_and_cover_all():
    random = np.random.default_rng(4)
    members = [candidate(f"{number:04d}", int(random.integers(3))) for number in range(300)]
    pairs = sorted({tuple(sorted(random.choice(300, 2, replace=False).tolist())) for _ in range(400)})
    rows = decided(members, *pairs, by="representatives")
    stay = staying(rows)
    names = [one["name"] for one in members]
    near = {name: set() for name in names}
    for one, other in pairs:
        near[names[one]].add(names[other])
        near[names[other]].add(names[one])
    for name, row in rows.items():
        assert not (near[name] & stay) if name in stay else row["kept"] in near[name] & stay
    assert 80 < len(stay) < 300


@pytest.mark.parametrize(
    ("prefer", "best"),
    [(PREFERENCES, "a"), (("reference", "priority"), "b"), (("longest",), "c"), (("hardest",), "d"), ((), "a")],
)
def test_who_stays_is_chosen_in_the_order_that_is_set(prefer, best):
    members = [
        candidate("a", 0, length=5),
        candidate("b", 1, referenced=True),
        candidate("c", 1, length=9),
        candidate("d", 1, hardness=4),
        candidate("e", 1),
    ]
    assert staying(decided(members, (0, 1), (1, 2), (2, 3), (3, 4), prefer=prefer)) == {best}
    members[4]["paid"] = True
    assert staying(decided(members, (0, 1), (1, 2), (2, 3), (3, 4), prefer=prefer)) == {"e"}


@pytest.mark.parametrize(
    ("label", "level"),
    [(None, 0), ("easy", 2), ("Very Hard", 5), ("very-hard", 5), ("Level 5", 5), ("7.5", 7), ("?", 0), ("-1", 0)],
)
def test_labels_say_how_hard(label, level):
    assert hardness(label) == level


@pytest.mark.parametrize("by", ["components", "representatives"])
def test_a_question_without_a_vector_is_dropped_and_keeps_no_other_from_staying(by):
    rows = decided([candidate("a", faulty=True), candidate("b", 1), candidate("c", faulty=True)], (0, 1), by=by)
    assert [rows[one]["rule"] for one in "abc"] == ["no_embedding", None, "no_embedding"]


@pytest.mark.parametrize("by", ["components", "representatives"])
def test_a_cluster_has_one_split_and_it_is_sticky(by):
    rows = decided([candidate("a"), candidate("b", split="heldout")], (0, 1), by=by)
    assert {row["split"] for row in rows.values()} == {"heldout"}
    rows = decided([candidate("a"), candidate("b", split="train")], (0, 1), heldout=0.99, by=by)
    assert {row["split"] for row in rows.values()} == {"train"}


@pytest.mark.parametrize("by", ["components", "representatives"])
def test_a_train_question_next_to_a_held_out_one_is_dropped_even_if_it_were_preferred(by):
    rows = decided([candidate("a", 0, split="train"), candidate("b", 1, split="heldout")], (0, 1), by=by)
    assert rows["a"]["rule"] == "near_heldout" and rows["b"]["rule"] is None
    assert rows["a"]["split"] == rows["b"]["split"] == "heldout"


def test_the_share_of_held_out_clusters_is_about_what_was_asked():
    ids = sorted(f"{number * 2654435761 % 2**32:08x}" * 4 for number in range(2000))
    rows = decided([candidate(one) for one in ids], heldout=0.1)
    assert 150 < sum(row["split"] == "heldout" for row in rows.values()) < 250


def test_no_questions_are_no_fault():
    assert decided([]) == {} == decided([], by="representatives")


def curated(house):
    return {row["messages"][-1]["content"]: row for row in house.rows("curate", "curated")}


EXACT_ONLY = {"filters": None, "near_duplicates": None}


def test_the_representative_is_chosen_by_source_then_reference_then_length(make_house, make_source):
    house = make_house(
        make_source("good", "good.jsonl", priority=2), make_source("bad", "bad.jsonl"), curate=EXACT_ONLY
    )
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


def test_lexical_near_copies_are_linked_by_their_own_rule(make_house):
    text = "A farmer has {} sheep and {} goats on the north meadow and sells some of them at the market on Friday."
    house = make_house(bits=1, curate=EXACT_ONLY | {"lexical_duplicates": {"threshold": 0.6}})
    questions = [text.format(12, 30), text.format(12, 31), "Which river runs through Paris and where does it end?"]
    house.write("sums.jsonl", [{"question": question} for question in questions])
    house.run("curate")
    [row] = house.ledger("curate")
    assert (row["rule"], row["threshold"]) == ("lexical_duplicate", 0.6) and 0.6 <= row["value"] < 1
    assert len(curated(house)) == 2 and json.loads(row["evidence"])["like"] in {
        one["question_id"] for one in curated(house).values()
    }


@pytest.mark.parametrize(("incumbents", "left"), [(True, "who is one"), (False, "Who is one")])
def test_a_question_whose_answers_are_paid_for_is_not_deposed(make_house, make_source, incumbents, left):
    teacher = {"name": "t", "engine": "replay", "path": "old.jsonl", "samples": 1}
    house = make_house(
        make_source("old", "old.jsonl"),
        make_source("new", "new.jsonl", priority=1),
        curate=EXACT_ONLY | {"incumbents": incumbents},
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
    house = make_house(curate=EXACT_ONLY | {"heldout": 0.5})
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

    house = make_house(curate=EXACT_ONLY)
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
