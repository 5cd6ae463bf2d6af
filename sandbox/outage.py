"""An engine that goes away and comes back: who waits for it, for how long, and what the log is told.

Covered: an engine that is stopped, killed, restarted, hangs, or fails at every request. Not covered: one that
comes back without the image (ImageMissing is raised at once), and one that is not there at the start.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import NoReturn, TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_delay,
    wait_fixed,
)

from sandbox.errors import EngineUnavailable, SandboxError

POLL_S = 0.25

log = logging.getLogger(__name__)
Made = TypeVar("Made")


class Outages:
    """What the threads of one Sandbox know about their engine. `closed` ends every wait."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s
        self.closed = threading.Event()
        self._lock = threading.Lock()
        self._since: float | None = None  # when the outage that goes on was noticed
        self._told: float | None = None  # when the log last heard that we wait
        self._over = 0

    def outlast(self, make: Callable[[], Made]) -> Made:
        """`make()`, again and again while it raises EngineUnavailable, for at most `wait_s` seconds."""

        def attempt() -> Made:
            if self.closed.is_set():
                raise SandboxError("the sandbox is closed")
            return make()

        made = Retrying(
            retry=retry_if_exception_type(EngineUnavailable),
            stop=stop_after_delay(self.wait_s),
            wait=wait_fixed(POLL_S),
            sleep=sleep_using_event(self.closed),
            before_sleep=self._tell,
            retry_error_callback=self._give_up,
        )(attempt)
        self._end()
        return made

    def notice(self) -> None:
        """The engine did not answer."""
        with self._lock:
            self._since = self._since or time.monotonic()

    def mark(self) -> int:
        """Now, for `hit`."""
        return self._over

    def hit(self, mark: int) -> bool:
        """Whether the engine has been away at any time since the mark."""
        with self._lock:
            return self._since is not None or self._over != mark

    def _tell(self, state: RetryCallState) -> None:
        self.notice()
        now = time.monotonic()
        with self._lock:
            if self._told is not None and now - self._told < self.wait_s:
                return  # another thread has told it
            self._told = now
        log.warning("%s. Waiting up to %g s for it", _error(state), self.wait_s)

    def _end(self) -> None:
        with self._lock:
            since, self._since = self._since, None
            told, self._told = self._told, None
            self._over += since is not None
        if since is not None and told is not None:
            log.warning("the Docker engine is back after %.1f s", time.monotonic() - since)

    def _give_up(self, state: RetryCallState) -> NoReturn:
        self.notice()
        waited = state.seconds_since_start or 0.0
        raise EngineUnavailable(f"waited {waited:.1f} s for the Docker engine, in vain: {_error(state)}") from None


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
