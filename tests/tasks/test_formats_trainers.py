"""Proves, where LLaMA-Factory or Axolotl is installed, that its own loader reads the export: every row arrives, every
message is rendered, and the loss is on the last answer alone, thinking part included.

Both pin other versions than this project, so that they are no dependency, not even of the tests; docs/export.md says
how to run this file beside them. What they document is checked without them in test_formats.py. Not covered: their
training loops.
"""

from __future__ import annotations

import json

import pytest
import yaml
from transformers import AutoTokenizer

from tests.tasks.tiny_student import make_student

TURNS = [
    {"role": "user", "content": "What is 90 + 1?"},
    {"role": "assistant", "content": "Ninety-one."},
    {"role": "user", "content": "Sure?"},
]
IGNORED = -100


@pytest.fixture
def house(make_house, tmp_path):
    """Right and wrong answers, one conversation of several turns; the tiny tokenizer lies in tmp_path/tiny."""
    make_student(tmp_path / "tiny")
    house = make_house(
        runner={"max_workers": 1},
        teachers=[{"name": "t", "engine": "replay", "path": "sums.jsonl", "samples": 2}],
        select={"trace": None},
        negatives={},
        export={"validation": 0.3, "formats": ["huggingface", "llama_factory", "axolotl"],
                "prompts": {"math": {"system": "Box it."}}},
    )  # fmt: skip
    asked = [({"question": f"What is {n} + 1?"}, n + 1) for n in range(12)] + [({"messages": TURNS}, 91)]
    house.write(
        "sums.jsonl",
        [
            one | {"ground_truth": str(right), "response": [
                f"<think>\nadd {right}\n</think>\n\\boxed{{{right}}}", "<think>\nguess\n</think>\n\\boxed{999}",
            ]}
            for one, right in asked
        ],
    )  # fmt: skip
    house.run("export")
    return house


def lines(house, folder, split):
    return [json.loads(line) for line in (house.root / "exports" / folder / f"{split}.jsonl").read_text().splitlines()]


def check(tokenizer, ids, labels, messages):
    """All messages are there, and what is learnt is the last answer (a template may add its end)."""
    text = tokenizer.decode(ids)
    assert all(one["content"] in text for one in messages)
    learnt = tokenizer.decode([label for label in labels if label != IGNORED])
    answer = messages[-1]["content"]
    assert learnt.startswith(answer) and len(learnt) <= len(answer) + len("<|im_end|>\n")


@pytest.mark.parametrize(("folder", "stage"), [("llama_factory", "sft"), ("llama_factory_pairs", "rm")])
def test_llama_factory_loads_both_splits(house, tmp_path, monkeypatch, folder, stage):
    monkeypatch.setenv("DISABLE_VERSION_CHECK", "1")
    data = pytest.importorskip("llamafactory.data")
    from llamafactory.hparams import DataArguments, ModelArguments
    from transformers import Seq2SeqTrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tiny")
    arguments = DataArguments(
        dataset="t", eval_dataset="t_validation", dataset_dir=str(house.root / "exports" / folder), template="chatml",
        cutoff_len=4096, mask_history=stage == "sft", overwrite_cache=True,
    )  # fmt: skip
    training = Seq2SeqTrainingArguments(output_dir=str(tmp_path / "out"), use_cpu=True, remove_unused_columns=False)
    template = data.get_template_and_fix_tokenizer(tokenizer, arguments)
    model = ModelArguments(model_name_or_path=str(tmp_path / "tiny"))
    found = data.get_dataset(template, model, arguments, training, stage=stage, tokenizer=tokenizer)
    for split, part in (("train", "train_dataset"), ("validation", "eval_dataset")):
        loaded = found[part] if not isinstance(found[part], dict) else next(iter(found[part].values()))
        records = lines(house, folder, split)
        assert len(loaded) == len(records) > 0
        for row, record in zip(loaded, records, strict=True):
            if stage == "sft":
                check(tokenizer, row["input_ids"], row["labels"], record["messages"])
                continue
            for side in ("chosen", "rejected"):
                messages = [*record["messages"], record[side]]
                check(tokenizer, row[f"{side}_input_ids"], row[f"{side}_labels"], messages)


def test_axolotl_tokenizes_by_the_configuration_beside_the_files(house, tmp_path):
    chat_template = pytest.importorskip("axolotl.prompt_strategies.chat_template")
    from axolotl.utils.dict import DictDefault

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tiny")
    config = yaml.safe_load((house.root / "exports" / "axolotl" / "axolotl.yml").read_text())
    for split, given in (("train", config["datasets"][0]), ("validation", config["test_datasets"][0])):
        setting = DictDefault(sequence_len=4096, train_on_inputs=False)
        strategy = chat_template.load(tokenizer, setting, ds_cfg=DictDefault(given))
        records = lines(house, "axolotl", split)
        assert len(records) > 0 and given["path"].endswith(f"{split}.jsonl")
        for record in records:
            row = strategy.tokenize_prompt(record)
            check(tokenizer, row["input_ids"], row["labels"], record["messages"])
