"""Commands on a single file, without a workspace: `verify`, which also tests the verifiers themselves."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console

from flows.errors import UsageError
from flows.kept_rows import read_columns
from flows.launch import EXIT_PENDING
from flows.progress import Bars
from flows.recipe import check_recipe, load_recipe
from flows.self_test import self_test
from storage.files import write_file
from storage.place import place as parse_place
from tasks.question import BadRecord, lookup, to_question
from tasks.sources import FileSource, Record, read_file
from tasks.teachers.teacher import split_think
from tasks.verifiers.bench import Bench, Subject
from tasks.verifiers.opinions import ask_verifiers
from tasks.verifiers.outcome import combine_opinions
from tasks.verifiers.settings import MathSettings, VerifySettings
from tasks.verifiers.trace import TraceVerifier
from tasks.verifiers.verdict import Judgement, unscored

BATCH = 512
KINDS: dict[str, pa.DataType] = {
    "row": pa.int64(),
    "verifier": pa.string(),
    "verify_score": pa.float64(),
    "passed": pa.bool_(),
    "status": pa.string(),
    "evidence": pa.string(),
}
RESULT = pa.schema(KINDS)


def add_to(app: typer.Typer) -> None:
    app.command()(verify)


def verify(
    file: Annotated[Path | None, typer.Argument(help="JSONL, JSON, CSV or Parquet: one response a row.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Result: .parquet or .jsonl, one row an input row, in input order.")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="Take the verify settings of this recipe.")] = None,
    answer_from: Annotated[
        list[str] | None,
        typer.Option(help="Where a math answer is read: boxed, marker:TEXT, last_expression; in order."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a setting, such as --set verify.code.image=stillhouse-sandbox:full.",
        ),
    ] = None,
    category: Annotated[str | None, typer.Option(help="Category of rows that don't say.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="OURS=THEIRS", help="Column names, such as question=problem.")
    ] = None,
    self_test_: Annotated[
        Path | None,
        typer.Option(
            "--self-test",
            metavar="RECIPE",
            help="Instead of a file: put right and wrong answers to this recipe's own questions to its verifiers.",
        ),
    ] = None,
    workspace: Annotated[
        Path | None,
        typer.Option(
            "--workspace",
            "-w",
            parser=parse_place,
            metavar="FOLDER|URL",
            help="With --self-test: whose questions; default: the recipe's.",
        ),
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="With --self-test: questions of each category; default: the recipe's.")
    ] = None,
) -> None:
    """Judge the responses in a file: math by rule, code in the sandbox, instructions by their constraints.

    A row holds question (or messages), category, response (or answer_content) and the means of verification:
    ground_truth; test_cases, language, entry_point, checker; instruction_constraints.

    With --self-test RECIPE it judges the verifiers: exit status 1 if one is over a limit of `verify.self_test`.
    """
    if self_test_ is not None:
        if file or out or recipe:
            raise UsageError("--self-test RECIPE takes no FILE, --out or --recipe; it draws its own questions")
        chosen_sample = () if sample is None else (f"verify.self_test.sample={sample}",)
        loaded = load_recipe(self_test_, (*(set_ or ()), *chosen_sample))
        raise typer.Exit(0 if self_test(loaded, workspace, Console()) else 1)
    if file is None or out is None:
        raise UsageError("expected `verify FILE --out FILE`, or `verify --self-test RECIPE`")
    if out.suffix not in (".parquet", ".jsonl"):
        raise UsageError(f"--out {out}: expected a name that ends in .parquet or .jsonl")
    overrides = tuple(set_ or ())
    if recipe:
        settings = load_recipe(recipe, overrides).recipe.verify
    else:
        alone = {"name": "verify", "sources": [{"name": "file", "kind": "file", "path": str(file)}]}
        settings = check_recipe(alone, file.parent, overrides).recipe.verify
    if answer_from:
        chosen = MathSettings(**settings.math.model_dump() | {"answer_from": tuple(answer_from)})
        settings = settings.model_copy(update={"math": chosen})
    columns = read_columns(column or ())
    source = FileSource(name=file.stem.replace(" ", "_"), kind="file", path=str(file))
    records = read_file(file, source, file.parent)
    console = Console()
    counts: Counter[str] = Counter()
    with Bars(console) as bars, Bench(settings, os.cpu_count() or 1) as bench:
        rows: list[dict[str, Any]] = []
        for batch in _batches(records):
            bars.expect("verify", len(batch))
            rows += _judge_batch(batch, len(rows), settings, bench, columns, category)
            bars.advance("verify", len(batch))
    counts.update(row["status"] for row in rows)
    if not rows:
        raise UsageError(f"{file}: found no rows, expected one response a row")
    _write(pa.Table.from_pylist(rows, schema=RESULT), out)
    judged = [row for row in rows if row["passed"] is not None]
    passed = sum(row["passed"] for row in judged)
    listed = ", ".join(f"{status} {number:,}" for status, number in counts.most_common())
    console.print(f"{out}: {len(rows):,} rows, {passed:,} of {len(judged):,} judged passed ({listed})", highlight=False,
                  soft_wrap=True)  # fmt: skip
    unread = [] if judged else [one for row in rows if "place" in (one := json.loads(row["evidence"]))]
    if len(unread) == len(rows):
        raise UsageError(f"{file}: none of its {len(rows):,} rows can be judged; the first, {unread[0]['place']}: "
                         f"{unread[0]['reason']}. --column OURS=THEIRS names columns")  # fmt: skip
    if counts["infra_error"]:
        raise typer.Exit(EXIT_PENDING)


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    while batch := list(islice(records, BATCH)):
        yield batch


def _judge_batch(batch: list[Record], first: int, settings: VerifySettings, bench: Bench, columns: dict[str, str],
                 category: str | None) -> list[dict[str, Any]]:  # fmt: skip
    subjects: list[Subject | Judgement] = [
        _subject(first + number, record, columns, category) for number, record in enumerate(batch)
    ]
    trace = TraceVerifier(settings.trace)
    opinions = iter(ask_verifiers(bench, [one for one in subjects if isinstance(one, Subject)], settings))
    rows = []
    for number, subject in enumerate(subjects):
        if isinstance(subject, Judgement):
            outcome, by, evidence = subject, None, dict(subject.evidence)
        else:
            kind, own = subject.question["category"], next(opinions)
            outcome = combine_opinions(own, settings.policy_for(kind), settings.verifiers(kind))
            by = outcome.evidence.get("by")
            evidence = dict(outcome.evidence) | {one.verifier: one.judgement.evidence for one in own}
            evidence["trace"] = trace.judge([subject])[0].evidence  # no opinion on the answer: docs/traces.md
        rows.append({
            "row": first + number, "verifier": by, "verify_score": outcome.score, "passed": outcome.passed,
            "status": outcome.status, "evidence": json.dumps(evidence, ensure_ascii=False, default=str),
        })  # fmt: skip
    return rows


def _subject(row: int, record: Record, columns: dict[str, str], category: str | None) -> Subject | Judgement:
    """The row as question and response, or why it can't be judged."""
    if isinstance(record.value, BadRecord):
        return unscored("unverifiable", f"{record.value.rule}: {record.value.detail}", place=record.place)
    constants = {"question_source": "file", "category": category}
    try:
        question = to_question({"question": "(none)"} | record.value, columns, constants, (), 10_000_000)
    except BadRecord as fault:
        return unscored("unverifiable", f"{fault.rule}: {fault.detail}", place=record.place)
    response, think, answer = (
        lookup(record.value, columns.get(ours, ours)) for ours in ("response", "think_content", "answer_content")
    )
    if isinstance(response, str):
        think, answer = split_think(response)
    if not isinstance(answer, str):
        return unscored(
            "unverifiable", "no response: expected text in `response` or `answer_content`", place=record.place
        )
    parts = {"answer_content": answer, "think_content": think, "turns": None}
    return Subject(str(row), question, parts | {"finish_reason": lookup(record.value, "finish_reason")})


def _write(table: pa.Table, out: Path) -> None:
    if out.suffix == ".parquet":
        write_file(out, lambda path: pq.write_table(table, path, compression="zstd"))
        return

    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8") as file:
            for row in table.to_pylist():
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    write_file(out, write)
