"""Proves each query filter on what it must drop and on near misses; real sets lose next to nothing."""

from __future__ import annotations

import json
import time
from collections import Counter

import pytest

from tasks.filters import FilterSettings, screen_text

DROPPED = {
    "too_short": ["Why?", "  1+1=?  "],
    "unusual_unicode": [
        "\u200b\u200b\u200bWhat is it?",
        "★★★★ Solve me ★★★★",
        "\ue000\ue001\ue002 private use",
        "a\x07b\x07c\x07 bells",
    ],
    "incomplete": [
        "A train leaves the station at...",
        "Consider the set of all…",
        "Given the following,",
        "Fix:\n```python\nx = 1",
    ],
    "url": ["See https://example.org/a?b=c and answer.", "Look at www.example.org first."],
    "table": [
        "| a | b |\n|---|---|\n| 1 | 2 |\nWhat is b?",
        "a | b\n--- | :---:\n1 | 2",
        "Read <table><tr><td>1</td></tr></table>",
        "\\begin{tabular}{cc}1&2\\end{tabular} What is it?",
    ],
}
KEPT = [
    "What is 2+3?",
    "Was ist 5 − 3, in Worten? Größe: 20 °C",
    "如果一个三角形的边长是三、四、五，面积是多少？",
    "What comes next: 2, 4, 8, 16, ...",
    "Continue: 1, 1, 2, 3, 5, …",
    "Find x if |x - 3| --- the distance --- is 4.",
    "Solve $\\begin{array}{c}x+y=1\\\\x-y=3\\end{array}$ for x.",
    "Is a || b the same as b || a in C?",
    "Mark code with ticks such as ```.",
    "Fix:\n```python\nx = 1\n```\nand\n```\ny\n```",
    "Compare:\n---\nfirst\n---\nsecond",
    "Why is http a protocol without a secret?",
    "Emoji now and then are fine in a long enough question 🙂, are they not?",
    "Is i<t or i>t?\tTabs and\nlines are fine.",
]


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in DROPPED.items() for text in texts])
def test_a_filter_drops_and_says_what_it_saw(rule, text):
    finding = screen_text(text, FilterSettings())
    assert finding is not None and finding.rule == rule and finding.seen


@pytest.mark.parametrize("text", KEPT)
def test_a_near_miss_is_kept(text):
    assert screen_text(text, FilterSettings()) is None


def test_every_filter_can_be_switched_off():
    off = FilterSettings(unusual_unicode=None, min_chars=None, incomplete=False, urls=False, tables=False)
    for texts in DROPPED.values():
        assert [screen_text(text, off) for text in [*texts, ""]] == [None] * (len(texts) + 1)


def test_a_hostile_text_takes_no_time():
    start = time.monotonic()
    for text in (
        " " * 100_000 + "x",
        "-" * 50_000 + "|",
        ("|" + " " * 1000) * 100,
        "--- " * 20_000,
        "www" * 30_000,
        "`" * 99_999,
    ):
        screen_text("x\n" + text, FilterSettings())
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("name", "column", "allowed"),
    [
        ("gsm8k_test.jsonl", "question", {}),
        ("math_test.json", "problem", {"table": 11}),
        ("mbpp.jsonl", "text", {"url": 1}),
        ("ifeval_prompts.jsonl", "prompt", {"url": 2}),
    ],
)
def test_the_defaults_drop_next_to_nothing_of_real_questions(shared, name, column, allowed):
    """The tables are tables, the URLs are URLs: see the drops before loosening these numbers."""
    texts = [json.loads(line)[column] for line in (shared / name).read_text().splitlines()]
    findings = (screen_text(text, FilterSettings()) for text in texts)
    assert Counter(finding.rule for finding in findings if finding) == allowed
