"""Recall on planted copies and false flags on the rest, for MATH, GSM8K, MBPP and HumanEval from ../shared/data.

The benchmark is the odd items; planted copies are made of them, and the rest are the even items of the same set (the
same source, so as like as training questions get), for HumanEval all of MBPP. Rewordings are those of
tests/tasks/data/rewordings.jsonl, written by hand, against the whole of their set.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks import decontaminate
from tasks.decontaminate import Benchmarks, DecontaminateSettings
from tasks.decontaminate_benchmarks import Benchmark, Item, load_items
from tasks.decontaminate_planting import KINDS
from tasks.embeddings import EmbeddingSettings
from tasks.question import normalise

FILES = {"gsm8k": "gsm8k_test.jsonl", "math": "math_test.json", "mbpp": "mbpp.jsonl", "humaneval": "humaneval.jsonl"}
EMBEDDING = EmbeddingSettings()


def load(data: Path, name: str) -> list[Item]:
    extra = {"answer": "solution", "question": "problem"} if name == "math" else {}
    return load_items([Benchmark.model_validate({"name": name, "path": FILES[name]} | extra)], data)


def with_code(item: Item) -> str:
    """A programming problem as training sets hold it: task, solution, tests."""
    return "\n".join(part for part in (item.text, item.solution.replace("\r", ""), item.tests) if part)


def flagged(index: Benchmarks, texts: Sequence[str], answers: Sequence[str | None] | None, *,
            embedded: bool = True) -> list[Any]:  # fmt: skip
    vectors = decontaminate.embed([normalise(text) for text in texts], EMBEDDING) if embedded else None
    return index.check(texts, vectors, answers)


def measure(data: Path, name: str, plant: int, *, answers: bool, embedded: bool = True) -> None:
    items = load(data, name)
    benchmark, rest = items[1::2], items[::2]
    if name == "humaneval":
        benchmark, rest = items, load(data, "mbpp")
    index = Benchmarks(benchmark, DecontaminateSettings(), EMBEDDING)
    print(f"\n{name}: {len(benchmark)} items{', answers known' if answers else ''}"
          f"{'' if embedded else ', no embeddings'}")  # fmt: skip
    source = random.Random(20250424)
    chosen = source.sample(benchmark, min(plant, len(benchmark)))
    for kind, change in KINDS.items():
        made = [(item, text) for item in chosen if (text := change(item, source)) is not None]
        if not made:
            continue
        found = flagged(index, [text for _, text in made], [item.answer for item, _ in made] if answers else None,
                        embedded=embedded)  # fmt: skip
        rules = Counter(one.rule for one in found if one.verdict == "contaminated")
        caught = sum(rules.values())
        suspect = sum(one.verdict == "suspect" for one in found)
        print(
            f"  {kind:22} {caught / len(made):7.2%} of {len(made):5,}   suspect {suspect / len(made):6.2%}   "
            f"{dict(rules)}"
        )
    for label, texts in [("rest", [item.text for item in rest])] + (
        [("rest with code", [with_code(item) for item in rest])] if rest[0].is_code else []
    ):
        found = flagged(index, texts, [item.answer for item in rest] if answers else None, embedded=embedded)
        rules = Counter(one.rule for one in found if one.verdict == "contaminated")
        suspect = sum(one.verdict == "suspect" for one in found)
        print(f"  {label:22} {sum(rules.values()) / len(rest):7.2%} of {len(rest):5,}   suspect "
            f"{suspect / len(rest):6.2%}"
              f"   {dict(rules)}   (false flags)")  # fmt: skip


def rewordings(data: Path, path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for name in ("gsm8k", "humaneval"):
        items = load(data, name)
        index = Benchmarks(items, DecontaminateSettings(), EMBEDDING)
        print(f"\nhand-made rewordings of {name}")
        for kind in dict.fromkeys(row["kind"] for row in rows if row["file"] == FILES[name]):
            mine = [row for row in rows if row["kind"] == kind and row["file"] == FILES[name]]
            for label, answers in (("", None), (" with answers", [items[row["item"]].answer for row in mine])):
                if label and not any(answers or ()):
                    continue
                found = flagged(index, [row["text"] for row in mine], answers)
                right = sum(one.verdict == "contaminated" and index.items[one.item].index == row["item"]
                            for one, row in zip(found, mine, strict=True))  # fmt: skip
                scores = np.array([one.value or -9.0 for one in found])
                print(f"  {kind + label:22} {right} of {len(mine)}   lowest score {scores.min():.2f}")
