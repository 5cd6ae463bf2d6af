"""Proves which runs of words are counted over the corpus, that a plain count agrees, and what select makes of them.

Not covered: how much is found where only a sample of the runs is kept; that what is kept depends on no order is.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict

import numpy as np
import pytest

from tasks.repeats_runs import RunStore, hash_runs
from tasks.verifiers.trace_repeats import split_words

BOILERPLATE = "let us look at this one more time and write down all that we know before we begin to solve it"
OPENER = "Let's think step by step."


def plain_runs(text, ngram):
    words = split_words(text)
    return {tuple(words[start : start + ngram]) for start in range(len(words) - ngram + 1)}


def test_the_runs_of_texts_are_those_of_a_plain_count():
    texts = ["a b c d e", "", "  a b\tc\n d ", "x", "你好世界 ok", "a b c", "e a b c d e"]
    runs = hash_runs(texts, 3)
    found = defaultdict(set)
    for place, text in enumerate(runs.texts):
        found[int(text)].add(tuple(runs.shown(place).split()))
    assert found == {place: plain_runs(text, 3) for place, text in enumerate(texts) if plain_runs(text, 3)}
    by_hash = defaultdict(set)
    for place, one in enumerate(runs.hashes):
        by_hash[int(one)].add(runs.shown(place))
    assert all(len(shown) == 1 for shown in by_hash.values())
    assert len(by_hash) == len(set().union(*(plain_runs(text, 3) for text in texts)))
    assert runs.lengths.tolist() == [len(split_words(text)) for text in texts]


def test_a_run_has_the_same_hash_wherever_and_whenever_it_stands():
    """Python's own hashes differ from process to process; a sample by them would too."""
    early, late = hash_runs(["a b c"], 3), hash_runs(["x " * 5000, "y a b c"], 3)
    assert early.hashes[0] == late.hashes[-1] == 11773158733325930502


def test_nothing_gives_no_runs():
    for texts in ([], [""], ["a b"]):
        assert len(hash_runs(texts, 3).hashes) == 0


def filled(tmp_path, name, entries, most):
    folder = tmp_path / name
    folder.mkdir()
    store = RunStore(folder, most)
    for piece in entries:
        store.add(piece["run"], piece["question"])
    return store


def test_the_store_counts_questions_and_its_sample_depends_on_no_order(tmp_path):
    draw = np.random.default_rng(0)
    pool = draw.integers(0, 1 << 64, 3000, dtype=np.uint64, endpoint=False)
    entries = np.empty(20_000, [("run", "<u8"), ("question", "<u4")])
    entries["run"], entries["question"] = (
        pool[(draw.pareto(1, 20_000) * 20).astype(int) % 3000],
        draw.integers(0, 40, 20_000),
    )
    asked = defaultdict(set)
    for run, question in entries.tolist():
        asked[run].add(question)
    expected = {run: len(questions) for run, questions in asked.items() if len(questions) > 5}
    whole = filled(tmp_path, "whole", np.array_split(entries, 7), 1 << 20)
    runs, counts = whole.frequent(5)
    assert dict(zip(runs.tolist(), counts.tolist(), strict=True)) == expected and whole.rate == 1
    samples = []
    for name, order in (("ahead", entries), ("behind", entries[::-1])):
        store = filled(tmp_path, name, np.array_split(order, 60 if name == "ahead" else 11), 2000)
        samples.append((*(one.tolist() for one in store.frequent(5)), store.rate))
        assert store.rate > 1 and store.stored <= 2000
    assert samples[0] == samples[1]
    runs, counts, rate = samples[0]
    assert dict(zip(runs, counts, strict=True)) == {run: n for run, n in expected.items() if run % rate == 0}


# --- the road


@pytest.fixture
def house(make_house):
    """Six questions; the responses to the first four hold the same 21 words, each in words of its own besides."""
    house = make_house(
        teachers=[
            {"name": "t", "engine": "replay", "path": "answers.jsonl", "samples": 3, "columns": {"response": "r"}}
        ],
        select={"trace": {"corpus_repeats": 3}},
        runner={"max_workers": 1},
    )
    write(house)
    return house


def own_words(n, words=30):
    draw = random.Random(n)
    return " ".join(f"word{draw.randrange(10**9)}" for _ in range(words))


def write(house, many=4, question=""):
    asked = [f"{question}How many are {n} and {n}?" for n in range(6)]
    house.write("sums.jsonl", [{"question": text, "ground_truth": str(2 * n)} for n, text in enumerate(asked)])
    house.write(
        "answers.jsonl",
        [
            {
                "question": text,
                "r": [
                    f"{own_words(n)} {BOILERPLATE if n < many else OPENER} {own_words(n + 99)} \\boxed{{{2 * n}}}",
                    f"{OPENER} {own_words(n + 7)} \\boxed{{{2 * n}}}",
                    f"{question}{own_words(n + 50)} \\boxed{{{2 * n}}}",
                ],
            }
            for n, text in enumerate(asked)
        ],
    )


def test_a_run_in_the_responses_to_more_questions_than_the_limit_leaves_them_out(house):
    house.run("select")
    dropped = [row for row in house.ledger("select") if row["rule"] == "corpus_repeats"]
    assert len(dropped) == 4 and {(row["value"], row["threshold"]) for row in dropped} == {(4, 3)}
    where = json.loads(dropped[0]["evidence"])["where"]
    assert BOILERPLATE.startswith(where["text"]) and where["share"] == pytest.approx(21 / 82, abs=0.01)
    assert len(house.rows("select", "selection")) == 14
    found = house.rows("repeats", "repeats")
    assert {row["questions"] for row in found} == {4} and len(found) == 4


def test_samples_of_one_question_and_words_of_the_question_are_no_repeats(house):
    write(house, many=3)  # three questions, and one limit
    house.run("select")
    assert house.rows("repeats", "repeats") == []
    write(house, many=0, question=f"{BOILERPLATE}: {BOILERPLATE}? ")  # the responses quote their questions
    house.run("select")
    assert house.rows("repeats", "repeats") == []


def test_words_of_the_prompt_are_no_repeats(house):
    house.recipe["teachers"][0]["prompts"] = {"default": {"system": f"Always say: {BOILERPLATE}"}}
    house.run("select")
    assert house.rows("repeats", "repeats") == []


def test_words_of_any_of_several_prompts_are_no_repeats(house):
    house.recipe["teachers"][0]["prompts"] = {
        "default": [{"name": "bare"}, {"name": "told", "system": f"Always say: {BOILERPLATE}"}]
    }
    house.run("select")
    assert house.rows("repeats", "repeats") == []


def test_a_share_lets_boilerplate_in_a_long_response_pass(house):
    house.recipe["select"]["trace"]["corpus_share"] = 0.5
    house.run("select")
    assert "corpus_repeats" not in house.rules("select") and len(house.rows("repeats", "repeats")) == 4
    done = {one.step for one in house.run("select")}
    assert done == set()
    house.recipe["select"]["trace"]["corpus_share"] = 0.2
    assert {one.step for one in house.run("select")} == {"select"}  # nothing is counted again
    assert house.rules("select")["corpus_repeats"] == 4


def test_by_default_nothing_is_counted(house):
    house.recipe["select"] = {}
    house.run("select")
    assert house.workspace.head("repeats", house.workspace.shards[0]) is None
    assert len(house.rows("select", "selection")) == 18


def test_the_number_of_shards_changes_no_repeat_and_a_slice_that_is_the_same_redoes_nothing(house, tmp_path):
    other = house.copy(tmp_path / "other", bits=2)
    house.run("select")
    other.run("select")
    for step, table in (("repeats", "repeats"), ("select", "selection")):
        assert house.rows(step, table) == other.rows(step, table)
    heads = {shard: other.workspace.head("select", shard).seq for shard in other.workspace.shards}
    write(other, many=4)
    rows = (other.base / "sums.jsonl").read_text() + json.dumps({"question": "New?", "ground_truth": "1"}) + "\n"
    (other.base / "sums.jsonl").write_text(rows)
    other.run("select")
    moved = [shard for shard, seq in heads.items() if other.workspace.head("select", shard).seq > seq]
    assert len(moved) == 1
