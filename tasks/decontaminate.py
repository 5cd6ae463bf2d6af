"""Decontamination: questions that are on a benchmark, by exact text, by n-gram, by embedding.

Each finding carries the benchmark item and the text that matched. Benchmark items shorter than n words are matched
whole, as a run of words and signs of at least SHORTEST_RUN. Not covered: paraphrases that neither rule sees (see the
measurements in the docs); boilerplate that many questions share counts like any other run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from storage.fingerprint import hash_text
from tasks.embeddings import EmbeddingSettings, Vectors, embed
from tasks.errors import BadSetting
from tasks.filters import Finding
from tasks.question import BadRecord, lookup, normalise
from tasks.settings import Settings
from tasks.sources import FileSource, hash_source_files, read_file, source_files

WORD = re.compile(r"\w+", re.UNICODE)
SIGN = re.compile(r"\w+|[^\w\s]", re.UNICODE)
SHORTEST_RUN = 6
"""A shorter item, such as `Solve for x`, stands in far too many questions: it matches as a whole text only."""
BLOCK = 512


class Benchmark(Settings):
    name: str
    path: str
    """A file or glob, relative to the recipe."""
    question: str = "question"
    """The column that holds the question."""


class DecontaminateSettings(Settings):
    benchmarks: tuple[Benchmark, ...] = ()
    ngram: int | None = Field(default=13, ge=3)
    """A shared run of so many words contaminates; null switches the rule off."""
    similarity: float | None = Field(default=0.9, gt=0, le=1)
    """Cosine above which the nearest item contaminates (DeepDistill: 0.9); null switches the rule off."""


@dataclass(frozen=True)
class Item:
    """One benchmark question."""

    benchmark: str
    index: int
    text: str


def words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def tokens(text: str) -> list[str]:
    """Lower-case words and signs, in order, without the signs that end a text: `3 - 4` and `3 + 4` differ."""
    return SIGN.findall(text.lower().rstrip(" \t\r\n.?:"))


def normal_text(text: str) -> str:
    """Words and signs joined by single blanks: what exact matching compares."""
    return " ".join(tokens(text))


class Benchmarks:
    """All items of all benchmarks, indexed for the rules that are on."""

    def __init__(self, items: Sequence[Item], settings: DecontaminateSettings, embedding: EmbeddingSettings) -> None:
        self.items = list(items)
        self._settings = settings
        self._embedding = embedding
        self._exact = {hash_text(normal_text(item.text)): number for number, item in reversed(list(enumerate(items)))}
        self._grams: dict[str, int] = {}
        self._runs: dict[int, dict[str, int]] = {}
        """items shorter than an n-gram, by length in words and signs"""
        for number, item in enumerate(self.items if settings.ngram else ()):
            if grams := _ngrams(words(item.text), settings.ngram or 0):
                for gram in grams:
                    self._grams.setdefault(gram, number)
            elif len(run := tokens(item.text)) >= SHORTEST_RUN:
                self._runs.setdefault(len(run), {}).setdefault(" ".join(run), number)
        self._vectors: Vectors | None = None

    def check(self, texts: Sequence[str], vectors: Vectors | None) -> list[Finding | None]:
        """For each text the rule by which it is on a benchmark, or None; `vectors` are the texts' embeddings."""
        found = [self._by_text(text) for text in texts]
        threshold = self._settings.similarity
        if vectors is None or threshold is None or not self.items or not len(texts):
            return found
        if self._vectors is None:
            self._vectors = embed([normalise(item.text) for item in self.items], self._embedding)
        items = self._vectors.astype(np.float32).T
        for start in range(0, len(texts), BLOCK):
            cosines = vectors[start : start + BLOCK].astype(np.float32) @ items
            for row, number in enumerate(cosines.argmax(axis=1), start):
                value = float(cosines[row - start, number])
                if found[row] is None and value > threshold:
                    item, value = int(number), round(min(value, 1.0), 3)
                    found[row] = self._finding("benchmark_similarity", item, value, threshold, self.items[item].text)
        return found

    def _by_text(self, text: str) -> Finding | None:
        number = self._exact.get(hash_text(normal_text(text)))
        if number is not None:
            return self._finding("benchmark_exact", number, 1.0, None, text)
        size = self._settings.ngram or 0
        for gram in _ngrams(words(text), size) if self._grams else ():
            if gram in self._grams:
                return self._finding("benchmark_ngram", self._grams[gram], size, size, gram)
        signs = tokens(text) if self._runs else []
        for length in sorted(self._runs, reverse=True):
            for run in _ngrams(signs, length):
                if run in self._runs[length]:
                    return self._finding("benchmark_ngram", self._runs[length][run], length, size, run)
        return None

    def _finding(self, rule: str, number: int, value: float, threshold: float | None, matched: str) -> Finding:
        item = self.items[number]
        seen = {"benchmark": item.benchmark, "item": item.index, "item_text": item.text[:300], "matched": matched[:300]}
        return Finding(rule, value, threshold, json.dumps(seen, ensure_ascii=False))


def _ngrams(parts: Sequence[str], size: int) -> list[str]:
    return [" ".join(parts[start : start + size]) for start in range(len(parts) - size + 1)]


def benchmark_files(settings: DecontaminateSettings, base: Path, cache: Path) -> dict[str, str]:
    """sha256 of each benchmark file."""
    found: dict[str, str] = {}
    for benchmark in settings.benchmarks:
        hashes = hash_source_files(_as_source(benchmark), base, cache)
        found |= {f"benchmark:{name}": digest for name, digest in hashes.items()}
    return found


@lru_cache(maxsize=4)
def load_benchmarks(
    settings: DecontaminateSettings, embedding: EmbeddingSettings, base: Path, hashes: tuple[tuple[str, str], ...]
) -> Benchmarks:
    """Read all benchmark files; BadSetting if one has no such column, since nothing would ever match it.

    `hashes` are those of the files: a file that changes within one process is read again.
    """
    items: list[Item] = []
    for benchmark in settings.benchmarks:
        before = len(items)
        source = _as_source(benchmark)
        for path in source_files(source, base):
            for index, record in enumerate(read_file(path, source, base)):
                text = None if isinstance(record.value, BadRecord) else lookup(record.value, benchmark.question)
                if not isinstance(text, str) or not text.strip():
                    complaint = _complaint(record.value, benchmark)
                    raise BadSetting(f"benchmark {benchmark.name}: {record.place} {complaint}")
                items.append(Item(benchmark.name, index, text))
        if len(items) == before:
            raise BadSetting(f"benchmark {benchmark.name}: {benchmark.path} holds no items")
    return Benchmarks(items, settings, embedding)


def _as_source(benchmark: Benchmark) -> FileSource:
    return FileSource(name=benchmark.name, kind="file", path=benchmark.path)


def _complaint(value: dict[str, Any] | BadRecord, benchmark: Benchmark) -> str:
    if isinstance(value, BadRecord):
        return f"can't be read: {value.rule}, {value.detail}; mend the file"
    return f"has no text in column {benchmark.question!r}; set `question` to the right one (found: {', '.join(value)})"
