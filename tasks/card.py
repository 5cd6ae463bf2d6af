"""An exported data set's card: what is in it, where it comes from, how it was made, its licences, what it can't do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment

from storage.workspace import Workspace
from tasks.export_licenses import Licensing
from tasks.page import visible

CARD = """\
---
license: {{ licensing.hub_id }}
{%- if licensing.hub_id == "other" %}
license_name: see-the-table-of-sources
{%- endif %}
task_categories:
- text-generation
tags:
- reasoning
- {{ "preference" if facts.pairs else "distillation" }}
- stillhouse
configs:
- config_name: default
  data_files:
{%- for split in counts %}
  - split: {{ split }}
    path: {{ files.replace("{split}", split) }}
{%- endfor %}
---

# {{ facts.name }}

{{ facts.total }} {{ "pairs of a verified and a failed response" if facts.pairs else "verified responses" }} of \
{{ facts.teacher_count }} teacher{{ "s" if facts.teacher_count != 1 }} to {{ facts.questions }} questions\
{{ ", matched by length" if facts.pairs else ", selected by pass rate" }}. Made with Stillhouse; every row of \
`exports/{{ "preference" if facts.pairs else "huggingface" }}` can be traced by the ids of its responses.

| split | rows |
|---|---|
{%- for split, rows in counts.items() %}
| {{ split }} | {{ rows }} |
{%- endfor %}
{%- if left_out %}

{{ left_out }} rows can't be held by this layout and are not in it.
{%- endif %}

Load it: {{ load }}.
{%- if facts.ordered %}

The files are in the order of the curriculum, within each split: the least `curriculum` first, rows without one last. A
trainer that shuffles loses it.
{%- endif %}

## Where it comes from, and under which licences

{% for sentence in licensing.sentences() %}{{ sentence | cell }} {% endfor %}

| source | licence | rows |
|---|---|---|
{%- for (source, license), rows in facts.most("source") %}
| {{ source | cell }} | {{ (license or "unknown") | cell }} | {{ rows }} |
{%- endfor %}

| teacher | revision | licence or terms | rows |
|---|---|---|---|
{%- for (teacher, revision), rows in facts.most("teacher") %}
| {{ teacher | cell }} | {{ (revision or "") | cell }} | {{ (teachers.get(teacher) or "not stated") | cell }} | \
{{ rows }} |
{%- endfor %}

## What is in it

| category | rows |
|---|---|
{%- for category, rows in facts.most("category") %}
| {{ category }} | {{ rows }} |
{%- endfor %}
{%- if not facts.pairs %}

| difficulty | rows |
|---|---|
{%- for difficulty, rows in facts.most("difficulty") %}
| {{ difficulty }} | {{ rows }} |
{%- endfor %}

`pass_rate` is passes / n over all judged samples of the question, `cv` the coefficient of variation of their scores,
`verify_score` the score of this response. `messages` is a conversation whose last message is the teacher's.
{%- endif %}
{%- if lengths %}

## Lengths

{% if lengths.fault or not lengths.checked %}Not checked: {{ (lengths.fault or "no rows") | cell }}.\
{% else %}{{ lengths.checked }} of {{ lengths.total }} rendered with the chat template of {{ lengths.model }}: \
{{ lengths.over }} over {{ lengths.max_length }} tokens, {{ lengths.outside }} with a part of the answer outside \
the loss.
{%- if lengths.quantiles %}

| {% for name in lengths.quantiles %}{{ name }} | {% endfor %}
|{% for name in lengths.quantiles %}---|{% endfor %}
| {% for value in lengths.quantiles.values() %}{{ value }} | {% endfor %}
{%- endif %}
{%- endif %}
{%- endif %}

## How it was made

| step | unit | in | out | dropped, by rule |
|---|---|---|---|---|
{%- for row in books %}
| {{ row.step }} | {{ row.unit }} | {{ row.units_in }} | {{ row.units_out }} | {{ row.rules | cell }} |
{%- endfor %}

The recipe, without what stands at its default:

```yaml
{{ recipe }}```

## Known limits

{{ "Automatic verifiers judged both sides" if facts.pairs else "A response passed automatic verification" }}; the \
reasoning itself was not judged.
{%- if facts.by["basis"].get("vote") %}

{{ facts.by["basis"]["vote"] }} rows (`basis` is `vote`) have no reference answer: they agree with \
the teachers' weighted majority.
{%- endif %}
{%- if facts.by["basis"].get("repaired") %}

{{ facts.by["basis"]["repaired"] }} rows (`basis` is `repaired`) have a reference answer that the \
teachers' majority and a judge put in the place of the source's, which stands in `metadata`.
{%- endif %}
"""


class CardFacts:
    """Counts over the examples or pairs, one pass; those of one question come together. `ordered`: they are written in
    the order of a curriculum."""

    def __init__(self, name: str, *, pairs: bool = False, ordered: bool = False) -> None:
        self.name, self.pairs, self.ordered = name, pairs, ordered
        self.total = self.questions = 0
        self._last: str | None = None
        self.by: dict[str, Counter[Any]] = {
            name: Counter() for name in ("source", "teacher", "category", "difficulty", "basis")
        }

    def count(self, row: dict[str, Any]) -> None:
        self.total += 1
        self.questions += row["question_id"] != self._last
        self._last = row["question_id"]
        self.by["source"][row["question_source"], row["license"]] += 1
        self.by["category"][row["category"]] += 1
        self.by["basis"][row["basis"]] += 1
        if self.pairs:
            for teacher in {row["chosen_teacher"], row["rejected_teacher"]}:
                self.by["teacher"][teacher, None] += 1
        else:
            self.by["teacher"][row["teacher"], row["model_revision"]] += 1
            self.by["difficulty"][row["difficulty"]] += 1

    @property
    def teacher_count(self) -> int:
        return len({teacher for teacher, _ in self.by["teacher"]})

    def most(self, name: str) -> list[tuple[Any, int]]:
        """What was counted, the most frequent first."""
        return sorted(self.by[name].items(), key=lambda pair: (-pair[1], str(pair[0])))


@dataclass(frozen=True)
class BookRow:
    """The books of one step and unit, added up over its shards."""

    step: str
    unit: str
    units_in: int
    units_out: int
    rules: str


@dataclass(frozen=True)
class Origin:
    """What a card says besides its rows: how they were made, and what may be done with them."""

    licensing: Licensing
    teachers: dict[str, str | None] = field(default_factory=dict)
    """teacher → licence or terms; None: the recipe states none"""
    recipe: dict[str, Any] = field(default_factory=dict)
    books: Sequence[BookRow] = ()
    lengths: dict[str, Any] | None = None


def write_card(path: Path, facts: CardFacts, origin: Origin, counts: dict[str, int], *,
               files: str = "data/{split}-*.parquet", load: str = "datasets.load_dataset(folder)",
               left_out: int = 0) -> None:  # fmt: skip
    """Write `README.md`; `counts` is rows by split, and a validation split without rows is left out."""
    environment = Environment(autoescape=False, keep_trailing_newline=True)
    environment.filters["cell"] = _cell
    text = environment.from_string(CARD).render(
        facts=facts, licensing=origin.licensing, teachers=origin.teachers, lengths=origin.lengths, books=origin.books,
        counts={split: rows for split, rows in counts.items() if rows or split == "train"}, files=files, load=load,
        left_out=left_out,
        recipe=yaml.safe_dump(origin.recipe, sort_keys=False, allow_unicode=True).replace("```", "'''"),
    )  # fmt: skip
    path.write_text(text, encoding="utf-8")


def books_of(workspace: Workspace, keys: Sequence[str]) -> list[BookRow]:
    """What each of these steps let through and what it dropped; a step that has no commit is left out."""
    found = []
    there = set(workspace.manifest.steps())
    for key in keys:
        counts: dict[str, list[int]] = {}
        rules: dict[str, Counter[str]] = {}
        for shard in workspace.manifest.shards(key) if key in there else ():
            for book in workspace.need(key, shard).books:
                ins_outs = counts.setdefault(book.unit, [0, 0])
                ins_outs[0] += book.units_in
                ins_outs[1] += book.units_out
                rules.setdefault(book.unit, Counter()).update(book.dropped)
        for unit, (units_in, units_out) in counts.items():
            dropped = ", ".join(f"{rule} {number}" for rule, number in sorted(rules[unit].items()))
            found.append(BookRow(key, unit, units_in, units_out, dropped))
    return found


def _cell(text: object) -> str:
    """Text of a record in a Markdown table; control characters and invisible marks are written out."""
    return str(visible(" ".join(str(text).split()))).replace("|", "\\|").replace("<", "&lt;")
