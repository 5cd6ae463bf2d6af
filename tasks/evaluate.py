"""Evaluate: the student before and after training on held-out questions, with the same verifiers as the teachers.

The answers and verdicts lie in a workspace of their own, in the same tables, with the two teachers `before` and
`after`:

    students/<name>/eval/

Accuracy = mean over questions of passes / n; capability at k = mean of the unbiased pass@k (arXiv 2505.14216).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from pydantic import Field

from storage.fingerprint import hash_json
from storage.manifest import Book, Inputs
from storage.workspace import ALL, Workspace
from tasks.errors import BadSetting, MissingInput
from tasks.generate import generate_step
from tasks.grade import GradeSettings, grade_steps
from tasks.metrics import accuracy, accuracy_interval, capability
from tasks.settings import Settings
from tasks.step import Context, Heads, Progress, Step, Work, pending_work
from tasks.teachers.revision import resolve_revision
from tasks.teachers.settings import Prompt, Sampling, TransformersTeacherSettings
from tasks.train import StudentSettings, base_model, student_folder
from tasks.verifiers.bench import static_versions
from tasks.verifiers.settings import VerifySettings
from tasks.verify import verify_step

VERSION = "2"
SIDES = ("before", "after")


class EvaluateSettings(Settings):
    samples: int = Field(default=1, ge=1)
    """Answers per held-out question; pass@k is reported for every k up to this that is a power of two."""
    prompts: dict[str, Prompt] = {}
    """How the student is asked; the same as in `export`, if it was trained with one."""
    sampling: Sampling = Sampling(temperature=0.0, max_tokens=512)
    sampling_by_category: dict[str, Sampling] = {}
    dtype: str = "auto"
    device: str = "auto"
    batch_size: int = Field(default=32, ge=1)


def eval_folder(workspace: Workspace, student: str) -> Path:
    return student_folder(workspace, student) / "eval"


def evaluate_step(settings: EvaluateSettings, student: StudentSettings, verify: VerifySettings, grade: GradeSettings,
                  *, workers: int) -> Step:  # fmt: skip
    described = {
        "evaluate": settings.as_json(exclude={"batch_size", "device"}),
        "verify": verify.judging(),
        "versions": static_versions(verify),
        "weights": resolve_revision(student.model, student.revision),
    }

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            _evaluate(context, step, one, settings, student, verify, grade, workers)

    reads = ("curate", "grade", f"train.{student.name}")
    return Step(f"evaluate.{student.name}", "evaluate", "one", VERSION, described, reads, run, exclusive=True)


def _evaluate(context: Context, step: Step, work: Work, settings: EvaluateSettings, student: StudentSettings,
              verify: VerifySettings, grade: GradeSettings, workers: int) -> None:  # fmt: skip
    workspace = context.workspace
    transaction = context.begin(step, work)
    inner = Workspace.create(eval_folder(workspace, student.name), bits=workspace.bits)
    questions = _take_heldout(context, inner)
    if questions == 0:
        raise BadSetting("no held-out questions to evaluate on; set `curate.heldout` to a share such as 0.05")
    models = {"before": base_model(student), "after": str(student_folder(workspace, student.name) / "train" / "model")}
    common = settings.model_dump()
    teachers = [
        TransformersTeacherSettings(name=side, engine="transformers", model=models[side], **common) for side in SIDES
    ]
    steps = [generate_step(teacher, workspace.root) for teacher in teachers]
    steps += [verify_step(verify, teacher, workers=workers) for teacher in teachers]
    steps += grade_steps(grade.model_copy(update={"repair": False}), SIDES)  # a student repairs no reference
    _run_all(replace(context, workspace=inner, progress=_Inner(context.progress, step.key)), steps)
    metrics = measure(workspace, inner, settings.samples)
    graded = metrics["questions"]
    book = Book("question", questions, graded, {}, questions - graded)
    transaction.commit_result([book], content=hash_json(metrics), extra={"metrics": metrics})


class _Inner:
    """Progress of the inner steps, under the name of the evaluation."""

    def __init__(self, outer: Progress, name: str) -> None:
        self._outer, self._name = outer, name

    def expect(self, step: str, units: int) -> None:
        self._outer.expect(f"{self._name}: {step}", units)

    def advance(self, step: str, units: int = 1) -> None:
        self._outer.advance(f"{self._name}: {step}", units)


def _take_heldout(context: Context, inner: Workspace) -> int:
    """Commit the held-out questions as the inner workspace's `curated`; return how many there are."""
    total = 0
    for shard in inner.shards:
        head = context.workspace.need("curate", shard)
        inputs = Inputs(VERSION, {}, {"curate": head.content})
        curated = context.workspace.read("curate", shard, "curated")
        heldout = curated.filter(pc.field("split") == "heldout")
        total += heldout.num_rows
        known = inner.head("curate", shard)
        if known is None or known.fingerprint != inputs.fingerprint:
            book = Book("question", heldout.num_rows, heldout.num_rows)
            inner.begin("curate", shard, inputs, run_id=context.run_id).commit("curated", heldout, [], [book])
    return total


def _run_all(context: Context, steps: Sequence[Step]) -> None:
    """Make what is missing, step by step, in this process."""
    curate = Step("curate", "curate", "shard", VERSION, {}, (), lambda *_: None)
    by_key = {step.key: step for step in (curate, *steps)}
    for step in steps:
        work = pending_work(step, by_key, Heads(context.workspace), step.files(context.workspace.cache))
        if work is None:
            raise MissingInput(f"evaluation: {step.key} lacks the output of {', '.join(step.reads)}")
        if work:
            step.run(context, step, work)


def measure(workspace: Workspace, inner: Workspace, samples: int) -> dict[str, Any]:
    """Accuracy with its 95 % interval and capability at k, before and after, in all, by category and by difficulty.

    Difficulty is the teachers' grade of the held-out question.
    """
    difficulty: dict[str, str] = {}
    grades: list[dict[str, Any]] = []
    for shard in inner.shards:
        own = inner.read("grade", shard, "grades").to_pylist()
        wanted = {row["question_id"] for row in own}
        rows = workspace.read("grade", shard, "grades", ["question_id", "difficulty"]).to_pylist()
        difficulty |= {row["question_id"]: row["difficulty"] for row in rows if row["question_id"] in wanted}
        grades += own
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= samples]
    return {
        "questions": len(grades),
        "samples": samples,
        "all": _sides(grades, ks),
        "by_category": {name: _sides(rows, ks) for name, rows in _grouped(grades, lambda row: row["category"])},
        "by_difficulty": {
            name: _sides(rows, ks)
            for name, rows in _grouped(grades, lambda row: difficulty.get(row["question_id"], "ungraded"))
        },
    }


def _grouped(rows: Sequence[dict[str, Any]], key: Any) -> list[tuple[str, list[dict[str, Any]]]]:
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return sorted(groups.items())


def _sides(rows: Sequence[dict[str, Any]], ks: Sequence[int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for side in SIDES:
        grades = [grade for row in rows for grade in row["teachers"] if grade["teacher"] == side and grade["n"]]
        passes = [(grade["n"], grade["passes"]) for grade in grades]
        if not passes:
            found[side] = {"questions": 0}
            continue
        interval = accuracy_interval(passes)
        found[side] = {
            "questions": len(passes), "accuracy": accuracy(passes).value, "low": interval.low, "high": interval.high,
        } | {f"pass@{k}": capability(passes, k).value for k in ks if all(n >= k for n, _ in passes)}  # fmt: skip
    return found


def evaluated(workspace: Workspace, student: str) -> dict[str, Any] | None:
    """The committed metrics, or None."""
    head = workspace.head(f"evaluate.{student}", ALL)
    return head.extra["metrics"] if head else None
