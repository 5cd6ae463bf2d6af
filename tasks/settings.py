"""The base of every settings model: frozen, and no unknown keys."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

from storage.schemas import CATEGORIES


def _known_category(name: str) -> str:
    if name not in CATEGORIES:
        raise ValueError(f"found {name!r}, expected one of {', '.join(CATEGORIES)}")
    return name


CategoryName = Annotated[str, AfterValidator(_known_category)]
"""A category of questions, as a value or as a key."""


class Settings(BaseModel):
    """Part of a recipe. A stage's fingerprint covers the settings that the stage reads, as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    def as_json(self, exclude: set[str] | None = None) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude=exclude)
