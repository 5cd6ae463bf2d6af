"""The list of questions: those that were dropped too, each with its grade and its fate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.schemas import CATEGORIES, SPLITS, STATUSES
from tasks.report_data import DIFFICULTIES
from tasks.viewer.catalogue import Catalogue
from tasks.viewer.excerpt import Excerpt, excerpt
from tasks.viewer.filters import Filter
from tasks.viewer.scan import Key, Listing

FATES = ("kept", "selected", "not selected", "dropped")
"""kept by curate, and of those selected for training or not; dropped by curate"""


def filters(teachers: Sequence[str], rules: Sequence[str]) -> list[Filter]:
    """`teachers` and `rules` are the workspace's own."""
    return [
        Filter("category", "Category", choices=CATEGORIES),
        Filter("source", "Source", "text"),
        Filter("split", "Split", choices=SPLITS),
        Filter("difficulty", "Difficulty", choices=DIFFICULTIES),
        Filter("teacher", "Answered by", choices=teachers),
        Filter("status", "With verdict", choices=STATUSES),
        Filter("fate", "Fate", choices=FATES),
        Filter("rule", "Dropped by rule", choices=rules),
        Filter("text", "Text", "text"),
    ]


def listing(given: Mapping[str, str]) -> Listing:
    """The list for these filters. A question's category is curate's, which a label may have changed."""
    fates = {
        "kept": "question_id in (select question_id from curated)",
        "selected": "question_id in (select question_id from selection)",
        "not selected": "question_id in (select question_id from curated) "
                        "and question_id not in (select question_id from selection)",
        "dropped": "question_id not in (select question_id from curated)",
    }  # fmt: skip
    return Listing("questions", ("question_id",), {
        "category": """
            if(question_id in (select question_id from curated),
                question_id in (select question_id from curated where category = $category), category = $category)
        """,
        "source": "question_source = $source",
        "split": "question_id in (select question_id from curated where split = $split)",
        "difficulty": "question_id in (select question_id from grades where difficulty = $difficulty)",
        "teacher": "question_id in (select question_id from responses where teacher = $teacher)",
        "status": f"""
            question_id in (
                select question_id from verdicts where verifier = 'outcome' and status = $status
                {"and teacher = $teacher" if "teacher" in given else ""}
            )
        """,
        "fate": fates.get(given.get("fate", ""), "true"),
        "rule": "question_id in (select unit_id from ledger where unit = 'question' and rule = $rule)",
        "text": "regexp_matches(array_to_string(list_transform(messages, lambda m: m.content), e'\\n'), "
                "regexp_escape($text), 'i')",
    })  # fmt: skip


@dataclass(frozen=True)
class QuestionRow:
    """One line of the list."""

    question_id: str
    category: str
    source: str
    split: str | None
    text: Excerpt
    difficulty: str | None
    n: int | None
    passes: int | None
    selected: int
    dropped: str | None
    """step and rule of its first drop"""


_ROWS = """
    with kept as (
        select question_id, category, split
        from curated
        where question_id in (select unnest($ids::varchar[]))
    ), graded as (
        select question_id, difficulty, n, passes
        from grades
        where question_id in (select unnest($ids::varchar[]))
    ), chosen as (
        select question_id, count(*) as selected
        from selection
        where question_id in (select unnest($ids::varchar[]))
        group by question_id
    ), gone as (
        select unit_id as question_id, min(stage || ' ' || rule) as dropped
        from ledger
        where unit = 'question' and unit_id in (select unnest($ids::varchar[]))
        group by unit_id
    )
    select q.question_id, coalesce(k.category, q.category) as category, q.question_source as source, k.split,
        q.messages, g.difficulty, g.n, g.passes, coalesce(c.selected, 0) as selected, d.dropped
    from questions q
    left join kept k using (question_id)
    left join graded g using (question_id)
    left join chosen c using (question_id)
    left join gone d using (question_id)
    where q.question_id in (select unnest($ids::varchar[]))
    order by q.question_id
"""


def read_rows(catalogue: Catalogue, keys: Sequence[Key], given: Mapping[str, str]) -> list[QuestionRow]:
    """The lines of a page."""
    ids = [key[0] for key in keys]
    rows = catalogue.rows(_ROWS, {"ids": ids}, sorted({catalogue.workspace.shard_of(one) for one in ids}))
    return [_row(row, given.get("text")) for row in rows]


def _row(row: dict[str, Any], text: str | None) -> QuestionRow:
    asked = "\n\n".join(message["content"] or "" for message in row.pop("messages"))
    return QuestionRow(text=excerpt(asked, text), **row)
