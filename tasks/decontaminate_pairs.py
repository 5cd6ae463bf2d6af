"""Candidate pairs of questions and items, and numbers that belong to them, kept by one key: question × items + item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.decontaminate_ngrams import Hits, covered
from tasks.decontaminate_siblings import LITERAL
from tasks.decontaminate_text import Ints


@dataclass(frozen=True)
class Pairs:
    """Candidates, by question and then item."""

    question: Ints
    item: Ints
    cosine: Any
    """NaN without embeddings"""
    above: Any
    """the cosine above the next items, NaN without"""
    item_share: Any
    """share of the item's terms in long shared runs, from 0 to about 1"""
    question_share: Any
    """the same of the question's"""
    runs: Any
    """the greater share of the two in short shared runs"""

    def literal(self) -> Any:
        """Of each pair: are the texts nearly one writing?"""
        return np.fmax(self.runs, np.maximum(self.item_share, self.question_share)) >= LITERAL


def cover(hits: Hits, places: Ints, size: int) -> tuple[Ints, Ints]:
    """(keys, terms that the runs cover), each key once."""
    return covered(hits.question * size + hits.item, places, hits.length)


def spread(keys: Ints, known: Ints, values: Any) -> Any:
    """Values by key where known, else NaN."""
    found = np.full(len(keys), np.nan)
    if len(known):
        place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        here = known[place] == keys
        found[here] = values[place[here]]
    return found


def best_of_each(question: Ints, value: Any, item: Ints) -> Ints:
    """The pair with the highest value of each question; ties go to the smaller item."""
    order = np.lexsort((item, -value, question))
    return order[np.unique(question[order], return_index=True)[1]]
