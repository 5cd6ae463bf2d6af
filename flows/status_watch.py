"""`stillhouse status --watch`: how far a run is that goes on elsewhere, in another terminal or at a worker.

It reads the manifest and the logs of unfinished shards alone, and computes no fingerprint: what a run would redo, and
why, is told by `status` without --watch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from flows.run import Plan
from flows.status import StepStatus, step_status

EVERY_S = 3.0
NOTHING = "–"


@dataclass
class Watched:
    """The steps of a recipe, and how many of their units there were when one last looked."""

    plan: Plan
    clock: Callable[[], float] = time.monotonic
    _before: dict[str, tuple[float, int]] = field(default_factory=dict)

    def table(self) -> Table:
        """One row per step: shards, units that came out, pending, answered and not committed, units a second."""
        table = Table(title=escape(str(self.plan.workspace.root)), title_justify="left")
        for name in ("step", "shards", "out", "dropped", "pending", "not committed", "units/s"):
            table.add_column(name, justify="left" if name == "step" else "right")
        for step in self.plan.steps:
            status = step_status(self.plan.workspace, step.key, step.shards(self.plan.workspace))
            out = sum(counts["out"] for counts in status.units.values())
            table.add_row(
                step.key, f"{status.shards_done}/{status.shards}", f"{out:,}", f"{status.dropped.total():,}",
                f"{status.pending:,}", f"{status.unfinished:,}" if status.unfinished else NOTHING,
                self._rate(status, out + status.dropped.total()),
                style="dim" if not status.shards_done and not status.unfinished else None,
            )  # fmt: skip
        return table

    def _rate(self, status: StepStatus, committed: int) -> str:
        """Units that came since the last look, a second."""
        now, units = self.clock(), committed + status.unfinished
        then, before = self._before.get(status.step, (now, units))
        self._before[status.step] = now, units
        return f"{(units - before) / (now - then):,.1f}" if now > then and units > before else NOTHING


def watch(plan: Plan, console: Console) -> None:
    """Show the table until Ctrl-C, and every few seconds anew."""
    watched = Watched(plan)
    with suppress(KeyboardInterrupt), Live(watched.table(), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(EVERY_S)
            live.update(watched.table(), refresh=True)
