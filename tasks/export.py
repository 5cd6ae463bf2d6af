"""Export: the selected examples in the layouts that trainers read, each a folder with its card.

    exports/huggingface/data/train-00000-of-00001.parquet …, data/validation-…, README.md

Rows stream through, in the order of `select.curriculum` where there is one (tasks/export_order.py); each format is
written beside its place and swapped in whole, and the commit in the manifest comes last. What nobody may pass on is
refused before anything is written (tasks/export_licenses.py). The preference pairs go through the same code
(tasks/export_pairs.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from storage.fingerprint import combine
from storage.manifest import Book, Inputs
from storage.workspace import ALL, Workspace
from tasks.card import CardFacts, Origin, books_of, write_card
from tasks.export_files import swap_folder as swap_folder
from tasks.export_lengths import LengthCheck, Reader, length_line, reader_of
from tasks.export_licenses import check_licenses
from tasks.export_order import has_curriculum, in_curriculum_order
from tasks.export_rows import EXAMPLE as EXAMPLE
from tasks.export_rows import count_licenses, examples, split_of
from tasks.formats import EXAMPLE_FORMATS, PAIR_FOLDERS, Format, FormatName, example_formats
from tasks.settings import CategoryOrDefault, Settings
from tasks.step import Context, Step, Work
from tasks.student_stages import StudentSettings
from tasks.teachers.settings import Prompt

VERSION = "4"
PAIRS = "export.pairs"
"""key of the step that exports the pairs"""
GONE = Book("pair", 0, 0)
CURATION = ("ingest", "embed", "screen", "dedup", "label", "thin", "rewrite", "curate")


class ExportSettings(Settings):
    formats: tuple[FormatName, ...] = ("huggingface",)
    """Each one a folder `exports/<format>`; a student of the recipe reads huggingface."""
    validation: float = Field(default=0.05, ge=0, lt=1)
    """Share of the questions, by hash, that go to the validation split (for the loss; never held-out ones)."""
    prompts: dict[CategoryOrDefault, Prompt] = {}
    """How the student is asked, by category or `default`; unset: the bare question."""
    think: bool = True
    """Put the thinking part in front of the answer, as <think>…</think>."""
    allow_unknown_license: bool = False
    """Export rows whose licence nobody stated, or that isn't known; the card says so. Also --allow-unknown-license."""


@dataclass(frozen=True)
class Maker:
    """What an export says of where its rows come from."""

    name: str
    """the recipe's"""
    teachers: tuple[str, ...]
    teacher_licenses: dict[str, str | None] = field(default_factory=dict)
    """teacher → licence or terms of what it writes; None: the recipe states none"""
    recipe: dict[str, Any] = field(default_factory=dict)
    """the settings that made the rows; nothing that is a machine's or a secret"""
    student: StudentSettings | None = None


def export_step(settings: ExportSettings, maker: Maker, *, repairs: bool = False, pairs: bool = False) -> Step:
    """The step that writes a folder for each of `formats`; `repairs`: the recipe has the step `repair`; `pairs`: it has
    `export.pairs`. Without pairs, folders that an earlier recipe made of some are removed."""
    reader = reader_of(maker.student, pairs=False)

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            workspace = context.workspace
            formats = example_formats(settings.formats, workspace, maker.name)

            def rows(shard: str) -> Iterable[dict[str, Any]]:
                return examples(context.workspace, shard, maker.teachers, settings.prompts, think=settings.think,
                                repairs=repairs)  # fmt: skip

            facts = CardFacts(maker.name, ordered=has_curriculum(workspace))
            job = Job("example", ("select", "selection"), facts, formats, reader, rows)
            if not pairs:
                _remove_pairs(context)  # before the commit: else a kill in between would leave them for good
            write_export(context, step, one, job, settings, maker)
            remove_others(workspace, EXAMPLE_FORMATS, settings.formats)

    reads = ("curate", "grade", "select", *(["repair"] if repairs else []), *_generated(maker))
    found = described(settings, maker, reader) | ({"pairs": True} if pairs else {})
    return Step("export", "export", "one", VERSION, found, reads, run)


def _remove_pairs(context: Context) -> None:
    """Remove what `negatives` left, once the recipe has none. A commit of nothing takes the last one's place, so that
    the same negatives are exported again when they come back."""
    workspace = context.workspace
    head = workspace.head(PAIRS, ALL)
    if head is not None and head.books != (GONE,):
        inputs = Inputs(VERSION, {"negatives": None}, {})
        transaction = workspace.begin(PAIRS, ALL, inputs, run_id=context.run_id, why="no negatives any more")
        transaction.commit_result([GONE], content=inputs.fingerprint, extra={"rows": {}, "folders": []})
    remove_others(workspace, PAIR_FOLDERS, ())


def described(settings: ExportSettings, maker: Maker, reader: Reader | None) -> dict[str, Any]:
    """What decides the files. Leave to export what is unknown is none of it: it changes no file."""
    found = settings.as_json(exclude={"allow_unknown_license"}) | {"name": maker.name, "recipe": maker.recipe}
    found["teacher_licenses"] = maker.teacher_licenses
    return found | ({"student": reader.described()} if reader else {})


def _generated(maker: Maker) -> list[str]:
    return [f"generate.{teacher}" for teacher in maker.teachers]


@dataclass
class Job:
    """One kind of rows on its way into its formats."""

    unit: str
    table: tuple[str, str]
    """step and table that say which rows there are"""
    facts: CardFacts
    formats: Sequence[Format]
    reader: Reader | None
    rows: Callable[[str], Iterable[dict[str, Any]]]
    """shard → its rows"""


def write_export(context: Context, step: Step, work: Work, job: Job, settings: ExportSettings, maker: Maker) -> None:
    """Write all rows into all formats, put each format in its place when it is whole, then commit.

    Raises UnknownLicense before anything is written.
    """
    workspace = context.workspace
    transaction = context.begin(step, work)
    counted = count_licenses(workspace, *job.table)
    licensing = check_licenses(counted, maker.teacher_licenses, allow=settings.allow_unknown_license)
    check = LengthCheck(job.reader, counted.total()) if job.reader else None
    total = dict.fromkeys(("train", "validation"), 0)
    for row in _in_order(context, step, job):
        split = split_of(row["question_id"], settings.validation)
        total[split] += 1
        for one in job.formats:
            one.add(split, row)
        if check:
            check.add(*_rendered(row))
    steps = [*CURATION, *_generated(maker), *(f"verify.{one}" for one in maker.teachers), "select", "negatives"]
    lengths = check.report() if check else None
    origin = Origin(licensing, maker.teacher_licenses, maker.recipe, books_of(workspace, steps), lengths)
    content = combine([one.close() for one in job.formats])
    for one in job.formats:
        write_card(one.folder / "README.md", job.facts, origin, one.rows, files=one.files, load=one.load,
                   left_out=one.left_out)  # fmt: skip
    for one in job.formats:
        swap_folder(one.folder, one.target)
        workspace.publish(f"exports/{one.name}")
    extra = {
        "rows": total, "folders": [f"exports/{one.name}" for one in job.formats], "license": licensing.line(),
        "license_remarks": licensing.sentences(), "lengths": lengths,
        "left_out": {one.name: one.left_out for one in job.formats if one.left_out},
    }  # fmt: skip
    transaction.commit_result([Book(job.unit, job.facts.total, job.facts.total)], content=content, extra=extra)


def _in_order(context: Context, step: Step, job: Job) -> Iterator[dict[str, Any]]:
    """All rows, counted for the card on the way, while those of one question are together."""

    def by_shard() -> Iterator[dict[str, Any]]:
        for shard in context.workspace.shards:
            context.progress.expect(step.key, 1)
            for row in job.rows(shard):
                job.facts.count(row)
                yield row
            context.progress.advance(step.key, 1)

    if not job.facts.ordered:
        return by_shard()
    return in_curriculum_order(by_shard(), context.workspace.scratch(), context.memory_mb)


def _rendered(row: dict[str, Any]) -> tuple[list[list[dict[str, str]]], str]:
    if "pair_id" in row:
        return [[*row["prompt"], *row[side]] for side in ("chosen", "rejected")], row["pair_id"]
    return [row["messages"]], row["response_id"]


def remove_others(workspace: Workspace, known: Iterable[str], wanted: Sequence[str]) -> None:
    """Folders of formats that the recipe no longer names: nobody keeps them up to date."""
    for name in set(known) - set(wanted):
        workspace.discard(f"exports/{name}")


def export_lines(workspace: Workspace) -> list[str]:
    """Of each committed export: its folders, the most restrictive licence, lengths against the student's limit."""
    found = []
    for step in ("export", PAIRS):
        head = workspace.head(step, ALL)
        if head is None or "license" not in head.extra:  # none yet, or one of an earlier version
            continue
        found.append(f"{', '.join(head.extra['folders'])}: licence {head.extra['license']}")
        found += head.extra["license_remarks"][1:]
        if head.extra["lengths"]:
            found.append(length_line(head.extra["lengths"]))
        found += [f"{name}: {rows:,} rows can't be held by this layout and are left out"
                  for name, rows in head.extra["left_out"].items()]  # fmt: skip
    return found


def export_folder(workspace: Workspace) -> Path:
    return workspace.fetch("exports/huggingface")


def export_rows(workspace: Workspace) -> dict[str, int]:
    """Rows by split of the committed export; empty if there is none."""
    head = workspace.head("export", ALL)
    return dict(head.extra["rows"]) if head else {}
