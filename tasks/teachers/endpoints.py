"""Which endpoint the next request goes to, and how many it may have in flight.

Each endpoint has a weight, a state (up or down) and a limit. The limit falls by half when more than a tenth of the
attempts of a window found it overloaded (429, 503, time-outs) or when vLLM's own queue is long, and rises by a tenth
of itself else: additive increase and multiplicative decrease, but judged over a window, so that a few stray faults
don't slow a healthy server. An endpoint that can't be reached is down until a probe is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

WINDOW = 16
"""A limit is judged after so many attempts, or after as many as it allows in flight if that is more."""
OVERLOADED_SHARE = 0.1
PROBE_FIRST_S, PROBE_LONGEST_S = 0.5, 10.0
"""Pauses between probes of an endpoint that is down: they double from the first to the longest."""
QUEUE_EVERY_S = 5.0
"""How often vLLM's queue is read."""
PROBE_TIMEOUT = aiohttp.ClientTimeout(total=5)


class Unreachable(Exception):
    """All endpoints have been down for longer than the patience; the text says what the last one did."""


def without_secrets(url: str) -> str:
    """The URL without user, password and query, for people to read."""
    try:
        return str(URL(url).with_user(None).with_query(None))
    except ValueError:
        return "(an invalid URL)"


@dataclass(eq=False)
class Endpoint:
    """One base URL and how it is doing. `limit`: requests that it may have in flight now, 1..`most`."""

    url: str
    weight: float
    most: int
    in_flight: int = 0
    down: bool = False
    down_since: float = 0.0
    """when it last failed a connection (`time.monotonic`)"""
    fault: str = ""
    queue_known: bool = False
    """vLLM's queue decides when the limit rises"""

    def __post_init__(self) -> None:
        self.limit = float(self.most)
        self.shown = without_secrets(self.url)
        self.chat = f"{self.url}/chat/completions"
        self._seen = self._overloads = 0

    def free(self) -> bool:
        return not self.down and self.in_flight < int(self.limit)

    def note(self, overloaded: bool) -> None:
        """An attempt has ended; judge the limit when a window is full."""
        self._seen += 1
        self._overloads += overloaded
        if self._seen < max(self.limit, WINDOW):
            return
        if self._overloads > OVERLOADED_SHARE * self._seen:
            self.limit = max(1.0, self.limit / 2)
        elif not self.queue_known:
            self._rise()
        self._seen = self._overloads = 0

    def note_queue(self, running: float, waiting: float) -> None:
        """What vLLM says of itself: a short queue keeps it busy, a longer one only fills it."""
        self.queue_known = True
        allowed = 4 + running / 4
        if waiting > allowed:
            self.limit = max(1.0, min(self.limit, self.in_flight - (waiting - allowed)))
        else:
            self._rise()

    def _rise(self) -> None:
        self.limit = min(float(self.most), self.limit + max(1.0, self.limit / 10))


class Endpoints:
    """The endpoints of one teacher. Its methods belong to one event loop at a time.

    `patience_s`: how long requests wait while all endpoints are down. At 0 they don't: the one that has been down for
    longest is tried, and the failure counts as an attempt.
    """

    def __init__(
        self, urls: Sequence[str], most: int, weights: Sequence[float] | None = None, patience_s: float = 0.0
    ) -> None:
        weights = weights or [1.0] * len(urls)
        self.all = [Endpoint(url.rstrip("/"), weight, most) for url, weight in zip(urls, weights, strict=True)]
        self.patience_s = patience_s
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._silent_since: float | None = None
        """since when no endpoint has answered anything, while all are down"""
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def acquire(self) -> Endpoint:
        """A place at the endpoint with the fewest requests for its weight; waits for one. Raises Unreachable."""
        while (chosen := self._choose()) is None:
            place = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            left = None if self._silent_since is None else self._silent_since + self.patience_s - time.monotonic()
            try:
                await asyncio.wait_for(place, left)
            except TimeoutError:
                continue
            finally:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(place)
        chosen.in_flight += 1
        return chosen

    def release(self, endpoint: Endpoint) -> None:
        endpoint.in_flight -= 1
        self._wake(1)

    def _choose(self) -> Endpoint | None:
        best = None
        for one in self.all:
            if one.free() and (best is None or one.in_flight / one.weight < best.in_flight / best.weight):
                best = one
        if best is not None or not all(one.down for one in self.all):
            return best
        longest = min(self.all, key=lambda one: one.down_since)
        if not self.patience_s:
            return longest
        if self._silent_since is not None and time.monotonic() - self._silent_since >= self.patience_s:
            raise Unreachable(f"{longest.fault}; no endpoint has answered for {self.patience_s:g} s")
        return None

    def _wake(self, number: int) -> None:
        while self._waiting and number:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                number -= 1

    # --- health

    def answered(self, endpoint: Endpoint) -> None:
        """The endpoint gave some HTTP answer to a request."""
        self._silent_since = None
        if endpoint.down:
            self._up(endpoint)

    def lost(self, endpoint: Endpoint, fault: str) -> None:
        """The endpoint can't be reached: pass it over until a probe is answered."""
        endpoint.down_since, endpoint.fault = time.monotonic(), fault
        if not endpoint.down:
            endpoint.down = True
            self._begin(self._probe(endpoint))
        if self._silent_since is None and all(one.down for one in self.all):
            self._silent_since = time.monotonic()
            self._wake(len(self._waiting))  # they wait for a place, and now for no longer than the patience

    def _up(self, endpoint: Endpoint) -> None:
        endpoint.down = False
        self._wake(len(self._waiting))

    async def _probe(self, endpoint: Endpoint) -> None:
        pause = PROBE_FIRST_S
        while endpoint.down:
            await asyncio.sleep(pause)
            pause = min(2 * pause, PROBE_LONGEST_S)
            status = (await self._get(f"{endpoint.url}/models"))[0]
            if status is not None and status < 500:
                self._up(endpoint)

    async def _read_queue(self, endpoint: Endpoint) -> None:
        """Follow vLLM's own count of waiting requests, where the server has one."""
        place = endpoint.url.removesuffix("/v1") + "/metrics"
        known = False
        while True:
            await asyncio.sleep(QUEUE_EVERY_S)
            status, text = await self._get(place)
            counts = _queue(text) if status == 200 else None
            if counts is not None:
                known = True
                endpoint.note_queue(*counts)
                self._wake(len(self._waiting))
            elif status is not None and not known:
                return  # no vLLM

    async def _get(self, url: str) -> tuple[int | None, str]:
        assert self._session is not None
        try:
            async with self._session.get(url, timeout=PROBE_TIMEOUT, allow_redirects=False) as response:
                return response.status, (await response.content.read(1 << 20)).decode("utf-8", "replace")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None, ""

    @contextlib.asynccontextmanager
    async def watched(self, session: aiohttp.ClientSession) -> AsyncIterator[None]:
        """While the block runs, endpoints that are down are probed and queues are read."""
        self._session = session
        self._silent_since = None
        for one in self.all:
            one.in_flight, one.down = 0, False
            self._begin(self._read_queue(one))
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _queue(metrics: str) -> tuple[float, float] | None:
    """(running, waiting) requests from vLLM's metrics; None if they aren't there."""
    found: dict[str, float] = {}
    for line in metrics.splitlines():
        for name in ("running", "waiting"):
            if line.startswith((f"vllm:num_requests_{name} ", f"vllm:num_requests_{name}{{")):
                with contextlib.suppress(ValueError):
                    found[name] = found.get(name, 0.0) + float(line.rsplit(" ", 1)[1])
    return (found["running"], found["waiting"]) if len(found) == 2 else None
