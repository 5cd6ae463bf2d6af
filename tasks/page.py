"""What the HTML pages share: an environment whose templates print data as text only, never as markup or controls."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"


def environment() -> Environment:
    """Templates of this package, with autoescape; all that they print passes `visible`."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"count": count, "percent": percent, "decimal": decimal}
    return made


# C0 and C1 controls but tab and newline, marks that reorder or hide text, and what UTF-8 forbids.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]",
)


def visible(value: Any) -> Any:
    """Text with every control character and invisible mark written out, such as [U+001B].

    Jinja hands everything that the template prints to this, before it escapes it.
    """
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _INVISIBLE.sub(lambda match: f"[U+{ord(match[0]):04X}]", value.replace("\r\n", "\n"))


def count(number: float) -> str:
    return f"{number:,.0f}"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def decimal(number: float | None) -> str:
    return "–" if number is None else f"{number:.4g}"
