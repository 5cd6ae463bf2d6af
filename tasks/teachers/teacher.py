"""The contract between the generate stage and its engines: a request goes in, exactly one reply comes out.

An engine knows nothing of tables, shards or recipes. It gets messages that are already rendered and settings that
are already resolved, and answers in the order in which it finishes. A request that fails is a `Reply` with `error`,
never an exception: a failed request is a row, not a gap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol, Self

Message = dict[str, str]
"""`{"role": ..., "content": ...}`"""

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class Request:
    """One sample that a teacher is asked for."""

    response_id: str
    question_id: str
    sample_index: int
    messages: tuple[Message, ...]
    """Already rendered with the recipe's prompt template."""
    sampling: dict[str, Any]
    """temperature, top_p, top_k, max_tokens, stop (list[str]), …, resolved for this request. `prompt`, if it is there,
    is the name of the template, for the tables: engines don't send it."""
    seed: int | None
    """Derived from `response_id` by the caller; None sends no seed."""


@dataclass(frozen=True)
class Reply:
    """What became of one request. `error` is None exactly when the teacher answered."""

    response_id: str
    think_content: str | None
    answer_content: str | None
    finish_reason: str | None
    """`stop`, `length`, or the server's own word."""
    prompt_tokens: int | None
    completion_tokens: int | None
    mean_logprob: float | None
    """Mean natural-log probability of the sampled tokens, ≤ 0; None where the engine did not report it."""
    latency_s: float
    """Seconds from the sending of the request to its end, retries included."""
    error: str | None = None
    """One line, without secrets."""
    error_kind: Literal["transient", "refused"] | None = None
    """transient: worth asking again by a later run; refused: the same request would be refused again."""


class Teacher(Protocol):
    """An engine. A context manager: leaving it stops what it started and frees the model's memory."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """Yield exactly one `Reply` per request, in completion order; a single request never raises.

        An engine whose settings say `draws_lazily` takes any iterable, and draws from it only as it sends.
        What concerns all requests (a model that can't be loaded, a missing package) does raise: `TeacherError`.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class TeacherError(RuntimeError):
    """The teacher can't work at all; the message names the remedy."""


def split_think(text: str) -> tuple[str | None, str]:
    """Split a trace into its thinking and its answer: `<think>…</think>answer`.

    Many chat templates put the opening tag into the prompt, so a text may hold the closing tag alone: what stands
    before it is thinking too. A thinking part that is never closed (a truncated trace) is all thinking, and the
    answer is empty. Without any tag the thinking is None and the text is the answer. Blanks around both parts go.
    """
    body = text.lstrip()
    opened = body.startswith(THINK_OPEN)
    if opened:
        body = body[len(THINK_OPEN) :]
    think, closed, answer = body.partition(THINK_CLOSE)
    if closed:
        return think.strip(), answer.strip()
    if opened:
        return body.strip(), ""
    return None, text.strip()


def failed(request: Request, error: str, kind: Literal["transient", "refused"], latency_s: float = 0.0) -> Reply:
    """The reply of a request that got no answer; `error` is cut to one line of at most 300 characters."""
    line = " ".join(error.split())
    return Reply(request.response_id, None, None, None, None, None, None, latency_s, line[:300], error_kind=kind)
