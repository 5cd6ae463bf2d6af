"""A reward model on a vLLM server: `vllm serve MODEL --runner pooling`, asked by POST /classify.

The server gets the dialogue as messages and applies the model's chat template, once: no special tokens are added to
those of the template. Raw outputs are asked for (`use_activation: false`), since a softmax over attributes would be
none of them. Of a dialogue that is too long for the model the server reads the end. What is not covered: the names of
several outputs, which such a server doesn't tell (`verify.reward.outputs` does), and servers before vLLM 0.32, which
may not know one of these settings and ignore it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.verifiers.judge_endpoint import Endpoint, EndpointFault, Session
from tasks.verifiers.reward_rule import (
    RULES_REVISION,
    RewardModelError,
    RewardRules,
    dialogue,
    empty_answer,
    judge_outputs,
)
from tasks.verifiers.verdict import Item, Judgement, settings_hash, unscored


@dataclass(frozen=True)
class _Outputs:
    row: list[float]
    prompt_tokens: int | None


class RewardEndpoint:
    """Score 0..1 of an answer to its question, as `rules` say.

    `base_url` is the server's root, with or without `/v1`; `outputs` names the model's outputs in order, None for one
    output. The endpoint and the key are no part of `version`; the model, its revision and the rules are. Raises
    ValueError for settings out of range; `judge` raises RewardModelError where outputs and rules don't fit.
    """

    name = "reward"

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        concurrency: int = 16,
        timeout_s: float = 120.0,
        attempts: int = 3,
        *,
        revision: str | None = None,
        rules: RewardRules | None = None,
        outputs: Sequence[str] | None = None,
    ) -> None:
        self._endpoint = Endpoint(base_url, api_key, concurrency, timeout_s, attempts)
        self.model, self.revision = model, revision
        self.rules = rules or RewardRules()
        self.outputs = tuple(outputs or ("reward",))
        self.threshold = self.rules.default.threshold
        self.rules.check(model, self.outputs)

    @property
    def version(self) -> str:
        """Model and revision, our rules, hash of the settings. The server's own version is not known to it."""
        settings = settings_hash({"rules": self.rules.as_json(), "outputs": self.outputs})
        model = self.model if self.revision is None else f"{self.model}@{self.revision}"
        return f"{model} on a server; rules {RULES_REVISION}; settings {settings}"

    def judge(self, items: Sequence[Item]) -> list[Judgement]:
        """One judgement an item. Statuses: accepted, wrong_answer, no_answer, infra_error."""
        return self._endpoint.each(items, self._judge_one)

    async def _judge_one(self, session: Session, item: Item) -> Judgement:
        if not item.answer_content.strip():
            return empty_answer()
        body: dict[str, object] = {
            "model": self.model,
            "messages": dialogue(item),
            "use_activation": False,
            "add_special_tokens": False,  # the template has them
            "truncate_prompt_tokens": -1,
            "truncation_side": "left",
        }
        started = time.perf_counter()
        try:
            found = await session.post("/classify", body, read_outputs)
        except EndpointFault as fault:
            reason = self._endpoint.without_key(str(fault))
            return unscored("infra_error", reason, time.perf_counter() - started, model=self.model)
        if len(found.row) != len(self.outputs):
            raise RewardModelError(
                f"{self.model} has {len(found.row)} outputs, the recipe names {len(self.outputs)} "
                f"({', '.join(self.outputs)}); name them in order with verify.reward.outputs"
            )
        evidence: dict[str, object] = {"model": self.model}
        if found.prompt_tokens is not None:
            evidence["prompt_tokens"] = found.prompt_tokens
        seconds = time.perf_counter() - started
        return judge_outputs(found.row, self.outputs, self.rules.of(item.category), evidence, seconds)


def read_outputs(payload: str) -> _Outputs:
    """The raw outputs in a reply of /classify, `{"data": [{"probs": [...]}], "usage": {"prompt_tokens": n}}`. Raises
    EndpointFault."""
    try:
        reply = json.loads(payload)
        [entry] = reply["data"]
        row = [float(value) for value in entry["probs"]]
        tokens = (reply.get("usage") or {}).get("prompt_tokens")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise EndpointFault(f"not a reply of /classify: {payload[:200]}", again=True) from None
    if not row:
        raise EndpointFault("the reward model's reply has no outputs", again=True)
    return _Outputs(row, tokens if isinstance(tokens, int) else None)
