"""Proves that questions of one template are told from copies: by opposites, and by a letter, number or sign that one
text uses more often; and that copies in other words, orders or wrappings are not."""

from __future__ import annotations

import random

import pytest

from tasks.decontaminate import Benchmarks, DecontaminateSettings
from tasks.decontaminate_benchmarks import Benchmark, Item, load_items
from tasks.decontaminate_planting import case_and_punctuation, names_changed, sentence_order, wrapped
from tasks.decontaminate_siblings import opposed, renamed, sibling
from tasks.embeddings import EmbeddingSettings, embed
from tasks.question import normalise

FIND = r"There are numbers $A$ and $B$ for which \[\frac A{x-1}+\frac B{x+1}=\frac{x+2}{x^2-1}\] for every $x$. Find "


def test_opposites_count_only_where_each_text_has_one_side():
    assert opposed("Is the length of the word odd?", "Is the length of the word even?")
    assert opposed("the shortest word of a list", "the longest word of a list")
    assert not opposed("Count the odd ones, then the even ones", "Count the odd ones")
    assert not opposed("the largest element", "the greatest element")


def test_what_one_text_denies_and_the_other_asks_for_is_an_opposite():
    assert opposed("the sum of non-repeated elements, which are not repeated", "the sum of repeated elements")
    assert not opposed("the non-negative ones", "all non negative ones")


def test_a_side_of_an_opposite_that_one_text_uses_more_often_makes_siblings():
    facts = "In a right triangle we have $\\sin A = 2\\cos A$. What is "
    assert sibling(facts + "$\\cos A$?", facts + "its third angle?") and not sibling(facts + "it?", facts + "it?")


def test_signs_for_an_order_count_as_one_however_they_are_written():
    assert not sibling("for 0 <= x <= 9 and y = 1", r"for 0 \le x \le 9 and y = 1")


def test_a_letter_number_or_sign_that_one_text_uses_more_often_makes_siblings():
    assert sibling(FIND + "$B$.", FIND + "$A-B$.") and sibling(FIND + "$A-B$.", FIND + "$B$.")
    assert not sibling("Please solve this at once. " + FIND + "$B$. Show each step, A to Z.", FIND + "$B$.")
    assert not sibling(FIND.replace("x", "t") + "$B$.", FIND + "$B$.")
    assert not sibling("He has twenty-five eggs and eats 25.", "He has 25 eggs and eats 25.")


def test_only_words_with_a_capital_may_be_missing_from_a_renamed_copy():
    item = "In Duck Creek each plate has one letter and 4 digits. How many plates are possible?"
    assert renamed(
        "Answer this. In Chiara Noor each plate has one letter and 4 digits. How many plates are possible?", item
    )
    assert not renamed(item.replace("4", "5"), item) and not renamed(item.replace("plate ", "sign "), item)
    assert not renamed("Find x: Sum of a and b", "Find x: Sum of a and b")


@pytest.mark.parametrize("change", [case_and_punctuation, names_changed, sentence_order, wrapped])
def test_planted_copies_of_real_items_are_no_siblings(shared, change):
    items = load_items([Benchmark(name="m", path="math_test.json", question="problem")], shared)[1::20]
    pairs = [(text, item.text) for item in items if (text := change(item, random.Random(1))) is not None]
    assert len(pairs) > 20
    assert sum(sibling(text, item) or opposed(text, item) for text, item in pairs) <= 0.02 * len(pairs)


def test_a_sibling_is_suspect_by_the_n_gram_rule_and_by_score():
    index = Benchmarks([Item("m", 0, FIND + "$A-B$.")], DecontaminateSettings(), EmbeddingSettings())
    texts = [FIND + "$B$.", "Now: " + FIND + "$A-B$."]
    found = index.check(texts, embed([normalise(text) for text in texts], EmbeddingSettings()))
    assert [one.verdict for one in found] == ["suspect", "contaminated"]


def test_a_benchmark_whose_own_items_are_alike_asks_for_a_higher_score():
    towns = ["Bern", "Lund", "Graz", "Bath", "Nice", "Cork", "Turku", "Gent", "Brno", "Porto", "Riga", "Jena"]
    ends = ("How many are late on Mondays?", "How many trams stand still at noon?", "Which line is the longest?",
            "Which stop is used most?", "How many people ride them?", "What does a ticket cost?",
            "Who drives them at night?", "When does the last one leave?", "How old are they on average?")  # fmt: skip
    items = [Item("m", 0, f"{town} has 30 trams, 31 lines and 32 stops. {end}") for town in towns for end in ends]
    text = "Bern has 30 trams, 31 lines and 32 stops. What number of trams stands still in the middle of the day?"
    vectors = embed([normalise(text)], EmbeddingSettings())
    verdicts = []
    for some in (items, items[:50]):
        index = Benchmarks(some, DecontaminateSettings(), EmbeddingSettings())
        verdicts.append(index.check([text], vectors)[0].verdict)
    assert verdicts == ["suspect", "contaminated"]


def test_texts_that_are_written_alike_need_a_higher_score_than_reworded_ones(shared):
    items = load_items([Benchmark(name="m", path="math_test.json", question="problem", answer="solution")], shared)
    texts = {131: "Two numbers $x$ and $y$ satisfy $4x + 3y = -2$ together with $2x - 3y = 8$. Determine $xy$.",
             484: "Suppose that $3a = 3 - 2b$ and that $5a = 5 - 4b$. Determine the value of $6b$.",
             3528: "Multiply together all primes less than 100. What remainder is left on division by 16?",
             4335: "A combination lock has four wheels with the digits 0 to 9. In how many ways can it be set so that "
                   "no digit occurs twice?"}  # fmt: skip
    chosen = [item for item in items if item.index in texts or item.index % 20 == 0]
    index = Benchmarks(chosen, DecontaminateSettings(), EmbeddingSettings())
    vectors = embed([normalise(text) for text in texts.values()], EmbeddingSettings())
    right = [items[number].answer for number in texts]
    for answers, verdict in ((right, "contaminated"), (["-1234567.5"] * len(texts), "not contaminated")):
        found = index.check(list(texts.values()), vectors, answers)
        sure = [one.verdict == "contaminated" and index.items[one.item].index == number
                for one, number in zip(found, texts, strict=True)]  # fmt: skip
        assert all(sure) if verdict == "contaminated" else not any(sure)
    siblings = [item.text for item in items if item.index in (2572, 2293, 2322)]
    family = Benchmarks([item for item in items if item.index == 2293], DecontaminateSettings(), EmbeddingSettings())
    found = family.check(siblings, embed([normalise(text) for text in siblings], EmbeddingSettings()))
    assert sorted(one.verdict for one in found) == ["contaminated", "suspect", "suspect"]
