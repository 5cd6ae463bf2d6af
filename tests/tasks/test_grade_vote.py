"""Proves that questions without a reference are graded by the teachers' vote, on the whole road from file to export."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from tasks.export import export_folder


@pytest.fixture
def house(make_house):
    """Two questions without a reference: on the first the teachers agree, in other spellings; on the other they don't.

    Ten with a reference, where `good` is always right and `poor` never: a vote of `good` weighs more.
    """
    house = make_house(
        teachers=[
            {"name": name, "engine": "replay", "path": "answers.jsonl", "samples": 2, "columns": {"response": name}}
            for name in ("good", "poor")
        ],
        export={"validation": 0},
        runner={"max_workers": 1},
    )
    known = [{"question": f"What is {n} + 1?", "ground_truth": str(n + 1)} for n in range(10)]
    house.write("sums.jsonl", [*known, {"question": "How many halves?"}, {"question": "How many thirds?"}])
    house.write(
        "answers.jsonl",
        [
            *(
                {"question": row["question"], "good": [f"\\boxed{{{row['ground_truth']}}}"] * 2, "poor": ["0", "0"]}
                for row in known
            ),
            {
                "question": "How many halves?",
                "good": ["\\boxed{1/2}", "\\boxed{0.5}"],
                "poor": ["It is 3.", "\\boxed{4}"],
            },
            {
                "question": "How many thirds?",
                "good": ["\\boxed{1}", "\\boxed{2}"],
                "poor": ["\\boxed{3}", "\\boxed{4}"],
            },
        ],
    )
    return house


def graded(house):
    questions = {row["question_id"]: row["messages"][0]["content"] for row in house.rows("curate", "curated")}
    return {questions[row["question_id"]]: row for row in house.rows("grade", "grades")}


def test_a_question_without_a_reference_is_graded_selected_and_exported_by_the_vote(house):
    house.recipe["grade"] = {"vote_from": 0.6}
    house.run("export")
    agreed, split = graded(house)["How many halves?"], graded(house)["How many thirds?"]
    assert (agreed["basis"], agreed["majority_answer"], agreed["n"], agreed["passes"]) == ("vote", "0.5", 4, 2)
    assert agreed["vote_share"] == pytest.approx(2 * 0.95 / (2 * 0.95 + 2 * 0.05), abs=0.01)
    assert (split["basis"], split["n"], split["difficulty"]) == ("none", 0, "ungraded")
    chosen = [row for row in house.rows("select", "selection") if row["rule"] == "voted"]
    assert {(row["question_id"], row["teacher"]) for row in chosen} == {(agreed["question_id"], "good")}
    assert len(chosen) == 2
    assert "2 rows (`basis` is `vote`) have no reference" in (export_folder(house.workspace) / "README.md").read_text()
    (file,) = (export_folder(house.workspace) / "data").glob("train-*.parquet")
    exported = [row for row in pq.read_table(file).to_pylist() if row["rule"] == "voted"]
    assert {row["messages"][-1]["content"] for row in exported} == {"\\boxed{1/2}", "\\boxed{0.5}"}
    assert {row["ground_truth"] for row in exported} == {None}


def test_without_the_setting_it_stays_ungraded(house):
    house.run("select")
    assert (graded(house)["How many halves?"]["basis"], house.rules("select")["ungraded"]) == ("none", 2)
