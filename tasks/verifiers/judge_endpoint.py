"""A model server asked by POST: so many requests at a time, each with so many attempts. For the judge and the reward
model; what is asked and how a reply is read is theirs. Streaming replies are not covered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import aiohttp
import tenacity

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")
Read = TypeVar("Read")


class EndpointFault(Exception):
    """No usable reply; `again` if another attempt may help, `status` is the HTTP status where there is one."""

    def __init__(self, message: str, *, again: bool, status: int | None = None) -> None:
        super().__init__(message)
        self.again, self.status = again, status


class Endpoint:
    """`base_url` is the server's root, with or without `/v1`; `timeout_s` bounds one request, `attempts` counts them.

    Raises `ValueError` for settings out of range.
    """

    def __init__(self, base_url: str, api_key: str | None, concurrency: int, timeout_s: float, attempts: int) -> None:
        if concurrency < 1 or attempts < 1 or timeout_s <= 0:
            raise ValueError(
                f"wanted concurrency >= 1, attempts >= 1, timeout_s > 0; got {concurrency}, {attempts}, {timeout_s}"
            )
        self.root = base_url.rstrip("/").removesuffix("/v1")
        self._api_key = api_key
        self._concurrency, self._timeout_s, self._attempts = concurrency, timeout_s, attempts

    def each(self, asked: Sequence[Asked], ask: Callable[[Session, Asked], Awaitable[Answered]]) -> list[Answered]:
        """`ask` for each, at most `concurrency` at a time, in the same order. From any thread, also one that runs an
        event loop."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._each(asked, ask))
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: asyncio.run(self._each(asked, ask))).result()

    async def _each(
        self, asked: Sequence[Asked], ask: Callable[[Session, Asked], Awaitable[Answered]]
    ) -> list[Answered]:
        headers = {} if self._api_key is None else {"Authorization": f"Bearer {self._api_key}"}
        slots = asyncio.Semaphore(self._concurrency)
        connector = aiohttp.TCPConnector(limit=self._concurrency)
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        async with aiohttp.ClientSession(headers=headers, connector=connector, timeout=timeout) as client:
            session = Session(client, self.root, self._timeout_s, self._attempts)

            async def one(question: Asked) -> Answered:
                async with slots:
                    return await ask(session, question)

            return await asyncio.gather(*(one(question) for question in asked))

    def without_key(self, text: str) -> str:
        """The text as it may be stored: servers repeat a refused key in their message."""
        return text.replace(self._api_key, "***") if self._api_key else text


class Session:
    """Open connections to the endpoint, for the time of one `each`."""

    def __init__(self, client: aiohttp.ClientSession, root: str, timeout_s: float, attempts: int) -> None:
        self._client, self._root, self._timeout_s, self._attempts = client, root, timeout_s, attempts

    async def post(self, path: str, body: dict[str, Any], read: Callable[[str], Read]) -> Read:
        """What `read` makes of the reply to the body as JSON. `read` raises `EndpointFault` for a reply it can't use,
        and so does this, after all attempts."""
        attempts = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self._attempts),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=20),
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, EndpointFault) and error.again),
            reraise=True,
        )
        reply: Read = await attempts(self._once, path, body, read)
        return reply

    async def _once(self, path: str, body: dict[str, Any], read: Callable[[str], Read]) -> Read:
        try:
            # No redirects: they would carry the key to a host that the recipe doesn't name.
            async with self._client.post(f"{self._root}{path}", json=body, allow_redirects=False) as reply:
                status, payload = reply.status, await reply.text(errors="replace")
        except TimeoutError:
            raise EndpointFault(f"no reply in {self._timeout_s:g} s", again=True) from None
        except aiohttp.ClientError as error:
            raise EndpointFault(f"{type(error).__name__}: {error}", again=True) from None
        if status != 200:
            again = status in (408, 409, 425, 429) or status >= 500
            raise EndpointFault(f"HTTP {status}: {payload[:300]}", again=again, status=status)
        return read(payload)
