"""How the teachers' responses and the questions spread: pass rates by category, CV, length by status, perplexity.

Each number comes from one aggregate query; nothing here holds a row per response. Reads the temporary table `lengths`
of tasks/report_data.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
from markupsafe import Markup

from storage.schemas import STATUSES
from tasks.report_data import BAND, RATE_BANDS, Counts, counted_quantiles
from tasks.report_figures import BY_STATUS, FAIL, PASS, PENDING, Box, Drawing, box_chart, percent, short

CV_BANDS = ("0", "0–0.5", "0.5–1", "1–1.5", "1.5–2", "2–3", "over 3", "no CV")
"""Upper ends belong to their band; no CV: no sample passed at all, or fewer than two were judged."""
MOST_COLUMNS = 4
"""Teachers that the grid of histograms has room for; the table behind it has all."""


@dataclass(frozen=True)
class StatusLength:
    """Quantiles of the lengths of all responses with one status, in one unit."""

    status: str
    unit: str
    responses: int
    quantiles: tuple[float, ...]
    """at SHARES of tasks/report_data.py"""


@dataclass(frozen=True)
class PerplexityRow:
    """Quantiles of the perplexity that one scorer gives one teacher's passed or failed responses."""

    scorer: str
    """its name in the recipe, or `the teacher itself`"""
    teacher: str
    passed: bool
    responses: int
    quantiles: tuple[float, ...]


def spread_facts(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """What the page's charts of spread need; all empty where nothing was graded, judged or scored."""
    rates, cvs = category_rates(connection), cv_bands(connection)
    lengths, perplexities = status_lengths(connection), perplexity_rows(connection)
    return {
        "category_rates": rates,
        "category_rates_svg": category_rate_chart(rates) if len(rates) > 1 else None,
        "cvs": cvs,
        "cv_bands": CV_BANDS,
        "cvs_svg": cv_chart(cvs) if cvs else None,
        "status_lengths": lengths,
        "status_lengths_svg": status_length_chart(lengths) if lengths else None,
        "perplexities": perplexities,
        "perplexities_svg": perplexity_chart(perplexities) if perplexities else None,
    }


def category_rates(connection: duckdb.DuckDBPyConnection) -> dict[str, Counts]:
    """category → teacher → band of RATE_BANDS → questions; `all teachers` comes first where there are several."""
    rows = connection.execute(f"""
        with each as (
            select category, unnest(teachers, recursive := true)
            from grades
        ), rated as (
            select category, 1 as rank, teacher, passes / n as rate from each where n > 0
            union all
            select category, 0, 'all teachers', passes / n from grades where n > 0
        )
        select category, teacher, {BAND}, count(*)
        from rated
        group by 1, rank, 2, 3
        order by 1, rank, 2, 3
    """).fetchall()
    found: dict[str, Counts] = {}
    for category, teacher, band, number in rows:
        found.setdefault(category, {}).setdefault(teacher, {})[RATE_BANDS[band]] = number
    for counts in found.values():
        if len(counts) == 2:  # one teacher: it is all teachers
            del counts["all teachers"]
    return found


def cv_bands(connection: duckdb.DuckDBPyConnection) -> Counts:
    """category → band of CV_BANDS → questions."""
    rows = connection.execute("""
        select category,
            case
                when cv is null then 7
                when cv = 0 then 0
                when cv <= 2 then ceil(cv * 2)
                when cv <= 3 then 5
                else 6
            end::int as band,
            count(*)
        from grades
        group by all
        order by category, band
    """).fetchall()
    found: Counts = {}
    for category, band, number in rows:
        found.setdefault(category, {})[CV_BANDS[band]] = number
    return found


def status_lengths(connection: duckdb.DuckDBPyConnection) -> list[StatusLength]:
    """Lengths by the outcome's status over all teachers, in the order of STATUSES; unknown lengths are left out."""
    counts = connection.execute("""
        select status, if(counts_tokens, 'tokens', 'characters') as unit, length, sum(responses)::bigint
        from lengths
        where length is not null
        group by all
        order by status, unit, length
    """).fetchall()
    groups = counted_quantiles(((status, unit), length, number) for status, unit, length, number in counts)
    rows = [StatusLength(status, unit, total, quantiles) for (status, unit), total, quantiles in groups]
    return sorted(rows, key=lambda row: (STATUSES.index(row.status), row.unit))


def perplexity_rows(connection: duckdb.DuckDBPyConnection) -> list[PerplexityRow]:
    """By scorer, teacher and outcome; the teacher's own is exp(−mean_logprob) where it gave log-probabilities.

    To hundredths, above 100 to a percent, so that the counts that come out of the query stay few.
    """
    counts = connection.execute("""
        with measured as (
            select response_id, teacher, 'the teacher itself' as scorer, exp(-mean_logprob) as perplexity
            from responses
            where mean_logprob is not null and mean_logprob > -700
            union all
            select response_id, teacher, scorer, perplexity
            from scores
            where perplexity is not null
        ), outcomes as (
            select response_id, passed
            from verdicts
            where verifier = 'outcome' and passed is not null
        )
        select scorer, teacher, passed,
            if(perplexity < 100, round(perplexity, 2), exp(round(ln(perplexity), 2))) as rounded, count(*)
        from measured
        join outcomes using (response_id)
        where isfinite(perplexity)
        group by all
        order by scorer, teacher, passed desc, rounded
    """).fetchall()
    groups = counted_quantiles(((scorer, teacher, passed), value, number)
                               for scorer, teacher, passed, value, number in counts)  # fmt: skip
    return [PerplexityRow(key[0], key[1], key[2], total, quantiles) for key, total, quantiles in groups]


def category_rate_chart(rates: dict[str, Counts]) -> Markup:
    """A grid of small histograms: a line for each category, a column for each of the first MOST_COLUMNS teachers."""
    everybody = {teacher for counts in rates.values() for teacher in counts}
    names = sorted(everybody, key=lambda name: (name != "all teachers", name))[:MOST_COLUMNS]
    with Drawing("category-rates", 0.45 + 0.95 * len(rates)) as drawing:
        grid = drawing.figure.subplots(len(rates), len(names), squeeze=False, sharey=True, sharex=True)
        for line, (axes_of_line, (category, counts)) in enumerate(zip(grid, rates.items(), strict=True)):
            for axes, name in zip(axes_of_line, names, strict=True):
                _histogram(axes, counts.get(name, {}), RATE_BANDS)
                axes.set_xticks(range(len(RATE_BANDS)), ["0", "", "", "", "", "100"])
                if line == 0:
                    axes.set_title(short(name, 22))
            axes_of_line[0].set_ylabel(category)
        drawing.figure.supxlabel("pass rate, %", fontsize=9)
    return drawing.svg


def cv_chart(cvs: Counts) -> Markup:
    """A histogram for each category: share of its questions by CV."""
    columns = min(3, len(cvs))
    lines = -(-len(cvs) // columns)
    with Drawing("cv", 0.35 + 1.5 * lines) as drawing:
        grid = drawing.figure.subplots(lines, columns, squeeze=False, sharey=True, sharex=True)
        for axes in grid.flat[len(cvs) :]:
            axes.set_axis_off()
        ticks = ["0", "0.5", "1", "1.5", "2", "3", "more", "none"]
        for axes, (category, counts) in zip(grid.flat, cvs.items(), strict=False):
            _histogram(axes, counts, CV_BANDS, {"no CV": PENDING})
            axes.set_title(category)
            axes.set_xticks(range(len(CV_BANDS)), ticks, fontsize=7.5)
            axes.tick_params(labelbottom=True)
        drawing.figure.supxlabel("CV of a question’s scores, up to", fontsize=9)
    return drawing.svg


def _histogram(axes: Any, counts: dict[str, int], bands: Sequence[str], colours: dict[str, str] | None = None) -> None:
    total = sum(counts.values())
    for place, band in enumerate(bands):
        share = counts.get(band, 0) / total if total else 0
        axes.bar(place, share, width=0.82, color=(colours or {}).get(band, PASS))
        if share >= 0.005:
            axes.text(place, share, percent(share), ha="center", va="bottom", fontsize=7)
    axes.set_xlim(-0.6, len(bands) - 0.4)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.margins(y=0.22)
    axes.tick_params(length=0)


def status_length_chart(rows: Sequence[StatusLength]) -> Markup:
    """The middle half and the middle 90 % of the lengths, a bar for each status; a panel for each unit."""
    panels: dict[str, list[Box]] = {}
    for row in sorted(rows, key=lambda row: row.unit, reverse=True):
        colour = BY_STATUS.get(row.status, PENDING)
        panels.setdefault(row.unit, []).append(Box(row.status.replace("_", " "), row.quantiles, colour))
    return box_chart("status-lengths", panels, {})


def perplexity_chart(rows: Sequence[PerplexityRow]) -> Markup:
    """The middle half and the middle 90 %, passed above failed; a panel for each scorer."""
    panels: dict[str, list[Box]] = {}
    for row in rows:
        group = panels.setdefault(f"perplexity by {row.scorer}", [])
        first = not group or rows[rows.index(row) - 1].teacher != row.teacher
        group.append(Box(short(row.teacher) if first else "", row.quantiles, PASS if row.passed else FAIL))
    return box_chart("perplexity", panels, {"passed": PASS, "failed": FAIL}, whole=False)
