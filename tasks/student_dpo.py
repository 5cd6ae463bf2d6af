"""DPO by TRL: `[accelerate launch | python] -m tasks.student_dpo CONFIG.json`.

Held to where the stage starts from by `beta`. TRL renders the pairs itself; they are rendered here before it for what
TRL does without a word: cutting at max_length (1,024 by default), and templates that drop the thinking part.

`tasks.student.train_student` writes CONFIG.json, starts this program and reads its result.
"""

from __future__ import annotations

import datasets
from trl import DPOConfig, DPOTrainer

from tasks.student_pairs import SIDES, encode_pairs
from tasks.student_program import CountingTrainer, Run, main


class PreferenceTrainer(CountingTrainer, DPOTrainer):
    """TRL's trainer, with the counts."""


def train(run: Run) -> None:
    """Train as CONFIG.json says and leave model/ and train_result.json in its `out`."""
    settings = run.settings
    learn, check = run.encode(encode_pairs)
    model, peft_config = run.load_model()
    trainer = PreferenceTrainer(
        model=model,
        args=DPOConfig(
            **run.arguments(),
            beta=settings.beta,
            # What is too long is dropped by now, unless the user wants it cut.
            max_length=settings.max_length if settings.overlong == "truncate" else None,
        ),
        train_dataset=_conversations(learn.examples),
        eval_dataset=_conversations(check.examples) if check else None,
        processing_class=run.tokenizer,
        peft_config=peft_config,
    )
    run.finish(trainer, learn, check)


def _conversations(examples: datasets.Dataset) -> datasets.Dataset:
    return examples.select_columns(["prompt", *SIDES])


if __name__ == "__main__":
    main(train)
