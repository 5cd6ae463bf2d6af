"""Dedup: clusters of equal and alike questions, who stays of each, and one split for the whole cluster.

Links come from three rules: the same text but for case and blanks (`exact_duplicate`), cosine ≥ threshold
(`near_duplicate`), shared n-grams (`lexical_duplicate`); the last two are read from the `pairs` that earlier steps
kept.
Who stays is chosen in this order: answers already paid for (law 7), then as `prefer` says, then by the smaller id; in a
held-out cluster nothing that was for training can be it. The decision is written per shard for every question that
passed the screen, so that its split stays what it was (law 6).

Memory: about 250 bytes a question and 40 a pair, in arrays; texts are read shard by shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from storage.manifest import Book
from storage.schemas import DUPLICATES
from storage.workspace import ALL, Workspace
from tasks.dedup_clusters import (
    HELDOUT,
    LEXICAL,
    NEAR,
    NOBODY,
    RULES,
    TRAIN,
    UNSEEN,
    Decision,
    Links,
    Questions,
    decide,
    exact_links,
    hardness,
    join_links,
)
from tasks.errors import BadSetting
from tasks.lexical import LexicalSettings
from tasks.pairs import Hashes, hex_column, read_pairs, text_column, text_hashes
from tasks.settings import Settings
from tasks.step import Context, Step, Work

VERSION = "3"
REFERENCES = ("ground_truth", "test_cases", "instruction_constraints")
Preference = Literal["priority", "reference", "longest", "hardest"]
PREFERENCES: tuple[Preference, ...] = ("priority", "reference", "longest", "hardest")


class DedupSettings(Settings):
    threshold: float = Field(default=0.95, gt=0, le=1)
    """Cosine from which two questions are near-duplicates; the papers publish none, this default is ours."""
    exact_up_to: int = Field(default=2_000_000, ge=2)
    """With more distinct texts only those in common clusters are compared; the recall is measured."""


class ClusterSettings(Settings):
    by: Literal["components", "representatives"] = "components"
    """components: one question of a chain of alike ones stays. representatives: one goes only if it is like one that
    stays."""
    prefer: tuple[Preference, ...] = PREFERENCES
    """Who stays: source priority, a reference answer, the longest text, the hardest label; in this order."""

    @field_validator("prefer")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"each at most once, found {', '.join(value)}")
        return value


@dataclass(frozen=True)
class Rules:
    """What links questions, and what is done with the clusters."""

    exact: bool
    near: DedupSettings | None
    lexical: LexicalSettings | None
    clusters: ClusterSettings
    heldout: float

    def thresholds(self) -> dict[str, float | None]:
        near = self.near.threshold if self.near else None
        lexical = self.lexical.threshold if self.lexical else None
        return {"near_duplicate": near, "lexical_duplicate": lexical}

    def as_json(self) -> dict[str, Any]:
        return {
            "exact_duplicates": self.exact,
            "near_duplicates": {"threshold": self.near.threshold} if self.near else None,
            "lexical_duplicates": self.lexical.as_json() if self.lexical else None,
            "clusters": self.clusters.as_json(),
            "heldout": self.heldout,
        }


def dedup_step(rules: Rules, *, incumbents: bool, sources: Sequence[str], teachers: Sequence[str],
               embedding: dict[str, Any] | None) -> Step:  # fmt: skip
    """`embedding` is the model's identity where the recipe embeds at all; a question without a vector is dropped."""
    described = rules.as_json() | {"sources": list(sources), "incumbents": incumbents, "embedding": embedding}
    reads = ["ingest", "screen"]
    reads += ["embed"] if embedding else []
    reads += ["pairs"] if rules.near else []
    reads += ["lexical"] if rules.lexical else []

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        transactions = {one.shard: context.begin(step, one) for one in work}  # before anything is read
        candidates = _candidates(context.workspace, step, sources, teachers if incumbents else (), rules)
        context.progress.expect(step.key, len(candidates.questions))
        links = _links(context.workspace, candidates, rules)
        prefer, by = rules.clusters.prefer, rules.clusters.by
        decision = decide(candidates.questions, links, prefer, rules.heldout, by, candidates.texts())
        for shard, rows in candidates.shards:
            if shard in transactions:
                table = _table(candidates.questions, decision, rows, rules.thresholds())
                book = Book("question", table.num_rows, table.num_rows)
                transactions[shard].commit("duplicates", table, [], [book])
        context.progress.advance(step.key, len(candidates.questions))

    return Step("dedup", "curate", "global", VERSION, described, tuple(reads), run)


@dataclass(frozen=True)
class Candidates:
    """The questions that passed the screen, with the hashes by which links are found."""

    questions: Questions
    normal_hashes: Hashes
    """of the texts as the exact rule compares them"""
    text_hashes: Hashes | None
    """of the texts as the kept pairs name them"""
    shards: list[tuple[str, slice]]

    def texts(self) -> npt.NDArray[np.int64] | None:
        """A number for each question's text, the same for equal ones."""
        return None if self.text_hashes is None else np.unique(self.text_hashes, return_inverse=True)[1]


def _candidates(workspace: Workspace, step: Step, sources: Sequence[str], teachers: Sequence[str],
                rules: Rules) -> Candidates:  # fmt: skip
    embedded = "embed" in step.reads
    texts = text_hashes(workspace) if rules.lexical and not embedded else None
    pieces, shards, seen, first = [], [], 0, 0
    for shard in workspace.shards:
        whole = workspace.read("ingest", shard, "questions", ["question_id"]).num_rows
        own = None if texts is None else texts[seen : seen + whole]
        piece = _shard(workspace, step, shard, sources, teachers, embedded, own)
        pieces.append(piece)
        count = len(piece["ids"])
        shards.append((shard, slice(first, first + count)))
        seen, first = seen + whole, first + count
    joined = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    normal, own_texts = joined.pop("normal_hashes"), joined.pop("text_hashes", None)
    return Candidates(Questions(**joined), normal, own_texts, shards)


def _shard(workspace: Workspace, step: Step, shard: str, sources: Sequence[str], teachers: Sequence[str],
           embedded: bool, texts: Hashes | None) -> dict[str, npt.NDArray[Any]]:  # fmt: skip
    """The columns of one shard's candidates; all tables of a shard are in the order of question_id."""
    screened = workspace.read("screen", shard, "screened", ["question_id", "text_hash", "rule"])
    passed = screened.column("rule").is_null().to_numpy(zero_copy_only=False)
    columns = ["question_id", "messages", "question_source", "difficulty_label", *REFERENCES]
    questions: Any = workspace.read("ingest", shard, "questions", columns).filter(pa.array(passed))
    screened = screened.filter(pa.array(passed))
    rank = {name: number for number, name in enumerate(sources)}
    ids = hex_column(questions.column("question_id"))
    paid = np.array(sorted(paid_for(workspace, shard, teachers)), "S32")
    columns_: dict[str, npt.NDArray[Any]] = {
        "ids": ids,
        "paid": np.isin(ids, paid),
        "priority": np.array([rank[name] for name in questions.column("question_source").to_pylist()], np.int32),
        "referenced": _has_reference(questions),
        "length": _lengths(questions),
        "hardness": np.array([hardness(label) for label in questions.column("difficulty_label").to_pylist()], np.int8),
        "split": _earlier_splits(workspace, step, shard, ids),
        "faulty": np.zeros(len(ids), bool),
        "normal_hashes": hex_column(screened.column("text_hash")),
    }
    if embedded:
        vectors = workspace.read("embed", shard, "embeddings", ["text_hash", "fault"]).filter(pa.array(passed))
        columns_["faulty"] = vectors.column("fault").is_valid().to_numpy(zero_copy_only=False)
        columns_["text_hashes"] = hex_column(vectors.column("text_hash"))
    elif texts is not None:
        columns_["text_hashes"] = texts[passed]
    return columns_


def _has_reference(questions: pa.Table) -> npt.NDArray[np.bool_]:
    found = np.zeros(questions.num_rows, bool)
    for name in REFERENCES:
        column = questions.column(name)
        sizes = pc.binary_length(column) if pa.types.is_string(column.type) else pc.list_value_length(column)
        found |= pc.fill_null(sizes, 0).to_numpy(zero_copy_only=False) > 0
    return found


def _lengths(questions: pa.Table) -> npt.NDArray[np.int64]:
    """Characters of each question's text: its messages but the assistant's, a line end between two."""
    messages: Any = questions.column("messages").combine_chunks()
    if not len(messages):
        return np.zeros(0, np.int64)
    row = np.repeat(np.arange(len(messages)), pc.list_value_length(messages).to_numpy(zero_copy_only=False))
    flat: Any = messages.flatten()
    asked = pc.not_equal(flat.field("role"), pa.scalar("assistant")).to_numpy(zero_copy_only=False)
    sizes = pc.utf8_length(flat.field("content")).to_numpy(zero_copy_only=False)
    return np.bincount(row, np.where(asked, sizes + 1, 0), len(messages)).astype(np.int64) - 1


def paid_for(workspace: Workspace, shard: str, teachers: Sequence[str]) -> set[str]:
    """The shard's questions that one of the teachers has answered."""
    paid: set[str] = set()
    for teacher in teachers:
        if workspace.head(f"generate.{teacher}", shard):
            rows: Any = workspace.read(f"generate.{teacher}", shard, "responses", ["question_id", "error_kind"])
            paid |= set(rows.filter(rows.column("error_kind").is_null()).column("question_id").to_pylist())
    return paid


def _earlier_splits(workspace: Workspace, step: Step, shard: str, ids: Hashes) -> npt.NDArray[np.int8]:
    """What each question was for; `near_heldout` ones have been for training, and stay known as that."""
    head = workspace.head(step.key, shard)
    if head is None:
        return np.full(len(ids), UNSEEN, np.int8)
    columns = ["question_id", "split", "rule"]
    rows = workspace.read(step.key, shard, "duplicates", columns).to_pylist()
    known = {row["question_id"]: TRAIN if row["rule"] == "near_heldout" or row["split"] == "train" else HELDOUT
             for row in rows}  # fmt: skip
    return np.array([known.get(one.decode(), UNSEEN) for one in ids.tolist()], np.int8)


def _links(workspace: Workspace, candidates: Candidates, rules: Rules) -> Links:
    found = [exact_links(candidates.normal_hashes)] if rules.exact else []
    for key, rule in (("pairs", NEAR if rules.near else None), ("lexical", LEXICAL if rules.lexical else None)):
        threshold = rules.thresholds()[RULES[rule]] if rule else None  # type: ignore[index]
        if rule and threshold is not None:
            found += _kept_links(workspace, key, rule, threshold, candidates, rules)
    return join_links(found)


def _kept_links(workspace: Workspace, key: str, rule: int, threshold: float, candidates: Candidates,
                rules: Rules) -> Iterator[Links]:  # fmt: skip
    """The kept pairs from the threshold on, and links between questions of one text."""
    known = read_pairs(workspace, workspace.need(key, ALL))
    if known.pairs.thinned and rules.clusters.by == "representatives":
        raise BadSetting(
            f"clusters.by: representatives needs every pair, and of {known.pairs.found:,} only a spanning forest "
            "was kept; set it to components, or near_duplicates.threshold higher"
        )
    hashes = candidates.text_hashes
    assert hashes is not None
    usable = np.flatnonzero(~candidates.questions.faulty)
    texts, first, group = np.unique(hashes[usable], return_index=True, return_inverse=True)
    rows = usable[first]
    other = usable[first[group] != np.arange(len(usable))]
    same = rows[group[first[group] != np.arange(len(usable))]]
    yield Links(same, other, np.ones(len(other), np.float32), np.full(len(other), rule, np.int8))
    keep = known.pairs.cosine >= np.float32(threshold)
    left, right = known.texts[known.pairs.left[keep]], known.texts[known.pairs.right[keep]]
    value = known.pairs.cosine[keep]
    there = np.isin(left, texts) & np.isin(right, texts)
    ends = [rows[np.searchsorted(texts, side[there])] for side in (left, right)]
    yield Links(np.minimum(*ends), np.maximum(*ends), value[there], np.full(int(there.sum()), rule, np.int8))


def _table(questions: Questions, decision: Decision, rows: slice, thresholds: dict[str, float | None]) -> pa.Table:
    """The decision on one shard's questions."""
    kept, linked, rule = decision.kept[rows], decision.linked[rows], decision.rule[rows]
    names = [RULES[number] for number in rule.tolist()]
    going = rule != 0
    similarity = np.where(going & (linked != NOBODY), decision.similarity[rows], np.nan)
    return pa.Table.from_arrays(
        [
            text_column(questions.ids[rows]),
            text_column(questions.ids[kept]),
            pa.array(names, pa.string()),
            pc.if_else(pa.array(going & (linked != NOBODY)), text_column(questions.ids[linked]), None),
            pa.array(similarity.astype(np.float64), pa.float64(), from_pandas=True),
            pa.array([thresholds.get(name) if name else None for name in names], pa.float64()),
            pa.array(np.where(decision.heldout[rows], "heldout", "train").tolist()),
        ],
        schema=DUPLICATES,
    )  # fmt: skip
