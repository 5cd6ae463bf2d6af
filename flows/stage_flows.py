"""Single stages as flows of their own, for the deployments `verify`, `student` and `evaluate`.

A stage's input must be there; what is done and unchanged is not made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect import flow

from flows.errors import UsageError
from flows.factory import make
from flows.recipe import LoadedRecipe, load_recipe
from flows.run import Wish, open_workspace
from storage.place import place as parse_place


@flow(name="verify", persist_result=False)
def verify(
    recipe: str,
    workspace: str | None = None,
    teachers: list[str] | None = None,
    overrides: list[str] | None = None,
    redo: bool = False,
) -> dict[str, int]:
    """Judge the responses that have no verdict, those that a broken service could not judge included.

    Args:
        recipe: Path of the recipe (YAML).
        workspace: Folder of the data set; empty: the recipe's own, or workspaces/NAME.
        teachers: Judge only these teachers' responses; empty: all of the recipe's.
        overrides: Settings of the recipe to override, one a line, such as verify.math.timeout_s=10.
        redo: Go through every shard again; a response is judged again only where its verdict may differ.

    Returns:
        The pending units by step; empty when all is done.
    """
    return _stages(recipe, workspace, overrides, ["verify"], redo, teachers)


@flow(name="student", persist_result=False)
def student(
    recipe: str,
    workspace: str | None = None,
    overrides: list[str] | None = None,
    redo: bool = False,
    evaluate: bool = True,
) -> dict[str, int]:
    """Train the recipe's student on the export; then measure it on held-out questions and write the report.

    Args:
        recipe: Path of the recipe (YAML), with a part `student`.
        workspace: Folder of the data set; empty: the recipe's own, or workspaces/NAME.
        overrides: Settings of the recipe to override, one a line, such as student.epochs=1.
        redo: Train again, changed or not.
        evaluate: Measure the student, too, where the recipe has a part `evaluate`, and write the report.

    Returns:
        The pending units by step; empty when all is done.
    """
    stages = ["train", "evaluate", "report"] if evaluate else ["train"]
    return _stages(recipe, workspace, overrides, stages, redo)


@flow(name="evaluate", persist_result=False)
def evaluate(
    recipe: str, workspace: str | None = None, overrides: list[str] | None = None, redo: bool = False
) -> dict[str, int]:
    """Measure the student on held-out questions and write the report.

    Args:
        recipe: Path of the recipe (YAML), with the parts `student` and `evaluate`.
        workspace: Folder of the data set; empty: the recipe's own, or workspaces/NAME.
        overrides: Settings of the recipe to override, one a line, such as evaluate.samples=4.
        redo: Measure again, changed or not.

    Returns:
        The pending units by step; empty when all is done.
    """
    return _stages(recipe, workspace, overrides, ["evaluate", "report"], redo)


def _stages(recipe: str, workspace: str | None, overrides: list[str] | None, stages: Sequence[str], redo: bool,
            teachers: list[str] | None = None) -> dict[str, int]:  # fmt: skip
    """One stage after the other; `redo` is for the first, the others follow from what it makes."""
    loaded = load_recipe(Path(recipe), tuple(overrides or ()))
    _check(loaded, stages[0])
    place = open_workspace(loaded, parse_place(workspace) if workspace else None)
    asked = tuple(teachers) if teachers else None
    wishes = [Wish(redo_from=one if redo and one == stages[0] else None, only=one, teachers=asked) for one in stages]
    return make(loaded, place, wishes)


def _check(loaded: LoadedRecipe, stage: str) -> None:
    """Raises UsageError where the recipe has no such stage: a run that does nothing would look like success."""
    recipe = loaded.recipe
    missing = {"train": recipe.student is None, "evaluate": recipe.evaluate is None, "verify": not recipe.teachers}
    part = {"train": "student", "verify": "teachers"}.get(stage, stage)
    if missing.get(stage):
        raise UsageError(f"{loaded.path}: the recipe has no part `{part}`, so there is nothing to do here")
