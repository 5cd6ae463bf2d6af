"""A coreset by k-centre: k questions such that no question is far from one of them.

Greedy (Gonzalez 1985; for data sets Sener and Savarese 2018, arXiv 1708.00489): the next centre is always the question
that is farthest from all centres so far, which keeps the largest distance within twice the best possible. Exact, in
blocks over a file, so that memory is bounded by the block whatever the number of questions; time grows with questions ×
centres × dimensions. Distance is 1 − cosine, compared to thousandths, since the last
digits of an embedding depend on its batch; ties go to the lesser id.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 65_536
"""rows multiplied at once; fixed, so that the numbers don't depend on shards"""

Floats = npt.NDArray[np.float32]


class VectorFile:
    """Unit vectors in a file of shape (rows, d), f32, filled in any order."""

    def __init__(self, path: Path, rows: int, dimensions: int) -> None:
        self.vectors: Any = np.lib.format.open_memmap(path, "w+", np.float32, (rows, dimensions))

    def put(self, places: npt.NDArray[np.int64], vectors: npt.NDArray[Any]) -> None:
        self.vectors[places] = vectors.astype(np.float32)


def k_centres(vectors: Any, wanted: int, first: int) -> tuple[list[int], Floats]:
    """The places of `wanted` centres, the one at `first` to begin with, and each row's distance to the nearest, 0..2.

    `vectors`: shape (n, d), f32, unit length, an array or a memory map. Fewer centres where fewer rows differ.
    """
    distances = np.full(len(vectors), np.inf, np.float32)
    centres = [first]
    while True:
        centre = np.array(vectors[centres[-1]])
        for start in range(0, len(vectors), BLOCK):
            block = slice(start, start + BLOCK)
            np.minimum(distances[block], 1 - vectors[block] @ centre, out=distances[block])
        distances[centres[-1]] = 0
        rounded = np.round(distances, 3)
        farthest = int(np.argmax(rounded))
        if len(centres) == wanted or rounded[farthest] <= 0:
            return centres, np.maximum(distances, 0)
        centres.append(farthest)
