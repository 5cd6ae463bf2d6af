"""The `transformers` engine of the score stage: one forward pass a batch, no sampling.

Logits of a whole batch would take tokens × vocabulary floats (5 GB for 8,192 tokens of a vocabulary of 152,000), so the
head is applied to slices of the hidden states. Models that do more than that after their head (soft caps, scales) are
found by a trial at loading and run as a whole, one sequence at a time. Not covered: several GPUs for one model (a vLLM
server does that), and models that need code of their own (`trust_remote_code` is off).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from pickle import UnpicklingError
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from tasks.scorers.rendering import weights_source
from tasks.scorers.scorer import Failure, ScorerError
from tasks.scorers.settings import TransformersScorerSettings

LOGITS_AT_ONCE = 1 << 26
"""floats of log-softmax in work at any time: 256 MiB"""
SAME = 1e-3
"""How far two ways to the same log-probability may lie apart, in nats, at the weights' own precision."""


class TransformersScorer:
    """A causal language model; loaded by the first `logprobs`, freed by leaving the `with` block."""

    def __init__(self, settings: TransformersScorerSettings) -> None:
        self._settings = settings
        wish = settings.device
        self._device = wish if wish != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        self._dtype: str = settings.dtype
        if self._dtype == "auto" and self._device == "cpu":
            self._dtype = "float32"
        self.version = f"transformers, {'stored dtype' if self._dtype == 'auto' else self._dtype}"
        self._batch_tokens = settings.batch_tokens
        self._net: Any = None
        self._head_apart = False

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray | Failure]:
        """See `Scorer.logprobs`. Out of GPU memory: smaller batches from then on; a sequence that fits alone in none is
        a Failure."""
        if sequences and self._net is None:
            self._load()
        found: dict[int, np.ndarray | Failure] = {}
        for batch in self._batches(sequences):
            found |= self._score(batch, sequences)
        return [found[place] for place in range(len(sequences))]

    def _batches(self, sequences: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Places of sequences of about one length, longest first: what does not fit into memory shows at once."""
        batch: list[int] = []
        for place in sorted(range(len(sequences)), key=lambda place: (-len(sequences[place]), place)):
            if batch and (len(batch) + 1) * len(sequences[batch[0]]) > self._batch_tokens:
                yield batch
                batch = []
            batch.append(place)
        if batch:
            yield batch

    def _score(self, batch: list[int], sequences: Sequence[Sequence[int]]) -> dict[int, np.ndarray | Failure]:
        try:
            rows = self._forward([sequences[place] for place in batch])
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            if len(batch) == 1:
                return {batch[0]: Failure(f"out of GPU memory with {len(sequences[batch[0]])} tokens")}
            half = len(batch) // 2
            self._batch_tokens = max(1, half * len(sequences[batch[0]]))
            return self._score(batch[:half], sequences) | self._score(batch[half:], sequences)
        return {
            place: row if np.isfinite(row).all() else Failure(f"not a number in {self._dtype}; set another dtype")
            for place, row in zip(batch, rows, strict=True)
        }

    def _forward(self, batch: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Padded on the right, which a causal model never looks at."""
        with torch.inference_mode():
            if not self._head_apart:
                return [self._whole(ids) for ids in batch]
            longest = max(len(ids) for ids in batch)
            ids = torch.zeros((len(batch), longest), dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, one in enumerate(batch):
                ids[row, : len(one)] = torch.tensor(one)
                mask[row, : len(one)] = 1
            ids, mask = ids.to(self._device), mask.to(self._device)
            hidden = self._net.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            there = mask[:, 1:].bool()
            states, targets = hidden[:, :-1][there], ids[:, 1:][there]
            flat = self._of_states(states, targets).cpu().numpy()
        ends = np.cumsum([len(one) - 1 for one in batch])
        return [np.concatenate([[0.0], row]) for row in np.split(flat.astype(np.float64), ends[:-1])]

    def _of_states(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of `targets` (n) after hidden states (n × width), a slice of logits at a time."""
        head = self._net.get_output_embeddings()
        size = max(1, LOGITS_AT_ONCE // int(self._net.config.get_text_config().vocab_size))
        parts = [
            _chosen(head(states[start : start + size]), targets[start : start + size])
            for start in range(0, len(targets), size)
        ]
        return torch.cat(parts) if parts else torch.zeros(0)

    def _whole(self, ids: Sequence[int]) -> np.ndarray:
        """By the model's own logits."""
        tokens = torch.tensor([list(ids)], device=self._device)
        logits = self._net(input_ids=tokens, use_cache=False).logits[0, :-1]
        size = max(1, LOGITS_AT_ONCE // logits.shape[1])
        parts = [
            _chosen(logits[start : start + size], tokens[0, 1:][start : start + size])
            for start in range(0, len(logits), size)
        ]
        return np.concatenate([[0.0], *(part.cpu().numpy().astype(np.float64) for part in parts)])

    def _load(self) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # would tear the caller's own bars
        source, hub = weights_source(self._settings.model, self._settings.revision)
        try:
            net: Any = AutoModelForCausalLM.from_pretrained(source, dtype=self._dtype, trust_remote_code=False, **hub)
        except UnpicklingError as fault:
            raise ScorerError(
                f"scorer {self._settings.name}: the weights of {self._settings.model} are a pickle that holds more "
                "than numbers, which could run code; take a model with safetensors"
            ) from fault
        except (OSError, ValueError) as fault:
            why = " ".join(str(fault).split())[:300]
            raise ScorerError(f"scorer {self._settings.name}: can't load {self._settings.model}: {why}") from fault
        self._net = net.to(self._device).eval()
        self._head_apart = self._net.get_output_embeddings() is not None and self._trial()

    def _trial(self) -> bool:
        """Whether slices of the head give what the model itself gives."""
        trial = [(7 * place) % self._net.config.get_text_config().vocab_size for place in range(12)]
        with torch.inference_mode():
            expected = self._whole(trial)
        self._head_apart = True
        found = self._forward([trial])[0]
        return bool(np.abs(found - expected).max() < SAME)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._net = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _chosen(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log softmax of n × vocabulary logits at the n targets, in float32."""
    logits = logits.float()
    return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(dim=1)
