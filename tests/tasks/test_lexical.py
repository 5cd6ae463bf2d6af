"""Lexical pairs are exact, complete to the stated recall, few for copies by the thousand, and the same in any order.

Not covered: how rensa makes its signatures; that they do their work shows in the recall.
"""

from __future__ import annotations

import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.lexical import (
    BUCKET,
    LEADERS,
    MIN_RECALL,
    LexicalSettings,
    _Search,
    band_shape,
    expected_recall,
    find_lexical_pairs,
    lexical_pairs,
    template,
)
from tasks.lexical_sets import NgramSets, ngram_sets

QUESTION = "A baker bakes twelve trays of nine rolls, sells seven and eats two. How many rolls are left at night?"


def by_hand(one: str, other: str, ngram: int) -> float:
    """Jaccard index of plain ASCII texts, where a sign is a word."""
    sets = []
    for text in (one, other):
        words = "".join(f" {sign} " if not sign.isalnum() and sign != " " else sign for sign in text.lower()).split()
        sets.append({tuple(words[start : start + ngram]) for start in range(max(len(words) - ngram + 1, 1))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def all_pairs(texts, threshold, ngram=3):
    """Every pair and its Jaccard index, compared one by one."""
    flat, offsets = ngram_sets(texts, ngram)
    sets = [set(flat[start:end].tolist()) for start, end in zip(offsets, offsets[1:], strict=False)]
    found = {}
    for left, one in enumerate(sets):
        for right in range(left + 1, len(sets)):
            both = len(one & sets[right])
            if both and both / len(one | sets[right]) >= threshold:
                found[left, right] = both / len(one | sets[right])
    return found


def edited(source: random.Random, text: str, changes: int) -> str:
    words = text.split()
    for place in source.sample(range(len(words)), changes):
        words[place] = source.choice(("ten", "of", "loaves", "the", "x"))
    return " ".join(words)


def components(left, right, count):
    parent = list(range(count))

    def root(number):
        while parent[number] != number:
            number = parent[number]
        return number

    for one, other in zip(left.tolist(), right.tolist(), strict=True):
        parent[root(one)] = root(other)
    return [root(number) for number in range(count)]


@pytest.mark.parametrize("ngram", [1, 3, 5])
def test_the_index_is_the_jaccard_index_of_word_ngrams(ngram):
    texts = [QUESTION, QUESTION.replace("nine", "eleven"), QUESTION.replace("seven", "five, no six,").upper()]
    left, right, value = lexical_pairs(texts, LexicalSettings(threshold=0.2, ngram=ngram))
    assert list(zip(left, right, strict=True)) == [(0, 1), (0, 2), (1, 2)]
    assert value == pytest.approx([by_hand(texts[one], texts[other], ngram) for one, other in ((0, 1), (0, 2), (1, 2))])
    assert (left.dtype, right.dtype, value.dtype) == (np.int64, np.int64, np.float32)


def test_case_blanks_and_compatibility_forms_do_not_count():
    texts = [
        "Is \ufb01ve prime ?",
        "  is five\n\tPRIME?",
        "如果三角形的边长是三",
        "如果三角形的边长是四",
        "?!",
        "",
        " \n",
    ]
    left, right, value = lexical_pairs(texts, LexicalSettings(threshold=0.6, ngram=2))
    assert list(zip(left, right, strict=True)) == [(0, 1), (2, 3)] and value[0] == 1


def test_texts_shorter_than_the_ngram_match_as_a_whole():
    left, right, _ = lexical_pairs(["why not", "Why not", "why", "not"], LexicalSettings(ngram=8))
    assert list(zip(left, right, strict=True)) == [(0, 1)]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_no_pair_is_false_and_few_are_missed(shared, threshold):
    source = random.Random(7)
    texts = [json.loads(line)["question"] for line in (shared / "gsm8k_test.jsonl").read_text().splitlines()[:300]]
    texts += [edited(source, text, number % 4) for number, text in enumerate(texts)]
    wanted = all_pairs(texts, threshold)
    left, right, value = lexical_pairs(texts, LexicalSettings(threshold=threshold))
    found = dict(zip(zip(left.tolist(), right.tolist(), strict=True), value.tolist(), strict=True))
    assert found == {pair: pytest.approx(wanted[pair]) for pair in found}
    assert len(wanted) >= 80 and len(found) >= MIN_RECALL * len(wanted)


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.8, 0.95, 1.0])
def test_the_bands_keep_the_recall_at_the_threshold(threshold):
    bands, rows = band_shape(threshold)
    assert bands * rows <= 128 and expected_recall(threshold, bands, rows) >= MIN_RECALL
    wider = rows + 1
    assert rows == 16 or expected_recall(threshold, 128 // wider, wider) < MIN_RECALL


def test_copies_by_the_thousand_make_a_star():
    copies = 20_000
    found = find_lexical_pairs([QUESTION] * copies + ["Name two rivers of Mongolia."], LexicalSettings())
    assert len(found.left) == copies - 1 and set(found.left.tolist()) == {0} and set(found.jaccard.tolist()) == {1.0}


def test_a_family_of_thousands_is_one_component_with_few_pairs():
    family = [QUESTION.replace("twelve", str(number)).replace("nine", str(number % 77)) for number in range(5_000)]
    found = find_lexical_pairs(family, LexicalSettings(threshold=0.4))
    assert len(set(components(found.left, found.right, len(family)))) == 1
    assert len(found.left) < len(family) * BUCKET


def one_bucket(texts, threshold, folder):
    """The search after one band in which all texts fall into one bucket."""
    sets = NgramSets(folder, iter(texts), 3, 1, 1)
    search = _Search(sets, threshold)
    search.pair_band(np.zeros(len(texts), np.uint64))
    return search


def test_a_crowded_bucket_of_several_families_is_sorted_out(tmp_path):
    openings = ("A baker in Paris bakes rolls", "Two trains leave the station", "Some beads are in the red box")
    texts = [f"{opening} and then some more of them on day {number}" for number in range(40) for opening in openings]
    search = one_bucket(texts, 0.6, tmp_path)
    found = search.result()
    assert found.left_out == 0 and len(set(components(found.left, found.right, len(texts)))) == 3


def test_what_no_leader_is_like_is_counted(tmp_path):
    texts = [f"alpha{number} beta{number} gamma{number} delta{number}" for number in range(LEADERS + 60)]
    search = one_bucket(texts, 0.6, tmp_path)
    assert search.left_out == 60 and len(search.result().left) == 0


def test_the_order_of_rows_does_not_change_the_pairs():
    source = random.Random(3)
    texts = [edited(source, QUESTION, number % 5) + f" {number % 40}" for number in range(400)]
    shuffled = source.sample(range(len(texts)), len(texts))
    settings = LexicalSettings(threshold=0.6)
    found = find_lexical_pairs(texts, settings)
    again = find_lexical_pairs([texts[number] for number in shuffled], settings)
    one = {frozenset((texts[a], texts[b])) for a, b in zip(found.left, found.right, strict=True)}
    other = {frozenset((texts[shuffled[a]], texts[shuffled[b]])) for a, b in zip(again.left, again.right, strict=True)}
    assert one == other and len(one) > 400


def test_a_parquet_file_is_read_like_texts(tmp_path):
    texts = [QUESTION, None, QUESTION.lower(), "Something else that is asked here."]
    pq.write_table(pa.table({"question": pa.array(texts, pa.string())}), tmp_path / "q.parquet")
    for column in lexical_pairs(tmp_path / "q.parquet", LexicalSettings()):
        assert len(column) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "q.parquet"]


@pytest.mark.parametrize("texts", [[], [""], ["one"], ["", ""], ["\ud800 half a pair", "x"]])
def test_next_to_nothing_is_no_fault(texts):
    assert [len(column) for column in lexical_pairs(iter(texts), LexicalSettings())] == [0, 0, 0]


def test_a_megabyte_of_text_is_compared_whole(tmp_path):
    long = " ".join(f"word{number}" for number in range(100_000))
    left, right, value = lexical_pairs([long, "short", long + " end"], LexicalSettings(), scratch=tmp_path)
    assert (left.tolist(), right.tolist()) == ([0], [2]) and 0.9999 < value[0] < 1
    assert list(tmp_path.iterdir()) == []


def test_a_template_is_the_text_without_its_numbers():
    assert template("Add 1,234.5 to 7.") == template("add  8\nto 99 .".replace(" .", ".")) != template("Add 1 to x.")
