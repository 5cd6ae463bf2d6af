r"""Where the final answer of a response stands, and its normal forms.

Extraction follows rules in order (`boxed`, `marker:<literal>`, `last_expression`, for references also
`whole`); the first that finds something wins. The normal forms decide most pairs without symbolic work: equal
text, plain numbers, words, options. Everything here is linear in the length of the text and safe on hostile
input: no symbolic engine, numbers of bounded size.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

MAX_ANSWER_CHARS = 4_000
RULE_NAMES = "boxed, marker:<literal>, last_expression"


class UnknownAnswerRule(ValueError):
    """An extraction rule that does not exist."""


@dataclass(frozen=True)
class Extracted:
    """The answer as written, and the rule that found it."""

    text: str
    rule: str


def check_rules(rules: Sequence[str], *, reference: bool = False) -> tuple[str, ...]:
    """The rules as a tuple. Raises `UnknownAnswerRule`, naming the valid ones; `whole` is for references
    only."""
    if isinstance(rules, str) or not rules:
        raise UnknownAnswerRule(f"answer_from wants a list of rules, got {rules!r}; rules: {RULE_NAMES}")
    for rule in rules:
        named = rule in ("boxed", "last_expression") or (reference and rule == "whole")
        if not named and not (rule.startswith("marker:") and rule.removeprefix("marker:").strip()):
            valid = RULE_NAMES + (", whole" if reference else "")
            raise UnknownAnswerRule(f"unknown answer rule {rule!r}; valid: {valid}")
    return tuple(rules)


def extract(text: str, rules: Sequence[str]) -> Extracted | None:
    """The answer by the first rule that finds one, None if none does.

    `last_expression` and `whole` give the whole text: finding the expression in it is the symbolic worker's
    part.
    """
    for rule in rules:
        if rule == "boxed":
            found = last_boxed(text)
        elif rule.startswith("marker:"):
            found = after_marker(text, rule.removeprefix("marker:"))
        else:
            found = text
        if found is not None and found.strip():
            return Extracted(found.strip(), rule)
    return None


def last_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{...}` (or `\fbox{...}`) whose braces balance; None if there is none.

    A box that is never closed (a truncated response) does not count. Of nested boxes the innermost last one
    counts.
    """
    last: tuple[int, int] | None = None
    open_boxes: list[list[int]] = []  # [brace depth, start of the content, 1 if another box stands inside]
    depth = 0
    for match in _BRACES.finditer(text):
        token = match.group()
        if token in ("\\{", "\\}", "\\\\"):
            continue
        if token == "}":
            if open_boxes and open_boxes[-1][0] == depth:
                _, start, nested = open_boxes.pop()
                last = last if nested else (start, match.start())
            depth = max(0, depth - 1)
            continue
        depth += 1
        if token != "{":
            if open_boxes:
                open_boxes[-1][2] = 1
            open_boxes.append([depth, match.end(), 0])
    return None if last is None else text[last[0] : last[1]]


_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\\\|\\[{}]|[{}]")


def after_marker(text: str, marker: str) -> str | None:
    """Text after the last line that starts with the literal marker, to the end of that line; None if no line
    does.

    Blanks and Markdown emphasis around marker and answer (`**Answer:** 5`) are ignored.
    """
    marker = marker.strip()
    for line in reversed(text.splitlines()):
        bare = line.strip().strip("*_").lstrip()
        if bare.startswith(marker):
            return bare.removeprefix(marker).strip().strip("*_").strip()
    return None


# -------------------------------------------------------------------------------------------- normal forms

_INVISIBLE = dict.fromkeys(
    [
        *range(0x20),
        *range(0x7F, 0xA0),
        *range(0x200B, 0x2010),
        *range(0x202A, 0x202F),
        *range(0x2060, 0x206A),
        0xFEFF,
    ]
)
_CHARACTERS = str.maketrans(
    {
        **_INVISIBLE,
        "\t": " ",
        "\n": " ",
        "−": "-",
        "–": "-",
        "’": "'",
        "°": None,
        "\u00a0": " ",
        "\u2009": " ",
        "\u202f": " ",
        "，": ",",
    }
)
_WRAPPERS = (("$$", "$$"), ("\\(", "\\)"), ("\\[", "\\]"), ("$", "$"))
_SPACING = re.compile(r"\\[!,;: ]|~|\\q?quad\b")
DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-z]))|\\degree(?![a-z])")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_NUMBER = re.compile(
    r"([+-]?)\s*(?:[$€£¥₹]\s*)?([+-]?)"
    r"([1-9]\d{0,2}(?:[, ]\d{3}){1,20}|[1-9]\d{0,2}(?:_\d{3}){1,20}|\d{1,60})?"
    r"(\.\d{0,60})?(?:[eE]([+-]?\d{1,2}))?\s*[$€£]?",
    re.ASCII,
)
_FRACTION = re.compile(r"([+-]?)\\frac\{([+-]?\d{1,60})\}\{(\d{1,60})\}|([+-]?\d{1,60})/(\d{1,60})", re.ASCII)
_WORDS = re.compile(r"[^\W\d_]+(?:[ '-]+[^\W\d_]+)*")
_OPTION = re.compile(r"\(?([A-J])\)?(?:[.):]\s.*|[.):])?")


def normalize(text: str) -> str:
    r"""One spelling for what is the same on paper: outer `$`, spacing commands, `\left`, `\dfrac`, `\text{}`,
    final full stop."""
    text = text.translate(_CHARACTERS).strip()
    text = text.rstrip(".").rstrip() if not text.endswith("..") else text
    for opening, closing in _WRAPPERS:
        inner = text[len(opening) : -len(closing)]
        if (
            len(text) > len(opening) + len(closing)
            and text.startswith(opening)
            and text.endswith(closing)
            and "$" not in inner
        ):
            text = inner.strip()
            break
    if "\\" in text or "{" in text:
        text = text.replace("{,}", ",").replace("\\!", "").replace("\\$", "$").replace("\\%", "%")
        text = DEGREES.sub("", _SPACING.sub(" ", text))
        text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\cfrac", "\\frac")
        text = text.replace("\\left", "").replace("\\right", "") if "arrow" not in text else text
        text = _TEXT.sub(r" \1 ", text).strip()
        if text[:1] == "{" and _one_group(text):
            text = text[1:-1]
    return " ".join(text.split()).rstrip(".")


def _one_group(text: str) -> bool:
    """Whether the braces around the text are one pair that means nothing (`{5}`; but `{1,2}` is a set)."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0 or (depth == 1 and character == ","):
            return depth == 0 and position == len(text) - 1
    return False


def plain_number(normal: str) -> Fraction | None:
    """The value of a normalised text that is nothing but a number (`$1,000.50`, `-3`, `1e3`, `1_000`), else
    None.

    At most 60 digits and two digits of exponent, so that the value stays small whatever a model wrote.
    """
    match = _NUMBER.fullmatch(normal)
    if match is None:
        return None
    sign, inner_sign, integer, decimals, exponent = match.groups()
    if (not integer and not (decimals and len(decimals) > 1)) or (sign and inner_sign):
        return None
    digits = (integer or "0").replace(",", "").replace(" ", "").replace("_", "")
    value = Fraction(digits + (decimals if decimals and len(decimals) > 1 else ""))
    if exponent:
        value *= Fraction(10) ** int(exponent)
    return -value if "-" in (sign, inner_sign) else value


def plain_rational(normal: str) -> Fraction | None:
    r"""Like `plain_number`, and also `\frac{a}{b}` and `a/b` of integers."""
    value = plain_number(normal)
    if value is not None:
        return value
    match = _FRACTION.fullmatch(normal.replace(" ", ""))
    if match is None:
        return None
    numerator, denominator = (match[2], match[3]) if match[2] else (match[4], match[5])
    if int(denominator) == 0:
        return None
    value = Fraction(int(numerator), int(denominator))
    return -value if match[1] == "-" else value


def canonical_number(value: Fraction) -> str:
    """One spelling a value: `18`, `0.5` where the decimals end within 12 places, else `1/3`."""
    if value.denominator == 1:
        return str(value.numerator)
    scaled = value * 10**12
    if scaled.denominator != 1:
        return f"{value.numerator}/{value.denominator}"
    whole, rest = divmod(abs(scaled.numerator), 10**12)
    return f"{'-' if value < 0 else ''}{whole}.{rest:012d}".rstrip("0")


def numbers_equal(reference: Fraction, answer: Fraction) -> bool:
    """Equal, or, if one of them is not whole, equal to six decimals and to one part in a million (0.333333
    for 1/3)."""
    if reference == answer:
        return True
    if reference.denominator == 1 and answer.denominator == 1:
        return False
    difference = abs(reference - answer)
    return difference < Fraction(1, 2_000_000) and difference <= max(abs(reference), abs(answer)) / 1_000_000


def words(normal: str) -> str | None:
    """The text in lower case if it reads as words rather than as a product of variables, else None.

    Words are letters only, and long (4 letters), capitalised, or several: `Tuesday`, `ABC`, `even`, but not
    `xy`.
    """
    if len(normal) < 2 or _WORDS.fullmatch(normal) is None:
        return None
    longest = max(len(word) for word in re.split(r"[ '-]+", normal))
    if longest >= 4 or (longest >= 2 and (normal != normal.lower() or " " in normal)):
        return " ".join(normal.casefold().split())
    return None


def option(normal: str, *, reference: bool = False) -> str | None:
    """The letter of a multiple-choice answer: `C`, `(C)`, `C.`, `(C) 12`; None if it is none.

    A reference must be the bare letter, in capitals; an answer may be in lower case and may carry the
    option's text.
    """
    if reference:
        bare = normal.strip("().: ")
        return bare if len(bare) == 1 and "A" <= bare <= "J" else None
    match = _OPTION.fullmatch(normal[:1].upper() + normal[1:2].upper() + normal[2:])
    return match[1] if match else None


Decision = Literal["accepted", "wrong_answer"]


@dataclass(frozen=True)
class QuickVerdict:
    """A pair that needed no symbolic work: the decision, what decided (`equal`, `number`, `guard:<name>`),
    canonical answer."""

    decision: Decision
    path: str
    answer: str


_NEGATED = re.compile(r"\b(?:not|never|cannot)\b|n't\b", re.IGNORECASE)
_UNEQUAL = re.compile(r"\\neq?(?![a-z])|≠|\\not\b|!=")
_NEGATED_END = re.compile(
    r"(?:\b(?:not|never)\b|n't\b|\\neq?(?![a-z])|≠)(?![^.;,]{0,40}\b(?:but|rather|instead)\b)[^.;,]{0,40}$",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"[+-]?[\d.,]+\s?([a-zA-Z])", re.ASCII)
_UNIT_LETTERS = frozenset("mgslhLNJWVACFK")
_BASE = re.compile(r"([0-9A-Fa-f]{1,60})_\{?(\d{1,2})\}?", re.ASCII)


def quick_compare(reference: str, answer: str, *, whole_text: bool = False) -> QuickVerdict | None:
    """Decide a pair by its normal forms, None if it needs Math-Verify.

    `whole_text` says that `answer` is a whole response in which the final answer still has to be found.
    """
    if whole_text:
        return _quick_compare_text(normalize(reference), answer)
    left, right = normalize(reference), normalize(answer)
    left_number, right_number = plain_number(left), plain_number(right)
    if left_number is not None and right_number is not None:
        same = numbers_equal(left_number, right_number)
        return _quick(same, "number", canonical_number(left_number if same else right_number))
    if left == right or left.replace(" ", "") == right.replace(" ", ""):
        return _quick(True, "equal", canonical_text(left))
    negated = _NEGATED.search(right) or (_UNEQUAL.search(right) and plain_rational(left) is not None)
    if negated and not _NEGATED.search(left):
        return _quick(False, "guard:negated", canonical_text(right))
    left_option = option(left, reference=True)
    if left_option is not None and (right_option := option(right)) is not None:
        return _quick(left_option == right_option, "guard:option", right_option)
    left_words, right_words = words(left), words(right)
    if left_words is not None and (right_words is not None or right_number is not None):
        return _quick(
            left_words == right_words,
            "guard:words",
            canonical_text(left if left_words == right_words else right),
        )
    if left_number is not None and (product := _VARIABLE.fullmatch(right)) and product[1] not in _UNIT_LETTERS:
        return _quick(False, "guard:variable", canonical_text(right))  # Math-Verify takes the t of `4t` for tonnes
    left_base, right_base = _BASE.fullmatch(left), _BASE.fullmatch(right)
    if left_base and right_base:
        return _quick(left_base.groups() == right_base.groups(), "guard:base", canonical_text(right))
    if (left_base and right_number is not None) or (right_base and left_number is not None):
        # the question names the base, so one side may leave it out
        digits = [base[1] if base else side for base, side in ((left_base, left), (right_base, right))]
        return _quick(digits[0] == digits[1], "guard:base", canonical_text(left if digits[0] == digits[1] else right))
    return None


def _quick_compare_text(reference: str, text: str) -> QuickVerdict | None:
    tail = normalize(text[-MAX_ANSWER_CHARS:])
    if _NEGATED_END.search(tail) and not _NEGATED.search(reference):
        return _quick(False, "guard:negated", canonical_text(tail[-60:]))
    if (wanted := option(reference, reference=True)) is not None:
        found = re.search(r"(?:^|[\s(*])([A-J])\)?\W*$", tail)
        return _quick(found[1] == wanted, "guard:option", found[1]) if found else None
    if (spelled := words(reference)) is not None:
        ending = re.sub(r"[\W_]+$", "", tail).casefold()
        same = ending == spelled or (ending.endswith(spelled) and not ending[-len(spelled) - 1].isalnum())
        return _quick(same, "guard:words", canonical_text(reference if same else tail[-60:]))
    return None


def _quick(same: bool, path: str, answer: str) -> QuickVerdict:
    return QuickVerdict("accepted" if same else "wrong_answer", path, answer)


def canonical_text(normal: str) -> str:
    """Canonical form of a normalised answer that was not parsed: number, option, words, else the text without
    blanks."""
    value = plain_rational(normal)
    if value is not None:
        return canonical_number(value)
    if (letter := option(normal, reference=True)) is not None:
        return letter
    spelled = words(normal)
    return (spelled if spelled is not None else normal.replace(" ", ""))[:300]
