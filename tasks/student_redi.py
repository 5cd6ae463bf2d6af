"""REDI: `[accelerate launch | python] -m tasks.student_redi CONFIG.json`.

The second stage of "Harnessing Negative Signals" (arXiv 2505.24850): for a verified trace y_w and a failed one y_l of
the same question x,

    L = −log π(y_w|x) / |y_w| + α · log π(y_l|x) / |y_l|

averaged over the pairs of a batch. There is no reference model. |y| is the number of tokens of the completion, its end
mark included. α = 1 collapses at the paper's learning rate; α = 0 is fine-tuning on the verified side alone.

`tasks.student.train_student` writes CONFIG.json, starts this program and reads its result.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase, TrainingArguments

from tasks.student_examples import IGNORED
from tasks.student_pairs import encode_pairs
from tasks.student_program import CountingTrainer, Run, main


@dataclass(frozen=True)
class RediLoss:
    """The loss of a batch of B pairs, and each pair's mean log-probability a token, nats, shape (B,)."""

    loss: torch.Tensor
    chosen: torch.Tensor
    rejected: torch.Tensor


def mean_logprobs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log π(y|x) / |y| of each row, nats, shape (R,).

    `logits` (R, T, V) are those at each position for the next token; `labels` (R, T) are the tokens at the positions
    themselves, IGNORED outside the completion.
    """
    shifted, targets = logits[:, :-1].float(), labels[:, 1:]
    # One row at a time: a float32 copy of all logits is the largest thing there is, at 20,000 tokens.
    rows = [
        -cross_entropy(row, target, ignore_index=IGNORED, reduction="sum") / (target != IGNORED).sum().clamp(min=1)
        for row, target in zip(shifted, targets, strict=True)
    ]
    return torch.stack(rows)


def redi_loss(logits: torch.Tensor, labels: torch.Tensor, alpha: float) -> RediLoss:
    """The objective on 2 B rows, the B chosen ones first, in the order of the rejected ones."""
    chosen, rejected = mean_logprobs(logits, labels).chunk(2)
    return RediLoss((-chosen + alpha * rejected).mean(), chosen, rejected)


class RediTrainer(CountingTrainer):
    """transformers' trainer with the objective above; logs both sides' mean log-probability and how often y_w leads."""

    def __init__(self, *args: Any, alpha: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.alpha = alpha
        self.model_accepts_loss_kwargs = False  # the loss is a mean over pairs: accumulated steps are averaged
        self._seen: dict[str, list[torch.Tensor]] = defaultdict(list)

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False,
                     num_items_in_batch: Any = None) -> Any:  # fmt: skip
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        found = redi_loss(outputs.logits, inputs["labels"], self.alpha)
        if model.training:
            self._seen["logps_chosen"].append(found.chosen.detach().mean())
            self._seen["logps_rejected"].append(found.rejected.detach().mean())
            self._seen["chosen_leads"].append((found.chosen > found.rejected).float().mean())
        return (found.loss, {"loss": found.loss}) if return_outputs else found.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._seen:
            for name, values in self._seen.items():
                logs[name] = float(self.accelerator.reduce(torch.stack(values).mean(), reduction="mean"))
            self._seen.clear()
        super().log(logs, start_time)


class PairCollator:
    """Pads a batch of pairs to 2 B rows on the right, the chosen ones first."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.pad = int(tokenizer.pad_token_id)  # the program has set one

    def __call__(self, pairs: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        rows = [
            (pair[f"{side}_input_ids"], pair[f"{side}_labels"]) for side in ("chosen", "rejected") for pair in pairs
        ]
        width = max(len(ids) for ids, _ in rows)

        def padded(values: list[int], filler: int) -> list[int]:
            return values + [filler] * (width - len(values))

        return {
            "input_ids": torch.tensor([padded(ids, self.pad) for ids, _ in rows]),
            "attention_mask": torch.tensor([padded([1] * len(ids), 0) for ids, _ in rows]),
            "labels": torch.tensor([padded(labels, IGNORED) for _, labels in rows]),
        }


def train(run: Run) -> None:
    """Train as CONFIG.json says and leave model/ and train_result.json in its `out`."""
    learn, check = run.encode(encode_pairs)
    model, peft_config = run.load_model()
    if peft_config is not None:
        model = get_peft_model(model, peft_config)
    if run.settings.gradient_checkpointing and run.settings.lora is not None:
        model.enable_input_require_grads()
    trainer = RediTrainer(
        model=model,
        args=TrainingArguments(**run.arguments(), remove_unused_columns=False, label_names=["labels"]),
        train_dataset=learn.examples,
        eval_dataset=check.examples if check else None,
        processing_class=run.tokenizer,
        data_collator=PairCollator(run.tokenizer),
        alpha=run.settings.alpha,
    )
    run.finish(trainer, learn, check)


if __name__ == "__main__":
    main(train)
