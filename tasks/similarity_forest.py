"""Pairs within a bound: all of them, or, where there are too many, those that keep every cluster whole.

A crowd of m texts that are all alike has m²/2 pairs. Above a budget only a maximum spanning forest is kept: for every
threshold at or above the join's, its connected components are those of all pairs, and each row's most similar partner
is in it. It does not say of two rows of a crowd that they are a pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree

Ints = npt.NDArray[np.int64]
Cosines = npt.NDArray[np.float32]
LEVELS = 16
AT_ONCE = 16
"""Pairs of a tile for each of its rows and columns that are taken before the rest is looked at again."""
NEWS = 4
"""Pairs for each row that come to a forest before it is made anew, so that it implies more."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of row numbers, left < right, in order, with their cosines (float32, threshold to 1)."""

    left: Ints
    right: Ints
    cosine: Cosines
    found: int
    """pairs that there are; more than are listed if `thinned`"""
    thinned: bool
    """only a maximum spanning forest is listed"""


@dataclass(frozen=True)
class Reach:
    """What a forest implies: pairs inside a component that are less similar than the cuts of both rows."""

    component: npt.NDArray[np.int32]
    cut: Cosines
    """the least similar edge on the way from a row to the hub of its component; infinite for the hub"""
    alone: npt.NDArray[np.bool_]
    """rows without an edge"""


def pair_budget(rows: int) -> int:
    """Most pairs that are all kept: 32 a row, at least two million; 20 bytes each in memory."""
    return max(2_000_000, 32 * rows)


class PairCollector:
    """Takes pairs as a join finds them, each pair once."""

    def __init__(self, rows: int, budget: int) -> None:
        self._rows, self._budget = rows, budget
        self._pieces: list[tuple[Ints, Ints, Cosines]] = []
        self._held = self._forest = self.found = 0
        self.thinned = False
        self._levels: Cosines = np.zeros(0, np.float32)
        self._labels: list[npt.NDArray[np.int32]] = []
        self.reach: Reach | None = None
        """What the forest implied when it was last made; None before the first"""

    def add(self, left: Ints, right: Ints, cosine: Cosines, *, found: int | None = None, thinned: bool = False) -> None:
        """`found` and `thinned` are of pairs that an earlier join kept."""
        self.found += len(left) if found is None else found
        self.thinned |= thinned
        if self._labels:
            new = ~self._implied(left, right, cosine)
            left, right, cosine = left[new], right[new], cosine[new]
        if len(left):
            self._pieces.append((left, right, cosine))
            self._held += len(left)
        self.thinned |= self.found > self._budget
        if self._held > self._budget or (self.reach and self._held - self._forest > NEWS * self._rows):
            self._thin()

    def fits(self, pairs: int) -> bool:
        """Whether so many more can all be kept."""
        return not self.thinned and self.found + pairs <= self._budget

    def add_tile(self, cosines: Cosines, rows: Ints, columns: Ints, wanted: npt.NDArray[np.bool_], found: int) -> None:
        """The `wanted` pairs of a tile, all of shape (rows, columns), where only a forest is kept.

        The most similar come first: they connect the rows, after which most of the others are implied.
        """
        few = AT_ONCE * sum(wanted.shape)
        self._take_implied(cosines, rows, columns, wanted)
        while (left := np.count_nonzero(wanted)) > 4 * few:
            values = cosines[wanted][:: max(1, left // 65_536)]
            first = wanted & (cosines >= np.quantile(values, 1 - few / left, method="lower"))
            self._add_of_tile(cosines, rows, columns, first)
            self._thin()
            wanted &= ~first
            self._take_implied(cosines, rows, columns, wanted)
        self._add_of_tile(cosines, rows, columns, wanted)
        self.found += found

    def _add_of_tile(self, cosines: Cosines, rows: Ints, columns: Ints, chosen: npt.NDArray[np.bool_]) -> None:
        row, column = np.nonzero(chosen)
        one, other = rows[row], columns[column]
        self.add(np.minimum(one, other), np.maximum(one, other), cosines[row, column], found=0, thinned=True)

    def _take_implied(self, cosines: Cosines, rows: Ints, columns: Ints, wanted: npt.NDArray[np.bool_]) -> None:
        """Take from `wanted` pairs whose ends are connected by more similar ones.

        Level by level, until few are left: what stays is looked at one by one by `add`.
        """
        for level, labels in zip(self._levels, self._labels, strict=True):
            if np.count_nonzero(wanted) < 0.02 * wanted.size:
                return
            wanted &= (cosines >= level) | (labels[rows][:, None] != labels[columns][None, :])

    def result(self) -> Pairs:
        if self.thinned:
            self._thin()
        left, right, cosine = self._joined()
        order = np.lexsort((right, left))
        return Pairs(left[order], right[order], cosine[order], self.found, self.thinned)

    def _joined(self) -> tuple[Ints, Ints, Cosines]:
        if not self._pieces:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
        left, right, cosine = (np.concatenate(column) for column in zip(*self._pieces, strict=True))
        return left, right, cosine

    def _thin(self) -> None:
        left, right, cosine = self._joined()
        kept = spanning_forest(self._rows, left, right, cosine)
        left, right, cosine = left[kept], right[kept], cosine[kept]
        self._pieces = [(left, right, cosine)]
        self._held = self._forest = len(kept)
        self._levels = np.unique(np.quantile(cosine, np.linspace(0, 1, LEVELS), method="lower")).astype(np.float32)
        self._labels = [
            _labels(self._rows, left[cosine >= level], right[cosine >= level]) for level in self._levels
        ]  # fmt: skip
        self.reach = reach_of(self._rows, left, right, cosine)

    def _implied(self, left: Ints, right: Ints, cosine: Cosines) -> npt.NDArray[np.bool_]:
        """Pairs whose ends the forest connects by more similar pairs: they would close a cycle as its least.

        Not by equally similar ones: of these the forest keeps those with smaller numbers, in whatever order they come.
        """
        above = np.searchsorted(self._levels, cosine, side="right")
        implied = np.zeros(len(left), bool)
        for number, labels in enumerate(self._labels):
            here = above == number
            implied[here] = labels[left[here]] == labels[right[here]]
        return implied


def reach_of(rows: int, left: Ints, right: Ints, cosine: Cosines) -> Reach:
    """What the edges of a forest imply; the hub of a component is its row with the most edges."""
    ends = np.concatenate([left, right])
    component = _labels(rows, left, right)
    by_edges = np.argsort(np.bincount(ends, minlength=rows), kind="stable")
    hubs = np.zeros(int(component.max(initial=-1)) + 1, np.int64)
    hubs[component[by_edges]] = by_edges  # the last one counts
    top = np.full(len(hubs), rows)  # a row above all hubs, so that one search goes through all trees
    ones = np.ones(len(left) + len(hubs), np.int8)
    tree = coo_matrix((ones, (np.concatenate([left, top]), np.concatenate([right, hubs]))), shape=(rows + 1, rows + 1))
    above = breadth_first_order(tree.tocsr(), rows, directed=False)[1].astype(np.int64)
    above[rows] = rows
    cut = np.full(rows + 1, np.inf, np.float32)
    below = np.where(above[left] == right, left, right)  # of each edge, the end that is farther from the hub
    cut[below] = cosine
    while (above != rows).any():  # twice as many edges of the way to the hub each time
        cut = np.minimum(cut, cut[above])
        above = above[above]
    return Reach(component, cut[:rows], np.bincount(ends, minlength=rows) == 0)


def spanning_forest(rows: int, left: Ints, right: Ints, cosine: Cosines) -> Ints:
    """Which pairs make a maximum spanning forest; of equally similar ones those with smaller numbers come first."""
    order = np.lexsort((right, left, -cosine))
    place = np.empty(len(order), np.float64)
    place[order] = np.arange(1, len(order) + 1)
    tree = minimum_spanning_tree(coo_matrix((place, (left, right)), shape=(rows, rows)).tocsr())
    return np.sort(order[tree.data.astype(np.int64) - 1])


def _labels(rows: int, left: Ints, right: Ints) -> npt.NDArray[np.int32]:
    graph = coo_matrix((np.ones(len(left), np.int8), (left, right)), shape=(rows, rows))
    labels: npt.NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return labels
