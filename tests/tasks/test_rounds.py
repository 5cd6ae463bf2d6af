"""Proves which questions get further samples, that rounds stop where they should, that pass rates stay round 0's, that
the books balance, and that a second run has nothing to do.

The whole road is walked with a replayed teacher. Not covered here: a server, kills, budgets, which
tests/faults/test_rounds_faults.py has.
"""

from __future__ import annotations

import random
from contextlib import closing

import pytest
from pydantic import ValidationError

from flows.errors import RecipeError
from flows.recipe import check_recipe
from flows.run import sent_out
from storage.database import open_views
from tasks.grade_settings import GradeSettings
from tasks.plan import round_of
from tasks.rounds import Fate, Rule, interval, rule
from tasks.teachers.settings import OpenAITeacherSettings

PASSED, FAILED, UNVERIFIABLE = Fate.PASSED, Fate.FAILED, Fate.UNVERIFIABLE
REFUSED, WAITING = Fate.REFUSED, Fate.WAITING


def make(until="verified", samples=2, each=2, cap=6, confidence=0.9):
    return Rule(until, samples, each, cap, confidence, 0.25, 0.75)


def plan(rule, *fates):
    return rule.planned(dict(enumerate(fates)))


@pytest.mark.parametrize(
    ("fates", "expected"),
    [
        ([], (2, "waiting")),
        ([FAILED, WAITING], (2, "waiting")),
        ([FAILED, PASSED], (2, "verified")),
        ([FAILED, FAILED], (4, "waiting")),
        ([FAILED, UNVERIFIABLE], (4, "waiting")),
        ([UNVERIFIABLE, REFUSED], (2, "unverifiable")),
        ([REFUSED, REFUSED], (2, "refused")),
        ([FAILED, REFUSED, PASSED, WAITING], (4, "waiting")),
        ([FAILED, REFUSED, PASSED, FAILED], (4, "verified")),
        ([FAILED] * 4, (6, "waiting")),
        ([FAILED] * 6, (6, "capped")),
        ([PASSED, FAILED, FAILED, FAILED], (2, "verified")),  # what an earlier recipe asked is beyond the plan
    ],
)
def test_until_verified_plans_a_round_when_all_before_it_is_judged_and_nothing_passed(fates, expected):
    assert plan(make(), *fates) == expected


def test_the_last_round_ends_at_the_cap():
    assert plan(make(each=3, cap=6), *[FAILED] * 5) == (6, "waiting")
    teacher = OpenAITeacherSettings(name="t", engine="openai", model="m", base_url="http://localhost:1/v1", samples=4,
                                    samples_per_round=3)  # fmt: skip
    assert [round_of(teacher, index) for index in range(9)] == [0, 0, 0, 0, 1, 1, 1, 2, 2]


def test_until_settled_stops_when_the_interval_lies_within_one_band():
    settled = make("settled", samples=4, each=4, cap=40)
    assert plan(settled, *[PASSED] * 8) == (12, "waiting")  # 0.05 ** (1 / 8) = 0.69
    assert plan(settled, *[PASSED] * 12) == (12, "settled")
    assert plan(settled, *[FAILED] * 12) == (12, "settled")
    assert plan(settled, *[FAILED, PASSED] * 8) == (16, "settled")  # 8 of 16: 0.28 to 0.72
    assert plan(settled, *[PASSED, PASSED, PASSED, FAILED] * 10) == (40, "capped")  # on the border of two bands


def test_the_interval_holds_the_true_rate_as_often_as_it_says():
    assert interval(12, 12, 0.9) == (pytest.approx(0.05 ** (1 / 12)), 1.0)
    assert interval(0, 12, 0.9) == (0.0, pytest.approx(1 - 0.05 ** (1 / 12)))
    draw = random.Random(5)
    for rate in (0.1, 0.5, 0.8):
        bounds = [interval(sum(draw.random() < rate for _ in range(16)), 16, 0.9) for _ in range(400)]
        assert sum(low <= rate <= high for low, high in bounds) / 400 > 0.87


def test_a_cap_without_a_later_round_is_refused():
    given = {"name": "t", "engine": "openai", "model": "m", "base_url": "http://localhost:1/v1", "samples": 8}
    with pytest.raises(ValidationError, match=r"max_samples \(8\) leaves no later round"):
        OpenAITeacherSettings(**given, until="verified", max_samples=8)
    teacher = OpenAITeacherSettings(**given, until="settled", confidence=0.8)
    assert rule(teacher, GradeSettings(easy_from=0.9)) == Rule("settled", 8, 4, 16, 0.8, 0.25, 0.9)
    assert rule(OpenAITeacherSettings(**given), GradeSettings()) is None


# --- the whole road


def answers(right, stored=8):
    """Stored answers of which the one with index `right` is the first that is right, and the last one, too."""
    return [str(int(index >= right)) for index in range(stored)]


@pytest.fixture
def house(make_house):
    """Question n is answered right from sample n on; 8 answers are stored. k = 2, rounds of 2, at most 6 samples."""
    house = make_house(
        bits=1,
        teachers=[{"name": "t", "engine": "replay", "path": "answers.jsonl", "samples": 2, "until": "verified",
                   "max_samples": 6, "samples_per_round": 2, "columns": {"response": "a"}}],
        select={"trace": None},
    )  # fmt: skip
    house.write("sums.jsonl", [{"question": ask(n), "ground_truth": "1"} for n in range(8)])
    house.write("answers.jsonl", [{"question": ask(n), "a": [f"\\boxed{{{a}}}" for a in answers(n)]} for n in range(8)])
    return house


def ask(number):
    return f"Is {number} what I think of?"


def by_question(house):
    numbers = {row["question_id"]: row["messages"][0]["content"] for row in house.rows("curate", "curated")}
    return {identity: int(text.split()[1]) for identity, text in numbers.items()}


def later(house):
    """Sample indexes of the later rounds, by question."""
    numbers, found = by_question(house), {}
    for row in house.rows("generate.t.rounds", "responses"):
        assert row["round"] == (row["sample_index"] - 2) // 2 + 1 and row["error_kind"] is None
        found.setdefault(numbers[row["question_id"]], []).append(row["sample_index"])
    return {number: sorted(indexes) for number, indexes in found.items()}


def book(house, step, unit):
    found = [b for shard in house.workspace.shards for b in house.workspace.head(step, shard).books if b.unit == unit]
    return sum(b.units_in for b in found), sum(b.units_out for b in found), sum(b.pending for b in found)


def test_only_questions_without_a_verified_answer_are_asked_again_up_to_the_cap(house):
    house.run("export")
    assert later(house) == {2: [2, 3], 3: [2, 3], **{n: [2, 3, 4, 5] for n in (4, 5, 6, 7)}}
    assert book(house, "generate.t.rounds", "request") == (20, 20, 0)
    assert book(house, "generate.t.rounds", "question") == (8, 8, 0)
    ends = {}
    for shard in house.workspace.shards:
        for name, number in house.workspace.head("generate.t.rounds", shard).extra["questions"].items():
            ends[name] = ends.get(name, 0) + number
    assert ends == {"verified": 6, "capped": 2}
    assert house.run("export") == []


def test_pass_rates_are_those_of_round_0_and_later_passes_are_counted_beside_them(house):
    house.run("grade")
    numbers = by_question(house)
    found = {numbers[row["question_id"]]: row for row in house.rows("grade", "grades")}
    assert [found[n]["n"] for n in range(8)] == [2] * 8
    assert [found[n]["passes"] for n in range(8)] == [2, 1, 0, 0, 0, 0, 0, 0]
    assert [found[n]["difficulty"] for n in range(8)] == ["easy", "medium"] + ["unsolved"] * 6
    own = [found[n]["teachers"][0] for n in range(8)]
    assert [(one["n_extra"], one["passes_extra"]) for one in own] == [
        (0, 0), (0, 0), (2, 2), (2, 1), (4, 2), (4, 1), (4, 0), (4, 0)]  # fmt: skip


@pytest.mark.parametrize("method", ["verified", "deepdistill"])
def test_a_response_of_a_later_round_is_selected_and_exported(house, method):
    house.recipe["select"] |= {"method": method}
    house.run("export")
    numbers, chosen = by_question(house), {}
    for row in house.rows("select", "selection"):
        chosen.setdefault(numbers[row["question_id"]], []).append(row["rule"])
    assert {n: len(chosen[n]) for n in (2, 3, 4, 5)} == {2: 2, 3: 1, 4: 2, 5: 1}
    assert {rule for n in (2, 3, 4, 5) for rule in chosen[n]} == {"verified_later"}
    assert 6 not in chosen and 7 not in chosen
    total = sum(house.workspace.head("export", "all").extra["rows"].values())
    assert total == sum(map(len, chosen.values()))


def test_a_response_of_a_later_round_is_paired_with_failed_ones_and_its_repeats_are_counted(house):
    house.recipe |= {"negatives": {}, "select": {"trace": {"corpus_repeats": 20}}}
    house.run("export")
    numbers = by_question(house)
    paired = {numbers[row["question_id"]] for row in house.rows("negatives", "preference_pairs")}
    assert paired == {1, 2, 3, 4, 5}
    assert house.workspace.head("export.pairs", "all").extra["rows"] is not None
    assert house.run("export") == []


def test_records_that_later_rounds_read_are_no_strays(house):
    house.run("verify")
    assert house.rules("generate.t") == {"beyond_samples": 16}  # 8 stored, 6 at most


def test_the_number_of_shards_changes_no_row(house, tmp_path):
    other = house.copy(tmp_path / "other", bits=0)
    for one in (house, other):
        one.run("select")
    for step, table in (("generate.t.rounds", "responses"), ("verify.t.rounds", "verdicts"), ("grade", "grades"),
                        ("select", "selection")):  # fmt: skip
        assert house.rows(step, table) == other.rows(step, table), step


@pytest.mark.parametrize("until", [None, "verified"])
def test_samples_beyond_a_smaller_k_stay_and_count_no_more(house, until):
    """Law 4: what was paid for stays in the table; verify, grade and select read what the plan names."""
    teacher = house.recipe["teachers"][0]
    teacher |= {"samples": 4, "until": until}
    house.run("select")
    assert {row["n"] for row in house.rows("grade", "grades")} == {4}
    teacher["samples"] = 2
    house.run("select")
    rows = house.rows("generate.t", "responses")
    assert len(rows) == 8 * 4 and {row["sample_index"]: row["round"] for row in rows} == {0: 0, 1: 0, 2: 1, 3: 1}
    judged = [row for row in house.rows("verify.t", "verdicts") if row["verifier"] == "outcome"]
    assert len(judged) == 8 * 2 and {row["sample_index"] for row in judged} == {0, 1}
    grades = house.rows("grade", "grades")
    assert {row["n"] for row in grades} == {2}
    extra = {row["question_id"]: row["teachers"][0]["n_extra"] for row in grades}
    numbers = by_question(house)
    wanted = {n: 0 if n < 2 or not until else 2 if n < 4 else 4 for n in range(8)}
    assert {numbers[key]: number for key, number in extra.items()} == wanted
    indexes = {row["response_id"]: row["sample_index"] for row in rows}
    chosen = [indexes.get(row["response_id"], 4) for row in house.rows("select", "selection")]
    assert max(chosen) == (4 if until else 1)
    with closing(open_views(house.workspace)) as views:  # what the funnel's pass rates count
        query = """select count(*) from verdicts semi join (select response_id from responses where round = 0)
                   using (response_id) where verifier = 'outcome'"""
        assert views.execute(query).fetchone() == (8 * 2,)
    assert house.run("select") == []


def test_a_question_whose_verdict_failed_waits_and_goes_on_when_it_is_there(house, monkeypatch):
    from tasks.verifiers.bench import Bench
    from tasks.verifiers.verdict import unscored

    real = Bench.judge

    def broken(self, name, subjects):
        found = real(self, name, subjects)
        return [unscored("infra_error", "the verifier is away") if one.response["sample_index"] == 2 and name == "math"
                else verdict for one, verdict in zip(subjects, found, strict=True)]  # fmt: skip

    with monkeypatch.context() as patch:
        patch.setattr(Bench, "judge", broken)
        house.run("verify")
        assert later(house) == {n: [2, 3] for n in range(2, 8)}  # no question is asked beyond what isn't judged
        assert book(house, "generate.t.rounds", "question") == (8, 2, 6)
        assert {one.step for one in house.run("verify")} == {"generate.t.rounds", "verify.t.rounds"}
    house.run("verify")
    assert later(house) == {2: [2, 3], 3: [2, 3], **{n: [2, 3, 4, 5] for n in (4, 5, 6, 7)}}
    assert house.run("verify") == []


def test_a_changed_verifier_plans_anew_and_loses_no_response(house):
    house.run("verify")
    before = house.rows("generate.t.rounds", "responses")
    house.write("sums.jsonl", [{"question": ask(n), "ground_truth": "0"} for n in range(8)])
    house.run("verify")
    after = house.rows("generate.t.rounds", "responses")
    assert {row["response_id"] for row in before} < {row["response_id"] for row in after}
    judged = {row["question_id"] for row in house.rows("verify.t.rounds", "verdicts") if row["verifier"] == "outcome"}
    numbers = by_question(house)
    assert {numbers[identity] for identity in judged} == {0}  # right at first is wrong for ever now; only 0 fails k = 2
    assert house.run("verify") == []


def test_bands_that_later_rounds_could_not_follow_are_refused(house):
    house.recipe["teachers"][0]["until"] = "settled"
    with pytest.raises(RecipeError, match="until settled needs bands that are known while it is asked"):
        check_recipe(house.recipe | {"grade": {"bands": "quantile"}}, house.base)


def test_later_rounds_go_to_the_workers_that_the_teacher_is_asked_by(house):
    asked = {"name": "u", "engine": "openai", "model": "m", "base_url": "http://localhost:1/v1", "until": "settled"}
    house.recipe["teachers"].append(asked)
    loaded = check_recipe(house.recipe | {"runner": {"kind": "prefect"}}, house.base)
    assert sent_out(loaded) == {"generate.u", "generate.u.rounds"}
