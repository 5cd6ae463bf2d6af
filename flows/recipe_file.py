"""A recipe file as plain values: YAML without what YAML allows and a recipe can't mean.

Refused, with the place: a key that stands twice, a file that isn't text, values that are no JSON (dates, sets, binary),
numbers that are not finite or have more than 64 bits, characters that no file or request can hold, aliases that
multiply to more than a million values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from flows.errors import RecipeError

MAX_BYTES = 10 << 20
MAX_VALUES = 1_000_000
MAX_DEPTH = 100


class _Loader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys and says nothing."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.value == "<<":
                continue
            key = (key_node.tag, key_node.value)
            if key in seen:
                raise yaml.composer.ComposerError(
                    "in a mapping", node.start_mark, f"the key {key_node.value} stands twice", key_node.start_mark
                )
            seen.add(key)
        return node


def read_recipe_file(path: Path) -> Any:
    """The values of the file. Raises RecipeError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(
                f"{path}: found {path.stat().st_size:,} bytes, expected a recipe of at most {MAX_BYTES:,}"
            )
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as fault:
        raise RecipeError(f"{path}: no such recipe; ready-made ones lie in deploy/recipes/") from fault
    except UnicodeDecodeError as fault:
        raise RecipeError(f"{path}: no UTF-8 text ({fault.reason} at byte {fault.start}); save it as UTF-8") from fault
    except OSError as fault:
        raise RecipeError(f"{path}: can't be read: {fault.strerror or fault}; name a recipe file") from fault
    return parse(text, str(path))


def parse(text: str, where: str) -> Any:
    """YAML text as plain values. Raises RecipeError, with `where` in front."""
    try:
        raw = yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError as fault:
        raise RecipeError(f"{where}: no valid YAML: {' '.join(str(fault).split())}") from fault
    except ValueError as fault:  # such as a date in a thirteenth month
        raise RecipeError(f"{where}: no valid YAML: {fault}; put the value in quotes") from fault
    except RecursionError as fault:
        raise RecipeError(f"{where}: no valid YAML: nested too deeply") from fault
    check_plain(raw, where)
    return raw


def check_plain(raw: Any, where: str) -> None:
    """Raises RecipeError for the first value that no recipe can hold."""
    for number, (place, value) in enumerate(_values(raw, ())):
        if number >= MAX_VALUES or len(place) > MAX_DEPTH:
            raise RecipeError(
                f"{where}: more than {MAX_VALUES:,} values or {MAX_DEPTH} levels, its aliases (*name) written out; "
                "use fewer aliases"
            )
        if wrong := _wrong(value):
            at = ".".join(_text(part) for part in place) or "recipe"
            raise RecipeError(f"{where}: {at}: {wrong}")


def _values(value: Any, place: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    yield place, value
    if len(place) > MAX_DEPTH:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str) or _wrong(key):
                yield (*place, key), _Key(key)
            yield from _values(inner, (*place, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _values(inner, (*place, number))


class _Key:
    """A key that is no text, or no good one."""

    def __init__(self, key: Any) -> None:
        self.key = key


def _wrong(value: Any) -> str | None:
    if isinstance(value, _Key):
        return f"found the key {_text(value.key)}, expected text; put it in quotes"
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= sign <= "\udfff" for sign in value):
            return "found a NUL or half a surrogate pair, expected characters of Unicode"
        return None
    if isinstance(value, bool | dict | list) or value is None:
        return None
    if isinstance(value, int):
        return None if -(1 << 63) <= value < 1 << 63 else "found a number of more than 64 bits, expected a smaller one"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"found {value}, expected a finite number"
    return f"found {type(value).__name__} {_text(value)}, expected text or a number; put it in quotes"


def _text(value: Any) -> str:
    return str(value)[:80].encode("utf-8", "backslashreplace").decode()
