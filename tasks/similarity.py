"""All pairs of vectors with cosine ≥ threshold, exactly, without ever holding n × n numbers.

Tiles of the upper triangle are products of short sketches (similarity_sketch), bf16 on a matrix unit where there is
one; what reaches a proven cut is computed again in float64. The products of two f16 numbers are multiples of 2⁻⁴⁸, so
that a float64 sum of them is exact in any order: the cosines, and so the pairs, depend on no block, thread or device.

Covered: rows that are zero or not finite have no pair; equal rows are compared once, and expanded; crowds are thinned
above a budget (similarity_forest says to what). Not covered: vectors in float32 are summed to about 1e-15 only.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tasks.similarity_copies import Copies
from tasks.similarity_crowd import Crowd, crowd_of_tile
from tasks.similarity_exact import nothing_for_nan, rounded_cosines
from tasks.similarity_forest import Cosines, Ints, PairCollector, Pairs, pair_budget
from tasks.similarity_sketch import Sketch, choose_basis, low_precision_pays, make_sketch, widened

BLOCK = 2048
GPU_BLOCK = 16_384
DENSE = 0.02
"""Share of a tile's pairs from which one product of the whole vectors is cheaper than pair by pair."""
LOWEST_FOR_BF16 = 0.2
"""Below, a bf16 product's cut could fall to zero, where almost everything passes."""

Vectors = npt.NDArray[Any]
Progress = Callable[[int], None]


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def similar_pairs(
    vectors: Vectors,
    threshold: float,
    *,
    new: npt.NDArray[np.bool_] | None = None,
    before: Pairs | None = None,
    device: torch.device | None = None,
    low_precision: bool | None = None,
    advance: Progress = lambda rows: None,
) -> Pairs:
    """All pairs (i < j) with cosine ≥ threshold (0 < threshold ≤ 1) of `vectors`, shape (n, d), f16 or f32.

    `new` marks rows that are to be compared with all; pairs of two others are not looked for, but taken from `before`.
    `advance` is told how many rows are done. Raises ValueError for another shape or threshold.
    """
    if vectors.ndim != 2 or not 0 < threshold <= 1:
        raise ValueError(f"expected vectors of shape (n, d) and 0 < threshold ≤ 1, got {vectors.shape}, {threshold}")
    collector = PairCollector(len(vectors), pair_budget(len(vectors)))
    if before is not None:
        collector.add(before.left, before.right, before.cosine, found=before.found, thinned=before.thinned)
    rows = np.arange(len(vectors)) if new is None else np.flatnonzero(new)
    if len(rows) and len(vectors) > 1:
        copies = Copies(vectors, rows)
        copies.add_to(collector)
        join = _Join(vectors, threshold, device or best_device(), low_precision, copies.skip)

        def crowd(tile: _Tile) -> Crowd | None:
            """What the tile has for the forest; None where there is none yet."""
            reach = collector.reach
            if reach is None:
                return None
            sides, once = (tile.numbers(), tile.column_numbers()), tile.once(new)
            return crowd_of_tile(vectors, *sides, np.float32(threshold), once=once, skip=copies.skip,
                                 sizes=copies.sizes, reach=reach)  # fmt: skip

        for tile, hits in join.search(rows, whole=new is None, crowd=crowd, advance=advance):
            if isinstance(hits, Crowd):
                _add_crowd(collector, hits)
            elif hits is not None:
                copies.expand_into(collector, *join.check(*hits, new))
            else:
                for piece in tile.pieces():
                    if join.large and (found := crowd(piece)) is not None:
                        _add_crowd(collector, found)
                    else:
                        sides = piece.numbers(), piece.column_numbers()
                        copies.add_block(collector, *sides, *join.compare_whole(piece, new))
    return collector.result()


def _add_crowd(collector: PairCollector, crowd: Crowd) -> None:
    collector.add(crowd.left, crowd.right, crowd.cosine, found=crowd.found, thinned=True)


Found = tuple[Ints, Ints, Cosines]
Hits = tuple[Ints, Ints]


@dataclass(frozen=True)
class _Tile:
    """Row numbers on both sides."""

    rows: Any
    columns: slice
    last_of_rows: int
    """how many rows are done after this tile"""

    def numbers(self) -> Ints:
        if isinstance(self.rows, np.ndarray):
            return self.rows
        return np.arange(self.rows.start, self.rows.stop)

    def column_numbers(self) -> Ints:
        return np.arange(self.columns.start, self.columns.stop)

    def once(self, new: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_] | None:
        """Which pairs of the tile to take, shape (rows, columns); None: all."""
        rows, columns = self.numbers(), self.column_numbers()
        if rows[-1] < columns[0]:
            return None
        return _once(rows[:, None], columns[None, :], new)

    def pieces(self) -> Iterator[_Tile]:
        """The tile in parts of BLOCK on both sides, which memory has room for in float64."""
        height = len(self.numbers())
        for top in range(0, height, BLOCK):
            bottom = min(top + BLOCK, height)
            if isinstance(self.rows, np.ndarray):
                rows: Any = self.rows[top:bottom]
            else:
                rows = slice(self.rows.start + top, self.rows.start + bottom)
            for start in range(self.columns.start, self.columns.stop, BLOCK):
                yield _Tile(rows, slice(start, min(start + BLOCK, self.columns.stop)), 0)


class _Join:
    def __init__(self, vectors: Vectors, threshold: float, device: torch.device, low_precision: bool | None,
                 skip: npt.NDArray[np.bool_]) -> None:  # fmt: skip
        self._vectors, self._threshold, self._device = vectors, np.float32(threshold), device
        low = low_precision if low_precision is not None else low_precision_pays(device)
        basis = choose_basis(vectors, threshold, low and threshold >= LOWEST_FOR_BF16)
        self._sketch: Sketch = make_sketch(vectors, basis, device, skip)
        self.large = device.type != "cpu"
        """Tiles are larger than BLOCK, and crowds among them are looked at in pieces."""
        self._block = GPU_BLOCK if self.large else BLOCK
        self._room = threading.local()

    def search(self, rows: Ints, *, whole: bool, crowd: Callable[[_Tile], Crowd | None],
               advance: Progress) -> Iterator[tuple[_Tile, Hits | Crowd | None]]:  # fmt: skip
        """Each tile with what survived in it, in the same order whatever the number of threads.

        Where that is too much: what `crowd` says of it, or None.
        """
        done = 0
        for tile, hits in self._in_order(self._tiles(rows, whole=whole), crowd):
            yield tile, hits
            if tile.last_of_rows:
                advance(tile.last_of_rows - done)
                done = tile.last_of_rows

    def _tiles(self, rows: Ints, *, whole: bool) -> Iterator[_Tile]:
        count = len(self._vectors)
        for top in range(0, len(rows), self._block):
            bottom = min(top + self._block, len(rows))
            side: Any = slice(top, bottom) if whole else rows[top:bottom]
            for start in range(top if whole else 0, count, self._block):
                last = start + self._block >= count
                yield _Tile(side, slice(start, min(start + self._block, count)), bottom if last else 0)

    def _in_order(self, tiles: Iterator[_Tile],
                  crowd: Callable[[_Tile], Crowd | None]) -> Iterator[tuple[_Tile, Hits | Crowd | None]]:  # fmt: skip
        if self._device.type != "cpu":
            with _full_precision_sums():
                for tile in tiles:
                    yield tile, self._survivors(tile)
            return
        workers = min(torch.get_num_threads(), os.cpu_count() or 1)

        def look(tile: _Tile) -> Hits | Crowd | None:
            hits = self._survivors(tile)
            return crowd(tile) if hits is None else hits

        with _one_thread_each(workers) as pool:
            waiting: deque[tuple[_Tile, Future[Hits | Crowd | None]]] = deque()
            for tile in tiles:
                waiting.append((tile, pool.submit(look, tile)))
                if len(waiting) > 2 * workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()

    def _survivors(self, tile: _Tile) -> Hits | None:
        """Row numbers of the pairs whose sketches' product reaches the cut; None where they are more than DENSE."""
        one, other = self._sketch.rows[tile.rows], self._sketch.rows[tile.columns]
        cut = self._sketch.cut(float(self._threshold) * (1 - 2.0**-23), tile.rows, tile.columns)
        products = torch.mm(one, other.T, out=self._space(len(one), len(other)))
        most = int(DENSE * len(one) * len(other))
        hits = scan(products, cut, most) if self._device.type == "cpu" else scan_tensor(products, cut, most)
        if hits is None:
            return None
        row, column = hits
        numbers = tile.rows[row] if isinstance(tile.rows, np.ndarray) else row + tile.rows.start
        return numbers, column + tile.columns.start

    def _space(self, height: int, width: int) -> torch.Tensor:
        """Room for a tile's product, one for each thread: fresh memory costs as much as the product."""
        room: torch.Tensor | None = getattr(self._room, "tile", None)
        if room is None:
            room = self._room.tile = torch.empty(self._block**2, dtype=self._sketch.rows.dtype, device=self._device)
        return room[: height * width].view(height, width)

    def check(self, left: Ints, right: Ints, new: npt.NDArray[np.bool_] | None) -> Found:
        """Of the survivors, each pair once, those that are pairs."""
        once = _once(left, right, new)
        left, right = np.minimum(left[once], right[once]), np.maximum(left[once], right[once])
        values = rounded_cosines(self._vectors, left, right)
        good = values >= self._threshold
        return left[good], right[good], values[good]

    def compare_whole(self, tile: _Tile, new: npt.NDArray[np.bool_] | None) -> tuple[Cosines, npt.NDArray[np.bool_]]:
        """All cosines of a tile, the same numbers as `exact_cosines`, and which are pairs; shape (rows, columns)."""
        one, other = widened(self._vectors[tile.rows]), widened(self._vectors[tile.columns])
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            values = one @ other.T
            values /= np.sqrt(np.einsum("ij,ij->i", one, one)[:, None] * np.einsum("ij,ij->i", other, other)[None, :])
        cosines = np.minimum(nothing_for_nan(values), 1.0).astype(np.float32)
        rows, columns = tile.numbers()[:, None], tile.column_numbers()[None, :]
        return cosines, (cosines >= self._threshold) & _once(rows, columns, new)


def _once(left: Ints, right: Ints, new: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_]:
    """Which pairs to take, so that each is taken once: two new rows meet twice, a new and an old one once."""
    if new is None:
        return left < right
    return (left < right) | ~new[right]


def scan(products: torch.Tensor, cut: float, most: int) -> Hits | None:
    """Rows and columns of the numbers ≥ cut, None if more than `most`.

    bf16 is compared as integers, which order as the numbers do above 0. ValueError for bf16 and a cut ≤ 0.
    """
    if products.dtype == torch.bfloat16:
        if cut <= 0:
            raise ValueError(f"a bf16 product can't be cut at {cut}; use fp32")
        numbers: Any = products.view(torch.int16).numpy()
        limit: Any = np.int16(np.float32(cut).view(np.int32) >> 16)  # rounded down
    else:
        numbers, limit = products.numpy(), np.float32(np.nextafter(np.float32(cut), np.float32(-2)))
    rows = np.flatnonzero(numbers.max(axis=1) >= limit)
    if not len(rows):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    reach = numbers[rows] >= limit
    if np.count_nonzero(reach) > most:
        return None
    some, columns = np.nonzero(reach)
    return rows[some], columns


def scan_tensor(products: torch.Tensor, cut: float, most: int) -> Hits | None:
    """`scan` on the device that the products lie on."""
    limit = torch.nextafter(torch.tensor(cut, dtype=products.dtype), torch.tensor(-2.0, dtype=products.dtype))
    reach = products >= limit.to(products.device)
    if int(torch.count_nonzero(reach)) > most:
        return None
    found = torch.nonzero(reach).cpu().numpy()
    return found[:, 0], found[:, 1]


@contextmanager
def _one_thread_each(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Workers that each make a tile's product and look through it; torch's own threads would wait for the looking."""
    before = torch.get_num_threads()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield pool
        finally:
            torch.set_num_threads(before)  # part of the setting is the process's, not the thread's


@contextmanager
def _full_precision_sums() -> Iterator[None]:
    """The bound holds for sums in fp32; CUDA may otherwise add the parts of a bf16 product in bf16."""
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction, matmul.allow_tf32
    matmul.allow_bf16_reduced_precision_reduction = matmul.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_bf16_reduced_precision_reduction, matmul.allow_tf32 = before
