"""What the training programs share: the model and its tokenizer, checkpoints, progress, and the result at the end.

This runs in the trainer's process only (see tasks/student.py).
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import re
import shutil
import signal
import sys
import time
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import psutil
import torch
from accelerate import PartialState
from peft import LoraConfig, PeftModel
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.integration_utils import get_available_reporting_integrations

from tasks.student import (
    ADAPTER,
    KEPT,
    MODEL,
    PARENT_VARIABLE,
    PROGRESS,
    RESULT,
    RUNS,
    STEP,
    TrainSettings,
    write_atomically,
)
from tasks.student_examples import IGNORED, Encoded, UnusableData

CHECKPOINT = re.compile(r"checkpoint-(\d+)")
HOUSEKEEPING = {"loss", "epoch", "step", "tokens", "loss_tokens", "num_tokens"}
"""entries of the trainer's log that are no curve of their own"""


class Run:
    """One training: its settings, the folder it works in, the tokenizer, and the time by phase."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.clock = Clock()
        self.config = config
        self.settings = TrainSettings(**config["settings"], report_to=config["report_to"])
        self.out = Path(config["out"])
        self.process = PartialState()
        self.checkpoint = newest_complete_checkpoint(self.out)
        self.tokenizer = self._tokenizer()
        datasets.disable_progress_bars()

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        settings = self.settings
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.config["model_path"])
        if settings.chat_template is not None:
            tokenizer.chat_template = Path(settings.chat_template).read_text(encoding="utf-8")
        if tokenizer.chat_template is None:
            raise UnusableData(
                f"{settings.model} has no chat template: give it one (setting chat_template, a Jinja file)"
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def encode(self, encode_split: Callable[..., Encoded]) -> tuple[Encoded, Encoded | None]:
        """The data set's train and validation splits, rendered and cut; the other ranks find them in the cache."""
        settings = self.settings
        with self.process.main_process_first():
            splits = datasets.load_dataset(self.config["dataset"], cache_dir=str(self.out / "cache"))
            encoded = {
                name: encode_split(split, self.tokenizer, settings.max_length, settings.overlong)
                for name, split in splits.items()
            }
        learn, check = encoded["train"], encoded.get("validation")
        if len(learn.examples) == 0:
            raise UnusableData(
                f"no example is left to train on: all {learn.examples_in} are over max_length, "
                f"{settings.max_length} tokens"
            )
        self.clock.lap("data")
        return learn, check if check and len(check.examples) else None

    def load_model(self) -> tuple[PreTrainedModel | PeftModel, LoraConfig | None]:
        """The weights to start from, and the adapter to be put on them, if any.

        With an adapter of the stage before the model carries it already, and goes on training it.
        """
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(self.config["model_path"], dtype=torch.float32)
        lora = self.settings.lora
        if self.config["adapter"] is not None:
            return PeftModel.from_pretrained(model, self.config["adapter"], is_trainable=True), None
        if lora is None:
            return model, None
        targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
        torch.manual_seed(self.settings.seed)  # the adapter's random half
        return model, LoraConfig(task_type="CAUSAL_LM", r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout,
                                 target_modules=targets)  # fmt: skip

    def arguments(self) -> dict[str, Any]:
        """What all trainers are told alike, as arguments of transformers.TrainingArguments."""
        settings = self.settings
        if unknown := sorted(set(settings.report_to) - set(get_available_reporting_integrations())):
            there = ", ".join(get_available_reporting_integrations()) or "none"
            raise UnusableData(f"report_to names {unknown[0]}, installed here: {there}; install it with pip")
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(self.out / RUNS))
        return {
            "output_dir": str(self.out),
            "run_name": f"{settings.model} {settings.method}",
            "learning_rate": settings.learning_rate,
            "num_train_epochs": settings.epochs,
            "per_device_train_batch_size": settings.batch_size,
            "per_device_eval_batch_size": settings.batch_size,
            "gradient_accumulation_steps": settings.gradient_accumulation,
            "warmup_steps": settings.warmup_ratio,  # below 1 transformers reads a share
            "lr_scheduler_type": settings.scheduler,
            "bf16": settings.dtype == "bfloat16",
            "use_cpu": not torch.cuda.is_available(),
            "gradient_checkpointing": settings.gradient_checkpointing,
            "seed": settings.seed,
            "data_seed": settings.seed,
            "save_strategy": "no" if settings.save_steps is None else "steps",
            "save_steps": settings.save_steps or 500,
            "save_total_limit": 1,
            "train_sampling_strategy": "random" if settings.shuffle else "sequential",
            "logging_steps": 1,
            "report_to": list(settings.report_to) or "none",
            "disable_tqdm": True,
        }

    def finish(self, trainer: Trainer, learn: Encoded, check: Encoded | None) -> None:
        """Train to the end, evaluate, save the student, and write the result."""
        self.clock.lap("model")
        trainer.add_callback(Progress(self.out / PROGRESS))
        if self.settings.keep_checkpoints:
            trainer.add_callback(KeptModels(self, trainer))
        trainer.train(resume_from_checkpoint=str(self.checkpoint) if self.checkpoint else None)
        self.clock.lap("train")
        eval_loss = trainer.evaluate()["eval_loss"] if trainer.eval_dataset is not None else None
        self.clock.lap("evaluate")
        self._save(trainer)
        self.clock.lap("save")
        if self.process.is_main_process:
            self._write_result(trainer, learn, check, eval_loss)

    def _save(self, trainer: Trainer) -> None:
        """Leave model/, and adapter/ where one was trained; merging starts from files, whatever the launcher split."""
        adapted = isinstance(trainer.accelerator.unwrap_model(trainer.model), PeftModel)
        place = self.out / (ADAPTER if adapted else MODEL)
        trainer.save_model(str(place))
        if not self.process.is_main_process:
            return
        (place / "training_args.bin").unlink(missing_ok=True)  # a pickle, of no use to a student's users
        if not adapted:
            return
        shutil.rmtree(place / "ref", ignore_errors=True)  # DPO's copy of where it started
        if self.settings.lora is None or self.settings.lora.merge:
            self._merge(place, self.out / MODEL)
            for kept in sorted((self.out / KEPT).glob(f"{STEP}*")):
                self._merge_in_place(kept)

    def _merge(self, adapter: Path, target: Path) -> None:
        """The whole model of an adapter, in a folder of its own."""
        base = AutoModelForCausalLM.from_pretrained(self.config["model_path"], dtype=torch.float32)
        merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
        merged.save_pretrained(target)
        self.tokenizer.save_pretrained(target)

    def _merge_in_place(self, kept: Path) -> None:
        """Put the whole model in the place of an adapter that was kept, unless that was done before a kill."""
        if not (kept / "adapter_config.json").exists():
            return
        whole = kept.with_name(f"whole-{kept.name}")
        shutil.rmtree(whole, ignore_errors=True)
        self._merge(kept, whole)
        shutil.rmtree(kept)
        whole.rename(kept)

    def _write_result(self, trainer: Trainer, learn: Encoded, check: Encoded | None, eval_loss: float | None) -> None:
        settings = self.settings
        log = [entry for entry in trainer.state.log_history if "loss" in entry]
        names = sorted({name for entry in log for name in entry} - HOUSEKEEPING)
        names = [name for name in names if all(math.isfinite(entry.get(name, 0.0)) for entry in log)]
        result = {
            "examples_in": learn.examples_in,
            "examples": len(learn.examples),
            "overlong": len(learn.overlong_ids),
            "overlong_ids": learn.overlong_ids,
            "overlong_action": settings.overlong,
            "lost_ids": learn.lost_ids,
            "prompt_mismatches": learn.prompt_mismatches,
            "eval_examples": len(check.examples) if check else 0,
            "eval_overlong": len(check.overlong_ids) if check else 0,
            "steps": trainer.state.global_step,
            "tokens": sum(int(entry["tokens"]) for entry in log),
            "loss_tokens": sum(int(entry["loss_tokens"]) for entry in log),
            "train_loss": log[-1]["loss"],
            "loss_curve": [(entry["step"], entry["loss"]) for entry in log],
            "curves": {name: [(entry["step"], entry[name]) for entry in log if name in entry] for name in names},
            "eval_loss": eval_loss,
            "resumed_from": step_of(self.checkpoint) if self.checkpoint else None,
            "seconds": self.clock.seconds | {"total": self.clock.total()},
            "versions": {
                name: version(name) for name in ("torch", "transformers", "trl", "peft", "datasets", "accelerate")
            },
            "method": settings.method,
            "global_batch": settings.batch_size * settings.gradient_accumulation * self.process.num_processes,
        }
        write_atomically(self.out / RESULT, result)
        for left_over in [*self.out.glob("checkpoint-*"), self.out / "cache"]:
            shutil.rmtree(left_over, ignore_errors=True)


def newest_complete_checkpoint(out: Path) -> Path | None:
    """The checkpoint to go on from, or None.

    trainer_state.json is written last, so a kill leaves a folder without it, or with a torn one. The
    weights and the optimizer are looked at as well: after a power cut the last file may be there and the
    earlier ones not.
    """
    folders = [folder for folder in out.glob("checkpoint-*") if CHECKPOINT.fullmatch(folder.name)]
    for folder in sorted(folders, key=step_of, reverse=True):
        if _is_complete(folder):
            return folder
    return None


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _is_complete(checkpoint: Path) -> bool:
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        for weights in checkpoint.rglob("*.safetensors"):
            with safe_open(weights, framework="pt"):  # checks the file's length against its header
                pass
        pickles = [*checkpoint.glob("optimizer*.pt"), *checkpoint.glob("scheduler.pt")]
        return state["global_step"] == step_of(checkpoint) and all(map(zipfile.is_zipfile, pickles))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return False


class CountingTrainer(Trainer):
    """Logs, step by step, how many tokens it saw and on how many the loss was. Before a trainer of TRL in the bases."""

    _counts: torch.Tensor | None = None  # (tokens, loss tokens) of this rank since the last log

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        tokens = inputs["attention_mask"].sum() if "attention_mask" in inputs else inputs["input_ids"].numel()
        # A model predicts the next token, so the first one of a sequence is never in the loss.
        learnt = inputs["completion_mask"].bool() if "completion_mask" in inputs else inputs["labels"] != IGNORED
        counts = torch.stack([torch.as_tensor(tokens).cpu(), learnt[:, 1:].sum().cpu()])
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


class KeptModels(TrainerCallback):
    """Leaves the model as it is at evenly spread steps in checkpoints/step-N; of LoRA the adapter, merged in the end.

    All ranks take part: with weights split over them they gather. A folder that is there is whole, and stays: a
    training that was killed goes on from before it to the same weights.
    """

    def __init__(self, run: Run, trainer: Trainer) -> None:
        self.run, self.trainer = run, trainer

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step not in steps_to_keep(state.max_steps, self.run.settings.keep_checkpoints):
            return
        place = self.run.out / KEPT / f"{STEP}{state.global_step:08d}"
        if place.exists():
            return
        part = place.with_name(f"part-{place.name}")
        self.trainer.save_model(str(part))
        self.run.process.wait_for_everyone()
        if self.run.process.is_main_process:
            (part / "training_args.bin").unlink(missing_ok=True)
            shutil.rmtree(part / "ref", ignore_errors=True)
            part.rename(place)
        self.run.process.wait_for_everyone()


def steps_to_keep(total: int, number: int) -> list[int]:
    """`number` steps spread evenly over a training of `total`, its last one left out; fewer if there are fewer."""
    return sorted({round(total * part / (number + 1)) for part in range(1, number + 1)} - {0, total})


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


def main(train: Callable[[Run], None]) -> None:
    """Run a training program on the CONFIG.json that the command line names; unusable data is told in one line."""
    die_with_launcher()
    try:
        train(Run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
    except UnusableData as fault:
        sys.exit(f"error: {fault}")
