"""Export of the preference pairs, by the code that exports the examples (tasks/export.py).

    exports/preference/            prompt, chosen, rejected: lists of messages; DPO, and what a REDI stage reads
    exports/kto/                   prompt, completion, label: each response once
    exports/llama_factory_pairs/   with `llama_factory` among the formats

Rows say where they come from, and which split is by question, as in the examples' export.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from storage.workspace import ALL, Workspace
from tasks.card import CardFacts
from tasks.export import PAIRS, ExportSettings, Job, Maker, described, remove_others, write_export
from tasks.export_lengths import reader_of
from tasks.export_rows import pairs
from tasks.formats import pair_formats
from tasks.step import Context, Step, Work

VERSION = "3"


def export_pairs_step(settings: ExportSettings, maker: Maker) -> Step:
    """The step that writes `exports/preference`, `exports/kto` and what else the formats ask for."""
    reader = reader_of(maker.student, pairs=True)

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            formats = pair_formats(settings.formats, context.workspace, maker.name)

            def rows(shard: str) -> Iterable[dict[str, Any]]:
                return pairs(context.workspace, shard, maker.teachers, settings.prompts, think=settings.think)

            facts = CardFacts(maker.name, pairs=True)
            job = Job("pair", ("negatives", "preference_pairs"), facts, formats, reader, rows)
            write_export(context, step, one, job, settings, maker)
            remove_others(context.workspace, ["llama_factory_pairs"], [format.name for format in formats])

    reads = ("curate", "negatives", *(f"generate.{teacher}" for teacher in maker.teachers))
    found = described(settings, maker, reader)
    found["formats"] = [name for name in settings.formats if name == "llama_factory"]
    return Step(PAIRS, "export", "one", VERSION, found, reads, run)


def preference_folder(workspace: Workspace) -> Path:
    return workspace.fetch("exports/preference")


def pair_rows(workspace: Workspace) -> dict[str, int]:
    """Pairs by split of the committed export; empty if there is none."""
    head = workspace.head(PAIRS, ALL)
    return dict(head.extra["rows"]) if head else {}
