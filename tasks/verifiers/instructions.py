"""Instruction following: the mean of a response's constraint checks (IFEval, arXiv 2311.07911; IFBench, 2507.02833).

Strict mode checks the response as it stands; loose mode takes a constraint as kept if any of IFEval's eight variants
of the response keeps it. `validate_constraints` is for ingest: a constraint that no rule knows is an error there,
never a pass here.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tasks.verifiers import instruction_ifbench, instruction_ifbench_format, instruction_rules
from tasks.verifiers.instruction_rules import LANGUAGES, RELATIONS, Kind, Rule
from tasks.verifiers.verdict import Constraint, Item, Judgement, Status, settings_hash, unscored

RULES_REVISION = 2  # raise it whenever a rule in instruction_*.py can change a verdict
RULES: Mapping[str, Rule] = {
    **instruction_rules.RULES,
    **instruction_ifbench.RULES,
    **instruction_ifbench_format.RULES,
}
Mode = Literal["strict", "loose"]


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
    if kind in ("count", "position"):
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # JSON and Parquet turn whole numbers into floats
        least = 1 if kind == "position" else 0
        usable = isinstance(value, int) and not isinstance(value, bool) and value >= least
        allowed = f"a whole number from {least} on"
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


def variants(response: str, mode: Mode) -> dict[str, str]:
    """The texts that a constraint may hold for, by what was removed; those that come out empty are left out.

    Loose mode (IFEval, section 2.2): the response without its first line, its last, both, and each of the four without
    asterisks, which forgives an introduction, a closing remark and Markdown emphasis.
    """
    if mode == "strict":
        return {"": response}
    lines = response.split("\n")
    cut = {
        "": response,
        "first line": "\n".join(lines[1:]).strip(),
        "last line": "\n".join(lines[:-1]).strip(),
        "first and last line": "\n".join(lines[1:-1]).strip(),
    }
    bare = {f"{name}, asterisks".removeprefix(", "): text.replace("*", "") for name, text in cut.items()}
    return {name: text for name, text in {**cut, **bare}.items() if text.strip()}


class InstructionVerifier:
    """Score: share of an item's constraints that hold, 0..1; passes above `threshold`.

    Evidence lists each constraint with `passed`, `measured` and `wanted`, in loose mode also what had to be `removed`
    from the response for it to hold. No constraints: `unverifiable`. An
    empty answer: `no_answer`. `judge` raises `UnknownConstraint` or `InvalidConstraint` for items that ingest
    should have refused.
    """

    name = "instructions"

    def __init__(self, *, threshold: float = 0.99, mode: Mode = "strict") -> None:
        self.threshold, self.mode = threshold, mode

    @property
    def version(self) -> str:
        """Version of langdetect, revision of our rules, hash of the settings."""
        settings = settings_hash({"threshold": self.threshold, "mode": self.mode})
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
        texts = variants(item.answer_content, self.mode)
        checks = [_check(one, kwargs, texts) for one, kwargs in zip(item.constraints, arguments, strict=True)]
        score = sum(1 for check in checks if check["passed"]) / len(checks)
        passed = score > self.threshold
        status: Status = "accepted" if passed else "wrong_answer"
        evidence: dict[str, object] = {"constraints": checks, "mode": self.mode}
        return Judgement(score, passed, status, None, evidence, time.perf_counter() - started)


def _check(constraint: Constraint, kwargs: dict[str, Any], texts: Mapping[str, str]) -> dict[str, object]:
    """The check of the first text that keeps the constraint, else of the response itself."""
    rule = RULES[constraint.id]
    checks = ((removed, rule.check(text, kwargs)) for removed, text in texts.items())
    as_written = next(checks)
    removed, checked = (
        as_written if as_written[1].passed else next((one for one in checks if one[1].passed), as_written)
    )
    found = {"id": constraint.id, "passed": checked.passed, "measured": checked.measured, "wanted": checked.wanted}
    return found | ({"removed": removed} if removed else {})
