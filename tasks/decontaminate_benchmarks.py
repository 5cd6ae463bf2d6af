"""Benchmarks: named sets of questions with their answers, from files or the hub, the field's usual ones by name.

A benchmark's version is the content hash of its files, or its revision on the hub; both are part of the screen's
fingerprint. An item that has no question is an error: nothing would ever match it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import model_validator

from storage.fingerprint import hash_text
from tasks.decontaminate_code import CodeItem, code_item, prose
from tasks.errors import BadSetting, UnreadableSource
from tasks.question import BadRecord, lookup
from tasks.settings import Settings
from tasks.sources import FileSource, HuggingFaceSource, Record, hash_source_files, read_source

Column = str | tuple[str, ...]
LONGEST_TESTS = 20_000
ON_THE_HUB = ("hub", "config", "split", "revision", "files")


class Benchmark(Settings):
    """A benchmark from a file (`path`) or the hub (`hub`); a plain name stands for one of the field's usual sets."""

    name: str
    path: str | tuple[str, ...] | None = None
    """A file or glob, relative to the recipe."""
    hub: str | None = None
    """A data set on the hub, or its folder on disk (relative to the recipe)."""
    config: str | None = None
    split: str = "test"
    revision: str | None = None
    """Commit or tag on the hub; without one the benchmark may change under you."""
    files: tuple[str, ...] = ()
    """Patterns of the files to read from the hub, where the set has a loading script, which isn't run."""
    question: Column = "question"
    """The column that holds the question; of several the first that is there. `a.b` reads key b of the object in a."""
    answer: Column | None = None
    """Its reference answer; `####` and `\\\\boxed{}` are looked into."""
    entry_point: str | None = None
    """The name of the function that is asked for."""
    solution: Column | None = None
    """Reference code."""
    tests: Column | None = None
    """Tests or examples: their values identify a problem in any language."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        """`aime24` is the field's AIME 2024; `{name: aime24, path: mine.jsonl}` is a file laid out like it."""
        if isinstance(value, str):
            if value not in KNOWN:
                raise ValueError(f"no benchmark {value!r} is known; give {{name, path, question}}, or one of "
                                 f"{', '.join(sorted(KNOWN))}")  # fmt: skip
            return KNOWN[value] | {"name": value}
        if isinstance(value, dict) and isinstance(value.get("name"), str) and value["name"] in KNOWN:
            known = dict(KNOWN[value["name"]])
            if value.get("path") is not None:
                known = {key: part for key, part in known.items() if key not in ON_THE_HUB}
            if "question" in value:  # laid out in another way: nothing of the usual layout holds
                known = {key: part for key, part in known.items() if key in ON_THE_HUB}
            return known | value
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Benchmark:
        if (self.path is None) == (self.hub is None):
            raise ValueError(f"benchmark {self.name}: give either `path` (files) or `hub` (a data set), or one of the "
                             f"known names: {', '.join(sorted(KNOWN))}")  # fmt: skip
        return self


def _hub(path: str, question: Column, answer: Column | None = None, **more: Any) -> dict[str, Any]:
    return {"hub": path, "question": question, "answer": answer} | more


_CODE = {"entry_point": "entry_point", "solution": "canonical_solution"}
_GPQA = {"question": ("Question", "question"), "answer": ("Correct Answer", "answer"), "split": "train"}
KNOWN: dict[str, dict[str, Any]] = {
    "aime24": _hub("Maxwell-Jia/AIME_2024", ("Problem", "problem"), ("Answer", "answer"), split="train"),
    "aime25": _hub("math-ai/aime25", "problem", "answer"),
    "amc23": _hub("math-ai/amc23", ("question", "problem"), "answer"),
    "math500": _hub("HuggingFaceH4/MATH-500", "problem", ("answer", "solution")),
    "math": _hub("EleutherAI/hendrycks_math", "problem", ("answer", "solution"), files=("*/test-*.parquet",)),
    "gsm8k": _hub("openai/gsm8k", "question", "answer", config="main"),
    "olympiadbench": _hub("Hothan/OlympiadBench", "question", "final_answer", config="OE_TO_maths_en_COMP",
                          split="train"),
    "minerva_math": _hub("math-ai/minervamath", ("question", "problem"), ("answer", "solution")),
    "gpqa": {"hub": "Idavidrein/gpqa", "config": "gpqa_main"} | _GPQA,
    "gpqa_diamond": {"hub": "Idavidrein/gpqa", "config": "gpqa_diamond"} | _GPQA,
    "mmlu": _hub("cais/mmlu", "question", "answer", config="all"),
    "mmlu_pro": _hub("TIGER-Lab/MMLU-Pro", "question", "answer"),
    "arc_challenge": _hub("allenai/ai2_arc", "question", "answerKey", config="ARC-Challenge"),
    "humaneval": _hub("openai/openai_humaneval", "prompt", tests="test", **_CODE),
    "mbpp": _hub("google-research-datasets/mbpp", ("text", "prompt"), config="full", solution="code",
                 tests="test_list"),
    "livecodebench": _hub("livecodebench/code_generation_lite", "question_content",
                          entry_point="metadata.func_name", tests="public_test_cases", files=("test*.jsonl",)),
    "bigcodebench": _hub("bigcode/bigcodebench", ("instruct_prompt", "complete_prompt"), split="v0.1.4", **_CODE),
    "ifeval": _hub("google/IFEval", "prompt", split="train"),
    "simpleqa": _hub("basicv8vc/SimpleQA", "problem", "answer"),
    "hle": _hub("cais/hle", "question", "answer"),
}  # fmt: skip
"""The sets that the field reports on: hub path, split and columns. The hub itself could not be reached when this was
written: loaders were tried on files of the same layout, and over HTTP on a server on loopback."""


@dataclass(frozen=True)
class Item:
    """One benchmark question."""

    benchmark: str
    index: int
    """0-based place in the benchmark"""
    text: str
    answer: str | None = None
    entry_point: str | None = None
    solution: str = ""
    tests: str = ""

    @property
    def is_code(self) -> bool:
        return bool(self.entry_point or self.solution or self.tests)

    @cached_property
    def code(self) -> CodeItem:
        return code_item(self.text, self.entry_point, self.tests)

    @cached_property
    def prose(self) -> str:
        """What it asks for in words."""
        return (prose(self.text) or prose(f"{self.text}\n{self.solution}")) if self.is_code else ""


def benchmark_files(benchmarks: Sequence[Benchmark], base: Path, cache: Path) -> dict[str, str]:
    """sha256 of each benchmark file, by its name in the books; a set on the hub is fixed by its settings."""
    found: dict[str, str] = {}
    for benchmark in benchmarks:
        if benchmark.path is not None:
            hashes = hash_source_files(_file_source(benchmark), base, cache)
        else:
            folder = base / str(benchmark.hub)
            files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
            inner = FileSource(name="folder", kind="file", path=tuple(str(path) for path in files))
            hashes = hash_source_files(inner, base, cache) if files else {}
        found |= {f"benchmark:{benchmark.name}:{name}": digest for name, digest in hashes.items()}
    return found


def load_items(benchmarks: Sequence[Benchmark], base: Path) -> list[Item]:
    """All items; BadSetting if one has no question in its column, UnreadableSource if a set can't be read."""
    found: list[Item] = []
    for benchmark in benchmarks:
        before = len(found)
        for index, record in enumerate(_records(benchmark, base)):
            found.append(_item(benchmark, index, record))
        if len(found) == before:
            raise BadSetting(f"benchmark {benchmark.name}: {benchmark.path or benchmark.hub} holds no items")
    return found


def items_version(items: Sequence[Item]) -> str:
    """128-bit content hash of the items, 32 hex digits."""
    return hash_text(*(part for item in items for part in (item.benchmark, item.text, item.answer or "")))


def _records(benchmark: Benchmark, base: Path) -> Iterator[Record]:
    if benchmark.path is not None:
        yield from read_source(_file_source(benchmark), base)
        return
    source = HuggingFaceSource(name=_source_name(benchmark), kind="huggingface", path=str(benchmark.hub),
                               config=benchmark.config, split=benchmark.split, revision=benchmark.revision,
                               files=benchmark.files)  # fmt: skip
    try:
        yield from read_source(source, base)
    except UnreadableSource as fault:
        why = str(fault).removeprefix(f"source {source.name}: ")
        raise UnreadableSource(
            f"benchmark {benchmark.name}: {why}. Or download its {benchmark.split} split and set `path` to the file: "
            f"{{name: {benchmark.name}, path: FILE}}"
        ) from fault


def _source_name(benchmark: Benchmark) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", benchmark.name) or "benchmark"


def _file_source(benchmark: Benchmark) -> FileSource:
    return FileSource(name=_source_name(benchmark), kind="file", path=benchmark.path or ())


def _item(benchmark: Benchmark, index: int, record: Record) -> Item:
    value = record.value
    if isinstance(value, BadRecord):
        raise BadSetting(f"benchmark {benchmark.name}: {record.place} can't be read: {value.rule}, {value.detail}; "
                         "mend the file")  # fmt: skip
    text = _text(value, benchmark.question)
    if not text.strip():
        raise BadSetting(
            f"benchmark {benchmark.name}: {record.place} has no text in column {_named(benchmark.question)}; set "
            f"`question` to the right one (found: {', '.join(value)})"
        )
    solution, tests = _text(value, benchmark.solution), _text(value, benchmark.tests)
    entry_point = _text(value, benchmark.entry_point) or None
    if entry_point is None and (defined := re.findall(r"^def\s+(\w+)", solution, re.MULTILINE)):
        entry_point = next((name for name in defined if name in tests), defined[-1])  # MBPP names none
    answer = _text(value, benchmark.answer) or None
    return Item(benchmark.name, index, text, answer, entry_point, solution, tests[:LONGEST_TESTS])


def _text(value: dict[str, Any], columns: Column | None) -> str:
    for column in (columns,) if isinstance(columns, str) else columns or ():
        if (found := lookup(_opened(value, column), column)) is not None:
            if isinstance(found, list) and all(isinstance(part, str) for part in found):
                return "\n".join(found)
            return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    return ""


def _opened(value: dict[str, Any], column: str) -> dict[str, Any]:
    """For `a.b` where a is an object written as JSON text, as LiveCodeBench's metadata is: the object instead."""
    head, _, rest = column.partition(".")
    if rest and isinstance(value.get(head), str):
        try:
            return value | {head: json.loads(value[head])}
        except ValueError:
            return value
    return value


def _named(columns: Column) -> str:
    return repr(columns) if isinstance(columns, str) else " or ".join(map(repr, columns))
