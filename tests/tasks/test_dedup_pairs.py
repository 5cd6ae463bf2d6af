"""Proves that pairs are kept: another threshold, filter or order compares nothing again, new texts only themselves."""

from __future__ import annotations

import numpy as np
import pytest

from flows.status import curation_lines, summary_markdown
from storage.workspace import ALL
from tasks import pairs, similarity, similarity_clusters
from tasks.report import write_report
from tasks.similarity import similar_pairs
from tasks.similarity_clusters import clustered_pairs

WORDS = ["apples", "pears", "plums", "figs", "dates", "limes", "nuts", "beans", "leeks", "oats"]
QUESTIONS = [
    text.format(one)
    for one in WORDS
    for text in (
        "Anna buys {} at the market for six coins. How much does she pay?",
        "Anna buys {} on the market for six coins. How much does she pay for them?",
        "Explain how {} are grown and stored in a cold country.",
    )
]


@pytest.fixture
def house(make_house):
    house = make_house(bits=1, curate={"filters": None, "near_duplicates": {"threshold": 0.9}})
    house.write("sums.jsonl", [{"question": text} for text in QUESTIONS])
    return house


@pytest.fixture
def compared(monkeypatch):
    """How many rows each join compared with all."""
    found = []

    def watched(vectors, threshold, *, new=None, **more):
        found.append(len(vectors) if new is None else int(new.sum()))
        return similar_pairs(vectors, threshold, new=new, **more)

    monkeypatch.setattr(similarity, "similar_pairs", watched)
    return found


def kept_pairs(house):
    known = pairs.read_pairs(house.workspace, house.workspace.need("pairs", ALL))
    texts = known.texts
    return {
        (texts[i], texts[j]): round(float(value), 4)
        for i, j, value in zip(known.pairs.left, known.pairs.right, known.pairs.cosine, strict=True)
    }


def curated(house):
    return sorted(row["question_id"] for row in house.rows("curate", "curated"))


def test_a_higher_threshold_or_another_filter_compares_nothing_and_gives_what_a_fresh_run_gives(
    house, compared, tmp_path
):
    house.run("curate")
    assert compared == [30] and kept_pairs(house)
    few = len(curated(house))
    house.recipe["curate"]["near_duplicates"] = {"threshold": 0.97}
    house.run("curate")
    house.recipe["curate"]["filters"] = {}
    house.run("curate")
    assert compared == [30] and few < len(curated(house)) and house.run("curate") == []
    fresh = house.copy(tmp_path / "fresh")
    fresh.run("curate")
    assert curated(fresh) == curated(house) and len(kept_pairs(fresh)) < len(kept_pairs(house))
    assert house.workspace.need("pairs", ALL).extra["threshold"] == 0.9


def test_a_lower_threshold_compares_all(house, compared):
    house.run("curate")
    house.recipe["curate"]["near_duplicates"] = {"threshold": 0.8}
    house.run("curate")
    assert compared == [30, 30] and house.workspace.need("pairs", ALL).extra["threshold"] == 0.8


def test_added_questions_are_compared_with_all_and_the_old_pairs_stay(house, compared, tmp_path):
    house.write("sums.jsonl", [{"question": text} for text in QUESTIONS[:20]])
    house.run("curate")
    house.write("sums.jsonl", [{"question": text} for text in QUESTIONS])
    house.run("curate")
    assert compared == [20, 10]
    head = house.workspace.need("pairs", ALL)
    assert len(head.data()) == 2 and head.books[0].units_out == 30
    fresh = house.copy(tmp_path / "fresh")
    fresh.run("curate")
    assert kept_pairs(fresh) == kept_pairs(house) and curated(fresh) == curated(house)


def test_a_question_that_goes_and_returns_is_not_compared_again(house, compared):
    house.recipe["sources"][0]["mode"] = "mirror"
    house.run("curate")
    before = curated(house)
    house.write("sums.jsonl", [{"question": text} for text in QUESTIONS[:10]])
    house.run("curate")
    assert len(curated(house)) < len(before)
    house.write("sums.jsonl", [{"question": text} for text in QUESTIONS])
    house.run("curate")
    assert compared == [30] and curated(house) == before


def test_many_small_parts_become_one(house, monkeypatch):
    monkeypatch.setattr(pairs, "MOST_PARTS", 3)
    for count in (5, 10, 15, 20):
        house.write("sums.jsonl", [{"question": text} for text in QUESTIONS[:count]])
        house.run("curate")
        parts = len(house.workspace.need("pairs", ALL).data())
    assert parts == 1 and house.workspace.need("pairs", ALL).books[0].units_out == 20


def test_the_same_whatever_the_shards_and_the_order_of_input(house, tmp_path):
    house.run("curate")
    house.write("sums.jsonl", [{"question": text} for text in reversed(QUESTIONS)])
    other = house.copy(tmp_path / "other", bits=3)
    other.run("curate")
    assert kept_pairs(other) == kept_pairs(house) and len(kept_pairs(house)) >= 10
    assert other.rows("dedup", "duplicates") == house.rows("dedup", "duplicates")
    assert other.ledger("curate") == house.ledger("curate")


def test_a_thinned_slice_keeps_its_clusters_and_is_made_anew_when_a_text_goes(house, monkeypatch, tmp_path):
    whole = house.copy(tmp_path / "whole")
    whole.run("curate")
    from tasks import similarity

    monkeypatch.setattr(similarity, "pair_budget", lambda rows: 5)
    house.recipe["sources"][0]["mode"] = "mirror"
    house.write("sums.jsonl", [{"question": text} for text in QUESTIONS[:20]])
    house.run("curate")
    house.write("sums.jsonl", [{"question": text} for text in QUESTIONS])
    house.run("curate")
    head = house.workspace.need("pairs", ALL)
    assert head.extra["thinned"] and head.extra["found"] == len(kept_pairs(whole)) and len(head.data()) == 1
    assert curated(house) == curated(whole)
    gone = house.write("sums.jsonl", [{"question": text} for text in QUESTIONS[1:]])
    assert gone.exists()
    house.run("curate")
    fresh = house.copy(tmp_path / "fresh")
    fresh.run("curate")
    assert curated(house) == curated(fresh)
    house.recipe["curate"]["clusters"] = {"by": "representatives"}
    with pytest.raises(Exception, match="needs every pair"):
        house.run("curate")


def make_groups(groups, size, seed=0):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(groups, 32))
    rows = np.repeat(centres, size, axis=0) + random.normal(size=(groups * size, 32)) * 0.35
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def test_clusters_with_overlap_find_only_true_pairs_and_their_recall_is_measured(monkeypatch):
    monkeypatch.setattr(similarity_clusters, "ROWS_PER_CLUSTER", 200)
    monkeypatch.setattr(similarity_clusters, "CHECKED", 3000)
    vectors = make_groups(300, 10)
    found, recall = clustered_pairs(vectors, 0.9)
    exact = similar_pairs(vectors, 0.9)
    mine, all_of_them = (set(zip(one.left.tolist(), one.right.tolist(), strict=True)) for one in (found, exact))
    assert mine <= all_of_them and len(found.left) == len(mine)
    assert recall == pytest.approx(len(mine) / len(all_of_them)) and recall > 0.95
    monkeypatch.setattr(similarity_clusters, "NEAREST", 1)
    worse, low = clustered_pairs(vectors, 0.9)
    assert len(worse.left) < len(found.left) and low == pytest.approx(len(worse.left) / len(all_of_them))


def test_a_recipe_above_its_size_uses_clusters_and_says_what_recall_was_measured(house):
    house.recipe["curate"]["near_duplicates"] = {"threshold": 0.9, "exact_up_to": 8}
    house.run("curate")
    extra = house.workspace.need("pairs", ALL).extra
    assert extra["method"] == "clusters" and 0 < extra["recall"] <= 1
    (line,) = curation_lines(house.workspace)
    assert f"recall {extra['recall']:.4f}, measured on random texts" in line and "cosine ≥ 0.9" in line
    page = write_report(house.workspace, "t", None).read_text(encoding="utf-8")
    assert f"<li>{line}</li>" in page


def test_an_exact_join_says_so_and_a_workspace_without_one_says_nothing(house):
    assert curation_lines(house.workspace) == []
    house.run("curate")
    (line,) = curation_lines(house.workspace)
    assert line.startswith("near-duplicates: ") and line.endswith("compared: all texts with all")
    assert line in summary_markdown(house.workspace, [], {})
