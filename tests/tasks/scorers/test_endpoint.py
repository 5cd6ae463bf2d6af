"""Proves the vLLM scorer against a server on loopback whose log-probabilities are those of the real SmolLM2: numbers,
what is asked again, what is given up, and which servers are refused. `docs/score.md` says what a real vLLM answered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from tasks.errors import BadSetting
from tasks.scorers.endpoint import VLLMScorer
from tasks.scorers.local import TransformersScorer
from tasks.scorers.scorer import Failure, ScorerError
from tasks.scorers.settings import TransformersScorerSettings, VLLMScorerSettings
from tests.tasks.scorers.serving import Server, vllm_server

IDS = [[1, 9690, 198, 2683], [1, 504, 2988, 314, 3814], [5, 6]]


@pytest.fixture(scope="module")
def running(smollm2_cache: Path) -> Iterator[Server]:
    with vllm_server() as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    running.bodies.clear()
    running.keys.clear()
    running.twist = lambda body, reply: None
    return running


def scorer(server: Server, **more: Any) -> VLLMScorer:
    return VLLMScorer(VLLMScorerSettings(name="s", engine="vllm", model="smol", base_url=server.url, **more))


def failing(times: int, status: int) -> Any:
    """A twist that answers the first `times` requests with `status`."""
    left = [times]

    def twist(body: dict[str, Any], reply: dict[str, Any]) -> web.Response | None:
        left[0] -= 1
        return web.Response(status=status, text="no: key-5") if left[0] >= 0 else None

    return twist


def test_numbers_are_those_of_the_model_in_the_order_asked(server):
    local = TransformersScorer(TransformersScorerSettings(name="l", engine="transformers"))
    with scorer(server) as served, local as own:
        found, expected = served.logprobs(IDS), own.logprobs(IDS)
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one - other).max() < 1e-4
    assert sorted(body["prompt"] for body in server.bodies) == sorted(IDS)
    assert {body["model"] for body in server.bodies} == {"smol"} and set(server.keys) == {None}


def test_the_key_is_sent_and_never_told(server, monkeypatch):
    monkeypatch.setenv("SCORER_KEY", "key-5")
    server.twist = failing(9, 401)
    [found] = scorer(server, api_key_env="SCORER_KEY").logprobs(IDS[:1])
    assert server.keys == ["Bearer key-5"]  # asked once: another attempt would not help
    assert found == Failure("HTTP 401: no: ***")
    monkeypatch.delenv("SCORER_KEY")
    with pytest.raises(BadSetting, match="scorer s: the environment variable SCORER_KEY is empty"):
        scorer(server, api_key_env="SCORER_KEY")


@pytest.mark.parametrize("status", [429, 503])
def test_what_may_pass_is_asked_again(server, status):
    server.twist = failing(1, status)
    [found] = scorer(server).logprobs(IDS[:1])
    assert isinstance(found, np.ndarray) and len(server.bodies) == 2
    server.twist = failing(9, status)
    [found] = scorer(server, attempts=1).logprobs(IDS[:1])
    assert isinstance(found, Failure) and str(status) in found.reason


@pytest.mark.parametrize("status", [400, 404])
def test_what_the_server_refuses_is_not_asked_again(server, status):
    server.twist = failing(1, status)
    [found] = scorer(server).logprobs(IDS[:1])
    assert isinstance(found, Failure) and str(status) in found.reason and len(server.bodies) == 1


def test_a_server_that_is_not_there_is_a_failure_for_now():
    gone = VLLMScorerSettings(name="s", engine="vllm", model="m", base_url="http://127.0.0.1:9", attempts=1)
    found = VLLMScorer(gone).logprobs(IDS)
    assert len(found) == 3 and all(isinstance(one, Failure) for one in found)


def test_a_server_that_reads_its_prefix_cache_is_refused(server):
    def cached(body: dict[str, Any], reply: dict[str, Any]) -> None:
        reply["usage"]["prompt_tokens_details"] = {"cached_tokens": 16}

    server.twist = cached
    with pytest.raises(ScorerError, match=r"16 tokens from its prefix cache.*--no-enable-prefix-caching"):
        scorer(server).logprobs(IDS)


def test_a_server_that_knows_no_prompt_logprobs_is_refused(server):
    server.twist = lambda body, reply: reply["choices"][0].pop("prompt_logprobs") and None
    with pytest.raises(ScorerError, match="gives no prompt_logprobs"):
        scorer(server).logprobs(IDS)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda entries: entries.pop(), "of 3 tokens for 4 tokens sent"),
        (lambda entries: entries.__setitem__(2, {"77": {"logprob": -1.0}}), "has no log-probability"),
        (lambda entries: entries.__setitem__(2, None), "has no log-probability"),
        (lambda entries: entries[2]["198"].__setitem__("logprob", float("nan")), "is not a number"),
    ],
)
def test_a_reply_with_other_tokens_or_none_is_no_score(server, change, reason):
    server.twist = lambda body, reply: change(reply["choices"][0]["prompt_logprobs"]) and None
    [found] = scorer(server).logprobs(IDS[:1])
    assert isinstance(found, Failure) and reason in found.reason


def test_a_senseless_reply_is_asked_again(server):
    replies = ["<html>", '{"choices": []}', "[]"]
    server.twist = lambda body, reply: web.Response(text=replies.pop()) if replies else None
    [found] = scorer(server, attempts=4).logprobs(IDS[:1])
    assert isinstance(found, np.ndarray) and len(server.bodies) == 4
