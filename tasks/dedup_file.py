"""Dedup of one file without a workspace: who stays, by the same rules, and why each of the others goes.

The file is read three times and never held: once for hashes and lengths, once for the texts that need a vector, once to
write what stays. Ties are broken by the hash of the text, then by the row. Memory: about 250 bytes a row, the sketches
of the vectors, and the pairs.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.fingerprint import hash_text
from tasks.decontaminate_text import normal_text
from tasks.dedup import PREFERENCES, Rules
from tasks.dedup_clusters import LEXICAL, NEAR, NOBODY, Decision, Links, Questions, decide, exact_links, join_links
from tasks.dedup_clusters import RULES as NAMES
from tasks.dedup_clusters import hardness as hardness_of
from tasks.embeddings import EmbeddingSettings, embed, embedded_text, fault_of
from tasks.errors import BadSetting
from tasks.lexical import find_lexical_pairs
from tasks.question import BadRecord, lookup, question_text, read_question
from tasks.sources import Record
from tasks.step import Progress

BATCH = 4096
LONGEST = 10_000_000
REFERENCES = ("ground_truth", "test_cases", "instruction_constraints", "asserts")


@dataclass(frozen=True)
class Dropped:
    """Why a row goes: a row of the ledger."""

    row: int
    rule: str
    value: float | None
    threshold: float | None
    evidence: dict[str, Any]


@dataclass(frozen=True)
class FileDecision:
    """What becomes of the rows of a file."""

    rows: int
    dropped: list[Dropped]
    """in the order of the rows"""
    pairs: int
    """near-duplicate pairs that were found"""
    recall: float
    """1.0 where all were compared; else as measured on a sample"""
    texts: int
    """distinct texts"""

    def kept(self) -> npt.NDArray[np.bool_]:
        stays = np.ones(self.rows, bool)
        stays[[one.row for one in self.dropped]] = False
        return stays


Open = Callable[[], Iterator[Record]]


def dedup_file(open_: Open, columns: dict[str, str], rules: Rules, embedding: EmbeddingSettings,
               progress: Progress) -> FileDecision:  # fmt: skip
    """Decide on all records that `open_` gives, which must be the same each time."""
    scan = _Scan(open_(), columns, progress)
    hashes, first, group = np.unique(scan.hashes, return_index=True, return_inverse=True)
    links, pairs, recall = [exact_links(scan.normal)] if rules.exact else [], 0, 1.0
    faulty = np.zeros(len(scan.good), bool)
    in_file = np.argsort(scan.good[first])  # the texts in the order in which the file has them
    place = np.argsort(in_file)
    texts = _texts(open_, columns, scan.good[first])
    if rules.near:
        from tasks.similarity import similar_pairs  # torch takes a second to import
        from tasks.similarity_clusters import clustered_pairs

        with tempfile.TemporaryDirectory(prefix="dedup-") as folder:
            vectors = _vectors(texts, len(first), Path(folder), embedding, progress)
            by_hash = vectors[place]  # in the order of the hashes, so that the order of rows changes nothing
            progress.expect("compare", len(first))

            def advance(done: int) -> None:
                progress.advance("compare", done)

            if len(first) > rules.near.exact_up_to:
                found, recall = clustered_pairs(by_hash, rules.near.threshold, advance=advance)
            else:
                found = similar_pairs(by_hash, rules.near.threshold, advance=advance)
            if found.thinned and rules.clusters.by == "representatives":
                raise BadSetting(f"--by representatives needs every pair, and of {found.found:,} only a spanning "
                                 "forest was kept; use --by components, or a higher --threshold")  # fmt: skip
            bad = np.array([fault_of(vectors[number]) is not None for number in range(len(first))], bool)
            faulty = bad[place][group]
        pairs = found.found
        links.append(_same_text(first, group, NEAR))
        links.append(_links(first[found.left], first[found.right], found.cosine, NEAR))
    if rules.lexical:
        alike = find_lexical_pairs(texts(), rules.lexical)
        links.append(_same_text(first, group, LEXICAL))
        ends = first[in_file[alike.left]], first[in_file[alike.right]]
        links.append(_links(*ends, alike.jaccard, LEXICAL))
    questions = scan.questions(faulty)
    decision = decide(questions, join_links(links), rules.clusters.prefer or PREFERENCES, 0.0, rules.clusters.by)
    dropped = sorted([*scan.bad, *_dropped(scan.good, decision, rules)], key=lambda one: one.row)
    return FileDecision(scan.rows, dropped, pairs, recall, len(hashes))


class _Scan:
    """The first reading: of each row that holds a question, what decides who stays; sorted by text, then row."""

    def __init__(self, records: Iterator[Record], columns: dict[str, str], progress: Progress) -> None:
        self.bad: list[Dropped] = []
        good, hashes, normal, lengths, referenced, levels = [], [], [], [], [], []
        self.rows = 0
        for row, record in enumerate(records):
            self.rows += 1
            if row % BATCH == 0:
                progress.expect("read", BATCH)
                progress.advance("read", BATCH)
            messages = messages_of(record, columns)
            if isinstance(messages, BadRecord):
                evidence = {"place": record.place, "detail": messages.detail}
                self.bad.append(Dropped(row, messages.rule, messages.value, messages.threshold, evidence))
                continue
            text = question_text(messages)
            good.append(row)
            hashes.append(hash_text(embedded_text(messages)))
            normal.append(hash_text(normal_text(text)))
            lengths.append(len(text))
            assert isinstance(record.value, dict)
            referenced.append(any(lookup(record.value, columns.get(name, name)) for name in REFERENCES))
            label = lookup(record.value, columns.get("difficulty_label", "difficulty_label"))
            levels.append(hardness_of(None if label is None else str(label)))
        rows, codes = np.array(good, np.int64), np.array(hashes, "S32")
        order = np.lexsort((rows, codes))  # by text, so that ties don't depend on the order of rows
        self.good: npt.NDArray[np.int64] = rows[order]
        self.hashes, self.normal = codes[order], np.array(normal, "S32")[order]
        self._lengths, self._levels = np.array(lengths, np.int64)[order], np.array(levels, np.int64)[order]
        self._referenced = np.array(referenced, bool)[order]

    def questions(self, faulty: npt.NDArray[np.bool_]) -> Questions:
        count = len(self.good)
        ids = np.char.add(self.hashes, np.array([f"{row:012d}" for row in self.good.tolist()], "S12"))
        return Questions(
            ids=ids, paid=np.zeros(count, bool), priority=np.zeros(count, int),
            referenced=self._referenced, length=self._lengths, hardness=self._levels,
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


def _texts(open_: Open, columns: dict[str, str], rows: npt.NDArray[np.int64]) -> Callable[[], Iterator[str]]:
    wanted = set(rows.tolist())

    def texts() -> Iterator[str]:
        for row, record in enumerate(open_()):
            if row in wanted:
                messages = messages_of(record, columns)
                assert not isinstance(messages, BadRecord), "the file changed while it was read"
                yield embedded_text(messages)

    return texts


def _vectors(texts: Callable[[], Iterable[str]], count: int, folder: Path, settings: EmbeddingSettings,
             progress: Progress) -> npt.NDArray[np.float16]:  # fmt: skip
    """The vectors of the texts in their order, in a file; each batch sorted by length."""
    progress.expect("embed", count)
    vectors: Any = np.zeros((0, 1), np.float16)
    batch: list[str] = []
    start = 0

    def flush() -> None:
        nonlocal vectors, start
        order = sorted(range(len(batch)), key=lambda number: len(batch[number]))
        for first in range(0, len(order), 512):
            some = order[first : first + 512]
            found = embed([batch[number] for number in some], settings)
            if not len(vectors):
                vectors = np.memmap(folder / "vectors.f16", np.float16, "w+", shape=(count, found.shape[1]))
            vectors[start + np.array(some)] = found
            progress.advance("embed", len(some))
        start += len(batch)
        batch.clear()

    for text in texts():
        batch.append(text)
        if len(batch) == BATCH:
            flush()
    flush()
    return vectors  # type: ignore[no-any-return]


def _links(left: npt.NDArray[Any], right: npt.NDArray[Any], value: npt.NDArray[Any], rule: int) -> Links:
    return Links(np.minimum(left, right), np.maximum(left, right), value, np.full(len(left), rule, np.int8))


def _same_text(first: npt.NDArray[Any], group: npt.NDArray[Any], rule: int) -> Links:
    copies = np.flatnonzero(first[group] != np.arange(len(group)))
    return _links(first[group[copies]], copies, np.ones(len(copies), np.float32), rule)


def _dropped(good: npt.NDArray[np.int64], decision: Decision, rules: Rules) -> Iterator[Dropped]:
    thresholds = rules.thresholds()
    for number in np.flatnonzero(decision.rule).tolist():
        name = NAMES[decision.rule[number]]
        assert name is not None
        if name == "no_embedding":
            yield Dropped(int(good[number]), name, None, None, {})
            continue
        evidence = {"kept_row": int(good[decision.kept[number]])}
        if decision.linked[number] != NOBODY:
            evidence["like_row"] = int(good[decision.linked[number]])
        yield Dropped(int(good[number]), name, round(float(decision.similarity[number]), 4), thresholds.get(name),
                      evidence)  # fmt: skip


def evidence_json(one: Dropped) -> str:
    return json.dumps(one.evidence, ensure_ascii=False)
