"""Ablation: the pieces of a comparison of recipes at equal tokens that know nothing of flows.

A variant is a set of recipe overrides. It reads the parent workspace's tables up to the grades by links, selects and
exports by itself, and is trained once a seed on a sample of its export of the same number of tokens:

    ablations/<variant>/            a workspace: selection, export
    ablations/<variant>/seed-<n>/   a workspace: the samples, the student, its evaluation

A student that is trained on pairs (redi, dpo) gets a sample of these too, of the same number of tokens, both sides of a
pair together.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from storage.files import make_folder, write_file
from storage.fingerprint import hash_json, hash_text
from storage.manifest import Book, Inputs
from storage.workspace import ALL, Workspace
from tasks.errors import BadSetting
from tasks.export import PAIRS as PAIRS_STEP
from tasks.export import swap_folder
from tasks.export_lengths import reader_of
from tasks.settings import Settings
from tasks.student_stages import StudentSettings

VERSION = "2"


@dataclass(frozen=True)
class Kind:
    """What is sampled: the export that it comes from, and where a row has its id."""

    unit: str
    step: str
    folder: str
    key: str


EXAMPLES = Kind("example", "export", "exports/huggingface", "response_id")
PAIRS = Kind("pair", PAIRS_STEP, "exports/preference", "pair_id")


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
    """The training examples of an export: (response_id, tokens), those that no training would take left out. Of pairs
    (pair_id, tokens of both sides)."""

    examples: tuple[tuple[str, int], ...]
    overlong: int

    @property
    def tokens(self) -> int:
        return sum(tokens for _, tokens in self.examples)


def measure_lengths(variant: Workspace, student: StudentSettings, model: str, kind: Kind) -> Lengths:
    """Tokens of each example or pair, rendered as the trainer does. Raises BadSetting for one it would refuse.

    What is over the shortest `max_length` of the stages that read it is left out or cut, as `student.overlong` says.
    """
    from transformers import AutoTokenizer  # slow to import

    from tasks.student_examples import UnusableData, encode

    tokenizer = AutoTokenizer.from_pretrained(model)
    if student.chat_template is not None:
        tokenizer.chat_template = Path(student.chat_template).read_text(encoding="utf-8")
    reader = reader_of(student, pairs=kind is PAIRS)
    limit = reader.max_length if reader else student.max_length
    found, overlong = [], 0
    for identity, conversations in _conversations(variant.fetch(kind.folder), kind):
        try:
            lengths = [len(encode(one, identity, tokenizer)["input_ids"]) for one in conversations]
        except UnusableData as fault:
            raise BadSetting(str(fault)) from fault
        if max(lengths) > limit and student.overlong == "drop":
            overlong += 1
        else:
            found.append((identity, sum(min(length, limit) for length in lengths)))
    return Lengths(tuple(sorted(found)), overlong)


def _conversations(export: Path, kind: Kind) -> Iterator[tuple[str, list[list[dict[str, str]]]]]:
    """Of each training row its id, and what is rendered of it: one conversation, or one for each side of a pair."""
    columns = ["prompt", "chosen", "rejected"] if kind is PAIRS else ["messages"]
    for file in sorted(export.glob("data/train-*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(columns=[kind.key, *columns]):
            for row in batch.to_pylist():
                sides = [[*row["prompt"], *row[side]] for side in columns[1:]] if kind is PAIRS else [row["messages"]]
                yield row[kind.key], sides


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


def commit_sample(variant: Workspace, seeded: Workspace, lengths: Lengths, budget: int, seed: int, run_id: str,
                  kind: Kind) -> None:  # fmt: skip
    """Write the seed's sample of the variant's export as the export of `seeded`, unless it is there."""
    for place in (seeded.root / "manifest" / kind.step, seeded.root / kind.folder):
        if place.is_symlink():  # of a version that linked the pairs: nothing may be written through it
            place.unlink()
    content = variant.need(kind.step, ALL).content
    inputs = Inputs(VERSION, {"budget": budget, "seed": seed, "overlong": lengths.overlong}, {kind.step: content})
    head = seeded.head(kind.step, ALL)
    if head is not None and head.fingerprint == inputs.fingerprint:
        return
    transaction = seeded.begin(kind.step, ALL, inputs, run_id=run_id)
    taken, total = sample(lengths, budget, seed)
    scratch = seeded.scratch()
    tables = [pq.read_table(file) for file in sorted(variant.fetch(kind.folder).glob("data/train-*.parquet"))]
    table = pa.concat_tables(tables)
    table = table.filter(pa.array([one in taken for one in table[kind.key].to_pylist()], pa.bool_()))
    write_file(scratch / "data" / "train-00000-of-00001.parquet",
               lambda path: pq.write_table(table, path, compression="zstd"))  # fmt: skip
    swap_folder(scratch, seeded.fetch(kind.folder))
    extra = {"rows": {"train": table.num_rows, "validation": 0}, "tokens": total, "folder": kind.folder}
    book = Book(kind.unit, table.num_rows, table.num_rows)
    transaction.commit_result([book], content=hash_json([content, sorted(taken)]), extra=extra)


def sampled(seeded: Workspace, kind: Kind) -> tuple[int, int]:
    """(rows, tokens) of the committed sample."""
    extra = seeded.need(kind.step, ALL).extra
    return extra["rows"]["train"], extra["tokens"]
