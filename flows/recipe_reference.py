"""The recipe's reference, made from the models: every key with its type, default and meaning.

    python -m flows.recipe_reference > docs/recipe.md

The text of a key is the docstring of its field, that of a table the docstring of its model; a test holds the page
against the models.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from flows.recipe import Recipe

INTRODUCTION = """\
# The recipe, key by key

Made from the models by `python -m flows.recipe_reference > docs/recipe.md`; don't edit it by hand.

A recipe is one YAML file. Keys that aren't here are refused, with the ones that are allowed; keys that begin with `x-`
at the top are yours, for anchors. `--set a.b=value` overrides one key; in a list a part of the path is a number or an
item's `name`. Paths are relative to the recipe's folder, but `workspace`. "–" as a default: the key must be given.
"""
WORDS = {int: "whole number", float: "number", str: "text", bool: "true, false", type(None): "null", Any: "any value"}
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


@dataclass
class Page:
    """The tables that are written, and those that are still to come."""

    lines: list[str] = field(default_factory=list)
    waiting: list[tuple[str, str, dict[str, FieldInfo]]] = field(default_factory=list)
    """(path, text, fields)"""
    written: dict[type[BaseModel], str] = field(default_factory=dict)
    """model → path of its table: one that is used twice is written once"""


def reference() -> str:
    """The whole page, Markdown."""
    page = Page([INTRODUCTION])
    page.waiting.append(("recipe", "The top of the file.", Recipe.model_fields))
    while page.waiting:
        _table(page, *page.waiting.pop(0))
    return "\n".join(page.lines)


def _table(page: Page, path: str, text: str, fields: dict[str, FieldInfo]) -> None:
    page.lines.append(f"## {path}\n")
    if text:
        page.lines.append(f"{text}\n")
    page.lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
    inside = "" if path == "recipe" else f"{path.partition(' ')[0]}."
    later: list[tuple[str, str, dict[str, FieldInfo]]] = []
    for name, info in fields.items():
        kind = _kind(page, info.annotation, info.metadata, f"{inside}{name}", later)
        meaning = " ".join((info.description or "").split())
        page.lines.append(f"| `{name}` | {_cell(kind)} | {_cell(_default(info))} | {_cell(meaning)} |")
    page.lines.append("")
    page.waiting[:0] = later  # the tables of a key follow it, before those of the next


def _kind(page: Page, annotation: Any, metadata: Sequence[Any], path: str, later: list[Any]) -> str:
    """What may stand there, in words; tables of models are put in `later`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(page, arguments[0], [*metadata, *arguments[1:]], path, later)
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in arguments)
    if origin in (Union, types.UnionType):
        return _union(page, arguments, metadata, path, later)
    if origin in (tuple, list):
        inner = [one for one in arguments if one is not Ellipsis]
        if len(inner) > 1:
            return "[" + ", ".join(_kind(page, one, (), path, later) for one in inner) + "]"
        return f"list of {_kind(page, inner[0], (), f'{path}[]', later)}{_limits(metadata)}"
    if origin is dict:
        keys, values = (_kind(page, one, (), f"{path}.KEY", later) for one in arguments)
        return f"{keys}: {values}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _link(page, annotation, path, later)
    limits = "" if annotation is type(None) else _limits(metadata)
    return WORDS.get(annotation, str(getattr(annotation, "__name__", annotation))) + limits


def _union(page: Page, arguments: Sequence[Any], metadata: Sequence[Any], path: str, later: list[Any]) -> str:
    models = [one for one in arguments if isinstance(one, type) and issubclass(one, BaseModel)]
    tag = next((one.discriminator for one in metadata if isinstance(one, FieldInfo) and one.discriminator), None)
    if len(models) < 2 or not isinstance(tag, str):
        return " or ".join(_kind(page, one, metadata, path, later) for one in arguments)
    shared = {
        name: info for name, info in models[0].model_fields.items()
        if all(name in one.model_fields and repr(one.model_fields[name]) == repr(info) for one in models)
    }  # fmt: skip
    if models[0] not in page.written:
        later.append((path, f"Of every `{tag}`; the keys of each one follow.", shared))
        for one in models:
            value = get_args(one.model_fields[tag].annotation)[0]
            own = {name: info for name, info in one.model_fields.items() if name not in shared}
            page.written[one] = path
            later.append((f"{path} with {tag}: {value}", _text(one), own))
    return f"[{path}](#{_anchor(page.written[models[0]])})"


def _link(page: Page, model: type[BaseModel], path: str, later: list[Any]) -> str:
    if model not in page.written:
        page.written[model] = path
        later.append((path, _text(model), model.model_fields))
    place = page.written[model]
    return f"[{place}](#{_anchor(place)})"


def _text(model: type[BaseModel]) -> str:
    own = model.__dict__.get("__doc__") or ""
    return " ".join(own.split())


def _anchor(path: str) -> str:
    """As GitHub makes it of a heading."""
    kept = "".join(char for char in path.lower() if char.isalnum() or char in " -_")
    return kept.replace(" ", "-")


def _limits(metadata: Sequence[Any]) -> str:
    return "".join(f", {limit}" for one in metadata for limit in _limit(one))


def _limit(one: Any) -> Iterator[str]:
    for name, sign in SIGNS.items():
        if (value := getattr(one, name, None)) is not None:
            yield f"{sign} {value}"
    if isinstance(one, annotated_types.MinLen) and one.min_length:
        yield f"at least {one.min_length}"
    if pattern := getattr(one, "pattern", None):
        yield f"matching `{pattern}`"


def _default(info: FieldInfo) -> str:
    if info.default is PydanticUndefined and info.default_factory is None:
        return "–"
    value = info.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, list | tuple):
        return f"`[{', '.join(map(_plain, value))}]`"
    return f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="json", exclude_defaults=True))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_plain(one)}" for key, one in value.items()) + "}"
    return str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main() -> None:
    sys.stdout.write(reference())


if __name__ == "__main__":
    main()
