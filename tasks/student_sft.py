"""Supervised fine-tuning: `[accelerate launch | python] -m tasks.student_sft CONFIG.json`.

By TRL, on prompt and completion: the prompt is all messages but the last, the completion is the last message, and the
loss is on the completion only. Examples are rendered here and not by TRL, because TRL cuts what is too long without a
word and does not see that a chat template drops the thinking part.

`tasks.student.train_student` writes CONFIG.json, starts this program and reads its result.
"""

from __future__ import annotations

import datasets
import torch
from peft import PeftModel
from transformers import PreTrainedModel
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from tasks.student_examples import UnusableData, encode_split
from tasks.student_program import CountingTrainer, Run, main

LEAK = 1e-2
"""Share of the largest logit by which a packed example may differ from the same one alone; float32 noise is 1e-5."""


class SupervisedTrainer(CountingTrainer, SFTTrainer):
    """TRL's trainer, with the counts."""


def train(run: Run) -> None:
    """Train as CONFIG.json says and leave model/ and train_result.json in its `out`."""
    settings = run.settings
    learn, check = run.encode(encode_split)
    model, peft_config = run.load_model()
    if settings.packing and run.process.is_main_process:  # the only one whose weights are sure to be there under FSDP
        check_packed_attention(model, learn.examples[0]["input_ids"])
    trainer = SupervisedTrainer(
        model=model,
        args=SFTConfig(
            **run.arguments(),
            # Nothing is too long any more. Without packing None spares TRL's own cutting pass.
            max_length=settings.max_length if settings.packing else None,
            packing=settings.packing,
            eval_packing=False,
        ),
        train_dataset=learn.examples,
        eval_dataset=check.examples if check else None,
        processing_class=run.tokenizer,
        peft_config=peft_config,
    )
    if settings.packing:
        check_packed_tokens(learn.examples, trainer.train_dataset)
    run.finish(trainer, learn, check)


def check_packed_attention(model: PreTrainedModel | PeftModel, ids: list[int]) -> None:
    """Raise UnusableData if an example that is packed behind another one reads differently than alone.

    TRL tells packed examples apart by their positions only; whether a model's attention heeds that depends on the model
    and its implementation.
    """
    ids = ids[:16]
    first, second = ids[::-1], ids
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    packed = collate([{"input_ids": first + second, "seq_lengths": [len(first), len(second)]}])
    packed.pop("labels")
    training = model.training
    model.eval()
    with torch.no_grad():
        together = model(**packed, use_cache=False).logits[0, len(first) :].float()
        alone = model(input_ids=torch.tensor([second]), use_cache=False).logits[0].float()
    model.train(training)
    apart = float((together - alone).abs().max() / alone.abs().max())
    if not apart <= LEAK:
        raise UnusableData(
            f"packed examples see each other: behind another one the logits of an example change by {apart:.1%}, "
            "expected none; set packing: false, or use a model whose attention heeds positions"
        )


def check_packed_tokens(examples: datasets.Dataset, packed: datasets.Dataset) -> None:
    """Raise UnusableData if packing cut tokens off, which TRL's `bfd` does to what is too long."""
    before, after = _tokens(examples), _tokens(packed)
    if before != after:
        raise UnusableData(f"packing left {after:,} of {before:,} tokens, expected all; set packing: false")


def _tokens(examples: datasets.Dataset) -> int:
    batches = examples.with_format("arrow").iter(batch_size=1000)
    return sum(len(batch.column("input_ids").combine_chunks().flatten()) for batch in batches)


if __name__ == "__main__":
    main(train)
