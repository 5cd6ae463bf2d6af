"""Proves that the join's pairs are those of brute force, whatever the precision, basis, block, threads and order, and
that crowds of copies stay bounded without breaking a cluster. The GPU's part is proved on the CPU, but for CUDA itself.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from tasks import similarity, similarity_forest, similarity_sketch
from tasks.similarity import scan, scan_tensor, similar_pairs
from tasks.similarity_exact import exact_cosines
from tasks.similarity_forest import PairCollector, spanning_forest
from tasks.similarity_sketch import choose_basis, make_sketch, unit_rows

CPU = torch.device("cpu")


def make_vectors(count, dimensions=48, seed=1, spread=0.0):
    """f16 unit vectors, a fifth of them near another; `spread` > 0 makes a few directions matter most."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(count, dimensions))
    if spread:
        rows *= np.exp(-spread * np.arange(dimensions))
    near = np.arange(0, count - 1, 5)
    rows[near] = rows[near + 1] + random.normal(size=(len(near), dimensions)) * random.uniform(0, 0.9, (len(near), 1))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float16)


def brute_force(vectors, threshold):
    wide = vectors.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    cosines = np.triu(wide @ wide.T, 1).astype(np.float32)
    return {(int(i), int(j)) for i, j in np.argwhere(cosines >= np.float32(threshold))}


def as_set(pairs):
    return set(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True))


def components(rows, left, right):
    graph = coo_matrix((np.ones(len(left)), (left, right)), shape=(rows, rows))
    labels = connected_components(graph, directed=False)[1]
    return sorted(tuple(np.flatnonzero(labels == label)) for label in np.unique(labels))


@pytest.mark.parametrize("low_precision", [True, False])
@pytest.mark.parametrize("spread", [0.0, 0.1])
@pytest.mark.parametrize("threshold", [0.3, 0.75, 0.95, 1.0])
def test_pairs_are_those_of_brute_force(monkeypatch, low_precision, spread, threshold):
    monkeypatch.setattr(similarity_sketch, "SAMPLE", 32)
    monkeypatch.setattr(similarity_sketch, "WIDTHS", (8, 16))
    monkeypatch.setattr(similarity_sketch, "product_seconds", lambda low: 1e-3)  # products dear: a short sketch
    vectors = make_vectors(700, spread=spread)
    vectors[600] = vectors[3]
    assert choose_basis(vectors, threshold, low_precision).columns is not None
    monkeypatch.setattr(similarity, "BLOCK", 128)
    found = similar_pairs(vectors, threshold, low_precision=low_precision)
    assert as_set(found) == brute_force(vectors, threshold) and (3, 600) in as_set(found)
    assert not found.thinned and found.found == len(found.left)
    values = exact_cosines(vectors, found.left, found.right)
    assert np.array_equal(found.cosine, np.minimum(values, 1).astype(np.float32))
    assert np.array_equal(np.lexsort((found.right, found.left)), np.arange(len(found.left)))


@pytest.mark.parametrize("low_precision", [True, False])
def test_no_product_of_sketches_is_below_the_cut_of_its_own_cosine(low_precision):
    """The margin itself: for every pair, the computed product reaches the cut of a threshold equal to its cosine."""
    for spread in (0.0, 0.1):
        vectors = make_vectors(400, spread=spread)
        for width in (4, 16, None):
            columns = None
            if width:
                rows = unit_rows(vectors)
                columns = np.linalg.eigh(rows.T @ rows)[1][:, -width:]
            basis = similarity_sketch.Basis(columns, low_precision)
            sketch = make_sketch(vectors, basis, CPU, np.zeros(400, bool))
            products = torch.mm(sketch.rows, sketch.rows.T).float().numpy()
            left, right = np.triu_indices(400, 1)
            cosines = exact_cosines(vectors, left, right)
            cuts = np.array([
                sketch.cut(c, slice(i, i + 1), slice(j, j + 1)) for c, i, j in zip(cosines, left, right, strict=True)
            ])  # fmt: skip
            high = cosines > 0.2
            assert (products[left, right] >= cuts)[high].all() and high.sum() > 30


def test_dense_tiles_give_what_single_pairs_give(monkeypatch):
    vectors = make_vectors(300, spread=0.3)
    sparse = similar_pairs(vectors, 0.5)
    monkeypatch.setattr(similarity, "DENSE", 0.0)
    dense = similar_pairs(vectors, 0.5)
    assert len(sparse.left) > 1000
    for name in ("left", "right", "cosine"):
        assert np.array_equal(getattr(sparse, name), getattr(dense, name))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_and_blocks_change_nothing(monkeypatch, threads):
    vectors = make_vectors(500)
    usual = similar_pairs(vectors, 0.8)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        monkeypatch.setattr(similarity, "BLOCK", 37)
        other = similar_pairs(vectors, 0.8)
    finally:
        assert torch.get_num_threads() == threads
        torch.set_num_threads(before)
    for name in ("left", "right", "cosine"):
        assert np.array_equal(getattr(usual, name), getattr(other, name))


def test_the_order_of_rows_changes_no_pair_and_no_cosine():
    vectors = make_vectors(500)
    order = np.random.default_rng(5).permutation(500)
    usual, other = similar_pairs(vectors, 0.8), similar_pairs(vectors[order], 0.8)
    named = {
        (min(i, j), max(i, j)): value
        for i, j, value in zip(order[other.left].tolist(), order[other.right].tolist(), other.cosine, strict=True)
    }
    assert named == dict(zip(zip(usual.left.tolist(), usual.right.tolist(), strict=True), usual.cosine, strict=True))


@pytest.mark.parametrize("new_share", [0.02, 0.5, 1.0])
def test_new_rows_with_all_and_the_old_pairs_are_all_pairs(monkeypatch, new_share):
    monkeypatch.setattr(similarity, "BLOCK", 64)
    vectors = make_vectors(400)
    vectors[200:210] = vectors[7]
    new = np.random.default_rng(3).random(400) < new_share
    whole = similar_pairs(vectors, 0.8)
    kept = ~new[whole.left] & ~new[whole.right]
    before = similarity.Pairs(whole.left[kept], whole.right[kept], whole.cosine[kept], int(kept.sum()), False)
    added = similar_pairs(vectors, 0.8, new=new, before=before)
    for name in ("left", "right", "cosine", "found"):
        assert np.array_equal(getattr(whole, name), getattr(added, name))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_a_vector_without_a_direction_is_like_nothing_not_even_its_own_kind(bad):
    vectors = make_vectors(200)
    expected = brute_force(np.delete(vectors, [10, 11, 12], axis=0), 0.1)
    vectors[10:13] = 0
    vectors[10:13, 0] = bad
    for dense in (1.0, 0.0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(similarity, "DENSE", dense)
            found = as_set(similar_pairs(vectors, 0.1))
        place = np.delete(np.arange(200), [10, 11, 12])
        assert found == {(int(place[i]), int(place[j])) for i, j in expected}


def test_no_rows_and_one_row_have_no_pairs():
    assert len(similar_pairs(np.zeros((0, 8), np.float16), 0.9).left) == 0
    assert len(similar_pairs(np.ones((1, 8), np.float16), 0.9).left) == 0


@pytest.mark.parametrize(("shape", "threshold"), [((3,), 0.9), ((3, 2), 0.0), ((3, 2), 1.1)])
def test_a_wrong_shape_or_threshold_says_what_was_expected(shape, threshold):
    with pytest.raises(ValueError, match=r"expected vectors of shape \(n, d\)"):
        similar_pairs(np.ones(shape, np.float16), threshold)


@pytest.mark.parametrize("budget", [100, 1000, 20_000])
@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.05])
def test_a_crowd_is_thinned_to_a_forest_with_the_same_clusters_at_every_threshold(monkeypatch, budget, noise):
    """300 texts all alike, to the bit (noise 0) or nearly; 45,000 pairs, of which fewer are kept than the budget."""
    monkeypatch.setattr(similarity, "pair_budget", lambda rows: budget)
    monkeypatch.setattr(similarity, "BLOCK", 64)
    vectors = make_vectors(600).astype(np.float32)
    random = np.random.default_rng(2)
    vectors[100:400] = vectors[0] + random.normal(size=(300, 48)) * noise / 7
    vectors = vectors.astype(np.float16)
    expected = brute_force(vectors, 0.9)
    found = similar_pairs(vectors, 0.9)
    assert found.thinned and found.found == len(expected) > 40_000 and len(found.left) < 600
    cosines = np.array([*exact_cosines(vectors, *np.array(sorted(expected)).T)])
    for threshold in (0.9, 0.95, 0.99, 0.9995):
        kept = found.cosine >= np.float32(threshold)
        every = np.array(sorted(expected))[np.minimum(cosines, 1).astype(np.float32) >= np.float32(threshold)]
        assert components(600, found.left[kept], found.right[kept]) == components(600, *every.T)


@pytest.mark.parametrize("block", [64, 150])
def test_the_forest_of_a_crowd_is_that_of_all_its_pairs_whatever_the_tiles(monkeypatch, block):
    monkeypatch.setattr(similarity, "pair_budget", lambda rows: 500)
    monkeypatch.setattr(similarity, "BLOCK", block)
    monkeypatch.setattr(similarity_forest, "AT_ONCE", 1)
    patterns = np.array(list(combinations(range(12), 6)))
    vectors = np.ones((400, 12), np.float16)
    np.put_along_axis(vectors, np.random.default_rng(2).permutation(patterns)[:400], np.float16(1.5), axis=1)
    left, right = np.triu_indices(400, 1)
    cosines = np.minimum(exact_cosines(vectors, left, right), 1).astype(np.float32)
    assert len(np.unique(cosines)) == 6, "most pairs are equally similar"
    kept = spanning_forest(400, left, right, cosines)
    found = similar_pairs(vectors, 0.5)
    assert found.found == len(left) and found.left.tolist() == left[kept].tolist()
    assert found.right.tolist() == right[kept].tolist() and found.cosine.tolist() == cosines[kept].tolist()


def test_copies_within_the_budget_are_paired_each_with_each():
    vectors = make_vectors(100)
    vectors[[20, 40, 60, 80]] = vectors[1]
    vectors[[21, 41]] = vectors[2]
    found = similar_pairs(vectors, 0.7)
    assert as_set(found) == brute_force(vectors, 0.7) and {(20, 40), (1, 80), (21, 41)} <= as_set(found)


def test_a_thinned_join_is_continued_as_one():
    collector = PairCollector(4, 2)
    collector.add(np.array([0, 0]), np.array([1, 2]), np.array([0.9, 0.8], np.float32), found=7, thinned=True)
    collector.add(np.array([1, 2]), np.array([2, 3]), np.array([0.95, 0.7], np.float32))
    found = collector.result()
    assert (found.found, found.thinned) == (9, True) and as_set(found) == {(0, 1), (1, 2), (2, 3)}


def test_of_equally_similar_pairs_the_forest_keeps_those_with_smaller_numbers():
    left, right = np.array([1, 0, 0]), np.array([2, 2, 1])
    kept = spanning_forest(3, left, right, np.full(3, 0.9, np.float32))
    assert kept.tolist() == [1, 2]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("cut", [0.5, 0.8999, 0.90234375])
def test_looking_through_a_product_finds_all_that_reach_the_cut(kind, cut):
    products = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (200, 300)).astype(np.float32)).to(kind)
    products[5, 7] = torch.tensor(cut, dtype=kind)
    expected = np.argwhere(products.double().numpy() >= cut).tolist()
    for look in (scan, scan_tensor):
        found = np.stack(look(products, cut, 60_000), axis=1).tolist()
        assert [pair for pair in expected if pair not in found] == []
        assert len(found) <= len(expected) + 0.01 * 200 * 300
        assert look(products, cut, len(found) - 1) is None


def test_a_bf16_product_is_not_cut_at_zero():
    with pytest.raises(ValueError, match="use fp32"):
        scan(torch.ones((2, 2), dtype=torch.bfloat16), 0.0, 4)
