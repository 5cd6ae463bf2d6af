"""Rows that are equal bit for bit: joined once, then each pair is expanded to all copies, as far as the budget goes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.similarity_forest import Cosines, Ints, PairCollector
from tasks.similarity_sketch import CHUNK, widened


class Copies:
    """Groups of equal rows among `rows` (row numbers of `vectors`); the first of each stands for all."""

    def __init__(self, vectors: npt.NDArray[Any], rows: Ints) -> None:
        leader = _leaders(vectors, rows)
        self.skip: npt.NDArray[np.bool_] = leader != np.arange(len(vectors))
        """rows that another stands for"""
        grouped = np.argsort(leader, kind="stable")
        self._members: Ints = grouped
        self.sizes: Ints = np.bincount(leader, minlength=len(vectors))
        """how many rows are equal to this one, if it stands for them; else 0"""
        self._starts: Ints = np.cumsum(self.sizes) - self.sizes
        self._leader = leader

    def add_to(self, collector: PairCollector) -> None:
        """The pairs inside the groups, whose cosine is 1; where they are too many, those with the first only."""
        copies = np.flatnonzero(self.skip)
        if not len(copies):
            return
        sizes = self.sizes
        pairs = int((sizes * (sizes - 1) // 2).sum())
        if collector.fits(pairs):
            place = np.empty(len(self._leader), np.int64)
            place[self._members] = np.arange(len(self._leader))
            earlier = place[copies] - self._starts[self._leader[copies]]  # how many of the group come before
            right = np.repeat(copies, earlier)
            first = np.repeat(self._starts[self._leader[copies]], earlier)
            left = self._members[first + _count_up(earlier)]
            collector.add(left, right, np.ones(len(left), np.float32))
        else:
            collector.add(self._leader[copies], copies, np.ones(len(copies), np.float32), found=pairs, thinned=True)

    def expand_into(self, collector: PairCollector, left: Ints, right: Ints, cosine: Cosines) -> None:
        """Pairs of first rows, as pairs of all their copies; where they are too many, as they are."""
        each = self.sizes[left] * self.sizes[right]
        pairs = int(each.sum())
        if pairs == len(left):
            collector.add(left, right, cosine)
        elif collector.fits(pairs):
            number = _count_up(each)
            width = np.repeat(self.sizes[right], each)
            one = self._members[np.repeat(self._starts[left], each) + number // width]
            other = self._members[np.repeat(self._starts[right], each) + number % width]
            collector.add(np.minimum(one, other), np.maximum(one, other), np.repeat(cosine, each))
        else:
            collector.add(left, right, cosine, found=pairs, thinned=True)

    def add_block(self, collector: PairCollector, rows: Ints, columns: Ints, cosines: Cosines,
                  wanted: npt.NDArray[np.bool_]) -> None:  # fmt: skip
        """The `wanted` pairs of a tile in which most pairs reach the threshold; all of shape (rows, columns)."""
        wanted &= ~self.skip[rows][:, None] & ~self.skip[columns][None, :]
        if not collector.thinned:
            row, column = np.nonzero(wanted)
            self.expand_into(collector, *_sorted_ends(rows[row], columns[column]), cosines[row, column])
            return
        pairs = int(self.sizes[rows] @ (wanted @ self.sizes[columns].astype(np.float64)).astype(np.int64))
        collector.add_tile(cosines, rows, columns, wanted, pairs)


def _sorted_ends(one: Ints, other: Ints) -> tuple[Ints, Ints]:
    return np.minimum(one, other), np.maximum(one, other)


def _count_up(sizes: Ints) -> Ints:
    """0, 1, …, size − 1 for each size, end to end."""
    ends = np.cumsum(sizes)
    return np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - sizes, sizes)


def _leaders(vectors: npt.NDArray[Any], rows: Ints) -> Ints:
    """For each row the first of `rows` that is equal to it; itself for others, and for those that have no direction."""
    leader = np.arange(len(vectors))
    codes = _row_hashes(vectors, rows)
    _, first, group = np.unique(codes, return_index=True, return_inverse=True)
    likely = np.flatnonzero(first[group] != np.arange(len(rows)))
    for start in range(0, len(likely), CHUNK):
        some = likely[start : start + CHUNK]
        row, other = rows[some], rows[first[group[some]]]
        lengths = np.abs(widened(vectors[row])).sum(axis=1)
        same = (vectors[row] == vectors[other]).all(axis=1) & np.isfinite(lengths) & (lengths > 0)
        leader[row[same]] = other[same]
    return leader


def _row_hashes(vectors: npt.NDArray[Any], rows: Ints) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each row's bytes; equal rows have equal ones, and those with equal ones are compared."""
    words = np.dtype(f"u{vectors.dtype.itemsize}")
    random = np.random.default_rng(0)
    factors = random.integers(0, 2**63, vectors.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    found = np.empty(len(rows), np.uint64)
    for start in range(0, len(rows), CHUNK):
        piece = np.ascontiguousarray(vectors[rows[start : start + CHUNK]]).view(words)
        found[start : start + CHUNK] = piece.astype(np.uint64) @ factors
    return found
