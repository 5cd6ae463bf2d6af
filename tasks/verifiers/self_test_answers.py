r"""Right and wrong answers made from a reference: for the math rule, and for verifiers of free text.

A mutation is made only where it is wrong for certain: another digit (never of an exponent, an index or a factorial),
the other sign of a number that isn't zero, the other operand, another question's answer where both are plain numbers
or both plain words.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from tasks.verifiers.answer import extract
from tasks.verifiers.math import MathVerifier
from tasks.verifiers.settings import MathSettings

NEIGHBOURS = 20
"""references of other questions that are tried for one that differs for certain"""

_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?")
_KEPT_BEFORE = re.compile(r"(?:[\^_]\s*\{?\s*[-+]?|\\sqrt\s*\[)\s*$")
_NOTHING = re.compile(r"\\d?frac\s*\{?0|(?<![\d.])0+(?:\.0+)?\s*(?:\\cdot|\\times|\*|/|[a-zA-Z\\(])")
_PLAIN = re.compile(r"(-?)(?:(\d+(?:\.\d+)?)|(\d+)/(\d+)|\\[dt]?frac\{(\d+)\}\{(\d+)\})")
_SIGNED = re.compile(r"-?(?:\d|\\[dt]?frac|\\sqrt|\\pi)(?:\d|[.{}/\s]|\\[dt]?frac|\\sqrt|\\pi)*")
_OPERAND = re.compile(r"(?<=[\w})])\s*([+-])\s*(?=[\w\\({])")
_WORD = re.compile(r"(?:\\text\s*\{\s*)?\(?([A-Za-z]+)\)?\s*\}?\.?")


@dataclass(frozen=True)
class Answer:
    """An answer part that must pass (`right`) or must fail, and how it was made."""

    kind: str
    text: str
    right: bool


def math_answers(reference: str, others: Sequence[str], settings: MathSettings, draw: random.Random) -> list[Answer]:
    """Answers as the first rule of `answer_from` reads them; none if there is no reference. `others` are the
    references of other questions."""
    rules = MathVerifier(**settings.model_dump())
    found = extract(reference, rules.reference_from)
    if found is None:
        return []
    right = found.text
    read = [other.text for text in others[:NEIGHBOURS] if (other := extract(text, rules.reference_from))]
    wrong = {
        "another digit": change_digit(right, draw),
        "other sign": change_sign(right),
        "other operand": change_operand(right, draw),
        "another question's answer": next((other for other in read if surely_differ(right, other)), None),
    }
    rule = rules.answer_from[0]
    answers = [Answer("reference", written(right, rule), True)]
    answers += [Answer(kind, written(text, rule), False) for kind, text in wrong.items() if text is not None]
    return [*answers, Answer("no answer", "I could not find the answer.", False)]


def written(answer: str, rule: str) -> str:
    """A response that gives the answer where the extraction rule looks for it."""
    if rule == "boxed":
        return f"The answer is $\\boxed{{{answer}}}$."
    if rule.startswith("marker:"):
        return f"This is what comes out.\n{rule.removeprefix('marker:')} {answer}"
    return f"The answer is {answer}."


def text_answers(reference: str, others: Sequence[str], draw: random.Random) -> list[Answer]:
    """The reference itself; another question's; the reference with another first digit, if it begins with a number."""
    right = reference.strip()
    if not right:
        return []
    other = next((text.strip() for text in others[:NEIGHBOURS] if texts_differ(right, text.strip())), None)
    answers = [Answer("reference", right, True), Answer("no answer", "I could not find the answer.", False)]
    if other is not None:
        answers.append(Answer("another question's answer", other, False))
    first = _NUMBER.match(right.lstrip("-$"))
    if first and (digit := next((char for char in first.group() if char in "123456789"), None)):
        changed = draw.choice([other for other in "123456789" if other != digit])
        answers.append(Answer("another digit", right.replace(digit, changed, 1), False))
    return answers


def change_digit(text: str, draw: random.Random) -> str | None:
    """The text with one digit of one number changed; None where no change is wrong for certain."""
    if _NOTHING.search(text):
        return None
    numbers = [
        match
        for match in _NUMBER.finditer(text)
        if not _KEPT_BEFORE.search(text[: match.start()]) and not text[match.end() :].startswith("!")
    ]
    if not numbers:
        return None
    match = draw.choice(numbers)
    places = [place for place in range(match.start(), match.end()) if text[place].isdigit()]
    place = draw.choice(places)
    digit = draw.choice([one for one in "123456789" if one != text[place]])
    return text[:place] + digit + text[place + 1 :]


def change_sign(text: str) -> str | None:
    """The negative of a plain number, fraction or root that isn't zero."""
    if not _SIGNED.fullmatch(text) or not re.search(r"[1-9]|\\pi", text) or _NOTHING.search(text):
        return None
    return text.removeprefix("-") if text.startswith("-") else f"-{text}"


def change_operand(text: str, draw: random.Random) -> str | None:
    r"""The text with one + for a − between two terms, or the other way; None for prose and where a term is 0."""
    if re.search(r"\\pm|\\mp|\\text|[A-Za-z]{3,}\s*-\s*[A-Za-z]|(?<![\d.])0(?![\d.])", text):
        return None
    found = [match for match in _OPERAND.finditer(text) if not _KEPT_BEFORE.search(text[: match.start(1)])]
    if not found:
        return None
    place = draw.choice(found).start(1)
    return text[:place] + ("-" if text[place] == "+" else "+") + text[place + 1 :]


def surely_differ(one: str, other: str) -> bool:
    """Whether two answers are plain numbers of different value, or different plain words."""
    values = [_value(text) for text in (one, other)]
    if None not in values:
        return values[0] != values[1]
    words = [match[1].lower() if (match := _WORD.fullmatch(text.strip())) else None for text in (one, other)]
    return None not in words and words[0] != words[1]


def texts_differ(one: str, other: str) -> bool:
    """Whether two free-text references say different things: numbers differ by a quarter at least, words are others."""
    values = [_value(text) for text in (one, other)]
    if values[0] is not None and values[1] is not None:
        return abs(values[0] - values[1]) > max(abs(values[0]), abs(values[1])) / 4
    words = [set(re.findall(r"\w+", text.lower())) for text in (one, other)]
    return bool(other) and not words[0] <= words[1] and not words[1] <= words[0]


def _value(text: str) -> Fraction | None:
    match = _PLAIN.fullmatch(text.strip().replace("\\$", "").replace("$", "").replace(",", ""))
    if match is None:
        return None
    sign, number, *parts = match.groups()
    if number is not None:
        return Fraction(sign + number)
    above, below = (int(part) for part in parts if part is not None)
    return Fraction(above, below) * (-1 if sign else 1) if below else None
