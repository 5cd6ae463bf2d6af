"""Provenance: which sentences of a teacher's response are the teacher's own, and which the student would write too.

The step `provenance.<teacher>` compares the scores of two scorers, sentence by sentence, and asks no model;
`provenance.<teacher>.rounds` does so for the samples of the teacher's later rounds. A response
one of them can never score goes to the ledger; one whose score is pending is pending here. Select takes the responses
with the most teacher sentences. The student's own answers are traced in tasks/provenance_student.py.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.manifest import Book
from storage.schemas import PROVENANCE
from tasks.plan import ROUNDS
from tasks.provenance_classes import ProvenanceSettings, trace
from tasks.step import Context, Step, Work

VERSION = "1"
COLUMNS = ["response_id", "question_id", "scorer", "truncated", "sentences", "error"]
AT_ONCE = 10_000
"""responses that are traced before their rows become Arrow buffers"""


def provenance_step(settings: ProvenanceSettings, teacher: str, *, later: bool = False) -> Step:
    """The step `provenance.<teacher>` of the stage `score`; `later`: `provenance.<teacher>.rounds`, of the stage
    `verify` as the rounds are."""
    rows = f"{teacher}{ROUNDS}" if later else teacher

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            _trace_shard(context, step, one, settings, teacher)

    described = settings.as_json(exclude={"trained"})
    stage = "verify" if later else "score"
    return Step(f"provenance.{rows}", stage, "shard", VERSION, described, (f"score.{rows}",), run)


def _trace_shard(context: Context, step: Step, work: Work, settings: ProvenanceSettings, teacher: str) -> None:
    transaction = context.begin(step, work)
    [source] = step.reads
    wanted = (settings.teacher, settings.student)
    table = context.workspace.read(source, work.shard, "scores", COLUMNS)
    table = table.filter(pc.is_in(table.column("scorer"), pa.array(wanted)))
    places: dict[str, dict[str, int]] = defaultdict(dict)  # the sentences stay in Arrow buffers
    for place, row in enumerate(table.select(["response_id", "scorer", "error"]).to_pylist()):
        places[row["response_id"]] |= {row["scorer"]: place} if row["error"] is None else {}
    dropped = _never(context, step, source, work.shard, wanted)
    ready = [found for key, found in places.items() if len(found) == len(set(wanted)) and key not in dropped]
    rows = [PROVENANCE.empty_table()]
    context.progress.expect(step.key, len(ready))
    for start in range(0, len(ready), AT_ONCE):
        batch = ready[start : start + AT_ONCE]
        sides = [table.take(pa.array([one[name] for one in batch])).to_pylist() for name in wanted]
        found = [_row(teacher, pair, settings) for pair in zip(*sides, strict=True)]
        rows.append(pa.Table.from_pylist(found, schema=PROVENANCE))
        context.progress.advance(step.key, len(batch))
    units = len(places.keys() | dropped.keys())
    rules = dict(Counter(entry["rule"] for entry in dropped.values()))
    book = Book("response", units, len(ready), rules, units - len(ready) - len(dropped))
    transaction.commit("provenance", pa.concat_tables(rows), list(dropped.values()), [book])


def _row(teacher: str, scores: Sequence[dict[str, Any]], settings: ProvenanceSettings) -> dict[str, Any]:
    identity = {name: scores[0][name] for name in ("response_id", "question_id")}
    return identity | {"teacher": teacher} | trace(scores, settings)


def _never(context: Context, step: Step, source: str, shard: str, wanted: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The ledger's row of each response that one of the scorers can never score."""
    found: dict[str, dict[str, Any]] = {}
    for key, scorer, row in _unscored(context, source, shard):
        # a request that was refused is no response; score's ledger says so of it
        if scorer in wanted and row["rule"] != "no_response" and key not in found:
            evidence = json.dumps({"scorer": scorer, "rule": row["rule"]})
            found[key] = context.drop(step.key, "response", key, "not_scorable", value=row["value"],
                                      threshold=row["threshold"], evidence=evidence)  # fmt: skip
    return found


def _unscored(context: Context, source: str, shard: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for row in context.workspace.ledger(source, shard).to_pylist():
        key, _, scorer = row["unit_id"].partition("/")
        yield key, scorer, row
