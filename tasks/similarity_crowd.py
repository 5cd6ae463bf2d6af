"""A tile of a crowd, once only a spanning forest is kept: its pairs are counted, and few of them are looked at.

Nearly all pairs of a crowd are implied: their ends are connected in the forest by more similar pairs, so that they
can't be in it. To see that, a product in fp32 is enough, of what the vectors differ by from the tile's mean: it errs by
at most γ_d + 2 u times the lengths of the differences (u = 2⁻²⁴, d numbers each rounded once; similarity_sketch has the
reference), and the sums around it by a few u. So only pairs this close to the threshold are computed again to be
counted, and only pairs above the cut of their rows to be kept. The cut of a pair is the lower one of its rows': what
all steps through the forest from a row to the hub of its component are at least similar by.

Not covered: what a row is like that no forest connects yet. Such tiles give None, and are compared whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tasks.similarity_exact import rounded_cosines
from tasks.similarity_forest import Cosines, Ints, Reach
from tasks.similarity_sketch import unit_rows

MOST = 0.03
"""Share of a tile's pairs up to which they are computed one by one."""
UNIT = 2.0**-24
"""What fp32 rounds a number of size 1 by, at most."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Crowd:
    """Of one tile, how many pairs there are, and those that the forest may want, left < right."""

    found: int
    left: Ints
    right: Ints
    cosine: Cosines


def crowd_of_tile(vectors: npt.NDArray[Any], rows: Ints, columns: Ints, threshold: np.float32, *, once: Bools | None,
                  skip: Bools, sizes: Ints, reach: Reach) -> Crowd | None:  # fmt: skip
    """The pairs of `rows` and `columns` with cosine ≥ threshold; None if too many of them have to be looked at.

    `once`, of shape (rows, columns), says which pairs count; None: all. Rows marked by `skip` have no pair; a row
    stands for `sizes` equal ones, so that a pair counts as often as they have pairs.
    """
    if max(reach.alone[side].mean() for side in (rows, columns)) > MOST:
        return None
    most = int(MOST * len(rows) * len(columns))
    rough, error = _rough(vectors, rows, columns)
    if once is not None:
        rough[~once] = -1
    rough[skip[rows]] = -1
    rough[:, skip[columns]] = -1
    sure = rough >= np.float32(threshold + error)
    close = rough >= np.float32(threshold - error)
    close ^= sure
    if np.count_nonzero(close) > most:
        return None
    wanted = rough >= np.maximum(_cuts(rows, columns, reach), threshold) - np.float32(error + 2 * UNIT)
    if np.count_nonzero(wanted) > most:
        return None
    left, right, _ = _pairs(vectors, rows, columns, close, threshold)
    found = _weighted(sure, sizes[rows], sizes[columns]) + int((sizes[left] * sizes[right]).sum())
    return Crowd(found, *_pairs(vectors, rows, columns, wanted, threshold))


def _rough(vectors: npt.NDArray[Any], rows: Ints, columns: Ints) -> tuple[npt.NDArray[np.float32], float]:
    """The cosines, and how far they may be off: with unit vectors c + x and c + y, (c·c + c·x + c·y) + x·y."""
    one, other = unit_rows(vectors[rows]), unit_rows(vectors[columns])
    centre = one.mean(axis=0)
    one, other = one - centre, other - centre
    half = centre @ centre / 2
    fixed = [(side @ centre + half).astype(np.float32) for side in (one, other)]
    radii = [float(np.sqrt(np.einsum("ij,ij->i", side, side).max())) for side in (one, other)]
    parts = [torch.from_numpy(side.astype(np.float32)) for side in (one, other)]
    rough = torch.mm(parts[0], parts[1].T).numpy()
    rough += fixed[0][:, None] + fixed[1][None, :]
    return rough, (vectors.shape[1] + 8) * UNIT * radii[0] * radii[1] + 8 * UNIT


def _cuts(rows: Ints, columns: Ints, reach: Reach) -> Cosines:
    """The cut of each pair; 0 where no forest connects it."""
    cuts = np.minimum(reach.cut[rows][:, None], reach.cut[columns][None, :])
    one, other = reach.component[rows], reach.component[columns]
    if (one == one[0]).all() and (other == one[0]).all():
        return cuts
    cuts[one[:, None] != other[None, :]] = 0
    return cuts


def _pairs(vectors: npt.NDArray[Any], rows: Ints, columns: Ints, chosen: Bools,
           threshold: np.float32) -> tuple[Ints, Ints, Cosines]:  # fmt: skip
    row, column = np.nonzero(chosen)
    left, right = np.minimum(rows[row], columns[column]), np.maximum(rows[row], columns[column])
    values = rounded_cosines(vectors, left, right)
    good = values >= threshold
    return left[good], right[good], values[good]


def _weighted(chosen: Bools, one: Ints, other: Ints) -> int:
    """How many pairs the chosen ones stand for."""
    if one.max() == other.max() == 1:
        return int(np.count_nonzero(chosen))
    return int(one @ (chosen.astype(np.float32) @ other.astype(np.float64)).astype(np.int64))
