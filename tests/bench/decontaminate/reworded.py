"""Recall on rewordings that somebody else wrote: JSONL files in a folder, a line for each reworded item.

    {"benchmark": "gsm8k", "item": 17, "question": "A woman holds two jobs …", "answer": "57500"}

`benchmark` is gsm8k, math, mbpp or humaneval; `item` the number of the line in its file in ../shared/data, from 0;
`question` the reworded text, for humaneval in any language. `answer` may be left out; it is the reference answer, for
mbpp and humaneval the solution, which is then put behind the question. Each file is measured once without and once with
answers, against all items of its benchmarks, with a 95 % interval (Wilson). False flags are quality.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import quality
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks import decontaminate
from tasks.decontaminate import Benchmarks, DecontaminateSettings
from tasks.decontaminate_benchmarks import Item
from tasks.question import normalise

Z = 1.959964
"""Normal quantile of a two-sided 95 % interval."""


Indexes = dict[str, tuple[Benchmarks, Benchmarks]]
"""For each benchmark the rules as they are by default, and cosine ≥ 0.8 alone."""


class Reworded(BaseModel):
    model_config = ConfigDict(extra="forbid")

    benchmark: str
    item: int
    question: str
    answer: str | None = None


@dataclass(frozen=True)
class Outcome:
    row: Reworded
    verdict: str
    nearest: int
    """The item that was found, by its number in the file; -1 for none."""
    by_cosine: bool
    """The rule cosine ≥ 0.8 alone finds the right item."""

    @property
    def found(self) -> str:
        """`contaminated` and `suspect` count for the right item alone."""
        return self.verdict if self.nearest == self.row.item else "clean"


def measure(data: Path, folder: Path) -> None:
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise SystemExit(f"--rewordings: found no .jsonl file in {folder}, expected files of lines {{benchmark, item, "
                         "question, optional answer}; give the folder that holds them")  # fmt: skip
    print(f"\nrewordings in {folder.name}: share found for the right item, 95 % interval\n"
          f"{'':26} {'contaminated':>25} {'with suspects':>25} {'cosine ≥ 0.8 alone':>20}")  # fmt: skip
    indexes: Indexes = {}
    for path in paths:
        rows = read(path)
        for label, answers in (("", False), (", answers", True)):
            known = [row for row in rows if row.answer is not None] if answers else rows
            if known:
                _print(path.stem + label, outcomes(data, known, indexes, answers=answers))


def read(path: Path) -> list[Reworded]:
    rows: list[Reworded] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = Reworded.model_validate_json(line)
        except ValidationError as error:
            raise SystemExit(f"{path.name}, line {number}: {error}") from error
        if row.benchmark not in quality.FILES:
            raise SystemExit(
                f"{path.name}, line {number}: benchmark {row.benchmark!r}; known: {', '.join(quality.FILES)}"
            )
        rows.append(row)
    return rows


def outcomes(data: Path, rows: Sequence[Reworded], indexes: Indexes, *, answers: bool) -> list[Outcome]:
    """What is found for each row, by benchmark; `indexes` keeps what was built."""
    made: list[Outcome] = []
    for name in dict.fromkeys(row.benchmark for row in rows):
        mine = [row for row in rows if row.benchmark == name]
        if name not in indexes:
            items = quality.load(data, name)
            indexes[name] = (Benchmarks(items, DecontaminateSettings(), quality.EMBEDDING),
                             Benchmarks(items, quality.COSINE, quality.EMBEDDING))  # fmt: skip
        index, cosine = indexes[name]
        code = index.items[0].is_code
        texts = [row.question + (f"\n{row.answer}" if code and answers else "") for row in mine]
        vectors = decontaminate.embed([normalise(text) for text in texts], quality.EMBEDDING)
        found = index.check(texts, vectors, [row.answer for row in mine] if answers and not code else None)
        for row, one, near in zip(mine, found, cosine.check(texts, vectors), strict=True):
            by_cosine = near.verdict == "contaminated" and _number(index.items, near.item) == row.item
            made.append(Outcome(row, one.verdict, _number(index.items, one.item), by_cosine))
    return made


def _number(items: Sequence[Item], item: int) -> int:
    return items[item].index if item >= 0 else -1


def wilson(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), for count > 0."""
    share, square = hits / count, Z * Z / count
    middle = (share + square / 2) / (1 + square)
    reach = Z / (1 + square) * sqrt(share * (1 - share) / count + square / (4 * count))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def _print(label: str, found: Sequence[Outcome]) -> None:
    sure = sum(one.found == "contaminated" for one in found)
    noted = sure + sum(one.found == "suspect" for one in found)
    print(
        f"  {label:24} {_share(sure, len(found)):>25} {_share(noted, len(found)):>25} "
        f"{sum(one.by_cosine for one in found) / len(found):20.1%}   of {len(found)}",
        flush=True,
    )


def _share(hits: int, count: int) -> str:
    low, high = wilson(hits, count)
    return f"{hits / count:.1%} [{low:.1%}, {high:.1%}]"
