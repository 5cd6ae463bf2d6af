"""Proves that each layout is what its trainer reads: `datasets` loads all of them, TRL takes its own, the records and
side files of LLaMA-Factory, Axolotl and OpenAI fit what these document (their programs are not installed here); and
that an AM-DeepSeek-Distilled export read back by the layout gives the same questions and responses.
"""

from __future__ import annotations

import json

import datasets
import pytest
import yaml
from transformers import AutoTokenizer
from trl.data_utils import apply_chat_template, is_conversational

from tasks.formats import alternate, am_record
from tasks.layouts import as_question, as_response
from tasks.question import BadRecord
from tests.tasks.tiny_student import make_student

ALL = ("huggingface", "llama_factory", "axolotl", "openai", "am_40m")
TURNS = [
    {"role": "user", "content": "What is 90 + 1?"},
    {"role": "assistant", "content": "91."},
    {"role": "user", "content": "Sure?"},
]


@pytest.fixture
def house(make_house):
    """Single questions of two teachers, one of several turns, one that begins like JSON; right and wrong answers."""
    house = make_house(
        bits=1,
        runner={"max_workers": 1},
        teachers=[
            {"name": name, "engine": "replay", "path": "sums.jsonl", "samples": 2, "columns": {"response": name}}
            for name in ("one", "two")
        ],
        select={"trace": None},
        export={"validation": 0.3, "formats": list(ALL), "prompts": {"math": {"system": "Box it."}}},
    )
    asked = [{"question": f"What is {n} + 1?"} for n in range(12)]
    asked += [{"messages": TURNS}, {"question": '[{"role": "user", "content": "what is this?"}]\n\nSay 14.'}]
    house.write(
        "sums.jsonl",
        [
            one
            | {
                "ground_truth": str(n + 1),
                "one": [f"<think>\nadd {n}\n</think>\n\\boxed{{{n + 1}}}", f"Then\u2028\\boxed{{{n + 1}}}"],
                "two": [f"<think>\nguess\n</think>\n\\boxed{{{n + n % 2}}}", "\\boxed{999}"],
            }
            for n, one in enumerate(asked)
        ],
    )
    return house


def folder(house, name):
    return house.root / "exports" / name


def lines(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def loaded(house, name, tmp_path):
    """Every row by split, as `datasets` loads the folder."""
    return datasets.load_dataset(str(folder(house, name)), cache_dir=str(tmp_path / "cache"))


def test_every_format_holds_the_same_conversations_and_loads_by_its_card(house, tmp_path):
    house.run("export")
    assert sorted(path.name for path in (house.root / "exports").iterdir()) == sorted(ALL)
    truth = {split: [row["messages"] for row in rows] for split, rows in loaded(house, "huggingface", tmp_path).items()}
    assert set(truth) == {"train", "validation"} and sum(map(len, truth.values())) == len(
        house.rows("select", "selection")
    )
    for name in ("llama_factory", "axolotl", "openai"):
        for split, rows in loaded(house, name, tmp_path).items():
            found = [[{key: m[key] for key in ("role", "content")} for m in row["messages"]] for row in rows]
            assert found == truth[split], name
    published = loaded(house, "am_40m", tmp_path)
    assert {split: len(rows) for split, rows in published.items()} == {split: len(r) for split, r in truth.items()}


def test_trl_takes_the_examples_as_a_conversation(house, tmp_path):
    house.run("export")
    tokenizer = AutoTokenizer.from_pretrained(make_student(tmp_path / "student"))
    for row in loaded(house, "huggingface", tmp_path)["train"]:
        example = {"messages": row["messages"]}
        assert is_conversational(example)
        assert row["messages"][-1]["content"] in apply_chat_template(example, tokenizer)["text"]


def test_openai_knows_three_roles_and_learns_the_last_answer_alone(house):
    house.run("export")
    rows = [row for split in ("train", "validation") for row in lines(folder(house, "openai") / f"{split}.jsonl")]
    for row in rows:
        assert set(row) == {"messages"} and row["messages"][-1]["role"] == "assistant"
        for message in row["messages"]:
            assert set(message) - {"weight"} == {"role", "content"} and isinstance(message["content"], str)
            assert message["role"] in ("system", "user", "assistant")
        weights = [message.get("weight", 1) for message in row["messages"] if message["role"] == "assistant"]
        assert weights == [0] * (len(weights) - 1) + [1]
    assert any(len(row["messages"]) == 5 for row in rows)


def test_llama_factory_finds_both_splits_by_dataset_info(house):
    house.run("export")
    info = json.loads((folder(house, "llama_factory") / "dataset_info.json").read_text())
    assert set(info) == {"t", "t_validation"}
    for entry in info.values():  # the OpenAI format of its data/README.md
        assert entry["formatting"] == "sharegpt" and entry["columns"] == {"messages": "messages"}
        tags = entry["tags"]
        for row in lines(folder(house, "llama_factory") / entry["file_name"]):
            messages = row[entry["columns"]["messages"]]
            roles = [message[tags["role_tag"]] for message in messages]
            assert roles[0] == tags["system_tag"]
            assert roles[1:] == [tags["user_tag"], tags["assistant_tag"]] * (len(roles[1:]) // 2)
            assert all(isinstance(message[tags["content_tag"]], str) for message in messages)


@pytest.mark.parametrize(
    ("roles", "fits"),
    [
        ("sua", True),
        ("ua", True),
        ("uaua", True),
        ("uua", False),
        ("u", False),
        ("sa", False),
        ("", False),
        ("usa", False),
    ],
)
def test_llama_factory_would_skip_what_does_not_alternate(roles, fits):
    names = {"s": "system", "u": "user", "a": "assistant"}
    assert alternate([{"role": names[one], "content": "x"} for one in roles]) == fits


def test_what_a_format_cannot_hold_is_counted_and_the_card_says_so(house):
    twice = [{"role": "user", "content": "What is 77 + 1?"}, {"role": "user", "content": "Box it."}]
    rows = lines(house.base / "sums.jsonl")
    house.write(
        "sums.jsonl", [*rows, {"messages": twice, "ground_truth": "78", "one": "\\boxed{78}", "two": "\\boxed{78}"}]
    )
    house.run("export")
    assert house.workspace.head("export", "all").extra["left_out"] == {"llama_factory": 2}
    assert "2 rows can't be held by this layout" in (folder(house, "llama_factory") / "README.md").read_text()


AXOLOTL = {  # of SFTDataset in axolotl's schemas: the fields used here
    "path": str, "split": str, "type": str, "ds_type": str, "chat_template": str, "field_messages": str,
    "message_property_mappings": dict, "roles_to_train": list, "message_field_training": str, "train_on_eos": str,
}  # fmt: skip


def test_axolotls_snippet_has_documented_fields_and_trains_the_last_message(house):
    house.run("export")
    config = yaml.safe_load((folder(house, "axolotl") / "axolotl.yml").read_text())
    assert set(config) == {"datasets", "test_datasets"}
    for entry in (config["datasets"][0], config["test_datasets"][0]):
        assert all(isinstance(value, AXOLOTL[name]) for name, value in entry.items())
        assert entry["type"] == "chat_template" and entry["roles_to_train"] == []
        for row in lines(house.root / entry["path"]):
            trained = [message[entry["message_field_training"]] for message in row[entry["field_messages"]]]
            assert trained == [False] * (len(trained) - 1) + [True]


def test_an_am_export_read_back_gives_the_same_questions_and_responses(house):
    house.run("export")
    questions = {row["question_id"]: row for row in house.rows("curate", "curated")}
    responses = {
        row["response_id"]: row for name in ("one", "two") for row in house.rows(f"generate.{name}", "responses")
    }
    expected = []
    for row in house.rows("select", "selection"):
        question, response = questions[row["question_id"]], responses[row["response_id"]]
        expected.append((question["messages"], question["ground_truth"], row["teacher"], response["think_content"],
                         response["answer_content"]))  # fmt: skip
    found = []
    for path in folder(house, "am_40m").glob("*/*.jsonl"):
        for record in lines(path):
            question, response = as_question("am_40m", record), as_response("am_40m", record)
            assert question["messages"] == response["messages"] and question["category"] == "math"
            found.append((question["messages"], question["ground_truth"], record["model_name"],
                          response["think_content"], response["answer_content"]))  # fmt: skip
            assert (
                path.name
                == f"math_{record['model_name']}_{2 * record['pass_rate_' + record['model_name']]:.0f}pass.jsonl"
            )
    assert sorted(found, key=repr) == sorted(expected, key=repr) and len(found) > 20


def test_an_am_export_is_a_source_and_a_teacher_again(house, make_house, tmp_path):
    house.run("export")
    path = str(folder(house, "am_40m") / "*" / "*.jsonl")
    again = make_house(
        {"name": "am", "kind": "file", "path": path, "layout": "am_40m"},
        teachers=[{"name": "one", "engine": "replay", "path": path, "layout": "am_40m", "where": {"model_name": "one"},
                   "samples": 2}],
    ).copy(tmp_path / "again")  # fmt: skip
    again.run("generate")
    exported = {row["question_id"] for row in house.rows("select", "selection")}
    assert {row["question_id"] for row in again.rows("ingest", "questions")} == exported
    asked = [row for row in again.rows("generate.one", "responses") if row["error_kind"] is None]
    assert len(asked) == sum(row["teacher"] == "one" for row in house.rows("select", "selection"))


def am_row(**more):
    return {
        "question": TURNS[:1], "think_content": None, "answer_content": "x", "question_source": "s", "license": "MIT",
        "model_revision": "r", "category": "code", "ground_truth": None, "test_cases": None, "entry_point": None,
        "language": None, "instruction_constraints": None, "grades": {}, "teacher": "t", "verify_score": 1.0,
    } | more  # fmt: skip


def test_tests_and_constraints_survive_the_am_layout():
    case = {"kind": "call", "input": "[1]", "output": "2", "code": None}
    constraint = {"id": "length_constraints:number_words", "kwargs": '{"num_words": 5, "relation": "at least"}'}
    record = am_record(am_row(test_cases=[case], entry_point="f", language="python",
                              instruction_constraints=[constraint]))  # fmt: skip
    question = as_question("am_40m", json.loads(json.dumps(record)))
    assert question["test_cases"] == [{"kind": "call", "input": "[1]", "output": "2"}]
    assert (question["entry_point"], question["language"]) == ("f", "python")
    assert question["instruction_constraints"] == [
        {"id": "length_constraints:number_words", "kwargs": {"num_words": 5, "relation": "at least"}}
    ]
    with pytest.raises(BadRecord):  # it is the layout that reads, not luck
        as_question("am_40m", record | {"test_case": "{}x"})


def test_a_format_that_is_no_longer_asked_for_does_not_stay_behind(house):
    house.run("export")
    house.recipe["export"] |= {"formats": ["huggingface", "openai"]}
    house.run("export")
    assert sorted(path.name for path in (house.root / "exports").iterdir()) == ["huggingface", "openai"]


def test_any_number_of_shards_gives_the_same_bytes(house, tmp_path):
    house.run("export")
    other = house.copy(tmp_path / "other", bits=3)
    other.run("export")
    for path in (house.root / "exports").rglob("*"):
        if path.is_file() and path.name != "README.md":
            assert path.read_bytes() == (other.root / path.relative_to(house.root)).read_bytes(), path
    assert house.workspace.head("export", "all").content == other.workspace.head("export", "all").content


def test_an_export_that_breaks_off_leaves_the_old_folders_whole(house, monkeypatch):
    house.run("export")
    before = {path: path.read_bytes() for path in (house.root / "exports").rglob("*") if path.is_file()}
    house.recipe["export"] |= {"think": False}

    def broken(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("tasks.export.write_card", broken)
    with pytest.raises(OSError, match="disk full"):
        house.run("export")
    assert {path: path.read_bytes() for path in (house.root / "exports").rglob("*") if path.is_file()} == before


def test_pairs_are_trls_and_llama_factorys(house, tmp_path):
    house.recipe["negatives"] = {"length_ratio": None, "teacher": "any"}
    house.run("export")
    tokenizer = AutoTokenizer.from_pretrained(make_student(tmp_path / "student"))
    pairs = loaded(house, "preference", tmp_path)
    for row in pairs["train"]:
        text = apply_chat_template({name: row[name] for name in ("prompt", "chosen", "rejected")}, tokenizer)
        assert text["chosen"].startswith(row["chosen"][0]["content"]) and text["rejected"] != text["chosen"]
    info = json.loads((folder(house, "llama_factory_pairs") / "dataset_info.json").read_text())["t"]
    assert info["ranking"] is True and info["formatting"] == "sharegpt"
    rows = lines(folder(house, "llama_factory_pairs") / info["file_name"])
    assert len(rows) == len(pairs["train"]) > 0
    for row, pair in zip(rows, pairs["train"], strict=True):
        assert row[info["columns"]["messages"]] == pair["prompt"] and len(row["messages"]) % 2 == 0  # system, user
        assert [row[side] for side in ("chosen", "rejected")] == [pair["chosen"][0], pair["rejected"][0]]
