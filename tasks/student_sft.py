"""The program that trains a student: `[accelerate launch | python] -m tasks.student_sft CONFIG.json`.

Supervised fine-tuning by TRL on prompt and completion: the prompt is all messages but the last, the
completion is the last message, and the loss is on the completion only. Examples are rendered here and not
by TRL, because TRL cuts what is too long without a word and does not see that a chat template drops the
thinking part.

`tasks.student.train_student` writes CONFIG.json, starts this program and reads its result.
"""

import ctypes
import json
import os
import re
import shutil
import signal
import sys
import time
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import psutil
import torch
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from tasks.student import MODEL, PARENT_VARIABLE, PROGRESS, RESULT, TrainSettings, write_atomically
from tasks.student_examples import IGNORED, UnusableData, encode_split

CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def newest_complete_checkpoint(out: Path) -> Path | None:
    """The checkpoint to go on from, or None.

    trainer_state.json is written last, so a kill leaves a folder without it, or with a torn one. The
    weights and the optimizer are looked at as well: after a power cut the last file may be there and the
    earlier ones not.
    """
    folders = [folder for folder in out.glob("checkpoint-*") if CHECKPOINT.fullmatch(folder.name)]
    for folder in sorted(folders, key=_step, reverse=True):
        if _is_complete(folder):
            return folder
    return None


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _is_complete(checkpoint: Path) -> bool:
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        for weights in checkpoint.glob("*.safetensors"):
            with safe_open(weights, framework="pt"):  # checks the file's length against its header
                pass
        pickles = [*checkpoint.glob("optimizer*.pt"), *checkpoint.glob("scheduler.pt")]
        return state["global_step"] == _step(checkpoint) and all(map(zipfile.is_zipfile, pickles))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return False


class CountingTrainer(SFTTrainer):
    """TRL's trainer that logs, step by step, how many tokens it saw and on how many the loss was."""

    _counts: torch.Tensor | None = None  # (tokens, loss tokens) of this rank since the last log

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        tokens = inputs["attention_mask"].sum() if "attention_mask" in inputs else inputs["input_ids"].numel()
        # A model predicts the next token, so the first label of a sequence is never in the loss.
        counts = torch.stack([torch.as_tensor(tokens), (inputs["labels"][:, 1:] != IGNORED).sum().cpu()])
        self._counts = counts if self._counts is None else self._counts + counts
        loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._counts is not None:
            counts = self.accelerator.reduce(self._counts.to(self.accelerator.device), reduction="sum")
            logs["tokens"], logs["loss_tokens"] = counts.tolist()
            self._counts = None
        super().log(logs, start_time)


class Progress(TrainerCallback):
    """Writes one line a step for the parent's progress bar."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def _write(self, state: TrainerState, loss: float | None) -> None:
        if state.is_world_process_zero:
            line = json.dumps({"step": state.global_step, "total": state.max_steps, "loss": loss})
            with self.file.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._write(state, None)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = False  # the model itself is saved next; its optimizer state serves nobody

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "loss" in logs:
            self._write(state, logs["loss"])


def sft_config(settings: TrainSettings, out: Path) -> SFTConfig:
    """TRL's configuration for these settings."""
    return SFTConfig(
        output_dir=str(out),
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        warmup_steps=settings.warmup_ratio,  # below 1 transformers reads a share
        lr_scheduler_type=settings.scheduler,
        # Nothing is too long any more. Without packing None spares TRL's own cutting pass.
        max_length=settings.max_length if settings.packing else None,
        packing=settings.packing,
        eval_packing=False,
        bf16=settings.dtype == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=settings.gradient_checkpointing,
        seed=settings.seed,
        data_seed=settings.seed,
        save_strategy="no" if settings.save_steps is None else "steps",
        save_steps=settings.save_steps or 500,
        save_total_limit=1,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
    )


def train(config: dict[str, Any]) -> None:
    """Train as CONFIG.json says and leave model/ and train_result.json in its `out`."""
    clock = Clock()
    settings, out = TrainSettings(**config["settings"]), Path(config["out"])
    process = PartialState()
    tokenizer = AutoTokenizer.from_pretrained(config["model_path"])
    if settings.chat_template is not None:
        tokenizer.chat_template = Path(settings.chat_template).read_text(encoding="utf-8")
    if tokenizer.chat_template is None:
        raise UnusableData(f"{settings.model} has no chat template: give it one (setting chat_template, a Jinja file)")
    datasets.disable_progress_bars()
    with process.main_process_first():  # the other ranks find its result in the cache
        splits = datasets.load_dataset(config["dataset"], cache_dir=str(out / "cache"))
        encoded = {
            name: encode_split(split, tokenizer, settings.max_length, settings.overlong)
            for name, split in splits.items()
        }
    learn, check = encoded["train"], encoded.get("validation")
    if len(learn.examples) == 0:
        raise UnusableData(
            f"no example is left to train on: all {learn.examples_in} are over max_length, {settings.max_length} tokens"
        )
    clock.lap("data")
    trainer = CountingTrainer(
        model=AutoModelForCausalLM.from_pretrained(config["model_path"], dtype=torch.float32),
        args=sft_config(settings, out),
        train_dataset=learn.examples,
        eval_dataset=check.examples if check and len(check.examples) else None,
        processing_class=tokenizer,
        callbacks=[Progress(out / PROGRESS)],
    )
    clock.lap("model")
    checkpoint = newest_complete_checkpoint(out)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    clock.lap("train")
    eval_loss = trainer.evaluate()["eval_loss"] if trainer.eval_dataset is not None else None
    clock.lap("evaluate")
    trainer.save_model(str(out / MODEL))
    clock.lap("save")
    if not process.is_main_process:
        return
    (out / MODEL / "training_args.bin").unlink(missing_ok=True)  # a pickle, of no use to a student's users
    curve = [entry for entry in trainer.state.log_history if "loss" in entry]
    result = {
        "examples_in": learn.examples_in,
        "examples": len(learn.examples),
        "overlong": len(learn.overlong_ids),
        "overlong_ids": learn.overlong_ids,
        "overlong_action": settings.overlong,
        "prompt_mismatches": learn.prompt_mismatches,
        "eval_examples": len(check.examples) if check else 0,
        "eval_overlong": len(check.overlong_ids) if check else 0,
        "steps": trainer.state.global_step,
        "tokens": sum(int(entry["tokens"]) for entry in curve),
        "loss_tokens": sum(int(entry["loss_tokens"]) for entry in curve),
        "train_loss": curve[-1]["loss"],
        "loss_curve": [(entry["step"], entry["loss"]) for entry in curve],
        "eval_loss": eval_loss,
        "resumed_from": _step(checkpoint) if checkpoint else None,
        "seconds": clock.seconds | {"total": clock.total()},
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "datasets", "accelerate")},
    }
    write_atomically(out / RESULT, result)
    for left_over in [*out.glob("checkpoint-*"), out / "cache"]:
        shutil.rmtree(left_over, ignore_errors=True)


class Clock:
    """Seconds by phase, counted from the start of this process."""

    def __init__(self) -> None:
        self.started: float = psutil.Process().create_time()
        self.last = self.started
        self.seconds: dict[str, float] = {}
        self.lap("imports")

    def lap(self, phase: str) -> None:
        now = time.time()
        self.seconds[phase] = round(now - self.last, 3)
        self.last = now

    def total(self) -> float:
        return round(time.time() - self.started, 3)


def die_with_launcher() -> None:
    """Under a launcher the parent's death reaches the launcher only: pass it on to its workers (Linux)."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if not Path("/proc", parent).exists():
            sys.exit("the process that wanted this training is gone")


def main() -> None:
    die_with_launcher()
    try:
        train(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except UnusableData as fault:
        sys.exit(f"error: {fault}")


if __name__ == "__main__":
    main()
