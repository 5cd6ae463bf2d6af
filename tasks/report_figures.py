"""The report's charts: matplotlib drawings as SVG text that sits inside the page.

Colours are names of the page's style sheet (`var(--pass)`), so that one drawing serves light, dark and paper;
text takes the colour of the text around it. The same numbers give the same bytes.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from storage.schemas import STATUSES
from tasks.report_data import DIFFICULTIES, RATE_BANDS, Counts, FunnelRow, LengthRow

WIDTH = 7.4
"""inches; the page shows an inch as about 100 pixels"""
INK, FAINT = "#010101", "#020202"
# What matplotlib draws with → what the page shows. The left side only has to be unlike any other.
COLOURS = {
    INK: "currentColor",
    FAINT: "var(--rule)",
    "#030303": "var(--pass)",
    "#040404": "var(--fail)",
    "#050505": "var(--pending)",
    "#060606": "var(--easy)",
    "#070707": "var(--medium)",
    "#080808": "var(--hard)",
    "#090909": "var(--unsolved)",
    "#0a0a0a": "var(--third)",
    "#0b0b0b": "var(--fourth)",
    "#0c0c0c": "var(--fifth)",
}
PASS, FAIL, PENDING, EASY, MEDIUM, HARD, UNSOLVED, THIRD, FOURTH, FIFTH = list(COLOURS)[2:]
BY_DIFFICULTY = dict(zip(DIFFICULTIES, (EASY, MEDIUM, HARD, UNSOLVED, PENDING), strict=True))
BY_STATUS = {
    "accepted": PASS,
    "wrong_answer": FAIL,
    "no_answer": THIRD,
    "wrong_format": FOURTH,
    "runtime_error": FIFTH,
}
OTHER_STATUS = "other"

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "stillhouse",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": ["sans-serif"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.handlelength": 1.0,
    "legend.handleheight": 1.0,
    "legend.borderaxespad": 0.0,
    "legend.columnspacing": 1.4,
}
_style_lock = threading.Lock()  # matplotlib's settings belong to the process


class Drawing:
    """A figure that is being drawn: `with Drawing("funnel", height) as drawing`, then `drawing.svg`."""

    def __init__(self, name: str, height: float) -> None:
        self._name = name
        self._height = height
        self.svg = Markup()

    def __enter__(self) -> Drawing:
        _style_lock.acquire()
        self._context = matplotlib.rc_context(STYLE)
        self._context.__enter__()
        self.figure = Figure(figsize=(WIDTH, self._height), layout="constrained")
        FigureCanvasSVG(self.figure)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.svg = _embeddable(_render(self.figure), self._name)
        finally:
            self._context.__exit__(None, None, None)
            _style_lock.release()


def _render(figure: Figure) -> str:
    target = io.StringIO()
    figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
    return target.getvalue()


def _embeddable(svg: str, name: str) -> Markup:
    """The <svg> element alone: no metadata, no style sheet, ids of its own, the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    for sentinel, colour in COLOURS.items():
        svg = svg.replace(sentinel, colour)
    return Markup(svg)  # matplotlib escapes the text that it draws


def short(text: str, most: int = 26) -> str:
    """A name that fits beside a chart."""
    return text if len(text) <= most else text[: most - 1] + "…"


def count(number: float) -> str:
    return f"{number:,.0f}"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def bare(axes: Axes) -> None:
    """Only names on the left: no frame, no ticks."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def legend(drawing: Drawing, colours: dict[str, str]) -> None:
    handles = [Patch(facecolor=colour, label=name) for name, colour in colours.items()]
    drawing.figure.legend(handles=handles, loc="outside upper left", ncols=7)


FUNNEL_PANELS = {"questions": ("record", "question"), "responses": ("request", "response", "example")}


def funnel_chart(rows: Sequence[FunnelRow]) -> Markup:
    """Two panels, questions and responses, a bar per stage: what went on, was dropped, is pending."""
    panels = {title: found for title, units in FUNNEL_PANELS.items() if (found := _stages(rows, units))}
    heights = [len(stages) for stages in panels.values()]
    if not heights:
        return Markup()
    with Drawing("funnel", 0.45 + 0.5 * len(heights) + 0.23 * sum(heights)) as drawing:
        grid = drawing.figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (title, stages) in zip(grid, panels.items(), strict=True):
            widest = max(total for _, total, *_ in stages) or 1
            for place, (_, total, out, dropped, waiting) in enumerate(stages):
                left = 0
                for number, colour in ((out, PASS), (dropped, FAIL), (waiting, PENDING)):
                    axes.barh(place, number, left=left, height=0.68, color=colour)
                    left += number
                axes.text(total + widest * 0.01, place, count(out), va="center")
            axes.set_yticks(range(len(stages)), [stage for stage, *_ in stages])
            axes.set_xlim(0, widest * 1.12)
            axes.set_ylim(len(stages) - 0.5, -0.5)
            axes.set_xticks([])
            axes.set_title(title, fontweight="bold")
            bare(axes)
        pending = {"pending": PENDING} if any(row[-1] for stages in panels.values() for row in stages) else {}
        legend(drawing, {"went on": PASS, "dropped": FAIL} | pending)
    return drawing.svg


def _stages(rows: Sequence[FunnelRow], units: Sequence[str]) -> list[tuple[str, int, int, int, int]]:
    """(stage, in, out, dropped, pending), teachers added up, without what is no part of the narrowing."""
    found: dict[str, list[int]] = {}
    for row in rows:
        stage = row.step.split(".")[0]
        if row.unit not in units or stage == "evaluate" or (row.unit == "record" and stage != "ingest"):
            continue
        numbers = (row.units_in, row.units_out, row.booked_drops, row.pending)
        so_far = found.get(stage, [0] * 4)
        found[stage] = [before + more for before, more in zip(so_far, numbers, strict=True)]
    return [(stage, *numbers) for stage, numbers in found.items()]  # type: ignore[misc]


def pass_rate_chart(rates: Counts) -> Markup:
    """A small histogram per teacher: share of its questions by pass rate."""
    columns = min(3, len(rates))
    lines = -(-len(rates) // columns)
    with Drawing("rates", 0.35 + 1.45 * lines) as drawing:
        grid = drawing.figure.subplots(lines, columns, squeeze=False, sharey=True, sharex=True)
        for axes in grid.flat[len(rates) :]:
            axes.set_axis_off()
        for axes, (teacher, bands) in zip(grid.flat, rates.items(), strict=False):
            total = sum(bands.values())
            shares = [bands.get(band, 0) / total for band in RATE_BANDS]
            axes.bar(range(len(shares)), shares, width=0.82, color=PASS)
            for place, share in enumerate(shares):
                if share:
                    axes.text(place, share, percent(share), ha="center", va="bottom", fontsize=7.5)
            axes.set_title(short(teacher))
            axes.set_xticks(range(len(RATE_BANDS)), ["0", "", "", "", "", "100"])
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.margins(y=0.16)
            axes.tick_params(length=0, labelbottom=True)
        drawing.figure.supxlabel("pass rate, %", fontsize=9)
    return drawing.svg


def difficulty_chart(difficulties: Counts) -> Markup:
    return _shares("difficulty", difficulties, BY_DIFFICULTY)


def status_chart(statuses: Counts) -> Markup:
    """Shares of the verdicts' statuses; those without a colour of their own are drawn as `other`."""
    merged: Counts = {}
    for teacher, counts in statuses.items():
        row = merged.setdefault(teacher, {})
        for status in STATUSES:
            name = status if status in BY_STATUS else OTHER_STATUS
            row[name] = row.get(name, 0) + counts.get(status, 0)
    return _shares("statuses", merged, BY_STATUS | {OTHER_STATUS: PENDING})


def _shares(name: str, counts: Counts, colours: dict[str, str]) -> Markup:
    """One bar of 100 % per row, divided by colour."""
    used = {key: colour for key, colour in colours.items() if any(row.get(key) for row in counts.values())}
    with Drawing(name, 0.5 + 0.3 * len(counts)) as drawing:
        axes = drawing.figure.subplots()
        for place, row in enumerate(counts.values()):
            total, left = sum(row.values()), 0.0
            for key, colour in used.items():
                share = row.get(key, 0) / total
                axes.barh(place, share, left=left, height=0.68, color=colour, edgecolor="none")
                left += share
        axes.set_yticks(range(len(counts)), [short(row) for row in counts])
        axes.set_ylim(len(counts) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value)))
        bare(axes)
        legend(drawing, {key.replace("_", " "): colour for key, colour in used.items()})
    return drawing.svg


@dataclass(frozen=True)
class Box:
    """One line of a box chart: quantiles at 5, 25, 50, 75 and 95 %."""

    label: str
    quantiles: Sequence[float]
    colour: str


def length_chart(rows: Sequence[LengthRow]) -> Markup:
    """The middle half and the middle 90 % of the lengths, passed above failed; a panel per unit."""
    panels: dict[str, list[Box]] = {}
    before = ("", "")
    for row in sorted(rows, key=lambda row: row.unit, reverse=True):
        label = short(row.teacher) if before != (row.unit, row.teacher) else ""
        before = (row.unit, row.teacher)
        quantiles = (row.p5, row.p25, row.p50, row.p75, row.p95)
        panels.setdefault(row.unit, []).append(Box(label, quantiles, PASS if row.passed else FAIL))
    return box_chart("lengths", panels, {"passed": PASS, "failed": FAIL})


def box_chart(name: str, panels: dict[str, list[Box]], colours: dict[str, str], *, whole: bool = True) -> Markup:
    """Median, middle half (bar) and middle 90 % (line) of each box; a panel for each name, which stands below it.

    `colours` is the legend; `whole`: the values are whole numbers from 0 on, else they start where they start.
    """
    heights = [len(group) for group in panels.values()]
    with Drawing(name, (0.4 if colours else 0.1) + 0.5 * len(panels) + 0.24 * sum(heights)) as drawing:
        grid = drawing.figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (title, group) in zip(grid, panels.items(), strict=True):
            for place, box in enumerate(group):
                p5, p25, p50, p75, p95 = box.quantiles
                axes.plot([p5, p95], [place, place], color=box.colour, linewidth=1.2)
                axes.barh(place, p75 - p25, left=p25, height=0.6, color=box.colour)
                axes.plot([p50, p50], [place - 0.3, place + 0.3], color=INK, linewidth=1.6)
            axes.set_yticks(range(len(group)), [box.label for box in group])
            axes.set_ylim(len(group) - 0.5, -0.5)
            if whole:
                axes.set_xlim(left=0)
                axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
            axes.grid(axis="x")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=whole))
            axes.set_xlabel(title)
            bare(axes)
        if colours:
            legend(drawing, colours)
    return drawing.svg


def loss_chart(curve: Sequence[tuple[int, float]], name: str = "loss") -> Markup:
    """(step, loss) of one stage; `name` keeps the ids of several drawings on a page apart."""
    with Drawing(name, 2.3) as drawing:
        axes = drawing.figure.subplots()
        steps, losses = [step for step, _ in curve], [loss for _, loss in curve]
        marker = "o" if len(curve) <= 40 else ""
        axes.plot(steps, losses, color=PASS, linewidth=1.6, marker=marker, markersize=3)
        if all(loss >= 0 for loss in losses):  # REDI's can be less than 0
            axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss, nats per token")
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
    return drawing.svg


def accuracy_chart(rows: Sequence[tuple[str, dict[str, float], dict[str, float]]]) -> Markup:
    """Accuracy before and after with its 95 % interval, for (group, before, after)."""
    with Drawing("accuracy", 0.75 + 0.36 * len(rows)) as drawing:
        axes = drawing.figure.subplots()
        for place, (_, before, after) in enumerate(rows):
            for side, offset, colour in ((before, -0.16, PENDING), (after, 0.16, PASS)):
                if "accuracy" not in side:
                    continue
                at = place + offset
                axes.plot([side["low"], side["high"]], [at, at], color=colour, linewidth=1.4)
                axes.plot(side["accuracy"], at, color=colour, marker="o", markersize=5, clip_on=False)
        axes.set_yticks(range(len(rows)), [short(name) for name, *_ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value)))
        axes.grid(axis="x")
        bare(axes)
        legend(drawing, {"before": PENDING, "after": PASS})
    return drawing.svg


def watch_chart(rows: Sequence[dict[str, Any]]) -> Markup:
    """Likelihood of held-out teacher text above verified accuracy, point by point of the training."""
    with Drawing("watch", 3.4) as drawing:
        above, below = drawing.figure.subplots(2, 1, sharex=True)
        places = [place for place, row in enumerate(rows) if row["mean_logprob"] is not None]
        above.plot(places, [rows[place]["mean_logprob"] for place in places], color=PENDING, marker="o", markersize=4)
        above.set_ylabel("nats a token")
        above.set_title("log-probability of held-out teacher text")
        judged = [place for place, row in enumerate(rows) if row["accuracy"] is not None]
        below.plot(judged, [rows[place]["accuracy"] for place in judged], color=PASS, marker="o", markersize=4)
        for place in judged:
            below.plot([place, place], [rows[place]["low"], rows[place]["high"]], color=PASS, linewidth=1.2)
        below.set_title("verified accuracy on held-out questions")
        below.set_ylim(0, 1)
        below.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value)))
        below.set_xticks(range(len(rows)), [short(row["point"]) for row in rows])
        for axes in (above, below):
            axes.grid(axis="y")
            axes.tick_params(length=0)
    return drawing.svg
