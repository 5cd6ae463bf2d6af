"""Proves what an evaluation's fingerprint covers, and what it says of a real tiny student, its teachers, a benchmark.

Not covered: vLLM and endpoints beyond their settings (the teachers' tests ask these engines).
"""

from __future__ import annotations

import pytest

from storage.workspace import ALL, Workspace
from tasks.evaluate import EvaluateSettings, eval_folder, evaluate_step, evaluated, question_rates
from tasks.evaluate_watch import watched
from tasks.grade import GradeSettings
from tasks.student_program import steps_to_keep
from tasks.train import StudentSettings, stage_results
from tasks.verifiers import math, quantity
from tasks.verifiers.settings import VerifySettings
from tests.tasks.tiny_student import make_student, thought


def settings_of(folder):
    (folder / "config.json").write_text("{}")
    student = StudentSettings.model_validate({"name": "s", "model": str(folder)})
    return evaluate_step(EvaluateSettings(), student, VerifySettings(), GradeSettings(), workers=1).settings


@pytest.mark.parametrize("module", [math, quantity])
def test_it_follows_the_revisions_of_the_verifiers(tmp_path, monkeypatch, module):
    """Else a student would keep the accuracy that old rules gave it, beside teachers judged by new ones."""
    before = settings_of(tmp_path)
    assert settings_of(tmp_path) == before
    monkeypatch.setattr(module, "RULES_REVISION", 99)
    assert settings_of(tmp_path) != before


@pytest.fixture
def house(make_house, tmp_path):
    """Two teachers and a tiny student; half of the questions are held out; a benchmark with two bad records."""
    model = make_student(tmp_path / "model")
    house = make_house(
        curate={"filters": None, "exact_duplicates": False, "near_duplicates": None, "heldout": 0.5},
        teachers=[
            {"name": name, "engine": "replay", "path": "answers.jsonl", "samples": 2, "columns": {"response": name}}
            for name in ("good", "poor")
        ],
        runner={"max_workers": 1},
        select={"trace": None},
        export={"validation": 0},
        student={
            "name": "s", "model": str(model), "max_length": 128, "batch_size": 4, "epochs": 30, "learning_rate": 3e-3,
        },
        evaluate={
            "samples": 4, "greedy": True, "sampling": {"temperature": 0.8, "max_tokens": 20},
            "benchmarks": [{"name": "exam", "kind": "file", "path": "exam.jsonl", "category": "math"}],
        },
    )  # fmt: skip
    rows = [
        {"question": f"What is {n} + 1?", "ground_truth": str(n + 1), "good": [thought(n)] * 2,
         "poor": [thought(n), thought(n + 1)]}
        for n in range(10, 26)
    ]  # fmt: skip
    for name in ("sums.jsonl", "answers.jsonl"):
        house.write(name, rows)
    exam = [{"question": f"What is {n} + 1?", "ground_truth": str(n + 1)} for n in (10, 11, 12, 13, 40, 41)]
    house.write("exam.jsonl", [*exam, exam[0], {"question": 5}])
    return house


def test_base_student_and_teachers_side_by_side_and_a_benchmark(house):
    house.run("evaluate")
    workspace = house.workspace
    metrics = evaluated(workspace, "s")
    heldout = {row["question_id"] for row in house.rows("curate", "curated") if row["split"] == "heldout"}
    assert metrics["questions"] == len(heldout) > 2
    sides = ("before", "after", "before_greedy", "after_greedy")
    for side in sides:
        assert metrics["all"][side]["questions"] == len(heldout)
        assert metrics["benchmarks"]["exam"][side]["questions"] == 6
        assert metrics["all"][side]["tokens"] > 0
    assert {"pass@4", "majority"} <= metrics["all"]["after"].keys()
    assert "pass@2" not in metrics["all"]["after_greedy"]
    assert metrics["teachers"]["good"]["accuracy"] == 1.0 and metrics["teachers"]["poor"]["accuracy"] == 0.5
    assert metrics["all"]["before"]["accuracy"] == 0
    found = metrics["all"]["difference_after_greedy"]
    assert found["value"] == metrics["all"]["after_greedy"]["accuracy"] and found["p"] is not None
    assert metrics["all"]["difference"]["p"] is None  # four samples: no pairs of single answers
    assert set(metrics["speed"]) == set(sides)
    trained = {row["question_id"] for row in house.rows("curate", "curated")} - heldout
    asked = question_rates(workspace, "s")
    assert metrics["benchmarks"]["exam"]["in_training"] == len(trained & asked.keys()) > 0
    assert house.workspace.head("evaluate.s", ALL).books[1].dropped == {"same_question": 1, "wrong_type": 1}
    assert house.run("evaluate") == []
    house.run("report")
    page = (workspace.root / "report.html").read_text()
    assert "teacher good" in page and "student, greedy" in page and "word for word" in page


def test_a_changed_benchmark_is_measured_again_and_the_rest_kept(house):
    house.recipe["evaluate"] |= {"greedy": False, "samples": 1, "base": False}
    house.recipe["student"]["epochs"] = 1
    house.run("evaluate")
    before = {row["response_id"] for row in inner_rows(house)}
    house.write("exam.jsonl", [{"question": "What is 50 + 1?", "ground_truth": "51"}])
    [done] = house.run("evaluate")
    assert (done.step, "exam.jsonl" in done.why[0]) == ("evaluate.s", True)
    metrics = evaluated(house.workspace, "s")
    assert metrics["benchmarks"]["exam"]["after"]["questions"] == 1
    assert "before" not in metrics["all"] and "difference" not in metrics["all"]
    asked_again = {row["response_id"] for row in inner_rows(house)} - before
    assert len(asked_again) == 1


def inner_rows(house):
    inner = Workspace.open(eval_folder(house.workspace, "s"))
    return inner.read("generate.after", "0", "responses").to_pylist()


def test_engines_take_the_teachers_own_settings():
    served = {side: {"model": f"s-{side}", "base_url": "http://127.0.0.1:1/v1"} for side in ("before", "after")}
    settings = EvaluateSettings(engine="openai", served=served, greedy=True, sampling={"temperature": 0.7})
    asked = settings.asked("after_greedy", "folder")
    assert (asked.engine, asked.model, asked.samples, asked.sampling.temperature) == ("openai", "s-after", 1, 0)
    settings = EvaluateSettings(engine="vllm", engine_options={"gpus": 0, "flags": {"max-model-len": 512}})
    asked = settings.asked("after", "folder")
    assert (asked.engine, asked.model, asked.gpus, asked.sampling.temperature) == ("vllm", "folder", 0, 0)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"engine": "openai"}, "set served.before"),
        ({"engine": "vllm", "engine_options": {"gpu": 1}}, "gpu"),
        ({"benchmarks": [{"name": "a", "kind": "file", "path": "x"}] * 2}, "used twice"),
        ({"prompts": {"maths": {"system": "x"}}}, "found 'maths', expected one of math, .*, default"),
        ({"sampling_by_category": {"default": {}}}, "found 'default', expected one of math"),
    ],
)
def test_wrong_settings_are_told_before_anything_runs(given, message):
    with pytest.raises(ValueError, match=message):
        EvaluateSettings.model_validate(given)


def test_the_watch_sees_likelihood_and_accuracy_on_the_way_and_after_each_stage(house):
    """A student that learns its teachers' text finds it more likely; what was watched is not measured again."""
    house.recipe["evaluate"] |= {"greedy": False, "samples": 1, "benchmarks": [], "watch": 5}
    house.recipe["student"] |= {
        "epochs": 6,
        "keep_checkpoints": 2,
        "stages": [{"kind": "sft", "packing": False}, {"kind": "sft", "name": "more", "packing": False, "epochs": 1}],
    }
    house.run("report")
    rows = watched(house.workspace, "s")
    steps = {name: one["steps"] for name, one in stage_results(house.workspace, "s").items()}
    assert [row["point"] for row in rows] == [
        "base", *(f"sft {step}" for step in steps_to_keep(steps["sft"], 2)), "sft",
        *(f"more {step}" for step in steps_to_keep(steps["more"], 2)), "more",
    ]  # fmt: skip
    assert {row["texts"] for row in rows} == {5} and len(rows) >= 6
    likelihood = [row["mean_logprob"] for row in rows]
    assert likelihood[:4] == sorted(likelihood[:4]) and len(set(likelihood)) == len(rows) and max(likelihood) < 0
    assert rows[0]["questions"] == evaluated(house.workspace, "s")["questions"]
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in rows)
    page = (house.workspace.root / "report.html").read_text()
    assert "by step, stage sft." in page and "by step, stage more." in page and "teacher hacking" in page
    assert house.run("report") == []
