"""Training a student: the settings, the subprocess that trains, its result.

The training itself is the program `tasks.student_sft`. It runs in a process of its own, so that its memory
goes back when it ends and a crash, an OOM kill or a launcher's worker pool never takes the factory with it.

What is not covered: two trainings in one folder at once (the stage's commit keeps them apart), and machines
without Linux's parent-death signal, where killing the parent with SIGKILL leaves the trainer running.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PROGRAM = "tasks.student_sft"
PARENT_VARIABLE = "STILLHOUSE_TRAINER_PARENT"
RESULT = "train_result.json"
CONFIG = "config.json"
PROGRESS = "progress.jsonl"
LOG = "train.log"
MODEL = "model"

# Runs between fork and the real command, in a tiny interpreter: preexec_fn is not safe in a process with
# threads. The signal survives exec. A parent that died before prctl is seen by its changed pid.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        os._exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""

# Measured on 2 cores, SmolLM2, 16 short examples a step: beside busy neighbours 20 s a step fell to 6 s
# when waiting threads sleep instead of spinning; keeping freed memory instead of giving it back to the
# kernel after every step (gradients are as large as the model) took another fifth off.
_QUICK_ON_CPU = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
}


class TrainingFailed(RuntimeError):
    """The trainer ended without a result. The message carries its last log lines; `log` is the whole log."""

    def __init__(self, message: str, log: Path) -> None:
        super().__init__(message)
        self.log = log


@dataclass(frozen=True)
class TrainSettings:
    """How to train. A global batch is batch_size × gradient_accumulation × number of launched processes."""

    model: str  # the student's name, for messages; the weights come from train_student's model_path
    max_length: int = 1024  # tokens of prompt and completion together
    learning_rate: float = 8e-5  # reasoning wants a higher rate than usual (DeepDistill, stage I)
    epochs: float = 1
    batch_size: int = 16  # examples per device; with packing, sequences of max_length tokens
    gradient_accumulation: int = 1
    warmup_ratio: float = 0.05  # share of all steps, 0 ≤ r < 1
    scheduler: str = "cosine"
    packing: bool = False
    overlong: str = "drop"  # an example over max_length: "drop" it, or "truncate" its end; both are counted
    dtype: str = "float32"  # of the arithmetic; "bfloat16" is mixed precision over float32 weights
    seed: int = 17
    save_steps: int | None = None  # a checkpoint every so many steps; None: none, a killed run starts anew
    gradient_checkpointing: bool = False  # less memory for about 20 % more time
    chat_template: str | None = None  # a Jinja file that replaces the student's own template
    launcher: tuple[str, ...] = ()  # such as ("accelerate", "launch", "--config_file", "fsdp.yaml")

    def __post_init__(self) -> None:
        object.__setattr__(self, "launcher", tuple(self.launcher))
        for name, allowed in (("overlong", ("drop", "truncate")), ("dtype", ("float32", "bfloat16"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(allowed)}")
        if not 0 <= self.warmup_ratio < 1:
            raise ValueError(f"warmup_ratio is {self.warmup_ratio}, expected a share from 0 up to, but not, 1")


@dataclass(frozen=True)
class TrainResult:
    """What a finished training reports. examples_in = examples + those left out as overlong."""

    model: Path  # the student: safetensors, tokenizer, chat template
    examples_in: int
    examples: int  # trained on in each epoch
    overlong: int  # over max_length, dropped or truncated as `overlong_action` says
    overlong_ids: tuple[str, ...]  # their response_id
    overlong_action: str
    prompt_mismatches: int  # the template renders the prompt differently at inference than before an answer
    eval_examples: int
    eval_overlong: int
    steps: int
    tokens: int  # all tokens seen over all epochs, padding not counted
    loss_tokens: int  # those that the loss is on
    train_loss: float  # of the last step, mean over its loss tokens, in nats
    loss_curve: tuple[tuple[int, float], ...]  # (step, loss)
    eval_loss: float | None  # on the validation split after training; None where there is none
    resumed_from: int | None  # the step of the checkpoint that this run went on from
    seconds: dict[str, float]  # by phase and in total, of the process that finished the training
    versions: dict[str, str]


def train_student(
    settings: TrainSettings,
    dataset: Path,
    out: Path,
    *,
    model_path: str,
    on_progress: Callable[[int, int, float], None] | None = None,
) -> TrainResult:
    """Train a student on an exported data set and return what came of it.

    `dataset` is a folder in Hugging Face layout (data/train-*.parquet, perhaps data/validation-*.parquet)
    with the columns messages, question_id and response_id. `out` gets model/, train_result.json, train.log
    and progress.jsonl. An `out` that is finished with these settings and this data returns at once; one
    that was interrupted goes on from its newest complete checkpoint; one with other settings or other data
    starts anew.

    `on_progress(step, total_steps, loss)` is called in this thread; loss is NaN before the first step. The
    trainer dies with the calling thread. Raises TrainingFailed.
    """
    out.mkdir(parents=True, exist_ok=True)
    identity = {
        "settings": asdict(settings) | {"launcher": list(settings.launcher)},
        "dataset_sha256": _content_hash(dataset),
        "model_path": model_path,
    }
    before = json.loads((out / CONFIG).read_text(encoding="utf-8")) if (out / CONFIG).exists() else {}
    if {key: before.get(key) for key in identity} != identity:
        _start_anew(out)
    elif (out / RESULT).exists():
        return read_result(out)
    # Written after the clearing, so that a kill in between repeats it. The folders are no part of the
    # identity: a workspace may be moved.
    write_atomically(out / CONFIG, identity | {"dataset": str(dataset.resolve()), "out": str(out.resolve())})
    code = _run(settings.launcher, out, on_progress)
    if code != 0 or not (out / RESULT).exists():
        log = out / LOG
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise TrainingFailed(f"training {settings.model} ended with code {code}; {log} ends with:\n{last}", log)
    return read_result(out)


def read_result(out: Path) -> TrainResult:
    """The result in a finished folder. Raises FileNotFoundError where training has not finished."""
    fields: dict[str, Any] = json.loads((out / RESULT).read_text(encoding="utf-8"))
    fields["overlong_ids"] = tuple(fields["overlong_ids"])
    fields["loss_curve"] = tuple((step, loss) for step, loss in fields["loss_curve"])
    return TrainResult(model=out / MODEL, **fields)


def _run(launcher: tuple[str, ...], out: Path, on_progress: Callable[[int, int, float], None] | None) -> int:
    """Run the program to its end and return its exit code; whatever ends this function also ends the program."""
    command = [*(launcher or (sys.executable,)), "-m", PROGRAM, str(out / CONFIG)]
    guard = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())]
    root = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {
        PARENT_VARIABLE: str(os.getpid()),
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
        "PYTHONSAFEPATH": "1",  # a folder `tasks` where the user happens to stand is not ours
    }
    if not launcher:
        environment = _QUICK_ON_CPU | environment  # what the user has set wins
    progress = out / PROGRESS
    seen = progress.stat().st_size if progress.exists() else 0
    with (out / LOG).open("ab") as log:
        trainer = subprocess.Popen(
            guard + command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            process_group=0,
        )
    try:
        while True:
            try:
                code: int | None = trainer.wait(timeout=0.25)
            except subprocess.TimeoutExpired:
                code = None
            if on_progress is not None:
                seen = _report(progress, seen, on_progress)
            if code is not None:
                return code
    finally:
        if trainer.poll() is None:
            os.killpg(trainer.pid, signal.SIGKILL)
            trainer.wait()


def _report(progress: Path, seen: int, on_progress: Callable[[int, int, float], None]) -> int:
    """Pass on the whole lines after byte `seen`; return the byte after the last of them."""
    if not progress.exists():
        return seen
    with progress.open("rb") as file:
        file.seek(seen)
        fresh = file.read()
    whole = fresh[: fresh.rfind(b"\n") + 1]
    for line in whole.splitlines():
        entry = json.loads(line)
        on_progress(entry["step"], entry["total"], float("nan") if entry["loss"] is None else entry["loss"])
    return seen + len(whole)


def _start_anew(out: Path) -> None:
    """Clear what other settings or other data left."""
    (out / RESULT).unlink(missing_ok=True)
    for folder in [out / MODEL, out / "cache", *out.glob("checkpoint-*")]:
        shutil.rmtree(folder, ignore_errors=True)
    for name in (PROGRESS, LOG):
        (out / name).unlink(missing_ok=True)


def write_atomically(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _content_hash(dataset: Path) -> str:
    """sha256 over the names and contents of the Parquet files. Raises FileNotFoundError where there is none."""
    files = sorted(dataset.glob("data/*.parquet"))
    if not any(file.name.startswith("train-") for file in files):
        raise FileNotFoundError(f"{dataset} has no data/train-*.parquet: export a data set there first")
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            total.update(file.name.encode() + b"\0" + hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()
