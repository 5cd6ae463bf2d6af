"""What a recipe reaches beyond its own folder: programs, models' own code, keys, hosts, files.

A recipe is trusted with these, as a Makefile is. `stillhouse plan` lists them, so that a stranger's recipe can be read
before it runs; where the environment variable STILLHOUSE_CONFINED is set, one that reaches for anything is refused.

Covered: what the recipe's settings name. Not covered: hub names (a model or data set that is fetched), and what the
programs and models then do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flows.errors import RecipeError

CONFINED = "STILLHOUSE_CONFINED"
PROGRAMS = ("command", "lm_eval")
FILES = ("path", "model", "chat_template", "workspace")
"""Settings that may name a file or folder."""


def reach(recipe: Mapping[str, Any], base: Path) -> list[str]:
    """One line for each thing that the recipe (its JSON values) reaches for; `base` is the recipe's folder."""
    return list(dict.fromkeys(_reach(recipe, "", base.resolve())))


def refuse_if_confined(recipe: Mapping[str, Any], base: Path, where: str) -> None:
    """Raises RecipeError for a recipe that reaches for anything, where STILLHOUSE_CONFINED is set and not empty."""
    if not os.environ.get(CONFINED):
        return
    found = reach(recipe, base)
    if found:
        lines = "\n".join(f"{where}: {line}" for line in found[:8])
        raise RecipeError(f"{lines}\n{CONFINED} is set, so this recipe doesn't run; unset it if you trust the recipe")


def refuse_credentials(recipe: Mapping[str, Any], where: str) -> None:
    """Raises RecipeError for a user or password within an endpoint's URL, which is kept with the recipe and told in
    errors. The message doesn't repeat it."""
    for place, url in _urls(recipe, ""):
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise RecipeError(f"{where}: {place}: holds a user or password; take them out and name the environment "
                              "variable with the key in api_key_env")  # fmt: skip


def _urls(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _urls(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, str):
        if "base_url" in place:
            yield place, value
    elif isinstance(value, Sequence):
        for number, inner in enumerate(value):
            yield from _urls(inner, f"{place}.{number}")


def _reach(value: Any, place: str, base: Path) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            where = f"{place}.{key}" if place else str(key)
            yield from _setting(str(key), inner, where, value, base)
            yield from _reach(inner, where, base)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for number, inner in enumerate(value):
            yield from _reach(inner, f"{place}.{number}", base)


def _setting(key: str, value: Any, where: str, beside: Mapping[str, Any], base: Path) -> Iterator[str]:
    if not value:
        return
    if key in PROGRAMS and isinstance(value, Sequence):
        yield f"{where} starts the program {value[0]}"
    elif key in ("trust_remote_code", "trust-remote-code"):
        yield f"{where} runs code that comes with the model {beside.get('model', '')}".rstrip()
    elif key == "environment" and isinstance(value, Mapping):
        yield f"{where} sets {', '.join(map(str, value))} for the programs that are started"
    elif key.endswith("api_key_env"):
        yield f"{where} sends the environment variable {value} to {_hosts(beside.get('base_url'))}"
    elif key == "api_key_secret":
        yield f"{where} sends the Prefect secret {value} to {_hosts(beside.get('base_url'))}"
    elif key == "base_url":
        yield f"{where} sends texts to {_hosts(value)}"
    elif key == "address":
        yield f"{where} sends work to {value}"
    elif key in FILES:
        yield from (f"{where} names {one}, outside the recipe's folder" for one in _outside(key, value, base))


def _hosts(urls: Any) -> str:
    """Hosts of one URL or of several, each a text or a mapping with `url`."""
    listed = [urls] if isinstance(urls, str) else list(urls or [])
    texts = [str(one["url"]) if isinstance(one, Mapping) else str(one) for one in listed]
    return ", ".join(map(_host, texts)) or "its endpoint"


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc.rpartition("@")[2] or url
    except ValueError:  # no URL
        return url


def _outside(key: str, value: Any, base: Path) -> Iterator[str]:
    for one in [value] if isinstance(value, str) else value if isinstance(value, Sequence) else ():
        if not isinstance(one, str):
            continue
        if key == "model" and not one.startswith((".", "/", "~")):
            continue  # a hub's name, or an endpoint's
        if "://" in one or not (base / Path(one).expanduser()).resolve().is_relative_to(base):
            yield one
