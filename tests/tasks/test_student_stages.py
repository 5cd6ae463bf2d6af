"""Proves how the stages of a student unfold into steps, what each is trained with, and what is trained again when.

Not covered: the trainings themselves (test_student*.py); the stages here are trained by a small real model where a
result is needed.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from accelerate.commands.config.config_args import load_config_from_file

from flows.errors import RecipeError
from flows.recipe import check_recipe
from tasks.student import SHIPPED, TrainSettings, launch_command
from tasks.student_stages import StudentSettings
from tasks.train import stage_results, student_folder, train_steps, trained, write_highest_cv
from tests.tasks.tiny_student import make_student, thought


def settings(**student):
    found = StudentSettings.model_validate(student)
    return [found.train_settings(stage) for stage in found.all_stages()]


def test_without_stages_there_is_one_with_the_students_settings():
    (only,) = settings(learning_rate=2e-5, epochs=2, max_length=512)
    assert (only.method, only.learning_rate, only.epochs, only.packing) == ("sft", 2e-5, 2, False)
    assert (only.scheduler, only.warmup_ratio, settings()[0].learning_rate) == ("cosine", 0.05, 8e-5)


def test_the_papers_numbers_are_the_defaults_of_the_stages():
    sft, anneal, redi, dpo = settings(stages=[{"kind": kind} for kind in ("sft", "anneal", "redi", "dpo")])
    assert (sft.learning_rate, sft.scheduler, sft.warmup_ratio, sft.packing) == (8e-5, "cosine", 0.05, True)
    assert (anneal.method, anneal.learning_rate, anneal.epochs, anneal.packing) == ("sft", 8e-6, 2, False)
    assert (redi.alpha, redi.learning_rate, redi.warmup_ratio, redi.scheduler, redi.epochs) == (
        0.8, 1e-6, 0.1, "linear", 1,
    )  # fmt: skip
    assert redi.batch_size * redi.gradient_accumulation == 32
    assert (dpo.method, dpo.beta) == ("dpo", 0.1)


def test_an_sft_stage_takes_what_it_does_not_say_from_the_student_the_others_do_not():
    sft, redi = settings(
        learning_rate=1e-4, packing=False, dtype="bfloat16", lora={}, max_length=99,
        stages=[{"kind": "sft", "epochs": 3}, {"kind": "redi", "max_length": 50}],
    )  # fmt: skip
    assert (sft.learning_rate, sft.epochs, sft.packing, sft.max_length) == (1e-4, 3, False, 99)
    assert (redi.learning_rate, redi.dtype, redi.max_length) == (1e-6, "bfloat16", 50)
    assert sft.lora == redi.lora and sft.lora.rank == 16


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ({"stages": [{"kind": "sft"}, {"kind": "sft"}]}, "two stages are called sft"),
        ({"stages": [{"kind": "sft", "name": "eval"}]}, "can't be called train or eval"),
        (
            {"stages": [{"kind": "rlhf"}]},
            "student.stages.0.kind: found 'rlhf', expected 'sft', 'anneal', 'redi', 'dpo'",
        ),
        ({"stages": [{"kind": "redi", "beta": 1}]}, "student.stages.0.beta: unknown key"),
        ({"stages": [{"kind": "redi"}]}, "redi and dpo are trained on pairs: set `negatives`"),
        ({"accelerate": "fsdp", "launcher": ["x"]}, "both launcher and accelerate"),
        ({"shuffle": False, "stages": [{"kind": "sft"}]}, "set packing to false in the stage sft"),
    ],
)
def test_a_wrong_recipe_is_answered_in_its_own_words(student, said, tmp_path):
    recipe = {"name": "t", "sources": [{"name": "s", "kind": "file", "path": "x", "category": "math"}]}
    with pytest.raises(RecipeError) as fault:
        check_recipe(recipe | {"student": student}, tmp_path)
    assert said in str(fault.value)


def test_each_stage_is_a_step_that_reads_the_one_before():
    found = StudentSettings.model_validate(
        {"name": "s", "stages": [{"kind": "sft"}, {"kind": "anneal"}, {"kind": "redi", "name": "last"}]}
    )
    steps = train_steps(found)
    assert {step.key: step.reads for step in steps} == {
        "train.s.sft": ("export",),
        "train.s.anneal": ("export", "train.s.sft"),
        "train.s.last": ("export.pairs", "train.s.anneal"),
        "train.s": ("train.s.sft", "train.s.anneal", "train.s.last"),
    }


def test_who_is_told_of_the_loss_is_no_reason_to_train_again():
    told, untold = (train_steps(StudentSettings.model_validate({"report_to": who}))[0] for who in ([], ["tensorboard"]))
    assert told.settings == untold.settings
    other = train_steps(StudentSettings.model_validate({"seed": 18}))[0]
    assert told.settings != other.settings


def test_settings_that_came_later_are_no_part_of_what_was_trained_without_them():
    """Else a new version would train every student again."""
    plain = train_steps(StudentSettings.model_validate({}))[0].settings
    assert not {"keep_checkpoints", "shuffle"} & plain.keys()
    kept = train_steps(StudentSettings.model_validate({"keep_checkpoints": 2, "shuffle": False}))[0].settings
    assert kept == plain | {"keep_checkpoints": 2, "shuffle": False}


def test_another_chat_template_in_the_same_file_trains_again(tmp_path):
    path = tmp_path / "t.jinja"
    student = StudentSettings.model_validate({"chat_template": str(path)})
    path.write_text("one")
    first = train_steps(student)[0].settings
    path.write_text("two")
    assert train_steps(student)[0].settings != first


def test_the_shipped_configurations_are_what_accelerate_reads():
    found = {file.stem: load_config_from_file(str(file)) for file in SHIPPED.glob("*.yaml")}
    kinds = {name: str(config.distributed_type.value) for name, config in found.items()}
    assert kinds == {"single": "NO", "fsdp": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}
    assert found["fsdp"].fsdp_config["fsdp_version"] == 2
    assert [found[name].deepspeed_config["zero_stage"] for name in ("zero2", "zero3")] == [2, 3]


def test_a_configuration_is_a_shipped_one_or_a_file_of_ones_own(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text((SHIPPED / "single.yaml").read_text())
    command = launch_command(TrainSettings("m", accelerate=str(own), processes=3))
    assert command[3:] == ("--config_file", str(own), "--num_processes", "3")
    with pytest.raises(ValueError, match="accelerate is 'fdsp', expected fsdp, single, zero2, zero3 or a"):
        launch_command(TrainSettings("m", accelerate="fdsp"))


def test_annealing_takes_the_best_response_of_the_questions_with_the_highest_cv(tmp_path):
    (tmp_path / "export" / "data").mkdir(parents=True)
    rows = [
        {"question_id": question, "response_id": response, "cv": cv, "verify_score": score}
        for question, response, cv, score in [
            ("q1", "a", 0.5, 0.8), ("q1", "b", 0.5, 0.9), ("q2", "c", 2.0, 1.0), ("q2", "d", 2.0, 1.0),
            ("q3", "e", None, 1.0), ("q5", "f", 1.0, 1.0), ("q4", "g", 1.0, 1.0),
        ]
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows)
    for part in range(2):
        place = tmp_path / "export" / "data" / f"train-{part:05d}-of-00002.parquet"
        pq.write_table(table.slice(part * 4, 4), place)
    pq.write_table(table.slice(0, 1), tmp_path / "export" / "data" / "validation-00000-of-00001.parquet")

    def chosen(number):
        target = tmp_path / str(number)
        write_highest_cv(tmp_path / "export", target, number)
        assert {file.name for file in target.iterdir()} == {"data"}
        assert (target / "data" / "validation-00000-of-00001.parquet").exists()
        return pq.read_table(target / "data" / "train-00000-of-00001.parquet")["response_id"].to_pylist()

    assert [chosen(number) for number in (1, 2, 4, 9)] == [
        ["c"], ["c", "g"], ["b", "c", "g", "f"], ["b", "c", "e", "g", "f"],
    ]  # fmt: skip


@pytest.fixture
def house(make_house, tmp_path):
    """A tiny student trained in three stages on a teacher's answers, one right and one wrong a question."""
    model = make_student(tmp_path / "tiny")
    house = make_house(
        teachers=[{"name": "t", "engine": "replay", "path": "answers.jsonl", "samples": 2}],
        runner={"max_workers": 1},
        negatives={},
        export={"validation": 0.1},
        student={
            "name": "s", "model": str(model), "max_length": 64, "batch_size": 8, "learning_rate": 1e-3,
            "stages": [
                {"kind": "sft", "packing": True, "batch_size": 2},
                {"kind": "anneal", "questions": 9},
                {"kind": "redi", "learning_rate": 1e-4, "gradient_accumulation": 1},
            ],
        },
    )  # fmt: skip
    rows = [
        {"question": f"What is {n} + 1?", "ground_truth": str(n + 1), "response": [thought(n), thought(n + 3)]}
        for n in range(10, 40)
    ]
    for name in ("sums.jsonl", "answers.jsonl"):
        house.write(name, rows)
    return house


def test_stages_are_trained_in_turn_and_only_what_a_change_reaches_again(house):
    house.run("train")
    workspace = house.workspace
    results = stage_results(workspace, "s")
    assert {name: result["method"] for name, result in results.items()} == {
        "sft": "sft", "anneal": "sft", "redi": "redi",
    }  # fmt: skip
    assert results["anneal"]["examples"] == 9 and results["redi"]["examples"] == results["sft"]["examples"] > 20
    assert results["anneal"]["loss_curve"][0][1] < results["sft"]["loss_curve"][0][1]  # it starts where sft ended
    student = trained(workspace, "s")
    assert student.method == "redi" and [stage["name"] for stage in student.stages] == ["sft", "anneal", "redi"]
    home = student_folder(workspace, "s")
    last, made = ((home / name / "model" / "model.safetensors").stat() for name in ("redi", "train"))
    assert last.st_ino == made.st_ino
    assert house.run("train") == []

    house.recipe["student"]["stages"][2]["alpha"] = 0.5
    assert {one.step for one in house.run("train")} == {"train.s.redi", "train.s"}
    assert stage_results(workspace, "s")["redi"]["train_loss"] != results["redi"]["train_loss"]
    del house.recipe["student"]["stages"][1:]
    del house.recipe["negatives"]
    assert {one.step for one in house.run("train")} == {"export", "train.s"}  # sft is there already
    assert trained(workspace, "s").method == "sft"
    assert json.loads((home / "train" / "train_result.json").read_text())["stages"][0]["name"] == "sft"


def test_no_pair_to_train_on_is_told(house):
    house.recipe["negatives"] = {"length_ratio": 1}
    house.recipe["student"]["stages"] = [{"kind": "redi"}]
    rows = [
        {"question": f"What is {n} + 1?", "ground_truth": str(n + 1), "response": [thought(n), "7, I guess"]}
        for n in range(10, 20)
    ]
    for name in ("sums.jsonl", "answers.jsonl"):
        house.write(name, rows)
    with pytest.raises(Exception, match=r"no preference pair to train on.*loosen `negatives.length_ratio`"):
        house.run("train")
    assert Path(house.workspace.root, "exports", "preference", "data").is_dir()
