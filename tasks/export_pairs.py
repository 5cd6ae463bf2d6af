"""Export of the preference pairs, in the two layouts that TRL reads.

    exports/preference/   prompt, chosen, rejected: lists of messages; DPO, and what a REDI stage reads
    exports/kto/          prompt, completion, label: each response once

`datasets.load_dataset(folder)` loads either. Rows say where they come from, and which split is by question, as in the
examples' export.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.fingerprint import combine
from storage.manifest import Book
from storage.schemas import MESSAGE, column
from storage.workspace import ALL, Workspace
from tasks.export import SPLITS, ExportSettings, SplitFiles, answer_text, split_of, swap_folder
from tasks.step import Context, Step, Work
from tasks.teachers.settings import render
from tasks.verifiers.trace import TRUNCATED

VERSION = "1"
KEY = "export.pairs"

_COMMON = (
    column("question_id", pa.string(), "hash of the question"),
    column("category", pa.string(), "category of the question"),
    column("question_source", pa.string(), "where the question comes from"),
    column("license", pa.string(), "licence of the question's source"),
    column("basis", pa.string(), "what says which is right: verifiers | vote | repaired"),
)
PREFERENCE = pa.schema([
    column("prompt", pa.list_(MESSAGE), "what the student is asked"),
    column("chosen", pa.list_(MESSAGE), "one assistant's message, verified"),
    column("rejected", pa.list_(MESSAGE), "one assistant's message that failed"),
    column("pair_id", pa.string(), "chosen_id:rejected_id"),
    column("chosen_teacher", pa.string(), "who wrote it"),
    column("rejected_teacher", pa.string(), "who wrote it"),
    column("rejected_status", pa.string(), "how it failed"),
    column("length_ratio", pa.float64(), "the longer side's characters over the shorter one's"),
    *_COMMON,
])  # fmt: skip
KTO = pa.schema([
    column("prompt", pa.list_(MESSAGE), "what the student is asked"),
    column("completion", pa.list_(MESSAGE), "one assistant's message"),
    column("label", pa.bool_(), "whether it was verified"),
    column("response_id", pa.string(), "the response it is"),
    column("teacher", pa.string(), "who wrote it"),
    *_COMMON,
])  # fmt: skip


CARD = """\
---
tags:
- reasoning
- preference
- stillhouse
configs:
- config_name: default
  data_files:
{splits}
---

# {title}

{rows}

A verified response and one that failed, of the same question, matched by length. Automatic verifiers judged both;
their reasoning was not judged. Licences differ by row: see `license`. Made with Stillhouse; every row can be traced by
the ids of its responses.

| source | licence | rows |
|---|---|---|
{sources}
"""


def export_pairs_step(settings: ExportSettings, name: str, teachers: Sequence[str]) -> Step:
    """The step that writes `exports/preference` and `exports/kto`; `name` is the recipe's, for the cards."""

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            _export(context, step, one, settings, name, teachers)

    described = settings.as_json(exclude={"formats"}) | {"name": name}
    reads = ("curate", "negatives", *(f"generate.{teacher}" for teacher in teachers))
    return Step(KEY, "export", "one", VERSION, described, reads, run)


def preference_folder(workspace: Workspace) -> Path:
    return workspace.root / "exports" / "preference"


def pair_rows(workspace: Workspace) -> dict[str, int]:
    """Pairs by split of the committed export; empty if there is none."""
    head = workspace.head(KEY, ALL)
    return dict(head.extra["rows"]) if head else {}


def _export(context: Context, step: Step, work: Work, settings: ExportSettings, name: str,
            teachers: Sequence[str]) -> None:  # fmt: skip
    workspace = context.workspace
    transaction = context.begin(step, work)
    preference = _Folder(workspace, PREFERENCE, f"{name}: preference pairs")
    kto = _Folder(workspace, KTO, f"{name}: verified and failed responses")
    for shard in workspace.shards:
        context.progress.expect(step.key, 1)
        for pair in _pairs(workspace, shard, settings, teachers):
            split = split_of(pair["question_id"], settings.validation)
            preference.add(split, pair)
            for side in ("chosen", "rejected"):
                kto.add(split, _unpaired(pair, side))
        context.progress.advance(step.key, 1)
    content = combine([preference.close(preference_folder(workspace)), kto.close(workspace.root / "exports" / "kto")])
    total = sum(preference.counts.values())
    extra = {"rows": preference.counts, "folders": ["exports/preference", "exports/kto"]}
    transaction.commit_result([Book("pair", total, total)], content=content, extra=extra)


class _Folder:
    """One data set being written, in a scratch folder until it is whole."""

    def __init__(self, workspace: Workspace, schema: pa.Schema, title: str) -> None:
        self._scratch, self._schema, self._title = workspace.scratch(), schema, title
        self._files = {split: SplitFiles(self._scratch / "data", split, schema) for split in SPLITS}
        self._sources: Counter[tuple[str, str]] = Counter()
        self.counts: dict[str, int] = {}

    def add(self, split: str, row: dict[str, Any]) -> None:
        self._files[split].add({name: row[name] for name in self._schema.names})
        self._sources[row["question_source"], row["license"] or "unknown"] += 1

    def close(self, target: Path) -> str:
        """Put the folder in its place and return the hash of its content."""
        self.counts = {split: files.close(even_if_empty=split == "train") for split, files in self._files.items()}
        (self._scratch / "README.md").write_text(self._card(), encoding="utf-8")
        swap_folder(self._scratch, target)
        return combine([content for files in self._files.values() for content in files.contents])

    def _card(self) -> str:
        there = [split for split, rows in self.counts.items() if rows or split == "train"]
        ordered = sorted(self._sources.items(), key=lambda pair: (-pair[1], pair[0]))
        return CARD.format(
            title=self._title,
            splits="\n".join(f"  - split: {split}\n    path: data/{split}-*.parquet" for split in there),
            rows=", ".join(f"{split}: {self.counts[split]} rows" for split in there) + ".",
            sources="\n".join(
                f"| {_cell(source)} | {_cell(license)} | {rows} |" for (source, license), rows in ordered
            ),
        )


def _cell(text: str) -> str:
    """Text of a record in a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _unpaired(pair: dict[str, Any], side: str) -> dict[str, Any]:
    return pair | {
        "completion": pair[side], "label": side == "chosen", "response_id": pair[f"{side}_id"],
        "teacher": pair[f"{side}_teacher"],
    }  # fmt: skip


def _pairs(workspace: Workspace, shard: str, settings: ExportSettings,
           teachers: Sequence[str]) -> Iterator[dict[str, Any]]:  # fmt: skip
    pairs = workspace.read("negatives", shard, "preference_pairs").to_pylist()
    if not pairs:
        return
    columns = ["question_id", "messages", "category", "question_source", "license"]
    questions = {row["question_id"]: row for row in workspace.read("curate", shard, "curated", columns).to_pylist()}
    wanted = {pair[key] for pair in pairs for key in ("chosen_id", "rejected_id")}
    responses: dict[str, dict[str, Any]] = {}
    for teacher in teachers:
        columns = ["response_id", "think_content", "answer_content", "finish_reason"]
        for row in workspace.read(f"generate.{teacher}", shard, "responses", columns).to_pylist():
            if row["response_id"] in wanted:
                responses[row["response_id"]] = row
    for pair in pairs:
        question = questions[pair["question_id"]]
        sides = {side: responses[pair[f"{side}_id"]] for side in ("chosen", "rejected")}
        yield pair | question | {
            "prompt": list(render(question["messages"], settings.prompt(question["category"]))),
            "pair_id": f"{pair['chosen_id']}:{pair['rejected_id']}",
        } | {side: [_message(response, settings)] for side, response in sides.items()}  # fmt: skip


def _message(response: dict[str, Any], settings: ExportSettings) -> dict[str, str]:
    """What broke off while thinking gets no closing tag: its writer never wrote one."""
    text = answer_text(response, think=settings.think)
    if response["finish_reason"] in TRUNCATED and not response["answer_content"]:
        text = text.rstrip().removesuffix("</think>").rstrip()
    return {"role": "assistant", "content": text}
