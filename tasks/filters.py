"""DeepDistill's query filters (arXiv 2504.17565, section 2): unusual Unicode, incomplete text, URLs, tables.

The paper publishes no thresholds; the defaults are ours. Each filter answers with what it saw, so that a drop can be
defended.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from pydantic import Field

from tasks.settings import Settings

URL = re.compile(r"\b(?:https?|ftp)://\S+|\bwww\.\S+", re.IGNORECASE)
HTML_TABLE = re.compile(r"<t(?:able|r|d)\b|\\begin\{(?:tabular|longtable)\}", re.IGNORECASE)
MARKDOWN_RULE = re.compile(r"\|?\s*:?-{3,}:?\s*(?:\|\s*:?-{3,}:?\s*)+\|?")
"""matched against whole stripped lines; blanks in front would make it quadratic"""
FENCE = re.compile(r"^ {0,3}```", re.MULTILINE)
BROKEN_OFF = re.compile(r"(?:[a-z]\s?(?:\.\.\.|…)|,)$")
"""a word followed by an ellipsis; `2, 4, 8, …` is a sequence, and a whole question"""
UNUSUAL = {"Cc", "Cf", "Co", "Cn", "Cs", "So"}


class FilterSettings(Settings):
    """Each one is switched off by null or false."""

    unusual_unicode: float | None = Field(default=0.1, ge=0, le=1)
    """Highest share of control, private-use, unassigned and symbol characters."""
    min_chars: int | None = Field(default=8, ge=1)
    """A shorter text is empty for our purpose."""
    incomplete: bool = True
    """Drop text that breaks off: an ellipsis after a word or a comma at the end, an open code fence."""
    urls: bool = True
    tables: bool = True


@dataclass(frozen=True)
class Finding:
    """Why a question is dropped: the rule, what was measured, what is allowed, and what was seen."""

    rule: str
    value: float | None
    threshold: float | None
    seen: str


def screen_text(text: str, settings: FilterSettings) -> Finding | None:
    """The first filter that the text of a question fails, or None."""
    stripped = text.strip()
    if settings.min_chars is not None and len(stripped) < settings.min_chars:
        return Finding("too_short", len(stripped), settings.min_chars, stripped)
    if settings.unusual_unicode is not None:
        unusual = [char for char in text if unicodedata.category(char) in UNUSUAL and char not in "\n\t\r"]
        share = len(unusual) / max(len(text), 1)
        if share > settings.unusual_unicode:
            return Finding("unusual_unicode", share, settings.unusual_unicode, "".join(unusual[:20]))
    if settings.incomplete and (end := _broken_end(stripped)):
        return Finding("incomplete", None, None, end)
    if settings.urls and (match := URL.search(text)):
        return Finding("url", None, None, match.group()[:200])
    if settings.tables and (row := _table(text)):
        return Finding("table", None, None, row[:200])
    return None


def _broken_end(text: str) -> str | None:
    if BROKEN_OFF.search(text[-8:]):
        return text[-40:]
    if len(FENCE.findall(text)) % 2:
        return "a code fence that is never closed"
    return None


def _table(text: str) -> str | None:
    if match := HTML_TABLE.search(text):
        return match.group()
    return next((line for line in text.splitlines() if "---" in line and MARKDOWN_RULE.fullmatch(line.strip())), None)
