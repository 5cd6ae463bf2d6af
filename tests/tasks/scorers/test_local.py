"""Proves the transformers scorer on the real SmolLM2 against transformers' own logits, one sequence at a time, whatever
the batch, and that a model that does more after its head than a product gets its own numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from tasks.scorers import local
from tasks.scorers.local import TransformersScorer
from tasks.scorers.scorer import Failure, ScorerError
from tasks.scorers.settings import TransformersScorerSettings
from tasks.teachers import smollm2

CLOSE = 1e-4


def settings(model: str = smollm2.NAME, **more: Any) -> TransformersScorerSettings:
    return TransformersScorerSettings(name="s", engine="transformers", model=model, device="cpu", **more)


def sequences(vocabulary: int = 49152) -> list[list[int]]:
    draw = np.random.default_rng(5)
    return [draw.integers(0, vocabulary, length).tolist() for length in (7, 90, 1, 33, 2, 90, 150)]


def plain(net: Any, ids: list[int]) -> np.ndarray:
    with torch.inference_mode():
        table = torch.log_softmax(net(input_ids=torch.tensor([ids])).logits[0].float(), dim=-1)
    return np.array([0.0] + [float(table[place, token]) for place, token in enumerate(ids[1:])])


@pytest.fixture(scope="module")
def expected(smollm2_cache: Path) -> list[np.ndarray]:
    net: Any = AutoModelForCausalLM.from_pretrained(smollm2.model_path(), dtype=torch.float32).eval()
    return [plain(net, ids) for ids in sequences()]


def check(found: list[Any], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and np.abs(one - other).max() < CLOSE


@pytest.mark.parametrize("batch_tokens", [1, 200, 8192])
def test_numbers_are_those_of_one_sequence_at_a_time_whatever_the_batch(expected, batch_tokens):
    with TransformersScorer(settings(batch_tokens=batch_tokens)) as scorer:
        check(scorer.logprobs(sequences()), expected)
        assert scorer.logprobs([]) == []
    assert len(expected[0]) == 7 and min(float(one.min()) for one in expected) < -10


def test_the_head_is_applied_to_slices(expected, monkeypatch):
    seen: list[int] = []
    chosen = local._chosen

    def watched(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(len(logits))
        return chosen(logits, targets)

    with TransformersScorer(settings()) as scorer:
        scorer.logprobs([[1, 2]])  # loads
        monkeypatch.setattr(local, "_chosen", watched)
        monkeypatch.setattr(local, "LOGITS_AT_ONCE", 40 * 49152)
        check(scorer.logprobs(sequences()), expected)
    assert max(seen) == 40 and sum(seen) == sum(len(ids) - 1 for ids in sequences())


def test_a_model_that_caps_its_logits_gets_capped_ones(tmp_path):
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=60, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, head_dim=8,
        num_key_value_heads=1, final_logit_softcapping=0.5, initializer_range=1.0, tie_word_embeddings=True,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    net: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with TransformersScorer(settings(str(tmp_path))) as scorer:
        check(scorer.logprobs(sequences(60)), [plain(net, ids) for ids in sequences(60)])
        assert scorer._head_apart is False


def test_memory_that_is_not_there_halves_the_batch_and_costs_only_what_never_fits(expected, monkeypatch):
    forward = TransformersScorer._forward

    def small(self: TransformersScorer, batch: list[list[int]]) -> list[np.ndarray]:
        if sum(map(len, batch)) > 100:
            raise torch.OutOfMemoryError("no")
        return forward(self, batch)

    with TransformersScorer(settings()) as scorer:
        scorer.logprobs([[1, 2]])
        monkeypatch.setattr(TransformersScorer, "_forward", small)
        *found, last = scorer.logprobs(sequences())
    check(found, expected[:-1])
    assert last == Failure("out of GPU memory with 150 tokens")


def test_numbers_that_are_none_are_a_failure(monkeypatch):
    with TransformersScorer(settings()) as scorer:
        monkeypatch.setattr(scorer, "_load", lambda: setattr(scorer, "_net", object()))
        monkeypatch.setattr(scorer, "_forward", lambda batch: [np.full(len(ids), np.nan) for ids in batch])
        found = scorer.logprobs([[1, 2]])
    assert found == [Failure("not a number in float32; set another dtype")]


def test_a_model_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ScorerError, match="can't load"):
        TransformersScorer(settings(str(tmp_path))).logprobs([[1, 2]])
