"""`stillhouse suspects`: references that the teachers contradict, with votes and the judge's words, for an audit."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows.errors import UsageError
from flows.inspect import WorkspaceArgument
from storage.database import open_views
from storage.files import write_file
from storage.workspace import Workspace

COLUMNS = ("question_id", "category", "split", "question_source", "question", "reference", "majority_answer",
           "vote_share", "votes", "status", "repaired_to", "judge", "reason", "reason_swapped")  # fmt: skip


def add_to(app: typer.Typer) -> None:
    app.command()(suspects)


def suspects(
    workspace: WorkspaceArgument,
    out: Annotated[Path, typer.Option(help="Audit list: .jsonl or .csv, one row a question.")],
) -> None:
    """List references that the teachers' majority contradicts, and what a judge decided about them.

    status: flagged (no judge asked), repaired, upheld, unclear, infra_error (the judge is asked again by the next run).
    """
    if out.suffix not in (".jsonl", ".csv"):
        raise UsageError(f"--out {out}: expected a name that ends in .jsonl or .csv")
    with open_views(Workspace.open(workspace)) as views:
        rows = views.sql(_SUSPECTS).to_arrow_table().to_pylist()
    write_file(out, lambda path: _write(path, rows, as_csv=out.suffix == ".csv"))
    counts = Counter(row["status"] for row in rows)
    listed = ", ".join(f"{status} {number:,}" for status, number in sorted(counts.items())) or "none"
    Console().print(f"{out}: {len(rows):,} suspect references ({listed})", highlight=False, soft_wrap=True)


def _write(path: Path, rows: list[dict[str, Any]], *, as_csv: bool) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        if not as_csv:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            return
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for row in rows:
            votes = json.dumps(row["votes"], ensure_ascii=False)
            table.writerow({name: _cell(value) for name, value in (row | {"votes": votes}).items()})


_FORMULA = re.compile(r"\s*(?:[=@|%]|[+-](?![\d.,\s/]*$))")


def _cell(value: Any) -> Any:
    """A spreadsheet would run a text that begins like a formula: it gets an apostrophe; numbers stay as they are."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


# A question that waits for the judge has no grade; one whose reference was put to it has a row of `repairs`.
_SUSPECTS = f"""
    with flagged as (
        select question_id, majority_answer, vote_share, votes, 'flagged' as status, null as repaired_to, null as judge,
            null as reason, null as reason_swapped
        from grades
        where reference_suspect and question_id not in (select question_id from repairs)
        union all
        select question_id, majority_answer, vote_share, votes, status, repaired_to, judge, reason, reason_swapped
        from repairs
    )
    select {", ".join(COLUMNS)}
    from (
        select f.*, c.category, c.split, c.question_source, c.ground_truth as reference,
            c.messages[-1].content as question
        from flagged f
        join curated c using (question_id)
    )
    order by question_id
"""
