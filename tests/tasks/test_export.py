"""Proves that an export loads with `datasets`, that its card is right, and that every row says where it comes from."""

from __future__ import annotations

import datasets
import pytest
import yaml

from tasks.card import CardFacts, write_card
from tasks.export import EXAMPLE, export_folder, export_rows


def ask(number):
    return f"What is {number} + 1?"


@pytest.fixture
def house(make_house, make_source):
    house = make_house(
        make_source("sums", "sums.jsonl", columns={"license": "lic"}),
        bits=1,
        runner={"max_workers": 1},
        teachers=[
            {"name": name, "engine": "replay", "path": "sums.jsonl", "samples": 2, "columns": {"response": name}}
            for name in ("one", "two")
        ],
        export={"validation": 0.4},
    )
    house.write(
        "sums.jsonl",
        [
            {
                "question": ask(n),
                "ground_truth": str(n + 1),
                "lic": "MIT" if n % 2 else "cc-by | <b>4.0</b>",
                "one": [f"<think>\nadd {n}\n</think>\n\\boxed{{{n + 1}}}", f"\\boxed{{{n + 1}}}"],
                "two": f"\\boxed{{{n + n % 3}}}",
            }
            for n in range(12)
        ],
    )
    return house


def load(house, tmp_path):
    return datasets.load_dataset(str(export_folder(house.workspace)), cache_dir=str(tmp_path / "cache"))


def front_matter(house):
    text = (export_folder(house.workspace) / "README.md").read_text(encoding="utf-8")
    return yaml.safe_load(text.split("---\n")[1]), text


def test_the_folder_loads_with_both_splits_and_all_columns(house, tmp_path):
    house.run("export")
    data = load(house, tmp_path)
    assert set(data) == {"train", "validation"}
    selected = house.rows("select", "selection")
    assert {name: len(rows) for name, rows in data.items()} == export_rows(house.workspace)
    assert sum(len(rows) for rows in data.values()) == len(selected) == 28
    assert all(rows.column_names == EXAMPLE.names for rows in data.values())
    train, validation = (set(data[name]["question_id"]) for name in ("train", "validation"))
    assert train and validation and not train & validation
    questions = {row["question_id"]: row for row in house.rows("curate", "curated")}
    for example in [*data["train"], *data["validation"]]:
        question = questions[example["question_id"]]
        assert example["messages"][:-1] == question["messages"]
        assert example["license"] == question["license"] and example["ground_truth"] == question["ground_truth"]
        assert example["verify_score"] == 1 and 0 < example["pass_rate"] <= 1 and example["rule"] == "verified"
        assert example["teacher"] in ("one", "two") and example["model_revision"] == "replay"
    thoughts = [row["messages"][-1]["content"] for row in data["train"] if "<think>" in row["messages"][-1]["content"]]
    assert thoughts and all(text.startswith("<think>\nadd ") and "\n</think>\n\n\\boxed" in text for text in thoughts)


def test_the_card_is_yaml_in_front_and_a_table_behind(house):
    house.run("export")
    front, text = front_matter(house)
    assert front["license"] == "other"
    assert front["configs"] == [
        {
            "config_name": "default",
            "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in ("train", "validation")],
        }
    ]
    assert r"| sums | cc-by \| &lt;b>4.0&lt;/b> | 14 |" in text and "| sums | MIT | 14 |" in text
    assert "28 verified responses of 2 teachers to 12 questions" in text


@pytest.mark.parametrize(
    ("licenses", "expected"),
    [
        (["Apache-2.0"], "apache-2.0"),
        (["MIT", "mit"], "other"),
        ([None], "unknown"),
        (["a: b\nc"], "other"),
        (["MIT", None], "other"),
    ],
)
def test_the_licence_in_front_is_an_id(tmp_path, licenses, expected):
    facts = CardFacts("x")
    for license in licenses:
        facts.count(
            {
                "question_id": "q",
                "question_source": "s",
                "license": license,
                "teacher": "t",
                "model_revision": "r",
                "category": "math",
                "difficulty": "easy",
                "basis": "verifiers",
            }
        )
    write_card(tmp_path / "README.md", facts, {"train": 1, "validation": 0})
    assert yaml.safe_load((tmp_path / "README.md").read_text().split("---\n")[1])["license"] == expected


def test_thinking_and_prompts_follow_the_settings(house, tmp_path):
    house.recipe["export"] = {
        "validation": 0,
        "think": False,
        "prompts": {"math": {"system": "Add.", "user": "Q: {question}"}},
    }
    house.run("export")
    data = load(house, tmp_path)
    assert set(data) == {"train"} and len(data["train"]) == 28
    for row in data["train"]:
        system, user, answer = row["messages"]
        assert system == {"role": "system", "content": "Add."} and user["content"].startswith("Q: What is")
        assert "think" not in answer["content"]


def test_an_empty_selection_is_an_empty_data_set(house, tmp_path):
    house.recipe["select"] = {"pass_rate": [0.01, 0.02]}
    house.run("export")
    data = datasets.load_dataset(str(export_folder(house.workspace)), streaming=True)  # else `datasets` refuses
    assert set(data) == {"train"} and list(data["train"]) == [] and data["train"].column_names == EXAMPLE.names
    assert front_matter(house)[0]["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert export_rows(house.workspace) == {"train": 0, "validation": 0}


def test_a_new_export_takes_the_place_of_the_old_one(house, tmp_path):
    house.run("export")
    house.recipe["select"] = {"max_per_question": 1}
    house.run("export")
    assert sum(len(rows) for rows in load(house, tmp_path).values()) == 12
    assert sorted(path.name for path in (house.root / "exports").iterdir()) == ["huggingface"]
    assert not list((house.root / "tmp").glob("*.old"))


def test_many_small_files_are_one_data_set(house, tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.export.ROWS_PER_FILE", 5)
    house.run("export")
    names = sorted(path.name for path in (export_folder(house.workspace) / "data").iterdir())
    assert sum(len(rows) for rows in load(house, tmp_path).values()) == 28
    assert any(name.startswith("train-00001-of-0000") for name in names) and not any(
        name.endswith("tmp") for name in names
    )
