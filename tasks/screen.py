"""Screen: each question judged on its own, by the filters and against the benchmarks.

Every question gets a row: the first rule that drops it, or none, and what decontamination makes of it. Undecided
questions (the judge failed) are kept out and pending: the next run asks again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.fingerprint import hash_text
from storage.manifest import Book
from storage.schemas import SCREENED
from tasks.decontaminate import Benchmarks, DecontaminateSettings, load_benchmarks
from tasks.decontaminate_benchmarks import benchmark_files
from tasks.decontaminate_decision import Contamination
from tasks.decontaminate_text import normal_text
from tasks.embeddings import EmbeddingSettings, matrix
from tasks.filters import MEANS, FilterSettings, Finding, screen_question
from tasks.question import question_text
from tasks.step import Context, Step, Work

VERSION = "3"


def screen_step(filters: FilterSettings | None, contamination: DecontaminateSettings, embedding: EmbeddingSettings,
                base: Path, embedded: tuple[str, ...]) -> Step:  # fmt: skip
    described = {
        "filters": filters.as_json() if filters else None,
        "decontaminate": contamination.identity(),
        "embedding": embedding.identity() if embedded else None,
    }

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        hashes = tuple(sorted(work[0].inputs.files.items()))
        benchmarks = load_benchmarks(contamination, embedding, base, hashes)
        for one in work:
            _screen_shard(context, step, one, filters, benchmarks, bool(embedded))

    reads = ("ingest", *embedded)
    return Step("screen", "curate", "shard", VERSION, described, reads, run,
                lambda cache: benchmark_files(contamination.benchmarks, base, cache))  # fmt: skip


def _screen_shard(context: Context, step: Step, work: Work, filters: FilterSettings | None, benchmarks: Benchmarks,
                  embedded: bool) -> None:  # fmt: skip
    transaction = context.begin(step, work)
    columns = list(dict.fromkeys(["question_id", "messages", "ground_truth", *MEANS]))
    questions = context.workspace.read("ingest", work.shard, "questions", columns).to_pylist()
    texts = [question_text(row["messages"]) for row in questions]
    vectors = matrix(context.workspace.read("embed", work.shard, "embeddings")) if embedded else None
    context.progress.expect(step.key, len(texts))
    found = benchmarks.check(texts, vectors, [row["ground_truth"] for row in questions])
    rows = []
    for question, text, contamination in zip(questions, texts, found, strict=True):
        finding = screen_question(question, filters) if filters else None
        rows.append({"question_id": question["question_id"], "text_hash": hash_text(normal_text(text)),
                     **_verdict(finding, contamination, benchmarks)})  # fmt: skip
    pending = sum(row["rule"] == "benchmark_undecided" for row in rows)
    book = Book("question", len(rows), len(rows) - pending, pending=pending)
    transaction.commit("screened", pa.Table.from_pylist(rows, schema=SCREENED), [], [book])
    context.progress.advance(step.key, len(texts))


def _verdict(finding: Finding | None, contamination: Contamination, benchmarks: Benchmarks) -> dict[str, Any]:
    """A filter's finding comes first; a suspect that is kept has no rule, and its evidence."""
    if finding is not None:
        return {"rule": finding.rule, "value": finding.value, "threshold": finding.threshold,
                "verdict": contamination.verdict,
                "evidence": json.dumps({"seen": finding.seen}, ensure_ascii=False)}  # fmt: skip
    return {"rule": benchmarks.drops(contamination), "value": contamination.value,
            "threshold": contamination.threshold, "verdict": contamination.verdict,
            "evidence": benchmarks.evidence(contamination)}  # fmt: skip
