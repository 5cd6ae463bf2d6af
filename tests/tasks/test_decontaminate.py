"""Proves that benchmark items are found by each rule with their evidence, and that near misses, boilerplate and other
questions of the same source are not. Rates on whole data sets are printed by tests/bench/decontaminate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tasks.decontaminate import Benchmarks, DecontaminateSettings
from tasks.decontaminate_benchmarks import Benchmark, Item, load_items
from tasks.decontaminate_text import normal_text
from tasks.embeddings import EmbeddingSettings, embed

LONG = "A baker has twelve trays with nine rolls each and sells seven of them before noon on every single day"
SHORT = "Compute the value of 17 * 3."
REWORDINGS = Path(__file__).parent / "data" / "rewordings.jsonl"
NGRAMS = {"signals": False}


def find(texts, items=(LONG, SHORT, "Why?", "Solve for x"), *, embedded=False, answers=None, **settings):
    items = [one if isinstance(one, Item) else Item("b", number, one) for number, one in enumerate(items)]
    index = Benchmarks(items, DecontaminateSettings(**settings), EmbeddingSettings())
    return index, index.check(texts, embed(texts, EmbeddingSettings()) if embedded else None, answers)


def rules(texts, *items, **settings):
    return [one.rule for one in find(texts, *items, **settings)[1]]


def test_exact_text_ignores_case_blanks_and_the_last_stop():
    texts = ["why", "Why ?", "  WHY?\n", LONG.upper() + ".", "compute the value of 17*3"]
    assert rules(texts) == ["benchmark_exact"] * 5


def test_signs_are_part_of_a_question():
    texts = ["What is 3 + 4?", "What is 3 - 4?", "What is 3 * 4?", "arccos 1", "arccos (-1)", "x^2", "x_2", "3.5", "35",
             "5!", "5"]  # fmt: skip
    assert len({normal_text(text) for text in texts}) == len(texts)


def test_a_run_that_covers_most_of_an_item_contaminates_and_a_shorter_one_does_not():
    words = LONG.split()
    assert rules(["Now: " + " ".join(words[2:15]) + ", right?"], **NGRAMS) == ["benchmark_ngram"]
    assert rules(["Now: " + " ".join(words[2:14]) + " or not"], **NGRAMS) == [None]
    assert rules(["Now: " + " ".join(words[2:16])], [LONG + " and again " * 12], **NGRAMS, coverage=0.95) == [None]


def test_short_items_match_whole_and_very_short_ones_as_a_whole_text_only():
    assert rules(["Please compute the value of 17 * 3 and explain."], **NGRAMS) == ["benchmark_ngram"]
    assert rules(["Solve for x: 2x = 4", "Tell me why? Now."], **NGRAMS) == [None, None]
    assert rules(["Solve for x."]) == ["benchmark_exact"]


def test_the_same_template_with_other_numbers_is_suspect_not_contaminated():
    changed = LONG.replace("twelve", "31").replace("nine", "57").replace("seven", "86")
    item = "On every single day of the week that is a working day in this town " + LONG
    [found] = find([item.replace(LONG, changed)], [item], **NGRAMS, coverage=0.5)[1]
    assert (found.verdict, found.rule) == ("suspect", "benchmark_ngram")


def test_boilerplate_that_several_items_share_does_not_flag():
    tail = "where m and n are relatively prime positive integers find the sum of m and n and give it as one number"
    items = [f"The {word} of a thing is m/n {tail}" for word in ("length", "area", "volume", "weight", "age")]
    question = f"Its speed is {tail}"
    assert rules([question], items, **NGRAMS) == [None]
    assert rules([question], items[:1], **NGRAMS) == ["benchmark_ngram"]


def test_the_finding_names_item_and_match():
    index, [found] = find(["so " + LONG], [Item("gsm", 7, LONG)], **NGRAMS)
    seen = json.loads(index.evidence(found))
    assert (seen["verdict"], seen["benchmark"], seen["item"], seen["item_text"]) == ("contaminated", "gsm", 7, LONG)
    assert seen["matched"] == LONG and seen["found_by"] == "benchmark_ngram"
    assert (found.value, found.threshold) == (1.0, 0.6)


def test_a_rewording_is_found_by_cosine_where_the_recipe_asks_for_that_alone():
    texts = [LONG.replace("A baker has", "The baker owns").replace("twelve", "a dozen"), "How tall is Mont Blanc?"]
    settings = {"ngram": None, "signals": False}
    assert rules(texts, embedded=True, similarity=0.85, **settings) == ["benchmark_similarity", None]
    assert rules(texts, embedded=True, **settings) == [None, None]


def test_suspects_are_kept_or_dropped_by_setting():
    for suspects, dropped in (("keep", None), ("drop", "benchmark_suspect")):
        index, [found] = find([LONG.replace("nine", "8")], embedded=True, contaminated=50.0, suspects=suspects)
        assert found.verdict == "suspect" and index.drops(found) == dropped


def test_order_and_batches_of_questions_change_nothing(shared):
    items = load_items([Benchmark(name="gsm8k", path="gsm8k_test.jsonl")], shared)[:60]
    index = Benchmarks(items, DecontaminateSettings(), EmbeddingSettings())
    texts = [item.text.replace(" the ", " that ") for item in items[:20]] + [item.text[:60] for item in items[20:40]]
    vectors = embed(texts, EmbeddingSettings())
    whole = index.check(texts, vectors)
    assert {one.verdict for one in whole} >= {"contaminated", "clean"}
    assert index.check(texts[::-1], vectors[::-1])[::-1] == whole
    assert [index.check([text], vectors[number : number + 1])[0] for number, text in enumerate(texts)] == whole


def test_bad_input_is_judged_like_any_other():
    texts = ["", "\ud800 half a character", LONG + " x" * 500_000, "\x00"]
    vectors = np.full((4, 384), np.nan, np.float16)
    index, _ = find([""])
    verdicts = [one.verdict for one in index.check(texts, vectors)]
    assert verdicts == ["clean", "clean", "contaminated", "clean"]
    assert find(texts, [])[1][2].verdict == "clean"


def test_items_of_one_real_benchmark_are_not_flagged_for_another(shared):
    aime = load_items([Benchmark.model_validate({"name": "aime24", "path": "aime24.jsonl"})], shared)
    math = load_items([Benchmark(name="m", path="math_test.json", question="problem")], shared)
    gsm = load_items([Benchmark.model_validate({"name": "gsm8k", "path": "gsm8k_test.jsonl"})], shared)
    texts = [f"Solve this: {item.text} Show your work." for item in aime]
    assert set(rules(texts, aime, **NGRAMS)) == {"benchmark_ngram"}
    for questions, items in ((math, aime), (gsm, aime), (gsm, math)):
        assert set(rules([item.text for item in questions], items, **NGRAMS)) == {None}


def test_rewordings_of_real_items_are_found_and_their_neighbours_are_not(shared):
    rows = [json.loads(line) for line in REWORDINGS.read_text().splitlines()]
    mbpp = load_items([Benchmark.model_validate({"name": "mbpp", "path": "mbpp.jsonl"})], shared)
    for name, file, least in (("gsm8k", "gsm8k_test.jsonl", 1.0), ("humaneval", "humaneval.jsonl", 0.75)):
        items = load_items([Benchmark.model_validate({"name": name, "path": file})], shared)
        mine = [row for row in rows if row["file"] == file]
        wanted = {row["item"] for row in mine}
        chosen = [item for item in items if item.index in wanted or item.index % 4 == 0]
        index, found = find([row["text"] for row in mine], chosen, embedded=True)
        right = [one.verdict == "contaminated" and index.items[one.item].index == row["item"]
                 for one, row in zip(found, mine, strict=True)]  # fmt: skip
        assert np.mean(right) >= least, [row for row, good in zip(mine, right, strict=True) if not good]
        source = items if name == "gsm8k" else mbpp  # HumanEval holds near copies of its own items
        others = [item.text for item in source if item.index % 4 == 1 and item.index not in wanted][:150]
        flagged = [one for one in find(others, chosen, embedded=True)[1] if one.verdict == "contaminated"]
        assert len(flagged) <= 0.02 * len(others)


TESTS = "assert {0}([3, 8, 5]) == [8]\nassert {0}([11, 2, 7, 4]) == [2, 4]\nassert {0}([]) == []"


def task(number, text, tests):
    return Item("code", number, text, entry_point="find_evens", solution="def find_evens(x): ...", tests=tests)


def test_a_task_in_other_words_is_found_by_its_checked_examples_whatever_the_function_is_called():
    items = [task(0, "Write a function to find the even elements.", TESTS.format("find_evens")),
             task(1, "Write a function to find the primes.", "assert primes([2, 4, 9]) == [2]")]  # fmt: skip
    texts = [
        "Which entries leave no rest when halved?\n" + TESTS.format("solve"),
        "Which entries are above their mean?\nassert solve([3, 8, 5]) == [8]\nassert solve([9, 9]) == []",
    ]
    index, [copy, other] = find(texts, items, embedded=True)
    assert (copy.verdict, index.items[copy.item].index) == ("contaminated", 0) and other.verdict != "contaminated"


def test_examples_that_many_items_hold_show_nothing():
    tests = "assert {}('ab') == 'Found a match!'\nassert {}('xy') == 'Not matched!'"
    items = [task(number, f"Match an a and {number} b's.", tests.format("f", "f")) for number in range(6)]
    assert find(["Find zebras.\n" + tests.format("g", "g")], items, embedded=True)[1][0].verdict == "clean"
    assert find(["Find zebras.\n" + tests.format("g", "g")], items[:1], embedded=True)[1][0].verdict == "contaminated"


def test_a_benchmark_that_changes_within_one_process_is_read_again(make_house):
    house = make_house(
        curate={
            "filters": None,
            "near_duplicates": None,
            "decontaminate": {"benchmarks": [{"name": "b", "path": "b.jsonl"}], "signals": False},
        }
    )
    house.write("sums.jsonl", [{"question": "Who is one?"}, {"question": "Who is two?"}])
    for name in ("one", "two"):
        house.write("b.jsonl", [{"question": f"Who is {name}?"}])
        house.run("curate")
        [row] = house.ledger("curate")
        assert row["rule"] == "benchmark_exact" and json.loads(row["evidence"])["item_text"] == f"Who is {name}?"
