"""Proves that a tile of a crowd is counted as by brute force, that nothing is left out which the forest wants, and
that a join which takes this road ends with the forest of all pairs. How fast it is, tests/bench/dedup shows.
"""

from __future__ import annotations

import numpy as np
import pytest

from tasks import similarity, similarity_crowd
from tasks.similarity import similar_pairs
from tasks.similarity_crowd import crowd_of_tile
from tasks.similarity_exact import rounded_cosines
from tasks.similarity_forest import reach_of, spanning_forest


def make_crowds(count, crowds=1, noise=0.2, seed=1):
    """f16 unit vectors in crowds, mixed; some rows are much farther out than others."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(crowds, 48))
    far = random.choice([1.0, 3.0], size=(count, 1), p=[0.9, 0.1])
    rows = centres[np.arange(count) % crowds] + random.normal(size=(count, 48)) * noise * far
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def all_pairs(vectors, threshold):
    left, right = np.triu_indices(len(vectors), 1)
    values = rounded_cosines(vectors, left, right)
    good = values >= np.float32(threshold)
    return left[good], right[good], values[good]


def bottlenecks(count, left, right, cosine):
    """For each two rows the largest least edge of a way between them; −1 without one. Floyd and Warshall's way."""
    found = np.full((count, count), -1.0, np.float32)
    found[left, right] = found[right, left] = cosine
    for middle in range(count):
        found = np.maximum(found, np.minimum(found[:, middle, None], found[None, middle, :]))
    return found


def forest_of(vectors, threshold, some=slice(None)):
    left, right, value = (column[some] for column in all_pairs(vectors, threshold))
    kept = spanning_forest(len(vectors), left, right, value)
    return left[kept], right[kept], value[kept]


@pytest.mark.parametrize("crowds", [1, 3])
def test_no_pair_is_implied_by_less_than_the_way_through_the_forest(crowds):
    vectors = make_crowds(90, crowds)
    left, right, value = forest_of(vectors, 0.8)
    reach = reach_of(90, left, right, value)
    true = bottlenecks(90, left, right, value)
    same = reach.component[:, None] == reach.component[None, :]
    assert np.array_equal(same, (true >= 0) | np.eye(90, dtype=bool))
    implied = np.minimum(reach.cut[:, None], reach.cut[None, :])
    off = same & ~np.eye(90, dtype=bool)
    assert (implied[off] <= true[off]).all() and (implied[off] == true[off]).mean() > 0.5
    assert np.array_equal(reach.alone, ~np.isin(np.arange(90), [*left, *right]))


def test_a_forest_without_an_edge_implies_nothing():
    reach = reach_of(3, *(np.zeros(0, np.int64),) * 2, np.zeros(0, np.float32))
    assert reach.alone.all() and len(set(reach.component.tolist())) == 3


@pytest.mark.parametrize("noise", [0.2, 0.02])
@pytest.mark.parametrize("crowds", [1, 3])
def test_a_tile_is_counted_and_all_that_the_forest_wants_is_handed_on(monkeypatch, crowds, noise):
    """The forest has seen every fifth pair; the threshold lies amid the cosines, so that rounding could decide."""
    monkeypatch.setattr(similarity_crowd, "MOST", 1.0)
    vectors = make_crowds(200, crowds, noise)
    left, right, value = all_pairs(vectors, 0.1)
    threshold = np.quantile(value, 0.3)
    some = forest_of(vectors, threshold, slice(None, None, 5))
    rows, columns = np.arange(100), np.arange(100, 200)
    tile = (left < 100) & (right >= 100) & (value >= threshold)
    found = crowd_of_tile(vectors, rows, columns, threshold, once=None, skip=np.zeros(200, bool),
                          sizes=np.ones(200, np.int64), reach=reach_of(200, *some))  # fmt: skip
    assert found.found == tile.sum() > 1000
    handed = set(zip(found.left.tolist(), found.right.tolist(), strict=True))
    known = set(zip(some[0].tolist(), some[1].tolist(), strict=True))
    seen = tile | np.array([pair in known for pair in zip(left.tolist(), right.tolist(), strict=True)])
    wanted = spanning_forest(200, left[seen], right[seen], value[seen])
    assert set(zip(left[seen][wanted].tolist(), right[seen][wanted].tolist(), strict=True)) <= handed | known
    assert len(handed) < tile.sum(), "something is implied"
    exact = dict(zip(zip(left.tolist(), right.tolist(), strict=True), value.tolist(), strict=True))
    values = zip(found.left.tolist(), found.right.tolist(), found.cosine.tolist(), strict=True)
    assert all(exact[one, two] == cosine for one, two, cosine in values)


def test_copies_count_as_often_as_there_are_pairs_of_them_and_skipped_rows_not_at_all(monkeypatch):
    monkeypatch.setattr(similarity_crowd, "MOST", 1.0)
    vectors = make_crowds(60, noise=0.02)
    sizes, skip = np.ones(60, np.int64), np.zeros(60, bool)
    sizes[[3, 40]], sizes[[4, 50]], skip[[4, 50]] = (2, 70_000), 0, True
    reach = reach_of(60, *forest_of(vectors, 0.5))
    rows, columns = np.arange(30), np.arange(30, 60)
    found = crowd_of_tile(vectors, rows, columns, np.float32(0.5), once=None, skip=skip, sizes=sizes, reach=reach)
    assert found.found == sizes[:30].sum() * sizes[30:].sum()


def test_a_tile_of_rows_that_no_forest_knows_is_left_to_others():
    vectors = make_crowds(60, noise=0.02)
    reach = reach_of(60, np.array([0]), np.array([1]), np.array([0.9], np.float32))
    sides = np.arange(30), np.arange(30, 60)
    assert crowd_of_tile(vectors, *sides, np.float32(0.5), once=None, skip=np.zeros(60, bool),
                         sizes=np.ones(60, np.int64), reach=reach) is None  # fmt: skip


@pytest.mark.parametrize("crowds", [1, 4])
@pytest.mark.parametrize("new_from", [None, 350])
def test_a_join_of_crowds_ends_with_the_forest_of_all_its_pairs(monkeypatch, crowds, new_from):
    taken = []

    def seen(*sides, **more):
        taken.append(crowd_of_tile(*sides, **more))
        return taken[-1]

    monkeypatch.setattr(similarity, "pair_budget", lambda rows: 500)
    monkeypatch.setattr(similarity, "BLOCK", 50)
    monkeypatch.setattr(similarity, "crowd_of_tile", seen)
    vectors = make_crowds(500, crowds, noise=0.05)
    vectors[100:110] = vectors[7]
    left, right, value = all_pairs(vectors, 0.7)
    kept = spanning_forest(500, left, right, value)
    before = new = None
    if new_from is not None:
        new = np.arange(500) >= new_from
        before = similar_pairs(vectors[:new_from], 0.7)
    found = similar_pairs(vectors, 0.7, new=new, before=before)
    assert any(one is not None for one in taken) and found.thinned and found.found == len(left)
    assert np.array_equal(np.sort(found.cosine), np.sort(value[kept])) and len(kept) == 500 - crowds


@pytest.mark.parametrize("rows", [slice(10, 45), np.array([3, 8, 9, 30, 31])])
def test_a_large_tile_of_a_graphics_card_is_looked_at_in_pieces_that_cover_it_once(monkeypatch, rows):
    monkeypatch.setattr(similarity, "BLOCK", 16)
    tile = similarity._Tile(rows, slice(5, 50), 45)
    seen = [(one, other) for piece in tile.pieces() for one in piece.numbers() for other in piece.column_numbers()]
    assert sorted(seen) == [(one, other) for one in tile.numbers() for other in tile.column_numbers()]
    assert all(len(piece.numbers()) <= 16 >= len(piece.column_numbers()) for piece in tile.pieces())
