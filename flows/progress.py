"""Progress for whoever watches: bars in the terminal, a panel of the teachers that are being asked, artifacts in
Prefect's UI; plain lines where there is no terminal.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from types import TracebackType
from typing import Self, cast
from uuid import UUID

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from flows.printable import printable
from tasks.step import Progress as Reporter
from tasks.step import Quiet
from tasks.tally import ShowsTally, Tally

LINE_EVERY_S = 15.0
ARTIFACT_EVERY_S = 5.0
LONG = ("generate", "score", "verify", "train", "evaluate")
"""stages whose steps, `<stage>.<name>`, have a progress artifact"""
RATE_OVER_S = 60.0
"""Tokens per second and the time that is left are reckoned over so long."""


class Rates:
    """How fast a teacher answers, over the last minute."""

    def __init__(self, tally: Tally, clock: Callable[[], float] = time.monotonic) -> None:
        self.tally, self._clock = tally, clock
        self._seen: deque[tuple[float, int, int]] = deque([(clock(), 0, 0)])
        """(when, replies, tokens)"""

    def look(self) -> tuple[float | None, float | None]:
        """Tokens per second, and seconds to the last reply; None before there is anything to tell."""
        now, tally = self._clock(), self.tally
        replies = tally.done + tally.failed
        if now - self._seen[-1][0] >= RATE_OVER_S / 60:
            self._seen.append((now, replies, tally.tokens))
        while len(self._seen) > 2 and now - self._seen[0][0] > RATE_OVER_S:
            self._seen.popleft()
        then, before, tokens = self._seen[0]
        if now <= then or replies <= before:
            return None, None
        return (tally.tokens - tokens) / (now - then), tally.left * (now - then) / (replies - before)


class Bars:
    """Implements tasks.step.Progress and tasks.tally.ShowsTally; a bar appears with a step's first expected unit."""

    def __init__(self, console: Console) -> None:
        self._lock = threading.Lock()
        self._ids: dict[str, TaskID] = {}
        self._totals: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._said: dict[str, float] = {}
        self._rates: dict[str, Rates] = {}
        self._console = console
        self._bars = Progress(
            SpinnerColumn(), TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TimeRemainingColumn(), console=console, auto_refresh=False,
        )  # fmt: skip
        self._live = Live(console=console, get_renderable=self.panel, refresh_per_second=4)

    def expect(self, step: str, units: int) -> None:
        with self._lock:
            if step not in self._ids:
                self._ids[step] = self._bars.add_task(step, total=0)
                self._said[step] = time.monotonic()
            self._totals[step] = self._totals.get(step, 0) + units
            self._bars.update(self._ids[step], total=self._totals[step])

    def advance(self, step: str, units: int = 1) -> None:
        with self._lock:
            self._done[step] = self._done.get(step, 0) + units
            if step in self._ids:
                self._bars.advance(self._ids[step], units)
            if not self._console.is_terminal and time.monotonic() - self._said.get(step, 0) > LINE_EVERY_S:
                self._said[step] = time.monotonic()
                self._console.print(self._line(step), highlight=False)

    def tally(self, step: str, tally: Tally) -> None:
        with self._lock:
            self._rates[step] = Rates(tally)

    def _line(self, step: str) -> str:
        line = f"{step}: {self._done[step]:,} of {self._totals.get(step, 0):,}"
        if step in self._rates:
            cells = zip(TITLES[1:], teacher_row(step, self._rates[step])[1:], strict=True)
            line += "; " + ", ".join(f"{title} {cell}" for title, cell in cells if cell != NOTHING)
        return line

    def panel(self) -> Group:
        """The bars, and below them a row for each teacher that was asked in this run."""
        with self._lock:
            return Group(self._bars, *([teachers_table(self._rates)] if self._rates else []))

    def say(self, text: str) -> None:
        self._console.print(printable(text), highlight=False, markup=False)

    def __enter__(self) -> Self:
        global _current
        if self._console.is_terminal:
            self._live.start()
        _current = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _current
        _current = Quiet()
        self._live.stop()


TITLES = ("teacher", "done", "in flight", "failed", "skipped", "tokens/s", "pass rate so far", "cost so far", "left")
NOTHING = "–"


def teachers_table(rates: dict[str, Rates]) -> Table:
    table = Table(box=None, padding=(0, 2))
    for title in TITLES:
        table.add_column(title, justify="left" if title == "teacher" else "right")
    for step, one in rates.items():
        table.add_row(*teacher_row(step, one))
    return table


def teacher_row(step: str, rates: Rates) -> list[str]:
    """The cells of `TITLES`."""
    tally = rates.tally
    speed, left = rates.look()
    return [
        step.removeprefix("generate."),
        f"{tally.done:,}",
        f"{tally.in_flight:,}",
        f"{tally.failed:,}",
        f"{tally.skipped:,}",
        NOTHING if speed is None else f"{speed:,.0f}",
        f"{tally.passed / tally.judged:.1%}" if tally.judged else NOTHING,
        NOTHING if tally.cost is None else f"{tally.cost:,.2f}",
        duration(left) if left is not None and tally.left and tally.in_flight else NOTHING,
    ]


def duration(seconds: float) -> str:
    """`2:05:09`, or `3 d 04:00` from a day on."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, of_day = divmod(hours, 24)
    return f"{days} d {of_day:02}:{minutes:02}" if days else f"{hours}:{minutes:02}:{rest:02}"


def artifact_key(name: str) -> str:
    """A recipe's or step's name as Prefect takes keys: small letters, digits and hyphens."""
    return "".join(char if char.isascii() and char.isalnum() else "-" for char in name.lower())


class Artifacts:
    """A progress artifact in Prefect's UI for each step that takes long, beside what `inner` shows. Written by a thread
    of its own, every few seconds if something moved: a slow server holds nothing up. Needs a running flow."""

    def __init__(self, inner: Reporter, key: str) -> None:
        self._inner, self._key = inner, key
        self._lock = threading.Lock()
        self._expected: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._rates: dict[str, Rates] = {}
        self._ids: dict[str, UUID] = {}
        self._written: dict[str, tuple[float, str]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name="artifacts", daemon=True)

    def expect(self, step: str, units: int) -> None:
        self._inner.expect(step, units)
        with self._lock:
            self._expected[step] = self._expected.get(step, 0) + units

    def advance(self, step: str, units: int = 1) -> None:
        self._inner.advance(step, units)
        with self._lock:
            self._done[step] = self._done.get(step, 0) + units

    def tally(self, step: str, tally: Tally) -> None:
        if isinstance(self._inner, ShowsTally):
            self._inner.tally(step, tally)
        with self._lock:
            self._rates[step] = Rates(tally)

    def _run(self) -> None:
        while not self._ended.wait(ARTIFACT_EVERY_S):
            self._write()

    def _write(self) -> None:
        with self._lock:
            steps = [step for step in self._expected if step.partition(".")[0] in LONG]
            now = {step: self._state(step) for step in steps}
        for step, state in now.items():
            if self._written.get(step) != state:
                self._publish(step, *state)
                self._written[step] = state

    def _state(self, step: str) -> tuple[float, str]:
        """Percent, and the description."""
        expected, done = self._expected[step], self._done.get(step, 0)
        if step not in self._rates:  # not asked, or asked by workers elsewhere
            unit = " requests" if step.startswith("generate.") else ""
            return round(100 * done / expected, 1) if expected else 0.0, f"{step}: {done:,} of {expected:,}{unit}"
        tally = self._rates[step].tally
        whole = tally.expected or expected
        cells = zip(TITLES, teacher_row(step, self._rates[step]), strict=True)
        return (round(min(100.0, 100 * (whole - tally.left) / whole), 1) if whole else 0.0,
                ", ".join(f"{title} {cell}" for title, cell in cells if cell != NOTHING))  # fmt: skip

    def _publish(self, step: str, percent: float, text: str) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        try:
            if step not in self._ids:
                made = create_progress_artifact(percent, f"{self._key}-{artifact_key(step)}", text)
                self._ids[step] = cast(UUID, made)  # a coroutine only where an event loop runs
            else:
                update_progress_artifact(self._ids[step], percent, text)
        except Exception as fault:  # noqa: BLE001  the UI's picture is no reason to end a run
            say(f"Prefect's progress artifact of {step}: {fault}")
            self._ended.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        already = self._ended.is_set()
        self._ended.set()
        self._thread.join()
        if not already:
            self._write()


_current: Reporter = Quiet()


def progress() -> Reporter:
    """What this process shows progress with: bars when the command line opened them, else nothing."""
    return _current


def say(text: str) -> None:
    """A line for whoever watches the bars; nothing where nobody does."""
    if isinstance(_current, Bars):
        _current.say(text)
