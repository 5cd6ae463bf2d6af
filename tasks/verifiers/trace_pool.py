"""Trace checks over processes: a batch of much text is shared out, little text is checked here and now.

The judgements are those of `TraceVerifier`, in the order of the subjects, whatever the number of processes.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from types import TracebackType
from typing import Self

from tasks.errors import StageError
from tasks.verifiers.bench import Subject
from tasks.verifiers.settings import TraceSettings
from tasks.verifiers.trace import TraceVerifier
from tasks.verifiers.verdict import Judgement

LITTLE_CHARS = 2_000_000
"""0.1 s of checking; a process takes longer to start"""
PIECE_CHARS = 500_000
ATTEMPTS = 3

log = logging.getLogger(__name__)


class TracePool:
    """Processes start at the first batch that is worth it; the end of a `with` block ends them."""

    def __init__(self, settings: TraceSettings, workers: int) -> None:
        self._verifier, self._workers = TraceVerifier(settings), workers
        self._pool: ProcessPoolExecutor | None = None

    def judge(self, subjects: Sequence[Subject]) -> list[Judgement]:
        """One judgement a subject, in the same order."""
        if self._workers == 1 or sum(map(_chars, subjects)) < LITTLE_CHARS:
            return self._verifier.judge(subjects)
        for _ in range(ATTEMPTS):
            if self._pool is None:  # a fork would copy the locks of threads that run here
                self._pool = ProcessPoolExecutor(self._workers, get_context("spawn"), _end_with_parent)
            try:
                return [one for piece in self._pool.map(self._verifier.judge, _pieces(subjects)) for one in piece]
            except BrokenProcessPool:
                log.warning("a process that checks traces was killed; the batch is checked again")
                self._pool.shutdown(cancel_futures=True)
                self._pool = None
        raise StageError(f"the processes that check traces were killed {ATTEMPTS} times in a row; the kernel does that "
                         "when memory runs out: see what else takes it, then run again")  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _end_with_parent() -> None:
    """A worker of a killed process would wait for work for ever."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _chars(subject: Subject) -> int:
    return len(subject.response["think_content"] or "") + len(subject.response["answer_content"] or "")


def _pieces(subjects: Sequence[Subject]) -> list[list[Subject]]:
    """Neighbours, about PIECE_CHARS together."""
    pieces: list[list[Subject]] = [[]]
    chars = 0
    for subject in subjects:
        if chars >= PIECE_CHARS:
            pieces.append([])
            chars = 0
        pieces[-1].append(subject)
        chars += _chars(subject)
    return pieces
