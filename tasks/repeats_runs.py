"""Runs of n words as 64-bit hashes, and how many questions each occurs for, counted on disk in bounded memory.

Hashes are polynomials modulo 2^64, of bytes for a word and of words for a run; unlike Python's own they are the same in
every process, so that what is sampled by them is too. Two of 5e8 different runs share one with a chance of about 1 in
140.

What is not covered: words as a model's tokenizer cuts them, and pieces of words longer than a line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.verifiers.trace_repeats import UNSPACED

PARTITIONS_LOG2 = 8
BUFFERED = 1 << 22
MAX_STORED = 1 << 29
"""runs on disk, 12 bytes each; with more, every second hash is let go, and so on"""
SHOWN_CHARS = 200

_UNSPACED = re.compile(f"([{UNSPACED}])")
_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)
ENTRY = np.dtype([("run", "<u8"), ("question", "<u4")])


@dataclass(frozen=True)
class Runs:
    """The runs of several texts: `hashes[i]` starts at word `starts[i]` and lies in text `texts[i]`."""

    hashes: np.ndarray
    starts: np.ndarray
    texts: np.ndarray
    lengths: np.ndarray
    """words of each text"""
    words: Any
    ngram: int

    @cached_property
    def first_words(self) -> np.ndarray:
        """Where each text begins among the words."""
        ends: np.ndarray = np.cumsum(self.lengths) - self.lengths
        return ends

    def shown(self, place: int) -> str:
        """The words of a run, cut where they are many characters."""
        start = int(self.starts[place])
        text = " ".join(self.words.slice(start, self.ngram).to_pylist())
        return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"


def hash_runs(texts: Sequence[str], ngram: int) -> Runs:
    """All runs of `ngram` words that lie within one of the texts. A character of a script without blanks is a word."""
    spaced = [text if text.isascii() else _UNSPACED.sub(r" \1 ", text) for text in texts]
    split: Any = pc.utf8_split_whitespace(pa.array(spaced, pa.large_string()))
    words, lists = split.flatten(), pc.list_parent_indices(split)
    # Blanks at either end of a text give empty words.
    filled: Any = pc.greater(pc.binary_length(words), pa.scalar(0, pa.int64()))
    words, lists = words.filter(filled), lists.filter(filled).to_numpy()
    lengths = np.bincount(lists, minlength=len(texts))
    codes = _word_codes(words)
    number = max(len(codes) - ngram + 1, 0)
    inside = lists[:number] == lists[ngram - 1 : ngram - 1 + number]
    starts = np.flatnonzero(inside)
    return Runs(_polynomials(codes, starts, starts + ngram), starts, lists[starts], lengths, words, ngram)


def _word_codes(words: Any) -> np.ndarray:
    """A 64-bit code for each word, from its UTF-8 bytes."""
    if not len(words):
        return np.empty(0, np.uint64)
    _, places, data = words.buffers()
    ends = np.frombuffer(places, "<i8")[words.offset : words.offset + len(words) + 1]
    letters = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
    ends = ends - ends[0]
    return _polynomials(letters.astype(np.uint64) + np.uint64(1), ends[:-1], ends[1:])


def _polynomials(values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Σ values[start + k]·B^k up to each end, as differences of sums from the beginning: few passes at any length."""
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values * _powers(_BASE, len(values)), dtype=np.uint64)])
    return _mixed((sums[ends] - sums[starts]) * _powers(_INVERSE, len(values))[starts])


_KEPT_POWERS: dict[int, np.ndarray] = {}


def _powers(base: int, number: int) -> np.ndarray:
    kept = _KEPT_POWERS.get(base)
    if kept is None or len(kept) < number:
        size = 1 << max(number - 1, 1).bit_length()
        factors = np.full(size, base, np.uint64)
        factors[0] = 1
        kept = _KEPT_POWERS[base] = np.cumprod(factors, dtype=np.uint64)  # modulo 2^64
    return kept[:number]


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """Spread over all bits, since the low ones pick the sample and the high ones the partition."""
    hashes ^= hashes >> np.uint64(32)
    hashes *= np.uint64(0xD6E8FEB86659FD93)
    hashes ^= hashes >> np.uint64(32)
    return hashes


class RunStore:
    """Runs with the number of their question, in files by the first bits of the hash. `rate`: one of so many hashes is
    kept, a power of two; it depends on what was added, not on the order."""

    def __init__(self, folder: Path, most: int = MAX_STORED) -> None:
        self._folder, self._most = folder, most
        self.rate, self.stored = 1, 0
        self._buffer: list[np.ndarray] = []
        self._buffered = 0

    def add(self, hashes: np.ndarray, questions: np.ndarray) -> None:
        entries = np.empty(len(hashes), ENTRY)
        entries["run"], entries["question"] = hashes, questions
        entries = self._sampled(entries)
        self._buffer.append(entries)
        self._buffered += len(entries)
        if self._buffered >= min(BUFFERED, self._most):
            self._flush()

    def _sampled(self, entries: np.ndarray) -> np.ndarray:
        return entries[(entries["run"] & np.uint64(self.rate - 1)) == 0] if self.rate > 1 else entries

    def _flush(self) -> None:
        if not self._buffer:
            return
        entries = np.concatenate(self._buffer)
        self._buffer, self._buffered = [], 0
        self.stored += len(entries)
        places = (entries["run"] >> np.uint64(64 - PARTITIONS_LOG2)).astype(np.uint8)
        entries = entries[np.argsort(places, kind="stable")]
        bounds = np.concatenate([[0], np.cumsum(np.bincount(places, minlength=1 << PARTITIONS_LOG2))])
        for number in range(1 << PARTITIONS_LOG2):
            if bounds[number] < bounds[number + 1]:
                with (self._folder / f"{number:03d}").open("ab") as file:
                    entries[bounds[number] : bounds[number + 1]].tofile(file)
        if self.stored > self._most:
            self._compact()
        while self.stored > self._most:
            self.rate *= 2
            self._compact()

    def _compact(self) -> None:
        """Each entry once, and only what is sampled: what is let go depends on what is there, not on the order."""
        self.stored = 0
        for path in self._folder.iterdir():
            kept = _distinct(self._sampled(np.fromfile(path, ENTRY)))
            kept.tofile(path)
            self.stored += len(kept)

    def frequent(self, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Runs that occur for more than `limit` questions, in order, and for how many."""
        self._flush()
        runs, counts = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for path in sorted(self._folder.iterdir()):
            entries = np.fromfile(path, ENTRY)
            found, number = np.unique(entries["run"], return_counts=True)
            likely = found[number > limit]  # few; the same question may be counted more than once here
            entries = _distinct(entries[np.isin(entries["run"], likely)])
            found, number = np.unique(entries["run"], return_counts=True)
            runs.append(found[number > limit])
            counts.append(number[number > limit])
        return np.concatenate(runs), np.concatenate(counts)


def _distinct(entries: np.ndarray) -> np.ndarray:
    """In order, each once; `np.unique` compares structs one by one."""
    entries = entries[np.lexsort((entries["question"], entries["run"]))]
    fresh = np.ones(len(entries), bool)
    fresh[1:] = (entries["run"][1:] != entries["run"][:-1]) | (entries["question"][1:] != entries["question"][:-1])
    return entries[fresh]
