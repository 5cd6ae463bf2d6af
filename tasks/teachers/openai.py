"""The `openai` engine: any OpenAI-compatible endpoint, or a list of endpoints that serve the same model.

One HTTP request per `Request`, never `n > 1`: each sample comes back, fails and is asked again on its own. aiohttp,
because httpx reached 350 requests/s where aiohttp reached 9,900. What becomes of a failed attempt:

    refused (4xx)                          given up, with the server's words
    key, model or address is wrong         given up in this run (401, 402, 404, 3xx); the next run asks again
    429, 503, time-out                     asked again after the server's Retry-After or a pause; the limit may fall
    other 5xx, torn or senseless answer    asked again after a pause
    no connection                          the endpoint is passed over until a probe is answered; with patience, this
                                           is no attempt of the request's
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import heapq
import itertools
import json
import queue
import random
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

from tasks.teachers.chat import LARGEST_ANSWER, NotACompletion, Piece, chat_body, read_answer, read_stream, storable
from tasks.teachers.endpoints import Endpoint, Endpoints, Unreachable, without_secrets
from tasks.teachers.teacher import Reply, Request, TeacherError, failed

LONGEST_WAIT_S = 120.0
"""The longest pause before another attempt, whatever Retry-After says."""
LONGEST_PAUSE_S = 60.0
"""The longest pause of our own."""
UNREAD = 1
"""Replies that nobody has read yet hold the requests up when there are more than this many times `concurrency`; with
what is in flight, at most twice `concurrency` are lost when the process is killed."""


class Transient(Exception):
    """An attempt failed in a way that another one may not. `retry_after_s`: the server's own wish."""

    def __init__(self, message: str, retry_after_s: float | None = None, *, overloaded: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s, self.overloaded = retry_after_s, overloaded


class NoConnection(Transient):
    """The request never reached a server."""


class NotServed(Transient):
    """The endpoint, the key or the model is wrong: no other attempt of this run will do better."""


class Refused(Exception):
    """The server understood the request and will not answer it."""


@dataclass(eq=False, slots=True)
class _Asked:
    """A request on its way to its reply."""

    request: Request
    started: float
    attempts: int = 0
    sent: int = 0
    so_far: Piece | None = None
    continued: int = 0


class OpenAITeacher:
    """Asks `/chat/completions` with up to `concurrency` requests in flight, over all endpoints, while there is work.

    `base_urls`: each up to and including `/v1`; `weights`: their shares of the load. `api_key`: the bearer token,
    read by the caller; it appears in no repr, error or log. `timeout_s`: for one attempt, from connecting to the last
    byte; long traces take hours. `idle_timeout_s`: answers are streamed, and one that stays silent for so long is
    given up. `attempts`: per request. `extra_body`: merged into every request. `patience_s`: how long requests wait
    for an endpoint while all are down, without that being an attempt.

    A request's `sampling` may hold `continuations`: how many times a response that max_tokens cut off is sent back to
    be continued; that takes a server with vLLM's `continue_final_message`.
    """

    def __init__(
        self,
        base_urls: Sequence[str],
        model: str,
        api_key: str | None,
        concurrency: int = 64,
        timeout_s: float = 3600,
        attempts: int = 4,
        extra_body: dict[str, Any] | None = None,
        *,
        weights: Sequence[float] | None = None,
        idle_timeout_s: float | None = None,
        patience_s: float = 0.0,
    ) -> None:
        if not base_urls:
            raise TeacherError(
                f"the teacher {model} has no endpoint: name at least one base URL, as http://host:8000/v1"
            )
        self.base_urls, self.weights = tuple(base_urls), tuple(weights) if weights else None
        self.model, self.concurrency, self.timeout_s, self.attempts = model, concurrency, timeout_s, attempts
        self.idle_timeout_s, self.patience_s = idle_timeout_s, patience_s
        self.extra_body = dict(extra_body or {})
        self._api_key = api_key

    def __repr__(self) -> str:
        urls = [without_secrets(url) for url in self.base_urls]
        return f"OpenAITeacher({urls}, {self.model!r}, concurrency={self.concurrency})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """See `Teacher.generate`. Draws requests only as it sends them, in a thread of its own.

        Each call has up to `concurrency` requests in flight of its own. Closing the generator early cancels what is
        in flight and waits until that is done. What `requests` raises is raised here.
        """
        replies: queue.SimpleQueue[Reply | BaseException | None] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        call = _Call(self, requests, replies)
        work = loop.create_task(call.run())
        thread = threading.Thread(target=_run, args=(loop, work, replies), name="openai-teacher", daemon=True)
        thread.start()
        try:
            while (reply := replies.get()) is not None:
                if isinstance(reply, BaseException):
                    raise reply
                yield reply
        finally:
            if thread.is_alive():
                with contextlib.suppress(RuntimeError):  # the loop closed in between: nothing is in flight
                    loop.call_soon_threadsafe(work.cancel)
            thread.join()

    def headers(self) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        return {"Content-Type": "application/json"} | key

    def clean(self, text: str) -> str:
        """Servers quote the key that they refuse."""
        return text.replace(self._api_key, "***") if self._api_key else text


class _Call:
    """One call of `generate`: its requests, its endpoints, its session. Lives in one event loop."""

    def __init__(self, teacher: OpenAITeacher, requests: Iterable[Request], replies: queue.SimpleQueue[Any]) -> None:
        self._teacher, self._replies = teacher, replies
        self._todo = _Todo(requests, most_put_off=4 * teacher.concurrency)
        self._endpoints = Endpoints(teacher.base_urls, teacher.concurrency, teacher.weights, teacher.patience_s)
        self._timeout = aiohttp.ClientTimeout(
            total=teacher.timeout_s, sock_connect=min(30.0, teacher.timeout_s), sock_read=teacher.idle_timeout_s
        )

    async def run(self) -> None:
        """Workers draw from one list of things to do: each takes the next when it has finished one or put one off,
        so the number in flight falls only when no work is left or the endpoints' limits say so."""
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(
                headers=self._teacher.headers(), connector=connector, timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(), trust_env=False,
            ) as self._session,
            self._endpoints.watched(self._session),
            asyncio.TaskGroup() as group,
        ):  # fmt: skip
            for _ in range(self._teacher.concurrency):
                group.create_task(self._worker())

    async def _worker(self) -> None:
        most_unread = UNREAD * self._teacher.concurrency
        while (asked := await self._todo.next()) is not None:
            reply = await self._ask(asked)
            if reply is not None:
                self._replies.put(reply)
            while self._replies.qsize() > most_unread:
                await asyncio.sleep(0.01)

    async def _ask(self, asked: _Asked) -> Reply | None:
        """One attempt; None if the request is put off. Never raises but for cancellation."""
        try:
            piece = await self._attempt(asked)
        except Unreachable as error:
            return self._failed(asked, error, "transient")
        except Refused as error:
            return self._failed(asked, error, "refused")
        except Transient as error:
            if not (self._teacher.patience_s and isinstance(error, NoConnection)):
                asked.attempts += 1
            if asked.attempts >= self._teacher.attempts or isinstance(error, NotServed):
                return self._failed(asked, error, "transient")
            self._todo.put_off(asked, _pause(error, asked.attempts))
            return None
        asked.so_far = asked.so_far.then(piece) if asked.so_far else piece
        if piece.finish_reason == "length" and asked.continued < asked.request.sampling.get("continuations", 0):
            asked.continued += 1
            asked.attempts = 0
            self._todo.put_off(asked, 0.0)
            return None
        return asked.so_far.reply(asked.request, time.perf_counter() - asked.started)

    def _failed(self, asked: _Asked, error: Exception, kind: Any) -> Reply:
        if asked.so_far is not None:  # it could not be continued: what is paid for stays, truncated
            return asked.so_far.reply(asked.request, time.perf_counter() - asked.started)
        return failed(asked.request, self._teacher.clean(str(error)), kind, time.perf_counter() - asked.started)

    async def _attempt(self, asked: _Asked) -> Piece:
        """One exchange with the endpoint that has the most room. Raises Transient, Refused or Unreachable."""
        try:
            body = chat_body(self._teacher.model, asked.request, self._teacher.extra_body, asked.so_far,
                             self._teacher.idle_timeout_s is not None)  # fmt: skip
        except (TypeError, ValueError) as error:
            raise Refused(f"this request can't be written as JSON: {error}") from None
        endpoint = await self._endpoints.acquire()
        asked.sent += 1
        overloaded = False
        try:
            return await self._exchange(endpoint, body, f"{asked.request.response_id}-{asked.sent}")
        except Transient as error:
            overloaded = error.overloaded
            raise
        finally:
            endpoint.note(overloaded)
            self._endpoints.release(endpoint)

    async def _exchange(self, endpoint: Endpoint, body: bytes, request_id: str) -> Piece:
        """Send one body and read its answer. The server's logs may keep `request_id`: the response's id and how many
        times it was sent."""
        shown = endpoint.shown
        try:
            async with self._session.post(
                endpoint.chat, data=body, headers={"X-Request-Id": request_id}, allow_redirects=False
            ) as response:
                self._endpoints.answered(endpoint)
                if response.status != 200:
                    raise _refusal(response, shown, await _read(response, 1 << 16))
                if self._teacher.idle_timeout_s is not None:
                    return await read_stream(response.content.iter_any())
                return read_answer(await _read(response, LARGEST_ANSWER))
        except NotACompletion as error:
            raise Transient(f"HTTP 200 from {shown}: not a chat completion ({error})") from None
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            raise Refused(f"not a URL: {shown}") from None
        except aiohttp.ConnectionTimeoutError:
            raise self._no_connection(endpoint, "time-out") from None
        except TimeoutError as error:  # before ClientError: aiohttp's time-outs are both
            idle = isinstance(error, aiohttp.SocketTimeoutError)
            seconds = self._teacher.idle_timeout_s if idle else self._teacher.timeout_s
            what = "no word" if idle else "no answer"
            raise Transient(f"{what} within {seconds:g} s from {shown}", overloaded=True) from None
        except aiohttp.ClientConnectorError as error:
            raise self._no_connection(endpoint, str(error)) from None
        except (aiohttp.ClientError, OSError) as error:
            raise Transient(f"connection to {shown} lost: {type(error).__name__}: {error}") from None

    def _no_connection(self, endpoint: Endpoint, reason: str) -> NoConnection:
        message = f"can't connect to {endpoint.shown}: {reason}"
        self._endpoints.lost(endpoint, message)
        return NoConnection(message)


class _Todo:
    """What is to be sent next: a request that was put off and is due, else a fresh one.

    While `most_put_off` are put off no fresh one is drawn, so that a server that fails them all doesn't draw in the
    whole data set.
    """

    def __init__(self, requests: Iterable[Request], most_put_off: int) -> None:
        self._fresh: Iterator[Request] | None = iter(requests)
        self._put_off: list[tuple[float, int, _Asked]] = []
        self._order = itertools.count()
        self._most = most_put_off

    async def next(self) -> _Asked | None:
        """None when nothing is left that hasn't been handed out."""
        while True:
            if self._put_off and self._put_off[0][0] <= time.monotonic():
                return heapq.heappop(self._put_off)[2]
            if self._fresh is not None and len(self._put_off) < self._most:
                for request in self._fresh:
                    return _Asked(request, time.perf_counter())
                self._fresh = None
            if not self._put_off:
                return None
            await asyncio.sleep(min(1.0, max(0.0, self._put_off[0][0] - time.monotonic())))

    def put_off(self, asked: _Asked, seconds: float) -> None:
        heapq.heappush(self._put_off, (time.monotonic() + seconds, next(self._order), asked))


def _run(loop: asyncio.AbstractEventLoop, work: asyncio.Task[None], replies: queue.SimpleQueue[Any]) -> None:
    try:
        loop.run_until_complete(work)
        replies.put(None)
    except asyncio.CancelledError:
        replies.put(None)
    except BaseException as error:  # noqa: BLE001  handed to the thread that reads the replies
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        replies.put(error)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _read(response: aiohttp.ClientResponse, most: int) -> bytearray:
    """The body, but no more than `most` bytes of an error's; a longer answer is none."""
    raw = bytearray()
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > most:
            if response.status == 200:
                raise NotACompletion(f"more than {most} bytes")
            break
    return raw


def _refusal(response: aiohttp.ClientResponse, shown: str, raw: bytes | bytearray) -> Transient | Refused:
    """What an answer that isn't 200 means."""
    status = response.status
    if 300 <= status < 400:
        return NotServed(f"HTTP {status} from {shown}: it redirects to another place, and the key goes to none but "
                         "the one that is named; put the right base_url into the recipe")  # fmt: skip
    said = f"HTTP {status} from {shown}: {_server_message(raw)}"
    if status in (401, 402, 404):
        return NotServed(said)
    if status < 300 or status in (408, 425, 429) or status >= 500:
        return Transient(said, _seconds(response.headers.get("Retry-After")), overloaded=status in (408, 429, 503))
    return Refused(said)


def _pause(error: Transient, attempts: int) -> float:
    """Seconds before the next attempt: what the server asked for, else random up to 1, 2, 4, … s."""
    if error.retry_after_s is not None:
        return min(error.retry_after_s, LONGEST_WAIT_S)
    return random.uniform(0, min(LONGEST_PAUSE_S, 2.0 ** max(0, attempts - 1)))


def _seconds(retry_after: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds either seconds or a date; None if there is none or it is broken."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
        return max(0.0, seconds) if seconds == seconds else None
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _server_message(raw: bytes | bytearray) -> str:
    """The reason in an error body: OpenAI's `error.message`, else `message` or `detail`, else the text itself."""
    text = raw[:4000].decode("utf-8", "replace")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return storable(text.strip()) or "(empty body)"
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return storable(error) if isinstance(error, str) else json.dumps(error)
