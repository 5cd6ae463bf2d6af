"""Proves each rule on questions and on responses, that a held-out question is never chosen, that every drop says why.

The rules on the whole data set are proved in test_select_allot.py.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest
from pydantic import ValidationError

from flows.errors import RecipeError
from storage.schemas import CURATED, GRADES, RESPONSES, SCORES, VERDICTS
from tasks.select import on_basis
from tasks.select_questions import judge_questions
from tasks.select_responses import TRAITS, gather, judge_responses, word_runs
from tasks.select_settings import SelectSettings

TWICE = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "."}, {"role": "user", "content": "?"}]
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
    "difficulty": "medium",
    "reference_suspect": False,
    "teachers": [],
}
DEEP = {"method": "deepdistill"}


def register(connection, name, schema, rows):
    """Rows with null for what they leave out, whether or not the schema allows it."""
    plain = pa.schema([field.with_nullable(True) for field in schema])
    connection.register(name, pa.Table.from_pylist(rows, schema=plain))


def judge_all(grades, multi_turn=False, **settings):
    with duckdb.connect() as connection:
        asked = [{"question_id": row["question_id"], "question_source": "s", "messages": TWICE if multi_turn else []}
                 for row in grades]  # fmt: skip
        register(connection, "curated", CURATED, asked)
        register(connection, "grades", GRADES, grades)
        judge_questions(connection, SelectSettings(**settings))
        return connection.execute("select keep, rule, value, threshold from questions order by question_id").fetchall()


def judge(settings=DEEP, multi_turn=False, **grade):
    ((keep, rule, *_),) = judge_all([GRADE | grade], multi_turn, **settings)
    return keep, rule


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


def test_algorithm_1_on_a_table_names_value_and_threshold_of_each_question():
    table = [
        {"passes": 0, "pass_rate": 0.0, "cv": 0.4, "best_score": 0.75, "category": "code"},  # (1) no score is enough
        {"cv": 2.0, "passes": 1, "pass_rate": 0.25},  # (2) one of four
        {"cv": 0.667, "passes": 3, "pass_rate": 0.75},  # (3) three of four, under the CV_t of math
        {"cv": 0.667, "passes": 3, "pass_rate": 0.75, "category": "code"},  # (2) over that of code
        {"cv": 0.1, "category": "other"},  # (3) kept by the draw
    ]
    rows = [GRADE | row | {"question_id": f"{number:032x}"} for number, row in enumerate(table)]
    assert judge_all(rows, method="deepdistill", cv_threshold={"math": 1.0, "default": 0.5}, keep_low_cv=1.0) == [
        (False, "unsolved", 0.75, None),
        (True, "high_cv", 2.0, 1.0),
        (False, "low_cv", 0.667, 1.0),
        (True, "high_cv", 0.667, 0.5),
        (True, "low_cv_kept", 0.1, 0.5),
    ]


@pytest.mark.parametrize(("passes", "cv"), [(1, 2.0), (2, 1.155), (3, 0.667), (4, 0.0)])
def test_with_four_binary_scores_a_cv_is_a_number_of_passes(passes, cv):
    """The CV table of METHODS.md: a CV_t just below a row's CV keeps that row, one at it does not."""
    row = {"passes": passes, "pass_rate": passes / 4, "cv": cv}
    assert judge(DEEP | {"cv_threshold": {"default": cv}}, **row) == (False, "low_cv")
    if cv:
        assert judge(DEEP | {"cv_threshold": {"default": cv - 0.01}}, **row) == (True, "high_cv")


def test_half_of_other_and_multi_turn_questions_with_a_low_cv_stay_and_always_the_same_ones():
    def kept(multi_turn=False, **more):
        rows = [GRADE | {"question_id": f"{number:032x}", "cv": 0.0, "category": "other"} | more.pop("grade", {})
                for number in range(2000)]  # fmt: skip
        return [keep for keep, *_ in judge_all(rows, multi_turn, method="deepdistill", **more)]

    lucky = kept()
    assert 900 < sum(lucky) < 1100 and lucky != kept(seed=1)
    everywhere = [GRADE | {"question_id": f"{number:032x}", "cv": 0.0} for number in range(2000)]
    assert [keep for keep, *_ in judge_all(everywhere, True, **DEEP)] == lucky  # multi-turn, of any category
    assert not any(keep for keep, *_ in judge_all(everywhere, **DEEP))
    assert judge(DEEP | {"keep_low_cv": 0.0}, cv=0.0, category="other") == (False, "low_cv")
    assert judge(DEEP | {"keep_low_cv": 1.0}, cv=0.0, category="other") == (True, "low_cv_kept")


def test_verified_only_keeps_what_was_solved_within_the_band():
    assert judge({}, cv=0.0) == (True, "verified")
    assert judge({}, passes=0, pass_rate=0.0) == (False, "unsolved")
    band = {"pass_rate": [0.5, 0.9]}
    assert judge(band) == (True, "verified")
    for rate in (0.4, 0.95):
        assert judge(band, pass_rate=rate) == (False, "pass_rate_band")
    assert judge({}, basis="vote") == (True, "voted") and judge({}, basis="repaired") == (True, "repaired")


def test_the_band_can_be_that_of_one_teacher_such_as_the_student():
    own = {"teachers": [{"teacher": "big", "pass_rate": 1.0}, {"teacher": "student", "pass_rate": 0.25}]}
    band = {"pass_rate": [0.0, 0.5], "pass_rate_of": "student"}
    assert judge(band, pass_rate=0.625, **own) == (True, "verified")
    assert judge(band | {"pass_rate_of": "big"}, pass_rate=0.625, **own) == (False, "pass_rate_band")
    assert judge(band | {"pass_rate_of": "absent"}, pass_rate=0.625, **own) == (False, "not_measured")


def test_no_filter_at_all_is_one_line_and_still_leaves_out_what_is_held_out():
    settings = {"method": "all"}
    assert SelectSettings(**settings).trace is None and SelectSettings(**settings, trace={}).trace is not None
    assert judge(settings, passes=0, pass_rate=0.0, cv=None) == (True, "all")
    assert judge(settings, n=0, passes=0, pass_rate=None, cv=None) == (True, "all")
    assert judge(settings, split="heldout") == (False, "heldout")


def response(identity, score=1.0, passed=True, status="accepted", teacher="t", question="a", **more):
    return {"response_id": identity, "question_id": question * 32, "verify_score": score, "passed": passed,
            "status": status, "teacher": teacher, "verifier": "outcome"} | more  # fmt: skip


def choose(rows, traits=(), best=None, grade=None, responses=(), scores=(), rewards=(), **settings):
    """response_id → why it is left out, None for a chosen one."""
    settings = SelectSettings(**settings)
    with duckdb.connect() as connection:
        ids = sorted({row["question_id"] for row in rows})
        register(connection, "curated", CURATED, [{"question_id": one, "messages": []} for one in ids])
        register(connection, "grades", GRADES, [GRADE | (grade or {}) | {"question_id": one} for one in ids])
        register(connection, "verdicts", VERDICTS, [*rows, *rewards])
        register(connection, "responses", RESPONSES, responses)
        register(connection, "scores", SCORES, scores)
        judge_questions(connection, settings)
        gather(connection, settings, "s")
        judge_responses(connection, settings, best or {}, pa.Table.from_pylist(list(traits), schema=TRAITS))
        return dict(connection.execute("select response_id, why from fates").fetchall())


def chosen(*given, **settings):
    return "".join(sorted(name for name, why in choose(*given, **settings).items() if why is None))


MIXED = [response("a", 0.0, False, "wrong_answer"), response("b", 0.8), response("c"),
         response("d", None, None, "unverifiable")]  # fmt: skip


def test_what_passed_is_chosen_the_best_score_first():
    assert choose(MIXED) == {"a": "not_passed", "b": None, "c": None, "d": "unverifiable"}
    limited = choose(MIXED, max_per_question=1)
    assert limited["c"] is None and limited["b"] == "over_max_per_question"
    assert chosen(MIXED, method="all") == "abcd" and chosen(MIXED, method="all", max_per_question=2) == "bc"


def test_where_a_vote_is_the_basis_those_who_agree_are_chosen():
    rows = [
        response(name, None, None, "unverifiable", answer=answer)
        for name, answer in zip("abc", ("7", "5", None), strict=True)
    ]
    vote = {"basis": "vote"}
    assert choose(rows, grade=vote) == {"a": None, "b": "not_passed", "c": "not_passed"}
    assert choose(rows, grade={"basis": "repaired"}) == choose(rows, grade=vote)
    assert [row["passed"] for row in on_basis(rows, GRADE | vote)] == [True, False, False]
    assert on_basis(rows, GRADE) == rows


def test_ties_do_not_depend_on_the_order():
    rows = [response(name) for name in "abcdefg"]
    assert chosen(rows, max_per_question=2) == chosen(rows[::-1], max_per_question=2) == "ab"


def test_the_best_of_n_by_each_measure():
    rows = [response(name) for name in "abc"]
    texts = [
        {"response_id": name, "completion_tokens": tokens} for name, tokens in zip("abc", (20, 30, 10), strict=True)
    ]
    scores = [
        {"response_id": name, "scorer": "s", "perplexity": value} for name, value in zip("ab", (3.0, 2.0), strict=True)
    ]
    scores.append({"response_id": "c", "scorer": "another", "perplexity": 1.0})
    rewards = [response("c", 0.9, None, verifier="reward"), response("a", 0.1, None, verifier="reward")]

    def best(by, **more):
        return chosen(rows, max_per_question=1, best_by=by, responses=texts, scores=scores, rewards=rewards, **more)

    assert [best(by) for by in ("longest", "shortest", "perplexity", "reward")] == ["b", "c", "b", "c"]
    assert best("random") == best("random") and {best("random", seed=seed) for seed in range(20)} == set("abc")


def test_a_response_without_a_count_of_tokens_is_measured_by_its_characters():
    rows = [response(name) for name in "ab"]
    texts = [{"response_id": "a", "completion_tokens": 10}, {"response_id": "b", "answer_content": "x" * 41}]
    assert chosen(rows, responses=texts, max_per_question=1, best_by="longest") == "b"  # 11 tokens, about
    found = choose(rows, responses=texts, tokens=[11, 20])
    assert found == {"a": "too_few_tokens", "b": None}
    assert choose(rows, responses=texts, tokens=[0, 10]) == {"a": None, "b": "too_many_tokens"}


def test_one_of_each_teacher_or_only_the_best_one_in_the_category():
    rows = [response("a", teacher="x"), response("b", teacher="x"), response("c", teacher="y")]
    assert choose(rows, max_per_teacher=1) == {"a": None, "b": "over_max_per_teacher", "c": None}
    only = {"teachers": "best_in_category"}
    assert choose(rows, best={"math": "y", "code": "x"}, **only) == {"a": "not_best_teacher", "b": "not_best_teacher",
                                                                     "c": None}  # fmt: skip


def test_a_response_over_a_limit_makes_way_for_the_next_and_says_by_which():
    rows = [response("a"), response("b")]
    over = [{"response_id": "a", "trait": "loop", "trait_value": 120.0, "trait_threshold": 100.0}]
    assert choose(rows, over, max_per_question=1) == {"a": "loop", "b": None}


def test_nearly_equal_responses_of_one_question_leave_the_best_one():
    text = " ".join(f"word{number}" for number in range(60))
    texts = {"a": text, "b": text + " indeed", "c": "Something else altogether, which has no five words in common."}
    said = [{"response_id": name, "answer_content": one, "completion_tokens": len(one)} for name, one in texts.items()]
    rows = [response(name) for name in "abc"]
    assert choose(rows, responses=said, near_equal=0.9) == {"a": None, "b": "near_equal", "c": None}
    assert choose(rows, responses=said, near_equal=0.9, best_by="longest", max_per_question=2) == {
        "a": "near_equal", "b": None, "c": None}  # fmt: skip
    apart = [response("a"), response("b", question="b")]
    assert chosen(apart, responses=said, near_equal=0.9) == "ab"
    assert len(word_runs("one two")) == len(word_runs("")) == 1


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"pass_rate": [0.9, 0.1]}, "expected the lower end first"),
        ({"prefer": "matched"}, "set select.budget"),
        ({"budget": {}}, "set examples or tokens"),
        ({"mix": {"x": 0}}, "expected a weight over 0"),
        ({"categories": {"math": -1}}, "expected 0 or more"),
        ({"best_by": "length"}, "best_by"),
    ],
)
def test_a_wrong_setting_is_answered_with_what_is_expected(settings, found):
    with pytest.raises(ValidationError, match=found):
        SelectSettings(**settings)


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
    house.recipe["select"] = {"method": "all"}
    house.run("select")
    rows = house.rows("select", "selection")
    assert len(rows) == 2 * len(chosen) and {row["rule"] for row in rows} == {"all"}
    assert house.rules("select") == {"heldout": len(held)}


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"coreset": 5}, "needs embeddings"),
        ({"mix": {"u": 1}}, "no teacher u; there are t"),
        ({"pass_rate_of": "u"}, "no teacher u; there are t"),
        ({"sources": {"u": 1}}, "no source u; there are sums"),
        ({"best_by": "perplexity"}, "set `score.scorers`"),
        ({"best_by": "teacher_sentences"}, "set `score.provenance`"),
        ({"min_teacher_share": 0.5}, "min_teacher_share needs sentences traced: set `score.provenance`"),
    ],
)
def test_a_rule_that_needs_what_the_recipe_lacks_is_refused(make_house, settings, found):
    teachers = [{"name": "t", "engine": "replay", "path": "sums.jsonl"}]
    house = make_house(teachers=teachers, select=settings)
    house.write("sums.jsonl", [{"question": "What is 1 + 1?", "ground_truth": "2", "response": ["2"]}])
    with pytest.raises(RecipeError, match=found):
        house.plan()
