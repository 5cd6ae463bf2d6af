"""Pydantic's complaints in the words of the recipe: path in the file, what was found, what is allowed."""

from __future__ import annotations

import difflib
import types
from collections.abc import Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel


def explain_error(error: Any, raw: Any, model: type[BaseModel]) -> str:
    """One line for one error of a ValidationError; `raw` is the recipe as parsed."""
    path = file_path(error["loc"], raw)
    where = ".".join(str(part) for part in path) or "recipe"
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = allowed_keys(model, path[:-1], raw)
        close = difflib.get_close_matches(str(path[-1]), allowed, 1)
        hint = f"; did you mean {close[0]}?" if close else "."
        return f"{where}: unknown key{hint} Allowed here: {', '.join(allowed)}"
    if kind == "missing":
        return f"{where}: missing; expected a value"
    found = _shown(error.get("input"))
    if kind == "literal_error":
        return f"{where}: found {found}, expected {context['expected']}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = str(context.get("discriminator", "")).strip("'")
        expected = context.get("expected_tags", f"one of its kinds in the key {tag}")
        return f"{where}.{tag}: found {_shown(context.get('tag'))}, expected {expected}"
    if kind == "value_error":
        return f"{where}: {context['error']}" if where != "recipe" else str(context["error"])
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{where}: found {found}, expected: {message.removeprefix('input should be ')}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def file_path(location: Sequence[Any], raw: Any) -> list[Any]:
    """The path of keys as they stand in the file: pydantic's location without the tags of unions."""
    path: list[Any] = []
    location = [part for part in location if part != "[key]"]  # a wrong key is its own place
    place = raw
    for number, part in enumerate(location):
        inside = (isinstance(place, dict) and part in place) or (
            isinstance(place, list) and isinstance(part, int) and part < len(place)
        )
        if inside:
            place = place[part]
            path.append(part)
        elif number == len(location) - 1 and isinstance(place, dict):
            path.append(part)
    return path


def allowed_keys(model: type[BaseModel], path: Sequence[Any], raw: Any) -> list[str]:
    """The keys that the model at `path` has."""
    current: list[type[BaseModel]] = [model]
    place = raw
    for part in path:
        place = place[part]
        if isinstance(part, int):
            continue
        found: list[type[BaseModel]] = []
        for one in current:
            if part in one.model_fields:
                found += _models(one.model_fields[part].annotation)
        current = found or current
    fitting = [one for one in current if _fits(one, place)] or current
    return sorted({name for one in fitting for name in one.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Annotated, Union, types.UnionType, tuple, list, dict):
        return [model for part in get_args(annotation) for model in _models(part)]
    return []


def _fits(model: type[BaseModel], place: Any) -> bool:
    """Whether the tag in the file picks this model out of a union."""
    for tag in ("kind", "engine"):
        if tag in model.model_fields and isinstance(place, dict) and tag in place:
            return place[tag] in get_args(model.model_fields[tag].annotation)
    return True
