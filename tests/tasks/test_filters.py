"""Proves each query filter on what it must drop and on near misses; real sets lose next to nothing."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tasks.filter_language import language
from tasks.filters import FilterSettings, findings, screen_question, screen_text

ALL = FilterSettings(
    max_chars=4000, figures="missing", proofs=True, multiple_choice=True, true_false=True, sub_questions=True,
    no_answer=True, languages=("en",),
)  # fmt: skip

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
    "Check that a string starts with 'https://' or 'www.' and ends with a slash.",
]
DROPPED_WHERE_ASKED = {
    "too_long": ["Add them: " + "12 " * 2000],
    "figure": [
        "In the figure below, what is the measure of angle $ABC$?",
        "Each side is a semicircle, as shown. Find the area.",
        "What is the sum of the angles in the convex hexagon shown?",
        "![triangle](tri.png) Find $x$.",
        "Find x. <img src='a.png'>",
        "\\includegraphics[width=3cm]{t.png} What is the area?",
        "[Image 1] Which city is this?",
        "Refer to the diagram to the right and find the current.",
        "See Figure 3. How long is the bar?",
    ],
    "proof": [
        "Prove that $\\sqrt 2$ is irrational.",
        "Let $n$ be odd. Show that $n^2$ is odd.",
        "Prove: every tree has a leaf.",
        "Use induction on $n$ to prove the formula.",
        "Give a short proof of the lemma.",
        "Find $x$, and prove that it is the only one.",
        "Prove or disprove the claim.",
    ],
    "multiple_choice": [
        "What is 2+2?\n(A) 3\n(B) 4\n(C) 5",
        "What is 2+2?\nA. 3\nB. 4\nC. 5\nD. 6",
        "What is 2+2? A) 3 B) 4 C) 5",
        "$\\textbf{(A)}\\ 1\\qquad\\textbf{(B)}\\ 2\\qquad\\textbf{(C)}\\ 3$ is what?",
        "Which of the following is a prime? (a) 4 (b) 5 (c) 6",
        "Which of these is better: (A) to go, or (B) to stay?",
        "Choose one: A. red B. green C. blue",
    ],
    "true_false": [
        "True or false: 7 is prime.",
        "7 is prime. (True/False)",
        "Determine whether the following statement is true: all cats are mortal.",
        "Is this statement correct: zero is even?",
        "Is 91 a prime number? Answer yes or no.",
    ],
    "sub_questions": [
        "Let $f(x)=x^2$. (a) Find $f(2)$. (b) Find $f(3)$.",
        "1. What is the mean?\n2. What is the median?",
        "A ball falls. (i) How fast is it? (ii) How far does it fall?",
        "Part A: compute the mass. Part B: compute the weight.",
    ],
    "language": [
        "Wie viele Beine haben sechs Spinnen und vier Ameisen zusammen?",
        "Combien de pattes ont ensemble six araignées et quatre fourmis ?",
        "如果一个三角形的边长是三、四、五，面积是多少？",
        "Berechne die Fläche des Dreiecks mit den Seiten $a$, $b$ und $c$ aus der Formel von Heron.",
    ],
}
KEPT_WHERE_ASKED = [
    "Her report card needs to show that he received 80 or higher. What must he score?",
    "Jane took 72 pictures and put them in 8 albums. How many pictures are in each?",
    "A card is drawn at random. What is the chance that it is an ace?",
    "Numbers are arranged in columns, as shown, with three in each:\n1 2 3\n4 5 6\nWhat is in row 30?",
    "[asy]draw((0,0)--(1,1));[/asy] In the figure below, what is the slope?",
    "In the graph of $y=x^2$, let $a$ be the number of holes in the graph, $b$ of asymptotes. Find $a+b$.",
    "Evaluate $f(A)+f(B)+f(C)$ for $A=1$, $B=2$, $C=3$.",
    "Label the points (A), then (C).",
    "If $f(1)=2$ and $f(2)=6$, what is $f^{-1}(6)$?",
    "Suppose (i) $f(1)=1$ and (ii) $f(2n)=2f(n)$ for all $n$. Find $f(8)$.",
    "A set is such that (1) it is finite, (2) it holds 3. How many elements has it at least?",
    "Write a function that returns True or False, depending on whether a list is sorted.",
    "How many ways are there to answer a ten-question true/false test?",
    "Write a python function to check whether the given array is monotonic or not.",
    "Find all $k$ such that $x^2+k=0$ is true for one real number $x$.",
    "Evaluate $\\int_0^1 x\\,dx$.",
    "Find $x$ if $\\text{Größe} = 3$.",
]


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in DROPPED.items() for text in texts])
def test_a_filter_drops_and_says_what_it_saw(rule, text):
    finding = screen_text(text, FilterSettings())
    assert finding is not None and finding.rule == rule and finding.seen


@pytest.mark.parametrize("text", KEPT)
def test_a_near_miss_is_kept(text):
    assert screen_text(text, FilterSettings()) is None


@pytest.mark.parametrize(
    ("rule", "text"), [(rule, text) for rule, texts in DROPPED_WHERE_ASKED.items() for text in texts]
)
def test_what_only_some_papers_drop_is_dropped_where_asked(rule, text):
    assert screen_text(text, FilterSettings()) is None
    found = list(findings(text, ALL))
    assert [finding.rule for finding in found] == [rule] and found[0].seen


@pytest.mark.parametrize("text", KEPT + KEPT_WHERE_ASKED)
def test_near_misses_pass_all_filters(text):
    settings = ALL.model_copy(update={"languages": ("en", "de", "zh")})
    assert list(findings(text, settings)) == []


def test_every_filter_can_be_switched_off():
    off = FilterSettings(unusual_unicode=None, min_chars=None, incomplete=False, urls=False, tables=False)
    for texts in (DROPPED | DROPPED_WHERE_ASKED).values():
        assert [screen_text(text, off) for text in [*texts, ""]] == [None] * (len(texts) + 1)


def test_drawings_in_code_are_figures_where_all_are_asked_for():
    text = "[asy]draw((0,0)--(1,1));[/asy] What is the slope?"
    assert screen_text(text, FilterSettings(figures="all")).rule == "figure"


def test_a_question_needs_some_means_of_verification():
    question = {"messages": [{"role": "user", "content": "Name a noble gas."}], "ground_truth": None, "test_cases": []}
    question["instruction_constraints"] = None
    assert screen_question(question, FilterSettings(no_answer=True)).rule == "no_answer"
    assert screen_question(question, FilterSettings()) is None
    assert screen_question(question | {"ground_truth": "Ne"}, FilterSettings(no_answer=True)) is None


def test_values_stand_beside_their_thresholds():
    found = screen_text("Why is it so? " * 10, FilterSettings(max_chars=50))
    assert (found.rule, found.value, found.threshold) == ("too_long", 139, 50)
    found = screen_text(DROPPED_WHERE_ASKED["language"][0], FilterSettings(languages=("en", "fr")))
    assert found.seen.startswith("de: ") and 0.8 <= found.value <= 1 and found.threshold == 0.8


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Quanti gatti ci sono nella stanza se tre escono e due entrano?", "it"),
        ("三角形の面積を求めなさい。", "ja"),
        ("计算三角形的面积", "zh"),  # taken for Wu and Cantonese in part
        ("Evaluate.", None),
        ("$x$ \\frac{1}{2} 12345", None),
        ("", None),
    ],
)
def test_the_language_of_prose(text, found):
    assert (language(text) or (None,))[0] == found


@pytest.mark.timeout(20)  # it takes less than one second
def test_a_hostile_text_takes_no_time():
    for text in (
        " " * 100_000 + "x",
        "-" * 50_000 + "|",
        ("|" + " " * 1000) * 100,
        "--- " * 20_000,
        "www" * 30_000,
        "`" * 99_999,
        "[asy]" * 20_000,
        "$" * 50_001,
        "(A) " * 25_000,
        "show\n" * 20_000,
        "determine whether " * 5_000,
        "in the figure shown " * 5_000,
    ):
        list(findings("x\n" + text, ALL.model_copy(update={"max_chars": None})))


@pytest.mark.parametrize(
    ("name", "column", "allowed"),
    [
        ("gsm8k_test.jsonl", "question", {}),
        ("math_test.json", "problem", {"table": 11}),
        ("mbpp.jsonl", "text", {}),
        ("ifeval_prompts.jsonl", "prompt", {"url": 2}),
    ],
)
def test_the_defaults_drop_next_to_nothing_of_real_questions(shared, name, column, allowed):
    """The tables are tables, the URLs are URLs: see the drops before loosening these numbers."""
    texts = [json.loads(line)[column] for line in (shared / name).read_text().splitlines()]
    findings = (screen_text(text, FilterSettings()) for text in texts)
    assert Counter(finding.rule for finding in findings if finding) == allowed


@pytest.mark.parametrize(
    ("name", "column", "allowed"),
    [
        ("gsm8k_test.jsonl", "question", {}),
        ("math_test.json", "problem", {"table": 11, "figure": 3, "multiple_choice": 20, "sub_questions": 1}),
        ("mbpp.jsonl", "text", {}),
        ("humaneval.jsonl", "prompt", {}),
        ("ifeval_prompts.jsonl", "prompt", {"url": 2, "multiple_choice": 1}),
    ],
)
def test_all_filters_drop_what_they_should_of_real_questions(shared, name, column, allowed):
    """Each drop was looked at; docs/filters.md tells what they are."""
    texts = [json.loads(line)[column] for line in (shared / name).read_text().splitlines()]
    assert Counter(finding.rule for text in texts for finding in findings(text, ALL)) == allowed
