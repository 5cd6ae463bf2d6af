"""The report's history of editions: how the data set changed from one frozen state to the next, and why."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from storage.editions import numbers, promotion, read_edition
from storage.workspace import Workspace
from tasks.report_figures import FAIL, INK, PASS, THIRD, Drawing, legend

SHOWN = 60
"""The newest so many."""
CHANGES = ("added", "gone", "regraded")


@dataclass(frozen=True)
class EditionRow:
    """One edition, and its difference to the one before."""

    number: int
    date: str
    promoted: bool
    examples: int
    questions: int
    pass_rate: float | None
    """mean over graded train questions"""
    characters: float | None
    """mean length of an example's response"""
    against: int | None
    """number of the edition before; None for the first"""
    changed: dict[str, int]
    """CHANGES → examples"""
    reasons: list[tuple[str, int]]
    """`added: new question` → examples, the commonest first"""


def edition_facts(workspace: Workspace) -> dict[str, Any]:
    """What the page's part on editions needs; empty where there is none."""
    rows = [_row(workspace, number) for number in numbers(workspace)[-SHOWN:]]
    return {"editions": rows, "editions_svg": edition_chart(rows) if len(rows) > 1 else None}


def _row(workspace: Workspace, number: int) -> EditionRow:
    edition = read_edition(workspace, number)
    counts, changes = edition.counts, edition.diff.get("changes", {})
    reasons = [(f"{change}: {why.replace('_', ' ')}", rows) for change, whys in changes.items()
               for why, rows in whys.items()]  # fmt: skip
    return EditionRow(
        number=number,
        date=f"{datetime.datetime.fromisoformat(edition.created).astimezone(datetime.UTC):%Y-%m-%d %H:%M}",
        promoted=promotion(workspace, number) is not None,
        examples=counts.get("examples", 0),
        questions=counts.get("questions", 0),
        pass_rate=counts.get("pass_rate"),
        characters=counts.get("response_chars"),
        against=edition.diff.get("against"),
        changed={change: sum(changes.get(change, {}).values()) for change in CHANGES},
        reasons=sorted(reasons, key=lambda one: (-one[1], one[0])),
    )


def edition_chart(rows: Sequence[EditionRow]) -> Markup:
    """Examples by edition, above what came, went and has another grade. The first edition's rows are no change."""
    with Drawing("editions", 3.6) as drawing:
        above, below = drawing.figure.subplots(2, 1, sharex=True)
        places = [row.number for row in rows]
        above.plot(places, [row.examples for row in rows], color=INK, linewidth=1.4, marker="o", markersize=4)
        above.set_title("examples")
        above.set_ylim(0, max(row.examples for row in rows) * 1.12 or 1)
        for row in rows:
            if row.against is None:
                continue
            below.bar(row.number, row.changed["added"], width=0.5, color=PASS)
            below.bar(row.number, -row.changed["gone"], width=0.5, color=FAIL)
            below.bar(row.number + 0.3, row.changed["regraded"], width=0.12, color=THIRD)
        below.axhline(0, color=INK, linewidth=0.8)
        below.set_title("changed since the edition before")
        below.set_xlabel("edition")
        below.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
        for axes in (above, below):
            axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
            axes.grid(axis="y")
            axes.tick_params(length=0)
            axes.spines["left"].set_visible(False)
        below.spines["bottom"].set_visible(False)
        legend(drawing, {"added": PASS, "gone": FAIL, "regraded": THIRD})
    return drawing.svg
