"""Recall on planted copies and false flags on the rest, for MATH, GSM8K, MBPP and HumanEval from ../shared/data.

The benchmark is the odd items; copies are planted of them, and the rest are the even items of the same set (the same
source, so as like as training questions get), for HumanEval all of MBPP. Everything is split once more by the hash of
the item's text: rules and thresholds were set on the half `tune`, figures are those of the half `report`. That half is
not untouched: the weights and the rule for siblings have seen it, and it was measured once before the last changes.

MATH and MBPP hold some items twice, in other words. `known_copies.json` lists pairs (rest, item) that the model which
wrote the rules read as one task, among those that were flagged; false flags are printed with and without them. Any
other flag counts as false.
Beside it, in the same run: the rule cosine ≥ 0.8 alone, the usual one for rewordings.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tasks import decontaminate
from tasks.decontaminate import Benchmarks, DecontaminateSettings
from tasks.decontaminate_benchmarks import Benchmark, Item, load_items
from tasks.decontaminate_planting import KINDS
from tasks.embeddings import EmbeddingSettings
from tasks.question import normalise

FILES = {"gsm8k": "gsm8k_test.jsonl", "math": "math_test.json", "mbpp": "mbpp.jsonl", "humaneval": "humaneval.jsonl"}
EMBEDDING = EmbeddingSettings()
Half = Literal["tune", "report", "both"]
COSINE = DecontaminateSettings(ngram=None, signals=False, similarity=0.8)
FIELD = "FIELD_NOTES: nearest item by cosine 97.5% at 1.4% false flags, 99.6% at 0.5% where the answers agree"


def load(data: Path, name: str) -> list[Item]:
    extra = {"answer": "solution", "question": "problem"} if name == "math" else {}
    return load_items([Benchmark.model_validate({"name": name, "path": FILES[name]} | extra)], data)


def with_code(item: Item) -> str:
    """A programming problem as training sets hold it: task, solution, tests."""
    return "\n".join(part for part in (item.text, item.solution.replace("\r", ""), item.tests) if part)


def in_half(item: Item, half: Half) -> bool:
    return half == "both" or ("tune", "report")[hashlib.sha256(item.text.encode()).digest()[0] & 1] == half


@dataclass(frozen=True)
class Rates:
    """Shares of the texts."""

    contaminated: float
    suspect: float
    by_cosine: float
    flagged: tuple[tuple[int, int], ...]
    """(number of the text, index of the item) of those that are contaminated"""


class Judge:
    """Both ways to decide, over the same vectors."""

    def __init__(self, benchmark: Sequence[Item], *, embedded: bool) -> None:
        self._index = Benchmarks(benchmark, DecontaminateSettings(), EMBEDDING)
        self._cosine = Benchmarks(benchmark, COSINE, EMBEDDING) if embedded else None

    def rates(self, texts: Sequence[str], answers: Sequence[str | None] | None) -> Rates:
        vectors = None
        if self._cosine:
            vectors = decontaminate.embed([normalise(text) for text in texts], EMBEDDING)
        found = self._index.check(texts, vectors, answers)
        near = self._cosine.check(texts, vectors) if self._cosine else []
        flagged = tuple((number, self._index.items[one.item].index) for number, one in enumerate(found)
                        if one.verdict == "contaminated")  # fmt: skip
        suspect = sum(one.verdict == "suspect" for one in found)
        by_cosine = sum(one.verdict == "contaminated" for one in near) / len(texts) if near else float("nan")
        return Rates(len(flagged) / len(texts), suspect / len(texts), by_cosine, flagged)


def measure(data: Path, name: str, sample: int, half: Half, *, answers: bool, embedded: bool = True) -> None:
    items = load(data, name)
    benchmark, rest = items[1::2], items[::2]
    if name == "humaneval":
        benchmark, rest = items, load(data, "mbpp")
    rest = [item for item in rest if in_half(item, half)]
    judge = Judge(benchmark, embedded=embedded)
    known_too = f"{', answers known' if answers else ''}{'' if embedded else ', no embeddings'}"
    print(f"\n{name}: {len(benchmark)} items, half `{half}`{known_too}")
    print(f"{'':24} contaminated  suspect  together   cosine ≥ 0.8 alone")
    source = random.Random(20250424)
    mine = [item for item in benchmark if in_half(item, half)]
    chosen = source.sample(mine, min(sample, len(mine)))
    for kind, change in KINDS.items():
        made = [(item, text) for item in chosen if (text := change(item, source)) is not None]
        if made:
            found = judge.rates([text for _, text in made], [item.answer for item, _ in made] if answers else None)
            _print(kind, len(made), found)
    known = {
        tuple(pair) for pair in json.loads(Path(__file__).with_name("known_copies.json").read_text()).get(name, [])
    }
    texts = {"rest": [item.text for item in rest]}
    if rest[0].is_code:
        texts["rest with code"] = [with_code(item) for item in rest]
    for label, those in texts.items():
        found = judge.rates(those, [item.answer for item in rest] if answers else None)
        false = sum((rest[number].index, item) not in known for number, item in found.flagged)
        _print(label, len(rest), found, f"   without known copies {false / len(rest):.2%}")


def _print(label: str, count: int, found: Rates, more: str = "") -> None:
    together = found.contaminated + found.suspect
    by_cosine = "" if np.isnan(found.by_cosine) else f"{found.by_cosine:8.2%}"
    print(f"  {label:22} {found.contaminated:8.2%} {found.suspect:11.2%} {together:8.2%}   {by_cosine}   of {count:,}"
          f"{more}", flush=True)  # fmt: skip


def rewordings(data: Path, path: Path) -> None:
    """Those written by hand; the weights have seen them."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    print(f"\n{FIELD}")
    for name in ("gsm8k", "humaneval"):
        items = load(data, name)
        index = Benchmarks(items, DecontaminateSettings(), EMBEDDING)
        print(f"hand-made rewordings of {name}, against all of it: contaminated, suspect, missed")
        for kind in dict.fromkeys(row["kind"] for row in rows if row["file"] == FILES[name]):
            mine = [row for row in rows if row["kind"] == kind and row["file"] == FILES[name]]
            for label, answers in (("", None), (" with answers", [items[row["item"]].answer for row in mine])):
                if label and not any(answers or ()):
                    continue
                print(f"  {kind + label:22} {_verdicts(index, mine, answers)}")


def _verdicts(index: Benchmarks, rows: Sequence[dict[str, Any]], answers: Sequence[str | None] | None) -> str:
    """How many rows were found for the right item, how many are suspect, how many neither."""
    texts = [row["text"] for row in rows]
    found = index.check(texts, decontaminate.embed([normalise(text) for text in texts], EMBEDDING), answers)
    right = [one.verdict for one, row in zip(found, rows, strict=True)
             if one.verdict != "clean" and index.items[one.item].index == row["item"]]  # fmt: skip
    count = right.count("contaminated"), right.count("suspect")
    return f"{count[0]}, {count[1]}, {len(rows) - sum(count)}"
