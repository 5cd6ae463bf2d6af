"""Self-test: questions for the verifiers' self-test, and the step that holds a run back while a limit is passed.

Where the recipe sets `verify.self_test.max_false_reject` or `max_false_accept`, the step runs after curate and before
any teacher is asked. A self-test that keeps the limits is committed and not made again before verifiers, their settings
or the sources' settings change (not for each new question); one over a limit is not, and raises.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from storage.fingerprint import hash_json, hash_text
from storage.manifest import Book
from storage.workspace import Workspace
from tasks.errors import SelfTestFailed
from tasks.ingest import IngestSettings
from tasks.question import BadRecord, to_question
from tasks.sources import Source, read_source
from tasks.step import Context, Step, Work
from tasks.verifiers.bench import Bench, static_versions
from tasks.verifiers.self_test import REVISION, Rates, faults, run_self_test
from tasks.verifiers.settings import SelfTestSettings, VerifySettings

RECORDS_READ = 10_000
"""of a source, where questions are drawn from sources"""
KEPT_MISSES = 5


def self_test_step(settings: VerifySettings, sources: Sequence[Source], *, workers: int) -> Step:
    """The step `self_test`; it belongs to the stage generate, which spends the budget."""
    described = {
        "verify": settings.as_json(),
        "versions": static_versions(settings) | {"self-test": str(REVISION)},
        "sources": {source.name: source.as_json(exclude={"expected_rows", "limit"}) for source in sources},
    }

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        questions = sample_curated(context.workspace, settings.self_test)
        context.progress.expect(step.key, len(questions))
        with Bench(settings, workers) as bench:
            rates = run_self_test(questions, settings, bench)
        if found := faults(rates, settings.self_test):
            raise SelfTestFailed(
                f"self-test: {'; '.join(found)}. No teacher was asked. `stillhouse verify --self-test RECIPE` lists "
                "the answers; `verify.self_test` in the recipe sets the limits"
            )
        context.progress.advance(step.key, len(questions))
        book = Book("question", len(questions), len(questions))
        kept = [_as_json(one) for one in rates]
        for one in work:
            context.begin(step, one).commit_result([book], content=hash_json(kept), extra={"rates": kept})

    # It reads nothing by its fingerprint, so that the questions of a new night don't repeat it.
    return Step("self_test", "generate", "one", str(REVISION), described, (), run, exclusive=True)


def _as_json(rates: Rates) -> dict[str, Any]:
    found = asdict(rates)
    for name in ("false_rejects", "false_accepts"):
        found[name] = {"number": len(found[name]), "first": found[name][:KEPT_MISSES]}
    return found


def sample_curated(workspace: Workspace, settings: SelfTestSettings) -> list[dict[str, Any]]:
    """Up to `sample` curated questions of each category, drawn by a hash of seed and id."""
    drawn: dict[str, set[str]] = defaultdict(set)
    ids = (
        row
        for shard in workspace.shards
        for row in workspace.read("curate", shard, "curated", ["question_id", "category"]).to_pylist()
    )
    for row in draw(ids, settings):
        drawn[workspace.shard_of(row["question_id"])].add(row["question_id"])
    return [
        row
        for shard, wanted in sorted(drawn.items())
        for row in workspace.read("curate", shard, "curated").to_pylist()
        if row["question_id"] in wanted
    ]


def sample_sources(
    sources: Sequence[Source], ingest: IngestSettings, base: Path, settings: SelfTestSettings
) -> list[dict[str, Any]]:
    """The same from the first RECORDS_READ records of each source, where nothing is curated yet."""
    return draw((row for source in sources for row in _questions(source, ingest, base)), settings)


def _questions(source: Source, ingest: IngestSettings, base: Path) -> Iterable[dict[str, Any]]:
    constants = {
        "question_source": source.name, "category": source.category, "license": source.license,
        "language": source.language,
    }  # fmt: skip
    for record in islice(read_source(source, base), RECORDS_READ):
        if isinstance(record.value, BadRecord):
            continue
        try:
            yield to_question(record.value, source.columns, constants, source.metadata, ingest.max_question_chars)
        except BadRecord:
            continue  # ingest books it


def draw(questions: Iterable[dict[str, Any]], settings: SelfTestSettings) -> list[dict[str, Any]]:
    """Up to `sample` rows of each category, each question once, by the smallest hashes of seed and question_id."""
    kept: dict[str, list[tuple[int, str, dict[str, Any]]]] = defaultdict(list)
    seen: set[str] = set()
    for row in questions:
        identity = row["question_id"]
        if identity in seen:
            continue
        seen.add(identity)
        heap = kept[row["category"]]
        entry = (-int(hash_text(str(settings.seed), identity), 16), identity, row)
        if len(heap) < settings.sample:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
    return [row for _, heap in sorted(kept.items()) for *_, row in sorted(heap, key=lambda one: one[1])]
