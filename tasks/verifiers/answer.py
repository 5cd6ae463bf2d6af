r"""Where the final answer of a response stands.

Extraction follows rules in order (`boxed`, `marker:<literal>`, `last_expression`, for references also
`whole`); the first that finds something wins. Linear in the length of the text. What is not covered: which statement of
a whole text is its answer (`answer_statement`), and whether the answer is right (`answer_compare`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MAX_ANSWER_CHARS = 4_000
MAX_JOINT_CHARS, MAX_JOINED = 60, 20  # between two boxes of one answer; boxes of one answer
RULE_NAMES = "boxed, marker:<literal>, last_expression"


class UnknownAnswerRule(ValueError):
    """An extraction rule that does not exist."""


@dataclass(frozen=True)
class Extracted:
    """The answer as written, and the rule that found it."""

    text: str
    rule: str


def check_rules(rules: Sequence[str], *, reference: bool = False) -> tuple[str, ...]:
    """The rules as a tuple. Raises `UnknownAnswerRule`, naming the valid ones; `whole` is for references
    only."""
    if isinstance(rules, str) or not rules:
        raise UnknownAnswerRule(f"answer_from wants a list of rules, got {rules!r}; rules: {RULE_NAMES}")
    for rule in rules:
        named = rule in ("boxed", "last_expression") or (reference and rule == "whole")
        if not named and not (rule.startswith("marker:") and rule.removeprefix("marker:").strip()):
            where, valid = ("reference_from", f"{RULE_NAMES}, whole") if reference else ("answer_from", RULE_NAMES)
            raise UnknownAnswerRule(f"{where}: found the rule {rule!r}, expected one of {valid}")
    return tuple(rules)


def extract(text: str, rules: Sequence[str]) -> Extracted | None:
    """The answer by the first rule that finds one, None if none does.

    `last_expression` and `whole` give the whole text: `answer_statement.stated_answer` finds the expression in it.
    """
    for rule in rules:
        if rule == "boxed":
            found = last_boxed(text)
        elif rule.startswith("marker:"):
            found = after_marker(text, rule.removeprefix("marker:"))
        else:
            found = text
        if found is not None and found.strip():
            return Extracted(found.strip(), rule)
    return None


def last_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{...}` (or `\fbox{...}`) whose braces balance; None if there is none.

    A box that is never closed (a truncated response) does not count. Of nested boxes the innermost last one
    counts. Boxes joined by nothing but a comma, `and` or `or` (`\boxed{2} and \boxed{3}`, `$x = \boxed{2}$ or
    $x = \boxed{3}$`) are one answer of several parts, given as `2, 3`.
    """
    boxes = _boxes(text)
    if not boxes:
        return None
    parts = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        between = text[box[1] : parts[0][0]]
        if len(parts) == MAX_JOINED or len(between) > MAX_JOINT_CHARS or _JOINT.fullmatch(between) is None:
            break
        parts.insert(0, box)
    contents = dict.fromkeys(text[start:end].strip() for start, end in parts)
    return ", ".join(content for content in contents if content)


def _boxes(text: str) -> list[tuple[int, int]]:
    """Start and end of the content of each closed box that holds no other, in order."""
    found: list[tuple[int, int]] = []
    open_boxes: list[list[int]] = []  # [brace depth, start of the content, 1 if another box stands inside]
    depth = 0
    for match in _BRACES.finditer(text):
        token = match.group()
        if token in ("\\{", "\\}", "\\\\"):
            continue
        if token == "}":
            if open_boxes and open_boxes[-1][0] == depth:
                _, start, nested = open_boxes.pop()
                if not nested:
                    found.append((start, match.start()))
            depth = max(0, depth - 1)
            continue
        depth += 1
        if token != "{":
            if open_boxes:
                open_boxes[-1][2] = 1
            open_boxes.append([depth, match.end(), 0])
    return found


_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\\\|\\[{}]|[{}]")
_JOINT = re.compile(
    r"\}[\s$;*]*(?:\\[)\]]|\\text\s*\{)?\s*(?:,|\b(?:and|or)\b|,\s*(?:and|or)\b)\s*\}?[\s$*]*(?:\\[(\[]\s*)?"
    r"(?:[a-zA-Z](?:_\{?\d\}?)?\s*=\s*)?\\(?:boxed|fbox)\s*\{"
)


def after_marker(text: str, marker: str) -> str | None:
    """Text after the last line that starts with the literal marker, to the end of that line; None if no line
    does.

    Blanks and Markdown emphasis around marker and answer (`**Answer:** 5`) are ignored.
    """
    marker = marker.strip()
    for line in reversed(text.splitlines()):
        bare = line.strip().strip("*_").lstrip()
        if bare.startswith(marker):
            return bare.removeprefix(marker).strip().strip("*_").strip()
    return None
