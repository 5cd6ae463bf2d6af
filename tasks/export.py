"""Export: the selected examples as a Hugging Face data set with its card.

    exports/huggingface/data/train-00000-of-00001.parquet …, data/validation-…, README.md

`datasets.load_dataset(folder)` loads it. A row is conversational (`messages`) and says where it comes from. The folder
is built beside its place and swapped in; the commit in the manifest comes last.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from storage.files import write_file
from storage.fingerprint import canonical_json, combine, content_hash, hash_text
from storage.manifest import Book
from storage.schemas import MESSAGE, column
from storage.workspace import ALL, Workspace
from tasks.card import CardFacts, write_card
from tasks.repair import repaired
from tasks.settings import Settings
from tasks.step import Context, Step, Work
from tasks.teachers.settings import DEFAULT, Prompt, render

VERSION = "2"
ROWS_PER_FILE = 50_000
SPLITS = ("train", "validation")

EXAMPLE = pa.schema([
    column("messages", pa.list_(MESSAGE), "conversation; the last message is the assistant's"),
    column("question_id", pa.string(), "hash of the question"),
    column("response_id", pa.string(), "the response it is"),
    column("category", pa.string(), "category of the question"),
    column("question_source", pa.string(), "where the question comes from"),
    column("license", pa.string(), "licence of the question's source"),
    column("teacher", pa.string(), "who wrote the response"),
    column("model_revision", pa.string(), "what exactly wrote it"),
    column("ground_truth", pa.string(), "reference answer; the new one where it was repaired"),
    column("verify_score", pa.float64(), "0..1, of this response"),
    column("pass_rate", pa.float64(), "of the question, passes / n over all teachers"),
    column("cv", pa.float64(), "coefficient of variation of the question's scores"),
    column("difficulty", pa.string(), "easy | medium | hard"),
    column("rule", pa.string(), "the selection rule that chose it"),
    column("basis", pa.string(), "what says that it is right: verifiers | vote | repaired"),
    column("metadata", pa.string(), "JSON; of a repaired reference: the one of the source, and who decided"),
])  # fmt: skip


class ExportSettings(Settings):
    formats: tuple[Literal["huggingface"], ...] = ("huggingface",)
    validation: float = Field(default=0.05, ge=0, lt=1)
    """Share of the questions, by hash, that go to the validation split (for the loss; never held-out ones)."""
    prompts: dict[str, Prompt] = {}
    """How the student is asked, by category or `default`; unset: the bare question."""
    think: bool = True
    """Put the thinking part in front of the answer, as <think>…</think>."""

    def prompt(self, category: str) -> Prompt:
        return self.prompts.get(category) or self.prompts.get(DEFAULT) or Prompt()


def export_step(settings: ExportSettings, name: str, teachers: Sequence[str], *, repairs: bool = False) -> Step:
    """The step that writes `exports/huggingface`; `name` is the recipe's, for the card; `repairs`: with `repair`."""

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            _export(context, step, one, settings, name, teachers)

    reads = ("curate", "select", *(["repair"] if repairs else []), *(f"generate.{teacher}" for teacher in teachers))
    return Step("export", "export", "one", VERSION, settings.as_json() | {"name": name}, reads, run)


def export_folder(workspace: Workspace) -> Path:
    return workspace.root / "exports" / "huggingface"


def _export(context: Context, step: Step, work: Work, settings: ExportSettings, name: str,
            teachers: Sequence[str]) -> None:  # fmt: skip
    workspace = context.workspace
    transaction = context.begin(step, work)
    target = export_folder(workspace)
    scratch = workspace.scratch()
    writers = {split: SplitFiles(scratch / "data", split) for split in SPLITS}
    facts = CardFacts(name)
    for shard in workspace.shards:
        context.progress.expect(step.key, 1)
        new_references = repaired(workspace, shard) if "repair" in step.reads else {}
        for example in _examples(workspace, shard, settings, teachers, new_references):
            writers[split_of(example["question_id"], settings.validation)].add(example)
            facts.count(example)
        context.progress.advance(step.key, 1)
    counts = {split: writer.close(even_if_empty=split == "train") for split, writer in writers.items()}
    total = sum(counts.values())
    write_card(scratch / "README.md", facts, counts)
    content = combine([content for writer in writers.values() for content in writer.contents])
    swap_folder(scratch, target)
    book = Book("example", total, total)
    transaction.commit_result([book], content=content, extra={"rows": counts, "folder": f"exports/{target.name}"})


def _examples(
    workspace: Workspace,
    shard: str,
    settings: ExportSettings,
    teachers: Sequence[str],
    new_references: dict[str, dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    chosen = workspace.read("select", shard, "selection").to_pylist()
    if not chosen:
        return
    columns = ["question_id", "messages", "category", "question_source", "license", "ground_truth"]
    questions = {row["question_id"]: row for row in workspace.read("curate", shard, "curated", columns).to_pylist()}
    wanted = {row["response_id"] for row in chosen}
    responses: dict[str, dict[str, Any]] = {}
    for teacher in teachers:
        columns = ["response_id", "think_content", "answer_content", "model_revision"]
        for row in workspace.read(f"generate.{teacher}", shard, "responses", columns).to_pylist():
            if row["response_id"] in wanted:
                responses[row["response_id"]] = row
    for row in chosen:
        question, response = questions[row["question_id"]], responses[row["response_id"]]
        prompt = render(question["messages"], settings.prompt(question["category"]))
        answer = answer_text(response, think=settings.think)
        facts = question | response | row | {"metadata": "{}"}
        if (new := new_references.get(row["question_id"])) is not None:
            was = {"ground_truth_of_source": new["reference"], "repaired_by": new["judge"]}
            facts |= {"ground_truth": new["repaired_to"], "metadata": canonical_json(was)}
        yield {name: facts[name] for name in EXAMPLE.names if name != "messages"} | {
            "messages": [*prompt, {"role": "assistant", "content": answer}]
        }


def answer_text(response: dict[str, Any], *, think: bool) -> str:
    """What the student learns to write: the answer, with `think` behind the thinking part in its tags."""
    answer: str = response["answer_content"] or ""
    if think and response["think_content"] is not None:
        return f"<think>\n{response['think_content']}\n</think>\n\n{answer}"
    return answer


def split_of(question_id: str, validation: float) -> str:
    """By question, so that two responses of one question never stand on both sides."""
    return "validation" if int(hash_text("validation", question_id)[:8], 16) / 2**32 < validation else "train"


class SplitFiles:
    """Parquet files of one split, of at most ROWS_PER_FILE rows each."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema = EXAMPLE) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._split, self._schema = folder, split, schema
        self._rows: list[dict[str, Any]] = []
        self._paths: list[Path] = []
        self._total = 0
        self.contents: list[str] = []

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == ROWS_PER_FILE:
            self._flush()

    def close(self, *, even_if_empty: bool = False) -> int:
        """The number of rows. A data set without any file can't be loaded, so the train split may be an empty file."""
        if self._rows or (even_if_empty and not self._paths):
            self._flush()
        for number, path in enumerate(self._paths):
            path.rename(self._folder / f"{self._split}-{number:05d}-of-{len(self._paths):05d}.parquet")
        return self._total

    def _flush(self) -> None:
        table = pa.Table.from_pylist(self._rows, schema=self._schema)
        path = self._folder / f"{self._split}-{len(self._paths):05d}.tmp"
        plain = table.replace_schema_metadata(None)
        write_file(path, lambda place: _write_parquet(plain, place))
        self.contents.append(hash_text(self._split, content_hash(table)))
        self._paths.append(path)
        self._total += len(self._rows)
        self._rows = []


def _write_parquet(table: pa.Table, path: Path) -> None:
    """`datasets` can't load a row group without rows: an empty table is a file without row groups."""
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        if table.num_rows:
            writer.write_table(table, row_group_size=8192)


def swap_folder(fresh: Path, target: Path) -> None:
    """Put a folder in the place of another; a reader finds the old one, or for an instant none, never a mixture."""
    target.parent.mkdir(parents=True, exist_ok=True)
    old = fresh.with_name(f"{fresh.name}.old")
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def export_rows(workspace: Workspace) -> dict[str, int]:
    """Rows by split of the committed export; empty if there is none."""
    head = workspace.head("export", ALL)
    return dict(head.extra["rows"]) if head else {}
