"""The think/answer split, and what a failed request looks like."""

from __future__ import annotations

import pytest

from tasks.teachers.teacher import Request, failed, split_think


@pytest.mark.parametrize(
    ("text", "think", "answer"),
    [
        ("<think>\n2 + 2\n</think>\n\n4", "2 + 2", "4"),
        ("2 + 2\n</think>\n4", "2 + 2", "4"),  # the template opened the thinking in the prompt
        ("<think>2 + 2 is", "2 + 2 is", ""),  # truncated
        ("  <think></think> 4 ", "", "4"),
        ("4", None, "4"),
        ("", None, ""),
        ("<think>a</think>the tag </think> closes", "a", "the tag </think> closes"),
        ("the tag <think> opens", None, "the tag <think> opens"),
    ],
)
def test_split_think(text: str, think: str | None, answer: str) -> None:
    assert split_think(text) == (think, answer)


def test_a_failed_request_is_a_reply_of_one_short_line() -> None:
    request = Request("r", "q", 0, ({"role": "user", "content": "?"},), {}, None)
    reply = failed(request, "first line\n  second line " + "x" * 1000, "transient", 1.5)
    assert (reply.response_id, reply.error_kind, reply.latency_s) == ("r", "transient", 1.5)
    assert reply.error is not None and reply.error.startswith("first line second line xxx")
    assert len(reply.error) == 300 and reply.answer_content is None and reply.finish_reason is None
