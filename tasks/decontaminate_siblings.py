"""Siblings: two questions made from one template, which share nearly all words and yet ask for something else.

Sets such as MATH and MBPP hold them by the dozen (find A, find A - B; an even length, an odd length), and signals that
add up shared words can't tell them from copies. Two things can: an opposite (odd for even, repeated for non-repeated),
and a letter, number, sign or side of an opposite that both texts hold, but one more often. A copy with other names
replaces each name everywhere. Not covered: siblings that differ in a word that only one holds (a square's area, a
circle's area); those are left to the score.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations

from tasks.decontaminate_text import MARKUP, NUMBERS, TENS, UNITS, stem

_SIDES: tuple[tuple[str, str], ...] = (
    *combinations(["third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"], 2),
    ("even", "odd"),
    ("left", "right"),
    ("first", "last"),
    ("positive", "negative"),
    ("horizontal", "vertical"),
    ("row", "column"),
    ("upper uppercase", "lower lowercase"),
    ("increasing ascending", "decreasing descending"),
    ("largest greatest maximum max highest longest biggest most", "smallest least minimum min lowest shortest fewest"),
    ("equal", "unequal"),
    ("sum", "product"),
    ("sum", "difference"),
    ("perimeter circumference", "area"),
    ("repeated duplicate", "non unique"),
    ("replacement", "without"),
    ("sin sine", "cos cosine"),
    ("sin sine cos cosine", "tan tangent"),
)
OPPOSITES = tuple(tuple(frozenset(stem(word) for word in side.split()) for side in pair) for pair in _SIDES)
TELLING = frozenset().union(*(side for pair in OPPOSITES for side in pair))
PART = re.compile(r"[A-Za-z]+|\d+(?:\.\d+)?|\+|(?<![<>!])=|[<>](?!=)|(?<![A-Za-z]{2})-(?![A-Za-z]{2})")
NON = re.compile(r"\bnon[ -]([a-z]+)")
LITERAL = 0.6
"""Share of shared runs from which two texts are the same writing, so that small differences mean something."""
RUN = 5
FEWEST_WORDS = 8
"""Different words and numbers of an item from which their all being there says something."""
LONGEST = 20_000


def opposed(question: str, item: str) -> bool:
    """Each text holds one side of a pair of opposites, and neither holds the other's; or one denies what both hold."""
    mine, theirs = ({stem(part) for part in PART.findall(text[:LONGEST].lower())} for text in (question, item))
    if any(word in mine & theirs for word in _denied(question) ^ _denied(item)):
        return True
    for one, other in OPPOSITES:
        if (mine & one and theirs & other and not mine & other and not theirs & one) or (
            mine & other and theirs & one and not mine & one and not theirs & other
        ):
            return True
    return False


def _denied(text: str) -> set[str]:
    return {stem(word) for word in NON.findall(text[:LONGEST].lower())}


def sibling(question: str, item: str) -> bool:
    """Of two texts that are nearly one writing: does one use a letter, number or sign of both more often?

    What stands before and after the item in the question is left out. Both with case (x may be t, and X stay) and
    without (a copy may be in capitals).
    """
    mine, theirs = question[:LONGEST], item[:LONGEST]
    return _unequal(mine.lower(), theirs.lower()) and _unequal(mine, theirs)


def renamed(question: str, item: str) -> bool:
    """Whether the question holds all of the item's words and numbers but those with a capital, which may be names."""
    mine, theirs = (
        {part for part in _parts(text[:LONGEST]) if not part[0].isupper() and (len(part) > 1 or part.isdigit())}
        for text in (question, item)
    )
    return len(theirs) >= FEWEST_WORDS and theirs <= mine


def _unequal(question: str, item: str) -> bool:
    theirs = _parts(item)
    mine = _inside(_parts(question), theirs)
    count, other = Counter(mine), Counter(theirs)
    return any(
        0 < count[part] != other[part] > 0
        for part in count
        if part not in _LOOSE and (len(part) == 1 or not part.isalpha() or stem(part.lower()) in TELLING)
    )


_LOOSE = frozenset(["a", "i", "s", "t", "A", "I", "S", "T", "1", "2"])
"""Words, endings and numbers of steps, as often as not."""
_SPELT = {word: f"{value:g}" for word, value in NUMBERS.items()}
UNIT_WORDS = frozenset(UNITS.split()[1:10])
_TENS = frozenset(f"{value:g}" for value in TENS.values())


def _parts(text: str) -> list[str]:
    found: list[str] = []
    for part in PART.findall(text):
        value = _SPELT.get(part.lower(), part)
        if found and part in UNIT_WORDS and found[-1] in _TENS:
            found[-1] = str(int(found[-1]) + int(value))
        elif part not in MARKUP:
            found.append(value)
    return found


def _inside(parts: list[str], item: list[str]) -> list[str]:
    """As much as the item is long around the first and the last run that the item has too."""
    if len(parts) <= len(item) + RUN:
        return parts
    known: dict[tuple[str, ...], int] = {}
    for place in range(len(item) - RUN + 1):
        known.setdefault(tuple(item[place : place + RUN]), place)
    here = [place for place in range(len(parts) - RUN + 1) if tuple(parts[place : place + RUN]) in known]
    if not here:
        return parts
    first, last = (known[tuple(parts[place : place + RUN])] for place in (here[0], here[-1]))
    return parts[max(0, here[0] - first) : here[-1] + len(item) - last]
