"""Format and degeneration checks on one response: is it whole, in its parts, and free of repetition?

The row of verifier `trace` holds what was measured. Its score is about format alone, 1.0 or 0.0; how much repetition
is too much is decided in `select` (trace_limits), so that a limit can be moved without reading a trace again. It is no
opinion on whether the answer is right, takes no part in `outcome` and changes no pass rate.

| check | value | from |
|---|---|---|
| truncated | 1 if the response broke off at the token limit | |
| empty_answer | 1 if there is no answer part | AM-DeepSeek-R1-Distilled-1.4M |
| no_think | 1 if there is no thinking part; right for teachers that don't think, so no fault of format | DeepDistill |
| odd_turns | number of turns of user and assistant, if it is odd | DeepDistill |
| template_marks | special tokens and chat-template marks that are left over | |
| think_tags | `<think>` and `</think>` in the answer part | AM-DeepSeek-R1-Distilled-1.4M |
| repeated_run | how often the most frequent run of `ngram` words occurs | DeepDistill: 20 tokens, more than 20 times |
| repeated_share | share of the words in runs that occurred before | |
| loop | words at the end of a part that only repeat the words before | |
| foreign_script | share of the letters in scripts that are not the question's | |

What is not covered: runs that repeat from response to response (the paper counts over its corpus), words as a model's
tokenizer cuts them, and repetition in other words.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from storage.fingerprint import canonical_json, hash_text
from tasks.verifiers.settings import TraceSettings
from tasks.verifiers.trace_repeats import find_repeats
from tasks.verifiers.trace_scripts import find_foreign
from tasks.verifiers.verdict import Judgement

if TYPE_CHECKING:
    from tasks.verifiers.bench import Subject

RULES_REVISION = 1  # raise it whenever a rule in trace.py, trace_repeats.py or trace_scripts.py can change a value
FORMAT_CHECKS = ("truncated", "empty_answer", "odd_turns", "template_marks", "think_tags")
TRUNCATED = ("length", "max_tokens")
"""finish reasons of engines for a response cut at the token limit"""
SHOWN_MARKS = 5

_MARKS = re.compile(
    r"<\|[A-Za-z0-9_.▁-]{1,40}\|>|<｜[^｜<>\n]{1,40}｜>|\[/?INST\]|<</?SYS>>|\[gMASK\]"
    r"|</s>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"
)
_THINK_TAGS = re.compile(r"</?think(?:ing)?>", re.IGNORECASE)


class TraceVerifier:
    """Statuses: accepted, wrong_format (one of FORMAT_CHECKS)."""

    name = "trace"

    def __init__(self, settings: TraceSettings) -> None:
        self._settings = settings

    @property
    def version(self) -> str:
        """Revision of our rules, Unicode version, settings."""
        return f"trace rules {RULES_REVISION}; unicode {unicodedata.unidata_version}; ngram {self._settings.ngram}"

    def means(self, subject: Subject) -> str:
        """Hash of all that the checks read of a response and its question, 12 hex digits."""
        response = subject.response
        parts = [canonical_json([subject.question["messages"], response["turns"], response["finish_reason"]])]
        for part in ("think_content", "answer_content"):
            parts += ["" if response[part] is None else "part", response[part] or ""]
        return hash_text(*parts)[:12]

    def judge(self, subjects: Sequence[Subject]) -> list[Judgement]:
        """One judgement a subject, in the same order."""
        return [self._judge(subject) for subject in subjects]

    def _judge(self, subject: Subject) -> Judgement:
        started = time.perf_counter()
        response, messages = subject.response, subject.question["messages"]
        think, answer = response["think_content"], response["answer_content"] or ""
        question = "\n".join(message["content"] for message in messages)
        checks = {
            "truncated": _check(int(response["finish_reason"] in TRUNCATED), response["finish_reason"]),
            "empty_answer": _check(int(not answer.strip())),
            "no_think": _check(int(not (think or "").strip())),
            "odd_turns": _check(turns if (turns := _turns(messages, response["turns"])) % 2 else 0),
            "template_marks": _marks(_MARKS, question, {"think": think or "", "answer": answer}),
            "think_tags": _marks(_THINK_TAGS, question, {"answer": answer}),
        }
        repeats = find_repeats(think or "", answer, self._settings.ngram)
        loop = repeats.loop
        found = find_foreign(question, think or "", answer)
        checks |= {
            "repeated_run": _check(repeats.most, repeats.most_text),
            "repeated_share": _check(round(repeats.share, 4)),
            "loop": _check(loop.words, {"period": loop.period, "text": loop.text}) if loop else _check(0),
            "foreign_script": _check(round(found.share, 4), {"scripts": found.scripts, "text": found.text}),
        }
        wrong = [name for name in FORMAT_CHECKS if checks[name]["value"]]
        evidence: dict[str, object] = {"words": repeats.words, "ngram": self._settings.ngram, "checks": checks}
        if wrong:
            evidence["wrong"] = wrong
        seconds = time.perf_counter() - started
        return Judgement(float(not wrong), not wrong, "wrong_format" if wrong else "accepted", None, evidence, seconds)


def _check(value: float, where: object = None) -> dict[str, Any]:
    """A value and, where it isn't zero, what was seen."""
    return {"value": value, "where": where} if value and where else {"value": value}


def _turns(messages: Sequence[dict[str, str]], turns: Sequence[dict[str, Any]] | None) -> int:
    """Turns of user and assistant, the response included; tools and the calls to them belong to the turn that makes
    them."""
    asked = sum(message["role"] in ("user", "assistant") for message in messages)
    if not turns:
        return asked + 1
    return asked + sum(turn["role"] in ("user", "assistant") and not turn["tool_calls"] for turn in turns)


def _marks(pattern: re.Pattern[str], question: str, parts: dict[str, str]) -> dict[str, Any]:
    """Marks in the parts but for those that the question itself speaks of."""
    hits = [(name, match) for name, text in parts.items() for match in pattern.finditer(text)]
    left = [(name, match) for name, match in hits if match.group() not in question]
    where = [{"part": name, "at": match.start(), "text": match.group()} for name, match in left[:SHOWN_MARKS]]
    return _check(len(left), where)
