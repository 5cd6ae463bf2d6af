"""How perplexities are spread, by teacher and scorer: what a limit is chosen from."""

from __future__ import annotations

from contextlib import closing

from rich.table import Table

from storage.database import open_views
from storage.workspace import Workspace

QUANTILES = (0.5, 0.9, 0.95, 0.99)


def perplexity_table(place: Workspace) -> Table | None:
    """Quantiles of the perplexities of each teacher's responses; None where nothing is scored."""
    if not any(step.startswith("score.") for step in place.manifest.steps()):
        return None
    with closing(open_views(place)) as views:
        rows = views.execute(
            """
            select teacher, scorer, count(*) filter (error is null), count(*) filter (truncated),
                quantile_cont(perplexity, $quantiles), quantile_cont(perplexity_with_question, $quantiles)
            from scores
            group by teacher, scorer
            order by teacher, scorer
            """,
            {"quantiles": list(QUANTILES)},
        ).fetchall()
    table = Table(title="perplexity of the responses (with their question)", title_justify="left")
    for name in ("teacher", "scorer", "scores", "cut", *(f"{100 * share:g} % up to" for share in QUANTILES)):
        table.add_column(name, justify="left" if name in ("teacher", "scorer") else "right")
    for teacher, scorer, scores, cut, alone, both in rows:
        shown = [f"{one:,.2f} ({other:,.2f})" for one, other in zip(alone or (), both or (), strict=True)]
        table.add_row(teacher, scorer, f"{scores:,}", f"{cut:,}", *shown)
    return table
