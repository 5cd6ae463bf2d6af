"""Proves that an export loads with `datasets`, that its card is right, that every row says where it comes from, and
that what nobody may pass on is refused before a file is written. The other layouts: test_formats.py.
"""

from __future__ import annotations

import json

import datasets
import pyarrow.parquet as pq
import pytest
import yaml

from flows.errors import RecipeError
from flows.recipe import check_recipe
from tasks.card import CardFacts, Origin, write_card
from tasks.export import EXAMPLE, export_folder, export_rows
from tasks.export_licenses import UnknownLicense, licensing
from tasks.export_order import in_curriculum_order


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
                "lic": "MIT" if n % 2 else "CC BY-SA 4.0",
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
    assert front["license"] == "cc-by-sa-4.0"
    assert front["configs"] == [
        {
            "config_name": "default",
            "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in ("train", "validation")],
        }
    ]
    assert "| sums | CC BY-SA 4.0 | 14 |" in text and "| sums | MIT | 14 |" in text
    assert "28 verified responses of 2 teachers to 12 questions" in text
    assert "Most restrictive licence: cc-by-sa-4.0. The licences together ask for: attribution, share-alike." in text
    assert "| ingest | record | 12 | 12 |  |" in text and "| select | response |" in text
    recipe = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert [one["name"] for one in recipe["teachers"]] == ["one", "two"] and recipe["sources"][0]["name"] == "sums"


def test_the_recipe_in_the_card_names_no_machine_and_no_key(house, tmp_path):
    house.recipe["teachers"][0]["path"] = str(house.base / "sums.jsonl")
    house.recipe["verify"] = {"judge": {"base_url": "http://10.1.2.3:8000/v1", "model": "m", "api_key_env": "MY_KEY"}}
    house.run("export")
    _, text = front_matter(house)
    assert "sums.jsonl" in text
    assert all(secret not in text for secret in (str(tmp_path), "10.1.2.3", "MY_KEY"))


def test_an_unknown_licence_is_refused_before_a_file_is_written_and_allowed_by_a_setting(house):
    house.recipe["sources"][0]["columns"] = {}
    house.recipe["sources"][0]["license"] = "mine | <b>"
    with pytest.raises(UnknownLicense, match=r"source sums: 'mine \| <b>'.*--allow-unknown-license"):
        house.run("export")
    assert not (house.root / "exports").exists()
    house.recipe["export"] |= {"allow_unknown_license": True}
    house.run("export")
    front, text = front_matter(house)
    assert front["license"] == "unknown" and r"| sums | mine \| &lt;b> | 28 |" in text
    del house.recipe["export"]["allow_unknown_license"]
    assert house.run("export") == []  # it was allowed, and the files would be the same


def test_a_source_without_a_licence_is_refused_and_so_is_a_teacher_under_unknown_terms(house):
    house.recipe["sources"][0]["columns"] = {}
    del house.recipe["sources"][0]["license"]
    with pytest.raises(UnknownLicense, match="source sums: none stated"):
        house.run("export")
    house.recipe["sources"][0]["license"] = "MIT"
    house.recipe["teachers"][0]["license"] = "ask our lawyers"
    with pytest.raises(UnknownLicense, match="teacher one: 'ask our lawyers'"):
        house.run("export")


def test_a_teachers_licence_counts_and_asks_nobody_again(house):
    house.run("export")
    house.recipe["teachers"][0]["license"] = "CC-BY-NC-4.0"
    assert {one.step for one in house.run("export")} == {"export"}
    front, text = front_matter(house)
    assert front["license"] == "other"  # non-commercial, and share-alike by some rows
    assert "| one | replay | CC-BY-NC-4.0 |" in text and "| two | replay | not stated |" in text


@pytest.mark.parametrize(
    ("licenses", "expected"),
    [
        (["Apache-2.0"], "apache-2.0"),
        (["MIT", "mit"], "mit"),
        (["MIT", "Apache-2.0"], "apache-2.0"),
        (["CC-BY-SA-4.0", "CC-BY-NC-4.0"], "other"),
        (["CC-BY-SA-4.0", "CC-BY-NC-SA-4.0"], "cc-by-nc-sa-4.0"),
        ([None], "unknown"),
        (["a: b\nc"], "unknown"),
        (["MIT", None], "unknown"),
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
    origin = Origin(licensing(facts.by["source"]))
    write_card(tmp_path / "README.md", facts, origin, {"train": 1, "validation": 0})
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


def order(house, split):
    files = sorted((export_folder(house.workspace) / "data").glob(f"{split}-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


@pytest.mark.parametrize("bits", [0, 2])
def test_rows_stand_in_the_order_of_the_curriculum_whatever_the_number_of_shards(house, monkeypatch, bits):
    monkeypatch.setattr("tasks.export_order.AT_ONCE", 3)
    house.run("export")
    before = {row["response_id"]: row for split in ("train", "validation") for row in order(house, split)}
    house.bits = bits
    house = house.copy(house.root.with_name("other"), bits=bits)
    house.recipe["select"] = {"curriculum": "easy_first"}
    house.recipe["export"]["formats"] = ["huggingface", "openai"]
    house.run("export")
    for split in ("train", "validation"):
        rows = order(house, split)
        keys = [(row["curriculum"], row["question_id"], row["response_id"]) for row in rows]
        assert keys == sorted(keys) and len({key[0] for key in keys}) > 1
        lines = (house.root / "exports" / "openai" / f"{split}.jsonl").read_text().splitlines()
        assert [json.loads(line)["messages"][-1]["content"] for line in lines] == [
            row["messages"][-1]["content"] for row in rows
        ]
        for row in rows:
            assert row | {"curriculum": None} == before.pop(row["response_id"])
    assert before == {}
    assert "in the order of the curriculum" in front_matter(house)[1]
    assert not list((house.root / "tmp").iterdir())


def test_without_a_curriculum_the_card_promises_no_order(house):
    house.run("export")
    assert "curriculum," not in front_matter(house)[1]


@pytest.mark.parametrize("prompts", [{"maths": {"system": "x"}}])
def test_prompts_of_a_category_that_is_none_are_refused(house, prompts):
    house.recipe["export"]["prompts"] = prompts
    with pytest.raises(RecipeError, match=r"export\.prompts\.maths: found 'maths', expected one of math, .*default"):
        check_recipe(house.recipe, house.base)


def test_a_new_export_takes_the_place_of_the_old_one(house, tmp_path):
    house.run("export")
    house.recipe["select"] = {"max_per_question": 1}
    house.run("export")
    assert sum(len(rows) for rows in load(house, tmp_path).values()) == 12
    assert sorted(path.name for path in (house.root / "exports").iterdir()) == ["huggingface"]
    assert not list((house.root / "tmp").glob("*.old"))


def test_many_small_files_are_one_data_set(house, tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.export_files.ROWS_PER_FILE", 5)
    house.run("export")
    names = sorted(path.name for path in (export_folder(house.workspace) / "data").iterdir())
    assert sum(len(rows) for rows in load(house, tmp_path).values()) == 28
    assert any(name.startswith("train-00001-of-0000") for name in names) and not any(
        name.endswith("tmp") for name in names
    )


def test_a_writer_that_fails_leaves_no_copy_of_the_rows_in_the_scratch_folder(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    rows = ({"curriculum": float(n), "question_id": f"q{n}", "response_id": f"r{n}"} for n in range(3))
    ordered = in_curriculum_order(rows, scratch, 100)
    assert next(ordered)["question_id"] == "q0" and scratch.exists()
    ordered.close()  # as when whoever takes the rows raises
    assert not scratch.exists()
