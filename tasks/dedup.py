"""Dedup: clusters of equal and near-equal questions, one representative each, one split for the whole cluster.

Pairs with cosine ≥ threshold are found exactly, by blocked matrix products over the upper triangle; clusters are the
connected components of those pairs. The representative is chosen in this order: answers already paid for, source
priority, has a reference, longer text, smaller id; in a held-out cluster nothing that was for training can be it. The
decision is written per shard for every question that passed
the screen, so that its split stays what it was (law 6).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from storage.manifest import Book
from storage.schemas import DUPLICATES
from storage.workspace import Workspace
from tasks.embeddings import matrix
from tasks.question import question_text
from tasks.settings import Settings
from tasks.step import Context, Step, Work

VERSION = "1"
BLOCK = 2048
REFERENCES = ("ground_truth", "test_cases", "instruction_constraints")


class DedupSettings(Settings):
    threshold: float = Field(default=0.95, gt=0, le=1)
    """Cosine from which two questions are near-duplicates; the papers publish none, this default is ours."""


@dataclass
class Candidate:
    """A question that passed the screen."""

    question_id: str
    shard: str
    text_hash: str
    preference: tuple[Any, ...]
    """The smallest of a cluster is its representative."""
    split: str | None
    """What an earlier run decided."""


def dedup_step(near: DedupSettings | None, *, exact: bool, heldout: float, incumbents: bool, sources: Sequence[str],
               teachers: Sequence[str], embedded: tuple[str, ...],
               embedding: dict[str, Any] | None) -> Step:  # fmt: skip
    described = {
        "near_duplicates": near.as_json() if near else None, "exact_duplicates": exact, "heldout": heldout,
        "sources": list(sources), "incumbents": incumbents, "embedding": embedding,
    }  # fmt: skip

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        transactions = [context.begin(step, one) for one in work]  # before anything is read: the base is what we saw
        candidates = _candidates(context.workspace, step, sources, teachers if incumbents else ())
        context.progress.expect(step.key, len(candidates))
        links = list(_exact_links(candidates)) if exact else []
        if near is not None:
            links += _near_links(context, step, candidates, near.threshold)
        rows = _decide(candidates, links, heldout)
        for transaction in transactions:
            table = pa.Table.from_pylist(rows[transaction.shard], schema=DUPLICATES)
            book = Book("question", table.num_rows, table.num_rows)
            transaction.commit("duplicates", table, [], [book])
        context.progress.advance(step.key, len(candidates))

    return Step("dedup", "curate", "global", VERSION, described, ("ingest", "screen", *embedded), run)


def _candidates(workspace: Workspace, step: Step, sources: Sequence[str], teachers: Sequence[str]) -> list[Candidate]:
    rank = {name: number for number, name in enumerate(sources)}
    found = []
    for shard in workspace.shards:
        screened = workspace.read("screen", shard, "screened", ["question_id", "text_hash", "rule"]).to_pylist()
        columns = ["question_id", "messages", "question_source", *REFERENCES]
        rows = workspace.read("ingest", shard, "questions", columns).to_pylist()
        questions = {row["question_id"]: row for row in rows}
        paid = _paid_for(workspace, shard, teachers)
        splits = _earlier_splits(workspace, step, shard)
        for row in screened:
            if row["rule"]:
                continue
            identity = row["question_id"]
            question = questions[identity]
            referenced = any(question[name] for name in REFERENCES)
            preference = (identity not in paid, rank[question["question_source"]], not referenced,
                          -len(question_text(question["messages"])), identity)  # fmt: skip
            found.append(Candidate(identity, shard, row["text_hash"], preference, splits.get(identity)))
    return found


def _paid_for(workspace: Workspace, shard: str, teachers: Sequence[str]) -> set[str]:
    paid: set[str] = set()
    for teacher in teachers:
        if workspace.head(f"generate.{teacher}", shard):
            rows = workspace.read(f"generate.{teacher}", shard, "responses", ["question_id", "error_kind"]).to_pylist()
            paid |= {row["question_id"] for row in rows if row["error_kind"] is None}
    return paid


def _earlier_splits(workspace: Workspace, step: Step, shard: str) -> dict[str, str]:
    """What each question was for; `near_heldout` ones have been for training, and stay known as that."""
    if workspace.head(step.key, shard) is None:
        return {}
    rows = workspace.read(step.key, shard, "duplicates", ["question_id", "split", "rule"]).to_pylist()
    return {row["question_id"]: "train" if row["rule"] == "near_heldout" else row["split"] for row in rows}


Link = tuple[int, int, float, str]
"""Two candidates' numbers, their similarity, the rule that linked them."""


def _exact_links(candidates: Sequence[Candidate]) -> Iterator[Link]:
    first: dict[str, int] = {}
    for number, candidate in enumerate(candidates):
        other = first.setdefault(candidate.text_hash, number)
        if other != number:
            yield other, number, 1.0, "exact_duplicate"


def _near_links(context: Context, step: Step, candidates: Sequence[Candidate], threshold: float) -> list[Link]:
    """All pairs with cosine ≥ threshold. Vectors lie in one f16 file; only two blocks are in memory as f32."""
    if len(candidates) < 2:
        return []
    folder = context.workspace.scratch()
    vectors = _vector_file(context.workspace, candidates, folder / "vectors.f16")
    return [(one, other, value, "near_duplicate") for one, other, value in similar_pairs(vectors, threshold)]


def _vector_file(workspace: Workspace, candidates: Sequence[Candidate], path: Any) -> npt.NDArray[np.float16]:
    by_shard: dict[str, list[int]] = defaultdict(list)
    for number, candidate in enumerate(candidates):
        by_shard[candidate.shard].append(number)
    vectors: Any = None
    for shard, numbers in by_shard.items():
        rows = workspace.read("embed", shard, "embeddings")
        place = {identity: row for row, identity in enumerate(rows.column("question_id").to_pylist())}
        values = matrix(rows)[[place[candidates[number].question_id] for number in numbers]]
        if vectors is None:
            vectors = np.memmap(path, np.float16, "w+", shape=(len(candidates), values.shape[1]))
        vectors[numbers] = values
    path.unlink()  # the mapping stays until it is closed; a killed run leaves nothing behind
    path.parent.rmdir()
    return vectors  # type: ignore[no-any-return]


def similar_pairs(vectors: npt.NDArray[np.float16], threshold: float) -> Iterator[tuple[int, int, float]]:
    """All (i, j, cosine) with i < j and cosine ≥ threshold of unit vectors of shape (n, d), block by block."""
    count = len(vectors)
    for top in range(0, count, BLOCK):
        rows = np.asarray(vectors[top : top + BLOCK], np.float32)
        for left in range(top, count, BLOCK):
            products = rows @ np.asarray(vectors[left : left + BLOCK], np.float32).T
            for row, column in zip(*np.nonzero(products >= threshold), strict=True):
                if top + row < left + column:
                    yield int(top + row), int(left + column), min(float(products[row, column]), 1.0)


def _decide(candidates: Sequence[Candidate], links: Sequence[Link], heldout: float) -> dict[str, list[dict[str, Any]]]:
    """One row per candidate, by shard."""
    count = len(candidates)
    ends = np.array([(one, other) for one, other, _, _ in links], np.int64).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    clusters: dict[int, list[int]] = defaultdict(list)
    for number, label in enumerate(labels):
        clusters[int(label)].append(number)
    best: dict[int, tuple[float, str]] = {}
    for one, other, value, rule in links:  # exact links come first, and only a greater similarity takes their place
        for number in (one, other):
            if number not in best or value > best[number][0]:
                best[number] = (value, rule)
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for members in clusters.values():
        split = _split([candidates[number] for number in members], heldout)
        barred = split == "heldout"  # for those that were for training (law 6)
        keeper = candidates[min(members, key=lambda number: (
            barred and candidates[number].split == "train", candidates[number].preference))]  # fmt: skip
        for number in members:
            candidate = candidates[number]
            kept = candidate is keeper
            value, rule = best.get(number, (0.0, ""))
            if not kept and barred and candidate.split == "train":
                rule = "near_heldout"
            rows[candidate.shard].append({
                "question_id": candidate.question_id, "kept_id": keeper.question_id, "rule": None if kept else rule,
                "similarity": None if kept else value, "split": split,
            })  # fmt: skip
    return rows


def _split(members: Sequence[Candidate], heldout: float) -> str:
    """Held out once, held out for ever; a cluster never seen is decided by the hash of its smallest id."""
    earlier = {member.split for member in members}
    if "heldout" in earlier:
        return "heldout"
    if "train" in earlier:
        return "train"
    smallest = min(member.question_id for member in members)
    return "heldout" if int(smallest[8:16], 16) / 2**32 < heldout else "train"
