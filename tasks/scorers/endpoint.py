"""The `vllm` engine of the score stage: a server that has the model, asked by POST /v1/completions.

The prompt is token ids, so that the server adds nothing and cuts nothing, and `prompt_logprobs: 0` asks for the
log-probability of each of them. A server that read part of a prompt from its prefix cache has computed none for that
part, or an older one's: it is refused where the reply shows it (`cached_tokens`, which takes
--enable-prompt-tokens-details). Not covered: several servers, and servers that are no vLLM (they have no
`prompt_logprobs`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from tasks.scorers.scorer import Failure, ScorerError
from tasks.scorers.settings import VLLMScorerSettings
from tasks.teachers.api_key import key_from_environment
from tasks.verifiers.judge_endpoint import Endpoint, EndpointFault, Session


class VLLMScorer:
    """Asks with up to `concurrency` requests in flight. Raises BadSetting where the key's variable is empty."""

    def __init__(self, settings: VLLMScorerSettings) -> None:
        key = key_from_environment(f"scorer {settings.name}", settings.api_key_env)
        self._settings = settings
        self._endpoint = Endpoint(settings.base_url, key, settings.concurrency, settings.timeout_s, settings.attempts)
        self.version = "vllm"

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray | Failure]:
        """See `Scorer.logprobs`. Raises ScorerError where the server's numbers can't be trusted."""
        return self._endpoint.each(sequences, self._one)

    async def _one(self, session: Session, ids: Sequence[int]) -> np.ndarray | Failure:
        body = {
            "model": self._settings.model, "prompt": list(ids), "prompt_logprobs": 0, "max_tokens": 1, "temperature": 0,
        }  # fmt: skip
        try:
            return await session.post("/v1/completions", body, lambda payload: read_logprobs(payload, ids))
        except EndpointFault as fault:
            return Failure(" ".join(self._endpoint.without_key(str(fault)).split())[:300])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def read_logprobs(payload: str, ids: Sequence[int]) -> np.ndarray:
    """The log-probability of each of `ids` in a reply of /v1/completions, 0 for the first. Raises EndpointFault for
    what is no such reply, ScorerError for a server that has none to give."""
    try:
        reply: dict[str, Any] = json.loads(payload)
        [choice] = reply["choices"]
        found = choice.get("prompt_logprobs")
        cached = ((reply.get("usage") or {}).get("prompt_tokens_details") or {}).get("cached_tokens")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise EndpointFault(f"not a reply of /v1/completions: {payload[:200]}", again=True) from None
    if cached:
        raise ScorerError(f"the scorer's server read {cached} tokens from its prefix cache and computed nothing for "
                          "them; start it with --no-enable-prefix-caching")  # fmt: skip
    if found is None:
        raise ScorerError("the scorer's server gives no prompt_logprobs: it must be a vLLM server (`vllm serve MODEL "
                          "--no-enable-prefix-caching`)")  # fmt: skip
    if not isinstance(found, list) or len(found) != len(ids):
        raise EndpointFault(f"log-probabilities of {_length(found)} tokens for {len(ids)} tokens sent", again=False)
    try:
        row = [0.0] + [float(one[str(token)]["logprob"]) for token, one in zip(ids[1:], found[1:], strict=True)]
    except (LookupError, TypeError, ValueError):
        raise EndpointFault("a token that was sent has no log-probability in the reply", again=False) from None
    values = np.array(row)
    if not np.isfinite(values).all():
        raise EndpointFault("a log-probability in the reply is not a number", again=False)
    return values


def _length(found: object) -> str:
    return str(len(found)) if isinstance(found, list) else type(found).__name__
