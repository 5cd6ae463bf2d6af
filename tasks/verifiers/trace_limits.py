"""Which measured traits of a trace leave its response out of the training set, and from which value on."""

from __future__ import annotations

import json
from typing import Any

from pydantic import Field

from tasks.filters import Finding
from tasks.settings import Settings


class TraceLimits(Settings):
    """A number is the highest value that stays; null or false switches the check off. On by default is what leaves no
    whole trace to learn from: a response that broke off, that says the same over and over, or that ends in a loop."""

    truncated: bool = True
    """Leave out what broke off at the token limit."""
    repeated_run: int | None = Field(default=20, ge=1)
    """Occurrences of one run of `verify.trace.ngram` words (DeepDistill: 20, there over the corpus)."""
    repeated_share: float | None = Field(default=None, ge=0, le=1)
    """Share of the words in runs that occurred before; an answer that quotes code of its thinking has up to 0.5."""
    loop: int | None = Field(default=100, ge=0)
    """Words at the end of a part that repeat the words before them for at least the third time (default ours)."""
    empty_answer: bool = False
    """Leave out what has no answer part."""
    thinking: tuple[str, ...] = ()
    """Teachers that think: leave out their responses without a thinking part."""
    odd_turns: bool = False
    """Leave out dialogues with an odd number of turns (DeepDistill)."""
    template_marks: bool = False
    """Leave out what holds special tokens or chat-template marks that the question doesn't."""
    think_tags: bool = False
    """Leave out what has a think tag in its answer part."""
    foreign_script: float | None = Field(default=None, ge=0, le=1)
    """Share of the letters in scripts that are not the question's; off, since translations have a share of 1."""

    corpus_repeats: int | None = Field(default=None, ge=1)
    """Questions in whose responses one run of `verify.trace.ngram` words may stand (DeepDistill: 20 occurrences). Reads
    all responses twice."""
    corpus_share: float = Field(default=0, ge=0, lt=1)
    """Share of a response's words in such runs up to which it stays; 0: one run is too much (DeepDistill)."""

    def threshold(self, check: str, teacher: str) -> float | None:
        """The highest value of a check that stays, None where any does."""
        if check == "no_think":
            return 0 if teacher in self.thinking else None
        limit: float | bool | None = getattr(self, check)
        return (0 if limit else None) if isinstance(limit, bool) else limit


CHECKS = (
    "truncated", "empty_answer", "no_think", "odd_turns", "template_marks", "think_tags", "repeated_run",
    "repeated_share", "loop", "foreign_script",
)  # fmt: skip


def over_limits(evidence: dict[str, Any], limits: TraceLimits, teacher: str) -> list[Finding]:
    """The checks of a trace row's evidence that are over their limit, in the order of CHECKS; `seen` is JSON."""
    found = []
    for name in CHECKS:
        check, limit = evidence["checks"][name], limits.threshold(name, teacher)
        if limit is not None and check["value"] > limit:
            seen = json.dumps(check.get("where"), ensure_ascii=False)
            found.append(Finding(name, check["value"], limit, seen))
    return found


def over_corpus(row: dict[str, Any], limits: TraceLimits) -> list[Finding]:
    """What a row of `repeats` has too much of."""
    if limits.corpus_repeats is None or row["share"] <= limits.corpus_share:
        return []
    seen = json.dumps({"text": row["text"], "share": row["share"]}, ensure_ascii=False)
    return [Finding("corpus_repeats", row["questions"], limits.corpus_repeats, seen)]
