"""The recipe's `student`: what to start from, how to train, and in which stages one after the other.

Without `stages` there is one, `sft`, with the student's own settings. Each later one starts from what the one before it
left. A stage's defaults are those of its paper; what it has no setting for is the student's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tasks.settings import ModelSource, Settings
from tasks.student import Lora, TrainSettings
from tasks.teachers.smollm2 import NAME as PACKAGED


class _Stage(Settings):
    kind: str
    name: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Of its step and folder; unset: its kind."""
    max_length: int | None = Field(default=None, ge=16)
    """Tokens of prompt and answer; unset: the student's."""

    @property
    def label(self) -> str:
        return self.name or self.kind


class SftStage(_Stage):
    """Supervised fine-tuning on the exported examples (DeepDistill, stage I). What is unset is the student's."""

    kind: Literal["sft"]
    learning_rate: float | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0)
    batch_size: int | None = Field(default=None, ge=1)
    gradient_accumulation: int | None = Field(default=None, ge=1)
    warmup_ratio: float | None = Field(default=None, ge=0, lt=1)
    scheduler: str | None = None
    packing: bool | None = None
    """Unset: the student's, and true where that is unset too."""

    def method(self, student: StudentSettings) -> dict[str, Any]:
        names = ("learning_rate", "epochs", "batch_size", "gradient_accumulation", "warmup_ratio", "scheduler")
        found = {name: _first(getattr(self, name), getattr(student, name)) for name in names}
        return found | {"method": "sft", "packing": _first(self.packing, student.packing, True)}


class AnnealStage(_Stage):
    """DeepDistill, stage II: the questions with the highest CV, one response each, at a tenth of the rate."""

    kind: Literal["anneal"]
    questions: int = Field(default=200_000, ge=1)
    """So many, highest CV first, ties by id; of each the best-scored response."""
    learning_rate: float = Field(default=8e-6, gt=0)
    epochs: float = Field(default=2, gt=0)
    batch_size: int | None = Field(default=None, ge=1)
    gradient_accumulation: int | None = Field(default=None, ge=1)
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    scheduler: str = "cosine"

    def method(self, student: StudentSettings) -> dict[str, Any]:
        batch = {name: _first(getattr(self, name), getattr(student, name)) for name in _BATCH}
        return self.model_dump(include={"learning_rate", "epochs", "warmup_ratio", "scheduler"}) | batch | {
            "method": "sft", "packing": False,
        }  # fmt: skip


class _PairStage(_Stage):
    learning_rate: float = Field(default=1e-6, gt=0)
    epochs: float = Field(default=1, gt=0)
    batch_size: int = Field(default=4, ge=1)
    """Pairs per device; the paper's 32 a step are 4 × 8 accumulated on one device."""
    gradient_accumulation: int = Field(default=8, ge=1)
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    scheduler: str = "linear"

    def method(self, student: StudentSettings) -> dict[str, Any]:
        return self.model_dump(exclude={"name", "max_length", "kind"}) | {"method": self.kind}


class RediStage(_PairStage):
    """REDI (arXiv 2505.24850), second stage: verified and failed traces, no reference model."""

    kind: Literal["redi"]
    alpha: float = Field(default=0.8, ge=0)
    """Weight of the failed side; 1 collapses at the paper's rate, 0 leaves it out."""


class DpoStage(_PairStage):
    """Direct preference optimisation by TRL, held to where the stage starts."""

    kind: Literal["dpo"]
    beta: float = Field(default=0.1, gt=0)


StageSettings = Annotated[SftStage | AnnealStage | RediStage | DpoStage, Field(discriminator="kind")]
PAIR_KINDS = ("redi", "dpo")
_BATCH = ("batch_size", "gradient_accumulation")


class LoraSettings(Settings):
    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    """The adapter's output counts alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Names of modules such as [q_proj, v_proj], or all linear ones but the output layer."""
    merge: bool = True
    """Each stage adds its adapter to the weights, and the next one trains a new one; false: one adapter is trained
    through all stages and kept beside the unchanged weights."""


class StudentSettings(Settings):
    name: str = Field(default="student", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Folder under `students/`."""
    model: ModelSource = PACKAGED
    """What to start from: a folder, a hub name, or the packaged default."""
    revision: str | None = None
    stages: tuple[StageSettings, ...] = ()
    """One after the other: sft, anneal, redi, dpo; empty: one sft stage."""
    max_length: int = Field(default=32_768, ge=16)
    """Tokens of prompt and answer; a longer example is counted and dropped or cut, as `overlong` says."""
    overlong: Literal["drop", "truncate"] = "drop"
    learning_rate: float = Field(default=8e-5, gt=0)
    """DeepDistill: a base model trained for reasoning wants a higher rate than usual."""
    epochs: float = Field(default=1, gt=0)
    batch_size: int = Field(default=16, ge=1)
    """Examples per device and step; with packing, sequences of `max_length` tokens."""
    gradient_accumulation: int = Field(default=1, ge=1)
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    scheduler: str = "cosine"
    packing: bool | None = None
    """Several examples in one sequence of `max_length` tokens; unset: without `stages` no, in an sft stage yes."""
    lora: LoraSettings | None = None
    """Train adapters instead of all weights (peft); they want about ten times the learning rate."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 17
    save_steps: int | None = Field(default=None, ge=1)
    """A checkpoint every so many steps; null: none, and an interrupted training starts again."""
    keep_checkpoints: int = Field(default=0, ge=0)
    """So many models from on each stage's way are kept in its `checkpoints/`, evenly spread, the one that it leaves not
    counted; `evaluate.watch` measures them. Each takes the disk of a whole model."""
    shuffle: bool = True
    """Draw the examples in random order; false: as the export has them, which is the order of `select.curriculum`."""
    gradient_checkpointing: bool = False
    chat_template: str | None = None
    """A Jinja file that replaces the student's own template."""
    accelerate: str | None = None
    """Train by `accelerate launch` with a shipped configuration (single, fsdp, zero2, zero3) or a file of yours."""
    processes: int | None = Field(default=None, ge=1)
    """With `accelerate`: how many; null: one per GPU."""
    launcher: tuple[str, ...] = ()
    """A whole command such as [accelerate, launch, --config_file, fsdp.yaml]; empty: plain Python."""
    report_to: tuple[str, ...] = ()
    """Reporters of transformers such as [tensorboard] or [wandb]; TensorBoard's files lie in the stage's `runs/`."""

    @model_validator(mode="after")
    def _consistent(self) -> StudentSettings:
        labels = [stage.label for stage in self.stages]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"two stages are called {twice[0]}; give one of them a `name`")
        if "train" in labels or "eval" in labels:
            raise ValueError("a stage can't be called train or eval: the student's folder has these already")
        if self.launcher and self.accelerate:
            raise ValueError("both launcher and accelerate are set; leave one of them out")
        packed = [stage.label for stage in self.all_stages() if stage.method(self).get("packing")]
        if packed and not self.shuffle:
            raise ValueError(f"shuffle: false keeps the export's order, and packing reorders: set packing to false in "
                             f"the stage {packed[0]}, or leave `shuffle` out")  # fmt: skip
        return self

    def all_stages(self) -> tuple[SftStage | AnnealStage | RediStage | DpoStage, ...]:
        return self.stages or (SftStage(kind="sft", packing=bool(self.packing)),)

    def needs_pairs(self) -> bool:
        return any(stage.kind in PAIR_KINDS for stage in self.stages)

    def train_settings(self, stage: SftStage | AnnealStage | RediStage | DpoStage) -> TrainSettings:
        """How one stage is trained."""
        common = TrainSettings(
            model=self.model,
            max_length=stage.max_length or self.max_length,
            overlong=self.overlong,
            dtype=self.dtype,
            seed=self.seed,
            save_steps=self.save_steps,
            keep_checkpoints=self.keep_checkpoints,
            shuffle=self.shuffle,
            gradient_checkpointing=self.gradient_checkpointing,
            chat_template=self.chat_template,
            lora=Lora(**self.lora.model_dump()) if self.lora else None,
            accelerate=self.accelerate,
            processes=self.processes,
            launcher=self.launcher,
            report_to=self.report_to,
        )
        return replace(common, **stage.method(self))


def _first(*values: Any) -> Any:
    """The first one that is set."""
    return next(value for value in values if value is not None)
