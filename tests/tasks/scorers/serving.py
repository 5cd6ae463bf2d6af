"""A server on loopback that answers /v1/completions as vLLM does with `prompt_logprobs`, from a real model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from aiohttp import web
from transformers import AutoModelForCausalLM

from tasks.teachers import smollm2
from tests.tasks.verifiers import loopback

Twist = Callable[[dict[str, Any], dict[str, Any]], "web.Response | None"]
"""Given request and reply: changes the reply, or answers in its place."""


@dataclass
class Server:
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    twist: Twist = lambda body, reply: None


@contextmanager
def vllm_server() -> Iterator[Server]:
    net: Any = AutoModelForCausalLM.from_pretrained(smollm2.model_path(), dtype=torch.float32).eval()
    server = Server()

    async def completions(request: web.Request) -> web.Response:
        body = await request.json()
        server.bodies.append(body)
        server.keys.append(request.headers.get("Authorization"))
        reply = completion(net, body)
        return server.twist(body, reply) or web.Response(text=json.dumps(reply), content_type="application/json")

    with loopback.serving({"/v1/completions": completions}) as url:
        server.url = url
        yield server


def completion(net: Any, body: dict[str, Any]) -> dict[str, Any]:
    """vLLM's reply: of each token of the prompt but the first its own log-probability, under its id, and, where
    another token is likelier, nothing of that one (prompt_logprobs 0)."""
    assert body["prompt_logprobs"] == 0 and body["max_tokens"] == 1
    ids = body["prompt"]
    with torch.inference_mode():
        table = torch.log_softmax(net(input_ids=torch.tensor([ids])).logits[0], dim=-1)
    entries = [
        {str(token): {"logprob": float(table[place, token]), "rank": 1, "decoded_token": "x"}}
        for place, token in enumerate(ids[1:])
    ]
    return {
        "id": "cmpl-1", "object": "text_completion", "model": body["model"],
        "choices": [{"index": 0, "text": " x", "finish_reason": "length", "prompt_logprobs": [None, *entries]}],
        "usage": {"prompt_tokens": len(ids), "completion_tokens": 1, "prompt_tokens_details": None},
    }  # fmt: skip
