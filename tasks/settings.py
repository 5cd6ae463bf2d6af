"""The base of every settings model: frozen, and no unknown keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo

from storage.schemas import CATEGORIES


def _known_category(name: str) -> str:
    if name not in CATEGORIES:
        raise ValueError(f"found {name!r}, expected one of {', '.join(CATEGORIES)}")
    return name


CategoryName = Annotated[str, AfterValidator(_known_category)]
"""A category of questions, as a value or as a key."""


def _known_category_or_default(name: str) -> str:
    if name not in (*CATEGORIES, "default"):
        raise ValueError(f"found {name!r}, expected one of {', '.join(CATEGORIES)}, default")
    return name


CategoryOrDefault = Annotated[str, AfterValidator(_known_category_or_default)]
"""A category of questions as a key, or `default` for all that have no key of their own."""


def _beside_the_recipe(name: str, info: ValidationInfo) -> str:
    base = (info.context or {}).get("base")
    folder = None if base is None else (base / name).absolute()
    return str(folder) if folder and not Path(name).is_absolute() and folder.is_dir() else name


ModelSource = Annotated[str, AfterValidator(_beside_the_recipe)]
"""A model by hub name, or its folder; a relative one starts at the recipe's folder, as all paths do."""


class Settings(BaseModel):
    """Part of a recipe. A stage's fingerprint covers the settings that the stage reads, as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    def as_json(self, exclude: set[str] | None = None) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude=exclude)
