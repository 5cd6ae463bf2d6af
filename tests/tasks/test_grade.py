"""Proves the numbers of a grade: CV as METHODS.md has it, what counts in n, the bands, the majority."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from tasks.grade import GradeSettings, coefficient_of_variation, grade

QUESTION = {"question_id": "q", "category": "math", "split": "train"}


def outcome(score, passed=None, teacher="t", answer=None, status="x"):
    passed = (score > 0.99 if score is not None else None) if passed is None else passed
    return {"teacher": teacher, "verify_score": score, "passed": passed, "status": status, "answer": answer}


def make(*scores, settings=None, teachers=("t",)):
    return grade(
        QUESTION,
        [outcome(score) if not isinstance(score, dict) else score for score in scores],
        settings or GradeSettings(),
        teachers,
    )


@pytest.mark.parametrize(("passes", "cv"), [(0, None), (1, 2.0), (2, 1.155), (3, 0.667), (4, 0.0)])
def test_four_binary_scores_have_four_values_of_cv(passes, cv):
    found = make(*[1.0] * passes, *[0.0] * (4 - passes))
    assert found["cv"] == (None if cv is None else pytest.approx(cv, abs=5e-4))
    assert found["pass_rate"] == passes / 4 and found["passes"] == passes and found["n"] == 4


def test_cv_divides_by_n_less_one_or_by_n():
    assert coefficient_of_variation([0.0, 1.0]) == pytest.approx(math.sqrt(2))
    assert coefficient_of_variation([0.0, 1.0], ddof=0) == pytest.approx(1.0)
    assert make(0.0, 1.0, settings=GradeSettings(cv_ddof=0))["cv"] == pytest.approx(1.0)


def test_cv_of_nothing_of_one_and_of_a_mean_of_zero_is_none():
    assert (
        coefficient_of_variation([]) is coefficient_of_variation([1.0]) is coefficient_of_variation([0.0, 0.0]) is None
    )
    assert coefficient_of_variation([0.5], ddof=0) == 0


@pytest.mark.parametrize("score", [0.1, 0.7, 1 / 3, 1e-9])
def test_equal_scores_have_a_cv_of_exactly_zero(score):
    assert coefficient_of_variation([score] * 7) == 0


def test_cv_does_not_depend_on_the_order():
    scores = [0.1, 0.7, 0.3, 1.0, 0.25, 1 / 3]
    assert len({coefficient_of_variation(scores[n:] + scores[:n]) for n in range(6)}) == 1


def test_what_can_not_be_judged_is_left_out_of_n():
    found = make(1.0, 0.0, outcome(None, status="unverifiable"))
    assert (found["n"], found["pass_rate"], found["teachers"][0]["n"]) == (2, 0.5, 2)
    found = make(outcome(None, status="unverifiable"))
    assert (
        found["difficulty"] == "ungraded" and found["pass_rate"] is found["mean_score"] is found["best_score"] is None
    )
    assert make()["n"] == 0


@pytest.mark.parametrize(
    ("passes", "n", "band"),
    [
        (0, 4, "unsolved"),
        (1, 4, "hard"),
        (2, 4, "medium"),
        (3, 4, "easy"),
        (4, 4, "easy"),
        (1, 10, "hard"),
        (26, 100, "medium"),
    ],
)
def test_difficulty_bands(passes, n, band):
    assert make(*[1.0] * passes, *[0.0] * (n - passes))["difficulty"] == band


def test_bands_must_not_overlap():
    with pytest.raises(ValidationError, match="must lie below"):
        GradeSettings(hard_below=0.8, easy_from=0.7)


def test_teachers_are_graded_apart():
    found = make(
        outcome(1.0, teacher="a"), outcome(0.5, teacher="b"), outcome(1.0, teacher="b"), teachers=("a", "b", "c")
    )
    a, b, c = found["teachers"]
    assert (a["n"], a["pass_rate"], a["cv"]) == (1, 1.0, None)
    assert (b["n"], b["passes"], b["mean_score"]) == (2, 1, 0.75) and b["cv"] == pytest.approx(math.sqrt(0.125) / 0.75)
    assert c == {
        "teacher": "c",
        "n": 0,
        "passes": 0,
        "pass_rate": None,
        "mean_score": None,
        "cv": None,
        "n_extra": 0,
        "passes_extra": 0,
    }
    assert (found["n"], found["passes"], found["best_score"]) == (3, 2, 1.0)


def answers(*pairs):
    return make(*[outcome(float(passed), passed, answer=answer) for answer, passed in pairs])


def test_a_majority_against_the_reference_makes_it_suspect():
    found = answers(("7", False), ("7", False), ("5", True))
    assert (found["majority_answer"], found["agreement"], found["reference_suspect"]) == (
        "7",
        pytest.approx(2 / 3),
        True,
    )
    assert not answers(("7", False), ("7", False))["reference_suspect"]  # too few
    assert not answers(("7", False), ("8", False), ("5", True), ("5", True))[
        "reference_suspect"
    ]  # the majority is right
    assert not answers(("7", False), ("7", False), ("8", False), ("9", False))["reference_suspect"]  # no agreement
    assert answers((None, False))["majority_answer"] is None


def test_a_tie_is_broken_by_the_answer():
    assert (
        answers(("9", False), ("7", False))["majority_answer"]
        == answers(("7", False), ("9", False))["majority_answer"]
        == "7"
    )
