"""Lexical near-copies: texts that share most of their word n-grams, and templates in which only numbers differ.

Candidates come from MinHash (the library rensa) with locality-sensitive hashing; each is checked again by the exact
Jaccard index of the two n-gram sets, so no pair is false. Sets are of 63-bit hashes: of 10^8 distinct n-grams, some
pair collides with a chance of 0.05 %. What may be missed: a pair of Jaccard index J is a candidate with probability
1 − (1 − J^r)^b (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, section 3.4.2); r and b are chosen so that
this is at least MIN_RECALL at the threshold, and it grows with J. Signatures and n-grams lie in files; memory
holds one band, and the pairs.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tasks.lexical_sets import PERMUTATIONS, Hashes, Ints, NgramSets, parquet_texts
from tasks.settings import Settings

MIN_RECALL = 0.99
BUCKET = 32
"""All pairs of a bucket up to this size are compared; in a larger one each member is compared with leaders."""
LEADERS = 64
"""Most leaders of a large bucket; what is like none of them is left to the other bands, and counted."""


class LexicalSettings(Settings):
    threshold: float = Field(default=0.8, gt=0, le=1)
    """Jaccard index of the two sets of n-grams from which two texts are lexical duplicates; this default is ours."""
    ngram: int = Field(default=3, ge=1, le=20)
    """Words and signs in a run. A shorter text is one run."""


@dataclass(frozen=True)
class LexicalPairs:
    """Pairs of row numbers, left < right, in order, with the exact Jaccard index, float32 from threshold to 1.

    Of identical sets each is paired with one of them, not with all; in crowded buckets (more than BUCKET texts that
    look alike) each is paired with a leader. So m copies make m − 1 pairs. Connected components are what pairs are for.
    """

    left: Ints
    right: Ints
    jaccard: npt.NDArray[np.float32]
    texts: int
    compared: int
    """candidates that were checked"""
    left_out: int
    """members of crowded buckets that no leader was like, summed over the bands: what LSH alone didn't compare"""


def lexical_pairs(
    texts: Iterable[str] | Path, settings: LexicalSettings, *, column: str = "question", scratch: Path | None = None
) -> tuple[Ints, Ints, npt.NDArray[np.float32]]:
    """(left, right, jaccard) of `find_lexical_pairs`."""
    found = find_lexical_pairs(texts, settings, column=column, scratch=scratch)
    return found.left, found.right, found.jaccard


def find_lexical_pairs(
    texts: Iterable[str] | Path, settings: LexicalSettings, *, column: str = "question", scratch: Path | None = None
) -> LexicalPairs:
    """Pairs of texts with Jaccard index ≥ threshold; `texts` is a Parquet file with the text in `column`, or texts.

    `scratch` is the folder for temporary files: about 8 bytes an n-gram and 8 bytes a band and text. A text without a
    word or sign has no pair. The pairs, as pairs of texts, do not depend on the order of rows: leaders are chosen by
    content, and only among identical sets it is the first row.
    """
    stream = parquet_texts(texts, column) if isinstance(texts, Path) else iter(texts)
    bands, rows = band_shape(settings.threshold)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="lexical-") as folder:
        sets = NgramSets(Path(folder), stream, settings.ngram, bands, rows)
        search = _Search(sets, settings.threshold)
        search.pair_copies()
        for band in range(bands):
            search.pair_band(np.asarray(sets.bands[band]))
            search.forget_repeats()
        return search.result()


def band_shape(threshold: float) -> tuple[int, int]:
    """(bands, rows): the most rows a band, so the fewest candidates, that keep MIN_RECALL at the threshold."""
    for rows in range(16, 1, -1):
        if expected_recall(threshold, PERMUTATIONS // rows, rows) >= MIN_RECALL:
            return PERMUTATIONS // rows, rows
    return PERMUTATIONS, 1


def expected_recall(jaccard: float, bands: int, rows: int) -> float:
    """Probability that a pair with this Jaccard index shares a band: 1 − (1 − J^rows)^bands."""
    return float(1 - (1 - jaccard**rows) ** bands)


_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def template(text: str) -> str:
    """The text with a mark for each number, blanks and case evened out; texts with the same are of one template."""
    return " ".join(_NUMBER.sub("\N{REPLACEMENT CHARACTER}", text).casefold().split())


class _Search:
    """What is found so far; works on one text of each distinct set, in the order of the sets' digests."""

    def __init__(self, sets: NgramSets, threshold: float) -> None:
        self.sets, self.threshold = sets, threshold
        self.compared = self.left_out = 0
        filled = np.flatnonzero(np.diff(sets.offsets) > 0)
        _, first, group = np.unique(sets.digests[filled], return_index=True, return_inverse=True)
        self.distinct: Ints = filled[first]
        """in the order of their digests"""
        self._copies = (filled[first][group], filled)
        self._seen: Ints = np.zeros(0, np.int64)
        self._pairs: list[tuple[Ints, Ints, npt.NDArray[np.float32]]] = []

    def pair_copies(self) -> None:
        first, copy = self._copies
        self._keep(first[first != copy], copy[first != copy])

    def pair_band(self, hashes: Hashes) -> None:
        """All that is found in the buckets of one band; `hashes` has shape (texts,)."""
        values = hashes[self.distinct]
        order = np.argsort(values, kind="stable")
        members, sizes = _buckets(values[order], order)
        for _ in range(LEADERS):
            crowded = sizes > BUCKET
            if not crowded.all():
                small, members = members[np.repeat(~crowded, sizes)], members[np.repeat(crowded, sizes)]
                self._compare(*_all_pairs(small, sizes[~crowded]))
            sizes = sizes[crowded]
            if not len(sizes):
                return
            members, sizes = self._follow_leaders(members, sizes)
        self.left_out += int(sizes.sum())

    def _follow_leaders(self, members: Ints, sizes: Ints) -> tuple[Ints, Ints]:
        """Pair each bucket's members with its first; returns those that are not like it, bucket by bucket."""
        starts = np.concatenate([[0], sizes.cumsum()[:-1]]).astype(np.int64)
        leaders = np.repeat(members[starts], sizes)
        others = np.ones(len(members), bool)
        others[starts] = False
        alike = np.zeros(len(members), bool)
        alike[others] = self._keep(self.distinct[leaders[others]], self.distinct[members[others]])
        rest = others & ~alike
        left = np.add.reduceat(rest.astype(np.int64), starts)
        return members[rest], left[left > 0]

    def _compare(self, one: Ints, other: Ints) -> None:
        """Check the pairs that no earlier band had."""
        codes = _sorted_set(np.minimum(one, other) * len(self.distinct) + np.maximum(one, other))
        codes = codes[~_sorted_member(codes, self._seen)]
        self._seen = _sorted_set(np.concatenate([self._seen, codes]))
        self._keep(self.distinct[codes // len(self.distinct)], self.distinct[codes % len(self.distinct)])

    def _keep(self, one: Ints, other: Ints) -> npt.NDArray[np.bool_]:
        """Which pairs reach the threshold; those are kept. Sets too different in size are not read."""
        sizes = self.sets.sizes(one), self.sets.sizes(other)
        able = np.minimum(*sizes) >= self.threshold * np.maximum(*sizes)
        self.compared += int(able.sum())
        values = np.zeros(len(one), np.float32)
        values[able] = self.sets.jaccard(one[able], other[able])
        good: npt.NDArray[np.bool_] = values >= np.float32(self.threshold)
        self._pairs.append((np.minimum(one, other)[good], np.maximum(one, other)[good], values[good]))
        return good

    def forget_repeats(self) -> None:
        """Keep each pair once: similar texts meet in many bands."""
        left, right, value = (np.concatenate(column) for column in zip(*self._pairs, strict=True))
        _, first = np.unique(left * max(self.sets.texts, 1) + right, return_index=True)
        self._pairs = [(left[first], right[first], value[first])]

    def result(self) -> LexicalPairs:
        """All pairs, by left and right."""
        self.forget_repeats()
        return LexicalPairs(*self._pairs[0], self.sets.texts, self.compared, self.left_out)


def _buckets(values: Hashes, order: Ints) -> tuple[Ints, Ints]:
    """Members of all buckets of two or more, bucket by bucket, and the buckets' sizes."""
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])) if len(values) else np.zeros(0, int)
    sizes = np.diff(np.concatenate([starts, [len(values)]]))
    return order[np.repeat(sizes > 1, sizes)].astype(np.int64), sizes[sizes > 1].astype(np.int64)


def _all_pairs(members: Ints, sizes: Ints) -> tuple[Ints, Ints]:
    """All pairs inside each bucket, by size of bucket."""
    starts = np.concatenate([[0], sizes.cumsum()[:-1]]).astype(np.int64) if len(sizes) else sizes
    one, other = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for size in np.unique(sizes):
        first, second = np.triu_indices(size, 1)
        base = starts[sizes == size][:, None]
        one.append(members[(base + first).ravel()])
        other.append(members[(base + second).ravel()])
    return np.concatenate(one), np.concatenate(other)


def _sorted_set(values: Ints) -> Ints:
    """`np.unique` by sorting: NumPy's own hash table takes minutes for a million codes of pairs (2.4)."""
    ordered = np.sort(values, kind="stable")
    fresh = np.ones(len(ordered), bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    return ordered[fresh]


def _sorted_member(values: Ints, among: Ints) -> npt.NDArray[np.bool_]:
    if not len(among):
        return np.zeros(len(values), bool)
    place = np.searchsorted(among, values)
    found: npt.NDArray[np.bool_] = among[np.minimum(place, len(among) - 1)] == values
    return found
