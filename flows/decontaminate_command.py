"""`stillhouse decontaminate`: questions that are on a benchmark leave a file, with the evidence beside it.

The file is read twice, once to judge its rows and once to copy those that stay; no row is held in between.
`--plant N` measures instead of trusting: copies of benchmark items, changed by rules, are put to the same rules.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from flows.errors import UsageError
from flows.kept_rows import (
    ENDINGS,
    Kept,
    beside,
    check_files,
    read_columns,
    refuse_without_questions,
    write_kept,
    write_ledger,
)
from flows.launch import EXIT_PENDING
from flows.progress import Bars
from flows.recipe import check_recipe, load_recipe
from tasks.decontaminate import Benchmarks, DecontaminateSettings, Item
from tasks.decontaminate_benchmarks import KNOWN, Benchmark, load_items
from tasks.decontaminate_decision import Contamination
from tasks.decontaminate_planting import KINDS
from tasks.embeddings import EmbeddingSettings, embed
from tasks.findings import Example, Section, write_findings
from tasks.question import BadRecord, lookup, normalise, question_text, read_question
from tasks.sources import FileSource, Record, read_file

BATCH = 8192
SHOWN = 5
"""Example pairs of each rule on the page."""


def add_to(app: typer.Typer) -> None:
    app.command()(decontaminate)


@dataclass
class Outcome:
    """What came out of a file; a byte a row, and numbers a benchmark and rule."""

    stays: bytearray = field(default_factory=bytearray)
    """of each row, 1 or 0"""
    rules: Counter[str] = field(default_factory=Counter)
    """rows that go"""
    hit: dict[str, set[int]] = field(default_factory=dict)
    """of each benchmark, the items for which a row goes"""
    fates: dict[str, Counter[str]] = field(default_factory=dict)
    """of each benchmark, rows that are removed, undecided, suspect and kept"""
    examples: dict[str, list[Example]] = field(default_factory=dict)
    """of each rule and of kept suspects, the first so many"""

    unread: int = 0
    """rows without a question, and why the first has none"""
    first_unread: str = ""

    def kept(self) -> Kept:
        return np.frombuffer(self.stays, np.bool_)

    def suspects(self) -> int:
        return sum(fates["suspect"] for fates in self.fates.values())


def decontaminate(
    file: Annotated[Path, typer.Argument(help="JSONL, JSON, CSV or Parquet: a question (or messages) a row.")],
    out: Annotated[Path, typer.Option(help="The rows that are kept, unchanged: .parquet or .jsonl.")],
    against: Annotated[
        list[str] | None,
        typer.Option(help="A benchmark: a known name, a file, NAME=FILE (a known layout), or FILE:QUESTION[:ANSWER]."),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="Take benchmarks and settings of this recipe.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="OURS=THEIRS", help="Column names, such as question=problem.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override, such as --set curate.decontaminate.suspects=drop."),
    ] = None,
    plant: Annotated[int, typer.Option(min=0, help="Also plant N copies of each kind and print what is found.")] = 0,
) -> None:
    """Take out the questions of a file that are on a benchmark.

    Beside OUT: OUT.ledger.parquet (row, rule, value, threshold, evidence) and OUT.html with examples. Exit status 3
    where the judge left questions undecided; these are kept out.
    """
    if out.suffix.lower() not in ENDINGS:
        raise UsageError(f"--out {out}: expected a name that ends in .parquet or .jsonl")
    check_files(file, out)
    settings, embedding = _settings(file, recipe, against or [], set_ or [])
    base = recipe.parent if recipe else Path()
    console = Console()
    with console.status("reading benchmarks"):
        index = Benchmarks(load_items(settings.benchmarks, base), settings, embedding)
    columns = read_columns(column or ())
    source = FileSource(name="file", kind="file", path=str(file))

    def records() -> Iterator[Record]:
        return read_file(file, source, file.parent)

    outcome = Outcome()
    with Bars(console) as bars:
        write_ledger(out, _screen(records(), index, settings, embedding, columns, bars, outcome))
        kept = outcome.kept()
        write_kept(file, out, kept, records)
    by_benchmark = _benchmark_section(index, outcome)
    sections = [by_benchmark, *_example_sections(outcome)]
    console.print(_as_table(by_benchmark))
    if plant:
        planted = _plant(index, settings, embedding, plant)
        sections.append(planted)
        console.print(_as_table(planted))
    page = beside(out, "html")
    facts = [
        ("file", str(file)),
        ("rows", f"{len(kept):,}"),
        ("kept", f"{kept.sum():,}"),
        ("suspects kept", f"{outcome.suspects():,}"),
    ] + [(rule, f"{n:,}") for rule, n in sorted(outcome.rules.items())]
    write_findings(page, f"Decontamination of {file.name}", facts, sections)
    listed = ", ".join(f"{rule} {number:,}" for rule, number in outcome.rules.most_common()) or "nothing removed"
    console.print(f"{out}: {kept.sum():,} of {len(kept):,} rows kept ({listed}); findings in {page}",
                  highlight=False, soft_wrap=True)  # fmt: skip
    refuse_without_questions(file, len(kept), outcome.unread, outcome.first_unread)
    if outcome.rules["benchmark_undecided"]:
        raise typer.Exit(EXIT_PENDING)


def _settings(file: Path, recipe: Path | None, against: Sequence[str],
              overrides: Sequence[str]) -> tuple[DecontaminateSettings, EmbeddingSettings]:  # fmt: skip
    if recipe:
        loaded = load_recipe(recipe, tuple(overrides))
    else:
        alone = {"name": "decontaminate", "sources": [{"name": "file", "kind": "file", "path": str(file)}]}
        loaded = check_recipe(alone, file.parent, tuple(overrides))
    curate = loaded.recipe.curate
    named = tuple(_benchmark(one) for one in against)
    chosen = named or curate.decontaminate.benchmarks
    if not chosen:
        raise UsageError(f"nothing to compare with: give --against FILE, or a known name: {', '.join(sorted(KNOWN))}")
    return curate.decontaminate.model_copy(update={"benchmarks": chosen}), curate.embedding


def _benchmark(text: str) -> Benchmark:
    """`aime24`, `bench.jsonl`, `gsm8k=test.jsonl`, `bench.jsonl:problem:answer`."""
    try:
        if text in KNOWN:
            return Benchmark.model_validate(text)
        name, found, path = text.partition("=")
        if found and name in KNOWN:
            return Benchmark.model_validate({"name": name, "path": path})
        path, *columns = (path if found else text).split(":")
        value: dict[str, Any] = {"name": name if found else Path(path).stem, "path": path}
        value["question"] = columns[0] if columns else ("question", "problem", "prompt", "text")
        value["answer"] = columns[1] if len(columns) > 1 else ("answer", "ground_truth", "solution")
        if len(columns) < 2:
            value |= {"entry_point": "entry_point", "solution": ("canonical_solution", "code"),
                      "tests": ("test", "test_list")}  # fmt: skip
        return Benchmark.model_validate(value)
    except ValidationError as fault:
        raise UsageError(f"--against {text}: {fault.errors()[0]['msg']}") from fault


def _screen(records: Iterator[Record], index: Benchmarks, settings: DecontaminateSettings,
            embedding: EmbeddingSettings, columns: dict[str, str], bars: Bars,
            outcome: Outcome) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Judge all records: the ledger's rows, as they are found; what else is to be told goes to `outcome`."""
    while batch := list(islice(records, BATCH)):
        bars.expect("decontaminate", len(batch))
        read = [_question(record, columns) for record in batch]
        texts = [text for text in read if isinstance(text, str)]
        answers = [_answer(record, columns) for record, text in zip(batch, read, strict=True) if isinstance(text, str)]
        vectors = embed([normalise(text) for text in texts], embedding) if settings.wants_embeddings() else None
        verdicts = iter(index.check(texts, vectors, answers))
        for text in read:
            gone = _ledger_row(text, verdicts, index, outcome)
            outcome.stays.append(gone is None)
            if gone:
                yield gone
        bars.advance("decontaminate", len(batch))


def _ledger_row(text: str | BadRecord, verdicts: Iterator[Contamination], index: Benchmarks,
                outcome: Outcome) -> dict[str, Any] | None:  # fmt: skip
    """Why the next row goes, or None if it stays; a row without a question takes no verdict."""
    row = len(outcome.stays)
    if isinstance(text, BadRecord):
        outcome.rules[text.rule] += 1
        outcome.unread += 1
        outcome.first_unread = outcome.first_unread or f"{text.rule}: {text.detail}"
        return {"row": row, "rule": text.rule, "value": text.value, "threshold": text.threshold,
                "evidence": json.dumps({"seen": text.detail}, ensure_ascii=False)}  # fmt: skip
    found = next(verdicts)
    if found.verdict == "clean":
        return None
    rule = index.drops(found)
    _count(outcome, row, text, found, rule, index.items[found.item])
    if rule is None:
        return None
    return {"row": row, "rule": rule, "value": found.value, "threshold": found.threshold,
            "evidence": index.evidence(found)}  # fmt: skip


def _count(outcome: Outcome, row: int, text: str, found: Contamination, rule: str | None, item: Item) -> None:
    fates = outcome.fates.setdefault(item.benchmark, Counter())
    if rule:
        outcome.rules[rule] += 1
        outcome.hit.setdefault(item.benchmark, set()).add(item.index)
        fates["undecided" if rule == "benchmark_undecided" else "removed"] += 1
    elif found.verdict == "suspect":
        fates["suspect"] += 1
    shown = outcome.examples.setdefault(rule or "suspects", [])
    if len(shown) < SHOWN:
        facts = [("value", found.value), ("threshold", found.threshold), *found.signals]
        name = f"{item.benchmark}, item {item.index}"
        shown.append(Example(f"row {row}", "in the file", text, name, item.text, facts, found.matched))


def _question(record: Record, columns: dict[str, str]) -> str | BadRecord:
    if isinstance(record.value, BadRecord):
        return record.value
    value = record.value
    try:
        return question_text(read_question(lambda name: lookup(value, columns.get(name, name))))
    except BadRecord as fault:
        return fault


def _answer(record: Record, columns: dict[str, str]) -> str | None:
    assert isinstance(record.value, dict)
    for name in ("ground_truth", "answer"):
        found = lookup(record.value, columns.get(name, name))
        if isinstance(found, str | int | float) and not isinstance(found, bool):
            return str(found)
    return None


def _benchmark_section(index: Benchmarks, outcome: Outcome) -> Section:
    sizes = Counter(item.benchmark for item in index.items)
    nothing: Counter[str] = Counter()
    rows = []
    for name, size in sizes.items():
        fates = outcome.fates.get(name, nothing)
        rows.append((name, size, len(outcome.hit.get(name, ())), fates["removed"], fates["undecided"],
                     fates["suspect"]))  # fmt: skip
    return Section("By benchmark", "Items that are hit, rows that are removed, undecided and kept as suspects.",
                   ("benchmark", "items", "items hit", "removed", "undecided", "suspects kept"), rows)  # fmt: skip


def _as_table(section: Section) -> Table:
    table = Table(title=section.name, title_justify="left")
    for number, name in enumerate(section.headers):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in section.rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    return table


def _example_sections(outcome: Outcome) -> list[Section]:
    kept = outcome.examples.pop("suspects", [])
    sections = [Section(rule, f"Rows removed by the rule {rule}; what matched is marked.", examples=examples)
                for rule, examples in sorted(outcome.examples.items())]  # fmt: skip
    return sections + (
        [Section("suspects", "Rows that are kept, but look like an item.", examples=kept)] if kept else []
    )


def _plant(index: Benchmarks, settings: DecontaminateSettings, embedding: EmbeddingSettings, count: int) -> Section:
    """Recall for each kind on copies of items drawn with a fixed seed; false flags on the items themselves, each
    against all others of the benchmarks."""
    source = random.Random(0)
    chosen = source.sample(index.items, min(count, len(index.items)))
    rules = ("benchmark_exact", "benchmark_ngram", "benchmark_similarity", "benchmark_signals", "benchmark_judge")
    rows: list[tuple[str | int, ...]] = []
    for kind, change in KINDS.items():
        made = [(item, text) for item in chosen if (text := change(item, source)) is not None]
        if made:
            texts = [text for _, text in made]
            rows.append(_planted_row(kind, index, texts, [item.answer for item, _ in made], settings, embedding, rules))
    others = {id(item) for item in chosen}
    without = Benchmarks([item for item in index.items if id(item) not in others], settings, embedding)
    if without.items:
        texts, answers = [item.text for item in chosen], [item.answer for item in chosen]
        rows.append(_planted_row("false flags", without, texts, answers, settings, embedding, rules))
    return Section("Planted copies", "Share found of copies made by rules. False flags: the same items unchanged, put "
                   "to the benchmarks without them; items that a benchmark holds twice count as false here.",
                   ("kind", "copies", "found", "suspect",
                    *(one.removeprefix("benchmark_") for one in rules)), rows)  # fmt: skip


def _planted_row(kind: str, index: Benchmarks, texts: list[str], answers: Sequence[str | None],
                 settings: DecontaminateSettings, embedding: EmbeddingSettings,
                 rules: Sequence[str]) -> tuple[str | int, ...]:  # fmt: skip
    vectors = embed([normalise(text) for text in texts], embedding) if settings.wants_embeddings() else None
    found = index.check(texts, vectors, answers)
    by_rule = Counter(one.rule for one in found if one.verdict == "contaminated")
    suspect = sum(one.verdict == "suspect" for one in found)
    total = len(texts)
    shares = [f"{by_rule[rule] / total:.1%}" for rule in rules]
    return (kind, total, f"{sum(by_rule.values()) / total:.1%}", f"{suspect / total:.1%}", *shares)
