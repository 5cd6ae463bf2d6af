"""Proves the numbers of a grade: CV as METHODS.md has it, what counts in n, pass@k, the bands, the votes.

The SQL is held against a second opinion, plain Python row by row, on random outcomes; and shown not to depend on the
order of the rows, on threads, on shards or on a memory limit that makes it spill.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from pydantic import ValidationError

from storage.database import connect, open_views
from storage.fingerprint import content_hash
from storage.schemas import GRADES, VERDICTS
from tasks.grade import GradeSettings
from tasks.grade_profiles import profile
from tasks.grade_standards import Counts, Standards, committed_standards, quantile, weight
from tests.tasks.grade_by_rows import grade_by_rows

DOCS = Path(__file__).parents[2] / "docs" / "grading.md"
ASKED = pa.schema([(name, pa.string()) for name in ("question_id", "category", "split")])
LIMITS = Standards({}, hard_to=0.25, easy_from=0.75)


def outcome(score, passed=None, teacher="t", answer=None, status="x", question="q"):
    passed = (score > 0.99 if score is not None else None) if passed is None else passed
    return {
        "question_id": question, "teacher": teacher, "verifier": "outcome", "verify_score": score, "passed": passed,
        "status": status, "answer": answer,
    }  # fmt: skip


def asked(*names, category="math"):
    return [{"question_id": name, "category": category, "split": "train"} for name in names or ("q",)]


def tables(connection, questions, outcomes):
    verdicts = pa.schema([VERDICTS.field(name) for name in outcome(0.0)])
    connection.register("curated", pa.Table.from_pylist(questions, schema=ASKED))
    connection.register("verdicts", pa.Table.from_pylist(outcomes, schema=verdicts))


def grades(questions, outcomes, settings=None, teachers=("t",), standards=None, connection=None):
    connection = connection or duckdb.connect()
    tables(connection, questions, outcomes)
    standards = standards or LIMITS
    found = profile(connection, settings or GradeSettings(), teachers, standards)
    return found.select(GRADES.names).cast(GRADES).sort_by("question_id").to_pylist()


def make(*scores, settings=None, teachers=("t",), weights=None):
    outcomes = [outcome(score) if not isinstance(score, dict) else score for score in scores]
    standards = Standards(weights or {}, LIMITS.hard_to, LIMITS.easy_from)
    return grades(asked(), outcomes, settings, teachers, standards)[0]


# --- CV, means, n


@pytest.mark.parametrize(("passes", "cv"), [(0, None), (1, 2.0), (2, 1.155), (3, 0.667), (4, 0.0)])
def test_four_binary_scores_have_four_values_of_cv(passes, cv):
    found = make(*[1.0] * passes, *[0.0] * (4 - passes))
    assert found["cv"] == (None if cv is None else pytest.approx(cv, abs=5e-4))
    assert found["pass_rate"] == passes / 4 and found["passes"] == passes and found["n"] == 4


def test_cv_divides_by_n_less_one_or_by_n():
    assert make(0.0, 1.0)["cv"] == pytest.approx(math.sqrt(2))
    assert make(0.0, 1.0, settings=GradeSettings(cv_ddof=0))["cv"] == pytest.approx(1.0)


def test_cv_of_nothing_of_one_and_of_a_mean_of_zero_is_none():
    assert make()["cv"] is make(1.0)["cv"] is make(0.0, 0.0)["cv"] is None
    assert make(0.5, settings=GradeSettings(cv_ddof=0))["cv"] == 0


@pytest.mark.parametrize("score", [0.1, 0.7, 1 / 3, 1e-9])
def test_equal_scores_have_a_cv_of_exactly_zero(score):
    assert make(*[score] * 7)["cv"] == 0


def test_cv_and_mean_do_not_depend_on_the_order():
    scores = [0.1, 0.7, 0.3, 1.0, 0.25, 1 / 3]
    found = [make(*scores[n:], *scores[:n]) for n in range(6)]
    assert len({(one["cv"], one["mean_score"]) for one in found}) == 1


def test_what_can_not_be_judged_is_left_out_of_n():
    found = make(1.0, 0.0, outcome(None, status="unverifiable"))
    assert (found["n"], found["pass_rate"], found["teachers"][0]["n"]) == (2, 0.5, 2)
    found = make(outcome(None, status="unverifiable"))
    assert found["difficulty"] == "ungraded" and found["basis"] == "none"
    assert found["pass_rate"] is found["mean_score"] is found["best_score"] is found["pass_at_2"] is None
    assert make()["n"] == 0


def test_a_question_with_an_infra_error_is_no_row():
    found = grades(asked("a", "b"), [outcome(1.0, question="a"), outcome(None, status="infra_error", question="a")])
    assert [one["question_id"] for one in found] == ["b"]


def test_other_verifiers_rows_do_not_count():
    assert make(1.0, outcome(0.0) | {"verifier": "math"})["n"] == 1


def test_pass_at_k_is_the_unbiased_estimate():
    found = make(*[1.0] * 3, *[0.0] * 9)
    for k in (2, 4, 8):
        assert found[f"pass_at_{k}"] == pytest.approx(float(1 - Fraction(math.comb(9, k), math.comb(12, k))), abs=1e-12)
    assert found["pass_at_16"] is None
    assert make(*[1.0] * 9, *[0.0] * 3)["pass_at_4"] == 1.0
    assert make(0.0, 0.0)["pass_at_2"] == 0.0


def test_teachers_are_graded_apart():
    found = make(
        outcome(1.0, teacher="a"), outcome(0.5, teacher="b"), outcome(1.0, teacher="b"), teachers=("a", "b", "it's")
    )
    a, b, c = found["teachers"]
    assert (a["n"], a["pass_rate"], a["cv"], a["pass_at_2"]) == (1, 1.0, None, None)
    assert (b["n"], b["passes"], b["mean_score"]) == (2, 1, 0.75) and b["cv"] == pytest.approx(math.sqrt(0.125) / 0.75)
    assert b["pass_at_2"] == 1.0
    assert c == dict.fromkeys(c) | {"teacher": "it's", "n": 0, "passes": 0, "n_extra": 0, "passes_extra": 0}
    assert (found["n"], found["passes"], found["best_score"]) == (3, 2, 1.0)


# --- bands


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


def test_a_quantile_is_the_least_rate_that_the_share_does_not_exceed():
    rates = Counter({Fraction(1, 4): 25, Fraction(1, 3): 26, Fraction(1, 1): 49})
    assert [quantile(rates, share) for share in (0.0, 0.25, 0.26, 0.51, 0.52, 1.0)] == [0.25, 0.25, 1 / 3, 1 / 3, 1, 1]
    assert quantile(Counter(), 0.5) == 1.0


def test_quantile_bands_leave_out_the_unsolved_and_the_pending():
    connection = duckdb.connect()
    outcomes = [outcome(float(k < n % 5), question=f"q{n:02}") for n in range(40) for k in range(4)]
    outcomes += [outcome(1.0, question="wait"), outcome(None, status="infra_error", question="wait")]
    tables(connection, asked(*(f"q{n:02}" for n in range(40)), "wait"), outcomes)
    counts = Counts()
    counts.add(connection, quantiles=True)
    assert counts.rates == {Fraction(k, 4): 8 for k in (1, 2, 3, 4)}
    found = counts.standards(GradeSettings(bands="quantile", hard_below=0.5, easy_from=0.9), ["t"])
    assert (found.hard_to, found.easy_from) == (0.5, 1.0)


# --- votes


def answers(*pairs, teachers=("t",), weights=None, **settings):
    """Pairs of an answer and whether it passed, or triples with the teacher."""
    rows = [
        outcome(None if passed is None else float(passed), passed, answer=answer, teacher=(*teacher, "t")[0])
        for answer, passed, *teacher in pairs
    ]
    return make(*rows, settings=GradeSettings(**settings), teachers=teachers, weights=weights)


def test_a_majority_against_the_reference_makes_it_suspect():
    found = answers(("7", False), ("7", False), ("5", True))
    assert (found["majority_answer"], found["reference_suspect"]) == ("7", True)
    assert found["agreement"] == found["vote_share"] == pytest.approx(2 / 3)
    assert not answers(("7", False), ("7", False))["reference_suspect"]  # too few
    right = answers(("7", False), ("8", False), ("5", True), ("5", True))
    assert not right["reference_suspect"] and right["votes"] is None
    assert not answers(("7", False), ("7", False), ("8", False), ("9", False))["reference_suspect"]  # no agreement
    assert answers((None, False))["majority_answer"] is None


def test_a_suspect_reference_lists_all_votes_and_their_weights():
    weights = {("math", "a"): 80, ("math", "b"): 30}
    found = answers(("7", False, "a"), ("7", False, "b"), ("7", False, "a"), ("5", True, "b"), (None, False, "a"),
                    teachers=("a", "b"), weights=weights)  # fmt: skip
    assert found["reference_suspect"] and found["vote_share"] == 190 / 220 and found["agreement"] == 0.75
    assert found["votes"] == [
        {"answer": "5", "teacher": "b", "votes": 1, "weight": 0.3},
        {"answer": "7", "teacher": "a", "votes": 2, "weight": 0.8},
        {"answer": "7", "teacher": "b", "votes": 1, "weight": 0.3},
    ]


def test_two_good_votes_outweigh_three_poor_ones():
    ballot = [("7", False, "good"), ("7", False, "good"), *[("5", True, "poor")] * 3]
    found = answers(*ballot, teachers=("good", "poor"), weights={("math", "good"): 90, ("math", "poor"): 10})
    assert (found["majority_answer"], found["agreement"], found["reference_suspect"]) == ("7", 0.4, True)
    elsewhere = answers(*ballot, teachers=("good", "poor"), weights={("code", "good"): 90, ("code", "poor"): 10})
    assert (elsewhere["majority_answer"], elsewhere["reference_suspect"]) == ("5", False)


def test_a_tie_is_broken_by_the_answer():
    one, other = answers(("9", False), ("7", False)), answers(("7", False), ("9", False))
    assert one["majority_answer"] == other["majority_answer"] == "7"


def test_a_vote_stands_in_for_a_missing_reference_only_where_it_is_allowed():
    ballot = [("7", None), ("7", None), ("7", None), ("5", None), (None, None)]
    found = answers(*ballot, vote_from=0.7)
    assert (found["basis"], found["n"], found["passes"], found["pass_rate"]) == ("vote", 5, 3, 0.6)
    assert (found["best_score"], found["mean_score"], found["teachers"][0]["passes"]) == (1.0, 0.6, 3)
    assert [vote["votes"] for vote in found["votes"]] == [1, 3] and not found["reference_suspect"]
    for other in (answers(*ballot), answers(*ballot, vote_from=0.8), answers(*ballot[:2], vote_from=0.7)):
        assert (other["basis"], other["n"], other["difficulty"]) == ("none", 0, "ungraded")


def test_a_vote_never_takes_a_references_place():
    found = answers(("7", False), ("7", False), ("7", False), ("7", None), vote_from=0.6)
    assert (found["basis"], found["passes"], found["n"], found["reference_suspect"]) == ("verifiers", 0, 3, True)


@pytest.mark.parametrize(
    ("n", "passes", "hundredths"),
    [(0, 0, 50), (1, 1, 67), (2, 1, 50), (98, 98, 99), (10_000, 10_000, 100), (10_000, 0, 1), (198, 0, 1), (6, 0, 13)],
)
def test_a_weight_is_the_verified_accuracy_in_hundredths(n, passes, hundredths):
    assert weight(n, passes) == hundredths


def test_weights_count_judged_outcomes_by_category_and_teacher():
    connection = duckdb.connect()
    rows = [outcome(float(n < 6), question="m", teacher="a") for n in range(8)]
    rows += [outcome(None, status="unverifiable", question="m", teacher="a"), outcome(1.0, question="c", teacher="b")]
    rows += [outcome(1.0, question="m", teacher="a") | {"verifier": "math"}]
    tables(connection, [*asked("m"), *asked("c", category="code")], rows)
    counts = Counts()
    counts.add(connection, quantiles=False)
    found = counts.standards(GradeSettings(), ["a", "b"])
    assert found.weights == {("math", "a"): 70, ("math", "b"): 50, ("code", "a"): 50, ("code", "b"): 67}
    assert Standards.from_json(found.as_json()) == found


# --- the second opinion, and what must not matter


def random_outcomes(seed, questions):
    draw = random.Random(seed)
    found = []
    for number in range(questions):
        kind = draw.choice(["binary", "graded", "unreferenced", "mixed"])
        for teacher in ("a", "b", "c"):
            for _ in range(draw.choice([0, 1, 4, 7])):
                score = {
                    "binary": float(draw.random() < 0.5),
                    "graded": draw.choice([draw.random(), 1 / 3, draw.randrange(11) / 10]),
                    "unreferenced": None,
                    "mixed": draw.choice([None, 0.0, 1.0]),
                }[kind]
                passed = None if score is None else score > 0.7
                answer = draw.choice([None, *("1" if passed else "22é3"), *"1234"])
                status = draw.choice(["x"] * 60 + ["infra_error"])
                found.append(outcome(None if status != "x" else score, None if status != "x" else passed, teacher,
                                     answer, status, f"q{number:04}"))  # fmt: skip
    return found


STANDARDS = Standards({("math", "a"): 81, ("math", "b"): 40, ("math", "c"): 7}, hard_to=0.3, easy_from=0.8)
SETTINGS = [GradeSettings(), GradeSettings(vote_from=0.51, cv_ddof=0, suspect_answers=2, suspect_agreement=0.3)]


@pytest.mark.parametrize("settings", SETTINGS)
def test_sql_and_plain_python_agree(settings):
    questions = asked(*(f"q{number:04}" for number in range(600)))
    outcomes = random_outcomes(1, 600)
    found = {one["question_id"]: one for one in grades(questions, outcomes, settings, ("a", "b", "c"), STANDARDS)}
    seen = Counter()
    for question in questions:
        own = [row for row in outcomes if row["question_id"] == question["question_id"]]
        expected = grade_by_rows(question, own, settings, ("a", "b", "c"), STANDARDS)
        measured = found.get(question["question_id"])
        assert (expected is None) == (measured is None)
        if expected is not None:
            assert_same(measured, expected)
            seen.update([expected["basis"], expected["difficulty"], expected["reference_suspect"]])
    assert len(found) < 600 and min(seen[name] for name in ("verifiers", "none", "hard", "unsolved", True)) > 3
    assert (seen["vote"] > 3) == (settings.vote_from is not None)


def assert_same(measured, expected):
    assert measured.keys() == expected.keys()
    for name, value in expected.items():
        if name == "teachers":
            for one, other in zip(measured[name], value, strict=True):
                assert_same(one, other)
        elif isinstance(value, float):
            assert measured[name] == pytest.approx(value, abs=2e-8), name
        else:
            assert measured[name] == value, name


@pytest.mark.parametrize("settings", SETTINGS)
def test_neither_order_nor_threads_change_a_bit(settings, tmp_path):
    questions = asked(*(f"q{number:04}" for number in range(300)))
    outcomes = random_outcomes(2, 300)
    plain = grades(questions, outcomes, settings, ("a", "b", "c"), STANDARDS)
    for seed, threads in ((1, 1), (2, 2), (3, 8)):
        shuffled = random.Random(seed).sample(outcomes, len(outcomes))
        with connect(tmp_path / str(seed), 512, threads) as connection:
            assert grades(questions, shuffled, settings, ("a", "b", "c"), STANDARDS, connection) == plain


def test_a_memory_limit_that_makes_it_spill_changes_no_bit(tmp_path):
    def graded(memory_mb, threads):
        with connect(tmp_path / str(memory_mb), memory_mb, threads) as connection:
            connection.execute("""
                create view curated as
                select md5(i::varchar) as question_id, 'math' as category, 'train' as split
                from range(120_000) as r(i)
            """)
            connection.execute("""
                create view verdicts as
                select md5((i // 6)::varchar) as question_id, if(i % 2 = 0, 'a', 'b') as teacher,
                    'outcome' as verifier, (hash(i) % 7) / 6 as verify_score, hash(i) % 7 > 3 as passed,
                    'x' as status, repeat('9', 40) || (hash(i) % 7) as answer
                from range(720_000) as r(i)
            """)
            found = profile(connection, GradeSettings(), ["a", "b"], STANDARDS)
            ((spilled,),) = connection.execute("select sum(size) from duckdb_temporary_files()").fetchall()
            return content_hash(found.select(GRADES.names).cast(GRADES)), spilled or 0

    (roomy, nothing), (tight, spilled) = graded(2048, 2), graded(96, 1)
    assert roomy == tight and nothing == 0 < spilled


# --- the steps


@pytest.fixture
def house(make_house):
    """Sums in four shards; the teacher is right four times of five."""
    house = make_house(
        teachers=[{"name": "t", "engine": "replay", "path": "sums.jsonl", "samples": 5}],
        runner={"max_workers": 1},
        bits=2,
    )
    house.write("sums.jsonl", [sum_of(n) for n in range(60)])
    return house


def sum_of(n):
    right = [f"\\boxed{{{n + 1}}}"] * 4
    return {"question": f"What is {n} + 1?", "ground_truth": str(n + 1), "response": [*right, "\\boxed{-1}"]}


def test_a_new_question_that_leaves_the_standards_as_they_were_regrades_its_shard_only(house):
    house.run("grade")
    assert committed_standards(house.workspace).weights == {("math", "t"): 80}
    house.write("sums.jsonl", [sum_of(n) for n in range(61)])
    done = {one.step: one.shards for one in house.run("grade")}
    assert (done["weigh"], done["grade"]) == (1, 1)


def test_other_standards_regrade_all_and_say_why(house):
    house.run("grade")
    house.write(
        "sums.jsonl", [*(sum_of(n) for n in range(60)), *(sum_of(n) | {"response": "?"} for n in range(60, 90))]
    )
    done = {one.step: one for one in house.run("grade")}
    assert done["grade"].shards == 4 and any("input weigh changed" in why for why in done["grade"].why)


def test_the_audit_list_of_the_docs_reads_what_a_reviewer_needs(house):
    wrong = [sum_of(n) | {"ground_truth": "0"} for n in range(3)]
    house.write("sums.jsonl", [*wrong, *(sum_of(n) for n in range(3, 60))])
    house.run("grade")
    query = re.search(r"```sql\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    with open_views(house.workspace) as connection:
        rows = sorted(connection.sql(query[1]).to_arrow_table().to_pylist(), key=lambda row: row["question"])
    assert [(row["question"], row["reference"], row["majority_answer"]) for row in rows] == [
        (f"What is {n} + 1?", "0", str(n + 1)) for n in range(3)
    ]
    assert {(vote["answer"], vote["votes"]) for vote in rows[0]["votes"]} == {("1", 4), ("-1", 1)}
