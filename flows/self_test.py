"""`stillhouse verify --self-test RECIPE`: the verifiers' own errors, before a budget is spent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.printable import printable
from flows.recipe import LoadedRecipe
from flows.steps import workers
from storage.files import names
from storage.workspace import Workspace
from tasks.self_test import RECORDS_READ, sample_curated, sample_sources
from tasks.verifiers.bench import Bench
from tasks.verifiers.self_test import Miss, Rates, faults, run_self_test

SHOWN_MISSES = 5
SHOWN_CHARS = 100


def self_test(loaded: LoadedRecipe, folder: Path | None, console: Console) -> bool:
    """Run it and print its tables; whether all limits of the recipe are kept."""
    settings = loaded.recipe.verify
    place = folder or loaded.default_workspace()
    workspace = Workspace.open(place) if "workspace.json" in names(place) else None
    curated = workspace.heads("curate") if workspace else {}
    if workspace and all(shard in curated for shard in workspace.shards):
        questions, origin = sample_curated(workspace, settings.self_test), f"curated in {place}"
    else:
        questions = sample_sources(loaded.recipe.sources, loaded.recipe.ingest, loaded.base, settings.self_test)
        origin = f"the first {RECORDS_READ:,} records of each source; nothing is curated yet"
    console.print(f"{len(questions)} questions from {origin}", highlight=False, soft_wrap=True)
    with console.status("judging"), Bench(settings, workers(loaded)) as bench:
        rates = run_self_test(questions, settings, bench)
    console.print(rates_table(rates))
    untested = {question["category"] for question in questions} - {one.category for one in rates}
    for category in sorted(untested):
        console.print(f"{category}: no right or wrong answer could be made (docs/self-test.md)", highlight=False)
    for one in rates:
        _show_misses(console, one, "right answers rejected", one.false_rejects)
        _show_misses(console, one, "wrong answers accepted", one.false_accepts)
    found = faults(rates, settings.self_test)
    for line in found:
        console.print(f"[red]not kept:[/] {escape(line)}", highlight=False, soft_wrap=True)
    return not found


def rates_table(rates: Sequence[Rates]) -> Table:
    """One row a category and verifier; `outcome` where several verifiers make one."""
    table = Table(title="self-test", title_justify="left")
    for name in ("category", "verifier", "right answers", "rejected", "wrong answers", "accepted", "not judged"):
        table.add_column(name, justify="left" if name in ("category", "verifier") else "right")
    for one in rates:
        alone = sum(other.category == one.category for other in rates) <= 2
        if one.verifier == "outcome" and alone:
            continue
        table.add_row(one.category, one.verifier, f"{one.golds:,}", _share(one.false_rejects, one.false_reject),
                      f"{one.mutants:,}", _share(one.false_accepts, one.false_accept),
                      f"{one.unjudged + one.failed:,}")  # fmt: skip
    return table


def _share(misses: Sequence[Miss], rate: float | None) -> str:
    return "–" if rate is None else f"{len(misses)} ({rate:.1%})"


def _show_misses(console: Console, rates: Rates, what: str, misses: Sequence[Miss]) -> None:
    if rates.verifier == "outcome" or not misses:
        return
    more = f", the first {SHOWN_MISSES} of {len(misses)}" if len(misses) > SHOWN_MISSES else ""
    console.print(f"{rates.category}, {rates.verifier}: {what}{more}", highlight=False)
    for miss in misses[:SHOWN_MISSES]:
        text = " ".join(printable(miss.answer[:SHOWN_CHARS], keep="", instead=" ").split())
        console.print(f"  {miss.question_id}  {miss.kind}, {miss.status}: {escape(text)}", highlight=False,
                      soft_wrap=True)  # fmt: skip
