"""An OpenAI-compatible server on loopback that misbehaves: in the bytes and the sockets, not in a mock.

Which attempt meets which fault is drawn from the request's id and how often it was asked, so that every run meets the
same faults. It counts in `delivered` the responses that it has fully delivered: whole, well-formed completions whose
last byte was handed to the kernel on a connection that the client had not closed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import struct
import threading
from collections import Counter
from types import TracebackType
from typing import Any, Self

FAULTS = ("500", "429", "reset", "hang", "garbage", "truncated", "loris", "empty")


class BadServer:
    """A context manager. `share`: of attempts that meet a fault; `pause_s`: before each good answer."""

    def __init__(self, share: float, *, pause_s: float = 0.0) -> None:
        self.share, self.pause_s = share, pause_s
        self.asked: Counter[str] = Counter()
        self.delivered: dict[str, list[int]] = {}
        self.met: Counter[str] = Counter()
        self.waits: tuple[int, threading.Event] | None = None
        """set the event when so many responses are delivered"""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bad-server")
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def when_delivered(self, number: int) -> threading.Event:
        event = threading.Event()
        self.waits = (number, event)
        return event

    def settled(self) -> None:
        """Wait until what was going on when this was called is counted."""
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.1), self._loop).result(20)

    def __enter__(self) -> Self:
        self._thread.start()
        begin = asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=1024)
        self._server = asyncio.run_coroutine_threadsafe(begin, self._loop).result(20)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async def stop() -> None:
            self._server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if not head.startswith("post"):
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return True
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        key = headers["x-request-id"].rsplit("-", 1)[0]
        self.asked[key] += 1
        draw = hashlib.blake2b(f"{key} {self.asked[key]}".encode()).digest()
        if int.from_bytes(draw[:4]) < self.share * 2**32:
            fault = FAULTS[draw[4] % len(FAULTS)]
            self.met[fault] += 1
            return await self._misbehave(fault, body, key, reader, writer)
        if self.pause_s:
            await asyncio.sleep(self.pause_s)
        writer.write(answer(body, key))
        await writer.drain()
        if writer.is_closing() or reader.at_eof():
            return False
        self.delivered.setdefault(key, []).append(tokens(key))
        if self.waits and len(self.delivered) >= self.waits[0]:
            self.waits[1].set()
        return True

    async def _misbehave(
        self, fault: str, body: dict[str, Any], key: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        whole = answer(body, key)
        if fault == "500":
            writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\noops")
        elif fault == "429":
            writer.write(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")
        elif fault == "garbage":
            writer.write(_ok(b"\x00\xff<html>{not json"))
        elif fault == "empty":
            writer.write(_ok(json.dumps({"choices": [], "usage": {"completion_tokens": 9}}).encode()))
        elif fault == "hang":
            await reader.read()  # until the client gives up
            return False
        elif fault == "truncated":
            writer.write(whole[: -len(whole) // 3])
            return False
        elif fault == "reset":
            writer.write(whole[: -len(whole) // 3])
            await writer.drain()
            _reset_on_close(writer)
            return False
        elif fault == "loris":
            await _drip(whole, reader, writer)
            return False
        await writer.drain()
        return True


async def _drip(data: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A byte now and then, never the last one."""
    for at in range(len(data) - 1):
        writer.write(data[at : at + 1])
        await writer.drain()
        try:
            await asyncio.wait_for(reader.read(), 0.25)
            return  # the client gave up
        except TimeoutError:
            continue


def _reset_on_close(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def tokens(key: str) -> int:
    """Of the response to a request, 1..997: a sum over requests tells if one is missing or counted twice."""
    return int(key[:8], 16) % 997 + 1


def answer(body: dict[str, Any], key: str) -> bytes:
    """The whole HTTP answer, streamed if the request asks for that."""
    usage = {"prompt_tokens": 9, "completion_tokens": tokens(key)}
    text = f"<think>of {key}</think>answer to {key}"
    if not body.get("stream"):
        message = {"role": "assistant", "content": text}
        return _ok(json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}).encode())
    parts = [{"choices": [{"delta": {"content": text[at : at + 16]}}]} for at in range(0, len(text), 16)]
    parts += [{"choices": [{"delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": usage}]
    events = b"".join(b"data: %s\n\n" % json.dumps(part).encode() for part in parts)
    return _ok(events + b"data: [DONE]\n\n")


def _ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
