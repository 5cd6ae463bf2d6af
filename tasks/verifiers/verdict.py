"""What goes into a verifier and what comes out: items, constraints, judgements.

A verifier judges a batch and answers in the same order. It never raises because of what a response contains:
whatever a model wrote, the answer is a `Judgement` with a status. What is not covered: which verifier a
category uses, and how several verdicts become one outcome; the verify stage does that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

Status = Literal[
    "accepted",
    "wrong_answer",
    "no_answer",
    "wrong_format",
    "no_code",
    "time_limit",
    "memory_limit",
    "output_limit",
    "runtime_error",
    "compile_error",
    "unverifiable",
    "infra_error",
]
STATUSES: tuple[Status, ...] = get_args(Status)
UNSCORED: frozenset[Status] = frozenset({"unverifiable", "infra_error"})


@dataclass(frozen=True)
class Constraint:
    """One instruction constraint, e.g. `length_constraints:number_words` with `{"relation": "at least",
    "num_words": 300}`."""

    id: str
    kwargs: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Message:
    """One turn of a dialogue."""

    role: str
    content: str


@dataclass(frozen=True)
class Item:
    """One response to judge. `question` is the text of the last user message, `earlier` what was said before it (system
    message included), `answer_content` what follows the thinking."""

    question_id: str
    category: str
    question: str
    ground_truth: str | None
    answer_content: str
    think_content: str | None = None
    constraints: tuple[Constraint, ...] = ()
    earlier: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Judgement:
    """One verifier's opinion of one response.

    `score` lies in 0..1. It and `passed` are None for `unverifiable` (left out of n) and `infra_error` (ours,
    tried again). `answer` is the canonical form of the final answer, for majority votes. `evidence` is JSON:
    what was compared, how. `seconds` is wall time and differs from run to run.
    """

    score: float | None
    passed: bool | None
    status: Status
    answer: str | None
    evidence: dict[str, object]
    seconds: float

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"unknown status {self.status!r}; one of {', '.join(STATUSES)}")
        if (self.score is None) != (self.status in UNSCORED) or (self.passed is None) != (self.score is None):
            raise ValueError(f"status {self.status} does not go with score {self.score} and passed {self.passed}")
        if self.score is not None and not 0.0 <= self.score <= 1.0:
            raise ValueError(f"score must lie in 0..1, got {self.score}")


class Verifier(Protocol):
    """What the verify stage needs of a verifier. A response passes if its score is above `threshold`."""

    name: str
    threshold: float

    @property
    def version(self) -> str:
        """Library versions, revision of our own rules, hash of the settings. Verdicts are reused while it
        stays the same."""

    def judge(self, items: Sequence[Item]) -> list[Judgement]:
        """One judgement an item, in the same order."""


def unscored(
    status: Literal["unverifiable", "infra_error"], reason: str, seconds: float = 0.0, **evidence: object
) -> Judgement:
    """A judgement without a score, with the reason in its evidence."""
    return Judgement(None, None, status, None, {"reason": reason, **evidence}, seconds)


def settings_hash(settings: Mapping[str, object]) -> str:
    """First 12 hex digits of the sha256 of the settings as sorted JSON."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
