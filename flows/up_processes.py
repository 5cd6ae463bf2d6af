"""The processes of `stillhouse up`: each carries a mark in its environment that says whose it is, and so does all that
it starts, down to flow runs and their servers.

So nothing needs to be written down: what is left of an `up` that was killed is found by the mark of a process that is
gone, and ended by the next one. Not covered: sandbox containers, which end with the process that opened them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil

MARK = "STILLHOUSE_UP"
SAME_S = 2.0
"""how far two readings of a process's start may differ: they are reckoned from the system's clock"""


def own_mark() -> str:
    return f"{os.getpid()}:{psutil.Process().create_time():.0f}"


def _alive(mark: str) -> bool:
    """Whether the `up` that a mark names still runs."""
    pid, _, started = mark.partition(":")
    try:
        process = psutil.Process(int(pid))
        return abs(process.create_time() - float(started)) <= SAME_S and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError):
        return False


def marked() -> Iterator[tuple[psutil.Process, str]]:
    """All processes of this user that carry a mark, but for this one."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            mark = process.environ().get(MARK)
            if mark and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                yield process, mark


def sweep(mark: str | None = None) -> int:
    """Kill what carries this mark, or without one what dead ones left; returns how many, when all are gone."""
    killed = 0
    for _ in range(10):  # one of them may be about to start another
        found = [one for one, its in marked() if (its == mark if mark else not _alive(its))]
        if not found:
            break
        for one in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(found, timeout=10)
        killed += len(found)
    return killed


class Child:
    """A process in a session of its own, so that a Ctrl-C in the terminal reaches `up` alone, with its output in a
    file."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.name, self.log = name, log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def ended(self) -> bool:
        return self.process.poll() is not None

    def send(self, sign: signal.Signals) -> None:
        if not self.ended():
            self.process.send_signal(sign)

    def wait(self, seconds: float) -> None:
        """Until it ends, or so long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def last_words(self, lines: int = 8) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])
