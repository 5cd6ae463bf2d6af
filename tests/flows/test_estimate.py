"""Proves what `plan` counts: requests, what is paid for, measured lengths and their spread, money, other models.

The engine is one that answers at once, so that the lengths are known.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from typer.testing import CliRunner

import tasks.measured
from flows.cli import app
from flows.estimate import estimate
from flows.plan_command import number
from flows.recipe import check_recipe
from storage.errors import NotAWorkspace
from storage.workspace import Workspace
from tasks import generate
from tasks.teachers.teacher import Reply, failed

TEACHER = {
    "name": "t", "engine": "openai", "model": "m", "base_url": "http://localhost:1/v1", "samples": 2,
    "tokens_per_second": 100, "price_per_million_tokens": 10, "price_per_million_prompt_tokens": 1,
}  # fmt: skip


class Counting:
    """Answers with a length of 100 · (sample + 1) for math and 1,000 for the rest, 50 tokens of prompt."""

    def __init__(self, fails):
        self.fails = fails

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        pass

    def generate(self, requests):
        for one in requests:
            text = one.messages[-1]["content"]
            if any(mark in text for mark in self.fails):
                yield failed(one, "no luck", "transient")
                continue
            tokens = 100 * (one.sample_index + 1) if "sum" in text else 1000
            end = "stop" if "sum" in text else "length"
            yield Reply(one.response_id, None, "\\boxed{4}", end, 50, tokens, None, 0.1)


@pytest.fixture
def house(make_house, make_source, monkeypatch):
    """Ten math questions and five others; of the others, two fail."""
    house = make_house(
        make_source("s", "math.jsonl"), make_source("o", "other.jsonl", category="other"), bits=2, teachers=[TEACHER]
    )
    house.write("math.jsonl", [{"question": f"The sum of {n} and {n}?", "ground_truth": "4"} for n in range(10)])
    house.write("other.jsonl", [{"question": f"Why {n}?"} for n in range(5)])
    monkeypatch.setattr(generate, "open_teacher", lambda *_: Counting(("Why 3", "Why 4")))
    return house


def found(house, questions=None, workspace=True):
    place = Workspace.open(house.root) if workspace else None
    return estimate(check_recipe(house.recipe, house.base), place, questions)


def test_without_a_workspace_the_recipes_numbers_count(house):
    house.recipe["teachers"] = [TEACHER | {"expected_tokens": 500}]
    one = found(house, workspace=False).total
    assert (one.requests, one.settled, one.tokens, one.spread) == (30, 0, 15_000, None)
    assert one.gpu_hours == pytest.approx(15_000 / 100 / 3600)
    assert one.prompt_tokens is None
    assert one.money == pytest.approx(15_000 * 10 / 1e6)


def test_unknown_lengths_are_unknown_and_the_remedy_is_named(house):
    whole = found(house, workspace=False)
    assert whole.total.tokens is whole.total.gpu_hours is whole.total.money is None
    assert any("teacher t: set expected_tokens" in note for note in whole.notes)
    assert any("prompts are not in the money" in note for note in whole.notes)


def test_what_is_paid_for_is_subtracted_and_the_rest_has_measured_lengths(house):
    house.run("generate")
    house.recipe["teachers"] = [TEACHER | {"samples": 4, "expected_tokens": 7}]
    whole = found(house)
    one = whole.teachers[0]
    assert whole.questions == {"math": 10, "other": 5}
    assert (one.requests, one.settled, one.left) == (60, 26, 34)  # 20 + 6 are answered
    assert one.tokens == 20 * 150 + 14 * 1000
    assert one.prompt_tokens == 34 * 50
    assert one.money == pytest.approx((34 * 50 * 1 + one.tokens * 10) / 1e6)
    lengths = {length.category: length for length in whole.lengths}
    assert (lengths["math"].mean, lengths["math"].median, lengths["math"].responses) == (150, 150, 20)
    assert (lengths["math"].p10, lengths["math"].p90, lengths["other"].cut_off) == (100, 200, 6)
    deviation = (20 * 50**2 / 19) ** 0.5
    assert one.spread == pytest.approx(1.96 * deviation / 20**0.5 * 20)  # all others are of one length


def test_another_model_or_prompt_is_not_paid_for(house):
    house.run("generate")
    for change in ({"model": "n"}, {"prompts": {"default": {"system": "Box it."}}}):
        house.recipe["teachers"] = [TEACHER | change]
        assert found(house).total.settled == 0
    assert found(house).lengths and not found(house).total.settled  # the model's lengths count under any prompt


def test_a_probe_is_scaled_to_the_whole(house):
    house.run("generate")
    whole = found(house, questions=3_000_000)
    assert whole.questions == {"math": 2_000_000, "other": 1_000_000}
    assert whole.total.left == 6_000_000 - 26
    assert whole.total.tokens == pytest.approx(4e6 * 150 + 2e6 * 1000, rel=1e-4)
    assert sum(found(house, questions=7).questions.values()) == 7


def test_many_questions_are_sampled_by_shards_and_it_says_so(house, monkeypatch):
    house.run("generate")
    monkeypatch.setattr(tasks.measured, "LOOKED_AT", 8)
    whole = found(house)
    looked = len(house.workspace.read("curate", house.workspace.shards[0], "curated")) + len(
        house.workspace.read("curate", house.workspace.shards[2], "curated")
    )
    assert any(f"scaled up from {looked} of 15 questions" in note for note in whole.notes)
    assert 0 < whole.total.settled <= 30


def test_a_teacher_of_one_category_is_asked_that_alone_and_a_replayed_one_costs_nothing(house):
    house.recipe["teachers"] = [
        TEACHER | {"categories": ["math"], "expected_tokens": 10},
        {"name": "r", "engine": "replay", "path": "math.jsonl", "samples": 1},
    ]
    one, replayed = found(house, workspace=False).teachers
    assert (one.requests, replayed.requests) == (20, 15)
    assert (replayed.tokens, replayed.gpu_hours, replayed.money) == (0, 0, 0)


def test_other_models_are_counted(house):
    judge = {"base_url": "http://localhost:1/v1", "model": "j", "swap": True}
    labels = {"teacher": TEACHER | {"name": "labeller"}}
    house.recipe |= {
        "verify": {"judge": judge, "policy": {"math": "rule_or_judge"}},
        "score": {"scorers": [{"name": "s", "engine": "transformers"}]},
        "curate": house.recipe["curate"] | {"labels": labels, "rewrite": labels | {"categories": ["math"]}},
    }
    others = {one.name: (one.requests, one.done) for one in found(house, workspace=False).others}
    assert others == {
        "labeller labeller": (15, 0), "rewriter labeller": (10, 0), "scorer s": (30, 0), "judge": (60, 0),
    }  # fmt: skip


def test_the_judge_is_asked_as_often_as_it_was(house):
    """Math is ruled and needs no judge; where it was never asked, the measured share is none."""
    judge = {"base_url": "http://localhost:1/v1", "model": "j"}
    house.recipe["verify"] = {"judge": judge, "route": {"other": ["math"]}, "policy": {"math": "rule_or_judge"}}
    before = {one.name: one for one in found(house, workspace=False).others}["judge"]
    house.run("verify")
    after = {one.name: one for one in found(house).others}["judge"]
    assert (before.requests, before.how) == (20, "at most one a response")
    assert (after.requests, after.how) == (0, "as often as it was asked so far")  # every answer is right


def test_the_judge_of_one_teachers_categories_is_asked_as_often_as_it_was(house):
    """What other categories are routed to it is no matter where the teacher isn't asked in them."""
    house.recipe["verify"] = {"judge": {"base_url": "http://localhost:1/v1", "model": "j"},
                              "policy": {"math": "rule_or_judge"}}  # fmt: skip
    house.recipe["teachers"] = [TEACHER | {"categories": ["math"]}]
    house.run("verify")
    judge = {one.name: one for one in found(house).others}["judge"]
    assert (judge.requests, judge.done, judge.how) == (0, 0, "as often as it was asked so far")


def test_disk_is_measured_where_every_response_has_its_tokens(house):
    house.run("generate")
    heads = [house.workspace.head("generate.t", shard) for shard in house.workspace.shards]
    size = sum(part.bytes for head in heads for part in head.data())
    house.recipe["teachers"] = [TEACHER | {"samples": 4}]
    whole = found(house)
    tokens = 10 * (100 + 200) + 6 * 1000
    assert whole.disk_bytes == pytest.approx(whole.total.tokens * size / tokens)


def test_nothing_is_written(house):
    house.run("generate")
    before = {path: path.stat().st_mtime_ns for path in house.root.rglob("*.*") if "tmp" not in path.parts}
    found(house)
    after = {path: path.stat().st_mtime_ns for path in house.root.rglob("*.*") if "tmp" not in path.parts}
    assert before == after


def test_left_is_never_negative(house):
    house.run("generate")
    one = found(house, questions=1).total
    assert one.left == 0 and replace(one, settled=99).left == 0


def test_the_command_shows_all_of_it(house, monkeypatch):
    house.run("generate")
    recipe = house.base / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(house.recipe))
    monkeypatch.setenv("COLUMNS", "200")
    done = CliRunner().invoke(app, ["plan", str(recipe), "--workspace", str(house.root), "--questions", "3000000"])
    assert done.exit_code == 0, done.output
    row = next(line for line in done.output.splitlines() if line.startswith("│ t ") and "6,000,000" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "t", "6,000,000", "26", "5,999,974", "300 M", "2.6 G ± 89.9 M", "7,222", "26,300"
    ]  # fmt: skip
    for text in (f"measured in {house.root}", "3,000,000 questions to ask: math 2,000,000, other 1,000,000",
                 "7,222 hours of one GPU are 0.8 GPU-years", "cut off 6 measured responses"):  # fmt: skip
        assert text in done.output


def test_no_number_is_cut_short_where_lines_are(house, monkeypatch):
    recipe = house.base / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(house.recipe))
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(app, ["plan", str(recipe), "--questions", "3000000"])
    assert done.exit_code == 0 and "…" not in done.output


def test_a_workspace_that_is_not_there_is_an_error(house, tmp_path):
    recipe = house.base / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(house.recipe))
    done = CliRunner().invoke(app, ["plan", str(recipe), "--workspace", str(tmp_path / "none")])
    assert isinstance(done.exception, NotAWorkspace)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "unknown"), (0, "0"), (0.5, "0.50"), (3, "3"), (3.14, "3.14"), (999_999, "999,999"), (1.5e6, "1.5 M"),
        (999.9e6, "1,000 M"), (73.48e9, "73.5 G"), (2.5e12, "2.5 T"), (34_018.5, "34,018"),
    ],
)  # fmt: skip
def test_numbers_have_about_three_figures(value, text):
    assert number(value) == text


def test_later_rounds_are_noted_as_an_upper_bound(house):
    house.recipe["teachers"] = [TEACHER | {"until": "verified", "max_samples": 6, "expected_tokens": 100}]
    found = estimate(check_recipe(house.recipe, house.base))
    assert found.teachers[0].requests == 30
    assert (
        "teacher t: until verified: at most 60 more requests in later rounds, 6,000 response tokens, 0.06 in money"
        in (" | ".join(found.notes))
    )
