"""Proves the math verdicts against labels and known mistakes, and that a bomb costs its own pair only.

Real worker processes, real bombs, and the published GSM8K and MATH files where they are at hand.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.verifiers.answer_forms import normalize
from tasks.verifiers.math import MathVerifier
from tasks.verifiers.verdict import Item, Judgement

DATA = Path(__file__).parents[3].parent / "shared/data"
TEACHERS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def item(reference: str | None, content: str) -> Item:
    return Item("q", "math", "How many?", reference, content)


def boxed(reference: str, answer: str) -> Item:
    return item(reference, f"So it is \\boxed{{{answer}}}.")


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    with MathVerifier(answer_from=["boxed"], timeout_s=1.0) as verifier:
        yield verifier


def judge(verifier: MathVerifier, reference: str, answer: str) -> Judgement:
    return verifier.judge([boxed(reference, answer)])[0]


@pytest.mark.skipif(not DATA.exists(), reason="public data not at hand")
def test_agrees_with_all_gsm8k_labels() -> None:
    items, labels = [], []
    for line in (DATA / "gsm8k_model_solutions.jsonl").read_text().splitlines():
        row = json.loads(line)
        for teacher in TEACHERS:
            items.append(Item("q", "math", row["question"], row["ground_truth"], row[teacher]["solution"]))
            labels.append(row[teacher]["is_correct"])
    with MathVerifier(answer_from=["marker:A:"]) as verifier:
        judgements = verifier.judge(items)
    assert len(judgements) == 5276
    assert [judgement.passed for judgement in judgements] == labels


@pytest.mark.skipif(not DATA.exists(), reason="public data not at hand")
def test_every_math_solution_passes_against_itself(verifier: MathVerifier) -> None:
    solutions = [json.loads(line)["solution"] for line in (DATA / "math_test.json").read_text().splitlines()]
    judgements = verifier.judge([item(solution, solution) for solution in solutions])
    assert [judgement.status for judgement in judgements] == ["accepted"] * 5000


@pytest.mark.skipif(not DATA.exists(), reason="public data not at hand")
def test_the_answer_of_another_problem_passes_only_where_it_is_the_same() -> None:
    problems = [json.loads(line) for line in (DATA / "math_test.json").read_text().splitlines()]
    by_type: dict[str, list[str]] = defaultdict(list)
    for problem in problems:
        by_type[problem["type"]].append(problem["solution"])
    draw = random.Random(1)
    others = [draw.choice(by_type[problem["type"]]) for problem in problems]
    with MathVerifier(answer_from=["boxed"], workers=2) as verifier:
        judgements = verifier.judge(
            [
                Item("q", "math", problem["problem"], problem["solution"], other)
                for problem, other in zip(problems, others, strict=True)
            ]
        )
    assert {judgement.status for judgement in judgements} == {"accepted", "wrong_answer"}
    passed = {
        (normalize(str(judgement.evidence["reference"])), normalize(str(judgement.evidence["extracted"])))
        for judgement in judgements
        if judgement.passed
    }
    same_value = {("$6", "6"), ("12 gm", "12"), (r"\frac{1}{4}", "25%")}  # read one by one
    assert {pair for pair in passed if pair[0] != pair[1]} <= same_value


def test_equal_answers_share_a_canonical_form(verifier: MathVerifier) -> None:
    forms = {judge(verifier, "0.5", answer).answer for answer in ("0.5", r"\frac12", "1/2", "0.50", r"\frac{2}{4}")}
    assert forms == {"0.5"}
    assert judge(verifier, "7", r"\frac{4}{2}").answer == judge(verifier, "7", "2.0").answer == "2"


@pytest.mark.parametrize(
    "bomb",
    [
        "2^{100000000000}",
        "9^{9^{9^{9}}}",
        "100000000!",
        r"\binom{10000000}{5000000}",
        "(" * 500 + "5" + ")" * 500,
    ],
)
def test_a_bomb_costs_its_own_pair_only(verifier: MathVerifier, bomb: str) -> None:
    before, hit, after = verifier.judge([boxed("2", r"\sqrt4"), boxed("5", bomb), boxed("3", r"\sqrt9")])
    assert before.status == after.status == "accepted"
    assert hit.status in ("time_limit", "memory_limit") and hit.passed is False and hit.score == 0.0


def test_memory_limit_is_not_a_wrong_answer() -> None:
    # 10^(5·10^9) is one allocation of 2 GB: it fails at once, and Math-Verify would answer False.
    with MathVerifier(answer_from=["boxed"], timeout_s=60, memory_mb=512) as verifier:
        hit, after = verifier.judge([boxed("5", r"\sum_{k=1}^{3} 2^{9000000000}"), boxed("3", r"\sqrt9")])
    assert hit.status == "memory_limit"
    assert after.status == "accepted"


def test_a_worker_killed_from_outside_costs_nothing() -> None:
    with MathVerifier(answer_from=["boxed"], timeout_s=30) as verifier:
        verifier.judge([boxed("2", r"\sqrt4")])
        process = verifier._all[0]._process
        assert process is not None
        killer = threading.Timer(0.05, os.kill, (process.pid, signal.SIGKILL))
        killer.start()
        pairs = [boxed(str(n), rf"\sqrt{{{n * n}}}") for n in range(1, 400)]
        judgements = verifier.judge(pairs)
        killer.join()
    assert [judgement.status for judgement in judgements] == ["accepted"] * len(pairs)


def test_verdicts_do_not_depend_on_the_number_of_workers() -> None:
    pairs = [boxed(r"\sqrt{2}", rf"\frac{{{n}\sqrt{{8}}}}{{20}}") for n in range(90)]
    with MathVerifier(answer_from=["boxed"]) as one, MathVerifier(answer_from=["boxed"], workers=3) as three:
        judgements, others = one.judge(pairs), three.judge(pairs)
        assert one.version == three.version
    assert [(j.status, j.answer, j.evidence) for j in judgements] == [(j.status, j.answer, j.evidence) for j in others]


def test_no_answer_and_no_reference(verifier: MathVerifier) -> None:
    missing, unknown, blank = verifier.judge(
        [item("5", "I give up"), item(None, r"\boxed{5}"), item(" ", r"\boxed{5}")]
    )
    assert (missing.status, missing.passed, missing.score) == ("no_answer", False, 0.0)
    assert (unknown.status, unknown.passed, unknown.score) == ("unverifiable", None, None)
    assert blank.status == "unverifiable"


@pytest.mark.parametrize(
    ("reference", "content", "status"),
    [
        ("5", "The answer is 5.", "accepted"),
        ("5", "The answer is not 5.", "wrong_answer"),
        ("5", "It is not hard. So the answer is 5", "accepted"),
        ("Tuesday", "It is Tuesday.", "accepted"),
        ("A", "The answer is (A).", "accepted"),
        ("12", "So we get $x=12$.", "accepted"),
        ("18", "no idea", "no_answer"),
    ],
)
def test_last_expression_of_a_whole_text(reference: str, content: str, status: str) -> None:
    with MathVerifier(answer_from=["boxed", "last_expression"]) as verifier:
        assert verifier.judge([item(reference, content)])[0].status == status


def test_a_choice_between_options_of_the_question(verifier: MathVerifier) -> None:
    question = "Which? (A) $\\frac{1}{2}$ (B) $12$ (C) even"
    rows = [("A", "0.5", True), ("A", "12", False), ("C", "even", True), ("12", "(B)", True), ("12", "(A)", False)]
    items = [Item("q", "math", question, reference, f"\\boxed{{{answer}}}") for reference, answer, _ in rows]
    assert [judgement.passed for judgement in verifier.judge(items)] == [right for *_, right in rows]


def test_without_a_box_the_setting_decides() -> None:
    content = "So she has 18 apples."
    with MathVerifier(answer_from=["boxed"]) as strict, MathVerifier(answer_from=["boxed", "last_expression"]) as free:
        assert strict.judge([item("18", content)])[0].status == "no_answer"
        assert free.judge([item("18", content)])[0].status == "accepted"


def test_settings_change_the_version_and_bad_ones_are_refused() -> None:
    assert MathVerifier(answer_from=["boxed"]).version != MathVerifier(answer_from=["marker:A:"]).version
    assert "math-verify 0.9.0" in MathVerifier().version
    with pytest.raises(ValueError, match="workers >= 1"):
        MathVerifier(workers=0)


def test_evidence_is_json(verifier: MathVerifier) -> None:
    evidence = judge(verifier, r"2\sqrt{3}", r"\sqrt{12}").evidence
    assert json.loads(json.dumps(evidence)) == {
        "extracted": r"\sqrt{12}",
        "answer_from": "boxed",
        "reference": r"2\sqrt{3}",
        "reference_from": "whole",
        "path": "math_verify",
    }
