"""Train: a student on the export, in a process of its own (tasks/student.py), committed when it is whole.

students/<name>/train/model/    the student
students/<name>/train/train.log
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pydantic import Field

from storage.fingerprint import hash_file, hash_text
from storage.manifest import Book
from storage.workspace import ALL, Workspace
from tasks.errors import NothingToTrainOn
from tasks.export import export_folder, export_rows
from tasks.settings import Settings
from tasks.step import Context, Step, Work
from tasks.student import TrainResult, TrainSettings, read_result, train_student
from tasks.teachers.revision import resolve_revision
from tasks.teachers.smollm2 import NAME as PACKAGED
from tasks.teachers.smollm2 import model_path as packaged_path

VERSION = "1"


class StudentSettings(Settings):
    name: str = Field(default="student", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Folder under `students/`."""
    model: str = PACKAGED
    """What to start from: a folder, a hub name, or the packaged default."""
    revision: str | None = None
    max_length: int = Field(default=32_768, ge=16)
    """Tokens of prompt and answer; a longer example is counted and dropped or cut, as `overlong` says."""
    overlong: Literal["drop", "truncate"] = "drop"
    learning_rate: float = Field(default=8e-5, gt=0)
    """DeepDistill: a base model trained for reasoning wants a higher rate than usual."""
    epochs: float = Field(default=1, gt=0)
    batch_size: int = Field(default=16, ge=1)
    """Examples per device and step."""
    gradient_accumulation: int = Field(default=1, ge=1)
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    scheduler: str = "cosine"
    packing: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 17
    save_steps: int | None = Field(default=None, ge=1)
    """A checkpoint every so many steps; null: none, and an interrupted training starts again."""
    gradient_checkpointing: bool = False
    chat_template: str | None = None
    """A Jinja file that replaces the student's own template."""
    launcher: tuple[str, ...] = ()
    """Such as [accelerate, launch, --config_file, fsdp.yaml]; empty: plain Python."""

    def train_settings(self) -> TrainSettings:
        return TrainSettings(**self.model_dump(exclude={"name", "revision"}))


def student_folder(workspace: Workspace, name: str) -> Path:
    return workspace.root / "students" / name


def base_model(settings: StudentSettings) -> str:
    """Where the weights to start from lie."""
    return str(packaged_path()) if settings.model == PACKAGED else settings.model


def train_step(settings: StudentSettings) -> Step:
    described = settings.as_json(exclude={"name"}) | {"weights": resolve_revision(settings.model, settings.revision)}

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            _train(context, step, one, settings)

    return Step(f"train.{settings.name}", "train", "one", VERSION, described, ("export",), run)


def _train(context: Context, step: Step, work: Work, settings: StudentSettings) -> None:
    workspace = context.workspace
    transaction = context.begin(step, work)
    rows = export_rows(workspace)
    if not rows.get("train"):
        raise NothingToTrainOn(
            "the export holds no training example: no response passed and was selected. "
            "See `stillhouse status` for the drops by rule; loosen `select` or give the teacher easier questions."
        )
    folder = student_folder(workspace, settings.name) / "train"
    seen = expected = 0

    def on_progress(done: int, total: int, loss: float) -> None:
        nonlocal seen, expected
        context.progress.expect(step.key, total - expected)
        context.progress.advance(step.key, done - seen)
        seen, expected = done, total

    result = train_student(settings.train_settings(), export_folder(workspace), folder,
                           model_path=base_model(settings), on_progress=on_progress)  # fmt: skip
    dropped = result.overlong if result.overlong_action == "drop" else 0
    ledger = [
        context.drop(step.key, "example", identity, "overlong", threshold=settings.max_length)
        for identity in result.overlong_ids[:dropped]
    ]
    book = Book("example", result.examples_in, result.examples, {"overlong": dropped} if dropped else {})
    extra = json.loads(json.dumps(asdict(result), default=str)) | {"overlong_ids": len(result.overlong_ids)}
    del extra["model"]  # a path of this machine
    transaction.commit_result([book], content=_weights_hash(result), ledger=ledger, extra=extra)


def _weights_hash(result: TrainResult) -> str:
    return hash_text(*(hash_file(path) for path in sorted(result.model.glob("*.safetensors"))))


def trained(workspace: Workspace, name: str) -> TrainResult | None:
    """The committed training, or None."""
    if workspace.head(f"train.{name}", ALL) is None:
        return None
    return read_result(student_folder(workspace, name) / "train")
