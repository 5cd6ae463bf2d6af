"""Proves that benchmark items are found by exact text, n-gram, short run and embedding, and near misses are not."""

from __future__ import annotations

import json

import pytest

from tasks.decontaminate import Benchmark, Benchmarks, DecontaminateSettings, Item, load_benchmarks, normal_text
from tasks.embeddings import EmbeddingSettings, embed
from tasks.errors import BadSetting, UnreadableSource

LONG = "A baker has twelve trays with nine rolls each and sells seven of them before noon on every single day"
SHORT = "Compute the value of 17 * 3."


def check(texts, settings=None, items=(LONG, SHORT, "Why?", "Solve for x"), vectors=None):
    settings = settings or DecontaminateSettings(similarity=None)
    benchmarks = Benchmarks(
        [Item("b", number, text) for number, text in enumerate(items)], settings, EmbeddingSettings()
    )
    return [finding and finding.rule for finding in benchmarks.check(texts, vectors)]


def test_exact_text_ignores_case_blanks_and_the_last_stop():
    assert (
        check(["why", "Why ?", "  WHY?\n", LONG.upper() + ".", "compute the value of 17*3"]) == ["benchmark_exact"] * 5
    )


def test_signs_are_part_of_a_question():
    texts = [
        "What is 3 + 4?",
        "What is 3 - 4?",
        "What is 3 * 4?",
        "arccos 1",
        "arccos (-1)",
        "x^2",
        "x_2",
        "3.5",
        "35",
        "5!",
        "5",
    ]
    assert len({normal_text(text) for text in texts}) == len(texts)
    assert check(["Compute the value of 17 + 3."]) == [None]


def test_a_shared_run_of_thirteen_words_contaminates_and_twelve_do_not():
    words = LONG.split()
    assert check(["Now: " + " ".join(words[2:15]) + ", right?"]) == ["benchmark_ngram"]
    assert check(["Now: " + " ".join(words[2:14]) + " or not"]) == [None]
    assert check([" ".join(words[2:10])], DecontaminateSettings(similarity=None, ngram=8)) == ["benchmark_ngram"]


def test_short_items_match_as_a_run_and_very_short_ones_as_a_whole_only():
    assert check(["Please compute the value of 17 * 3 and explain."]) == ["benchmark_ngram"]
    assert check(["Solve for x: 2x = 4", "Tell me why? Now."]) == [None, None]
    assert check(["Solve for x."]) == ["benchmark_exact"]


def test_the_finding_names_item_and_match():
    benchmarks = Benchmarks([Item("gsm", 7, LONG)], DecontaminateSettings(similarity=None), EmbeddingSettings())
    [finding] = benchmarks.check(["so " + LONG], None)
    assert json.loads(finding.seen) == {
        "benchmark": "gsm",
        "item": 7,
        "item_text": LONG,
        "matched": " ".join(LONG.lower().split()[:13]),
    }
    assert finding.threshold == 13


def test_a_rewording_is_found_by_embedding():
    texts = [
        LONG.replace("A baker has", "The baker owns").replace("twelve", "a dozen"),
        "How tall is Mont Blanc in metres?",
    ]
    settings = DecontaminateSettings(ngram=None, similarity=0.85)
    vectors = embed(texts, EmbeddingSettings())
    assert check(texts, settings, vectors=vectors) == ["benchmark_similarity", None]
    assert check(texts, DecontaminateSettings(ngram=None, similarity=None), vectors=vectors) == [None, None]


def test_every_item_of_a_real_benchmark_finds_itself_and_no_other_set(shared):
    """MATH against AIME 2024: four boilerplate 13-grams (`… relatively prime positive integers …`) are flagged."""
    read = lambda name, key: [json.loads(line)[key] for line in (shared / name).read_text().splitlines()]  # noqa: E731
    aime, gsm, math = (
        read("aime24.jsonl", "problem"),
        read("gsm8k_test.jsonl", "question"),
        read("math_test.json", "problem"),
    )
    assert set(check(aime, items=aime)) == {"benchmark_exact"}
    assert set(check([f"Solve this: {text} Show your work." for text in aime], items=aime)) == {"benchmark_ngram"}
    assert check(gsm, items=aime).count(None) == len(gsm)
    assert check(gsm, items=math).count(None) == len(gsm)
    assert check(math, items=aime).count(None) >= len(math) - 4


def test_unreadable_benchmarks_are_errors_not_clean_bills(tmp_path):
    def load(**kind):
        benchmark = Benchmark(name="b", path="b.jsonl", **kind)
        return load_benchmarks(DecontaminateSettings(benchmarks=(benchmark,)), EmbeddingSettings(), tmp_path, ())

    with pytest.raises(UnreadableSource):
        load()
    (tmp_path / "b.jsonl").write_text('{"problem": "x y z"}\n')
    with pytest.raises(BadSetting, match=r"b\.jsonl:1.*question.*found: problem"):
        load()
    (tmp_path / "b.jsonl").write_text('{"question": "x y z"}\n{"quest')
    with pytest.raises(BadSetting, match=r"b\.jsonl:2.*broken_json"):
        load()
    (tmp_path / "b.jsonl").write_text("\n")
    with pytest.raises(BadSetting, match="no items"):
        load()


def test_a_benchmark_that_changes_within_one_process_is_read_again(make_house):
    house = make_house(
        curate={
            "filters": None,
            "near_duplicates": None,
            "decontaminate": {"benchmarks": [{"name": "b", "path": "b.jsonl"}], "similarity": None},
        }
    )
    house.write("sums.jsonl", [{"question": "Who is one?"}, {"question": "Who is two?"}])
    for name in ("one", "two"):
        house.write("b.jsonl", [{"question": f"Who is {name}?"}])
        house.run("curate")
        [row] = house.ledger("curate")
        assert row["rule"] == "benchmark_exact" and json.loads(row["evidence"])["item_text"] == f"Who is {name}?"
