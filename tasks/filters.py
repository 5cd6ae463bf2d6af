"""Quality filters on questions: each with its rule, what was measured, what is allowed, and what was seen.

DeepDistill (arXiv 2504.17565, section 2) drops unusual Unicode, incomplete text, URLs and tables: on by default. What
O1 Replication Journey part 2 and AceReason drop besides (tasks/filter_kinds.py) is off by default: a multiple-choice
question is a good question for another purpose. The papers publish no thresholds and no patterns; these are ours, and
docs/filters.md says what they do to five public sets.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from tasks import filter_kinds
from tasks.filter_language import SURE, language
from tasks.question import question_text
from tasks.settings import Settings

URL = re.compile(r"\b(?:https?|ftp)://\w\S+|\bwww\.\w\S+", re.IGNORECASE)
HTML_TABLE = re.compile(r"<t(?:able|r|d)\b|\\begin\{(?:tabular|longtable)\}", re.IGNORECASE)
MARKDOWN_RULE = re.compile(r"\|?\s*:?-{3,}:?\s*(?:\|\s*:?-{3,}:?\s*)+\|?")
"""matched against whole stripped lines; blanks in front would make it quadratic"""
FENCE = re.compile(r"^ {0,3}```", re.MULTILINE)
BROKEN_OFF = re.compile(r"(?:[a-z]\s?(?:\.\.\.|…)|,)$")
"""a word followed by an ellipsis; `2, 4, 8, …` is a sequence, and a whole question"""
UNUSUAL = {"Cc", "Cf", "Co", "Cn", "Cs", "So"}
MEANS = ("ground_truth", "test_cases", "instruction_constraints")


class FilterSettings(Settings):
    """Each one is switched off by null or false."""

    unusual_unicode: float | None = Field(default=0.1, ge=0, le=1)
    """Highest share of control, private-use, unassigned and symbol characters."""
    min_chars: int | None = Field(default=8, ge=1)
    """A shorter text is empty for our purpose."""
    max_chars: int | None = Field(default=None, ge=1)
    """A longer text is dropped; ingest has a limit of its own for what it takes in at all."""
    incomplete: bool = True
    """Drop text that breaks off: an ellipsis after a word or a comma at the end, an open code fence."""
    urls: bool = True
    tables: bool = True
    figures: Literal["missing", "all"] | None = None
    """missing: drop questions about a figure that isn't in the text; all: those with a drawing in code too."""
    proofs: bool = False
    multiple_choice: bool = False
    true_false: bool = False
    sub_questions: bool = False
    no_answer: bool = False
    """Drop questions with no reference answer, no tests and no constraints."""
    languages: tuple[str, ...] | None = Field(default=None, min_length=1)
    """ISO 639 codes; drop questions that are surely in another language."""


@dataclass(frozen=True)
class Finding:
    """Why a question is dropped: the rule, what was measured, what is allowed, and what was seen."""

    rule: str
    value: float | None
    threshold: float | None
    seen: str


def screen_question(question: dict[str, Any], settings: FilterSettings) -> Finding | None:
    """The first filter that a row of `questions` fails, or None; needs its `messages` and its means of verification."""
    if settings.no_answer and not any(question[name] for name in MEANS):
        return Finding("no_answer", None, None, f"no {', no '.join(MEANS)}")
    return screen_text(question_text(question["messages"]), settings)


def screen_text(text: str, settings: FilterSettings) -> Finding | None:
    """The first filter that the text of a question fails, or None."""
    return next(findings(text, settings), None)


def findings(text: str, settings: FilterSettings) -> Iterator[Finding]:
    """Every filter that a text fails, cheapest first."""
    stripped = text.strip()
    if settings.min_chars is not None and len(stripped) < settings.min_chars:
        yield Finding("too_short", len(stripped), settings.min_chars, stripped)
    if settings.max_chars is not None and len(stripped) > settings.max_chars:
        yield Finding("too_long", len(stripped), settings.max_chars, stripped[:200])
    if settings.unusual_unicode is not None and (found := _unusual(text, settings.unusual_unicode)):
        yield found
    for rule, wanted, look in _LOOKS:
        if wanted(settings) and (seen := look(text)):
            yield Finding(rule, None, None, seen[:200])
    if settings.languages is not None and (found := _other_language(text, settings.languages)):
        yield found


def _unusual(text: str, allowed: float) -> Finding | None:
    unusual = [char for char in text if unicodedata.category(char) in UNUSUAL and char not in "\n\t\r"]
    share = len(unusual) / max(len(text), 1)
    return Finding("unusual_unicode", share, allowed, "".join(unusual[:20])) if share > allowed else None


def _other_language(text: str, wanted: tuple[str, ...]) -> Finding | None:
    found = language(text)
    if found is None or found[0] in wanted:
        return None
    return Finding("language", found[1], SURE, f"{found[0]}: {text.strip()[:100]}")


def _broken_end(text: str) -> str | None:
    stripped = text.strip()
    if BROKEN_OFF.search(stripped[-8:]):
        return stripped[-40:]
    if len(FENCE.findall(stripped)) % 2:
        return "a code fence that is never closed"
    return None


def _url(text: str) -> str | None:
    match = URL.search(text)
    return match.group() if match else None


def _table(text: str) -> str | None:
    if match := HTML_TABLE.search(text):
        return match.group()
    return next((line for line in text.splitlines() if "---" in line and MARKDOWN_RULE.fullmatch(line.strip())), None)


_LOOKS: tuple[tuple[str, Callable[[FilterSettings], bool], Callable[[str], str | None]], ...] = (
    ("incomplete", lambda settings: settings.incomplete, _broken_end),
    ("url", lambda settings: settings.urls, _url),
    ("table", lambda settings: settings.tables, _table),
    ("figure", lambda settings: settings.figures == "missing", filter_kinds.missing_figure),
    ("figure", lambda settings: settings.figures == "all", filter_kinds.any_figure),
    ("proof", lambda settings: settings.proofs, filter_kinds.proof),
    ("multiple_choice", lambda settings: settings.multiple_choice, filter_kinds.multiple_choice),
    ("true_false", lambda settings: settings.true_false, filter_kinds.true_false),
    ("sub_questions", lambda settings: settings.sub_questions, filter_kinds.sub_questions),
)
"""rule, whether it is on, what it looks for"""
