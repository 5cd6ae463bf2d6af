"""Proves that the dedup of a file holds no object a row, that unreadable rows come in order, and that what it says of
the rows that go is what it decided. What the command writes of it is tests/flows/test_dedup_command.py's to prove.
"""

from __future__ import annotations

import tracemalloc

import pytest

from tasks.dedup import ClusterSettings, Rules
from tasks.dedup_file import dedup_file
from tasks.dedup_scan import Scan
from tasks.embeddings import EmbeddingSettings
from tasks.question import BadRecord
from tasks.sources import Record
from tasks.step import Quiet

EXACT = Rules(exact=True, near=None, lexical=None, clusters=ClusterSettings(), heldout=0.0)


def records_of(texts):
    """One record a text; a record that can't be read for each None."""
    for number, text in enumerate(texts, 1):
        value = BadRecord("broken_json", f"line {number}") if text is None else {"question": text}
        yield Record(f"f:{number}", value)


def decided(texts, folder, rules=EXACT):
    return dedup_file(lambda: records_of(texts), {}, rules, EmbeddingSettings(), folder, Quiet())


def test_rows_that_go_come_in_the_order_of_the_file_whatever_the_reason(tmp_path):
    found = decided(["Who is one?", None, "WHO IS ONE", "Who is two?", None, "Who is one, and what else?"], tmp_path)
    rows = list(found.dropped())
    assert [one.row for one in rows] in ([0, 1, 4], [1, 2, 4])  # of two equal ones the hash of the text decides
    assert found.counts() == {"exact_duplicate": 1, "broken_json": 2}
    kept = found.kept()
    assert kept.sum() == 3 and kept[[3, 5]].all() and not kept[[one.row for one in rows]].any()
    [copy] = [one for one in rows if one.rule == "exact_duplicate"]
    assert kept[copy.evidence["kept_row"]] and copy.evidence["kept_row"] == copy.evidence["like_row"]
    assert [(one.row, one.evidence["place"]) for one in found.unread] == [(1, "f:2"), (4, "f:5")]
    assert (found.texts, found.rows) == (4, 6)


def test_a_few_of_each_rule_are_at_hand_for_the_page(tmp_path):
    texts = [f"Who is {number % 30}?" + " " * (number // 30) for number in range(90)] + [None] * 40
    shown = decided(texts, tmp_path).examples()
    assert {rule: len(found) for rule, found in shown.items()} == {"exact_duplicate": 12, "broken_json": 12}
    assert [one.row for one in shown["broken_json"]] == list(range(90, 102))


@pytest.mark.parametrize("texts", [[], [None], ["Who is one?"]])
def test_next_to_nothing_is_no_fault(tmp_path, texts):
    found = decided(texts, tmp_path)
    assert found.rows == len(texts) and found.kept().tolist() == [text is not None for text in texts]


def peak_memory(count, folder):
    """Bytes that reading so many rows takes at most; every fourth can't be read."""
    folder.mkdir()
    texts = (f"Who is {number}?" if number % 4 else None for number in range(count))
    tracemalloc.start()
    try:
        scan = Scan(records_of(texts), {}, folder, 12, Quiet())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(scan) + scan.unread.counts.total() == count
    return peak


def test_memory_grows_by_a_few_bytes_a_row(tmp_path):
    """A Python object of any kind takes 28 bytes at least; a row had a dozen of them, one that can't be read more."""
    small, large = peak_memory(20_000, tmp_path / "small"), peak_memory(60_000, tmp_path / "large")
    assert (large - small) / 40_000 < 60
