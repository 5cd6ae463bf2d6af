"""Proves that a trained student's held-out answers are traced under three models, and that the books balance where an
answer is empty. In one test the evaluation's tables are written here, in the other a tiny real student walks the whole
road from its training to its tracing."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch
from transformers import LlamaForCausalLM

from storage.manifest import Book, Inputs
from storage.schemas import CURATED, RESPONSES, VERDICTS
from storage.workspace import ALL, Workspace
from tasks.evaluate import EvaluateSettings, eval_folder
from tasks.provenance_student import trace_lines, trace_step, traced_counts
from tasks.scorers.settings import ScoreSettings
from tasks.step import Context, Work
from tasks.train import StudentSettings, student_folder
from tests.tasks.tiny_student import make_student, thought

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
    workspace.begin("curate", workspace.shards[0], Inputs("1", {}, {}), run_id="test").commit(
        "curated", pa.Table.from_pylist(curated, schema=CURATED), [], [Book("question", 3, 3)]
    )
    verdicts = [
        {"response_id": row["response_id"], "question_id": row["question_id"], "teacher": "after", "sample_index": 0,
         "verifier": "outcome", "verifier_version": "1", "verify_score": 0.0, "passed": False, "status": "wrong_answer",
         "evidence": "{}", "timing": "{}"}
        for row in responses
    ]  # fmt: skip
    for step, table, unit, schema, rows in (
        ("curate", "curated", "question", CURATED, curated),
        ("generate.after", "responses", "request", RESPONSES, responses),
        ("verify.after", "verdicts", "response", VERDICTS, verdicts),
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
    assert head.books == (Book("response", 3, 2, {"empty_response": 1}, 0),)
    (entry,) = workspace.ledger("trace.s", ALL).to_pylist()
    assert entry["unit_id"] == "b" * 8 and "empty_response" in entry["evidence"]
    assert inner.ledger("provenance.after", inner.shards[0]).num_rows == 1
    counts = traced_counts(workspace, "s")
    assert counts["responses"] == 2 and counts["boosted_count"] == 3  # teacher and base are one model: training differs
    for one in (sentence for row in rows for sentence in row["sentences"]):
        assert one["teacher_prob"] == one["student_prob"] != one["trained_prob"]


@pytest.fixture
def house(make_house, tmp_path):
    """A tiny student that is trained, asked what is held out and a benchmark, and traced."""
    tiny = str(make_student(tmp_path / "tiny"))
    scorers = [{"name": name, "engine": "transformers", "model": tiny, "device": "cpu"} for name in ("big", "small")]
    house = make_house(
        curate={"filters": None, "exact_duplicates": False, "near_duplicates": None, "heldout": 0.4},
        teachers=[{"name": "t", "engine": "replay", "path": "answers.jsonl", "samples": 1}],
        runner={"max_workers": 1},
        select={"trace": None},
        export={"validation": 0},
        score={"scorers": scorers, "provenance": {"teacher": "big", "student": "small", "trained": True}},
        student={"name": "s", "model": tiny, "max_length": 64, "batch_size": 4, "epochs": 40, "learning_rate": 3e-3},
        evaluate={
            "base": False, "sampling": {"temperature": 0, "max_tokens": 16},
            "benchmarks": [{"name": "exam", "kind": "file", "path": "exam.jsonl", "category": "math"}],
        },
    )  # fmt: skip
    rows = [
        {"question": f"What is {n} + 1?", "ground_truth": str(n + 1), "response": thought(n)} for n in range(10, 24)
    ]
    for name in ("sums.jsonl", "answers.jsonl"):
        house.write(name, rows)
    house.write("exam.jsonl", [{"question": "What is 90 + 1?", "ground_truth": "91"}])
    return house


def test_from_training_to_tracing_and_what_a_student_that_writes_nothing_leaves(house):
    """The benchmark's answer is not traced, nor those of earlier settings. Answers without a word, such as those of a
    student that is hardly trained and writes marks of its template alone (here they are stopped before their first
    character), are dropped as that, and a line says what to do."""
    house.run("evaluate")
    workspace = house.workspace
    heldout = {row["question_id"] for row in house.rows("curate", "curated") if row["split"] == "heldout"}
    [book] = workspace.head("trace.s", ALL).books
    assert (book.units_in, book.dropped.get("not_scorable", 0)) == (len(heldout), 0) and len(heldout) > 3
    assert book.units_out >= len(heldout) // 2 and traced_counts(workspace, "s")["boosted_count"] > 0
    inner = Workspace.open(eval_folder(workspace, "s"))
    assert {row["question_id"] for row in inner.read("provenance.after", "0", "provenance").to_pylist()} <= heldout
    assert f"of {len(heldout)} held-out answers" in trace_lines(workspace, "s")[0]

    house.recipe["evaluate"]["sampling"]["stop"] = ["<", "1", "2"]
    assert {one.step for one in house.run("evaluate")} == {"evaluate.s", "trace.s"}
    [book] = workspace.head("trace.s", ALL).books
    assert book == Book("response", len(heldout), 0, {"empty_response": len(heldout)})
    assert inner.read("generate.after", "0", "responses").num_rows > len(heldout) + 1  # the earlier ones are there
    empty = inner.read("verify.after", "0", "verdicts", ["status"]).column("status").to_pylist()
    assert set(empty) <= {"no_answer", "wrong_format", "wrong_answer"}
    assert "the trained student wrote nothing but marks of its template" in trace_lines(workspace, "s")[1]
