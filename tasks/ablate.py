"""Ablation: the pieces of a comparison of recipes at equal tokens that know nothing of flows.

A variant is a set of recipe overrides. It reads the parent workspace's tables up to the grades by links, selects and
exports by itself, and is trained once a seed on a sample of its export of the same number of tokens:

    ablations/<variant>/            a workspace: selection, export
    ablations/<variant>/seed-<n>/   a workspace: the sample, the student, its evaluation

Not covered: pairs for redi and dpo are linked as they are, of whatever number of tokens.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from storage.files import make_folder, write_file
from storage.fingerprint import hash_json, hash_text
from storage.manifest import Book, Inputs
from storage.workspace import ALL, Workspace
from tasks.errors import BadSetting
from tasks.export import export_folder, swap_folder
from tasks.settings import Settings
from tasks.student_stages import StudentSettings

VERSION = "1"


class AblateSettings(Settings):
    """What `stillhouse ablate` compares, where the command line names nothing."""

    variants: dict[str, tuple[str, ...]] = {}
    """Name → overrides of the recipe, such as no_trace_rules: [select.trace=null]. The recipe itself is always one."""
    seeds: int = Field(default=3, ge=1)
    """Trainings of each variant; each draws its sample and shuffles it by its own seed."""
    tokens: int | None = Field(default=None, ge=1)
    """Tokens of a training's examples, in one epoch; null: those of the smallest variant."""


@dataclass(frozen=True)
class Lengths:
    """The training examples of an export: (response_id, tokens), those that no training would take left out."""

    examples: tuple[tuple[str, int], ...]
    overlong: int

    @property
    def tokens(self) -> int:
        return sum(tokens for _, tokens in self.examples)


def measure_lengths(export: Path, student: StudentSettings, model: str) -> Lengths:
    """Tokens of each training example, rendered as the trainer does. Raises BadSetting for one it would refuse."""
    from transformers import AutoTokenizer  # slow to import

    from tasks.student_examples import UnusableData, encode

    tokenizer = AutoTokenizer.from_pretrained(model)
    if student.chat_template is not None:
        tokenizer.chat_template = Path(student.chat_template).read_text(encoding="utf-8")
    found, overlong = [], 0
    for row in _rows(export):
        try:
            length = len(encode(row["messages"], row["response_id"], tokenizer)["input_ids"])
        except UnusableData as fault:
            raise BadSetting(str(fault)) from fault
        if length > student.max_length and student.overlong == "drop":
            overlong += 1
        else:
            found.append((row["response_id"], min(length, student.max_length)))
    return Lengths(tuple(sorted(found)), overlong)


def _rows(export: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(export.glob("data/train-*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(columns=["messages", "response_id"]):
            yield from batch.to_pylist()


def sample(lengths: Lengths, budget: int, seed: int) -> tuple[set[str], int]:
    """Examples in the seed's own order, each taken if it still fits: their ids and their tokens, at most `budget`."""
    order = list(lengths.examples)
    random.Random(seed).shuffle(order)
    taken, total = set(), 0
    for identity, tokens in order:
        if total + tokens <= budget:
            taken.add(identity)
            total += tokens
    return taken, total


def folder_name(variant: str) -> str:
    """A folder's name for a variant: readable, and of its own even where two read alike."""
    plain = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in variant)
    return f"{plain.strip('.-')[:60]}-{hash_text(variant)[:6]}"


def link_steps(source: Workspace, target: Workspace, keys: Sequence[str]) -> None:
    """Let `target` read the commits of these steps of `source`, newer ones too; they are never written through it.

    Relative links, so that the folder may be moved whole.
    """
    for key in keys:
        if not source.manifest.shards(key):
            continue
        _link(source.root / "manifest" / key, target.root / "manifest" / key)
        for shard in source.manifest.shards(key):
            for part in source.need(key, shard).parts:
                table = Path(*Path(part.path).parts[:2])
                _link(source.root / table, target.root / table)


def link_folder(source: Workspace, target: Workspace, relative: str) -> None:
    """The same for a folder beside the tables, if it is there."""
    if (source.root / relative).exists():
        _link(source.root / relative, target.root / relative)


def _link(place: Path, link: Path) -> None:
    make_folder(link.parent)
    wanted = os.path.relpath(place.resolve(), link.parent.resolve())
    if link.is_symlink():
        if os.readlink(link) == wanted:  # noqa: PTH115
            return
        link.unlink()
    elif link.exists():
        raise BadSetting(f"{link}: expected a link to {place}; remove this folder and run again")
    link.symlink_to(wanted, target_is_directory=True)


def commit_sample(variant: Workspace, seeded: Workspace, lengths: Lengths, budget: int, seed: int, run_id: str) -> None:
    """Write the seed's sample of the variant's export as the export of `seeded`, unless it is there."""
    content = variant.need("export", ALL).content
    inputs = Inputs(VERSION, {"budget": budget, "seed": seed, "overlong": lengths.overlong}, {"export": content})
    head = seeded.head("export", ALL)
    if head is not None and head.fingerprint == inputs.fingerprint:
        return
    transaction = seeded.begin("export", ALL, inputs, run_id=run_id)
    taken, total = sample(lengths, budget, seed)
    scratch = seeded.scratch()
    tables = [pq.read_table(file) for file in sorted(export_folder(variant).glob("data/train-*.parquet"))]
    table = pa.concat_tables(tables)
    table = table.filter(pa.array([one in taken for one in table["response_id"].to_pylist()], pa.bool_()))
    write_file(scratch / "data" / "train-00000-of-00001.parquet",
               lambda path: pq.write_table(table, path, compression="zstd"))  # fmt: skip
    swap_folder(scratch, export_folder(seeded))
    extra = {"rows": {"train": table.num_rows, "validation": 0}, "tokens": total, "folder": "exports/huggingface"}
    book = Book("example", table.num_rows, table.num_rows)
    transaction.commit_result([book], content=hash_json([content, sorted(taken)]), extra=extra)


def sampled(seeded: Workspace) -> tuple[int, int]:
    """(examples, tokens) of the committed sample."""
    extra = seeded.need("export", ALL).extra
    return extra["rows"]["train"], extra["tokens"]
