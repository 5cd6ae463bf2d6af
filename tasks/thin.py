"""Thin: easy and medium questions, and crowded regions, are kept at a set rate (AM-1.4M, arXiv 2503.19633).

Templates come first: of texts that differ in numbers only, so many are kept. The rates are for labelled questions
only; a question without a label, a held-out one (law 6), and one whose answers are paid for (law 7) stay. Each question
draws its own number in [0, 1) from its id and the seed, and is kept if that is below the rate, so that an added
question moves no other's draw, and a higher rate keeps all that a lower one kept.

Crowded: a question with more than so many neighbours, at or above a cosine, among all that are left by then. Not
clusters: k-means would draw its borders anew with every added question. Neighbours are counted among a sample
(tasks/thin_crowds.py), so that the work grows with the number of questions, not with its square.

Memory is that of one shard, of the sample, and of DuckDB's limit: shards are gone through once for the templates, once
for the sample, once to decide.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import Field, model_validator

from storage.fingerprint import hash_text
from storage.manifest import Book
from storage.schemas import THINNED
from storage.workspace import Workspace
from tasks.dedup import paid_for
from tasks.label import survivors
from tasks.lexical import template
from tasks.question import question_text
from tasks.settings import Settings
from tasks.step import Context, Step, Work
from tasks.thin_crowds import Sample, draw_sample, neighbours, vectors_of
from tasks.thin_templates import Templates

VERSION = "2"


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


@dataclass(frozen=True)
class Question:
    """What decides about one question."""

    question_id: str
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
        transactions = [context.begin(step, one) for one in work]  # before anything is read
        asked = teachers if incumbents else ()
        with Templates(context) if settings.max_per_template is not None else nullcontext() as templates:
            if templates is not None:
                _settle_templates(context.workspace, settings, asked, templates)
            decided = decisions(context.workspace, settings, labels, asked, templates)
            for transaction in transactions:
                rows = [_row(*one) for one in decided(transaction.shard)]
                context.progress.expect(step.key, len(rows))
                book = Book("question", len(rows), len(rows))
                transaction.commit("thinned", pa.Table.from_pylist(rows, schema=THINNED), [], [book])
                context.progress.advance(step.key, len(rows))

    return Step("thin", "curate", "global", VERSION, described, tuple(reads), run)


Decided = list[tuple[Question, Decision]]


def decisions(workspace: Workspace, settings: ThinSettings, labels: bool, teachers: Sequence[str],
              templates: Templates | None) -> Callable[[str], Decided]:  # fmt: skip
    """What gives every question's decision, by shard: by template, then by difficulty, then by its region."""

    def before_crowds(shard: str) -> Decided:
        gone = templates.gone(shard) if templates else {}
        return [
            (one, _of_template(gone[one.question_id], settings) if one.question_id in gone
             else _by_difficulty(one, settings))
            for one in _questions(workspace, shard, labels, teachers)
        ]  # fmt: skip

    crowded = settings.crowded
    if crowded is None:
        return before_crowds

    def left() -> Iterator[tuple[str, list[str], list[float]]]:
        for shard in workspace.shards:
            ids = [one.question_id for one, decision in before_crowds(shard) if decision is KEPT]
            yield shard, ids, [draw(identity, "sample", settings.seed) for identity in ids]

    sample = draw_sample(workspace, left())
    return lambda shard: _by_crowd(workspace, shard, before_crowds(shard), sample, crowded, settings.seed)


def draw(question_id: str, rule: str, seed: int) -> float:
    """A question's number in [0, 1) for a rule: the same in every run, independent of other questions and rules."""
    return int(hash_text("thin", rule, str(seed), question_id)[:13], 16) / 2**52


def _settle_templates(workspace: Workspace, settings: ThinSettings, teachers: Sequence[str],
                      templates: Templates) -> None:  # fmt: skip
    assert settings.max_per_template is not None
    for shard in workspace.shards:
        paid = paid_for(workspace, shard, teachers)
        templates.add([
            {"question_id": row["question_id"], "shard": shard,
             "template": hash_text(template(question_text(row["messages"]))),
             "protected": row["split"] == "heldout" or row["question_id"] in paid,
             "draw": draw(row["question_id"], "template_duplicate", settings.seed)}
            for row in survivors(workspace, shard, ["messages"])
        ])  # fmt: skip
    templates.settle(settings.max_per_template)


def _of_template(gone: tuple[int, int, list[str]], settings: ThinSettings) -> Decision:
    number, members, kept = gone
    return Decision("template_duplicate", number, settings.max_per_template, {"of_template": members, "kept": kept})


def _by_difficulty(one: Question, settings: ThinSettings) -> Decision:
    if one.label is None or one.protected:
        return KEPT
    difficulty = one.label["difficulty"]
    rate = {"easy": settings.easy, "medium": settings.medium}.get(difficulty)
    rule = f"thinned_{difficulty}"
    if rate is None or (drawn := draw(one.question_id, rule, settings.seed)) < rate:
        return KEPT
    return Decision(rule, drawn, rate, _said(one))


def _by_crowd(workspace: Workspace, shard: str, decided: Decided, sample: Sample, settings: CrowdedSettings,
              seed: int) -> Decided:  # fmt: skip
    left = [one.question_id for one, decision in decided if decision is KEPT]
    if not left:
        return decided
    counts = neighbours(left, vectors_of(workspace, shard, left), sample, settings.cosine)
    near = dict(zip(left, counts.tolist(), strict=True))
    return [
        (one, _of_crowd(one, near[one.question_id], len(sample), settings, seed) if decision is KEPT else decision)
        for one, decision in decided
    ]


def _of_crowd(one: Question, count: float, among: int, settings: CrowdedSettings, seed: int) -> Decision:
    if one.label is None or one.protected or count <= settings.neighbours:
        return KEPT
    drawn = draw(one.question_id, "thinned_crowded", seed)
    if drawn < settings.keep:
        return KEPT
    evidence = _said(one) | {"draw": drawn, "keep": settings.keep, "cosine": settings.cosine, "among": among}
    return Decision("thinned_crowded", count, settings.neighbours, evidence)


def _said(one: Question) -> dict[str, Any]:
    """Who said what of the question."""
    assert one.label is not None
    return {name: one.label[name] for name in ("difficulty", "labeller", "labeller_version")}


def _row(one: Question, decision: Decision) -> dict[str, Any]:
    return {
        "question_id": one.question_id, "rule": decision.rule, "value": decision.value,
        "threshold": decision.threshold, "evidence": json.dumps(decision.evidence or {}, ensure_ascii=False),
    }  # fmt: skip


def _questions(workspace: Workspace, shard: str, labels: bool, teachers: Sequence[str]) -> list[Question]:
    labelled = _labels(workspace, shard) if labels else {}
    paid = paid_for(workspace, shard, teachers)
    return [
        Question(row["question_id"], row["split"] == "heldout" or row["question_id"] in paid,
                 labelled.get(row["question_id"]))
        for row in survivors(workspace, shard, [])
    ]  # fmt: skip


def _labels(workspace: Workspace, shard: str) -> dict[str, dict[str, Any]]:
    columns = ["question_id", "difficulty", "status", "labeller", "labeller_version"]
    rows = workspace.read("label", shard, "labels", columns).to_pylist()
    return {row["question_id"]: row for row in rows if row["status"] == "labelled"}
