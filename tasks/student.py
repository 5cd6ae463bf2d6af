"""Training a student: the settings, the subprocess that trains, its result.

The training itself is one of the programs `tasks.student_sft`, `tasks.student_redi` and `tasks.student_dpo`. It runs in
a process of its own, so that its memory goes back when it ends and a crash, an OOM kill or a launcher's worker pool
never takes the factory with it.

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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PROGRAMS = {"sft": "tasks.student_sft", "redi": "tasks.student_redi", "dpo": "tasks.student_dpo"}
"""The program by training method."""
PARENT_VARIABLE = "STILLHOUSE_TRAINER_PARENT"
RESULT = "train_result.json"
CONFIG = "config.json"
PROGRESS = "progress.jsonl"
LOG = "train.log"
MODEL = "model"
ADAPTER = "adapter"
RUNS = "runs"
KEPT = "checkpoints"
"""folder of the models that are kept from on the way: step-00000012 and so on"""
STEP = "step-"
SINGLE = "single"
SHIPPED = Path(__file__).resolve().parents[1] / "deploy" / "accelerate"

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
class Lora:
    """Train low-rank adapters beside frozen weights."""

    rank: int = 16
    alpha: int = 32  # the adapter's output counts alpha / rank
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"  # names of modules, or all linear ones but the output layer
    merge: bool = True  # model/ is the whole model with the adapter added; else there is adapter/ alone


@dataclass(frozen=True)
class TrainSettings:
    """How to train. A global batch is batch_size × gradient_accumulation × number of launched processes."""

    model: str  # the student's name, for messages; the weights come from train_student's model_path
    method: str = "sft"  # one of PROGRAMS
    max_length: int = 1024  # tokens of prompt and completion together
    learning_rate: float = 8e-5  # reasoning wants a higher rate than usual (DeepDistill, stage I)
    epochs: float = 1
    batch_size: int = 16  # examples or pairs per device; with packing, sequences of max_length tokens
    gradient_accumulation: int = 1
    warmup_ratio: float = 0.05  # share of all steps, 0 ≤ r < 1
    scheduler: str = "cosine"
    packing: bool = False
    overlong: str = "drop"  # an example over max_length: "drop" it, or "truncate" its end; both are counted
    dtype: str = "float32"  # of the arithmetic; "bfloat16" is mixed precision over float32 weights
    seed: int = 17
    save_steps: int | None = None  # a checkpoint every so many steps; None: none, a killed run starts anew
    keep_checkpoints: int = 0  # so many models from on the way, evenly spread, the last one not counted
    shuffle: bool = True  # False: examples in the order of the data set, without packing, which reorders
    gradient_checkpointing: bool = False  # less memory for about 20 % more time
    chat_template: str | None = None  # a Jinja file that replaces the student's own template
    alpha: float = 0.8  # redi: weight of the rejected side, 0 ≤ alpha
    beta: float = 0.1  # dpo: how strongly the student is held to where it starts
    lora: Lora | None = None  # None: all weights are trained
    accelerate: str | None = None  # a shipped configuration's name, or a configuration file for `accelerate launch`
    processes: int | None = None  # with accelerate: how many; None: one per GPU
    launcher: tuple[str, ...] = ()  # a command of one's own in the place of plain Python
    report_to: tuple[str, ...] = ()  # such as ("tensorboard",): no part of what comes out

    def __post_init__(self) -> None:
        object.__setattr__(self, "launcher", tuple(self.launcher))
        object.__setattr__(self, "report_to", tuple(self.report_to))
        if isinstance(self.lora, dict):  # read from CONFIG.json
            lora: dict[str, Any] = self.lora
            targets = lora["targets"]
            object.__setattr__(
                self, "lora", Lora(**lora | {"targets": targets if isinstance(targets, str) else tuple(targets)})
            )
        for name, allowed in (
            ("method", tuple(PROGRAMS)),
            ("overlong", ("drop", "truncate")),
            ("dtype", ("float32", "bfloat16")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(allowed)}")
        if not 0 <= self.warmup_ratio < 1:
            raise ValueError(f"warmup_ratio is {self.warmup_ratio}, expected a share from 0 up to, but not, 1")
        if self.alpha < 0 or self.beta <= 0:
            raise ValueError(f"alpha is {self.alpha} and beta {self.beta}, expected alpha ≥ 0 and beta > 0")
        if self.keep_checkpoints < 0:
            raise ValueError(f"keep_checkpoints is {self.keep_checkpoints}, expected 0 or more")
        if self.packing and not self.shuffle:
            raise ValueError("packing reorders examples, so that shuffle: false keeps no order; expected one of them")
        if self.launcher and self.accelerate:
            raise ValueError("both launcher and accelerate are set, expected one of them")

    def as_json(self) -> dict[str, Any]:
        """What decides what comes out, as JSON. Later settings are left out at their default, which is what trainings
        without them did."""
        fields: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        del fields["report_to"]
        for name, default in (("keep_checkpoints", 0), ("shuffle", True)):
            if fields[name] == default:
                del fields[name]
        return fields


@dataclass(frozen=True)
class TrainResult:
    """What a finished training reports. examples_in = examples + those dropped as overlong + lost ones. In a training
    on pairs an example is a pair, and its id `chosen_id:rejected_id`."""

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
    lost_ids: tuple[str, ...] = ()  # cut so far that nothing of an answer was left, and left out
    method: str = "sft"
    global_batch: int | None = None  # examples or pairs a step, over all processes
    curves: dict[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    # (step, value) of what the trainer logs besides the loss, such as learning_rate, grad_norm, logps_chosen
    stages: tuple[dict[str, Any], ...] = ()  # of a student of several stages: each one's own result, in short


def train_student(
    settings: TrainSettings,
    dataset: Path,
    out: Path,
    *,
    model_path: str,
    adapter: str | None = None,
    start: str | None = None,
    on_progress: Callable[[int, int, float], None] | None = None,
) -> TrainResult:
    """Train a student on an exported data set and return what came of it.

    `dataset` is a folder in Hugging Face layout (data/train-*.parquet, perhaps data/validation-*.parquet)
    with the columns messages and response_id (sft) or prompt, chosen, rejected and pair_id (redi, dpo).
    `model_path` are the weights to start from, `adapter` a folder with an adapter to go on with, `start` what
    identifies the two (unset: their paths). `out` gets model/ or adapter/, checkpoints/ if any are kept,
    train_result.json, train.log and progress.jsonl. An `out` that is finished with these settings, this data and this
    start returns at once; one that was interrupted goes on from its newest complete checkpoint; any other starts anew.

    `on_progress(step, total_steps, loss)` is called in this thread; loss is NaN before the first step. The
    trainer dies with the calling thread. Raises TrainingFailed.
    """
    out.mkdir(parents=True, exist_ok=True)
    identity = {
        "settings": settings.as_json(),
        "dataset_sha256": _content_hash(dataset),
        "start": start or f"{model_path} {adapter or ''}",
    }
    before = json.loads((out / CONFIG).read_text(encoding="utf-8")) if (out / CONFIG).exists() else {}
    if {key: before.get(key) for key in identity} != identity:
        _start_anew(out)
    elif (out / RESULT).exists():
        return read_result(out)
    # Written after the clearing, so that a kill in between repeats it. The folders are no part of the
    # identity: a workspace may be moved.
    places = {"dataset": str(dataset.resolve()), "out": str(out.resolve()), "model_path": model_path,
              "adapter": adapter, "report_to": settings.report_to}  # fmt: skip
    write_atomically(out / CONFIG, identity | places)
    code = _run(settings, out, on_progress)
    if code != 0 or not (out / RESULT).exists():
        log = out / LOG
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise TrainingFailed(f"training {settings.model} ended with code {code}; {log} ends with:\n{last}", log)
    return read_result(out)


def read_result(out: Path) -> TrainResult:
    """The result in a finished folder. Raises FileNotFoundError where training has not finished."""
    fields: dict[str, Any] = json.loads((out / RESULT).read_text(encoding="utf-8"))
    for name in ("overlong_ids", "lost_ids"):
        fields[name] = tuple(fields.get(name, ()))
    fields["loss_curve"] = tuple((step, loss) for step, loss in fields["loss_curve"])
    fields["curves"] = {
        name: tuple((step, value) for step, value in curve) for name, curve in fields.get("curves", {}).items()
    }
    fields["stages"] = tuple(fields.get("stages", ()))
    return TrainResult(model=out / MODEL, **fields)


def launch_command(settings: TrainSettings) -> tuple[str, ...]:
    """What starts the program: plain Python, `accelerate launch` with a configuration, or the user's own command.

    Raises ValueError for a configuration that is neither shipped nor a file.
    """
    if not settings.accelerate:
        return settings.launcher or (sys.executable,)
    config = SHIPPED / f"{settings.accelerate}.yaml"
    if not config.is_file():
        config = Path(settings.accelerate)
    if not config.is_file():
        shipped = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml")))
        raise ValueError(f"accelerate is {settings.accelerate!r}, expected {shipped} or a configuration file")
    import torch

    number = 1 if settings.accelerate == SINGLE else settings.processes or max(torch.cuda.device_count(), 1)
    launch = (sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config.resolve()))
    return (*launch, "--num_processes", str(number))


def _run(settings: TrainSettings, out: Path, on_progress: Callable[[int, int, float], None] | None) -> int:
    """Run the program to its end and return its exit code; whatever ends this function also ends the program."""
    command = [*launch_command(settings), "-m", PROGRAMS[settings.method], str(out / CONFIG)]
    guard = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())]
    root = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {
        PARENT_VARIABLE: str(os.getpid()),
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
        "PYTHONSAFEPATH": "1",  # a folder `tasks` where the user happens to stand is not ours
    }
    if not (settings.launcher or settings.accelerate):
        environment = _QUICK_ON_CPU | environment  # what the user has set wins
    if not settings.launcher and settings.accelerate in (None, SINGLE):
        # With several GPUs in sight one process would run transformers' DataParallel: slow, and another global batch.
        environment["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
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
    for folder in [*(out / name for name in (MODEL, ADAPTER, RUNS, KEPT, "cache")), *out.glob("checkpoint-*")]:
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
