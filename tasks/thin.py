"""Thin: easy and medium questions, and crowded regions, are kept at a set rate (AM-1.4M, arXiv 2503.19633).

Templates come first: of texts that differ in numbers only, so many are kept. The rates are for labelled questions
only; a question without a label, a held-out one (law 6), and one whose answers are paid for (law 7) stay. Each question
draws its own number in [0, 1) from its id and the seed, and is kept if that is below the rate, so that an added
question moves no other's draw, and a higher rate keeps all that a lower one kept.

Crowded: a question with more than so many neighbours, at or above a cosine, among all that are left by then. Not
clusters: k-means would draw its borders anew with every added question. Neighbours are counted among a sample of SAMPLE
questions, the ones with the smallest draws, and scaled up; up to SAMPLE questions the count is exact, and the work
grows with the number of questions, not with its square.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from storage.fingerprint import hash_text
from storage.manifest import Book
from storage.schemas import THINNED
from storage.workspace import Workspace
from tasks.embeddings import matrix
from tasks.label import survivors
from tasks.lexical import template
from tasks.question import question_text
from tasks.settings import Settings
from tasks.step import Context, Step, Work

VERSION = "1"
SAMPLE = 20_000
BLOCK = 1024


class CrowdedSettings(Settings):
    cosine: float = Field(default=0.8, gt=0, le=1)
    """Questions at or above it are neighbours; this default and the next are ours."""
    neighbours: int = Field(default=10, ge=1)
    """A question with more is in a crowded region."""
    keep: float = Field(ge=0, le=1)
    """The rate at which questions of crowded regions are kept."""


class ThinSettings(Settings):
    """Each part is off by default."""

    easy: float | None = Field(default=None, ge=0, le=1)
    """The rate at which questions labelled easy are kept."""
    medium: float | None = Field(default=None, ge=0, le=1)
    crowded: CrowdedSettings | None = None
    max_per_template: int | None = Field(default=None, ge=1)
    """Most questions of one template: the same text but for its numbers. Needs no labels."""
    seed: int = 0

    @model_validator(mode="after")
    def _does_something(self) -> ThinSettings:
        if not self.needs_labels() and self.max_per_template is None:
            raise ValueError("nothing is set: give easy, medium, crowded or max_per_template, or leave thin out")
        return self

    def needs_labels(self) -> bool:
        return self.easy is not None or self.medium is not None or self.crowded is not None


@dataclass
class Question:
    """What decides about one question."""

    question_id: str
    shard: str
    template: str | None
    """hash of the text without numbers, where templates are counted"""
    protected: bool
    """held out, or its answers are paid for"""
    label: dict[str, Any] | None


@dataclass(frozen=True)
class Decision:
    """Why a question is dropped; the evidence of one that is kept is empty."""

    rule: str | None = None
    value: float | None = None
    threshold: float | None = None
    evidence: dict[str, Any] | None = None


KEPT = Decision()


def thin_step(settings: ThinSettings, *, labels: bool, embedding: dict[str, Any] | None, incumbents: bool,
              teachers: Sequence[str]) -> Step:  # fmt: skip
    """The step `thin`: one decision per question and shard. `embedding` identifies the vectors, where they are read."""
    described = settings.as_json() | {"incumbents": incumbents, "embedding": embedding}
    reads = ["ingest", "screen", "dedup", *(["label"] if labels else []), *(["embed"] if settings.crowded else [])]

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        transactions = [context.begin(step, one) for one in work]
        questions = _questions(context.workspace, settings, labels, teachers if incumbents else ())
        context.progress.expect(step.key, len(questions))
        decisions = decide(context.workspace, questions, settings)
        by_shard: dict[str, list[dict[str, Any]]] = {transaction.shard: [] for transaction in transactions}
        for one in questions:
            by_shard[one.shard].append(_row(one, decisions[one.question_id]))
        for transaction in transactions:
            rows = by_shard[transaction.shard]
            book = Book("question", len(rows), len(rows))
            transaction.commit("thinned", pa.Table.from_pylist(rows, schema=THINNED), [], [book])
        context.progress.advance(step.key, len(questions))

    return Step("thin", "curate", "global", VERSION, described, tuple(reads), run)


def decide(workspace: Workspace, questions: Sequence[Question], settings: ThinSettings) -> dict[str, Decision]:
    """Every question's decision: by template, then by difficulty, then by its region."""
    decisions = dict.fromkeys((one.question_id for one in questions), KEPT)
    if settings.max_per_template is not None:
        decisions |= _templates(questions, settings.max_per_template, settings.seed)
    for one in questions:
        if decisions[one.question_id] is KEPT and one.label and not one.protected:
            decisions[one.question_id] = _by_difficulty(one, settings)
    if settings.crowded:
        left = [one for one in questions if decisions[one.question_id] is KEPT]
        decisions |= _crowded(workspace, left, settings.crowded, settings.seed)
    return decisions


def draw(question_id: str, rule: str, seed: int) -> float:
    """A question's number in [0, 1) for a rule: the same in every run, independent of other questions and rules."""
    return int(hash_text("thin", rule, str(seed), question_id)[:13], 16) / 2**52


def _templates(questions: Sequence[Question], most: int, seed: int) -> dict[str, Decision]:
    """Those with the smallest draws stay; protected ones are in front and stay anyway."""
    families: dict[str, list[tuple[bool, float, str]]] = {}
    for one in questions:
        if one.template is not None:
            place = (not one.protected, draw(one.question_id, "template_duplicate", seed), one.question_id)
            families.setdefault(one.template, []).append(place)
    found = {}
    for members in families.values():
        if len(members) <= most:
            continue
        members.sort()
        kept = [identity for _, _, identity in members[:most]]
        for number, (free, _, identity) in enumerate(members[most:], most + 1):
            if free:
                evidence = {"of_template": len(members), "kept": kept[:3]}
                found[identity] = Decision("template_duplicate", number, most, evidence)
    return found


def _by_difficulty(one: Question, settings: ThinSettings) -> Decision:
    assert one.label is not None
    difficulty = one.label["difficulty"]
    rate = {"easy": settings.easy, "medium": settings.medium}.get(difficulty)
    rule = f"thinned_{difficulty}"
    if rate is None or (drawn := draw(one.question_id, rule, settings.seed)) < rate:
        return KEPT
    return Decision(rule, drawn, rate, _said(one))


def _crowded(workspace: Workspace, questions: Sequence[Question], settings: CrowdedSettings,
             seed: int) -> dict[str, Decision]:  # fmt: skip
    counts, sampled = _neighbours(workspace, questions, settings.cosine, seed)
    found = {}
    for one, count in zip(questions, counts.tolist(), strict=True):
        if one.label is None or one.protected or count <= settings.neighbours:
            continue
        drawn = draw(one.question_id, "thinned_crowded", seed)
        if drawn >= settings.keep:
            evidence = _said(one) | {"draw": drawn, "keep": settings.keep, "cosine": settings.cosine, "among": sampled}
            found[one.question_id] = Decision("thinned_crowded", count, settings.neighbours, evidence)
    return found


def _neighbours(workspace: Workspace, questions: Sequence[Question], cosine: float,
                seed: int) -> tuple[npt.NDArray[np.float64], int]:  # fmt: skip
    """Neighbours of each question, without itself, scaled up from the sample; and the size of the sample."""
    order = sorted(
        range(len(questions)), key=lambda number: (draw(questions[number].question_id, "sample", seed), number)
    )
    among = np.array(sorted(order[:SAMPLE]), int)
    if not len(among):
        return np.zeros(0), 0
    by_shard: dict[str, list[int]] = {}
    for number, one in enumerate(questions):
        by_shard.setdefault(one.shard, []).append(number)
    sample = _sample(workspace, questions, by_shard, set(among.tolist()))
    inside = np.zeros(len(questions), bool)
    inside[among] = True
    counts = np.zeros(len(questions))
    for shard, numbers in by_shard.items():
        vectors = _vectors(workspace, shard, [questions[number].question_id for number in numbers])
        for start in range(0, len(numbers), BLOCK):
            block = numbers[start : start + BLOCK]
            near = (vectors[start : start + BLOCK] @ sample.T >= cosine).sum(axis=1) - inside[block]
            counts[block] = np.maximum(near, 0)
    others = np.where(inside, len(among) - 1, len(among))
    return counts * (len(questions) - 1) / np.maximum(others, 1), len(among)


def _sample(workspace: Workspace, questions: Sequence[Question], by_shard: dict[str, list[int]],
            among: set[int]) -> npt.NDArray[np.float32]:  # fmt: skip
    parts = []
    for shard, numbers in by_shard.items():
        if chosen := [questions[number].question_id for number in numbers if number in among]:
            parts.append(_vectors(workspace, shard, chosen))
    return np.concatenate(parts)


def _vectors(workspace: Workspace, shard: str, identities: Sequence[str]) -> npt.NDArray[np.float32]:
    rows = workspace.read("embed", shard, "embeddings")
    place = {identity: number for number, identity in enumerate(rows.column("question_id").to_pylist())}
    return matrix(rows)[[place[identity] for identity in identities]].astype(np.float32)


def _said(one: Question) -> dict[str, Any]:
    """Who said what of the question."""
    assert one.label is not None
    return {name: one.label[name] for name in ("difficulty", "labeller", "labeller_version")}


def _row(one: Question, decision: Decision) -> dict[str, Any]:
    return {
        "question_id": one.question_id, "rule": decision.rule, "value": decision.value,
        "threshold": decision.threshold, "evidence": json.dumps(decision.evidence or {}, ensure_ascii=False),
    }  # fmt: skip


def _questions(workspace: Workspace, settings: ThinSettings, labels: bool, teachers: Sequence[str]) -> list[Question]:
    found = []
    for shard in workspace.shards:
        labelled = _labels(workspace, shard) if labels else {}
        paid = paid_for(workspace, shard, teachers)
        for row in survivors(workspace, shard, ["messages"]):
            identity = row["question_id"]
            text = template(question_text(row["messages"])) if settings.max_per_template else None
            found.append(Question(
                identity, shard, hash_text(text) if text is not None else None,
                row["split"] == "heldout" or identity in paid, labelled.get(identity),
            ))  # fmt: skip
    return found


def _labels(workspace: Workspace, shard: str) -> dict[str, dict[str, Any]]:
    columns = ["question_id", "difficulty", "status", "labeller", "labeller_version"]
    rows = workspace.read("label", shard, "labels", columns).to_pylist()
    return {row["question_id"]: row for row in rows if row["status"] == "labelled"}


def paid_for(workspace: Workspace, shard: str, teachers: Sequence[str]) -> set[str]:
    """The shard's questions that one of the teachers has answered."""
    paid: set[str] = set()
    for teacher in teachers:
        if workspace.head(f"generate.{teacher}", shard):
            rows = workspace.read(f"generate.{teacher}", shard, "responses", ["question_id", "error_kind"]).to_pylist()
            paid |= {row["question_id"] for row in rows if row["error_kind"] is None}
    return paid
