"""Instruction following: the mean of a response's constraint checks (IFEval, arXiv 2311.07911), strict mode.

`validate_constraints` is for ingest: a constraint that no rule knows is an error there, never a pass here.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.verifiers.instruction_rules import LANGUAGES, RELATIONS, RULES, Kind
from tasks.verifiers.verdict import Constraint, Item, Judgement, Status, settings_hash, unscored

RULES_REVISION = 1  # raise it whenever a rule in instruction_rules.py can change a verdict


class UnknownConstraint(ValueError):
    """A constraint id that no rule knows; the message lists the valid ones."""


class InvalidConstraint(ValueError):
    """A known constraint with missing, unknown or mistyped arguments; the message says which and what is
    allowed."""


def validate_constraints(constraints: Sequence[Constraint]) -> None:
    """Raises `UnknownConstraint` or `InvalidConstraint` for the first constraint that can't be checked."""
    for constraint in constraints:
        usable_kwargs(constraint)


def usable_kwargs(constraint: Constraint) -> dict[str, Any]:
    """The arguments that the rule takes, checked; null values are left out (the published files pad with
    them)."""
    rule = RULES.get(constraint.id)
    if rule is None:
        raise UnknownConstraint(f"unknown constraint {constraint.id!r}; valid: {', '.join(sorted(RULES))}")
    given = {name: value for name, value in constraint.kwargs.items() if value is not None}
    wanted = rule.kwargs
    if set(given) != set(wanted):
        takes = ", ".join(wanted) or "no arguments"
        raise InvalidConstraint(f"{constraint.id} takes {takes}; got {', '.join(sorted(given)) or 'none'}")
    return {name: _usable_value(constraint.id, name, kind, given[name]) for name, kind in wanted.items()}


def _usable_value(constraint_id: str, name: str, kind: Kind, value: object) -> object:
    if kind == "count":
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # JSON and Parquet turn whole numbers into floats
        usable = (
            isinstance(value, int) and not isinstance(value, bool) and value >= (1 if name == "nth_paragraph" else 0)
        )
        allowed = "a whole number"
    elif kind == "texts":
        usable = isinstance(value, (list, tuple)) and bool(value) and all(isinstance(v, str) and v for v in value)
        allowed = "a list of texts"
    elif kind == "relation":
        usable, allowed = value in RELATIONS, " or ".join(repr(relation) for relation in RELATIONS)
    elif kind == "language":
        usable, allowed = value in LANGUAGES, "one of " + ", ".join(sorted(LANGUAGES))
    elif kind == "letter":
        usable, allowed = isinstance(value, str) and len(value) == 1, "one character"
    else:
        usable, allowed = isinstance(value, str) and bool(value.strip()), "a text that is not empty"
    if not usable:
        raise InvalidConstraint(f"{constraint_id}: {name} must be {allowed}, got {value!r}")
    return value


class InstructionVerifier:
    """Score: share of an item's constraints that hold, 0..1; passes above `threshold`.

    Evidence lists each constraint with `passed`, `measured` and `wanted`. No constraints: `unverifiable`. An
    empty answer: `no_answer`. `judge` raises `UnknownConstraint` or `InvalidConstraint` for items that ingest
    should have refused.
    """

    name = "instructions"

    def __init__(self, *, threshold: float = 0.99) -> None:
        self.threshold = threshold

    @property
    def version(self) -> str:
        """Version of langdetect, revision of our rules, hash of the settings."""
        settings = settings_hash({"threshold": self.threshold, "mode": "strict"})
        library = f"langdetect {importlib.metadata.version('langdetect')}"
        return f"{library}; rules {RULES_REVISION}; settings {settings}"

    def judge(self, items: Sequence[Item]) -> list[Judgement]:
        """One judgement an item. Statuses: accepted, wrong_answer, no_answer, unverifiable."""
        return [self._judge(item) for item in items]

    def _judge(self, item: Item) -> Judgement:
        started = time.perf_counter()
        if not item.constraints:
            return unscored("unverifiable", "no instruction constraints")
        arguments = [usable_kwargs(constraint) for constraint in item.constraints]
        if not item.answer_content.strip():
            return Judgement(0.0, False, "no_answer", None, {"reason": "empty answer"}, time.perf_counter() - started)
        checks: list[Mapping[str, object]] = []
        for constraint, kwargs in zip(item.constraints, arguments, strict=True):
            checked = RULES[constraint.id].check(item.answer_content, kwargs)
            checks.append(
                {
                    "id": constraint.id,
                    "passed": checked.passed,
                    "measured": checked.measured,
                    "wanted": checked.wanted,
                }
            )
        score = sum(1 for check in checks if check["passed"]) / len(checks)
        passed = score > self.threshold
        status: Status = "accepted" if passed else "wrong_answer"
        evidence: dict[str, object] = {"constraints": checks, "mode": "strict"}
        return Judgement(score, passed, status, None, evidence, time.perf_counter() - started)
