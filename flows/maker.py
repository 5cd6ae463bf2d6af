"""What an exported data set says of the recipe that made it: its settings without machines, addresses and secrets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from flows.recipe import Recipe
from tasks.export import Maker
from tasks.plan import slices
from tasks.teachers.settings import NOT_ASKED, TeacherBase

PARTS = {"sources", "ingest", "curate", "teachers", "verify", "grade", "select"}
NOT_PUBLISHED = (NOT_ASKED - {"engine", "model", "revision", "path", "license"}) | {"memory_mb", "workers", "image"}
"""where and how fast something ran, and by whose key: nothing that decides a row"""


def maker_of(recipe: Recipe, teachers: Sequence[TeacherBase], *, pairs: bool = False) -> Maker:
    """For the card of the examples, or of the pairs."""
    parts = PARTS | ({"negatives"} if pairs else set())
    said = published(recipe.model_dump(mode="json", include=parts, exclude_defaults=True))
    licenses = {one.name: one.license for one in teachers}
    return Maker(recipe.name, tuple(part for one in teachers for part in slices(one)), licenses, said, recipe.student)


def published(value: Any) -> Any:
    """Settings as anybody may read them; of an absolute path the last part alone."""
    if isinstance(value, dict):
        return {key: published(one) for key, one in value.items() if key not in NOT_PUBLISHED}
    if isinstance(value, list):
        return [published(one) for one in value]
    if isinstance(value, str) and value.startswith(("/", "~")):
        return PurePath(value).name
    return value
