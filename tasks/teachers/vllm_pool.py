"""The vLLM servers of one teacher, from their start to their end: watched, and started again when they die.

The first server is started alone, then the others: two first starts at once can break vLLM's compile cache. A server
that never came up is not tried again (the same would happen), but for a port that was taken meanwhile. One that has
served is started again with growing pauses, at most `restarts` times in a row; then it is given up, and the others go
on. With none left, `ready` raises.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Self

from tasks.teachers import vllm_guard
from tasks.teachers.teacher import TeacherError
from tasks.teachers.vllm_faults import Death
from tasks.teachers.vllm_server import Server, free_port

POLL_S = 0.25
ASK_EVERY_S = 5.0
"""How often a server that serves is asked for its health."""
HANG_S = 300.0
"""A server that gives no sign of life for so long is killed. A busy one may well be late."""
STEADY_S = 600.0
"""After so long a service earlier deaths are forgiven."""
LONGEST_PAUSE_S = 60.0
PORTS_TRIED = 5
HOPELESS = ("arguments", "install", "model", "device")
"""What keeps one server from starting keeps all from it."""
SETTLE_S = 20.0
"""How long `died_since` waits for the end of a server that doesn't answer."""

log = logging.getLogger(__name__)


@dataclass
class _Watched:
    server: Server
    state: Literal["idle", "starting", "ready", "paused", "gone"] = "idle"
    since: float = 0.0
    """when the state began; for `paused`, when it ends"""
    seen: float = 0.0
    """when it last gave a sign of life"""
    asked: float = 0.0
    has_served: bool = False
    died: float = 0.0
    failures: int = 0
    """deaths in a row"""
    ports: int = 0


class Pool:
    """A context manager: entering starts nothing yet, `start` does; leaving stops all servers.

    `up` is called each time a server came up for the first time. `deaths` holds all deaths with their time
    (`time.monotonic`), oldest first.
    """

    def __init__(
        self, servers: Sequence[Server], *, start_timeout_s: float, restarts: int, up: Callable[[], None] = lambda: None
    ) -> None:
        self.deaths: list[tuple[float, Death]] = []
        self.start_timeout_s, self.restarts = start_timeout_s, restarts
        self._up = up
        self._all = [_Watched(server) for server in servers]
        self._changed = threading.Condition()
        self._closing = False
        self._last_words = ""
        self._thread = threading.Thread(target=self._watch, name="vllm-pool", daemon=True)

    def start(self) -> None:
        """End what dead runs left behind, then bring all servers up. Raises TeacherError if none comes up."""
        if ended := vllm_guard.sweep(self._all[0].server.place):
            log.warning("ended %d processes of vLLM servers that a dead run had left", ended)
        self._thread.start()
        with self._changed:
            for first in self._all:
                self._launch(first)
                self._changed.wait_for(lambda: self._settled(first))  # noqa: B023  it is waited for here
                if first.state == "ready" or any(death.kind in HOPELESS for _, death in self.deaths):
                    break
            for other in self._all:
                if other.state == "idle" and self._any_ready():
                    self._launch(other)
                elif other.state == "idle":
                    other.state = "gone"
            self._changed.wait_for(lambda: all(self._settled(one) for one in self._all))
        self.ready()

    def ready(self) -> list[str]:
        """Waits until a server is ready; the base URLs of all that are, or will be again: the client passes over those
        that don't answer yet. Raises TeacherError if none will be: all are given up."""
        with self._changed:
            self._changed.wait_for(lambda: self._any_ready() or all(one.state == "gone" for one in self._all))
            if self._any_ready():
                return self._urls()
            raise TeacherError(self._last_words)

    def still(self, urls: Sequence[str]) -> bool:
        """Whether a server is ready, and the URLs are still those."""
        with self._changed:
            return self._any_ready() and self._urls() == urls

    def died_since(self, then: float) -> bool:
        """Whether a server has died since then (`time.monotonic`). Asks those that should be alive, and waits a little
        for the end of one that doesn't answer: a request is lost before its server is gone."""
        with self._changed:
            if self._any_death(then):
                return True
            alive = [one for one in self._all if one.state == "ready"]
        unwell = [one for one in alive if one.server.health() != "ready"]
        if not unwell:
            return False
        with self._changed:
            for one in unwell:
                one.asked = 0.0  # the watch looks at once
            return self._changed.wait_for(lambda: self._any_death(then), SETTLE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        if self._thread.is_alive():
            self._thread.join()
        stoppers = [threading.Thread(target=one.server.stop) for one in self._all]
        for stopper in stoppers:
            stopper.start()
        for stopper in stoppers:
            stopper.join()

    @staticmethod
    def _settled(one: _Watched) -> bool:
        return one.state in ("ready", "gone") or one.has_served

    def _urls(self) -> list[str]:
        return [one.server.url for one in self._all if one.state != "gone"]

    def _any_ready(self) -> bool:
        return any(one.state == "ready" for one in self._all)

    def _any_death(self, then: float) -> bool:
        return any(at >= then for at, _ in self.deaths)

    def _launch(self, one: _Watched) -> None:
        try:
            one.server.start()
        except (TeacherError, OSError) as fault:
            one.state, self._last_words = "gone", str(fault)
            self._changed.notify_all()
            return
        one.since = one.seen = time.monotonic()
        one.state = "starting"  # last, for the watch looks from now on

    def _watch(self) -> None:
        """The thread that looks after all servers. It alone changes their state once they are launched."""
        try:
            self._watch_on()
        except BaseException as fault:  # else those who wait for a server would wait for ever
            with self._changed:
                self._last_words = f"the watch over the vLLM servers broke off: {fault!r}"
                for one in self._all:
                    one.state = "gone"
                self._changed.notify_all()
            raise

    def _watch_on(self) -> None:
        while not self._closing:
            for one in self._all:
                if one.state in ("starting", "ready"):
                    self._look(one)
                elif one.state == "paused" and time.monotonic() >= one.since:
                    with self._changed:
                        self._launch(one)
            time.sleep(POLL_S)

    def _look(self, one: _Watched) -> None:
        now = time.monotonic()
        if one.server.status() is not None:
            self._died(one, one.server.why())
            return
        if one.state == "ready" and now - one.asked < ASK_EVERY_S:
            return
        one.asked = now
        health = one.server.health()
        if health == "ready":
            one.seen = now
            if one.state == "starting":
                self._is_up(one)
        elif one.state == "ready" and health == "dead":
            self._died(one, one.server.why())
        elif one.state == "ready" and now - one.seen > HANG_S:
            cause = f"it has given no sign of life for {HANG_S:g} s"
            self._died(one, replace(one.server.why(), kind="silent", cause=cause))
        elif one.state == "starting" and now - one.since > self.start_timeout_s:
            cause = f"it was not ready after {self.start_timeout_s:g} s; raise the teacher's start_timeout_s"
            self._died(one, replace(one.server.why(), kind="silent", cause=cause))

    def _is_up(self, one: _Watched) -> None:
        with self._changed:
            if not one.has_served:
                self._up()
            else:
                log.warning("%s is back after %.0f s", one.server, time.monotonic() - one.died)
            one.state, one.since, one.has_served, one.ports = "ready", time.monotonic(), True, 0
            self._changed.notify_all()

    def _died(self, one: _Watched, death: Death) -> None:
        """Note a death and decide what follows."""
        told = f"{one.server} died: {death.told(str(one.server.log))}"
        one.server.stop()
        now = time.monotonic()
        with self._changed:
            self.deaths.append((now, death))
            one.died = now
            if one.state == "ready" and now - one.since > STEADY_S:
                one.failures = 0
            one.failures += 1
            if death.kind == "port" and one.ports < PORTS_TRIED:
                one.ports += 1
                one.failures -= 1
                one.server.port = free_port()
                self._launch(one)
            elif not one.has_served:
                self._give_up(one, f"{one.server} did not start: {death.told(str(one.server.log))}")
            elif one.failures > self.restarts:
                self._give_up(one, f"{told}\n  It died {one.failures} times in a row and is given up; what was "
                              "answered is kept. Mend the cause, then run again.")  # fmt: skip
            else:
                pause = min(LONGEST_PAUSE_S, 2.0 ** (one.failures - 1))
                one.state, one.since = "paused", now + pause
                log.warning("%s died: %s. Starting it again in %.0f s (%d of %d); its log: %s",
                            one.server, death.cause, pause, one.failures, self.restarts, one.server.log)  # fmt: skip
            self._changed.notify_all()

    def _give_up(self, one: _Watched, words: str) -> None:
        one.state, self._last_words = "gone", words
        if any(other.state != "gone" for other in self._all if other is not one):
            log.warning("%s", words)
