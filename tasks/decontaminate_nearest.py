"""The nearest benchmark items of each question by cosine, by matrix products in blocks; never N × M in memory.

A product in bf16 where the processor is fast at it, else in fp32, finds what may be near; its error is below MARGIN,
and what it finds is computed again in fp64, so that the last digits don't depend on the block. All items at or above
the floor compete; ties go to the smaller item number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.decontaminate_text import Ints

BLOCK = 1024
MARGIN = 4e-3
SPARE = 3
"""Items kept beyond those asked for, since bf16 may have their order wrong."""
NEXT = 10
"""Items whose mean cosine says how near a question is to the whole benchmark."""

Cosines = npt.NDArray[np.float64]


class ItemMatrix:
    """The items' vectors, made ready once for all batches of questions."""

    def __init__(self, items: npt.NDArray[Any]) -> None:
        """`items` (m, d) are unit vectors."""
        import torch  # slow to import

        from tasks.similarity_sketch import low_precision_pays

        self._vectors = np.asarray(items)
        self._kind = torch.bfloat16 if low_precision_pays(torch.device("cpu")) else torch.float32
        self._rows = torch.from_numpy(np.ascontiguousarray(items, np.float32)).to(self._kind)

    def nearest(self, questions: npt.NDArray[Any], count: int, floor: float) -> tuple[Ints, Ints, Cosines]:
        """(question, item, cosine) of the `count` nearest items with cosine ≥ floor, by question.

        `questions` (n, d) are unit vectors; 0 < floor ≤ 1.
        """
        import torch

        room = torch.empty((BLOCK, len(self._vectors)), dtype=self._kind)  # fresh memory costs as much as the product
        found = [self._of_block(questions[top : top + BLOCK], top, count, floor, room)
                 for top in range(0, len(questions), BLOCK)]  # fmt: skip
        if not found:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
        row, item, cosine = (np.concatenate(column) for column in zip(*found, strict=True))
        return row, item, cosine

    def _of_block(self, block: npt.NDArray[Any], top: int, count: int, floor: float,
                  room: Any) -> tuple[Ints, Ints, Cosines]:  # fmt: skip
        import torch

        from tasks.similarity import scan

        block = np.ascontiguousarray(block, np.float32)
        products = torch.mm(torch.from_numpy(block).to(self._kind), self._rows.T, out=room[: len(block)])
        hits = scan(products, floor - MARGIN, products.numel())
        assert hits is not None
        row, item = hits
        row, item = _first(row, item, products[row, item].float().numpy(), count + SPARE)
        exact = self._vectors[item].astype(np.float64)
        cosine = np.minimum(np.einsum("ij,ij->i", block[row].astype(np.float64), exact), 1.0)
        near = cosine >= floor
        row, item, cosine = row[near], item[near], cosine[near]
        order = _order(row, item, cosine, count)
        return row[order] + top, item[order], cosine[order]


def _first(row: Ints, item: Ints, value: Cosines, count: int) -> tuple[Ints, Ints]:
    order = _order(row, item, value, count)
    return row[order], item[order]


def _order(row: Ints, item: Ints, value: Cosines, count: int) -> Ints:
    """The places of the `count` greatest values of each row, by row and falling value."""
    order = np.lexsort((item, -value, row))
    starts = np.searchsorted(row[order], row[order], side="left")
    return order[np.arange(len(order)) - starts < count]


def around(question: Ints, cosine: Cosines, questions: int, first: int, floor: float) -> Cosines:
    """(questions,) mean cosine of the NEXT items after the `first` nearest; what lies below the floor counts as it.

    `question` and `cosine` are those of `ItemMatrix.nearest` with count ≥ first + NEXT.
    """
    rank = np.arange(len(question)) - np.searchsorted(question, question, side="left")
    chosen = (rank >= first) & (rank < first + NEXT)
    excess = np.bincount(question[chosen], weights=cosine[chosen] - floor, minlength=questions)
    return floor + excess / NEXT


def above_others(cosines: Cosines, benchmark: Ints) -> Cosines:
    """Each cosine of (questions, items) minus the mean of the NEXT highest of that benchmark after the first.

    A benchmark with fewer items is measured by those it has; with one alone the difference is 0.
    """
    found = np.zeros_like(cosines)
    for one in np.unique(benchmark):
        mine = np.flatnonzero(benchmark == one)
        part = cosines[:, mine]
        last = min(NEXT, len(mine) - 1)
        if last >= 1:
            highest = np.sort(np.partition(part, len(mine) - last - 1, axis=1)[:, len(mine) - last - 1 :], axis=1)
            found[:, mine] = part - highest[:, :-1].mean(axis=1, keepdims=True)
    return found
