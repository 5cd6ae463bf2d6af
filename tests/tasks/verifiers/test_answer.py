"""Proves that the final answer is found where the rules say, and that normal forms decide only what they
may."""

from __future__ import annotations

from fractions import Fraction

import pytest

from tasks.verifiers.answer import UnknownAnswerRule, after_marker, check_rules, extract, last_boxed
from tasks.verifiers.answer_compare import quick_compare
from tasks.verifiers.answer_forms import (
    canonical_number,
    normalize,
    numbers_equal,
    plain_number,
)


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"so \boxed{12}", "12"),
        (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\fbox{7}", "7"),
        (r"\boxed{3} and \boxed{4", "3"),
        (r"\boxed{3", None),
        (r"\boxed{2} and \boxed{3}", "2, 3"),
        (r"$x = \boxed{2}$ or $x = \boxed{3}$", "2, 3"),
        (r"\boxed{7}, \boxed{7}", "7"),
        (r"\boxed{2}. So \boxed{3}", "3"),
        ("nothing", None),
    ],
)
def test_last_boxed_balances_braces(text: str, inside: str | None) -> None:
    assert last_boxed(text) == inside


def test_last_boxed_finds_the_innermost_of_many_nested_boxes() -> None:
    assert last_boxed("\\boxed{" * 100_000 + "5" + "}" * 100_000) == "5"


def test_marker_takes_the_last_line_that_starts_with_it() -> None:
    assert after_marker("A: 1\nbecause A: 2\n  A: 3 \nend", "A:") == "3"
    assert after_marker("**Answer:** 5", "Answer:") == "5"
    assert after_marker("work\n#### 1,200", "####") == "1,200"
    assert after_marker("The A: 2", "A:") is None


def test_rules_apply_in_order() -> None:
    found = extract("A: 3\nso \\boxed{4}", ["boxed", "marker:A:"])
    assert found is not None and (found.text, found.rule) == ("4", "boxed")
    found = extract("A: 3", ["boxed", "marker:A:"])
    assert found is not None and (found.text, found.rule) == ("3", "marker:A:")
    assert extract("just text", ["boxed", "marker:A:"]) is None


@pytest.mark.parametrize("rules", [["box"], ["marker:"], [], "boxed", ["whole"]])
def test_unknown_rules_name_the_valid_ones(rules: list[str]) -> None:
    with pytest.raises(UnknownAnswerRule, match="boxed, marker:<literal>, last_expression"):
        check_rules(rules)


@pytest.mark.parametrize(
    "spelling", ["18", "18.0", "$18", "18.00", "\\$18", "$18$", " 18. ", "+18", "1.8e1", "18\u200b"]
)
def test_one_number_many_spellings(spelling: str) -> None:
    assert plain_number(normalize(spelling)) == 18


@pytest.mark.parametrize("spelling", ["1,000", "1 000", "1_000", "1{,}000", "1,\\!000", "1e3", "$1,000.00"])
def test_grouped_digits(spelling: str) -> None:
    assert plain_number(normalize(spelling)) == 1000


@pytest.mark.parametrize("text", ["1,2", "0,123", "1_2", "x", "", "1e999", "9" * 61, "٣", "--3", "3-4", "1.2.3", "5%"])
def test_not_a_plain_number(text: str) -> None:
    assert plain_number(normalize(text)) is None


def test_rounded_decimals_are_equal_but_whole_numbers_are_exact() -> None:
    assert numbers_equal(Fraction(1, 3), Fraction("0.333333"))
    assert not numbers_equal(Fraction(1, 3), Fraction("0.33"))
    assert not numbers_equal(Fraction("1e-7"), Fraction("2e-7"))
    assert not numbers_equal(Fraction(10**9), Fraction(10**9 + 1))


def test_canonical_numbers() -> None:
    assert [canonical_number(Fraction(n)) for n in ("18", "1/2", "-0.250", "1/3")] == [
        "18",
        "0.5",
        "-0.25",
        "1/3",
    ]


@pytest.mark.parametrize(
    ("reference", "answer", "decision", "path"),
    [
        ("18", "17", "wrong_answer", "number"),
        (r"\frac12", r"\dfrac12", "accepted", "equal"),
        ("30", r"30^\circ", "accepted", "number"),
        ("5", "The answer is not 5", "wrong_answer", "guard:negated"),
        ("5", r"x \neq 5", "wrong_answer", "guard:negated"),
        ("A", r"\text{(A)}", "accepted", "guard:option"),
        ("C", "(C) 12 apples", "accepted", "guard:option"),
        ("A", "(B)", "wrong_answer", "guard:option"),
        ("Tuesday", r"\text{tuesday}", "accepted", "guard:words"),
        ("ABC", "CBA", "wrong_answer", "guard:words"),
        ("east", "seat", "wrong_answer", "guard:words"),
        ("123_4", "123_5", "wrong_answer", "guard:base"),
        ("2516_8", "2516", "accepted", "guard:base"),
        ("4", "4t", "wrong_answer", "guard:variable"),
    ],
)
def test_quick_decisions(reference: str, answer: str, decision: str, path: str) -> None:
    verdict = quick_compare(reference, answer)
    assert verdict is not None and (verdict.decision, verdict.path) == (decision, path)


@pytest.mark.parametrize(
    ("reference", "answer"),
    [("xy", "yx"), (r"2\sqrt{3}", r"\sqrt{12}"), ("x<3", "3>x"), ("(1,2)", "1<x<2"), (r"\{a,b\}", "b, c")],
)
def test_what_needs_math_verify_is_left_to_it(reference: str, answer: str) -> None:
    assert quick_compare(reference, answer) is None
