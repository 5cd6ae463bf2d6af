"""The data set's card: what is in it, where it comes from, under which licences, and what it can't do."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from jinja2 import Environment

CARD = """\
---
{% if license %}license: {{ license }}
{% endif %}task_categories:
- text-generation
tags:
- reasoning
- distillation
- stillhouse
configs:
- config_name: default
  data_files:
{%- for split in splits %}
  - split: {{ split }}
    path: data/{{ split }}-*.parquet
{%- endfor %}
---

# {{ name }}

{{ total }} verified responses of {{ teachers | length }} teacher{{ "s" if teachers | length != 1 }} to \
{{ questions }} questions, selected by pass rate. Made with Stillhouse; every row can be traced by its `response_id`.

| split | rows |
|---|---|
{%- for split, rows in counts.items() %}
| {{ split }} | {{ rows }} |
{%- endfor %}

## Where it comes from

| source | licence | rows |
|---|---|---|
{%- for (source, license), rows in sources %}
| {{ source }} | {{ (license or "unknown") | cell }} | {{ rows }} |
{%- endfor %}

| teacher | revision | rows |
|---|---|---|
{%- for (teacher, revision), rows in teachers %}
| {{ teacher }} | {{ revision | cell }} | {{ rows }} |
{%- endfor %}

## What is in it

| category | rows |
|---|---|
{%- for category, rows in categories %}
| {{ category }} | {{ rows }} |
{%- endfor %}

| difficulty | rows |
|---|---|
{%- for difficulty, rows in difficulties %}
| {{ difficulty }} | {{ rows }} |
{%- endfor %}

`pass_rate` is passes / n over all judged samples of the question, `cv` the coefficient of variation of their scores,
`verify_score` the score of this response. `messages` is a conversation whose last message is the teacher's.

## Known limits

A response passed automatic verification; its reasoning was not judged. Licences differ by row: see `license`.
{%- if bases.get("vote") %}

{{ bases["vote"] }} rows (`basis` is `vote`) have no reference answer: they agree with the teachers' weighted majority.
{%- endif %}
{%- if bases.get("repaired") %}

{{ bases["repaired"] }} rows (`basis` is `repaired`) have a reference answer that the teachers' majority and a judge \
put in the place of the source's, which stands in `metadata`.
{%- endif %}
"""


class CardFacts:
    """Counts over the examples, one pass; the examples of one question come together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.questions = 0
        self._last: str | None = None
        self.by: dict[str, Counter[Any]] = {
            "source": Counter(), "teacher": Counter(), "category": Counter(), "difficulty": Counter(),
            "basis": Counter(),
        }  # fmt: skip

    def count(self, example: dict[str, Any]) -> None:
        self.questions += example["question_id"] != self._last
        self._last = example["question_id"]
        self.by["source"][example["question_source"], example["license"]] += 1
        self.by["teacher"][example["teacher"], example["model_revision"]] += 1
        self.by["category"][example["category"]] += 1
        self.by["difficulty"][example["difficulty"]] += 1
        self.by["basis"][example["basis"]] += 1


def write_card(path: Path, facts: CardFacts, counts: dict[str, int]) -> None:
    """Write `README.md`; `counts` is rows by split, and a validation split without rows is left out."""
    counts = {split: rows for split, rows in counts.items() if rows or split == "train"}
    environment = Environment(autoescape=False, keep_trailing_newline=True)
    environment.filters["cell"] = _cell
    template = environment.from_string(CARD)
    ordered = {
        name: sorted(counter.items(), key=lambda pair: (-pair[1], str(pair[0]))) for name, counter in facts.by.items()
    }
    path.write_text(
        template.render(
            name=facts.name, license=_license_id({license for _, license in facts.by["source"]}),
            splits=list(counts), counts=counts,
            total=sum(counts.values()), questions=facts.questions, sources=ordered["source"],
            teachers=ordered["teacher"], categories=ordered["category"], difficulties=ordered["difficulty"],
            bases=facts.by["basis"],
        ),
        encoding="utf-8",
    )  # fmt: skip


def _license_id(licenses: set[str | None]) -> str:
    """The licence for the card's front matter: the one that all rows have, if it looks like an id."""
    if licenses == {None}:
        return "unknown"
    only = (licenses.pop() or "").lower() if len(licenses) == 1 else ""
    return only if re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", only) else "other"


def _cell(text: object) -> str:
    """Text of a record in a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
