r"""Proves that malformed answers and references always get a verdict with a status, and that a bomb costs no more than
the limits of its own pair.

Each text stands as answer, as reference, as whole response, and against itself. What is not covered: how long a verdict
takes within the limits (tests/bench/math measures).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.verifiers.math import MathVerifier
from tasks.verifiers.verdict import STATUSES, Item

MALFORMED = {
    "empty": "",
    "blank": " \n\t ",
    "a megabyte of letters": "a" * 1_000_000,
    "a megabyte of digits": "9" * 1_000_000,
    "a megabyte of braces": "{" * 1_000_000,
    "a megabyte of dollars": "$" * 1_000_000,
    "a megabyte of boxes": "\\boxed{" * 140_000,
    "a megabyte of closed boxes": "\\boxed{1}, " * 90_000,
    "3,000 digits": "5" * 3_000,
    "3,999 nines after the point": "0." + "9" * 3_990,
    "braces the wrong way round": "}{",
    "open fraction": "\\frac{",
    "fraction without arguments": "\\frac",
    "fraction with one argument": "\\frac{1}",
    "open box": "\\boxed{5",
    "open box in a box": "\\boxed{\\boxed{5}",
    "empty box": "\\boxed{}",
    "nested boxes": "\\boxed{" * 50 + "5" + "}" * 50,
    "a box of dollars": "\\boxed{$$$}",
    "open parenthesis": "(1,2",
    "closed only": "1,2)",
    "mixed brackets": "([1,2)]}",
    "only commas": ",,,,",
    "only separators": "and or, ; and",
    "control characters": "\x00\x01\x02\x1b[31m5\x1b[0m\x7f",
    "null in a number": "1\x000",
    "right-to-left marks": "\u202e5\u202c\u200f",
    "zero-width blanks": "5\u200b\u200c\u200d\ufeff0",
    "combining marks": "5" + "\u0301" * 500,
    "lone surrogate": "5\ud800",
    "emoji": "🙂🙃",
    "emoji digits": "5\ufe0f\u20e3",
    "full-width digits": "５０",
    "Arabic digits": "٥",
    "circled digits": "⑤",
    "Roman numeral sign": "Ⅴ",
    "ligature that grows": "\ufdfa" * 300,
    "math alphanumerics": "𝟓𝓍",
    "one backslash": "\\",
    "backslashes": "\\" * 3_000,
    "unknown command": "\\foobarbaz{5}",
    "open environment": "\\begin{pmatrix}1&2",
    "wrong environment": "\\begin{pmatrix}1\\end{bmatrix}",
    "ragged matrix": "\\begin{pmatrix}1&2\\\\3\\end{pmatrix}",
    "empty matrix": "\\begin{pmatrix}\\end{pmatrix}",
    "big matrix": "\\begin{pmatrix}" + "1&" * 900 + "1\\end{pmatrix}",
    "dangling power": "x^",
    "dangling root": "\\sqrt",
    "dangling operator": "5 +",
    "dangling equals": "x =",
    "only equals": "=====",
    "one divided by zero": "1/0",
    "fraction over zero": "\\frac{5}{0}",
    "zero over zero": "\\frac{0}{0}",
    "infinity minus infinity": "\\infty-\\infty",
    "nan": "nan",
    "None": "None",
    "Python": "__import__('os').system('true')",
    "format string": "{0.__class__}%s%n",
    "HTML": "<script>alert(5)</script>",
    "list of 300 numbers": ",".join("12" for _ in range(300)),
    "list of plus or minus": ", ".join("\\pm 3" for _ in range(300)),
    "deep parentheses": "(" * 1_500 + "5" + ")" * 1_500,
    "deep tuples": "(1," * 20 + "1" + ")" * 20,
    "deep sets": "\\{" * 20 + "\\}" * 20,
    "deep fractions": "\\frac{1}{" * 12 + "2" + "}" * 12,
    "deep roots": "\\sqrt{" * 12 + "2" + "}" * 12,
    "deep powers": "2^{" * 12 + "2" + "}" * 12,
    "many signs": "-" * 300 + "5",
    "many degrees": "5" + "^\\circ" * 500,
    "many cues": "the answer is: " * 250,
    "many negations": "not$" * 900,
    "many open displays": "\\[" * 1_500 + "\\(" * 400,
    "many aligned rows": "\\begin{align}" + "&=1\\\\" * 500,
}  # fmt: skip

BOMBS = {
    "power": "2^{100000000000}",
    "tower": "9^{9^{9^{9}}}",
    "factorials": "9!!!!!!!",
    "nested factorials": "((((9!)!)!)!)!",
    "big factorial": "100000000!",
    "big binomial": "\\binom{10000000}{5000000}",
    "sum to infinity": "\\sum_{n=1}^{\\infty} \\frac{1}{n^{n}}",
    "divergent sum": "\\sum_{n=1}^{\\infty} n^{n}",
    "long sum": "\\sum_{n=1}^{10000000} \\frac{1}{n!}",
    "long product": "\\prod_{n=1}^{1000000} n",
    "integral": "\\int_0^{\\infty} \\frac{\\sin(x^x)}{x^x+e^{x^2}} dx",
    "expansion": "(a+b+c+d+e+f+g+h)^{60}",
    "limit": "\\lim_{x \\to 0} \\frac{\\sin(\\tan x) - \\tan(\\sin x)}{x^{x^{x}}}",
    "memory": "\\sum_{k=1}^{3} 2^{9000000000}",
    "scientific": "1e99999999",
    "decimal of a power": "0.1^{1000000000}",
    "modulo": "7^{1000000000000} \\bmod 13",
}


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    with MathVerifier(answer_from=["boxed", "last_expression"], timeout_s=0.5, workers=2) as verifier:
        yield verifier


def boxed(reference: str, answer: str) -> Item:
    return Item("q", "math", "How many?", reference, f"\\boxed{{{answer}}}")


def statuses(verifier: MathVerifier, items: list[Item]) -> list[str]:
    return [judgement.status for judgement in verifier.judge(items)]


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_malformed_text_gets_a_verdict_wherever_it_stands(verifier: MathVerifier, text: str) -> None:
    items = [
        boxed("5", text),
        boxed(text, "5"),
        boxed(text, text),
        Item("q", "math", text[:10_000], "5", text),
        Item("q", "math", "How many?", "5", f"{text} So the answer is {text}"),
        Item("q", "math", "How many?", text, f"So {text} is 5."),
    ]
    found = statuses(verifier, [*items, boxed("3", r"\sqrt{9}")])
    assert len(found) == len(items) + 1
    assert set(found) <= set(STATUSES) - {"infra_error"}
    assert found[-1] == "accepted"  # the pair behind it is untouched


def test_what_is_plainly_no_five_is_not_accepted(verifier: MathVerifier) -> None:
    alike = {"emoji digits", "full-width digits", "Arabic digits", "circled digits", "Roman numeral sign",
             "lone surrogate", "zero-width blanks", "combining marks", "nested boxes", "many degrees", "open box",
             "open box in a box", "right-to-left marks", "deep parentheses", "3,000 digits"}  # fmt: skip
    names = [name for name in MALFORMED if name not in alike]
    found = statuses(verifier, [boxed("5", MALFORMED[name]) for name in names])
    assert [name for name, status in zip(names, found, strict=True) if status == "accepted"] == []


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_ends_within_its_pairs_limits(verifier: MathVerifier, bomb: str) -> None:
    items = [boxed("5", bomb), boxed(bomb, "5"), boxed("3", r"\sqrt{9}")]
    judgements = verifier.judge(items)
    assert judgements[-1].status == "accepted"
    for judgement in judgements[:2]:
        assert judgement.status in ("wrong_answer", "time_limit", "memory_limit") and judgement.passed is False


@pytest.mark.parametrize("name", ["power", "tower", "big factorial", "big binomial"])
def test_a_bomb_that_hits_a_limit_is_no_wrong_answer(verifier: MathVerifier, name: str) -> None:
    assert statuses(verifier, [boxed("5", BOMBS[name])])[0] in ("time_limit", "memory_limit")
