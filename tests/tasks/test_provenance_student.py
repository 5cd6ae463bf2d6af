"""Proves that a trained student's held-out answers are traced under three models, and that the books balance where an
answer is empty. The evaluation's tables are written here. Not covered: the road from training to the evaluation."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch
from transformers import LlamaForCausalLM

from storage.manifest import Book, Inputs
from storage.schemas import CURATED, RESPONSES
from storage.workspace import ALL, Workspace
from tasks.evaluate import EvaluateSettings, eval_folder
from tasks.provenance_student import trace_step, traced_counts
from tasks.scorers.settings import ScoreSettings
from tasks.step import Context, Work
from tasks.train import StudentSettings, student_folder
from tests.tasks.tiny_student import make_student

ANSWERS = {"a": "One and one. It is 2.", "b": "", "c": "It is 4."}


@pytest.fixture
def place(tmp_path, workspace):
    """A workspace with an evaluation of three answers, one of them empty; the trained student is another model."""
    tiny = make_student(tmp_path / "tiny")
    weights = make_student(student_folder(workspace, "s") / "train" / "model")
    net = LlamaForCausalLM.from_pretrained(weights)
    with torch.no_grad():
        net.get_output_embeddings().weight *= 50
    net.save_pretrained(weights)
    inner = Workspace.create(eval_folder(workspace, "s"), bits=0)
    curated = [
        {"question_id": key * 32, "messages": [{"role": "user", "content": f"{key}?"}], "category": "math",
         "question_source": "s", "source_id": key, "metadata": "{}", "split": "heldout"}
        for key in ANSWERS
    ]  # fmt: skip
    responses = [
        {"response_id": key * 8, "question_id": key * 32, "teacher": "after", "model_revision": "r", "round": 0,
         "sample_index": 0, "answer_content": text, "sampling": "{}"}
        for key, text in ANSWERS.items()
    ]  # fmt: skip
    for step, table, unit, schema, rows in (
        ("curate", "curated", "question", CURATED, curated),
        ("generate.after", "responses", "request", RESPONSES, responses),
    ):
        commit = inner.begin(step, "0" if "0" in inner.shards else inner.shards[0], Inputs("1", {}, {}), run_id="test")
        commit.commit(table, pa.Table.from_pylist(rows, schema=schema), [], [Book(unit, 3, 3)])
    return workspace, inner, str(tiny)


def test_held_out_answers_are_traced_under_three_models(place):
    workspace, inner, tiny = place
    scorers = [{"name": name, "engine": "transformers", "model": tiny, "device": "cpu"} for name in ("big", "small")]
    provenance = {"teacher": "big", "student": "small", "alpha": 0.0, "trained": True}
    score = ScoreSettings.model_validate({"scorers": scorers, "provenance": provenance})
    step = trace_step(score, StudentSettings.model_validate({"name": "s", "model": tiny}), EvaluateSettings())
    assert step.reads == ("train.s", "evaluate.s") and traced_counts(workspace, "s") is None
    step.run(Context(workspace, "test"), step, [Work(ALL, Inputs(step.version, step.settings, {}), "test")])
    rows = [one for shard in inner.shards for one in inner.read("provenance.after", shard, "provenance").to_pylist()]
    assert {row["response_id"]: row["sentence_count"] for row in rows} == {"a" * 8: 2, "c" * 8: 1}
    head = workspace.head("trace.s", ALL)
    assert head.books == (Book("response", 3, 2, {"not_scorable": 1}, 0),)
    (entry,) = workspace.ledger("trace.s", ALL).to_pylist()
    assert entry["unit_id"] == "b" * 8 and "empty_response" in entry["evidence"]
    assert inner.ledger("provenance.after", inner.shards[0]).num_rows == 1
    counts = traced_counts(workspace, "s")
    assert counts["responses"] == 2 and counts["boosted_count"] == 3  # teacher and base are one model: training differs
    for one in (sentence for row in rows for sentence in row["sentences"]):
        assert one["teacher_prob"] == one["student_prob"] != one["trained_prob"]
