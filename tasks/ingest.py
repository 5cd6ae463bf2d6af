"""Ingest: source records become questions, each in its shard; what can't goes to the ledger with its place and reason.

Records are read as a stream and spilled to one file per shard, then each shard is settled on its own: the same
question from two sources is kept once, by priority. Memory is bounded by one shard.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from storage.fingerprint import hash_text
from storage.manifest import Book, Head
from storage.schemas import LEDGER, QUESTIONS, TABLES
from storage.workspace import Transaction, Workspace
from tasks.errors import UnreadableSource
from tasks.question import BadRecord, to_question
from tasks.settings import Settings
from tasks.sources import GeneratorSource, Source, fingerprint_files, read_source
from tasks.spill import Spill
from tasks.step import Context, Step, Work

VERSION = "1"

_SPILLED = pa.schema([*QUESTIONS, pa.field("unit_id", pa.string()), pa.field("rank", pa.int64())])


class IngestSettings(Settings):
    max_question_chars: int = Field(default=100_000, ge=1)
    """A longer question goes to the ledger."""


def ingest_step(sources: Sequence[Source], settings: IngestSettings, base: Path) -> Step:
    """The step that reads all sources; `base` is the recipe's folder."""
    described = {source.name: source.as_json(exclude={"expected_rows"}) for source in sources}

    def files(cache: Path) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in sources:
            found |= {f"{source.name}:{name}": value for name, value in fingerprint_files(source, base, cache).items()}
        return found

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        transactions = [context.begin(step, one) for one in work]  # before anything is read: the base is what we saw
        good, bad = Spill(context.workspace, _SPILLED), Spill(context.workspace, LEDGER)
        try:
            _read(context, step, sources, settings, base, good, bad)
            for transaction in transactions:
                shard = transaction.shard
                _settle(context, step, transaction, sources, good.read(shard), bad.read(shard).to_pylist())
        finally:
            good.close()
            bad.close()

    return Step("ingest", "ingest", "global", VERSION, {"sources": described, "order": [s.name for s in sources],
                **settings.as_json()}, (), run, files)  # fmt: skip


def _read(context: Context, step: Step, sources: Sequence[Source], settings: IngestSettings, base: Path,
          good: Spill, bad: Spill) -> None:  # fmt: skip
    """Spill all records: the good ones as rows, the bad ones as rows of the ledger. Raises UnreadableSource for a
    source without a single question: by mistake, a mirror's questions would all retire."""
    workspace = context.workspace
    ranks = _ranks(sources)
    for source in sources:
        constants = {
            "question_source": source.name, "category": source.category, "license": source.license,
            "language": source.language,
        }  # fmt: skip
        first, questions = None, 0
        for record in read_source(source, base):
            context.progress.expect(step.key, 1)
            fault = record.value if isinstance(record.value, BadRecord) else None
            if fault is None:
                try:
                    row = to_question(record.value, source.columns, constants, source.metadata,  # type: ignore[arg-type]
                                      settings.max_question_chars)  # fmt: skip
                except BadRecord as found:
                    fault = found
            if fault is None:
                row |= {"unit_id": record.place, "rank": ranks[source.name]}
                good.add(workspace.shard_of(row["question_id"]), row)
                questions += 1
            else:
                first = first or f"{record.place}: {fault.rule}: {fault.detail}"
                shard = workspace.shard_of(hash_text(record.place))
                evidence = json.dumps({"detail": fault.detail}, ensure_ascii=False)
                bad.add(shard, context.drop(step.key, "record", record.place, fault.rule, value=fault.value,
                                            threshold=fault.threshold, evidence=evidence))  # fmt: skip
            context.progress.advance(step.key, 1)
        if not questions:
            why = f"none of its records is a question; the first, {first}" if first else "it holds no records"
            where = source.dataset if isinstance(source, GeneratorSource) else source.path
            raise UnreadableSource(
                f"source {source.name} ({where}): {why}. "
                "Check its settings, `columns` above all, or take it out of the recipe"
            )


def _ranks(sources: Sequence[Source]) -> dict[str, int]:
    """0 for the source that keeps a question against all others: by priority, then by place in the recipe."""
    ordered = sorted(enumerate(sources), key=lambda pair: (-pair[1].priority, pair[0]))
    return {source.name: rank for rank, (_, source) in enumerate(ordered)}


def _settle(context: Context, step: Step, transaction: Transaction, sources: Sequence[Source], spilled: pa.Table,
            bad: list[dict[str, Any]]) -> None:  # fmt: skip
    """Commit one shard: one row per question_id, the rest to the ledger."""
    rows = spilled.to_pylist() + _carried_over(context.workspace, transaction.base, sources)
    rows.sort(key=lambda row: (row["question_id"], row["rank"], row.get("carried", False)))
    kept: dict[str, dict[str, Any]] = {}
    ledger = list(bad)
    carried_again = 0
    for row in rows:
        first = kept.get(row["question_id"])
        if first is None:
            kept[row["question_id"]] = row
        elif row.get("carried"):
            carried_again += 1  # still in the source: the same record, not a second one
        else:
            rule = "same_question" if _same_reference(first, row) else "conflicting_reference"
            evidence = {
                "kept": first["unit_id"],
                "reference": row["ground_truth"],
                "kept_reference": first["ground_truth"],
            }
            ledger.append(context.drop(step.key, "record", row["unit_id"], rule,
                                       evidence=json.dumps(evidence, ensure_ascii=False)))  # fmt: skip
    dropped: dict[str, int] = defaultdict(int)
    for entry in ledger:
        dropped[entry["rule"]] += 1
    book = Book("record", len(rows) + len(bad) - carried_again, len(kept), dict(dropped))
    good = [{name: row[name] for name in QUESTIONS.names} for row in kept.values()]
    transaction.commit("questions", pa.Table.from_pylist(good, schema=QUESTIONS), ledger, [book])


def _carried_over(workspace: Workspace, base: Head | None, sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Rows of `append` sources that an earlier ingest committed."""
    ranks = _ranks(sources)
    growing = {source.name for source in sources if source.mode == "append"}
    if not growing or base is None:
        return []
    earlier = workspace.read_parts(base.data(), TABLES["questions"]).to_pylist()
    return [
        row | {"unit_id": f"{row['question_source']}:{row['source_id']}", "rank": ranks[row["question_source"]],
               "carried": True}
        for row in earlier if row["question_source"] in growing
    ]  # fmt: skip


def _same_reference(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[name] == other[name] for name in ("ground_truth", "test_cases", "instruction_constraints"))
