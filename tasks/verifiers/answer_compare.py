r"""Decides a pair of reference and answer by rules, without symbolic work, wherever they can tell.

`quick_compare` gives the decision and the rule (`path`), or None: then the pair needs Math-Verify. The worker calls
`compare_parts` again with a leaf that can ask Math-Verify, so that lists, tuples and matrices are always compared part
by part.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from tasks.verifiers.answer_forms import (
    canonical_number,
    canonical_text,
    normalize,
    option,
    plain_number,
    plain_rational,
    same_value,
    words,
)
from tasks.verifiers.answer_quantities import (
    clock_time,
    compare_quantities,
    quantity,
    ratio,
    ratios_equal,
    times_equal,
)
from tasks.verifiers.answer_shapes import Shape, compare_shapes, shape, ungrouped

TAIL_CHARS, NEGATION_CHARS = 4_000, 200  # of a whole response
Decision = Literal["accepted", "wrong_answer"]


@dataclass(frozen=True)
class QuickVerdict:
    """A pair that needed no symbolic work: the decision, what decided (`equal`, `number`, `rule:<name>`,
    `guard:<name>`), canonical answer."""

    decision: Decision
    path: str
    answer: str


_NEGATED = re.compile(r"\b(?:not|never|cannot)\b|n't\b", re.IGNORECASE)
_CONTRAST = re.compile(r"[,;(]\s*(?:and\s+)?not\b[^,;]*$", re.IGNORECASE)
_UNEQUAL = re.compile(r"\\ne(?![a-z])|≠|\\not(?![a-z])|\\neg(?![a-z])|!=")
_NEGATED_END = re.compile(
    r"(?:\b(?:not|never)\b|n't\b|\\neq?(?![a-z])|≠)\s*(?:(?:be|equal|to|exactly|a|an|the)\s+){0,3}"
    r"(?P<denied>[\w$\\(+-]+)[)$}]*\W*$",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"[+-]?[\d.,]+\s?([a-zA-Z])", re.ASCII)
_UNIT_LETTERS = frozenset("mgslhLNJWVACFK")
_LETTERS = re.compile(r"[A-J]{2,6}")
_BASE = re.compile(r"([0-9A-Fa-f]{1,60})\s?_\s?\{?\s*(?:base\s*)?(\d{1,2})\s*\}?", re.ASCII)
_ASSIGNED = re.compile(r"([a-zA-Z])\s?=\s?([^=<>]+)")
_SCALAR_COMMAND = re.compile(r"\\(?:frac|sqrt|pi|theta|cdot|times|sin|cos|tan|cot|sec|csc|log|ln)(?![a-zA-Z])")
_SCALAR = re.compile(r"[\w\s.+*/^{}()°-]+", re.ASCII)
_NAME = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}|[A-Z]|^[a-z]$")  # `AB`, `even`; a letter may stand for a set
_EMPTY = frozenset(
    ["\\emptyset", "\\{\\}", "{}", "no solution", "no solutions", "no real solution", "no real solutions", "empty set"]
)


@lru_cache(maxsize=8192)
def normal_form(text: str) -> str:
    """`normalize`, kept: the reference of a question meets many answers."""
    return normalize(text)


def quick_compare(reference: str, answer: str, *, question: str = "") -> QuickVerdict | None:
    """Decide a pair by its normal forms, None if it needs Math-Verify. `question` is asked for the options of a
    multiple choice."""
    left, right = normal_form(reference), normalize(answer)
    return compare_normal(left, right) or _by_options(left, right, question)


def compare_normal(left: str, right: str) -> QuickVerdict | None:
    """The same for texts that are normalised already."""
    left_number, right_number = plain_number(left), plain_number(right)
    if left_number is not None and right_number is not None:
        same = same_value(left, left_number, right, right_number)
        return _quick(same, "number", canonical_number(left_number if same else right_number))
    if left == right or left.replace(" ", "") == right.replace(" ", ""):
        return _quick(True, "equal", canonical_text(left))
    for rule in (
        _negated,
        _option,
        _options,
        _words,
        _empty,
        _base,
        _rational,
        _quantity,
        _time_or_ratio,
        _variable,
        _assigned,
    ):
        verdict = rule(left, right)
        if verdict is not None:
            return verdict
    same_parts = compare_parts(left, right, _quick_leaf)
    if same_parts is None:
        return None
    return _quick(same_parts, "rule:parts", canonical_text(left if same_parts else right))


def compare_parts(left: str, right: str, leaf: Callable[[str, str], bool | None]) -> bool | None:
    """Compare lists, sets, tuples and matrices part by part; None where one side is none of them or a part stays
    open."""
    left_shape, right_shape = shape(left), shape(right)
    if left_shape is None and right_shape is None:
        return None
    if left_shape is None or right_shape is None:
        left_shape, right_shape = left_shape or ungrouped(left), right_shape or ungrouped(right)
    if left_shape is None or right_shape is None:
        return _against_scalar(left, left_shape, right, right_shape, leaf)
    return compare_shapes(left_shape, right_shape, leaf)


def _against_scalar(
    left: str, left_shape: Shape | None, right: str, right_shape: Shape | None, leaf: Callable[[str, str], bool | None]
) -> bool | None:
    """A list or set of one part is that part; otherwise several parts are no number and no plain expression. What may
    be a set in other words (`x < 3`, a union, words) is for Math-Verify."""
    parts = left_shape or right_shape
    scalar = right if left_shape is not None else left
    if parts is None or not _is_scalar(scalar):
        return None
    if parts.kind in ("list", "set") and len(parts.parts) == 1:
        return leaf(parts.parts[0], right) if left_shape is not None else leaf(left, parts.parts[0])
    return False


def _is_scalar(normal: str) -> bool:
    """A number, or an expression of numbers, variables, fractions, roots and functions only."""
    if plain_rational(normal) is not None:
        return True
    return _SCALAR.fullmatch(_SCALAR_COMMAND.sub("", normal)) is not None and _NAME.search(normal) is None


def _quick_leaf(left: str, right: str) -> bool | None:
    verdict = compare_normal(left, right)
    return None if verdict is None else verdict.decision == "accepted"


def _quick(same: bool, path: str, answer: str) -> QuickVerdict:
    return QuickVerdict("accepted" if same else "wrong_answer", path, answer[:300])


# --------------------------------------------------------------------------------------------------- rules


def _negated(left: str, right: str) -> QuickVerdict | None:
    if _NEGATED.search(left):
        return None
    if (contrast := _CONTRAST.search(right)) is not None:  # `5, not 6`
        return compare_normal(left, right[: contrast.start()].strip())
    if _NEGATED.search(right) or (_UNEQUAL.search(right) and not _UNEQUAL.search(left)):
        return _quick(False, "guard:negated", canonical_text(right))
    return None


def _option(left: str, right: str) -> QuickVerdict | None:
    wanted = option(left, reference=True)
    if wanted is None:
        return None
    given = option(right)
    if given is None:
        return None
    return _quick(wanted == given, "guard:option", given)


def _options(left: str, right: str) -> QuickVerdict | None:
    """Several letters, written together on one side: `ACF` and `A, C, F`. Together on both sides they are a word."""
    left_letters, right_letters = _LETTERS.fullmatch(left), _LETTERS.fullmatch(right)
    if (left_letters is None) == (right_letters is None):
        return None
    listed = shape(right if left_letters else left)
    if listed is None or listed.kind not in ("list", "set"):
        return None
    letters = [option(part) for part in listed.parts]
    same = None not in letters and sorted(letter or "" for letter in letters) == sorted(left if left_letters else right)
    return _quick(same, "guard:option", canonical_text(left if same else right))


def _words(left: str, right: str) -> QuickVerdict | None:
    left_words = words(left)
    if left_words is None or plain_rational(left) is not None:
        return None
    right_words = words(right)
    if right_words is None and plain_number(right) is None:
        return None
    same = left_words == right_words
    return _quick(same, "guard:words", canonical_text(left if same else right))


def _empty(left: str, right: str) -> QuickVerdict | None:
    left_empty, right_empty = (side.replace("\\{ \\}", "\\{\\}").lower() in _EMPTY for side in (left, right))
    if left_empty and right_empty:
        return _quick(True, "rule:empty", "\\emptyset")
    return None


def _base(left: str, right: str) -> QuickVerdict | None:
    left_base, right_base = _BASE.fullmatch(left), _BASE.fullmatch(right)
    if left_base and right_base:
        same = left_base[2] == right_base[2] and left_base[1].lower() == right_base[1].lower()
        return _quick(same, "guard:base", canonical_text(left if same else right))
    if (left_base and plain_number(right) is not None) or (right_base and plain_number(left) is not None):
        # the question names the base, so one side may leave it out
        digits = [base[1] if base else side for base, side in ((left_base, left), (right_base, right))]
        same = digits[0].lower() == digits[1].lower()
        return _quick(same, "guard:base", canonical_text(left if same else right))
    return None


def _rational(left: str, right: str) -> QuickVerdict | None:
    left_value = plain_rational(left)
    right_value = None if left_value is None else plain_rational(right)
    if left_value is None or right_value is None:
        return None
    same = same_value(left, left_value, right, right_value)
    return _quick(same, "rule:rational", canonical_number(left_value if same else right_value))


def _quantity(left: str, right: str) -> QuickVerdict | None:
    left_quantity, right_quantity = quantity(left), quantity(right)
    if left_quantity is None or right_quantity is None:
        return None
    same = compare_quantities(left_quantity, right_quantity)
    if same is None:
        return None
    chosen = left_quantity if same else right_quantity
    spelled = canonical_number(chosen.value) + ("%" if chosen.percent else "")
    return _quick(same, "rule:quantity", spelled)


def _time_or_ratio(left: str, right: str) -> QuickVerdict | None:
    left_time, right_time = clock_time(left), clock_time(right)
    if left_time is not None and right_time is not None:
        same = times_equal(left_time, right_time)
        return _quick(same, "rule:time", canonical_text(left if same else right))
    left_ratio, right_ratio = ratio(left), ratio(right)
    if left_ratio is not None and right_ratio is not None:
        same = ratios_equal(left_ratio, right_ratio)
        return _quick(same, "rule:ratio", canonical_text(left if same else right))
    terms, other = (
        (left_ratio, plain_rational(right)) if left_ratio is not None else (right_ratio, plain_rational(left))
    )
    if terms is not None and other is not None:
        same = len(terms) == 2 and terms[1] != 0 and terms[0] / terms[1] == other
        return _quick(same, "rule:ratio", canonical_text(left if same else right))
    return None


def _variable(left: str, right: str) -> QuickVerdict | None:
    """Math-Verify takes the t of `4t` for tonnes."""
    product = _VARIABLE.fullmatch(right)
    if plain_number(left) is not None and product is not None and product[1] not in _UNIT_LETTERS:
        return _quick(False, "guard:variable", canonical_text(right))
    return None


def _assigned(left: str, right: str) -> QuickVerdict | None:
    """`x = 5` and 5 (either way round); two different variables are two different answers."""
    left_side, right_side = _ASSIGNED.fullmatch(left), _ASSIGNED.fullmatch(right)
    if left_side is None and right_side is None:
        return None
    bare = [side[2].strip() if side else text for side, text in ((left_side, left), (right_side, right))]
    if any("=" in text or plain_rational(text) is None for text in bare):
        return None
    if left_side and right_side and left_side[1] != right_side[1]:
        return _quick(False, "guard:assigned", canonical_text(right))
    return compare_normal(*bare)


# ----------------------------------------------------------------------------------------- multiple choice

_CHOICE = re.compile(r"(?:\\(?:text|textbf|mathrm|bf)\s*\{\s*)?\(?\b([A-J])\s*[).:]\s*\}?|\(([A-J])\)")


def options_of(question: str) -> dict[str, str]:
    """The options that a question lists (`(A) 12 (B) 15 …`, `A. 12`), letter to text; empty if it lists none.

    Counts only if the letters run from A without a gap.
    """
    text = question[-TAIL_CHARS:]
    marks = list(_CHOICE.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    found = {
        mark[1] or mark[2]: text[mark.end() : end].strip("$,;~ \n").rstrip("\\")
        for mark, end in zip(marks, ends, strict=False)
    }
    letters = "".join(found)
    return found if len(found) >= 2 and "ABCDEFGHIJ".startswith(letters) else {}


def _by_options(left: str, right: str, question: str) -> QuickVerdict | None:
    """A letter on one side and an option's text on the other."""
    left_letter, right_letter = option(left, reference=True), option(right)
    if not question or (left_letter is None) == (right_letter is None):
        return _letter_alone(left_letter, right)
    options = options_of(question)
    letter, text = (left_letter, right) if left_letter is not None else (right_letter, left)
    if letter is None or letter not in options:
        return _letter_alone(left_letter, right)
    verdict = compare_normal(normalize(options[letter]), text)
    if verdict is None:
        return None
    return _quick(verdict.decision == "accepted", "rule:options", canonical_text(right))


def _letter_alone(left_letter: str | None, right: str) -> QuickVerdict | None:
    """Without the question's options a value is no letter."""
    if left_letter is not None and plain_rational(right) is not None:
        return _quick(False, "guard:option", canonical_text(right))
    return None


# ------------------------------------------------------------------------------------------- whole responses


def compare_ending(reference: str, text: str) -> QuickVerdict | None:
    """Decide a whole response whose reference is a letter or words by how the response ends; None for other
    references."""
    reference, tail = normal_form(reference), normalize(text[-TAIL_CHARS:])
    denied = _NEGATED_END.search(tail[-NEGATION_CHARS:])
    if denied and not _NEGATED.search(reference) and (words(reference) or not denied["denied"].isalpha()):
        return _quick(False, "guard:negated", canonical_text(tail[-60:]))
    if (wanted := option(reference, reference=True)) is not None:
        found = re.search(r"(?:^|[\s(*])([A-J])\)?\W*$", tail)
        return _quick(found[1] == wanted, "guard:option", found[1]) if found else None
    spelled = words(reference)
    if spelled is not None and plain_rational(reference) is None:
        ending = re.sub(r"[\W_]+$", "", tail).casefold()
        same = ending == spelled or (ending.endswith(spelled) and not ending[-len(spelled) - 1].isalnum())
        return _quick(same, "guard:words", canonical_text(reference if same else tail[-60:]))
    return None
