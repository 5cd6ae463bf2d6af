"""`stillhouse dedup FILE --out FILE`: the rows that stay, unchanged; beside them the ledger and a page of findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

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
from tasks.dedup_file import Dropped, FileDecision, dedup_file, evidence_json, messages_of
from tasks.embeddings import PACKAGED, EmbeddingSettings
from tasks.findings import Example, Section, write_findings
from tasks.lexical import LexicalSettings
from tasks.question import BadRecord, question_text
from tasks.sources import FileSource, Record, read_file

EXAMPLES = 12
"""Pairs of each rule on the page: half of them the least alike that were dropped."""
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
    with Bars(console) as bars:
        decision = dedup_file(records, columns, rules, embedding, bars)
        write_kept(file, out, decision.kept(), records)
    write_ledger(out, _ledger_rows(decision))
    _write_page(out, file, decision, rules, embedding, records, columns)
    counts = Counter(one.rule for one in decision.dropped)
    listed = ", ".join(f"{rule} {number:,}" for rule, number in counts.most_common()) or "nothing dropped"
    console.print(f"{out}: {decision.rows - len(decision.dropped):,} of {decision.rows:,} rows stay ({listed})",
                  highlight=False, soft_wrap=True)  # fmt: skip
    unread = [one for one in decision.dropped if one.rule not in MEANING]
    why = f"{unread[0].rule}: {unread[0].evidence.get('detail')}" if unread else ""
    refuse_without_questions(file, decision.rows, len(unread), why)
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
    for one in decision.dropped:
        yield {"row": one.row, "rule": one.rule, "value": one.value, "threshold": one.threshold,
               "evidence": evidence_json(one)}  # fmt: skip


def _write_page(out: Path, file: Path, decision: FileDecision, rules: Rules, embedding: EmbeddingSettings,
                records: Any, columns: dict[str, str]) -> None:  # fmt: skip
    by_rule: dict[str, list[Dropped]] = {}
    for one in decision.dropped:
        by_rule.setdefault(one.rule, []).append(one)
    shown = {rule: _examples(found) for rule, found in by_rule.items()}
    wanted = {row for found in shown.values() for one in found for row in (one.row, one.evidence.get("like_row"))}
    texts = {row: _text(record, columns) for row, record in enumerate(records()) if row in wanted}
    sections = [
        Section(
            f"{rule}: {len(by_rule[rule]):,}",
            MEANING.get(rule, "The row holds no question that can be read."),
            examples=[_example(one, texts) for one in found],
        )
        for rule, found in shown.items()
    ]
    facts = [
        ("file", file.name),
        ("rows", f"{decision.rows:,}"),
        ("distinct texts", f"{decision.texts:,}"),
        ("rows that stay", f"{decision.rows - len(decision.dropped):,}"),
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


def _examples(found: list[Dropped]) -> list[Dropped]:
    """The least alike ones, which are the ones to look at, and as many spread over the rest."""
    ordered = sorted(found, key=lambda one: (one.value if one.value is not None else 0.0, one.row))
    least, rest = ordered[: EXAMPLES // 2], ordered[EXAMPLES // 2 :]
    step = max(1, len(rest) // (EXAMPLES - len(least)))
    return least + rest[::step][: EXAMPLES - len(least)]


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
