"""The contract between the score stage and its engines: token ids go in, one log-probability a token comes out.

An engine knows nothing of tables, questions or chat templates. What it can't score is a `Failure`, never a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from tasks.errors import StageError

METHOD = "1"
"""Counts up when the same tokens would get other numbers, or other tokens would be counted."""


class ScorerError(StageError):
    """The scorer can't work at all; the message names the remedy."""


@dataclass(frozen=True)
class Failure:
    """Why a sequence has no log-probabilities."""

    reason: str


class Scorer(Protocol):
    """An engine. A context manager: leaving it frees what it holds. `version`: how it computes, without the model."""

    version: str

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray | Failure]:
        """For each sequence the natural-log probability of every token given those before it; of the first one, which
        has none before it, 0. In the order of the sequences. Raises ScorerError for what concerns all of them."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
