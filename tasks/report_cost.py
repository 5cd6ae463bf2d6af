"""The report's cost: what the teachers' tokens went into, money where the recipe names prices, seconds by step.

Everything that was ever paid for is counted, responses of earlier plans too. Not covered: what scorers, judges and
labellers cost; the seconds of commits that a newer one replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
from markupsafe import Markup

from tasks.report_data import Prices
from tasks.report_figures import FAIL, FIFTH, PASS, PENDING, Drawing, bare, count, legend, short

FATES = ("selected", "passed", "failed", "not judged")
"""of a response: in the data set; passed, but not chosen; failed; without a verdict that counts"""
COLOURS = dict(zip(FATES, (PASS, FIFTH, FAIL, PENDING), strict=True))
MOST_STEPS = 14
"""that the chart of seconds has room for, the longest; the table has all"""


@dataclass(frozen=True)
class TeacherCost:
    """What one teacher's responses took."""

    teacher: str
    responses: dict[str, int]
    """fate → answered requests"""
    tokens: dict[str, int]
    """fate → completion tokens"""
    prompt_tokens: int
    uncounted: int
    """responses whose tokens nobody counted"""
    money: float | None
    """None: the recipe names no price"""

    @property
    def total(self) -> int:
        return sum(self.tokens.values())

    @property
    def tokens_each(self) -> float | None:
        """Completion tokens of all its responses, for each that was selected."""
        return self.total / self.responses["selected"] if self.responses["selected"] else None

    @property
    def money_each(self) -> float | None:
        if self.money is None or not self.responses["selected"]:
            return None
        return self.money / self.responses["selected"]


@dataclass(frozen=True)
class StepSeconds:
    """How long the commits of a step that count now took, added up over shards."""

    step: str
    shards: int
    seconds: float

    @property
    def text(self) -> str:
        return duration(self.seconds)


def cost_facts(connection: duckdb.DuckDBPyConnection, prices: Prices) -> dict[str, Any]:
    """What the page's part on cost needs; empty where no teacher was asked and no step has run."""
    costs, seconds = teacher_costs(connection, prices), step_seconds(connection)
    return {
        "costs": costs,
        "fates": FATES,
        "costs_svg": token_chart(costs) if any(row.total for row in costs) else None,
        "money": sum(row.money for row in costs if row.money is not None),
        "priced": any(row.money is not None for row in costs),
        "seconds": seconds,
        "seconds_svg": seconds_chart(seconds) if seconds else None,
    }


def teacher_costs(connection: duckdb.DuckDBPyConnection, prices: Prices) -> list[TeacherCost]:
    """One row per teacher, by name."""
    rows = connection.execute("""
        with outcomes as (
            select response_id, passed
            from verdicts
            where verifier = 'outcome'
        ), fated as (
            select r.teacher, r.prompt_tokens, r.completion_tokens,
                case
                    when s.response_id is not null then 'selected'
                    when o.passed then 'passed'
                    when not o.passed then 'failed'
                    else 'not judged'
                end as fate
            from responses r
            left join outcomes o using (response_id)
            left join selection s using (response_id)
            where r.error_kind is null
        )
        select teacher, fate, count(*), coalesce(sum(completion_tokens), 0)::bigint,
            coalesce(sum(prompt_tokens), 0)::bigint, count(*) - count(completion_tokens)
        from fated
        group by all
        order by teacher
    """).fetchall()
    found = []
    for teacher in dict.fromkeys(row[0] for row in rows):
        own = {row[1]: row[2:] for row in rows if row[0] == teacher}
        numbers, tokens = ({fate: own[fate][place] if fate in own else 0 for fate in FATES} for place in (0, 1))
        prompt, uncounted = (sum(row[place] for row in own.values()) for place in (2, 3))
        money = None
        if teacher in prices:
            per_prompt, per_token = prices[teacher]
            money = (prompt * per_prompt + sum(tokens.values()) * per_token) / 1e6
        found.append(TeacherCost(teacher, numbers, tokens, prompt, uncounted, money))
    return found


def step_seconds(connection: duckdb.DuckDBPyConnection) -> list[StepSeconds]:
    """The longest first. A commit has a row for each of its books, and its seconds in each."""
    rows = connection.execute("""
        with commits as (
            select step, shard, any_value(seconds) as seconds
            from books
            where step <> 'report'
            group by all
        )
        select step, count(*), sum(seconds)
        from commits
        group by step
        order by sum(seconds) desc, step
    """).fetchall()
    return [StepSeconds(*row) for row in rows]


def token_chart(costs: Sequence[TeacherCost]) -> Markup:
    """A bar for each teacher: completion tokens by the fate of their responses."""
    rows = [row for row in costs if row.total]
    used = {fate: colour for fate, colour in COLOURS.items() if any(row.tokens[fate] for row in rows)}
    with Drawing("tokens", 0.6 + 0.3 * len(rows)) as drawing:
        axes = drawing.figure.subplots()
        widest = max(row.total for row in rows)
        for place, row in enumerate(rows):
            left = 0
            for fate, colour in used.items():
                axes.barh(place, row.tokens[fate], left=left, height=0.68, color=colour)
                left += row.tokens[fate]
            axes.text(left + widest * 0.01, place, count(left), va="center")
        axes.set_yticks(range(len(rows)), [short(row.teacher) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, widest * 1.14)
        axes.set_xticks([])
        bare(axes)
        legend(drawing, used)
    return drawing.svg


def seconds_chart(seconds: Sequence[StepSeconds]) -> Markup:
    """A bar for each of the MOST_STEPS longest steps."""
    rows = seconds[:MOST_STEPS]
    with Drawing("seconds", 0.2 + 0.24 * len(rows)) as drawing:
        axes = drawing.figure.subplots()
        widest = rows[0].seconds or 1.0
        for place, row in enumerate(rows):
            axes.barh(place, row.seconds, height=0.68, color=PASS)
            axes.text(row.seconds + widest * 0.01, place, row.text, va="center")
        axes.set_yticks(range(len(rows)), [short(row.step) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, widest * 1.14)
        axes.set_xticks([])
        bare(axes)
    return drawing.svg


def duration(seconds: float) -> str:
    """`< 0.1 s`, `0.3 s`, `42 s`, `3 min 20 s`, `5 h 12 min`."""
    if seconds < 0.05:
        return "< 0.1 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"
