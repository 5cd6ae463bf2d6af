"""The verifiers' self-test: right answers, made from the questions' own references, must pass; mutated ones must fail.

It tells whether verifiers and settings fit the questions: references that the math rule can't read, `answer_from` that
doesn't find the answer, tests that any program passes, a judge that says yes to everything. What is not covered: how
models really write (the answers here are plain), references that are wrong, reward models (they know no right answer),
questions without a reference, a solution or constraints that we can keep.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from storage.fingerprint import hash_text
from tasks.verifiers.bench import Bench, Subject
from tasks.verifiers.opinions import ask_verifiers
from tasks.verifiers.outcome import combine_opinions
from tasks.verifiers.self_test_answers import Answer, math_answers, text_answers
from tasks.verifiers.self_test_code import code_answers
from tasks.verifiers.self_test_instructions import instruction_answers
from tasks.verifiers.settings import SelfTestSettings, VerifySettings
from tasks.verifiers.verdict import Judgement

REVISION = 1  # raise it with every change of the answers that are made
BATCH = 256
SHOWN_CHARS = 200


@dataclass(frozen=True)
class Miss:
    """An answer that a verifier judged wrongly."""

    question_id: str
    kind: str
    status: str
    answer: str


@dataclass
class Rates:
    """What a verifier made of a category's answers; verifier `outcome` is all of the category's by its policy.

    `unjudged` answers (the verifier had nothing to go by) are in no rate; `failed` ones (`infra_error`) neither.
    """

    category: str
    verifier: str
    golds: int = 0
    mutants: int = 0
    unjudged: int = 0
    failed: int = 0
    false_rejects: list[Miss] = field(default_factory=list)
    false_accepts: list[Miss] = field(default_factory=list)

    @property
    def false_reject(self) -> float | None:
        """Share of the right answers that did not pass; None without any."""
        return len(self.false_rejects) / self.golds if self.golds else None

    @property
    def false_accept(self) -> float | None:
        """Share of the wrong answers that passed; None without any."""
        return len(self.false_accepts) / self.mutants if self.mutants else None

    def count(self, question_id: str, answer: Answer, judgement: Judgement) -> None:
        if judgement.passed is None:
            self.failed += judgement.status == "infra_error"
            self.unjudged += judgement.status != "infra_error"
            return
        self.golds += answer.right
        self.mutants += not answer.right
        if judgement.passed is not answer.right:
            misses = self.false_rejects if answer.right else self.false_accepts
            misses.append(Miss(question_id, answer.kind, judgement.status, answer.text[:SHOWN_CHARS]))


def run_self_test(questions: Sequence[dict[str, Any]], settings: VerifySettings, bench: Bench) -> list[Rates]:
    """Rates by category and verifier, `outcome` last; `questions` are rows of `curated`, some of each category."""
    rates: dict[tuple[str, str], Rates] = {}

    def count(verifier: str, question: dict[str, Any], answer: Answer, judgement: Judgement) -> None:
        key = (question["category"], verifier)
        rates.setdefault(key, Rates(*key)).count(question["question_id"], answer, judgement)

    pairs = make_answers(questions, settings)
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        subjects = [Subject(str(number), question, _response(answer)) for number, (question, answer) in
                    enumerate(batch)]  # fmt: skip
        for (question, answer), opinions in zip(batch, ask_verifiers(bench, subjects, settings), strict=True):
            category = question["category"]
            for opinion in opinions:
                count(opinion.verifier, question, answer, opinion.judgement)
            outcome = combine_opinions(opinions, settings.policy_for(category), settings.verifiers(category))
            count("outcome", question, answer, outcome)
    return sorted(rates.values(), key=lambda one: (one.category, one.verifier == "outcome", one.verifier))


def make_answers(questions: Sequence[dict[str, Any]], settings: VerifySettings) -> list[tuple[dict[str, Any], Answer]]:
    """Every question with each of its answers, the same ones for the same questions and seed."""
    references: dict[str, list[str]] = defaultdict(list)
    for question in questions:
        references[question["category"]].append(question["ground_truth"] or "")
    found = []
    for question in questions:
        draw = random.Random(hash_text(str(settings.self_test.seed), question["question_id"]))
        others = draw.sample(references[question["category"]], len(references[question["category"]]))
        found += [(question, answer) for answer in _answers(question, others, settings, draw)]
    return found


def _answers(
    question: dict[str, Any], others: Sequence[str], settings: VerifySettings, draw: random.Random
) -> list[Answer]:
    """Answers for the first verifier of the question's route that knows a right one."""
    route, reference = settings.verifiers(question["category"]), question["ground_truth"] or ""
    if "math" in route:
        return math_answers(reference, others, settings.math, draw)
    if "code" in route:
        return code_answers(question, settings.code.max_tests)
    if "instructions" in route:
        return instruction_answers(question)
    return text_answers(reference, others, draw) if set(route) & {"quantity", "judge"} else []


def _response(answer: Answer) -> dict[str, Any]:
    return {"answer_content": answer.text, "think_content": None}


def faults(rates: Sequence[Rates], settings: SelfTestSettings) -> list[str]:
    """What is over a limit, one line each: of outcomes, since those are what is graded; and verifiers that failed."""
    found = []
    for one in rates:
        if one.verifier != "outcome":
            continue
        if one.failed:
            found.append(f"{one.category}: {one.failed} answers could not be judged (infra_error)")
        for name, rate, misses, number, limit in (
            ("right answers rejected", one.false_reject, one.false_rejects, one.golds, settings.max_false_reject),
            ("wrong answers accepted", one.false_accept, one.false_accepts, one.mutants, settings.max_false_accept),
        ):
            if rate is not None and limit is not None and rate > limit:
                found.append(f"{one.category}: {len(misses)} of {number} {name} ({rate:.1%}, the limit is {limit:.1%})")
    return found
