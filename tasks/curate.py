"""Curate: from questions to questions that are whole, not a duplicate, not on a benchmark, each with its split.

Three steps: `screen` (tasks/screen.py) judges each question on its own; `dedup` looks at all survivors at
once (tasks/dedup.py) and writes its decision per shard; `curate` puts both together, so that every question has one
fate and an unchanged decision redoes nothing after it. Where the recipe asks for them, `label` (tasks/label.py),
`thin` (tasks/thin.py) and `rewrite` (tasks/rewrite.py) come before `curate`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field, model_validator

from storage.manifest import Book
from storage.schemas import CURATED
from tasks.decontaminate import DecontaminateSettings
from tasks.dedup import ClusterSettings, DedupSettings, Rules, dedup_step
from tasks.embeddings import EmbeddingSettings, embed_step
from tasks.filters import FilterSettings
from tasks.label import LabelSettings, label_step
from tasks.lexical import LexicalSettings
from tasks.pairs import lexical_step, pairs_step
from tasks.rewrite import RewriteSettings, rewrite_step
from tasks.screen import screen_step
from tasks.settings import Settings
from tasks.step import Context, Step, Work
from tasks.thin import ThinSettings, thin_step

VERSION = "2"


class CurateSettings(Settings):
    filters: FilterSettings | None = FilterSettings()
    """Query filters; null switches all of them off."""
    embedding: EmbeddingSettings = EmbeddingSettings()
    exact_duplicates: bool = True
    near_duplicates: DedupSettings | None = DedupSettings()
    """Near-duplicate removal by embedding; null switches it off."""
    lexical_duplicates: LexicalSettings | None = None
    """Near-copies by shared n-grams; null switches it off."""
    clusters: ClusterSettings = ClusterSettings()
    """Which of the duplicates stays."""
    decontaminate: DecontaminateSettings = DecontaminateSettings()
    heldout: float = Field(default=0.0, ge=0, lt=1)
    """Share of duplicate clusters that are kept for evaluation and never trained on."""
    incumbents: bool = True
    """A question whose answers are paid for is not deposed by a newer duplicate (law 7), nor thinned."""
    labels: LabelSettings | None = None
    """Category and difficulty by a model; null asks nobody."""
    thin: ThinSettings | None = None
    """Keep labelled easy and medium questions and crowded regions at a rate; null keeps all."""
    rewrite: RewriteSettings | None = None
    """A model puts train questions into other words before the teachers are asked; null asks nobody."""

    @model_validator(mode="after")
    def _thinned_by_labels(self) -> CurateSettings:
        if self.thin and self.thin.needs_labels() and not self.labels:
            raise ValueError("thin.easy, thin.medium and thin.crowded go by labels: set `labels`, such as "
                             "{teacher: {name: labeller, engine: openai, model: M, base_url: URL}}")  # fmt: skip
        return self

    def needs_embeddings(self) -> bool:
        crowded = self.thin and self.thin.crowded
        return bool(self.near_duplicates or crowded or self.decontaminate.wants_embeddings())


def curate_steps(settings: CurateSettings, base: Path, sources: Sequence[str], teachers: Sequence[str]) -> list[Step]:
    """The steps in order; `sources` by falling priority; `teachers` are asked for whose answers are paid for."""
    steps = [embed_step(settings.embedding)] if settings.needs_embeddings() else []
    embedded = ("embed",) if settings.needs_embeddings() else ()
    steps.append(screen_step(settings.filters, settings.decontaminate, settings.embedding, base, embedded))
    embedding = settings.embedding.identity() if embedded else None
    if embedding and settings.near_duplicates:
        steps.append(pairs_step(embedding, settings.near_duplicates.threshold, settings.near_duplicates.exact_up_to))
    if settings.lexical_duplicates:
        steps.append(lexical_step(settings.lexical_duplicates))
    rules = Rules(settings.exact_duplicates, settings.near_duplicates, settings.lexical_duplicates, settings.clusters,
                  settings.heldout)  # fmt: skip
    steps.append(dedup_step(rules, incumbents=settings.incumbents, sources=sources, teachers=teachers,
                            embedding=embedding))  # fmt: skip
    reads = ["ingest", "screen", "dedup"]
    if settings.labels:
        steps.append(label_step(settings.labels, base))
    if settings.thin:
        identity = settings.embedding.identity() if settings.thin.crowded else None
        steps.append(thin_step(settings.thin, labels=settings.labels is not None, embedding=identity,
                               incumbents=settings.incumbents, teachers=teachers))  # fmt: skip
        reads.append("thin")
    if settings.rewrite:
        steps.append(rewrite_step(settings.rewrite, base, thinned="thin" in reads))
        reads.append("rewrite")
    steps.append(Step("curate", "curate", "shard", VERSION, {}, tuple(reads), _curate))
    return steps


def _duplicate(context: Context, step: Step, decided: dict[str, Any]) -> dict[str, Any]:
    """The ledger's row: who stays, and the question that this one is most like, with their similarity."""
    if decided["rule"] == "no_embedding":
        return context.drop(step.key, "question", decided["question_id"], "no_embedding")
    value = None if decided["similarity"] is None else round(decided["similarity"], 3)
    evidence = json.dumps({"kept": decided["kept_id"], "like": decided["linked_id"]})
    return context.drop(step.key, "question", decided["question_id"], decided["rule"], value=value,
                        threshold=decided["threshold"], evidence=evidence)  # fmt: skip


def _curate(context: Context, step: Step, work: Sequence[Work]) -> None:
    for one in work:
        transaction = context.begin(step, one)
        read = context.workspace.read
        questions = read("ingest", one.shard, "questions").to_pylist()
        screened = {row["question_id"]: row for row in read("screen", one.shard, "screened").to_pylist()}
        decided = {row["question_id"]: row for row in read("dedup", one.shard, "duplicates").to_pylist()}
        thinned = {}
        if "thin" in step.reads:
            thinned = {row["question_id"]: row for row in read("thin", one.shard, "thinned").to_pylist()}
        rewritten = {}
        if "rewrite" in step.reads:
            rewritten = {row["question_id"]: row for row in read("rewrite", one.shard, "rewrites").to_pylist()}
        kept, ledger, pending = [], [], 0
        for question in questions:
            identity = question["question_id"]
            screen, duplicate, thin = screened[identity], decided.get(identity), thinned.get(identity)
            if screen["rule"]:
                ledger.append(context.drop(step.key, "question", identity, screen["rule"], value=screen["value"],
                                           threshold=screen["threshold"], evidence=screen["evidence"]))  # fmt: skip
            elif duplicate is not None and duplicate["rule"]:
                ledger.append(_duplicate(context, step, duplicate))
            elif thin is not None and thin["rule"]:
                ledger.append(context.drop(step.key, "question", identity, thin["rule"], value=thin["value"],
                                           threshold=thin["threshold"], evidence=thin["evidence"]))  # fmt: skip
            elif identity in rewritten and rewritten[identity]["status"] == "infra_error":
                pending += 1  # asked in its old words now, it would be asked again in the new ones
            else:
                text = rewritten[identity]["text"] if _is_rewritten(rewritten.get(identity)) else None
                kept.append(_in_new_words(question, text) | {"split": duplicate["split"] if duplicate else "train"})
        dropped = dict(Counter(entry["rule"] for entry in ledger))
        book = Book("question", len(questions), len(kept), dropped, pending)
        transaction.commit("curated", pa.Table.from_pylist(kept, schema=CURATED), ledger, [book])


def _is_rewritten(row: dict[str, Any] | None) -> bool:
    return row is not None and row["status"] == "rewritten"


def _in_new_words(question: dict[str, Any], text: str | None) -> dict[str, Any]:
    """The question with another text of its last message, and the old one in `metadata`; it keeps its id."""
    if text is None:
        return question
    *earlier, last = question["messages"]
    metadata = json.loads(question["metadata"]) | {"original_question": last["content"]}
    return question | {
        "messages": [*earlier, last | {"content": text}],
        "metadata": json.dumps(metadata, ensure_ascii=False),
    }
