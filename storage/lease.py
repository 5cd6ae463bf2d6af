"""Leases: who works on which range of shards, so that two workers don't pay for the same responses.

`leases/<step>/<range>/<term>.json` in the workspace. To take a range is to create the file of its next term,
create-only as a commit is (law 2): of two takers one wins. Only the holder rewrites its own term's file, to renew it;
the highest term is the truth, so a holder that froze and wakes up finds a higher one and knows that it has lost.

No clocks are compared: a renewed lease has a higher `beat`, and whoever waits for one measures by its own clock how
long the beat has stood still. `renewed` is for people.

Covered: any number of takers on one machine, a shared folder or an object store. Not covered: what a holder that lost
its lease, and does not know it yet, still does; its commits lose by law 2, what it asks for until its next beat is paid
for twice.
Readers of an NFS see a beat as late as their attribute cache lets them (60 s by default): a lease should be longer.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from storage.errors import StorageError, StoreFailed
from storage.files import create_file, names, read_file, remove_files, replace_file


class LeaseTaken(StorageError):
    """Another one has taken the range since; nothing is damaged."""


class LeaseLost(StorageError):
    """The range was given to another one, or this process could not renew its lease; what it asked for is logged."""


@dataclass(frozen=True)
class Term:
    """One term of the lease of one range, as its file says."""

    range: str
    term: int
    """1, 2, …: how many times the range was taken"""
    holder: str
    """host:process"""
    run: str
    """the flow run that holds it"""
    state: Literal["held", "done", "failed", "revoked"] = "held"
    beat: int = 0
    """how often it was renewed"""
    expected: int = 0
    """requests of the range that the holder has begun with"""
    answered: int = 0
    """those of them that have a reply"""
    reason: str = ""
    """why it ended, where it failed or was revoked"""
    allotment: dict[str, Any] | None = None
    """what the range may cost, where it is under a budget"""
    renewed: str = ""


def holder_here() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


class Leases:
    """The leases of one step."""

    def __init__(self, root: Path, step: str) -> None:
        """`root` is the workspace's."""
        self._folder = root / "leases" / step

    def newest(self, name: str) -> Term | None:
        """The newest term of a range; None if nobody has ever taken it."""
        number = max(self._terms(name), default=0)
        if not number:
            return None
        path = self._path(name, number)
        try:
            return Term(**json.loads(read_file(path).decode("utf-8")))
        except StoreFailed:
            raise
        except (OSError, ValueError, TypeError) as fault:
            raise StorageError(f"{path}: the lease can't be read ({fault}); when no worker runs, remove it") from fault

    def names(self) -> list[str]:
        """All ranges that were ever taken."""
        return names(self._folder)

    def take(self, name: str, after: int, run: str, *, revoke: str = "",
             allotment: dict[str, Any] | None = None) -> Lease:  # fmt: skip
        """Take the term that follows `after`, or raise LeaseTaken. With `revoke`, a reason, nobody is to work on the
        range in that term: so it is taken from its holder."""
        term = Term(name, after + 1, holder_here(), run, "revoked" if revoke else "held", reason=revoke,
                    allotment=allotment)  # fmt: skip
        try:
            create_file(self._path(name, term.term), _as_json(term))
        except FileExistsError as fault:
            raise LeaseTaken(f"range {name}: another worker has taken it") from fault
        lease = Lease(self, term)
        if lease.overtaken():  # `after` is long past: its file is gone, so that it could be created once more
            remove_files([self._path(name, term.term)])
            raise LeaseTaken(f"range {name}: another worker has taken it")
        remove_files([self._path(name, old) for old in self._terms(name) if old < after])
        return lease

    def _terms(self, name: str) -> list[int]:
        found = (Path(file).stem for file in names(self._folder / name))
        return [int(stem) for stem in found if stem.isdigit()]

    def _path(self, name: str, term: int) -> Path:
        return self._folder / name / f"{term:08d}.json"


class Lease:
    """A term that this process holds."""

    def __init__(self, leases: Leases, term: Term) -> None:
        self._leases, self.term = leases, term

    def renew(self, expected: int, answered: int) -> None:
        """Show that the holder lives, and how far it is. Raises LeaseLost if the range is another one's by now."""
        self._check()
        self._write(replace(self.term, beat=self.term.beat + 1, expected=expected, answered=answered))

    def end(self, state: Literal["done", "failed"], expected: int, answered: int, reason: str = "") -> None:
        """Give the range back. Raises LeaseLost."""
        self._check()
        self._write(replace(self.term, state=state, expected=expected, answered=answered, reason=reason))

    def overtaken(self) -> bool:
        return max(self._leases._terms(self.term.range), default=0) > self.term.term

    def _check(self) -> None:
        if not self.overtaken():
            return
        newest = self._leases.newest(self.term.range)
        by = f"{newest.state} by {newest.holder}" if newest else "taken"
        raise LeaseLost(f"range {self.term.range}: term {self.term.term} was this process's, a later one is {by}")

    def _write(self, term: Term) -> None:
        replace_file(self._leases._path(term.range, term.term), _as_json(term))
        self.term = term


class Watch:
    """How long each lease has shown no sign of life, by this process's own clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[tuple[int, int], float]] = {}

    def silent_s(self, term: Term) -> float:
        """Seconds since its beat was first seen; 0 when it is a new one."""
        beat, since = self._seen.get(term.range, ((0, 0), 0.0))
        if beat != (term.term, term.beat):
            since = self._clock()
            self._seen[term.range] = ((term.term, term.beat), since)
        return self._clock() - since


def held_since(root: Path, moment: float) -> Iterator[tuple[str, Term]]:
    """Step and term of each range that is held, and was renewed since `moment` by the clock of the file system that
    holds the workspace, a folder."""
    for step in names(root / "leases"):
        leases = Leases(root, step)
        for name in leases.names():
            term = leases.newest(name)
            if term and term.state == "held":
                with suppress(FileNotFoundError):  # overtaken meanwhile
                    if leases._path(name, term.term).stat().st_mtime > moment:
                        yield step, term


def _as_json(term: Term) -> bytes:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return json.dumps(asdict(replace(term, renewed=now)), indent=1).encode()
