"""Proves the chain sft → redi on the real SmolLM2: each stage goes on from the one before, REDI's loss is the formula's
on the model's own logits, and a training that was killed ends where an unbroken one does.

A few steps of a few examples. Not covered: what the training is worth (see docs/student.md), GPUs.
"""

from __future__ import annotations

import dataclasses

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from flows.recipe import check_recipe
from tasks.export import export_folder
from tasks.export_pairs import preference_folder
from tasks.student import train_student
from tasks.student_pairs import encode_pairs
from tasks.student_redi import PairCollator
from tasks.teachers import smollm2
from tasks.train import stage_results, student_folder, trained
from tests.tasks.test_student_redi import reference
from tests.tasks.tiny_student import train_and_kill


@pytest.fixture
def house(make_house):
    """Eight questions with a right and a wrong answer each; six steps of sft, then one of redi on all pairs at once."""
    house = make_house(
        teachers=[{"name": "t", "engine": "replay", "path": "answers.jsonl", "samples": 2}],
        runner={"max_workers": 1},
        negatives={},
        export={"validation": 0},
        student={
            "name": "s", "max_length": 128, "batch_size": 4, "epochs": 3, "save_steps": 2, "learning_rate": 2e-5,
            "stages": [
                {"kind": "sft", "packing": False},
                {"kind": "redi", "batch_size": 8, "gradient_accumulation": 1, "epochs": 2, "warmup_ratio": 0},
            ],
        },
    )  # fmt: skip
    rows = [
        {
            "question": f"What is {n} + 1?",
            "ground_truth": str(n + 1),
            "response": [f"<think>\n{n} and one\n</think>\nIt is {value}." for value in (n + 1, n + 4)],
        }
        for n in range(20, 28)
    ]
    for name in ("sums.jsonl", "answers.jsonl"):
        house.write(name, rows)
    return house


def test_sft_then_redi_and_resumed_after_sigkill(house, tmp_path):
    house.run("train")
    workspace = house.workspace
    results, home = stage_results(workspace, "s"), student_folder(workspace, "s")
    sft, redi = results["sft"], results["redi"]
    assert (sft["steps"], redi["steps"], sft["examples"], redi["examples"]) == (6, 2, 8, 8)
    assert sft["train_loss"] < sft["loss_curve"][0][1]
    assert redi["loss_curve"][0][1] == pytest.approx(formula(home / "sft" / "model", workspace), rel=1e-3)
    assert redi["loss_curve"][1][1] < redi["loss_curve"][0][1]
    assert trained(workspace, "s").method == "redi" and (home / "train" / "model" / "model.safetensors").exists()

    student = check_recipe(house.recipe, house.base).recipe.student
    settings = student.train_settings(student.stages[0])
    out, data, model = tmp_path / "killed", export_folder(workspace), smollm2.model_path()
    train_and_kill(dataclasses.asdict(settings), data, out, model, after=3)
    resumed = train_student(settings, data, out, model_path=str(model))
    assert resumed.resumed_from in (2, 4)
    assert [loss for _, loss in resumed.loss_curve] == pytest.approx([loss for _, loss in sft["loss_curve"]], rel=1e-4)


def formula(model_path, workspace):
    """REDI's loss of all pairs by the reference computation, on the logits of the model in the folder."""
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    rows = datasets.load_dataset(str(preference_folder(workspace)), split="train")
    encoded = encode_pairs(datasets.Dataset.from_list(rows.to_list()), tokenizer, 128, "drop")
    batch = PairCollator(tokenizer)(list(encoded.examples))
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return reference(logits.numpy().astype(np.float64), batch["labels"].numpy(), 0.8)[0]
