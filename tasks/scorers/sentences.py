"""Sentences of a response as character spans.

Not covered: formulas over several lines are cut at their line ends, and nothing is known of a language's own rules but
for the full stop's kin.
"""

from __future__ import annotations

import re

from tasks.verifiers.instruction_rules import pieces

_WORD = re.compile(r"\w")


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence, in order; what lies between them is white space.

    Cut after `.`, `!`, `?` and their kin, not after abbreviations, initials and enumerators (the rule of the IFEval
    checkers), and at line ends. What holds no letter or digit belongs to the sentence before it, or the first one.
    """
    spans: list[tuple[int, int]] = []
    begin = 0  # of what belongs to no sentence yet
    at = 0
    for line in text.splitlines(keepends=True):
        place = at
        for piece in pieces(line):
            place = text.index(piece, place) + len(piece)
            if _WORD.search(piece):
                spans.append((begin + _blanks(text[begin:place]), place))
                begin = place
            elif spans:
                spans[-1] = (spans[-1][0], place)
                begin = place
        at += len(line)
    return spans


def _blanks(text: str) -> int:
    return len(text) - len(text.lstrip())
