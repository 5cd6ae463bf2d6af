"""Runs of terms that questions share with benchmark items: long runs, short runs to find candidates by, names.

One pass over a batch builds the hash of every run of 2, 3, … n terms from the one before, and looks it up where items
have runs of that length: long ones (n, or a whole item that is shorter), short ones (SHORT terms, rare among items)
and function names. A run that stands in more than `common` different items is boilerplate and shows nothing. Two
different runs share a 64-bit hash with a chance of about 10^-6 over 10^7 × 10^6 comparisons.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.decontaminate_text import Hashes, Ints, Terms, mix

SHORT = 5
SHORTEST_ITEM = 4
"""Terms; a shorter item, such as `Solve for x`, stands in far too many questions: it matches as a whole text only."""
FILTER_BITS = 24
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Hits:
    """Shared runs: the question's number, its first term; the item's number, its first term; the run's length."""

    question: Ints
    at: Ints
    item: Ints
    item_at: Ints
    length: Ints

    def __len__(self) -> int:
        return len(self.question)


class Lookup:
    """Runs of one length → the places in items where they stand."""

    def __init__(self, hashes: Hashes, items: Ints, places: Ints) -> None:
        order = np.lexsort((places, items, hashes))
        hashes, self.items, self.places = hashes[order], items[order], places[order]
        self.keys, self.starts = np.unique(hashes, return_index=True)
        self.ends = np.append(self.starts[1:], len(hashes))
        self._filter = np.zeros(1 << FILTER_BITS, bool)
        self._filter[(self.keys >> np.uint64(64 - FILTER_BITS)).astype(np.int64)] = True

    def find(self, hashes: Hashes) -> tuple[Ints, Ints]:
        """(places in `hashes`, their keys' numbers) of those that are known."""
        maybe = np.flatnonzero(self._filter[(hashes >> np.uint64(64 - FILTER_BITS)).astype(np.int64)])
        key = np.searchsorted(self.keys, hashes[maybe])
        key[key == len(self.keys)] = 0
        known = self.keys[key] == hashes[maybe] if len(self.keys) else np.zeros(len(maybe), bool)
        return maybe[known], key[known]

    def expand(self, found: Ints, keys: Ints) -> tuple[Ints, Ints, Ints]:
        """One row for each place of each key: (of `found`, item, place in the item)."""
        counts = (self.ends - self.starts)[keys]
        total = int(counts.sum())
        offsets = np.repeat(self.starts[keys] - (counts.cumsum() - counts), counts) + np.arange(total)
        return np.repeat(found, counts), self.items[offsets], self.places[offsets]


class NgramIndex:
    """All runs of all items by which they can be recognised."""

    def __init__(self, terms: Terms, texts: Ints, names: Sequence[Hashes], ngram: int | None, common: int) -> None:
        """`texts` numbers the distinct texts of the items: two benchmarks that hold one item don't make it common.

        `names` are the terms of each item's function name.
        """
        self.ngram = ngram
        self._long: dict[int, Lookup] = {}
        self._names: dict[int, Lookup] = {}
        lengths = terms.lengths
        for length, hashes, starts in runs(terms, max(ngram or 0, SHORT)):
            owners = np.searchsorted(terms.bounds, starts, side="right") - 1
            if length == SHORT:
                self._short = _lookup(hashes, starts, owners, terms, texts, common)
            if ngram and (length == ngram or SHORTEST_ITEM <= length < ngram):
                chosen = np.ones(len(starts), bool) if length == ngram else lengths[owners] == length
                if chosen.any():
                    self._long[length] = _lookup(hashes[chosen], starts[chosen], owners[chosen], terms, texts, common)
        by_length: dict[int, list[tuple[int, int]]] = {}
        for item, parts in enumerate(names):
            if len(parts) >= 2:
                by_length.setdefault(len(parts), []).append((hash_run(parts), item))
        for length, found in by_length.items():
            hashes = np.array([one for one, _ in found], np.uint64)
            items = np.array([item for _, item in found], np.int64)
            self._names[length] = Lookup(hashes, items, np.zeros(len(items), np.int64))
        self.longest = max([SHORT, *self._long, *self._names])

    def search(self, terms: Terms) -> tuple[Hits, Hits, Hits]:
        """(long runs, short runs, names) that a batch shares with items."""
        long: list[Hits] = []
        short: list[Hits] = []
        names: list[Hits] = []
        for length, hashes, starts in runs(terms, self.longest):
            for lookup, found in ((self._long.get(length), long), (self._short if length == SHORT else None, short),
                                  (self._names.get(length), names)):  # fmt: skip
                if lookup is not None and len(lookup.keys):
                    found.append(_hits(lookup, hashes, starts, terms, length))
        return _joined(long), _joined(short), _joined(names)


def runs(terms: Terms, longest: int) -> Iterator[tuple[int, Hashes, Ints]]:
    """(length, hash of each run, its first term) for 2, 3, … longest; a run ends with its text."""
    ends = np.repeat(terms.bounds[1:], terms.lengths)
    starts = np.arange(len(terms.hashes), dtype=np.int64)
    hashes = terms.hashes
    for length in range(2, longest + 1):
        inside = starts + (length - 1) < ends[starts]
        starts, hashes = starts[inside], hashes[inside]
        hashes = mix(hashes * _FACTOR + terms.hashes[starts + (length - 1)])
        yield length, hashes, starts


def hash_run(parts: Hashes) -> int:
    hashed = parts[:1].copy()
    for part in parts[1:]:
        hashed = mix(hashed * _FACTOR + part)
    return int(hashed[0])


ALIKE_RUN = 4
LONGEST_ALIKE = 20_000
"""Terms of a text that are looked at."""


def run_set(terms: Hashes) -> frozenset[tuple[int, ...]]:
    """All runs of ALIKE_RUN terms of one text."""
    parts = terms[:LONGEST_ALIKE].tolist()
    return frozenset(zip(*(parts[start:] for start in range(ALIKE_RUN)), strict=False))


def covered_share(terms: Hashes, other: frozenset[tuple[int, ...]]) -> float:
    """Share of a text's terms that lie in runs of `other`; here boilerplate counts, which shows the same template."""
    parts = terms[:LONGEST_ALIKE].tolist()
    inside = np.zeros(max(len(parts), 1), bool)
    for place, run in enumerate(zip(*(parts[start:] for start in range(ALIKE_RUN)), strict=False)):
        if run in other:
            inside[place : place + ALIKE_RUN] = True
    return float(inside.mean())


def _lookup(hashes: Hashes, starts: Ints, owners: Ints, terms: Terms, texts: Ints, common: int) -> Lookup:
    """Without the runs that more than `common` different items hold."""
    keys, inverse = np.unique(hashes, return_inverse=True)
    pairs = np.unique(inverse.astype(np.int64) * (int(texts.max(initial=0)) + 1) + texts[owners])
    spread = np.bincount(pairs // (int(texts.max(initial=0)) + 1), minlength=len(keys))
    rare = spread[inverse] <= common
    return Lookup(hashes[rare], owners[rare], starts[rare] - terms.bounds[owners[rare]])


def _hits(lookup: Lookup, hashes: Hashes, starts: Ints, terms: Terms, length: int) -> Hits:
    found, keys = lookup.find(hashes)
    found, items, places = lookup.expand(found, keys)
    at = starts[found]
    questions = np.searchsorted(terms.bounds, at, side="right") - 1
    return Hits(questions, at - terms.bounds[questions], items, places, np.full(len(at), length, np.int64))


def _joined(parts: Sequence[Hits]) -> Hits:
    empty = np.zeros(0, np.int64)
    columns = zip(*((one.question, one.at, one.item, one.item_at, one.length) for one in parts), strict=True)
    joined = [np.concatenate(column) for column in columns] or [empty] * 5
    return Hits(*joined)


def covered(pairs: Ints, places: Ints, length: Ints) -> tuple[Ints, Ints]:
    """(distinct pairs, terms that the runs of each cover): runs that overlap are counted once."""
    order = np.lexsort((places, pairs))
    pairs, places, length = pairs[order], places[order], length[order]
    ends = places + length
    last = np.ones(len(pairs), bool)
    last[:-1] = pairs[1:] != pairs[:-1]
    share = np.where(last, length, np.minimum(ends, np.append(places[1:], 0)) - places)
    distinct, start = np.unique(pairs, return_index=True)
    return distinct, np.add.reduceat(share, start) if len(pairs) else share
