"""Proves the recipes `am_1_4m_replay` and `am_40m_replay` from the files to the grades, on records built to the schemas
that METHODS names: ground truth, tests, constraints, several teachers in one file, broken lines.

Not covered: the published files themselves, which are not at hand.
"""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from sandbox import EngineUnavailable, ImageMissing
from storage.database import open_views
from tasks.teachers.teacher import TeacherError
from tests.conftest import House

RECIPES = Path(__file__).parents[2] / "deploy" / "recipes"
MODELS = {"r1": "deepseek-r1", "r1-7b": "deepseek-r1-distill-qwen-7b", "r1-1-5b": "deepseek-r1-distill-qwen-1.5b"}


def published(name: str, tmp_path: Path) -> House:
    base = tmp_path / "recipe"
    (base / name.removesuffix("_replay")).mkdir(parents=True)
    recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    recipe = {key: value for key, value in recipe.items() if not key.startswith("x-")}
    return House(base, recipe, tmp_path / "workspace", bits=1)


def run(house: House) -> None:
    try:
        house.run("grade")
    except (EngineUnavailable, ImageMissing) as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


def text(question, **columns):
    row = dict.fromkeys(("ground_truth", "test_case", "instruction_constrain"), "")
    return row | {"question": question, "question_source": "made", "answer_source": "am", "ppl": 2.1} | columns


QUESTIONS = {
    "sum": text("What is 2 + 2?", category="math", ground_truth="4"),
    "double": text("Read a number, print its double.", category="code",
                   test_case=json.dumps({"inputs": ["2\n", "5\n"], "outputs": ["4\n", "10\n"]})),
    "comma": text("Name two colours without a comma.", category="instruction follow", instruction_constrain=json.dumps(
        {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]})),
    "hello": text("Hello!", category="other"),
}  # fmt: skip
DOUBLE = "```python\nprint(2 * int(input()))\n```"
ANSWERS = {
    "sum": ["\\boxed{4}", "\\boxed{5}", "\\boxed{4}", "\\boxed{4}"],
    "double": [DOUBLE, DOUBLE, DOUBLE.replace("2 *", "4 //"), DOUBLE],  # the third passes one of two tests or none
    "comma": ["red and blue", "red, blue", "red, green", "red"],
    "hello": ["Hi."],
}


def rows_40m():
    for name, model in MODELS.items():
        for key, answers in ANSWERS.items():
            for place, answer in enumerate(answers if name == "r1" else answers[:2]):
                yield QUESTIONS[key] | {
                    "answer": f"<think>{name} {key} {place}</think>{answer}", "model_name": model, "verify_score": 1.0,
                    "pass_rate_r1": 0.75, "pass_rate_7b": 0.5, "pass_rate_1.5b": None,
                }  # fmt: skip


@pytest.fixture
def am_40m(tmp_path) -> House:
    house = published("am_40m_replay", tmp_path)
    rows = list(rows_40m())
    house.write("am_40m/a.jsonl", rows[: len(rows) // 2])
    house.write("am_40m/b.jsonl", rows[len(rows) // 2 :])
    return house


def grades(house):
    found = {}
    views = open_views(house.workspace)
    for question, teachers in views.execute(
        "select messages[1].content, g.teachers from grades g join curated using (question_id)"
    ).fetchall():
        found[question] = {one["teacher"]: (one["n"], one["passes"], one["mean_score"]) for one in teachers}
    return found


def test_am_40m_is_graded_by_teacher(am_40m):
    run(am_40m)
    found = grades(am_40m)
    assert found[QUESTIONS["sum"]["question"]] == {"r1": (4, 3, 0.75), "r1-7b": (2, 1, 0.5), "r1-1-5b": (2, 1, 0.5)}
    assert found[QUESTIONS["comma"]["question"]]["r1"] == (4, 2, 0.5)
    code = found[QUESTIONS["double"]["question"]]
    assert code["r1"][:2] == (4, 3) and code["r1-7b"] == (2, 2, 1.0)
    assert found[QUESTIONS["hello"]["question"]]["r1"][0] == 0  # nothing judges it: unverifiable
    assert am_40m.rules("ingest") == {"same_question": 13 + 14 - 4}
    assert am_40m.rules("generate.r1") == {"not_in_replay": 3}
    thoughts = [row["think_content"] for row in am_40m.rows("generate.r1-7b", "responses") if not row["error_kind"]]
    assert sorted(thoughts) == [f"r1-7b {key} {n}" for key in sorted(ANSWERS) for n in range(min(2, len(ANSWERS[key])))]


def test_the_published_pass_rate_stands_beside_ours(am_40m):
    """The query of docs/replay.md."""
    am_40m.recipe["verify"] = {"route": {"code": []}}  # without the sandbox
    am_40m.run("grade")
    query = (RECIPES.parents[1] / "docs" / "replay.md").read_text().split("```sql\n")[1].split("```")[0]
    found = {row[0]: row[1:] for row in open_views(am_40m.workspace).execute(query).fetchall()}
    assert found["math"] == (1, 0.75, 0.75, 0.75)


def test_samples_are_numbered_by_file_and_line_whatever_the_number_of_shards(am_40m, tmp_path):
    other = am_40m.copy(tmp_path / "other", bits=3)
    for house in (am_40m, other):
        house.run("generate")
        rows = [row for row in house.rows("generate.r1", "responses") if not row["error_kind"]]
        numbered = [(row["think_content"], row["sample_index"]) for row in rows]
        assert sorted(numbered) == sorted(
            (f"r1 {key} {n}", n) for key, some in ANSWERS.items() for n in range(len(some))
        )
    assert am_40m.rows("generate.r1", "responses") == other.rows("generate.r1", "responses")


def test_broken_records_are_in_the_ledger_with_line_and_reason(am_40m):
    path = am_40m.base / "am_40m" / "c.jsonl"
    bad = [
        QUESTIONS["sum"] | {"answer": 5, "model_name": "deepseek-r1"},
        QUESTIONS["sum"] | {"answer": "x"},
        QUESTIONS["hello"] | {"question": "Who?", "category": "poetry", "answer": "x", "model_name": "deepseek-r1"},
        text("Make f.", category="code", test_case="soon", answer="x", model_name="deepseek-r1"),
        text("Dance.", category="instruction", instruction_constrain='[{"id": "no:such", "kwargs": {}}]',
             answer="x", model_name="deepseek-r1"),
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in bad) + "{broken\n")
    am_40m.run("generate")
    units = {
        row["unit_id"].rsplit(":", 1)[1]: row["rule"] for row in am_40m.ledger("ingest") if "c.jsonl" in row["unit_id"]
    }
    assert {line: units[line] for line in ("3", "4", "5", "6")} == {
        "3": "unknown_category", "4": "unreadable_tests", "5": "unknown_constraint", "6": "broken_json",
    }  # fmt: skip
    replayed = {
        row["unit_id"].rsplit(":", 1)[1]: row["rule"]
        for row in am_40m.ledger("generate.r1")
        if "c.jsonl" in row["unit_id"]
    }
    assert replayed == {
        "1": "missing_response", "2": "missing_column", "3": "question_not_asked", "4": "question_not_asked",
        "5": "question_not_asked", "6": "broken_json",
    }  # fmt: skip
    assert all(
        "detail" in json.loads(row["evidence"]) for row in am_40m.ledger("generate.r1") if "c.jsonl" in row["unit_id"]
    )


def test_a_model_that_is_not_there_is_an_error_that_names_those_that_are(am_40m):
    am_40m.recipe["teachers"][0]["where"] = {"model_name": "DeepSeek-R1"}
    with pytest.raises(TeacherError, match=r"no record has .*DeepSeek-R1.*model_name deepseek-r1 \(13 records\)"):
        am_40m.run("generate")


def test_another_model_is_read_again_and_costs_nothing(am_40m):
    am_40m.recipe["teachers"] = am_40m.recipe["teachers"][:1]
    am_40m.run("generate")
    am_40m.recipe["teachers"][0]["where"] = {"model_name": MODELS["r1-7b"]}
    am_40m.run("generate")
    rows = {row["think_content"] for row in am_40m.rows("generate.r1", "responses") if row["sample_index"] == 0}
    assert {one.split()[0] for one in rows if one} == {"r1-7b"}


def test_compressed_files_give_the_same_rows(am_40m, tmp_path):
    other = am_40m.copy(tmp_path / "other")
    am_40m.run("generate")
    folder = am_40m.base / "am_40m"
    zipped = folder / "a.jsonl.zst"
    with pa.output_stream(str(zipped), compression="zstd") as stream:
        stream.write((folder / "a.jsonl").read_bytes())
    with gzip.open(folder / "b.jsonl.gz", "wb") as file:
        file.write((folder / "b.jsonl").read_bytes())
    (folder / "a.jsonl").unlink()
    (folder / "b.jsonl").unlink()
    other.run("generate")
    for name in MODELS:
        assert am_40m.rows(f"generate.{name}", "responses") == other.rows(f"generate.{name}", "responses")


def test_am_1_4m_is_graded(tmp_path):
    house = published("am_1_4m_replay", tmp_path)

    def record(key, answer, info=None, **asked):
        empty = dict.fromkeys(("source", "reference_answer", "test_case", "think_content", "answer_content"))
        return {"messages": [
            {"role": "user", "content": QUESTIONS[key]["question"], "info": empty | {"source": "made"} | asked},
            {"role": "assistant", "content": answer, "info": empty | (info or {})},
        ]}  # fmt: skip

    house.write("am_1_4m/am_0.5M.jsonl", [
        record("sum", "<think>Hm.</think><answer>It is \\boxed{4}.</answer>", reference_answer="4"),
        record("double", "…", {"think_content": "Twice.", "answer_content": DOUBLE},
               test_case=QUESTIONS["double"]["test_case"]),
        record("hello", "<think>Polite.</think><answer>Hi.</answer>"),
        {"messages": [{"role": "user", "content": "Nobody answers?"}]},
        {"messages": "?"},
    ])  # fmt: skip
    run(house)
    found = grades(house)
    assert found[QUESTIONS["sum"]["question"]] == {"published": (1, 1, 1.0)}
    assert found[QUESTIONS["double"]["question"]] == {"published": (1, 1, 1.0)}
    assert found[QUESTIONS["hello"]["question"]]["published"][0] == 0
    rows = house.rows("generate.published", "responses")
    assert {row["think_content"] for row in rows if not row["error_kind"]} == {"Hm.", "Twice.", "Polite."}
    assert house.rules("ingest") == {"broken_json": 1}
    assert house.rules("generate.published") == {"broken_json": 1, "missing_response": 1, "not_in_replay": 1}
    questions = house.rows("ingest", "questions")
    assert {json.loads(row["metadata"])["info.source"] for row in questions} == {"made", None}
    assert {row["license"] for row in questions} == {"research only (a-m-team/AM-DeepSeek-R1-Distilled-1.4M)"}
