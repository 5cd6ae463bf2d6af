"""`stillhouse decontaminate`: questions that are on a benchmark leave a file, with the evidence beside it.

`--plant N` measures instead of trusting: copies of benchmark items, changed by rules, are put to the same rules.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from flows.errors import UsageError
from flows.launch import EXIT_PENDING
from flows.progress import Bars
from flows.recipe import check_recipe, load_recipe
from storage.files import write_file
from tasks.decontaminate import Benchmarks, DecontaminateSettings
from tasks.decontaminate_benchmarks import KNOWN, Benchmark, load_items
from tasks.decontaminate_decision import Contamination
from tasks.decontaminate_planting import KINDS
from tasks.embeddings import EmbeddingSettings, embed
from tasks.findings import Example, Section, write_findings
from tasks.question import BadRecord, lookup, normalise, question_text, read_messages
from tasks.sources import FileSource, Record, read_file

BATCH = 8192
SHOWN = 5
"""Example pairs of each benchmark and rule on the page."""
KINDS_OF_COLUMN: dict[str, pa.DataType] = {
    "row": pa.int64(),
    "rule": pa.string(),
    "value": pa.float64(),
    "threshold": pa.float64(),
    "evidence": pa.string(),
}
LEDGER = pa.schema(KINDS_OF_COLUMN)


def add_to(app: typer.Typer) -> None:
    app.command()(decontaminate)


@dataclass
class Outcome:
    """What came out of a file."""

    rows: int = 0
    kept: list[dict[str, Any]] = field(default_factory=list)
    ledger: list[dict[str, Any]] = field(default_factory=list)
    suspects: list[tuple[int, Contamination]] = field(default_factory=list)
    texts: dict[int, str] = field(default_factory=dict)
    """of the rows that something was found for"""


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
    if out.suffix not in (".parquet", ".jsonl"):
        raise UsageError(f"--out {out}: expected a name that ends in .parquet or .jsonl")
    settings, embedding = _settings(file, recipe, against or [], set_ or [])
    base = recipe.parent if recipe else Path()
    console = Console()
    with console.status("reading benchmarks"):
        index = Benchmarks(load_items(settings.benchmarks, base), settings, embedding)
    columns = dict(_pair(one, "--column") for one in column or ())
    with Bars(console) as bars:
        outcome = _screen(file, index, settings, embedding, columns, bars)
    _write_rows(outcome.kept, out, pq.read_schema(file) if file.suffix in (".parquet", ".pq") else None)
    ledger = out.with_name(f"{out.name}.ledger.parquet")
    table = pa.Table.from_pylist(outcome.ledger, schema=LEDGER)
    write_file(ledger, lambda path: pq.write_table(table, path, compression="zstd"))
    sections = [_benchmark_section(index, outcome)]
    sections += _example_sections(index, outcome)
    console.print(_benchmark_table(index, outcome))
    if plant:
        planted = _plant(index, settings, embedding, plant)
        sections.append(planted)
        console.print(_as_table(planted))
    page = out.with_name(f"{out.name}.html")
    rules = Counter(row["rule"] for row in outcome.ledger)
    facts = [
        ("file", str(file)),
        ("rows", f"{outcome.rows:,}"),
        ("kept", f"{len(outcome.kept):,}"),
        ("suspects kept", f"{len(outcome.suspects):,}"),
    ] + [(rule, f"{n:,}") for rule, n in sorted(rules.items())]
    write_findings(page, f"Decontamination of {file.name}", facts, sections)
    listed = ", ".join(f"{rule} {number:,}" for rule, number in rules.most_common()) or "nothing removed"
    console.print(f"{out}: {len(outcome.kept):,} of {outcome.rows:,} rows kept ({listed}); findings in {page}",
                  highlight=False, soft_wrap=True)  # fmt: skip
    if rules["benchmark_undecided"]:
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


def _pair(text: str, option: str) -> tuple[str, str]:
    ours, found, theirs = text.partition("=")
    if not found:
        raise UsageError(f"{option} {text}: expected OURS=THEIRS, such as question=problem")
    return ours, theirs


def _screen(file: Path, index: Benchmarks, settings: DecontaminateSettings, embedding: EmbeddingSettings,
            columns: dict[str, str], bars: Bars) -> Outcome:  # fmt: skip
    outcome = Outcome()
    source = FileSource(name="file", kind="file", path=str(file))
    for batch in _batches(read_file(file, source, file.parent)):
        bars.expect("decontaminate", len(batch))
        read = [_question(record, columns) for record in batch]
        texts = [text for text in read if isinstance(text, str)]
        answers = [_answer(record, columns) for record, text in zip(batch, read, strict=True) if isinstance(text, str)]
        vectors = embed([normalise(text) for text in texts], embedding) if settings.wants_embeddings() else None
        verdicts = iter(index.check(texts, vectors, answers))
        for record, text in zip(batch, read, strict=True):
            row = outcome.rows
            outcome.rows += 1
            if isinstance(text, BadRecord):
                _drop(outcome, row, text.rule, text.value, text.threshold, json.dumps({"seen": text.detail}))
                continue
            found = next(verdicts)
            rule = index.drops(found)
            if found.verdict != "clean":
                outcome.texts[row] = text
            if rule:
                _drop(outcome, row, rule, found.value, found.threshold, index.evidence(found))
                continue
            if found.verdict == "suspect":
                outcome.suspects.append((row, found))
            assert isinstance(record.value, dict)
            outcome.kept.append(record.value)
        bars.advance("decontaminate", len(batch))
    return outcome


def _drop(outcome: Outcome, row: int, rule: str, value: float | None, threshold: float | None, evidence: str) -> None:
    outcome.ledger.append({"row": row, "rule": rule, "value": value, "threshold": threshold, "evidence": evidence})


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    for record in records:
        batch.append(record)
        if len(batch) >= BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _question(record: Record, columns: dict[str, str]) -> str | BadRecord:
    if isinstance(record.value, BadRecord):
        return record.value
    value = record.value
    try:
        return question_text(read_messages(lambda name: lookup(value, columns.get(name, name))))
    except BadRecord as fault:
        return fault


def _answer(record: Record, columns: dict[str, str]) -> str | None:
    assert isinstance(record.value, dict)
    for name in ("ground_truth", "answer"):
        found = lookup(record.value, columns.get(name, name))
        if isinstance(found, str | int | float) and not isinstance(found, bool):
            return str(found)
    return None


def _write_rows(rows: list[dict[str, Any]], out: Path, schema: pa.Schema | None) -> None:
    if out.suffix == ".parquet":
        try:
            table = pa.Table.from_pylist(rows, schema=schema)
        except pa.ArrowException as fault:
            raise UsageError(
                f"--out {out}: a column holds values of several types ({fault}); give a .jsonl name"
            ) from fault
        write_file(out, lambda path: pq.write_table(table, path, compression="zstd"))
        return

    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")

    write_file(out, write)


def _benchmark_section(index: Benchmarks, outcome: Outcome) -> Section:
    removed: Counter[str] = Counter()
    undecided: Counter[str] = Counter()
    hit: dict[str, set[int]] = {}
    for row in outcome.ledger:
        seen = json.loads(row["evidence"])
        if "benchmark" in seen:
            counted = undecided if row["rule"] == "benchmark_undecided" else removed
            counted[seen["benchmark"]] += 1
            hit.setdefault(seen["benchmark"], set()).add(seen["item"])
    suspects = Counter(index.items[found.item].benchmark for _, found in outcome.suspects)
    sizes = Counter(item.benchmark for item in index.items)
    rows = [(name, size, len(hit.get(name, ())), removed[name], undecided[name], suspects[name])
            for name, size in sizes.items()]  # fmt: skip
    return Section("By benchmark", "Items that are hit, rows that are removed, undecided and kept as suspects.",
                   ("benchmark", "items", "items hit", "removed", "undecided", "suspects kept"), rows)  # fmt: skip


def _benchmark_table(index: Benchmarks, outcome: Outcome) -> Table:
    return _as_table(_benchmark_section(index, outcome))


def _as_table(section: Section) -> Table:
    table = Table(title=section.name, title_justify="left")
    for number, name in enumerate(section.headers):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in section.rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    return table


def _example_sections(index: Benchmarks, outcome: Outcome) -> list[Section]:
    found: dict[str, list[Example]] = {}
    for row in outcome.ledger:
        seen = json.loads(row["evidence"])
        if "benchmark" in seen and len(found.setdefault(row["rule"], [])) < SHOWN:
            item = next(one for one in index.items
                        if one.benchmark == seen["benchmark"] and one.index == seen["item"])  # fmt: skip
            facts = [("value", row["value"]), ("threshold", row["threshold"]), *seen.get("signals", {}).items()]
            found[row["rule"]].append(Example(f"row {row['row']}", "in the file", outcome.texts[row["row"]],
                                              f"{item.benchmark}, item {item.index}", item.text, facts,
                                              seen["matched"].split("; ")))  # fmt: skip
    kept = []
    for number, one in outcome.suspects[:SHOWN]:
        item = index.items[one.item]
        facts = [("value", one.value), ("threshold", one.threshold), *one.signals]
        kept.append(Example(f"row {number}", "in the file", outcome.texts[number],
                            f"{item.benchmark}, item {item.index}", item.text, facts, one.matched))  # fmt: skip
    sections = [Section(rule, f"Rows removed by the rule {rule}; what matched is marked.", examples=examples)
                for rule, examples in sorted(found.items())]  # fmt: skip
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
