"""Curate: from questions to questions that are whole, not a duplicate, not on a benchmark, each with its split.

Three steps: `screen` judges each question on its own (filters, decontamination); `dedup` looks at all survivors at
once (tasks/dedup.py) and writes its decision per shard; `curate` puts both together, so that every question has one
fate and an unchanged decision redoes nothing after it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from pydantic import Field

from storage.fingerprint import hash_text
from storage.manifest import Book
from storage.schemas import CURATED, SCREENED
from tasks.decontaminate import DecontaminateSettings, benchmark_files, load_benchmarks, normal_text
from tasks.dedup import DedupSettings, dedup_step
from tasks.embeddings import EmbeddingSettings, embed_step, matrix
from tasks.filters import FilterSettings, Finding, screen_text
from tasks.question import question_text
from tasks.settings import Settings
from tasks.step import Context, Step, Work

VERSION = "1"


class CurateSettings(Settings):
    filters: FilterSettings | None = FilterSettings()
    """Query filters; null switches all of them off."""
    embedding: EmbeddingSettings = EmbeddingSettings()
    exact_duplicates: bool = True
    near_duplicates: DedupSettings | None = DedupSettings()
    """Near-duplicate removal by embedding; null switches it off."""
    decontaminate: DecontaminateSettings = DecontaminateSettings()
    heldout: float = Field(default=0.0, ge=0, lt=1)
    """Share of duplicate clusters that are kept for evaluation and never trained on."""
    incumbents: bool = True
    """A question whose answers are paid for is not deposed by a newer duplicate (law 7)."""

    def needs_embeddings(self) -> bool:
        contamination = self.decontaminate
        return bool(self.near_duplicates or (contamination.benchmarks and contamination.similarity))


def curate_steps(settings: CurateSettings, base: Path, sources: Sequence[str], teachers: Sequence[str]) -> list[Step]:
    """The steps in order; `sources` by falling priority; `teachers` are asked for whose answers are paid for."""
    steps = [embed_step(settings.embedding)] if settings.needs_embeddings() else []
    embedded = ("embed",) if settings.needs_embeddings() else ()
    steps.append(_screen_step(settings, base, embedded))
    steps.append(
        dedup_step(settings.near_duplicates, exact=settings.exact_duplicates, heldout=settings.heldout,
                   incumbents=settings.incumbents, sources=sources, teachers=teachers, embedded=embedded,
                   embedding=settings.embedding.identity() if embedded else None)
    )  # fmt: skip
    steps.append(Step("curate", "curate", "shard", VERSION, {}, ("ingest", "screen", "dedup"), _curate))
    return steps


def _screen_step(settings: CurateSettings, base: Path, embedded: tuple[str, ...]) -> Step:
    contamination = settings.decontaminate
    described = {
        "filters": settings.filters.as_json() if settings.filters else None,
        "decontaminate": contamination.as_json(),
        "embedding": settings.embedding.identity() if embedded else None,
    }

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        hashes = tuple(sorted(work[0].inputs.files.items()))
        benchmarks = load_benchmarks(contamination, settings.embedding, base, hashes)
        for one in work:
            transaction = context.begin(step, one)
            questions = context.workspace.read("ingest", one.shard, "questions", ["question_id", "messages"])
            texts = [question_text(row["messages"]) for row in questions.to_pylist()]
            vectors = matrix(context.workspace.read("embed", one.shard, "embeddings")) if embedded else None
            context.progress.expect(step.key, len(texts))
            on_benchmark = benchmarks.check(texts, vectors)
            rows = []
            for identity, text, contaminated in zip(
                questions.column("question_id").to_pylist(), texts, on_benchmark, strict=True
            ):
                finding = (screen_text(text, settings.filters) if settings.filters else None) or contaminated
                rows.append({
                    "question_id": identity,
                    "text_hash": hash_text(normal_text(text)),
                    "rule": finding and finding.rule,
                    "value": finding and finding.value,
                    "threshold": finding and finding.threshold,
                    "evidence": _evidence(finding) if finding else "{}",
                })  # fmt: skip
            book = Book("question", len(rows), len(rows))
            transaction.commit("screened", pa.Table.from_pylist(rows, schema=SCREENED), [], [book])
            context.progress.advance(step.key, len(texts))

    reads = ("ingest", *embedded)
    return Step("screen", "curate", "shard", VERSION, described, reads, run,
                lambda cache: benchmark_files(contamination, base, cache))  # fmt: skip


def _evidence(finding: Finding) -> str:
    """A benchmark's finding is JSON already; a filter's is a piece of the question."""
    if finding.rule.startswith("benchmark_"):
        return finding.seen
    return json.dumps({"seen": finding.seen}, ensure_ascii=False)


def _curate(context: Context, step: Step, work: Sequence[Work]) -> None:
    for one in work:
        transaction = context.begin(step, one)
        read = context.workspace.read
        questions = read("ingest", one.shard, "questions").to_pylist()
        screened = {row["question_id"]: row for row in read("screen", one.shard, "screened").to_pylist()}
        decided = {row["question_id"]: row for row in read("dedup", one.shard, "duplicates").to_pylist()}
        kept, ledger = [], []
        for question in questions:
            identity = question["question_id"]
            screen, duplicate = screened[identity], decided.get(identity)
            if screen["rule"]:
                ledger.append(context.drop(step.key, "question", identity, screen["rule"], value=screen["value"],
                                           threshold=screen["threshold"], evidence=screen["evidence"]))  # fmt: skip
            elif duplicate is not None and duplicate["rule"]:
                evidence = json.dumps({"kept": duplicate["kept_id"]})
                ledger.append(context.drop(step.key, "question", identity, duplicate["rule"],
                                           value=round(duplicate["similarity"], 3), evidence=evidence))  # fmt: skip
            else:
                kept.append(question | {"split": duplicate["split"] if duplicate else "train"})
        book = Book("question", len(questions), len(kept), dict(Counter(entry["rule"] for entry in ledger)))
        transaction.commit("curated", pa.Table.from_pylist(kept, schema=CURATED), ledger, [book])
