"""What the `transformers` engine watches while tokens are sampled: log-probabilities, ends, stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class Watch:
    """Follows one batch through `generate`, one step at a time, and keeps three numbers a row.

    Keeping all scores would take steps × rows × vocabulary floats (4 GB for 128 rows of 160 tokens); this keeps one
    step. The log-probabilities are the model's own, before temperature and truncation, as vLLM reports them.
    """

    def __init__(
        self,
        tokenizer: Any,
        width: int,
        eos: Sequence[int],
        stops: Sequence[str],
        rows: int,
        device: torch.device,
    ) -> None:
        self.tokenizer, self.width, self.stops = tokenizer, width, [stop for stop in stops if stop]
        # A token is at least one byte, so a stop string lies within its number of bytes in tokens, and one more.
        self.tail = 1 + max((len(stop.encode()) for stop in self.stops), default=0)
        self.eos = torch.tensor(list(eos), device=device)
        self.done = torch.zeros(rows, dtype=torch.bool, device=device)
        self._count = torch.zeros(rows, dtype=torch.long, device=device)
        self._sum = torch.zeros(rows, dtype=torch.float32, device=device)
        self._scores: torch.Tensor | None = None

    def see(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """A logits processor (scores: rows × vocabulary) that changes nothing."""
        self._scores = scores
        return scores

    def judge(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """A stopping criterion, called after each sampled token: rows × bool, True where a row has ended."""
        assert self._scores is not None
        token = input_ids[:, -1]
        chosen = self._scores.gather(1, token[:, None])[:, 0] - self._scores.logsumexp(dim=1)
        running = ~self.done
        self._sum += torch.where(running, chosen.float(), 0.0)
        self._count += running
        self.done = self.done | torch.isin(token, self.eos)
        if self.stops:
            rows = (~self.done).nonzero()[:, 0]
            begin = max(self.width, input_ids.shape[1] - self.tail)
            tails = self.tokenizer.batch_decode(input_ids[rows, begin:])
            hit = [any(stop in tail for stop in self.stops) for tail in tails]
            self.done[rows] = torch.tensor(hit, dtype=torch.bool, device=self.done.device)
        return self.done

    def lengths(self) -> list[int]:
        """Tokens sampled in each row, the end token included."""
        return [int(n) for n in self._count.tolist()]

    def mean_logprobs(self) -> list[float]:
        """Mean log-probability (natural, ≤ 0) of the sampled tokens of each row."""
        return [float(x) for x in (self._sum / self._count.clamp(min=1)).tolist()]


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string, as OpenAI-compatible servers return it."""
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(ends)] if ends else text
