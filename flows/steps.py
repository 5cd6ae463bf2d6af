"""From a recipe to its steps, in the order in which they run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from flows.errors import UsageError
from flows.recipe import LoadedRecipe
from tasks.curate import curate_steps
from tasks.evaluate import evaluate_step
from tasks.export import export_step
from tasks.generate import generate_step
from tasks.grade import grade_steps
from tasks.grade_comparison import compare_step
from tasks.ingest import ingest_step
from tasks.report import report_step
from tasks.select import select_step
from tasks.self_test import self_test_step
from tasks.step import Step
from tasks.teachers.settings import TeacherBase
from tasks.train import train_step
from tasks.verify import verify_step

SIDE_BY_SIDE = {"screen", "curate", "grade", "select"}
"""steps that gain from running several ranges of shards at once; the others fill the machine by themselves"""

STAGES = ("ingest", "curate", "generate", "verify", "grade", "select", "export", "train", "evaluate", "report")


def workers(loaded: LoadedRecipe) -> int:
    return loaded.recipe.runner.max_workers or os.cpu_count() or 1


def build_steps(loaded: LoadedRecipe, teachers: Sequence[str] | None = None) -> list[Step]:
    """All steps of a recipe; `teachers` asks only these, the others' answers stay as they are."""
    recipe = loaded.recipe
    names = [teacher.name for teacher in recipe.teachers]
    for name in teachers or ():
        if name not in names:
            raise UsageError(f"no teacher {name} in the recipe; there are {', '.join(names) or 'none'}")
    sources = [source.name for source in sorted(recipe.sources, key=lambda source: -source.priority)]
    steps = [ingest_step(recipe.sources, recipe.ingest, loaded.base)]
    steps += curate_steps(recipe.curate, loaded.base, sources, names)
    if not recipe.teachers:
        return _with_lanes(steps, workers(loaded))
    asked: Sequence[TeacherBase] = [one for one in recipe.teachers if teachers is None or one.name in teachers]
    number = workers(loaded)
    if recipe.verify.self_test.limited():
        steps.append(self_test_step(recipe.verify, recipe.sources, workers=number))
    steps += [generate_step(teacher, loaded.base) for teacher in asked]
    steps += [verify_step(recipe.verify, teacher, workers=number) for teacher in asked]
    steps += grade_steps(recipe.grade, [teacher.name for teacher in asked])
    steps.append(compare_step([teacher.name for teacher in asked]))
    steps.append(select_step(recipe.select, [teacher.name for teacher in asked]))
    steps.append(export_step(recipe.export, recipe.name, [teacher.name for teacher in asked]))
    if recipe.student:
        steps.append(train_step(recipe.student))
        if recipe.evaluate:
            steps.append(evaluate_step(recipe.evaluate, recipe.student, recipe.verify, recipe.grade, workers=number))
    steps.append(
        report_step(recipe.name, [step.key for step in steps], recipe.student.name if recipe.student else None)
    )
    return _with_lanes(steps, number)


def _with_lanes(steps: Sequence[Step], number: int) -> list[Step]:
    return [replace(step, lanes=number) if step.key in SIDE_BY_SIDE else step for step in steps]
