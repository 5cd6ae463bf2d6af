"""What is said to `/chat/completions`, and what is read from its answers, whole or streamed.

A server may be wrong in any way: whatever is no chat completion raises NotACompletion, and no text that Parquet can't
hold gets through.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from tasks.teachers.teacher import THINK_CLOSE, THINK_OPEN, Reply, Request, split_think

LARGEST_ANSWER = 256 << 20
"""Bytes of one answer; more than that is a server gone wild."""
OWN_FIELDS = ("continuations", "prompt")
"""of `Request.sampling`: they are carried out here, or only kept with the response, and not sent"""


class NotACompletion(ValueError):
    """The server's answer has another shape than a chat completion."""


@dataclass(frozen=True)
class Piece:
    """One answer of the server, or several that continue each other."""

    reasoning: str | None
    content: str
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    logprob_sum: float = 0.0
    logprobs: int = 0

    def then(self, more: Piece) -> Piece:
        """This piece continued by `more`. The tokens are all that were paid for, the prompt's once."""
        reasoning = None if self.reasoning is None and more.reasoning is None else ""
        if reasoning is not None:
            reasoning = (self.reasoning or "") + (more.reasoning or "")
        counts = (self.completion_tokens, more.completion_tokens)
        return replace(
            more,
            reasoning=reasoning,
            content=self.content + more.content,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=None if None in counts else sum(counts),  # type: ignore[arg-type]
            logprob_sum=self.logprob_sum + more.logprob_sum,
            logprobs=self.logprobs + more.logprobs,
        )

    def prefill(self) -> str:
        """The text so far as the model wrote it, for the server to go on from."""
        if self.reasoning is None:
            return self.content
        if not self.content:
            return f"{THINK_OPEN}\n{self.reasoning}"
        return f"{THINK_OPEN}\n{self.reasoning}\n{THINK_CLOSE}\n\n{self.content}"

    def reply(self, request: Request, latency_s: float) -> Reply:
        """Thinking from the server's own field, else from tags in the text."""
        think, answer = self.reasoning, self.content
        if think is None:
            think, answer = split_think(answer)
        mean = self.logprob_sum / self.logprobs if self.logprobs else None
        return Reply(request.response_id, think, answer, self.finish_reason, self.prompt_tokens,
                     self.completion_tokens, mean, latency_s)  # fmt: skip


def chat_body(model: str, request: Request, extra: dict[str, Any], so_far: Piece | None, stream: bool) -> bytes:
    """The request's JSON. `so_far`: an answer that was cut off, which vLLM is asked to continue in place.

    Raises TypeError or ValueError where a setting has no JSON.
    """
    body: dict[str, Any] = {"model": model, "messages": list(request.messages)}
    body |= request.sampling
    body |= extra
    for name in OWN_FIELDS:
        body.pop(name, None)
    if request.seed is not None:
        body["seed"] = request.seed
    if not body.get("stop"):
        body.pop("stop", None)
    if so_far is not None:
        body["messages"].append({"role": "assistant", "content": so_far.prefill()})
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body).encode()


def read_answer(raw: bytes | bytearray) -> Piece:
    """A whole answer: `reasoning` (new servers), `reasoning_content` (old ones), content. Raises NotACompletion."""
    try:
        answer = json.loads(raw)
        choice = answer["choices"][0]
        message = choice["message"]
        reasoning = message.get("reasoning") or message.get("reasoning_content")
        return _piece(reasoning, message.get("content"), choice.get("finish_reason"), answer.get("usage"),
                      _logprobs(choice))  # fmt: skip
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise NotACompletion(f"{type(error).__name__}: {error}") from None


async def read_stream(chunks: AsyncIterator[bytes]) -> Piece:
    """An answer streamed as server-sent events, complete only with its `[DONE]`. Raises NotACompletion."""
    reasoning: list[str] = []
    content: list[str] = []
    finish_reason = usage = None
    logprobs: list[float] = []
    async for data in _events(chunks):
        if data == b"[DONE]":
            text = "".join(reasoning) if reasoning else None
            return _piece(text, "".join(content), finish_reason, usage, logprobs)
        try:
            event = json.loads(data)
            if event.get("error"):
                raise NotACompletion(f"the server broke off: {json.dumps(event['error'])[:200]}")
            usage = event.get("usage") or usage
            for choice in event.get("choices") or ():
                delta = choice.get("delta") or {}
                if part := delta.get("reasoning") or delta.get("reasoning_content"):
                    reasoning.append(part)
                if part := delta.get("content"):
                    content.append(part)
                finish_reason = choice.get("finish_reason") or finish_reason
                logprobs += _logprobs(choice)
        except NotACompletion:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise NotACompletion(f"{type(error).__name__}: {error}") from None
    raise NotACompletion("the stream ended before its [DONE]")


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of each event; our servers write one line an event."""
    rest, size = b"", 0
    async for chunk in chunks:
        size += len(chunk)
        if size > LARGEST_ANSWER:
            raise NotACompletion(f"more than {LARGEST_ANSWER} bytes")
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _piece(reasoning: Any, content: Any, finish_reason: Any, usage: Any, logprobs: list[float]) -> Piece:
    if not isinstance(reasoning, str | None) or not isinstance(content, str | None):
        raise NotACompletion(f"content is {type(content).__name__}, reasoning {type(reasoning).__name__}; want text")
    usage = usage if isinstance(usage, dict) else {}
    return Piece(
        None if reasoning is None else storable(reasoning),
        storable(content or ""),
        storable(finish_reason) if isinstance(finish_reason, str) else None,
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        math.fsum(logprobs),
        len(logprobs),
    )


def storable(text: str) -> str:
    """The text without NUL characters and lone surrogates, which Parquet readers and tokenizers break on; U+FFFD
    stands in their place, since the response is paid for."""
    if "\x00" in text:
        text = text.replace("\x00", "\ufffd")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _logprobs(choice: dict[str, Any]) -> list[float]:
    found = [float(token["logprob"]) for token in (choice.get("logprobs") or {}).get("content") or []]
    return [value for value in found if math.isfinite(value)]
