"""The list of verdicts, those of single verifiers and the outcomes that combine them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from storage.schemas import CATEGORIES, STATUSES
from tasks.report_data import DIFFICULTIES
from tasks.viewer.catalogue import Catalogue
from tasks.viewer.excerpt import Excerpt, excerpt
from tasks.viewer.filters import Filter
from tasks.viewer.scan import Key, Listing


def filters(teachers: Sequence[str]) -> list[Filter]:
    """`teachers` are the workspace's own."""
    return [
        Filter("category", "Category", choices=CATEGORIES),
        Filter("teacher", "Teacher", choices=teachers),
        Filter("verifier", "Verifier", "text"),
        Filter("status", "Status", choices=STATUSES),
        Filter("difficulty", "Difficulty", choices=DIFFICULTIES),
        Filter("question", "Question id", "id"),
        Filter("text", "Answer or evidence", "text"),
    ]


def listing() -> Listing:
    """The list."""
    return Listing("verdicts", ("question_id", "response_id", "verifier"), {
        "category": "question_id in (select question_id from curated where category = $category)",
        "teacher": "teacher = $teacher",
        "verifier": "verifier = $verifier",
        "status": "status = $status",
        "difficulty": "question_id in (select question_id from grades where difficulty = $difficulty)",
        "question": "question_id = $question",
        "text": "regexp_matches(answer, regexp_escape($text), 'i') "
                "or regexp_matches(evidence, regexp_escape($text), 'i')",
    })  # fmt: skip


@dataclass(frozen=True)
class VerdictRow:
    """One line of the list."""

    question_id: str
    response_id: str
    verifier: str
    verifier_version: str
    teacher: str
    sample_index: int
    status: str
    passed: bool | None
    score: float | None
    answer: str | None
    evidence: Excerpt


_ROWS = """
    select question_id, response_id, verifier, verifier_version, teacher, sample_index, status, passed,
        verify_score as score, answer[:200] as answer, evidence
    from verdicts
    where response_id in (select unnest($ids::varchar[]))
    order by question_id, response_id, verifier
"""


def read_rows(catalogue: Catalogue, keys: Sequence[Key], given: Mapping[str, str]) -> list[VerdictRow]:
    """The lines of a page."""
    wanted = set(keys)
    shards = sorted({catalogue.workspace.shard_of(key[0]) for key in keys})
    rows = catalogue.rows(_ROWS, {"ids": sorted({key[1] for key in keys})}, shards, given.get("teacher"))
    return [
        VerdictRow(**row | {"evidence": excerpt(row["evidence"], given.get("text"))})
        for row in rows if (row["question_id"], row["response_id"], row["verifier"]) in wanted
    ]  # fmt: skip
