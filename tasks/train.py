"""Train: a student in stages, each in a process of its own (tasks/student.py) and committed when it is whole.

    students/<name>/<stage>/    model/ or adapter/, train.log, checkpoints while it trains
    students/<name>/train/      the student: what the last stage left, and the result of all of them

Each stage is a step `train.<name>.<stage>` with its own fingerprint. It starts from what the stage before it left, so
that a changed setting trains its own stage and those after it again, and no other. The step `train.<name>` makes the
student of the last one; evaluation and report read that.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from storage.database import connect
from storage.fingerprint import hash_file, hash_text
from storage.manifest import Book
from storage.workspace import ALL, Workspace
from tasks.errors import NothingToTrainOn
from tasks.export import PAIRS, export_folder, export_rows, swap_folder
from tasks.export_pairs import pair_rows, preference_folder
from tasks.step import Context, Step, Work
from tasks.student import ADAPTER, MODEL, RESULT, TrainResult, read_result, train_student, write_atomically
from tasks.student_stages import PAIR_KINDS, AnnealStage, DpoStage, RediStage, SftStage, StudentSettings
from tasks.teachers.revision import resolve_revision
from tasks.teachers.smollm2 import NAME as PACKAGED
from tasks.teachers.smollm2 import model_path as packaged_path

VERSION = "2"
Stage = SftStage | AnnealStage | RediStage | DpoStage


def student_folder(workspace: Workspace, name: str) -> Path:
    """Where a student is trained; readers go through `Workspace.fetch`."""
    return workspace.local / "students" / name


def base_model(settings: StudentSettings) -> str:
    """Where the weights to start from lie."""
    return str(packaged_path()) if settings.model == PACKAGED else settings.model


def train_steps(settings: StudentSettings) -> list[Step]:
    """A step for each stage, and `train.<name>`, which makes the student of the last one."""
    steps: list[Step] = []
    for stage in settings.all_stages():
        steps.append(_stage_step(settings, stage, steps[-1] if steps else None))

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            _make_student(context, step, one, settings)

    described = {"stages": [stage.label for stage in settings.all_stages()]}
    keys = tuple(step.key for step in steps)
    return [*steps, Step(f"train.{settings.name}", "train", "one", VERSION, described, keys, run)]


def _stage_step(settings: StudentSettings, stage: Stage, before: Step | None) -> Step:
    described = settings.train_settings(stage).as_json()
    if settings.chat_template is not None:
        described["chat_template"] = hash_file(Path(settings.chat_template))
    if isinstance(stage, AnnealStage):
        described["questions"] = stage.questions
    if before is None:
        described["weights"] = resolve_revision(settings.model, settings.revision)
    reads = (PAIRS if stage.kind in PAIR_KINDS else "export", *([before.key] if before else []))

    def run(context: Context, step: Step, work: Sequence[Work]) -> None:
        for one in work:
            _train(context, step, one, settings, stage, before)

    return Step(f"train.{settings.name}.{stage.label}", "train", "one", VERSION, described, reads, run)


def _train(context: Context, step: Step, work: Work, settings: StudentSettings, stage: Stage,
           before: Step | None) -> None:  # fmt: skip
    workspace = context.workspace
    transaction = context.begin(step, work)
    unit = "pair" if stage.kind in PAIR_KINDS else "example"
    _need_data(workspace, unit)
    folder = student_folder(workspace, settings.name) / stage.label
    seen = expected = 0

    def on_progress(done: int, total: int, loss: float) -> None:
        nonlocal seen, expected
        context.progress.expect(step.key, total - expected)
        context.progress.advance(step.key, done - seen)
        seen, expected = done, total

    model, adapter, start = _start(workspace, settings, before)
    result = train_student(
        settings.train_settings(stage), _data(context, stage, folder), folder,
        model_path=model, adapter=adapter, start=start, on_progress=on_progress,
    )  # fmt: skip
    dropped = result.overlong if result.overlong_action == "drop" else 0
    ledger = [
        context.drop(step.key, unit, identity, "overlong", threshold=stage.max_length or settings.max_length)
        for identity in result.overlong_ids[:dropped]
    ]
    ledger += [context.drop(step.key, unit, identity, "nothing_left") for identity in result.lost_ids]
    drops = {rule: number for rule, number in (("overlong", dropped), ("nothing_left", len(result.lost_ids))) if number}
    book = Book(unit, result.examples_in, result.examples, drops)
    extra = json.loads(json.dumps(asdict(result), default=str)) | {"overlong_ids": len(result.overlong_ids)}
    for name in ("model", "curves", "stages", "lost_ids"):  # a path of this machine; long; empty; in the ledger
        del extra[name]
    if isinstance(stage, AnnealStage):
        extra["chosen_from"] = export_rows(workspace)["train"]
    workspace.publish(f"students/{settings.name}/{stage.label}", skip=("data-*",))
    transaction.commit_result([book], content=_weights_hash(folder), ledger=ledger, extra=extra)


def _need_data(workspace: Workspace, unit: str) -> None:
    if unit == "example" and not export_rows(workspace).get("train"):
        raise NothingToTrainOn(
            "the export holds no training example: no response passed and was selected. "
            "See `stillhouse status` for the drops by rule; loosen `select` or give the teacher easier questions."
        )
    if unit == "pair" and not pair_rows(workspace).get("train"):
        raise NothingToTrainOn(
            "the export holds no preference pair to train on: no question has both a selected and a failed response "
            "that match. See `stillhouse status` for the drops of `negatives`; loosen `negatives.length_ratio` or "
            "`negatives.teacher`, or ask for more samples."
        )


def _start(workspace: Workspace, settings: StudentSettings, before: Step | None) -> tuple[str, str | None, str]:
    """(weights, adapter to go on with, what identifies them) that a stage starts from."""
    if before is None:
        return base_model(settings), None, resolve_revision(settings.model, settings.revision)
    folder = workspace.fetch(f"students/{settings.name}/{before.key.rpartition('.')[2]}")
    content = workspace.need(before.key, ALL).content
    if (folder / MODEL).is_dir():
        return str(folder / MODEL), None, content
    return base_model(settings), str(folder / ADAPTER), content


def _data(context: Context, stage: Stage, folder: Path) -> Path:
    """The data set that a stage is trained on."""
    if stage.kind in PAIR_KINDS:
        return preference_folder(context.workspace)
    if not isinstance(stage, AnnealStage):
        return export_folder(context.workspace)
    content = context.workspace.need("export", ALL).content
    place = folder / f"data-{hash_text(content, str(stage.questions))[:12]}"
    if not place.exists():  # written once, so that a training that goes on finds the same bytes
        for old in folder.glob("data-*"):
            shutil.rmtree(old)
        scratch = context.workspace.scratch()
        write_highest_cv(export_folder(context.workspace), scratch, stage.questions, memory_mb=context.memory_mb)
        folder.mkdir(parents=True, exist_ok=True)
        scratch.rename(place)
    return place


def write_highest_cv(export: Path, target: Path, questions: int, *, memory_mb: int = 4096) -> None:
    """Write the best-scored example of each of the `questions` with the highest CV (DeepDistill, stage II).

    Ties by id. A question without a CV comes last. The validation split stays as it is.
    """
    (target / "data").mkdir(parents=True, exist_ok=True)
    for file in export.glob("data/validation-*.parquet"):
        shutil.copy(file, target / "data" / file.name)
    with closing(connect(target / "spill", memory_mb)) as database:
        database.execute(
            """
            copy (
                with best as (
                    select question_id, response_id, cv
                    from read_parquet($train)
                    qualify row_number() over (
                        partition by question_id order by verify_score desc nulls last, response_id
                    ) = 1
                ),
                highest as (
                    select response_id
                    from best
                    order by cv desc nulls last, question_id
                    limit $questions
                )
                select *
                from read_parquet($train)
                where response_id in (select response_id from highest)
                order by question_id
            ) to '{}' (format parquet, compression zstd)
            """.format(str(target / "data" / "train-00000-of-00001.parquet").replace("'", "''")),
            {"train": [str(file) for file in sorted(export.glob("data/train-*.parquet"))], "questions": questions},
        )
    shutil.rmtree(target / "spill", ignore_errors=True)


def _make_student(context: Context, step: Step, work: Work, settings: StudentSettings) -> None:
    """Put the last stage's model in the student's place, by hard links, with the results of all stages."""
    workspace = context.workspace
    transaction = context.begin(step, work)
    home = student_folder(workspace, settings.name)
    stages = settings.all_stages()
    last = stages[-1].label
    trained = workspace.fetch(f"students/{settings.name}/{last}")
    results = {
        stage.label: json.loads(
            workspace.fetch(f"students/{settings.name}/{stage.label}/{RESULT}").read_text(encoding="utf-8")
        )
        for stage in stages
    }
    scratch = workspace.scratch()
    for name in (MODEL, ADAPTER):
        if (trained / name).is_dir():
            shutil.copytree(trained / name, scratch / name, copy_function=_link)
    short = [
        {"name": name} | {key: value for key, value in result.items() if key not in ("overlong_ids", "versions")}
        for name, result in results.items()
    ]
    write_atomically(scratch / RESULT, results[last] | {"stages": short})
    swap_folder(scratch, home / "train")
    workspace.publish(f"students/{settings.name}/train")
    content = workspace.need(step.reads[-1], ALL).content
    extra = {"stages": [stage.label for stage in stages]}
    transaction.commit_result([Book("stage", len(stages), len(stages))], content=content, extra=extra)


def student_model(workspace: Workspace, name: str) -> Path:
    """The folder of a trained student's weights, here."""
    return workspace.fetch(f"students/{name}/train") / MODEL


def _link(source: str, target: str) -> str:
    """A second name for a file, or a copy where the file system can't."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def _weights_hash(folder: Path) -> str:
    files = [*(folder / MODEL).glob("*.safetensors"), *(folder / ADAPTER).glob("*.safetensors")]
    return hash_text(*(hash_file(path) for path in sorted(files)))


def trained(workspace: Workspace, name: str) -> TrainResult | None:
    """The committed training, or None."""
    if workspace.head(f"train.{name}", ALL) is None:
        return None
    return read_result(workspace.fetch(f"students/{name}/train/{RESULT}").parent)


def stage_results(workspace: Workspace, name: str) -> dict[str, Any]:
    """What each stage of a trained student reports, by its name, in the order in which they ran."""
    result = trained(workspace, name)
    return {stage["name"]: stage for stage in result.stages} if result else {}
