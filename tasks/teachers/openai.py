"""The `openai` engine: any OpenAI-compatible endpoint, or a list of endpoints that serve the same model.

One HTTP request per `Request`, never `n > 1`: each sample comes back, fails and is asked again on its own. aiohttp,
because httpx reached 350 requests/s where aiohttp reached 9,900. Reads whole bodies; streaming is not covered.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import itertools
import json
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential
from yarl import URL

from tasks.teachers.teacher import Reply, Request, TeacherError, failed, split_think

SET_ASIDE_S = 15.0
"""How long an endpoint that could not be reached is passed over, while another one is left."""
LONGEST_WAIT_S = 120.0
"""The longest pause before another attempt, whatever Retry-After says."""


class Transient(Exception):
    """An attempt failed in a way that another one may not. `retry_after_s`: the server's own wish."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Refused(Exception):
    """The server understood the request and will not answer it."""


class Endpoints:
    """Round robin over base URLs; one that could not be reached is set aside for a while."""

    def __init__(self, base_urls: Sequence[str]) -> None:
        self.urls = [url.rstrip("/") for url in base_urls]
        self._turn = itertools.count()
        self._dead_until = dict.fromkeys(self.urls, 0.0)

    def next(self) -> str:
        """The next endpoint that is not set aside; if all are, the one that comes back first."""
        now = time.monotonic()
        start = next(self._turn)
        for offset in range(len(self.urls)):
            url = self.urls[(start + offset) % len(self.urls)]
            if self._dead_until[url] <= now:
                return url
        return min(self.urls, key=self._dead_until.__getitem__)

    def set_aside(self, url: str) -> None:
        self._dead_until[url] = time.monotonic() + SET_ASIDE_S

    def alive(self, url: str) -> None:
        self._dead_until[url] = 0.0


class OpenAITeacher:
    """Asks `/chat/completions` with `concurrency` requests in flight, over all endpoints, while there is work.

    `base_urls`: each up to and including `/v1`. `api_key`: the bearer token, read by the caller; it appears in no
    repr, error or log. `timeout_s`: for one attempt, from connecting to the last byte; long traces take hours.
    `attempts`: per request, on connection errors, time-outs, torn bodies, 408, 429 and 5xx (transient); any other
    4xx is refused and kept with the server's message. `extra_body`: merged into every request.
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
    ) -> None:
        if not base_urls:
            raise TeacherError(
                f"the teacher {model} has no endpoint: name at least one base URL, as http://host:8000/v1"
            )
        self.endpoints = Endpoints(base_urls)
        self.model, self.concurrency, self.timeout_s, self.attempts = model, concurrency, timeout_s, attempts
        self.extra_body = dict(extra_body or {})
        self._api_key = api_key

    def __repr__(self) -> str:
        urls = [_without_secrets(url) for url in self.endpoints.urls]
        return f"OpenAITeacher({urls}, {self.model!r}, concurrency={self.concurrency})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def generate(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """See `Teacher.generate`. Each call has `concurrency` requests in flight of its own, from an event loop in a
        thread of its own; closing the generator early cancels what is in flight and waits until that is done."""
        replies: queue.SimpleQueue[Reply | BaseException | None] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        work = loop.create_task(self._work(requests, replies))
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

    async def _work(self, requests: Sequence[Request], replies: queue.SimpleQueue[Any]) -> None:
        """`concurrency` workers draw from one iterator: each takes the next request when it has finished one, so
        the number in flight falls only when no work is left."""
        todo = iter(requests)
        headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=self.timeout_s, sock_connect=min(30.0, self.timeout_s))

        async def worker(session: aiohttp.ClientSession) -> None:
            for request in todo:
                replies.put(await self._ask(session, request))

        async with (
            aiohttp.ClientSession(headers=headers, connector=connector, timeout=timeout) as session,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(min(self.concurrency, len(requests))):
                group.create_task(worker(session))

    async def _ask(self, session: aiohttp.ClientSession, request: Request) -> Reply:
        """The reply to one request after at most `attempts` attempts; never raises but for cancellation."""
        start = time.perf_counter()
        try:
            body = self._body(request)
        except (TypeError, ValueError) as error:
            return failed(request, f"this request can't be written as JSON: {error}", "refused")
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(Transient),
                stop=stop_after_attempt(self.attempts),
                wait=_pause,
                reraise=True,
            ):
                with attempt:
                    reply = await self._attempt(session, request, body)
            return replace(reply, latency_s=time.perf_counter() - start)
        except Transient as error:
            return failed(request, self._clean(str(error)), "transient", time.perf_counter() - start)
        except Refused as error:
            return failed(request, self._clean(str(error)), "refused", time.perf_counter() - start)

    def _body(self, request: Request) -> bytes:
        body: dict[str, Any] = {"model": self.model, "messages": list(request.messages)}
        body |= request.sampling | self.extra_body
        if request.seed is not None:
            body["seed"] = request.seed
        if not body.get("stop"):
            body.pop("stop", None)
        return json.dumps(body).encode()

    async def _attempt(self, session: aiohttp.ClientSession, request: Request, body: bytes) -> Reply:
        """One exchange: the reply as the server's answer gives it. Raises Transient or Refused."""
        url = self.endpoints.next()
        shown = _without_secrets(url)
        try:
            async with session.post(
                f"{url}/chat/completions", data=body, headers={"Content-Type": "application/json"}
            ) as response:
                raw = await response.read()
                status, retry_after = response.status, response.headers.get("Retry-After")
        except aiohttp.ConnectionTimeoutError:
            self.endpoints.set_aside(url)
            raise Transient(f"can't connect to {shown}: time-out") from None
        except TimeoutError:  # before ClientError: aiohttp's time-outs are both
            raise Transient(f"no answer within {self.timeout_s:g} s from {shown}") from None
        except aiohttp.InvalidURL:
            raise Refused(f"not a URL: {shown}") from None
        except aiohttp.ClientConnectorError as error:
            self.endpoints.set_aside(url)
            raise Transient(f"can't connect to {shown}: {error}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Transient(f"connection to {shown} lost: {type(error).__name__}: {error}") from None
        self.endpoints.alive(url)
        if status >= 400:
            said = f"HTTP {status} from {shown}: {_server_message(raw)}"
            if status in (408, 425, 429) or status >= 500:
                raise Transient(said, _seconds(retry_after))
            raise Refused(said)
        try:
            return _read(request, json.loads(raw))
        except (ValueError, LookupError, TypeError, AttributeError) as error:  # torn, or of another shape
            reason = f"{type(error).__name__}: {error}"
            raise Transient(f"HTTP {status} from {shown}: not a chat completion ({reason})") from None

    def _clean(self, text: str) -> str:
        """Servers quote the key that they refuse."""
        return text.replace(self._api_key, "***") if self._api_key else text


def _run(loop: asyncio.AbstractEventLoop, work: asyncio.Task[None], replies: queue.SimpleQueue[Any]) -> None:
    try:
        loop.run_until_complete(work)
        replies.put(None)
    except asyncio.CancelledError:
        replies.put(None)
    except BaseException as error:  # noqa: BLE001  handed to the thread that reads the replies
        replies.put(error)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _without_secrets(url: str) -> str:
    """The URL without user, password and query, for people to read."""
    try:
        return str(URL(url).with_user(None).with_query(None))
    except ValueError:
        return "(an invalid URL)"


def _pause(state: RetryCallState) -> float:
    """Seconds before the next attempt: what the server asked for, else random up to 1, 2, 4, … s."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, Transient) and error.retry_after_s is not None:
        return min(error.retry_after_s, LONGEST_WAIT_S)
    return float(wait_random_exponential(multiplier=1, max=60)(state))


def _seconds(retry_after: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds either seconds or a date; None if there is none or it is broken."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None


def _server_message(raw: bytes) -> str:
    """The reason in an error body: OpenAI's `error.message`, else `message` or `detail`, else the text itself."""
    text = raw[:4000].decode("utf-8", "replace")
    try:
        body = json.loads(text)
    except ValueError:
        return text.strip() or "(empty body)"
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return error if isinstance(error, str) else json.dumps(error)


def _read(request: Request, answer: dict[str, Any]) -> Reply:
    """The reply from a decoded answer: `reasoning` (new servers), `reasoning_content` (old ones), else tags.

    Raises KeyError, IndexError, TypeError, ValueError or AttributeError where the answer is no chat completion.
    """
    choice = answer["choices"][0]
    message = choice["message"]
    content = message.get("content") or ""
    think = message.get("reasoning") or message.get("reasoning_content")
    if think is None:
        think, content = split_think(content)
    if not isinstance(content, str):
        raise TypeError("content is no text")
    usage = answer.get("usage") or {}
    logprobs = [float(token["logprob"]) for token in (choice.get("logprobs") or {}).get("content") or []]
    return Reply(
        response_id=request.response_id,
        think_content=think,
        answer_content=content,
        finish_reason=choice.get("finish_reason"),
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
        mean_logprob=sum(logprobs) / len(logprobs) if logprobs else None,
        latency_s=0.0,
    )
