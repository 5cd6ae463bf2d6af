"""Progress bars in the terminal, one a step; plain lines where there is no terminal."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console
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

from tasks.step import Progress as Reporter
from tasks.step import Quiet

LINE_EVERY_S = 15.0


class Bars:
    """Implements tasks.step.Progress; a bar appears with a step's first expected unit."""

    def __init__(self, console: Console) -> None:
        self._lock = threading.Lock()
        self._ids: dict[str, TaskID] = {}
        self._totals: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._said: dict[str, float] = {}
        self._console = console
        self._bars = Progress(
            SpinnerColumn(), TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal,
        )  # fmt: skip

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
                self._console.print(f"{step}: {self._done[step]:,} of {self._totals.get(step, 0):,}", highlight=False)

    def __enter__(self) -> Self:
        global _current
        self._bars.start()
        _current = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _current
        _current = Quiet()
        self._bars.stop()


_current: Reporter = Quiet()


def progress() -> Reporter:
    """What this process shows progress with: bars when the command line opened them, else nothing."""
    return _current
