"""lm-eval beside our own evaluation, where it is installed: a subprocess whose result file is read and shown.

The command is the recipe's; `{model}` in it becomes the trained student's folder, `{out}` a fresh folder. The
lm-evaluation-harness writes `results_<time>.json` below its `--output_path`, with `results`: task →
{"metric,filter": number, "metric_stderr,filter": number}. The newest such file is read; nothing else of the run is.

Not covered: what lm-eval downloads, and versions that write another layout.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from storage.fingerprint import hash_json
from storage.manifest import Book
from storage.workspace import ALL, Workspace
from tasks.errors import BadSetting, StageError
from tasks.step import Context, Step, Work
from tasks.train import student_model

VERSION = "1"
LAST_LINES = 8


class HarnessFailed(StageError):
    """The command ended without results; the message carries its last lines."""


def harness_step(command: Sequence[str], student: str) -> Step:
    """The step `harness.<student>` of the stage `evaluate`; `command` is `evaluate.lm_eval`."""

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            transaction = context.begin(step, one)
            scores = run_harness(context.workspace, command, student)
            book = Book("task", len(scores), len(scores))
            transaction.commit_result([book], content=hash_json(scores), extra={"harness": scores})

    described = {"command": list(command)}
    return Step(f"harness.{student}", "evaluate", "one", VERSION, described, (f"train.{student}",), run, exclusive=True)


def run_harness(workspace: Workspace, command: Sequence[str], student: str) -> dict[str, dict[str, float]]:
    """Task → metric → number. Raises BadSetting where the program is missing, HarnessFailed without results."""
    if shutil.which(command[0]) is None:
        raise BadSetting(
            f"evaluate.lm_eval: no program {command[0]} here; pip install lm-eval, or leave the setting out"
        )
    out = workspace.scratch()
    model = str(student_model(workspace, student))
    filled = [part.replace("{model}", model).replace("{out}", str(out)) for part in command]
    done = subprocess.run(filled, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
                          check=False)  # fmt: skip
    files = sorted(out.rglob("results*.json"), key=lambda path: path.stat().st_mtime_ns)
    if done.returncode != 0 or not files:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-LAST_LINES:])
        raise HarnessFailed(f"{' '.join(filled)} ended with code {done.returncode} and {len(files)} result files; it "
                            f"ends with:\n{last}")  # fmt: skip
    return read_scores(files[-1])


def read_scores(file: Path) -> dict[str, dict[str, float]]:
    """The numbers of a result file. Raises HarnessFailed for another layout."""
    try:
        results: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["results"]
        return {
            task: {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
            for task, found in results.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise HarnessFailed(
            f"{file}: expected lm-eval's `results` by task, found something else ({fault!r})"
        ) from fault


def harness_lines(workspace: Workspace, student: str) -> list[str]:
    """`task: metric 0.5 ± 0.01` for each committed number."""
    head = workspace.head(f"harness.{student}", ALL)
    lines = []
    for task, scores in (head.extra["harness"] if head else {}).items():
        for name, value in scores.items():
            metric, _, kept = name.partition(",")
            if metric.endswith("_stderr") or metric in ("alias", "sample_len"):
                continue
            error = scores.get(f"{metric}_stderr,{kept}")
            lines.append(f"lm-eval, {task}: {name} {value:.4g}" + (f" ± {error:.2g}" if error is not None else ""))
    return lines
