"""From a recipe to its steps, in the order in which they run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from flows.errors import UsageError
from flows.maker import maker_of
from flows.recipe import LoadedRecipe
from tasks.budget import Budget, by_price
from tasks.curate import curate_steps
from tasks.evaluate import evaluate_step
from tasks.evaluate_harness import harness_step
from tasks.evaluate_watch import watch_step
from tasks.export import export_step
from tasks.export_pairs import export_pairs_step
from tasks.generate import generate_step
from tasks.generate_rounds import rounds_steps
from tasks.grade import grade_steps
from tasks.grade_comparison import compare_step
from tasks.ingest import ingest_step
from tasks.negatives import negatives_step
from tasks.plan import slices
from tasks.provenance import provenance_step
from tasks.provenance_student import trace_step
from tasks.repeats import repeats_step
from tasks.report import prices_of, report_step
from tasks.rounds import rule
from tasks.score import score_step
from tasks.select import select_steps
from tasks.self_test import self_test_step
from tasks.step import Step
from tasks.teachers.settings import TeacherBase
from tasks.train import train_steps
from tasks.verify import verify_step

SIDE_BY_SIDE = {"screen", "curate", "grade", "select", "negatives"}
"""steps that gain from running several ranges of shards at once; the others fill the machine by themselves"""

STAGES = (
    "ingest", "curate", "generate", "score", "verify", "grade", "select", "export", "train", "evaluate", "report",
)  # fmt: skip


def workers(loaded: LoadedRecipe) -> int:
    return loaded.recipe.runner.max_workers or os.cpu_count() or 1


def build_steps(loaded: LoadedRecipe, teachers: Sequence[str] | None = None) -> list[Step]:
    """All steps of a recipe; `teachers` asks only these, the others' answers stay as they are."""
    recipe = loaded.recipe
    known = [teacher.name for teacher in recipe.teachers]
    for name in teachers or ():
        if name not in known:
            raise UsageError(f"no teacher {name} in the recipe; there are {', '.join(known) or 'none'}")
    sources = [source.name for source in sorted(recipe.sources, key=lambda source: -source.priority)]
    steps = [ingest_step(recipe.sources, recipe.ingest, loaded.base)]
    steps += curate_steps(recipe.curate, loaded.base, sources, known)
    if not recipe.teachers:
        return _with_lanes(steps, workers(loaded))
    asked: Sequence[TeacherBase] = [one for one in recipe.teachers if teachers is None or one.name in teachers]
    names = [teacher.name for teacher in asked]
    number = workers(loaded)
    if recipe.verify.self_test.limited():
        steps.append(self_test_step(recipe.verify, recipe.sources, workers=number))
    budget = Budget(recipe.budget, recipe.teachers)
    in_order = by_price(asked) if recipe.ask_first == "cheapest" else asked
    steps += [generate_step(teacher, loaded.base, budget) for teacher in in_order]
    if recipe.score:
        steps += [score_step(recipe.score, teacher) for teacher in asked]
        if recipe.score.provenance:
            steps += [provenance_step(recipe.score.provenance, name) for name in names]
    steps += [verify_step(recipe.verify, teacher, workers=number) for teacher in asked]
    for teacher in in_order:
        if found := rule(teacher, recipe.grade):
            steps += rounds_steps(teacher, found, recipe.verify, loaded.base, budget, workers=number)
            if recipe.score:
                steps.append(score_step(recipe.score, teacher, found))
                if recipe.score.provenance:
                    steps.append(provenance_step(recipe.score.provenance, teacher.name, later=True))
    rows = [part for teacher in asked for part in slices(teacher)]
    again = [teacher.name for teacher in asked if teacher.until]
    steps += grade_steps(recipe.grade, names, recipe.verify.judge, again)
    steps.append(compare_step(names))
    trace = recipe.select.trace
    if trace and trace.corpus_repeats:
        steps.append(repeats_step(asked, recipe.verify.trace.ngram, trace.corpus_repeats))
    scorers = [one.name for one in recipe.score.scorers] if recipe.score else []
    steps += select_steps(recipe.select, names, scorers, again)
    steps.append(
        export_step(
            recipe.export, maker_of(recipe, asked), repairs=recipe.grade.repair, pairs=recipe.negatives is not None
        )
    )
    if recipe.negatives:
        steps.append(negatives_step(recipe.negatives, rows))
        steps.append(export_pairs_step(recipe.export, maker_of(recipe, asked, pairs=True)))
    if recipe.student:
        steps += train_steps(recipe.student)
        if recipe.evaluate:
            steps.append(
                evaluate_step(
                    recipe.evaluate, recipe.student, recipe.verify, recipe.grade, workers=number, base=loaded.base
                )
            )
            if recipe.evaluate.lm_eval:
                steps.append(harness_step(recipe.evaluate.lm_eval, recipe.student.name))
            if recipe.evaluate.watch:
                steps.append(watch_step(recipe.evaluate, recipe.student, recipe.verify, names, workers=number))
            if recipe.score and recipe.score.provenance and recipe.score.provenance.trained:
                steps.append(trace_step(recipe.score, recipe.student, recipe.evaluate))
    steps.append(
        report_step(
            recipe.name,
            [step.key for step in steps],
            recipe.student.name if recipe.student else None,
            prices_of(recipe.teachers),
        )
    )
    return _with_lanes(steps, number)


def _with_lanes(steps: Sequence[Step], number: int) -> list[Step]:
    return [replace(step, lanes=number) if step.key in SIDE_BY_SIDE else step for step in steps]
