"""Proves that a run over its own limits asks no teacher, that a self-test that was passed is not made again for new
questions but for what can change it, and that questions are drawn the same way whatever the number of shards."""

from __future__ import annotations

import pytest

from storage.workspace import ALL
from tasks import self_test
from tasks.errors import SelfTestFailed
from tasks.ingest import IngestSettings
from tasks.self_test import draw, sample_curated, sample_sources
from tasks.sources import FileSource
from tasks.verifiers.settings import SelfTestSettings


def sums(first, last):
    return [{"question": f"What is {n} + 1?", "ground_truth": str(n + 1), "r": f"\\boxed{{{n}}}"} for n in
            range(first, last)]  # fmt: skip


@pytest.fixture
def house(make_house):
    house = make_house(
        bits=1,
        teachers=[{"name": "t", "engine": "replay", "path": "sums.jsonl", "samples": 1, "columns": {"response": "r"}}],
        verify={"self_test": {"max_false_reject": 0.0, "max_false_accept": 0.0}},
        runner={"max_workers": 1},
    )
    house.write("sums.jsonl", sums(0, 12))
    return house


def unreadable(house):
    """A reference that no answer agrees with: the rule can't tell it from another one."""
    return [*sums(0, 12), {"question": "Which?", "ground_truth": "{{5", "r": "5"}]


def steps(done):
    return [one.step for one in done]


def test_it_runs_once_before_any_teacher_is_asked(house):
    assert steps(house.run("generate"))[-2:] == ["self_test", "generate.t"]
    (rates,) = [
        one for one in house.workspace.head("self_test", ALL).extra["rates"] if one["verifier"] == "outcome"
    ]  # fmt: skip
    assert (rates["golds"], rates["false_rejects"]["number"], rates["false_accepts"]["number"]) == (12, 0, 0)
    assert house.run("generate") == []


def test_without_limits_there_is_no_such_step(house):
    house.recipe["verify"] = {"self_test": {"sample": 3}}
    assert "self_test" not in steps(house.run("generate"))


def test_over_a_limit_no_teacher_is_asked(house):
    house.write("sums.jsonl", unreadable(house))
    with pytest.raises(SelfTestFailed, match=r"math: 1 of 13 right answers rejected \(7.7%, the limit is 0.0%\)"):
        house.run("generate")
    assert house.workspace.head("generate.t", "0") is None
    with pytest.raises(SelfTestFailed):
        house.run(only="generate")
    house.recipe["verify"]["self_test"]["max_false_reject"] = 0.1
    assert steps(house.run("generate"))[-2:] == ["self_test", "generate.t"]


def test_new_questions_do_not_repeat_it_but_settings_and_sources_do(house):
    house.run("generate")
    house.write("sums.jsonl", sums(0, 15))
    assert "self_test" not in steps(house.run("generate"))
    house.recipe["verify"]["math"] = {"timeout_s": 4.0}
    assert "self_test" in steps(house.run("generate"))
    house.write("more.jsonl", sums(20, 22))
    house.recipe["sources"].append({"name": "more", "kind": "file", "path": "more.jsonl", "category": "math"})
    assert "self_test" in steps(house.run("generate"))


def test_a_new_limit_or_sample_judges_no_response_again(house):
    house.run("verify")
    house.recipe["verify"]["self_test"] = {"max_false_reject": 0.5, "sample": 5}
    assert steps(house.run("verify")) == ["self_test"]


def test_a_verifier_that_fails_holds_the_run_back(house, monkeypatch):
    house.recipe["verify"] |= {
        "judge": {"base_url": "http://127.0.0.1:9/v1", "model": "m", "attempts": 1},
        "route": {"math": ["judge"]},
    }
    with pytest.raises(SelfTestFailed, match="could not be judged"):
        house.run("generate")


def test_the_sample_is_the_same_whatever_the_shards_and_of_each_category(house, make_source, tmp_path):
    house.recipe["sources"] = [make_source(), make_source("odd", "odd.jsonl", category="science")]
    house.write("odd.jsonl", [{"question": f"Why {n}?", "ground_truth": "so"} for n in range(3)])
    other = house.copy(tmp_path / "other", bits=3)
    settings = SelfTestSettings(sample=5)
    found = []
    for one in (house, other):
        one.run("curate")
        found.append(sample_curated(one.workspace, settings))
    assert found[0] == found[1]
    assert [row["category"] for row in sorted(found[0], key=lambda row: row["category"])] == ["math"] * 5 + [
        "science"
    ] * 3
    different = sample_curated(house.workspace, SelfTestSettings(sample=5, seed=1))
    assert {row["question_id"] for row in different} != {row["question_id"] for row in found[0]}


def test_before_anything_is_curated_questions_come_from_the_sources(house, monkeypatch):
    house.write("sums.jsonl", [*sums(0, 12), *sums(0, 12), {"question": 5}])
    source = FileSource(name="sums", kind="file", path="sums.jsonl", category="math")
    found = sample_sources([source], IngestSettings(), house.base, SelfTestSettings())
    assert len({row["question_id"] for row in found}) == len(found) == 12
    monkeypatch.setattr(self_test, "RECORDS_READ", 4)
    assert len(sample_sources([source], IngestSettings(), house.base, SelfTestSettings())) == 4


def test_a_draw_does_not_depend_on_the_order():
    rows = [{"question_id": f"{n:032x}", "category": "math"} for n in range(50)]
    assert draw(rows, SelfTestSettings(sample=7)) == draw(rows[::-1] + rows, SelfTestSettings(sample=7))
