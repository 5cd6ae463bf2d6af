"""Everything about one question: what it is, what was answered, what was judged, where it went."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from storage.schemas import LEDGER, TABLES
from tasks.viewer.catalogue import Catalogue
from tasks.viewer.scan import gather

MOST_RESPONSES = 64
"""shown on the page of a question; it says how many more there are"""

FACTS = {
    "question": "select * from questions where question_id = $question_id",
    "label": "select * from labels where question_id = $question_id",
    "rewritten": "select * from rewrites where question_id = $question_id",
    "curated": "select split from curated where question_id = $question_id",
    "responses": "select * from responses where question_id = $question_id order by teacher, sample_index",
    "scores": "select * exclude (sentences), len(sentences) as sentences from scores "
              "where question_id = $question_id order by teacher, response_id, scorer",
    "verdicts": "select * from verdicts where question_id = $question_id order by teacher, sample_index, verifier",
    "grade": "select * from grades where question_id = $question_id",
    "reference put to the judge": "select * from repairs where question_id = $question_id",
    "selected": "select * from selection where question_id = $question_id",
    "dropped": """select * from ledger where unit_id = $question_id or split_part(unit_id, '/', 1) in
                  (select response_id from responses where question_id = $question_id)""",
}  # fmt: skip
"""title → query with the parameter `question_id`, over the tables by their names; `stillhouse show` prints these"""

MORE_FACTS = {
    "asked": "select messages, category from curated where question_id = $question_id",
    "screened": "select * from screened where question_id = $question_id",
    "pairs": "select * from preference_pairs where question_id = $question_id",
}
"""what the page shows besides"""


@dataclass(frozen=True)
class Response:
    """A response with what belongs to it."""

    row: dict[str, Any]
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    selected: dict[str, Any] | None = None
    drops: list[dict[str, Any]] = field(default_factory=list)

    @property
    def outcome(self) -> dict[str, Any] | None:
        return next((one for one in self.verdicts if one["verifier"] == "outcome"), None)


@dataclass(frozen=True)
class QuestionFacts:
    """All rows about one question; the ones of its responses stand with them."""

    question_id: str
    question: dict[str, Any] | None
    """None in a workspace that holds no questions, such as an evaluation's"""
    messages: list[dict[str, Any]]
    """as they were asked; as the source has them where curate dropped the question"""
    category: str | None
    split: str | None
    grade: dict[str, Any] | None
    label: dict[str, Any] | None
    rewrite: dict[str, Any] | None
    repair: dict[str, Any] | None
    screened: dict[str, Any] | None
    drops: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    responses: list[Response]
    left_out: int
    """responses that are not among `responses`"""

    @property
    def selected(self) -> int:
        return sum(one.selected is not None for one in self.responses)


def read_question(catalogue: Catalogue, question_id: str) -> QuestionFacts | None:
    """All about a question, or None if no table has it. Reads one shard."""
    shards = [catalogue.workspace.shard_of(question_id)]
    given = {"question_id": question_id}
    found = {
        title: _whole(query, catalogue.rows(query, given, shards)) for title, query in (FACTS | MORE_FACTS).items()
    }
    if not found["question"] and not found["responses"]:
        return None
    question, asked, curated = _first(found["question"]), _first(found["asked"]), _first(found["curated"])
    shown = asked or question or {"messages": [], "category": None}
    responses = [_response(row, found) for row in found["responses"][:MOST_RESPONSES]]
    return QuestionFacts(
        question_id=question_id,
        question=question,
        messages=shown["messages"],
        category=shown["category"],
        split=curated["split"] if curated else None,
        grade=_first(found["grade"]),
        label=_first(found["label"]),
        rewrite=_first(found["rewritten"]),
        repair=_first(found["reference put to the judge"]),
        screened=_first(found["screened"]),
        drops=[row for row in found["dropped"] if row["unit_id"] == question_id],
        pairs=found["pairs"],
        responses=responses,
        left_out=len(found["responses"]) - len(responses),
    )


def _whole(query: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with all columns of their table, null where an older version wrote them without."""
    table = query.partition(" from ")[2].split()[0]
    schema = LEDGER if table == "ledger" else TABLES[table].schema
    return [dict.fromkeys(schema.names) | row for row in rows]


def _first(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    return rows[0] if rows else None


def _response(row: dict[str, Any], found: dict[str, list[dict[str, Any]]]) -> Response:
    identity = row["response_id"]
    verdicts, scores, selected = (
        [one for one in found[title] if one["response_id"] == identity] for title in ("verdicts", "scores", "selected")
    )
    drops = [one for one in found["dropped"] if one["unit_id"].split("/")[0] == identity]
    verdicts.sort(key=lambda one: one["verifier"] != "outcome")
    return Response(row, verdicts, scores, _first(selected), drops)


@dataclass(frozen=True)
class Place:
    """Where an id was found, or how far it was looked for."""

    question_id: str | None
    response_id: str | None = None
    several: bool = False
    looked: int = 0
    of: int = 0

    @property
    def everywhere(self) -> bool:
        return self.looked == self.of


def find(catalogue: Catalogue, beginning: str, skip: int = 0) -> Place:
    """The question or response whose id begins so, 4 to 32 hex digits.

    A question's id names its shard. A response's doesn't: all shards are gone through, as far as the time reaches;
    `skip` leaves out the first ones, where it was looked for already.
    """
    shards = catalogue.workspace.shards
    if not skip:
        least, most = (catalogue.workspace.shard_of(beginning.ljust(32, filler)) for filler in "0f")
        query = "select question_id from questions where starts_with(question_id, $id) limit 2"
        rows = catalogue.rows(query, {"id": beginning}, shards[shards.index(least) : shards.index(most) + 1])
        if rows:
            return Place(rows[0]["question_id"], several=len(rows) > 1)
    query = """
        select question_id, response_id from responses
        where response_id >= $id and starts_with(response_id, $id) limit $most
    """
    found, looked = gather(
        shards[skip:], lambda batch, most: catalogue.rows(query, {"id": beginning, "most": most}, batch), 2
    )
    of = len(shards) - skip
    if not found:
        return Place(None, looked=looked, of=of)
    return Place(found[0]["question_id"], found[0]["response_id"], len(found) > 1, looked, of)


def pretty(text: str | None) -> str:
    """JSON with one value a line; other text as it is."""
    try:
        return json.dumps(json.loads(text or ""), indent=2, ensure_ascii=False)
    except ValueError:
        return text or ""


def kept_question(evidence: str | None) -> str | None:
    """The question that was kept in place of a duplicate, by the ledger's evidence."""
    try:
        kept = json.loads(evidence or "").get("kept")
    except (ValueError, AttributeError):
        return None
    return kept if isinstance(kept, str) and re.fullmatch("[0-9a-f]{32}", kept) else None
