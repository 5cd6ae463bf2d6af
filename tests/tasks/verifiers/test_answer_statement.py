"""Proves that of a response without a box the stated answer counts, and nothing that is still to be worked out.

Many of the responses are SmolLM2-135M's own, from the demo.
"""

from __future__ import annotations

import pytest

from tasks.verifiers.answer_statement import is_unevaluated, stated_answer


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("The answer is 18.", "18"),
        ("**Answer:** 18", "18"),
        ("work\n#### 1,200", "1,200"),
        ("The final answer is 7 - 2 = 3.", "3"),
        ("To solve this, we need to find the sum of 8 and 8, which is 16.", "16"),
        ("6 * 2 = 12", "12"),
        ("6 * 2 = 12. To check, we can divide 12 by 2.", "12"),
        ("So she has 18 apples left. That is a lot!", "18"),
        ("She makes 9 * 2 = $<<9*2=18>>18 every day at the market for $2 each.", "$18"),
        ("Therefore the area is $\\frac{1}{2}$ square units.", "\\frac{1}{2}"),
        ("We get\n\\begin{align*}\nx &= 3 + 4 \\\\\n&= 7.\n\\end{align*}", "7"),
        ("So $x = 2$ or $x = -1$.", "x = 2, x = -1"),
        ("Thus $m = 3$ and $n = 2$ and $m - n = 1$.", "1"),
        ("There are $4$ solutions for $n$.", "4"),
        ("The answer is **18**!", "18"),
        ("The answer is $\\$15,\\!000$.", "\\$15,\\!000"),
        ("so it is 5%", "5%"),
        ("10", "10"),
    ],
)
def test_the_stated_answer_is_found(text: str, stated: str) -> None:
    assert stated_answer(text) == stated


@pytest.mark.parametrize(
    "text",
    [
        "6 * 2, we need to multiply the numbers and",
        "To solve 6 * 2, we need",
        "In this scenario, 6 * 2 represents the number of days in a month.",
        "To find the final answer, we multiply the number by itself 6 times: 6 *",
        "you need to subtract the original number from the final answer. 6 * 2 =",
        "The answer is 6 * 2",
        "The answer is 6 \u00d7 2.",
        "we need to find the product of 6 and 2",
        "Solving this, so 2x = 12",
        "no idea",
        "",
    ],
)
def test_what_is_still_to_be_worked_out_is_no_answer(text: str) -> None:
    assert stated_answer(text, "State the final answer: 6 * 2 =") is None


def test_an_equation_is_kept_where_one_is_asked_for() -> None:
    text = "The line has the equation $y = 2x + 3$."
    assert stated_answer(text, equation=True) == "y = 2x + 3"
    assert stated_answer(text) == "2x + 3"


def test_only_a_copy_of_the_question_is_refused_after_a_cue() -> None:
    assert stated_answer("The answer is 2^10 * 3.", "What is 1024 * 3?") == "2^10 * 3"
    assert stated_answer("The answer is 1024 * 3.", "What is 1024 * 3?") is None


@pytest.mark.parametrize("text", ["6 * 2", "8 - 9", "2 + 3 * 4", "(1+2)*3", "2^10", r"6 \times 2", "3/4 + 1/4"])
def test_operations_are_unevaluated(text: str) -> None:
    assert is_unevaluated(text)


@pytest.mark.parametrize(
    "text", ["12", "-3", "1/2", "2 1/2", "3.5", "1,200", r"\frac{1}{2}", "1e-5", "x + 2", r"2\sqrt{3}"]
)
def test_values_as_people_write_them_are_not(text: str) -> None:
    assert not is_unevaluated(text)
