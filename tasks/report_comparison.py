"""The report's comparison of teachers, from the table `comparison`: which teacher for which category, and how alike.

What is not covered: whether a difference is worth its price; `stillhouse plan` has the prices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
from markupsafe import Markup
from matplotlib.ticker import FuncFormatter

from storage.schemas import QUANTILES
from tasks.report_figures import FIFTH, FOURTH, PASS, THIRD, UNSOLVED, Drawing, bare, legend, percent, short

COLOURS = (PASS, THIRD, FIFTH, FOURTH, UNSOLVED)


@dataclass(frozen=True)
class Best:
    """The teachers with the highest pass rate of a category; `clear` if the interval of no other one touches theirs."""

    category: str
    teachers: tuple[str, ...]
    pass_rate: float
    clear: bool


def comparison_facts(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """What the page's part on teachers needs, from the view `comparison`; all empty where it was not made."""
    rows = connection.sql("select * from comparison order by category, rank nulls last, teacher").to_arrow_table()
    found = rows.to_pylist()
    judged = [row for row in found if row["pass_rate"] is not None]
    return {
        "comparison": judged,
        "comparison_svg": comparison_chart(judged) if judged else None,
        "best": best_teachers(judged),
        "quantiles": QUANTILES,
        "spreads": [(name, unit, [row for row in judged if row[name]]) for name, unit in
                    (("tokens", "tokens"), ("perplexity", "perplexity"))],
        "alike": agreement_matrices(judged),
    }  # fmt: skip


def best_teachers(rows: Sequence[dict[str, Any]]) -> list[Best]:
    """One for each category with more than one judged teacher; `rows` are of `comparison`, best first."""
    found = []
    for category in dict.fromkeys(row["category"] for row in rows):
        group = [row for row in rows if row["category"] == category]
        first, rest = [row for row in group if row["rank"] == 1], [row for row in group if row["rank"] != 1]
        if len(group) > 1:
            clear = len(first) == 1 and all(row["high"] < first[0]["low"] for row in rest)
            found.append(Best(category, tuple(row["teacher"] for row in first), first[0]["pass_rate"], clear))
    return found


def agreement_matrices(rows: Sequence[dict[str, Any]]) -> list[tuple[str, list[str], dict[str, list[float | None]]]]:
    """(category, teachers, teacher → share of equal pairs of answers with each), where any two answers compare."""
    found = []
    for category in dict.fromkeys(row["category"] for row in rows):
        group = sorted((row for row in rows if row["category"] == category), key=lambda row: row["teacher"])
        names = [row["teacher"] for row in group]
        matrix = {}
        for row in group:
            equal = {one["other"]: one["equal"] for one in row["agreement"]}
            matrix[row["teacher"]] = [equal.get(name) for name in names]
        if any(value is not None for line in matrix.values() for value in line):
            found.append((category, names, matrix))
    return found


def comparison_chart(rows: Sequence[dict[str, Any]]) -> Markup:
    """Pass rate with its 95 % interval, a band for each category, a line in it for each teacher."""
    categories = list(dict.fromkeys(row["category"] for row in rows))
    teachers = sorted({row["teacher"] for row in rows})
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(teachers)}
    step = 0.8 / len(teachers)
    with Drawing("comparison", 0.75 + len(categories) * (0.16 + 0.16 * len(teachers))) as drawing:
        axes = drawing.figure.subplots()
        for row in rows:
            at = categories.index(row["category"]) + step * (teachers.index(row["teacher"]) - (len(teachers) - 1) / 2)
            colour = colours[row["teacher"]]
            axes.plot([row["low"], row["high"]], [at, at], color=colour, linewidth=1.4)
            axes.plot(row["pass_rate"], at, color=colour, marker="o", markersize=5, clip_on=False)
        axes.set_yticks(range(len(categories)), [short(name) for name in categories])
        axes.set_ylim(len(categories) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value)))
        axes.grid(axis="x")
        bare(axes)
        legend(drawing, {short(name): colour for name, colour in colours.items()})
    return drawing.svg
