"""The tally of a teacher that is being asked, for whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass
class Tally:
    """One teacher in one run."""

    expected: int = 0
    """requests that were missing when the run began; an upper bound until their shard is opened"""
    done: int = 0
    failed: int = 0
    skipped: int = 0
    """answered or refused in an earlier run, of the shards opened so far"""
    in_flight: int = 0
    """drawn by the engine and without a reply"""
    tokens: int = 0
    """of the responses"""
    cost: float | None = None
    """None where the recipe names no price"""
    judged: int = 0
    passed: int = 0
    """of the responses that earlier runs have verified"""

    @property
    def left(self) -> int:
        return max(0, self.expected - self.done - self.failed)


@runtime_checkable
class ShowsTally(Protocol):
    """A progress that wants more than counts."""

    def tally(self, step: str, tally: Tally) -> None:
        """`tally` goes on being changed by the one who gave it."""
        ...
