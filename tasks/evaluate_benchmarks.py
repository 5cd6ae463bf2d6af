"""Benchmark files beside the held-out split: read like sources, asked like held-out questions, reported by name.

Nothing is filtered, de-duplicated against the training set or graded by teachers here: `curate.decontaminate` does the
first. How many of a benchmark's questions stand word for word in the training split is counted and shown.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storage.schemas import CURATED
from tasks.errors import BadSetting
from tasks.question import BadRecord, to_question
from tasks.sources import Source, fingerprint_files, read_source
from tasks.step import Context, Step

MAX_CHARS = 1_000_000


@dataclass
class Benchmarks:
    """Questions of all benchmarks by id, who has which, and the fate of every record."""

    questions: dict[str, dict[str, Any]] = field(default_factory=dict)
    members: dict[str, set[str]] = field(default_factory=dict)
    records: int = 0
    ledger: list[dict[str, Any]] = field(default_factory=list)

    @property
    def drops(self) -> dict[str, int]:
        return dict(Counter(row["rule"] for row in self.ledger))


def read_benchmarks(context: Context, step: Step, benchmarks: Sequence[Source], base: Path) -> Benchmarks:
    """Read them all. A question that two of them have counts in both. Raises BadSetting for one without a question."""
    found = Benchmarks()
    for source in benchmarks:
        constants = {"question_source": source.name, "category": source.category, "license": source.license,
                     "language": source.language}  # fmt: skip
        mine = found.members.setdefault(source.name, set())
        for record in read_source(source, base):
            found.records += 1
            try:
                if isinstance(record.value, BadRecord):
                    raise record.value
                row = to_question(record.value, source.columns, constants, source.metadata, MAX_CHARS)
            except BadRecord as fault:
                evidence = json.dumps({"detail": fault.detail}, ensure_ascii=False)
                found.ledger.append(context.drop(step.key, "record", record.place, fault.rule, evidence=evidence))
                continue
            if row["question_id"] in mine:
                found.ledger.append(context.drop(step.key, "record", record.place, "same_question"))
                continue
            mine.add(row["question_id"])
            row = {name: row.get(name) for name in CURATED.names} | {"split": "heldout"}
            found.questions.setdefault(row["question_id"], row)
        if not mine:
            raise BadSetting(f"evaluate.benchmarks: {source.name} holds no question; check its `path` and `columns`")
    return found


def benchmark_files(benchmarks: Sequence[Source], base: Path, cache: Path) -> dict[str, str]:
    """Content hashes of their files, for the fingerprint."""
    return {
        f"{source.name}:{name}": value
        for source in benchmarks
        for name, value in fingerprint_files(source, base, cache).items()
    }
