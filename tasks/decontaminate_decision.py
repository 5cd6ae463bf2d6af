"""The decision on a question and a benchmark item: a score with fixed weights, and what follows from it.

score = sum of weight × signal + base. At 0 a copy is about as likely as a neighbour: logistic regressions gave the
weights, on planted copies and rewordings against each benchmark's own other items, and were rounded
(docs/decontamination.md says on which part, and what came out on the other). Eight cases, since programs, word
problems and formulas are recognised by different things, texts that are written alike may be one template, and without
embeddings other signals must carry more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tasks.decontaminate_signals import Floats, Signals
from tasks.decontaminate_text import Ints

VERSION = 5
"""Raise it with every change of a weight, a signal or a threshold."""

ALIKE = 0.5
"""`written` from which two texts are one writing, changed here and there: planted copies are (96 %), and questions of
one template; what a model writes anew is not (MATH 15 %, GSM8K 0 %)."""

Verdict = Literal["contaminated", "suspect", "clean", "undecided"]


@dataclass(frozen=True)
class Weights:
    base: float
    cosine: float = 0.0
    above_others: float = 0.0
    words: float = 0.0
    numbers: float = 0.0
    runs: float = 0.0
    formulas: float = 0.0
    answer: float = 0.0
    name: float = 0.0
    values: float = 0.0
    examples: float = 0.0


TEXT = Weights(base=-18.8, cosine=12.0, numbers=9.0, runs=3.5, formulas=4.0, answer=2.5)
SYMBOLIC = Weights(base=-17.3, cosine=6.3, numbers=8.9, runs=3.5, formulas=1.8, answer=2.5)
"""items with formulas, whose neighbours share words and signs"""
REWORDED = Weights(base=-11.2, cosine=4.7, above_others=6.9, numbers=8.6, answer=2.5)
REWORDED_SYMBOLIC = Weights(base=-9.9, cosine=4.0, above_others=6.3, numbers=5.6, formulas=2.1, answer=2.5)
"""Texts that are not written alike. Questions of one template are, so these can say more with less."""
TEXT_ALONE = Weights(base=-14.2, words=1.5, numbers=12.4, runs=4.0, formulas=4.0, answer=2.5)
"""without embeddings"""
CODE = Weights(base=-8.6, cosine=6.0, above_others=7.0, words=4.5, runs=3.0, name=4.0, values=4.5, examples=8.0)
BARE = Weights(base=-7.4, cosine=2.8, above_others=2.0, words=0.5, runs=4.7, name=3.4, values=1.0, examples=8.0)
"""One sentence says little: MBPP's own items differ in a word (perimeter of a square, of a rectangle)."""
CODE_ALONE = Weights(base=-4.5, words=5.0, runs=4.0, name=3.5, values=3.5, examples=8.0)


def scores(signals: Signals) -> Floats:
    """The score of each pair, rounded to three decimals; a signal that a pair hasn't got counts as 0."""
    embedded, alike = ~np.isnan(signals.cosine), signals.written >= ALIKE
    prose = embedded & ~signals.code
    found = np.zeros(len(signals.words))
    for weights, chosen in (
        (TEXT, prose & ~signals.symbolic & alike), (SYMBOLIC, prose & signals.symbolic & alike),
        (REWORDED, prose & ~signals.symbolic & ~alike), (REWORDED_SYMBOLIC, prose & signals.symbolic & ~alike),
        (TEXT_ALONE, ~embedded & ~signals.code),
        (CODE, embedded & signals.code & ~signals.bare), (CODE_ALONE, ~embedded & signals.code),
        (BARE, embedded & signals.bare),
    ):  # fmt: skip
        found[chosen] = _weighted(weights, signals)[chosen]
    return np.round(found, 3)


KINDS, WRITTEN_ALIKE = 4, (1, 3)


def kinds(signals: Signals) -> Ints:
    """Which threshold each pair is held to, 0 … KINDS − 1: formulas or not, written alike or not."""
    return signals.symbolic * 2 + (signals.written >= ALIKE)


def _weighted(weights: Weights, signals: Signals) -> Floats:
    total = np.full(len(signals.words), weights.base)
    for name in (
        "cosine",
        "above_others",
        "words",
        "numbers",
        "runs",
        "formulas",
        "answer",
        "name",
        "values",
        "examples",
    ):
        if weight := getattr(weights, name):
            total += weight * np.nan_to_num(getattr(signals, name))
    return total


@dataclass(frozen=True)
class Contamination:
    """What was found for one question: the verdict, and for all but `clean` the rule and the item it came from."""

    verdict: Verdict
    rule: str | None = None
    """benchmark_exact | benchmark_ngram | benchmark_similarity | benchmark_signals | benchmark_judge |
    benchmark_undecided"""
    value: float | None = None
    threshold: float | None = None
    item: int = -1
    """number of the item among all items"""
    matched: tuple[str, ...] = ()
    """the texts that match: a run, shared numbers, rare words, names"""
    signals: tuple[tuple[str, float], ...] = ()
    reason: str = ""
    """the judge's, or why it gave none"""

    def judged(self, verdict: Verdict, rule: str, reason: str) -> Contamination:
        return replace(self, verdict=verdict, rule=rule, reason=reason)


CLEAN = Contamination("clean")
