"""The layouts that trainers read, each a folder `exports/<name>` of its own.

    examples   huggingface (also TRL's conversational layout), llama_factory, axolotl, openai, am_40m
    pairs      preference and kto (TRL's layouts), llama_factory_pairs

Built to what each trainer documents. Not covered: LLaMA-Factory, Axolotl and OpenAI's service themselves, which are no
part of this project's tests; test cases and constraints leave by am_40m alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

import yaml

from storage.fingerprint import combine
from storage.workspace import Workspace
from tasks.export_files import SPLITS, JsonLines, ParquetFiles
from tasks.export_rows import EXAMPLE, KTO, PREFERENCE, unpaired

FormatName = Literal["huggingface", "llama_factory", "axolotl", "openai", "am_40m"]
Row = dict[str, Any]


class Format:
    """One data set being written into a scratch folder until it is whole."""

    name = ""
    files = "{split}.jsonl"
    """where the rows of a split lie, as a pattern for the Hugging Face card"""
    load = ""
    """how a person loads it, for the card"""

    def __init__(self, workspace: Workspace, data_set: str) -> None:
        self.folder = workspace.scratch()
        self.target = workspace.local / "exports" / self.name
        self.data_set = data_set
        self.rows = dict.fromkeys(SPLITS, 0)
        self.left_out = 0
        """rows that this layout can't hold"""

    def add(self, split: str, row: Row) -> None:
        raise NotImplementedError

    def close(self) -> str:
        """Finish the files; the hash of their content."""
        raise NotImplementedError

    def splits(self) -> list[str]:
        """Those that a loader finds."""
        return [split for split in SPLITS if self.rows[split] or split == "train"]


class _Parquet(Format):
    files = "data/{split}-*.parquet"
    schema = EXAMPLE

    def __init__(self, workspace: Workspace, data_set: str) -> None:
        super().__init__(workspace, data_set)
        self._files = {split: ParquetFiles(self.folder / "data", split, self.schema) for split in SPLITS}

    def add(self, split: str, row: Row) -> None:
        self._files[split].add(row)
        self.rows[split] += 1

    def close(self) -> str:
        return combine([files.close() for files in self._files.values()])


class HuggingFace(_Parquet):
    name = "huggingface"
    load = 'datasets.load_dataset("exports/huggingface"); TRL\'s SFTTrainer takes it as it is'


class Preference(_Parquet):
    name = "preference"
    schema = PREFERENCE
    load = 'datasets.load_dataset("exports/preference"); TRL\'s DPOTrainer takes it as it is'


class Kto(_Parquet):
    name = "kto"
    schema = KTO
    load = 'datasets.load_dataset("exports/kto"); TRL\'s KTOTrainer takes it as it is'

    def add(self, split: str, row: Row) -> None:
        for one in unpaired(row):
            super().add(split, one)


class _Lines(Format):
    """One JSON Lines file a split."""

    def __init__(self, workspace: Workspace, data_set: str) -> None:
        super().__init__(workspace, data_set)
        self._files = JsonLines(self.folder)
        self._files.open("train.jsonl")

    def record(self, row: Row) -> Row | None:
        """The row in this layout, or None where the layout can't hold it."""
        raise NotImplementedError

    def add(self, split: str, row: Row) -> None:
        record = self.record(row)
        if record is None:
            self.left_out += 1
            return
        self._files.add(f"{split}.jsonl", record)
        self.rows[split] += 1

    def close(self) -> str:
        content = self._files.close()
        for name, text in self.side_files().items():
            (self.folder / name).write_text(text, encoding="utf-8")
        return content

    def side_files(self) -> dict[str, str]:
        return {}


class OpenAI(_Lines):
    """`{"messages": [{"role", "content"}]}`; answers have a weight, 0 for the earlier ones: the last alone is learnt.

    All have one, so that every file has the same fields.
    """

    name = "openai"
    load = "upload train.jsonl (and validation.jsonl) for fine-tuning; any trainer of OpenAI messages reads it"

    def record(self, row: Row) -> Row:
        *before, last = row["messages"]
        weighted = [one | {"weight": 0} if one["role"] == "assistant" else one for one in before]
        return {"messages": [*weighted, last | {"weight": 1}]}


class LlamaFactory(_Lines):
    """LLaMA-Factory's sharegpt format with OpenAI's tags, which it documents, and its dataset_info.json."""

    name = "llama_factory"
    load = ("dataset_dir: exports/llama_factory, dataset: NAME, eval_dataset: NAME_validation, mask_history: true, "
            "and a cutoff_len of at least the longest example: LLaMA-Factory cuts at it")  # fmt: skip

    def record(self, row: Row) -> Row | None:
        return {"messages": row["messages"]} if alternate(row["messages"]) else None

    def side_files(self) -> dict[str, str]:
        names = {split: f"{self.data_set}{'' if split == 'train' else '_validation'}" for split in self.splits()}
        entries = {name: {"file_name": f"{split}.jsonl"} | self.description() for split, name in names.items()}
        return {"dataset_info.json": json.dumps(entries, indent=2) + "\n"}

    def description(self) -> Row:
        return {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": _TAGS}


class LlamaFactoryPairs(LlamaFactory):
    name = "llama_factory_pairs"
    load = "dataset_dir: exports/llama_factory_pairs, dataset: NAME, stage: dpo, and a cutoff_len that cuts nothing"

    def record(self, row: Row) -> Row | None:
        if not alternate([*row["prompt"], row["chosen"][0]]):
            return None
        return {"messages": row["prompt"], "chosen": row["chosen"][0], "rejected": row["rejected"][0]}

    def description(self) -> Row:
        columns = {name: name for name in ("messages", "chosen", "rejected")}
        return {"formatting": "sharegpt", "ranking": True, "columns": columns, "tags": _TAGS}


_TAGS = {
    "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
    "system_tag": "system",
}  # fmt: skip


def alternate(messages: list[dict[str, str]]) -> bool:
    """Whether user and assistant take turns, behind a system message or none: LLaMA-Factory skips all others."""
    roles = [one["role"] for one in messages]
    roles = roles[1:] if roles[:1] == ["system"] else roles
    return bool(roles) and len(roles) % 2 == 0 and roles == ["user", "assistant"] * (len(roles) // 2)


class Axolotl(_Lines):
    """Axolotl's chat_template layout: the `train` of a message says whether it bears the loss."""

    name = "axolotl"
    load = "put axolotl.yml into your configuration, from the folder that it names; sequence_len must cut nothing"

    def record(self, row: Row) -> Row:
        last = len(row["messages"]) - 1
        return {"messages": [one | {"train": place == last} for place, one in enumerate(row["messages"])]}

    def side_files(self) -> dict[str, str]:
        described = {
            "ds_type": "json", "type": "chat_template", "chat_template": "tokenizer_default",
            "field_messages": "messages", "message_property_mappings": {"role": "role", "content": "content"},
            "roles_to_train": [], "message_field_training": "train", "train_on_eos": "turn",
        }  # fmt: skip
        config: Row = {"datasets": [{"path": "exports/axolotl/train.jsonl"} | described]}
        if self.rows["validation"]:
            config["test_datasets"] = [{"path": "exports/axolotl/validation.jsonl", "split": "train"} | described]
        head = "# Paths start from the workspace's folder. Set sequence_len to at least the longest example.\n"
        return {"axolotl.yml": head + yaml.safe_dump(config, sort_keys=False)}


class AM40M(Format):
    """AM-DeepSeek-Distilled-40M's records, in files by category, teacher and its number of passes, as published.

    tasks/layouts.py reads the question and the response back. An answer that is nothing but one pair of <answer> tags
    comes back without them. `pass_rate_<teacher>` is the mean verify_score, as on their card.
    """

    name = "am_40m"
    files = "{split}/*.jsonl"
    load = 'sources and replay teachers with layout: am_40m, path: "exports/am_40m/*/*.jsonl"'

    def __init__(self, workspace: Workspace, data_set: str) -> None:
        super().__init__(workspace, data_set)
        self._files = JsonLines(self.folder)

    def add(self, split: str, row: Row) -> None:
        grade = row["grades"].get(row["teacher"])
        passes = grade["passes"] if grade else 0
        self._files.add(f"{split}/{row['category']}_{row['teacher']}_{passes}pass.jsonl", am_record(row))
        self.rows[split] += 1

    def close(self) -> str:
        return self._files.close()


def am_record(row: Row) -> Row:
    """One record of AM-DeepSeek-Distilled-40M. What is absent is an empty text, as in the published files."""
    think, answer = row["think_content"], row["answer_content"] or ""
    rates = {f"pass_rate_{teacher}": grade["mean_score"] for teacher, grade in sorted(row["grades"].items())}
    return {
        "question": _question(row["question"]),
        "answer": answer if think is None else f"<think>\n{think}\n</think>\n\n{answer}",
        "question_source": row["question_source"],
        "answer_source": row["model_revision"],
        "category": row["category"],
        "ground_truth": row["ground_truth"] or "",
        "test_case": _tests(row),
        "instruction_constrain": _constraints(row["instruction_constraints"]),
        **rates,
        "verify_score": row["verify_score"],
        "ppl": None,
        "model_name": row["teacher"],
        "license": row["license"] or "",
    }


def _question(messages: list[dict[str, str]]) -> str:
    """A single question as its text; several messages, or a text that would be taken for some, as JSON."""
    text = messages[0]["content"]
    if len(messages) == 1 and messages[0]["role"] == "user" and not text.lstrip().startswith("[{"):
        return text
    return json.dumps(messages, ensure_ascii=False)


def _tests(row: Row) -> str:
    if not row["test_cases"]:
        return ""
    named = {"fn_name": row["entry_point"], "language": row["language"]}
    cases = [{name: value for name, value in one.items() if value is not None} for one in row["test_cases"]]
    return json.dumps({"test_cases": cases} | {name: value for name, value in named.items() if value},
                      ensure_ascii=False)  # fmt: skip


def _constraints(constraints: list[Row] | None) -> str:
    """IFEval's form, whose kwargs are objects; ours are JSON texts."""
    if not constraints:
        return ""
    kwargs = [json.loads(one["kwargs"]) if one["kwargs"] else {} for one in constraints]
    return json.dumps({"instruction_id_list": [one["id"] for one in constraints], "kwargs": kwargs}, ensure_ascii=False)


EXAMPLE_FORMATS: dict[str, Callable[[Workspace, str], Format]] = {
    "huggingface": HuggingFace, "llama_factory": LlamaFactory, "axolotl": Axolotl, "openai": OpenAI, "am_40m": AM40M,
}  # fmt: skip


PAIR_FOLDERS = (Preference.name, Kto.name, LlamaFactoryPairs.name)


def example_formats(names: tuple[str, ...], workspace: Workspace, data_set: str) -> list[Format]:
    return [EXAMPLE_FORMATS[name](workspace, data_set) for name in names]


def pair_formats(names: tuple[str, ...], workspace: Workspace, data_set: str) -> list[Format]:
    """TRL's two always, and LLaMA-Factory's where that is among the formats."""
    found: list[Format] = [Preference(workspace, data_set), Kto(workspace, data_set)]
    return [*found, LlamaFactoryPairs(workspace, data_set)] if "llama_factory" in names else found
