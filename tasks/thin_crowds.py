"""How many neighbours a question has among a sample of all that are left, scaled up: a shard at a time.

The sample are the SAMPLE questions with the smallest draws; up to so many the count is exact. Memory: the sample's
vectors, one shard's, and a block of their product, however many questions there are. Products are in float32; what lies
within their rounding of the cosine is summed again in float64, in which sums of products of f16 numbers are exact in
any order, so that no count depends on shards or threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from storage.workspace import Workspace
from tasks.embeddings import Vectors, matrix
from tasks.pairs import hex_column

SAMPLE = 20_000
BLOCK = 1024


@dataclass(frozen=True)
class Sample:
    """The vectors that neighbours are counted among, shape (size, d), and whose they are."""

    vectors: Vectors
    wide: npt.NDArray[np.float32]
    """the same numbers"""
    ids: npt.NDArray[np.bytes_]
    """S32, in order"""
    questions: int
    """from how many it was drawn"""

    def __len__(self) -> int:
        return len(self.ids)


def draw_sample(workspace: Workspace, left: Iterable[tuple[str, Sequence[str], Sequence[float]]]) -> Sample:
    """`left`: of each shard its name, the ids of the questions that are left, in order, and their draws."""
    draws, ids = np.zeros(0), np.zeros(0, "S32")
    questions = 0
    for _, more, theirs in left:
        questions += len(more)
        draws = np.concatenate([draws, np.array(theirs, float)])
        ids = np.concatenate([ids, np.array(list(more), "S32")])
        first = np.lexsort((ids, draws))[:SAMPLE]
        draws, ids = draws[first], ids[first]
    ids = np.sort(ids)
    by_shard: dict[str, list[str]] = {}
    for identity in ids.astype(str).tolist():
        by_shard.setdefault(workspace.shard_of(identity), []).append(identity)
    parts = [vectors_of(workspace, shard, some) for shard, some in by_shard.items()]
    vectors = np.concatenate(parts) if parts else np.zeros((0, 0), np.float16)
    return Sample(vectors, vectors.astype(np.float32), ids, questions)


def vectors_of(workspace: Workspace, shard: str, ids: Sequence[str]) -> Vectors:
    """The vectors of some of a shard's questions, shape (ids, d)."""
    rows = workspace.read("embed", shard, "embeddings", ["question_id", "vector"])
    return matrix(rows)[np.searchsorted(hex_column(rows.column("question_id")), np.array(list(ids), "S32"))]


def neighbours(ids: Sequence[str], vectors: Vectors, sample: Sample, cosine: float) -> npt.NDArray[np.float64]:
    """Neighbours of each question, without itself, scaled up from the sample to all."""
    inside = np.isin(np.array(list(ids), "S32"), sample.ids)
    counts = np.zeros(len(ids))
    for start in range(0, len(ids), BLOCK):
        counts[start : start + BLOCK] = _count_near(vectors[start : start + BLOCK], sample, cosine)
    counts = np.maximum(counts - inside, 0)
    others = np.where(inside, len(sample) - 1, len(sample))
    return counts * (sample.questions - 1) / np.maximum(others, 1)


def _count_near(vectors: Vectors, sample: Sample, cosine: float) -> npt.NDArray[np.int64]:
    """How many of the sample are at or above the cosine, for each of the vectors."""
    products = vectors.astype(np.float32) @ sample.wide.T
    rounding = 1.02 * vectors.shape[1] * 2.0**-24  # of a sum of d products of unit vectors, in any order
    above = (products >= cosine + rounding).sum(axis=1)
    row, column = np.nonzero((products >= cosine - rounding) & (products < cosine + rounding))
    for start in range(0, len(row), BLOCK):
        some, other = row[start : start + BLOCK], column[start : start + BLOCK]
        exact = np.einsum("ij,ij->i", vectors[some].astype(np.float64), sample.vectors[other].astype(np.float64))
        np.add.at(above, some, exact >= cosine)
    return np.asarray(above, np.int64)
