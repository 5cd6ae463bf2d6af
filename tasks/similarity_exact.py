"""Cosines of single pairs of rows, in float64: what every pair is decided by."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.similarity_sketch import widened

GATHER = 8192

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def exact_cosines(vectors: npt.NDArray[Any], left: Ints, right: Ints) -> Floats:
    """Cosines of pairs of rows, from float64; 0 where a row is zero or not finite."""
    found = np.zeros(len(left))
    for start in range(0, len(left), GATHER):
        piece = slice(start, start + GATHER)
        found[piece] = _cosines(widened(vectors[left[piece]]), widened(vectors[right[piece]]))
    return found


def rounded_cosines(vectors: npt.NDArray[Any], left: Ints, right: Ints) -> npt.NDArray[np.float32]:
    """The same as pairs keep them: float32, at most 1."""
    return np.minimum(exact_cosines(vectors, left, right), 1.0).astype(np.float32)


def nothing_for_nan(values: Floats) -> Floats:
    """Zero where a row has no direction."""
    return np.where(np.isfinite(values), values, 0.0)


def _cosines(one: Floats, other: Floats) -> Floats:
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        squares = np.einsum("ij,ij->i", one, one) * np.einsum("ij,ij->i", other, other)
        values = np.einsum("ij,ij->i", one, other) / np.sqrt(squares)
    return nothing_for_nan(values)
