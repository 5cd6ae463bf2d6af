"""Ending ranges that run in threads: nothing can interrupt a thread, so its own report of progress does.

A cancelled flow run gets SIGTERM, which Prefect raises in the main thread; the threads of the task runner would go on
asking and judging until they are through, or until the worker's SIGKILL 30 s later. With this they end at the next
reply or verdict, and close what they opened: servers, containers, processes. Not covered: a thread that waits for one
long answer; that one ends with the process.
"""

from __future__ import annotations

import threading

from tasks.step import Progress
from tasks.tally import ShowsTally, Tally


class Stopped(Exception):
    """The run was cancelled; what was answered and judged is kept, and the next run goes on from there."""


class Stoppable:
    """Progress that raises Stopped in whoever reports to it, once `stop` was called."""

    def __init__(self, inner: Progress) -> None:
        self._inner = inner
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def expect(self, step: str, units: int) -> None:
        self._check(step)
        self._inner.expect(step, units)

    def advance(self, step: str, units: int = 1) -> None:
        self._check(step)
        self._inner.advance(step, units)

    def tally(self, step: str, tally: Tally) -> None:
        if isinstance(self._inner, ShowsTally):
            self._inner.tally(step, tally)

    def _check(self, step: str) -> None:
        if self._stopped.is_set():
            raise Stopped(f"{step}: the run was cancelled; the next one goes on from here")
