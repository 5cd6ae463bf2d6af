"""The list of responses, failed requests included, each with its outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.schemas import CATEGORIES, STATUSES
from tasks.report_data import DIFFICULTIES
from tasks.viewer.catalogue import Catalogue
from tasks.viewer.excerpt import Excerpt, excerpt
from tasks.viewer.filters import Filter
from tasks.viewer.scan import Key, Listing

NO_VERDICT, FAILED = "no_verdict", "failed_request"


def filters(teachers: Sequence[str]) -> list[Filter]:
    """`teachers` are the workspace's own."""
    return [
        Filter("category", "Category", choices=CATEGORIES),
        Filter("teacher", "Teacher", choices=teachers),
        Filter("status", "Verdict", choices=(*STATUSES, NO_VERDICT, FAILED)),
        Filter("difficulty", "Difficulty", choices=DIFFICULTIES),
        Filter("selected", "Selected", choices=("yes", "no")),
        Filter("finish", "Finish reason", "text"),
        Filter("question", "Question id", "id"),
        Filter("text", "Text", "text"),
    ]


def listing(given: Mapping[str, str]) -> Listing:
    """The list for these filters."""
    outcomes = "select response_id from verdicts where verifier = 'outcome'"
    status = {
        NO_VERDICT: f"error_kind is null and response_id not in ({outcomes})",
        FAILED: "error_kind is not null",
    }.get(given.get("status", ""), f"response_id in ({outcomes} and status = $status)")
    return Listing("responses", ("question_id", "response_id"), {
        "category": "question_id in (select question_id from curated where category = $category)",
        "teacher": "teacher = $teacher",
        "status": status,
        "difficulty": "question_id in (select question_id from grades where difficulty = $difficulty)",
        "selected": f"response_id {'not' if given.get('selected') == 'no' else ''} in "
                    "(select response_id from selection)",
        "finish": "finish_reason = $finish",
        "question": "question_id = $question",
        "text": "regexp_matches(answer_content, regexp_escape($text), 'i') "
                "or regexp_matches(think_content, regexp_escape($text), 'i')",
    })  # fmt: skip


@dataclass(frozen=True)
class ResponseRow:
    """One line of the list."""

    question_id: str
    response_id: str
    category: str | None
    teacher: str
    sample_index: int
    round: int
    tokens: int | None
    finish_reason: str | None
    failed: bool
    status: str | None
    passed: bool | None
    score: float | None
    extracted: str | None
    """the answer that the verifier read"""
    selected: bool
    text: Excerpt


_ROWS = """
    with kept as (
        select question_id, category
        from curated
        where question_id in (select unnest($questions::varchar[]))
    ), outcomes as (
        select response_id, status, passed, verify_score, answer
        from verdicts
        where verifier = 'outcome' and response_id in (select unnest($ids::varchar[]))
    ), chosen as (
        select distinct response_id
        from selection
        where response_id in (select unnest($ids::varchar[]))
    )
    select r.question_id, r.response_id, k.category, r.teacher, r.sample_index, r.round,
        r.completion_tokens as tokens, r.finish_reason, r.error_kind is not null as failed, o.status, o.passed,
        o.verify_score as score, o.answer[:200] as extracted, c.response_id is not null as selected,
        {thinking} as think_content, r.answer_content, r.error
    from responses r
    left join kept k using (question_id)
    left join outcomes o using (response_id)
    left join chosen c using (response_id)
    where r.response_id in (select unnest($ids::varchar[]))
    order by r.question_id, r.response_id
"""


def read_rows(catalogue: Catalogue, keys: Sequence[Key], given: Mapping[str, str]) -> list[ResponseRow]:
    """The lines of a page."""
    parameters = {"questions": sorted({key[0] for key in keys}), "ids": [key[1] for key in keys]}
    shards = sorted({catalogue.workspace.shard_of(key[0]) for key in keys})
    thinking = "r.think_content" if "text" in given else "null"  # by far the largest column, and seldom shown
    rows = catalogue.rows(_ROWS.format(thinking=thinking), parameters, shards, given.get("teacher"))
    return [_row(row, given.get("text")) for row in rows]


def _row(row: dict[str, Any], text: str | None) -> ResponseRow:
    thinking, answer = row.pop("think_content") or "", row.pop("answer_content") or ""
    error = row.pop("error")
    if row["failed"]:
        return ResponseRow(text=excerpt(error or ""), **row)
    found = excerpt(answer, text, end=True)
    if text and not found.hit:
        found = excerpt(thinking, text)
    return ResponseRow(text=found, **row)
