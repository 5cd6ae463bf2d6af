"""The first reading of a file of questions: what decides who stays, in a file beside, and which rows hold no question.

46 bytes a row lie on disk; what is read of them is pages that the machine may take back. Memory: 32 bytes a row while
they are sorted by text, so that nothing later depends on the order of rows. Not covered: texts and vectors.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.fingerprint import hash_text
from tasks.decontaminate_text import normal_text
from tasks.dedup_clusters import Questions, hardness
from tasks.embeddings import embedded_text
from tasks.question import BadRecord, lookup, question_text, read_question
from tasks.sources import Record
from tasks.step import Progress

BATCH = 4096
SORTED_AT_ONCE = 65_536
LONGEST = 10_000_000
REFERENCES = ("ground_truth", "test_cases", "instruction_constraints", "asserts")
FACTS = np.dtype([
    ("high", np.uint64), ("low", np.uint64), ("normal_high", np.uint64), ("normal_low", np.uint64),
    ("row", np.int64), ("length", np.int32), ("level", np.int8), ("referenced", np.bool_),
])  # fmt: skip
"""Two hashes of 128 bits in halves: of the text as it is embedded, and of the text as the exact rule sees it."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dropped:
    """Why a row goes: a row of the ledger."""

    row: int
    rule: str
    value: float | None
    threshold: float | None
    evidence: dict[str, Any]


@dataclass
class Unread:
    """Rows that hold no question, in a file: a line of JSON each, in the order of the rows."""

    path: Path
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[Dropped]] = field(default_factory=dict)
    """the first few of each rule"""

    def __iter__(self) -> Iterator[Dropped]:
        with self.path.open(encoding="utf-8") as lines:
            for line in lines:
                yield Dropped(*json.loads(line))

    def rows(self) -> Iterator[int]:
        return (one.row for one in self)


class Scan:
    """Facts on the rows that hold a question, sorted by text, then row; their places in that order are `positions`."""

    def __init__(self, records: Iterator[Record], columns: dict[str, str], folder: Path, few: int,
                 progress: Progress) -> None:  # fmt: skip
        """Reads all records; `few` unreadable ones of each rule are kept at hand."""
        self.rows = 0
        self.unread = Unread(folder / "unread.jsonl")
        with (folder / "facts").open("wb") as facts, self.unread.path.open("w", encoding="utf-8") as unread:
            batch: list[tuple[Any, ...]] = []
            for row, record in enumerate(records):
                self.rows += 1
                if row % BATCH == 0:
                    np.array(batch, FACTS).tofile(facts)
                    batch.clear()
                    progress.expect("read", BATCH)
                    progress.advance("read", BATCH)
                messages = messages_of(record, columns)
                if isinstance(messages, BadRecord):
                    self._set_aside(row, record, messages, few, unread)
                else:
                    batch.append(_facts(row, record, messages, columns))
            np.array(batch, FACTS).tofile(facts)
        self.facts = _sorted_by_text(folder)
        fresh = _fresh(self.facts["high"], self.facts["low"])
        self.first: Ints = np.flatnonzero(fresh)
        """of each distinct text, in the order of their hashes, the first position"""

    def _set_aside(self, row: int, record: Record, fault: BadRecord, few: int, unread: Any) -> None:
        evidence = {"place": record.place, "detail": fault.detail}
        one = Dropped(row, fault.rule, fault.value, fault.threshold, evidence)
        self.unread.counts[fault.rule] += 1
        if len(known := self.unread.first.setdefault(fault.rule, [])) < few:
            known.append(one)
        unread.write(json.dumps([row, fault.rule, fault.value, fault.threshold, evidence]) + "\n")

    def __len__(self) -> int:
        return len(self.facts)

    def text_rows(self) -> Ints:
        """The row of the file that each distinct text is first in, by the text's hash."""
        return np.asarray(self.facts["row"][self.first])

    def same_text(self) -> tuple[Ints, Ints]:
        """(first position of a text, another position of it), for every copy."""
        sizes = np.diff(self.first, append=len(self))
        copies = np.ones(len(self), bool)
        copies[self.first] = False
        return np.repeat(self.first, sizes - 1), np.flatnonzero(copies)

    def same_normal_text(self) -> tuple[Ints, Ints]:
        """The same of texts as the exact rule sees them, by the second."""
        high, low = self.facts["normal_high"], self.facts["normal_low"]
        order = np.lexsort((low, high))  # stable: the first position leads
        starts = np.flatnonzero(_fresh(high[order], low[order]))
        sizes = np.diff(starts, append=len(order))
        copies = np.ones(len(order), bool)
        copies[starts] = False
        first, copy = np.repeat(order[starts], sizes - 1), order[copies]
        by_copy = np.argsort(copy)
        return first[by_copy], copy[by_copy]

    def questions(self, positions: Ints, faulty: npt.NDArray[np.bool_]) -> Questions:
        """Those questions, as `decide` wants them."""
        facts, count = self.facts[positions], len(positions)
        ids = [
            f"{high:016x}{low:016x}" for high, low in zip(facts["high"].tolist(), facts["low"].tolist(), strict=True)
        ]
        return Questions(
            ids=np.array(ids, "S32"), paid=np.zeros(count, bool), priority=np.zeros(count, int),
            referenced=facts["referenced"], length=facts["length"], hardness=facts["level"],
            split=np.zeros(count, np.int8), faulty=faulty,
        )  # fmt: skip


def messages_of(record: Record, columns: dict[str, str]) -> list[dict[str, str]] | BadRecord:
    """The conversation of a record, or why there is none."""
    value = record.value
    if isinstance(value, BadRecord):
        return value
    try:
        messages = read_question(lambda name: lookup(value, columns.get(name, name)))
        if (size := sum(len(message["content"]) for message in messages)) > LONGEST:
            raise BadRecord("too_long", f"{size} characters", size, LONGEST)
    except BadRecord as fault:
        return fault
    return messages


def _facts(row: int, record: Record, messages: list[dict[str, str]], columns: dict[str, str]) -> tuple[Any, ...]:
    """A row of FACTS."""
    value, text = record.value, question_text(messages)
    assert isinstance(value, dict)
    referenced = any(lookup(value, columns.get(name, name)) for name in REFERENCES)
    label = lookup(value, columns.get("difficulty_label", "difficulty_label"))
    level = hardness(None if label is None else str(label))
    codes = hash_text(embedded_text(messages)), hash_text(normal_text(text))
    halves = [int(code[start : start + 16], 16) for code in codes for start in (0, 16)]
    return (*halves, row, len(text), level, referenced)


def _sorted_by_text(folder: Path) -> npt.NDArray[Any]:
    """The facts in the order of the texts' hashes; of one text, in the order of the rows."""
    if not (folder / "facts").stat().st_size:
        return np.zeros(0, FACTS)
    facts = np.memmap(folder / "facts", FACTS, "r")
    order = np.lexsort((facts["low"], facts["high"]))
    ordered = np.memmap(folder / "sorted", FACTS, "w+", shape=len(order))
    for start in range(0, len(order), SORTED_AT_ONCE):
        ordered[start : start + SORTED_AT_ONCE] = facts[order[start : start + SORTED_AT_ONCE]]
    (folder / "facts").unlink()
    return ordered


def _fresh(high: npt.NDArray[np.uint64], low: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Of hashes in order, which are other than the one before."""
    fresh = np.ones(len(high), bool)
    fresh[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    return fresh
