"""`stillhouse dedup FILE --out FILE`: the rows that stay, unchanged; beside them the ledger and a page of findings."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import compress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from pydantic import ValidationError
from rich.console import Console

from flows.errors import UsageError
from flows.kept_rows import (
    ENDINGS,
    beside,
    check_files,
    read_columns,
    refuse_without_questions,
    write_kept,
    write_ledger,
)
from flows.progress import Bars
from tasks.dedup import ClusterSettings, DedupSettings, Rules
from tasks.dedup_file import FileDecision, dedup_file, evidence_json
from tasks.dedup_scan import Dropped, messages_of
from tasks.embeddings import PACKAGED, EmbeddingSettings
from tasks.findings import Example, Section, write_findings
from tasks.lexical import LexicalSettings
from tasks.question import BadRecord, question_text
from tasks.sources import FileSource, Record, read_file

MEANING = {
    "exact_duplicate": "The same text but for case, blanks and the last stop.",
    "near_duplicate": "Cosine of the embeddings at or above the threshold.",
    "lexical_duplicate": "Shared runs of words: Jaccard index at or above the threshold.",
    "no_embedding": "The model gave no usable vector, so that the row was compared with nothing.",
}


def add_to(app: typer.Typer) -> None:
    app.command()(dedup)


def dedup(
    file: Annotated[Path, typer.Argument(help="JSONL or Parquet: one question a row, as `question` or `messages`.")],
    out: Annotated[Path, typer.Option(help="The rows that stay, unchanged; the same ending as FILE.")],
    threshold: Annotated[float, typer.Option(help="Cosine from which two are near-duplicates.")] = 0.95,
    near: Annotated[bool, typer.Option("--near/--no-near", help="Compare embeddings.")] = True,
    lexical: Annotated[
        float | None, typer.Option(help="Also compare shared word runs, from this Jaccard index on.")
    ] = None,
    by: Annotated[
        str,
        typer.Option(help="components: one of a chain stays; representatives: one goes only if like one that stays."),
    ] = "components",
    prefer: Annotated[
        str, typer.Option(help="Who stays, in this order: reference, longest, hardest; then by a hash of the text.")
    ] = "reference,longest,hardest",
    model: Annotated[str, typer.Option(help="Embedding model: hub name or folder.")] = PACKAGED,
    kind: Annotated[str, typer.Option(help="sentence-transformers or model2vec (static, fast).")] = (
        "sentence-transformers"
    ),
    revision: Annotated[str | None, typer.Option(help="A hub model's commit.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="OURS=THEIRS", help="Column names, such as question=problem.")
    ] = None,
) -> None:
    """Remove exact, near and lexical duplicates from any file of questions.

    Beside OUT: OUT.ledger.parquet, one row for each that was dropped (row, rule, value, threshold, evidence), and
    OUT.findings.html with examples. A row without a question is dropped too, and stands in the ledger.
    """
    format_ = ENDINGS.get(file.suffix.lower())
    if format_ is None or ENDINGS.get(out.suffix.lower()) != format_:
        raise UsageError(f"{file} → {out}: expected two .jsonl or two .parquet files, so that rows stay as they are")
    check_files(file, out)
    columns = read_columns(column or ())
    rules, embedding = _settings(threshold, near, lexical, by, prefer, model, kind, revision)
    source = FileSource(name=file.stem.replace(" ", "_"), kind="file", path=str(file))

    def records() -> Iterator[Record]:
        return read_file(file, source, file.parent)

    console = Console()
    with tempfile.TemporaryDirectory(prefix="dedup-") as folder:
        with Bars(console) as bars:
            decision = dedup_file(records, columns, rules, embedding, Path(folder), bars)
            write_kept(file, out, decision.kept(), records)
        write_ledger(out, _ledger_rows(decision))
    _write_page(out, file, decision, rules, embedding, records, columns)
    counts, unread = decision.counts(), decision.unread.counts.total()
    listed = ", ".join(f"{rule} {number:,}" for rule, number in counts.most_common()) or "nothing dropped"
    console.print(f"{out}: {decision.rows - counts.total():,} of {decision.rows:,} rows stay ({listed})",
                  highlight=False, soft_wrap=True)  # fmt: skip
    first = min((some[0] for some in decision.unread.first.values()), key=lambda one: one.row, default=None)
    why = f"{first.rule}: {first.evidence.get('detail')}" if first else ""
    refuse_without_questions(file, decision.rows, unread, why)
    if decision.recall < 1:
        console.print(f"compared in clusters: recall {decision.recall:.4f} on a sample", highlight=False)


def _settings(threshold: float, near: bool, lexical: float | None, by: str, prefer: str, model: str, kind: str,
              revision: str | None) -> tuple[Rules, EmbeddingSettings]:  # fmt: skip
    order = tuple(name.strip() for name in prefer.split(",") if name.strip())
    try:
        rules = Rules(
            exact=True,
            near=DedupSettings(threshold=threshold) if near else None,
            lexical=LexicalSettings(threshold=lexical) if lexical is not None else None,
            clusters=ClusterSettings.model_validate({"by": by, "prefer": order}),
            heldout=0.0,
        )
        embedding = EmbeddingSettings.model_validate({"model": model, "kind": kind, "revision": revision})
    except ValidationError as fault:
        first = fault.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"--{where.split('.')[0]}: found {first['input']!r}; {first['msg']}") from fault
    return rules, embedding


def _ledger_rows(decision: FileDecision) -> Iterator[dict[str, Any]]:
    for one in decision.dropped():
        yield {"row": one.row, "rule": one.rule, "value": one.value, "threshold": one.threshold,
               "evidence": evidence_json(one)}  # fmt: skip


def _write_page(out: Path, file: Path, decision: FileDecision, rules: Rules, embedding: EmbeddingSettings,
                records: Callable[[], Iterator[Record]], columns: dict[str, str]) -> None:  # fmt: skip
    counts, shown = decision.counts(), decision.examples()
    texts = _texts(decision.rows, [one for found in shown.values() for one in found], records, columns)
    sections = [
        Section(
            f"{rule}: {counts[rule]:,}",
            MEANING.get(rule, "The row holds no question that can be read."),
            examples=[_example(one, texts) for one in found],
        )
        for rule, found in shown.items()
    ]
    facts = [
        ("file", file.name),
        ("rows", f"{decision.rows:,}"),
        ("distinct texts", f"{decision.texts:,}"),
        ("rows that stay", f"{decision.rows - counts.total():,}"),
        ("clusters", rules.clusters.by),
        ("who stays", ", ".join(rules.clusters.prefer) + ", a hash of the text"),
    ]
    if rules.near:
        model = f"{embedding.model} ({embedding.kind})"
        facts += [
            ("near-duplicates", f"cosine ≥ {rules.near.threshold:g} of {model}"),
            ("pairs at or above it", f"{decision.pairs:,}"),
            ("recall", "exact: all texts were compared" if decision.recall == 1 else f"{decision.recall:.4f}"),
        ]
    if rules.lexical:
        facts.append(("near-copies", f"Jaccard ≥ {rules.lexical.threshold:g} of {rules.lexical.ngram}-word runs"))
    write_findings(beside(out, "findings.html"), f"Duplicates in {file.name}", facts, sections)


def _texts(rows: int, shown: list[Dropped], records: Callable[[], Iterator[Record]],
           columns: dict[str, str]) -> dict[int, str]:  # fmt: skip
    """The texts of the rows that are shown, and of those that they are like."""
    numbers = {row for one in shown for row in (one.row, one.evidence.get("like_row")) if row is not None}
    wanted = np.zeros(rows, bool)
    wanted[list(numbers)] = True
    found = zip(np.flatnonzero(wanted).tolist(), compress(records(), wanted), strict=True)
    return {row: _text(record, columns) for row, record in found}


def _text(record: Record, columns: dict[str, str]) -> str:
    messages = messages_of(record, columns)
    return "(no question)" if isinstance(messages, BadRecord) else question_text(messages)


def _example(one: Dropped, texts: dict[int, str]) -> Example:
    like = one.evidence.get("like_row")
    facts = [("similarity", one.value), ("stays", one.evidence.get("kept_row"))]
    if like is None:
        return Example(f"row {one.row}", "dropped", texts.get(one.row, ""),
                       facts=[("why", one.evidence.get("detail"))])  # fmt: skip
    return Example(f"row {one.row}", f"row {one.row}, dropped", texts[one.row], f"row {like}, like it", texts[like],
                   facts=facts)  # fmt: skip
