"""Proves each branch of the selection, that a question held out is never chosen, and that every drop says why."""

from __future__ import annotations

import pytest

from tasks.select import SelectSettings, choose, judge_question, on_basis

GRADE = {
    "question_id": "a" * 32,
    "category": "math",
    "split": "train",
    "n": 4,
    "passes": 2,
    "pass_rate": 0.5,
    "cv": 1.155,
    "best_score": 1.0,
    "basis": "verifiers",
    "majority_answer": "7",
}
DEEP = SelectSettings(method="deepdistill")


def judge(settings=DEEP, multi_turn=False, **grade):
    found = judge_question(GRADE | grade, settings, multi_turn=multi_turn)
    return found.keep, found.rule


@pytest.mark.parametrize(
    ("grade", "expected"),
    [
        ({"split": "heldout"}, (False, "heldout")),
        ({"n": 0, "passes": 0, "pass_rate": None, "cv": None}, (False, "ungraded")),
        ({"passes": 0, "pass_rate": 0.0, "cv": None}, (False, "unsolved")),
        ({}, (True, "high_cv")),
        ({"cv": 0.5}, (False, "low_cv")),  # not above CV_t
        ({"cv": 0.0, "passes": 4, "pass_rate": 1.0}, (False, "low_cv")),
        ({"cv": None, "n": 1, "passes": 1, "pass_rate": 1.0}, (False, "low_cv")),
    ],
)
def test_the_branches_of_algorithm_1(grade, expected):
    assert judge(**grade) == expected


def test_cv_thresholds_are_by_category():
    settings = SelectSettings(method="deepdistill", cv_threshold={"math": 2.0, "default": 0.1})
    assert judge(settings) == (False, "low_cv") and judge(settings, category="code") == (True, "high_cv")


def test_half_of_other_and_multi_turn_questions_with_a_low_cv_stay_and_always_the_same_ones():
    ids = [f"{number:032x}" for number in range(2000)]
    kept = [judge(cv=0.0, category="other", question_id=one)[0] for one in ids]
    assert kept == [judge(cv=0.0, multi_turn=True, question_id=one)[0] for one in ids]
    assert 900 < sum(kept) < 1100
    assert not any(judge(cv=0.0, question_id=one)[0] for one in ids)
    none, all_ = (SelectSettings(method="deepdistill", keep_low_cv=share) for share in (0.0, 1.0))
    assert judge(none, cv=0.0, category="other") == (False, "low_cv")
    assert judge(all_, cv=0.0, category="other") == (True, "low_cv_kept")


def test_verified_only_keeps_what_was_solved_within_the_band():
    assert judge(SelectSettings(), cv=0.0) == (True, "verified")
    assert judge(SelectSettings(), passes=0, pass_rate=0.0) == (False, "unsolved")
    assert judge(SelectSettings(pass_rate=(0.5, 0.9))) == (True, "verified")
    for rate in (0.4, 0.95):
        assert judge(SelectSettings(pass_rate=(0.5, 0.9)), pass_rate=rate) == (False, "pass_rate_band")


def row(identity, score, passed, status="x"):
    return {"response_id": identity, "verify_score": score, "passed": passed, "status": status}


def test_responses_above_the_threshold_are_chosen_best_first():
    rows = [row("a", 0.0, False), row("b", 0.8, True), row("c", 1.0, True), row("d", None, None, "unverifiable")]
    assert {one["response_id"]: why for one, why in choose(rows, SelectSettings())} == {
        "a": "not_passed",
        "b": None,
        "c": None,
        "d": "unverifiable",
    }
    limited = {one["response_id"]: why for one, why in choose(rows, SelectSettings(max_per_question=1))}
    assert limited["c"] is None and limited["b"] == "over_max_per_question"


def test_where_a_vote_is_the_basis_those_who_agree_are_chosen():
    rows = [row(name, None, None, "unverifiable") | {"answer": name} for name in ("7", "5")] + [
        row("none", None, None, "unverifiable") | {"answer": None}
    ]
    voted = {
        one["response_id"]: why for one, why in choose(on_basis(rows, GRADE | {"basis": "vote"}), SelectSettings())
    }
    assert voted == {"7": None, "5": "not_passed", "none": "not_passed"}
    assert on_basis(rows, GRADE) == rows
    assert judge(SelectSettings(), basis="vote") == (True, "voted")
    assert judge(SelectSettings(), basis="repaired") == (True, "repaired")
    assert on_basis(rows, GRADE | {"basis": "repaired"}) == on_basis(rows, GRADE | {"basis": "vote"}) != rows


def test_ties_do_not_depend_on_the_order():
    rows = [row(str(number), 1.0, True) for number in range(9)]
    settings = SelectSettings(max_per_question=2)
    chosen = {one["response_id"] for one, why in choose(rows, settings) if why is None}
    assert (
        chosen == {one["response_id"] for one, why in choose(rows[::-1], settings) if why is None} and len(chosen) == 2
    )


def test_no_held_out_question_is_ever_selected(make_house):
    house = make_house(
        curate={"filters": None, "near_duplicates": None, "heldout": 0.5},
        teachers=[{"name": "t", "engine": "replay", "path": "sums.jsonl", "samples": 2}],
        runner={"max_workers": 1},
    )
    house.write(
        "sums.jsonl",
        [
            {
                "question": f"What is {n} + 1?",
                "ground_truth": str(n + 1),
                "response": [f"\\boxed{{{n + 1}}}", "\\boxed{99}"],
            }
            for n in range(12)
        ],
    )
    house.run("select")
    held = {row["question_id"] for row in house.rows("curate", "curated") if row["split"] == "heldout"}
    chosen = {row["question_id"] for row in house.rows("select", "selection")}
    assert 0 < len(held) < 12 and not held & chosen and len(held | chosen) == 12
    assert house.rules("select") == {"heldout": len(held), "not_passed": len(chosen)}
