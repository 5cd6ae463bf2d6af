"""Decontamination: questions that are on a benchmark, by exact text, by n-gram, by embedding.

Each finding carries the benchmark item and the text that matched. Benchmark items shorter than n words are matched
whole, as a run of words. Not covered: paraphrases that neither rule sees (see the measurements in the docs).
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

from storage.fingerprint import file_key, hash_file, hash_text
from tasks.embeddings import EmbeddingSettings, Vectors, embed
from tasks.errors import BadSetting
from tasks.filters import Finding
from tasks.question import BadRecord, lookup, normalise
from tasks.settings import Settings
from tasks.sources import FileSource, read_file, source_files

WORD = re.compile(r"\w+", re.UNICODE)


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


def normal_text(text: str) -> str:
    """Lower-case words joined by single blanks: what exact matching compares."""
    return " ".join(words(text))


class Benchmarks:
    """All items of all benchmarks, indexed for the rules that are on."""

    def __init__(self, items: Sequence[Item], settings: DecontaminateSettings, embedding: EmbeddingSettings) -> None:
        self.items = list(items)
        self._settings = settings
        self._embedding = embedding
        self._exact = {hash_text(normal_text(item.text)): number for number, item in reversed(list(enumerate(items)))}
        self._grams: dict[int, dict[str, int]] = {}
        if settings.ngram:
            for number, item in enumerate(self.items):
                tokens = words(item.text)
                size = min(settings.ngram, len(tokens))
                for gram in _ngrams(tokens, size) if size >= 3 else ():
                    self._grams.setdefault(size, {}).setdefault(gram, number)
        self._vectors: Vectors | None = None

    def check(self, texts: Sequence[str], vectors: Vectors | None) -> list[Finding | None]:
        """For each text the rule by which it is on a benchmark, or None; `vectors` are the texts' embeddings."""
        found = [self._by_text(text) for text in texts]
        threshold = self._settings.similarity
        if vectors is None or threshold is None or not self.items or not len(texts):
            return found
        if self._vectors is None:
            self._vectors = embed([normalise(item.text) for item in self.items], self._embedding)
        cosines = vectors.astype(np.float32) @ self._vectors.astype(np.float32).T
        nearest = cosines.argmax(axis=1)
        for row, number in enumerate(nearest):
            value = float(cosines[row, number])
            if found[row] is None and value > threshold:
                found[row] = self._finding("benchmark_similarity", int(number), value, threshold, self.items[number].text)
        return found

    def _by_text(self, text: str) -> Finding | None:
        number = self._exact.get(hash_text(normal_text(text)))
        if number is not None:
            return self._finding("benchmark_exact", number, 1.0, None, text)
        tokens = words(text)
        for size, grams in self._grams.items():
            for gram in _ngrams(tokens, size):
                if gram in grams:
                    return self._finding("benchmark_ngram", grams[gram], size, self._settings.ngram, gram)
        return None

    def _finding(self, rule: str, number: int, value: float, threshold: float | None, matched: str) -> Finding:
        item = self.items[number]
        seen = {"benchmark": item.benchmark, "item": item.index, "item_text": item.text[:300], "matched": matched[:300]}
        return Finding(rule, value, threshold, json.dumps(seen, ensure_ascii=False))


def _ngrams(tokens: Sequence[str], size: int) -> list[str]:
    return [" ".join(tokens[start : start + size]) for start in range(len(tokens) - size + 1)]


def benchmark_files(settings: DecontaminateSettings, base: Path, cache: Path) -> dict[str, str]:
    """sha256 of each benchmark file."""
    paths = [path for benchmark in settings.benchmarks for path in source_files(_as_source(benchmark), base)]
    return {f"benchmark:{file_key(path, base)}": hash_file(path, cache) for path in paths}


@lru_cache(maxsize=4)
def load_benchmarks(settings: DecontaminateSettings, embedding: EmbeddingSettings, base: Path) -> Benchmarks:
    """Read all benchmark files; BadSetting if one has no such column, since nothing would ever match it."""
    items: list[Item] = []
    for benchmark in settings.benchmarks:
        before = len(items)
        source = _as_source(benchmark)
        for path in source_files(source, base):
            for index, record in enumerate(read_file(path, source, base)):
                text = None if isinstance(record.value, BadRecord) else lookup(record.value, benchmark.question)
                if not isinstance(text, str) or not text.strip():
                    raise BadSetting(
                        f"benchmark {benchmark.name}: {record.place} has no text in column {benchmark.question!r}; "
                        f"set `question` to the right one{_columns(record.value)}"
                    )
                items.append(Item(benchmark.name, index, text))
        if len(items) == before:
            raise BadSetting(f"benchmark {benchmark.name}: {benchmark.path} holds no items")
    return Benchmarks(items, settings, embedding)


def _as_source(benchmark: Benchmark) -> FileSource:
    return FileSource(name=benchmark.name, kind="file", path=benchmark.path)


def _columns(value: Any) -> str:
    return f" (found: {', '.join(value)})" if isinstance(value, dict) else ""
