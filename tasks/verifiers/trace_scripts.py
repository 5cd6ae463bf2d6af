"""The share of a response's letters in scripts that the question does not use, by Unicode alone, without a model.

A letter's script is the first word of its Unicode name after NFKC, so that 𝐱, ℝ and full-width letters are Latin, and
Han, Hiragana and Katakana are one. Greek letters are signs of formulas and have no script. A script is the question's
own if it has at least a tenth of the question's letters; where Latin isn't, formulas and code in the response are left
out. What is not covered: languages that share a script, such as French in an answer to an English question.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from dataclasses import dataclass
from functools import cache

import numpy as np

OWN_SHARE = 0.1
LETTERS = ("Lu", "Ll", "Lt", "Lo")
SHOWN_CHARS = 40
_TOGETHER = {"HIRAGANA": "CJK", "KATAKANA": "CJK"}
_FORMULAS = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|\\[a-zA-Z]+", re.DOTALL)


@dataclass(frozen=True)
class Foreign:
    """`share` of the letters, 0..1; `scripts`: letters by foreign script; `text`: where the first one stands."""

    share: float
    scripts: dict[str, int]
    text: str


@cache
def _scripts() -> tuple[np.ndarray, tuple[str, ...]]:
    """For each code point the number of its script, and their names; 0 is no letter, or Greek."""
    numbers: dict[str, int] = {"": 0, "GREEK": 0}
    table = np.zeros(sys.maxunicode + 1, np.uint16)
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        if unicodedata.category(char) in LETTERS:
            name = unicodedata.name(unicodedata.normalize("NFKC", char)[0], "").split(" ")[0].split("-")[0]
            table[code] = numbers.setdefault(_TOGETHER.get(name, name), len(numbers) - 1)
    names = {number: name for name, number in numbers.items() if number}
    return table, ("", *(names[number] for number in sorted(names)))


def _numbers(text: str) -> np.ndarray:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return _scripts()[0][codes]


def find_foreign(question: str, think: str, answer: str) -> Foreign:
    """Foreign letters in thinking and answer; a question without letters has no script, and nothing is foreign."""
    names = _scripts()[1]
    own = _own_scripts(question)
    if not own or (names[1:] and "LATIN" in own and think.isascii() and answer.isascii()):
        return Foreign(0.0, {}, "")
    parts = [think, answer] if "LATIN" in own else [_FORMULAS.sub(" ", part) for part in (think, answer)]
    text = "\n".join(parts)
    numbers = _numbers(text)
    counts = np.bincount(numbers, minlength=len(names))
    counts[0] = 0
    letters = int(counts.sum())
    foreign = {names[n]: int(counts[n]) for n in np.flatnonzero(counts) if names[n] not in own}
    if not foreign:
        return Foreign(0.0, {}, "")
    is_foreign = np.isin(numbers, [names.index(name) for name in foreign])
    first = int(np.argmax(is_foreign))
    shown = text[max(0, first - SHOWN_CHARS) : first + SHOWN_CHARS]
    return Foreign(sum(foreign.values()) / letters, foreign, shown)


def _own_scripts(question: str) -> frozenset[str]:
    names = _scripts()[1]
    counts = np.bincount(_numbers(question), minlength=len(names))
    counts[0] = 0
    least = OWN_SHARE * counts.sum()
    return frozenset(names[number] for number in np.flatnonzero(counts) if counts[number] >= least)
