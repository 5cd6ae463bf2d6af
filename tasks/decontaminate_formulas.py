"""Formulas and reference answers of two texts, compared however they are written (LaTeX or plain).

Regular expressions, no computer algebra: 2(x + 1) and 2x + 2 are two formulas, 0.5 and 1/2 two answers.
"""

from __future__ import annotations

import re

import numpy as np

NO_FORMULAS = 0.6
"""How formulas count where there are few: neither agreement nor difference."""
ENOUGH_FORMULAS = 4
"""Short runs of digits, letters and signs from which a text holds formulas."""
OTHER_NUMBER = -2.0
"""Of two numbers: one template with another task, or a question that has nothing to do with the item."""
_FORMULA = re.compile(r"[a-z]+|\d+(?:\.\d+)?|[^\w\s]")
_UNREAD_SIGNS = "$ { } ( ) [ ] \\ left right frac dfrac tfrac , . ? : ; !"
_UNREAD = frozenset(_UNREAD_SIGNS.split())
_SYMBOLIC = re.compile(r"\\\\|\^|[a-z0-9] ?= ?[a-z0-9-]|\$-?[a-zA-Z(][^$\n]{0,80}\$|\$\d+ *[-+*/^=<>]")
LONGEST_FORMULAS = 4000


def has_formulas(text: str) -> bool:
    """LaTeX, powers, equations; `$20` is money."""
    return _SYMBOLIC.search(text[:LONGEST_FORMULAS]) is not None


def formulas(text: str) -> frozenset[str]:
    """Runs of two and three digits, letters and signs, brackets left out."""
    text = text[:LONGEST_FORMULAS]
    parts = [part for part in _FORMULA.findall(text.lower()) if part not in _UNREAD]
    parts = ["x" if len(part) == 1 and part.isalpha() else part for part in parts]  # variables may have any name
    symbols = [part[0].isdigit() or len(part) == 1 for part in parts]
    return frozenset(
        " ".join(parts[start : start + size])
        for size in (2, 3)
        for start in range(len(parts) - size + 1)
        if sum(symbols[start : start + size]) >= 2
    )


def same_formulas(one: frozenset[str], other: frozenset[str]) -> float:
    """Shared runs / geometric mean of both numbers of runs; drawn towards NO_FORMULAS where there are few."""
    fewer, more = sorted((len(one), len(other)))
    if not fewer:
        return NO_FORMULAS
    sure = min(1.0, more / ENOUGH_FORMULAS)
    return sure * len(one & other) / float(np.sqrt(fewer * more)) + (1 - sure) * NO_FORMULAS


_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
LONGEST_ANSWER = 200


def answer_key(text: str | None) -> str | None:
    """A reference answer in the form in which two are compared; None for none, or for a text that is no answer."""
    if text is None:
        return None
    if "####" in text:
        text = text.rpartition("####")[2]
    elif boxes := list(_BOX.finditer(text)):
        text = _balanced(text[boxes[-1].end() :])
    text = re.sub(
        r"\\(?:text|mathrm|left|right|dfrac|tfrac|!|,|;|\$|%)", lambda m: "\\frac" if "frac" in m[0] else "", text
    )
    text = re.sub(r"(?<=\d),(?=\d{3})", "", re.sub(r"[\s${}%]", "", text)).rstrip(".").casefold()
    if not text or len(text) > LONGEST_ANSWER:
        return None
    try:
        return f"{float(text):.15g}"
    except ValueError:
        return text


def unlike(one: str, other: str) -> float:
    """How much two different keys say: other words or signs may be another way to write one answer."""
    return OTHER_NUMBER if _is_number(one) and _is_number(other) else -1.0


def _is_number(key: str) -> bool:
    try:
        float(key)
    except ValueError:
        return False
    return True


def _balanced(text: str) -> str:
    depth = 1
    for place, sign in enumerate(text):
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return text[:place]
    return text
