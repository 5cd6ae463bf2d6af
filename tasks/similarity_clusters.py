"""Pairs of very many vectors: clusters with overlap are joined exactly, and what that misses is measured.

Centres are k-means' of a sample; each row goes to its nearest centre and to every other that is nearly as near, up to
NEAREST. A pair is found if its rows share a cluster. The rest of the recall is not assumed: random rows are
compared exactly with all, and the share of their pairs that the clusters found is the recall that is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tasks.similarity import similar_pairs
from tasks.similarity_forest import Ints, PairCollector, Pairs, pair_budget
from tasks.similarity_sketch import unit_rows

ROWS_PER_CLUSTER = 20_000
SAMPLE_PER_CLUSTER = 256
ROUNDS = 12
NEAREST = 4
MARGIN = 0.12
"""A row also goes to centres whose cosine is lower than the best one's by at most this."""
CHECKED = 2000
"""Rows that are compared exactly with all to measure the recall."""
CHUNK = 65_536


def clustered_pairs(
    vectors: npt.NDArray[Any], threshold: float, *, seed: int = 0, advance: Callable[[int], None] = lambda rows: None
) -> tuple[Pairs, float]:
    """Pairs that share a cluster, and the recall measured on CHECKED random rows (1.0 if those have no pair).

    A row is in one to NEAREST clusters; its pairs are exact, and the same whatever the number of threads.
    """
    centres = _centres(vectors, max(2, -(-len(vectors) // ROWS_PER_CLUSTER)), seed)
    nearest, near = _assign(vectors, centres)
    collector = PairCollector(len(vectors), pair_budget(len(vectors)))
    for cluster, rows in _members(nearest, near, len(centres)):
        found = similar_pairs(vectors[rows], threshold)
        left, right = rows[found.left], rows[found.right]
        new = _first_shared(nearest, near, left, right) == cluster  # a pair may share more than one
        collector.add(left[new], right[new], found.cosine[new],
                      found=found.found if found.thinned else None, thinned=found.thinned)  # fmt: skip
        advance(int((nearest[rows, 0] == cluster).sum()))
    pairs = collector.result()
    return pairs, measured_recall(vectors, threshold, pairs, seed=seed)


def measured_recall(vectors: npt.NDArray[Any], threshold: float, pairs: Pairs, *, seed: int = 0) -> float:
    """Share of all pairs of random rows that are listed; where a forest is listed, of those that it connects."""
    count = len(vectors)
    sample = np.zeros(count, bool)
    sample[np.random.default_rng(seed).choice(count, min(CHECKED, count), replace=False)] = True
    exact = similar_pairs(vectors, threshold, new=sample)
    if not len(exact.left):
        return 1.0
    if pairs.thinned or exact.thinned:
        labels = _components(count, pairs)
        return float((labels[exact.left] == labels[exact.right]).mean())
    return float(np.isin(exact.left * count + exact.right, pairs.left * count + pairs.right).mean())


def _components(rows: int, pairs: Pairs) -> npt.NDArray[np.int32]:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(pairs.left), np.int8), (pairs.left, pairs.right)), shape=(rows, rows))
    labels: npt.NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return labels


def _centres(vectors: npt.NDArray[Any], count: int, seed: int) -> npt.NDArray[np.float32]:
    """Unit centres, shape (count, d), by spherical k-means on a sample."""
    random = np.random.default_rng(seed)
    size = min(len(vectors), count * SAMPLE_PER_CLUSTER)
    sample = unit_rows(vectors[np.sort(random.choice(len(vectors), size, replace=False))]).astype(np.float32)
    centres = sample[random.choice(size, count, replace=False)]
    for _ in range(ROUNDS):
        nearest = np.concatenate([
            (sample[start : start + CHUNK] @ centres.T).argmax(axis=1) for start in range(0, size, CHUNK)
        ])  # fmt: skip
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, sample)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 0, sums / np.where(lengths > 0, lengths, 1), centres)
    return centres


def _assign(vectors: npt.NDArray[Any], centres: npt.NDArray[np.float32]) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """For each row its NEAREST centres, best first, and which of them it is a member of; 20 bytes a row."""
    many = min(NEAREST, len(centres))
    nearest = np.empty((len(vectors), many), np.int32)
    near = np.empty((len(vectors), many), bool)
    turned = torch.from_numpy(centres.T.copy())
    for start in range(0, len(vectors), CHUNK):
        rows = torch.from_numpy(unit_rows(vectors[start : start + CHUNK])).float()
        values, which = torch.topk(rows @ turned, many, dim=1)
        nearest[start : start + CHUNK] = which.numpy()
        near[start : start + CHUNK] = (values >= values[:, :1] - MARGIN).numpy()
    return nearest, near  # type: ignore[return-value]


def _members(nearest: Ints, near: npt.NDArray[np.bool_], clusters: int) -> Iterator[tuple[int, Ints]]:
    for cluster in range(clusters):
        yield cluster, np.flatnonzero(((nearest == cluster) & near).any(axis=1))


def _first_shared(nearest: Ints, near: npt.NDArray[np.bool_], left: Ints, right: Ints) -> Ints:
    """The smallest cluster that both rows of each pair are in."""
    best = np.full(len(left), np.iinfo(np.int64).max)
    for one in range(nearest.shape[1]):
        for other in range(nearest.shape[1]):
            both = (nearest[left, one] == nearest[right, other]) & near[left, one] & near[right, other]
            best = np.where(both, np.minimum(best, nearest[left, one]), best)
    return best
