"""Seconds for many questions against many benchmark items, against a plain scan with Python sets of n-grams.

Questions are GSM8K's and MATH's with a third of their words exchanged, items are drawn from the same; one question in a
hundred is a planted copy. Vectors are random, near ones planted with the copies: embedding is not timed. The scan, as
most projects write it, makes the set of a question's 13-grams and looks each up; it runs on a sample and is scaled up.
"""

from __future__ import annotations

import json
import random
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

from tasks import decontaminate
from tasks.decontaminate import Benchmarks, DecontaminateSettings
from tasks.decontaminate_benchmarks import Item
from tasks.decontaminate_text import words
from tasks.embeddings import EmbeddingSettings

CHUNK = 65_536
WIDTH = 384


def texts(data: Path, count: int, seed: int) -> list[str]:
    source = random.Random(seed)
    real = [json.loads(line)["question"] for line in (data / "gsm8k_test.jsonl").read_text().splitlines()]
    real += [json.loads(line)["problem"] for line in (data / "math_test.json").read_text().splitlines()]
    split = [text.split() for text in real]
    vocabulary = [word for text in split for word in text]
    made = []
    for _ in range(count):
        text = split[source.randrange(len(split))]
        made.append(" ".join(source.choice(vocabulary) if source.random() < 0.33 else word for word in text))
    return made


def vectors(count: int, seed: int) -> Any:
    made = np.random.default_rng(seed).standard_normal((count, WIDTH), np.float32)
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float16)


def run(data: Path, questions: int, items: int, sample: int) -> None:
    item_texts, item_vectors = texts(data, items, 1), vectors(items, 1)
    decontaminate.embed = lambda texts, settings: item_vectors[: len(texts)]  # type: ignore[attr-defined]
    start = time.perf_counter()
    index = Benchmarks([Item("bench", number, text) for number, text in enumerate(item_texts)],
                       DecontaminateSettings(), EmbeddingSettings())  # fmt: skip
    print(f"index of {items:,} items: {time.perf_counter() - start:.1f} s", flush=True)
    seconds, planted, caught, flagged = 0.0, 0, 0, 0
    for first in range(0, questions, CHUNK):
        batch = texts(data, min(CHUNK, questions - first), 100 + first)
        near = vectors(len(batch), 100 + first)
        for number in range(0, len(batch), 100):
            batch[number] = "Answer this. " + item_texts[(first + number) % items]
            near[number] = item_vectors[(first + number) % items]
            planted += 1
        start = time.perf_counter()
        found = index.check(batch, near)
        seconds += time.perf_counter() - start
        hits = {number for number, one in enumerate(found) if one.verdict == "contaminated"}
        copies = set(range(0, len(batch), 100))
        caught += len(hits & copies)
        flagged += len(hits - copies)
    print(f"{questions:,} questions: {seconds:.1f} s, {questions / seconds:,.0f} a second; planted copies found "
          f"{caught:,} "
          f"of {planted:,}, others flagged {flagged:,}; peak "
          f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")  # fmt: skip
    scan = plain_scan(item_texts, texts(data, min(sample, questions), 100)) * questions / min(sample, questions)
    print(f"plain Python sets of 13-grams, n-gram rule only, scaled up from {min(sample, questions):,}: {scan:.1f} s; "
          f"ratio {scan / seconds:.2f}")  # fmt: skip


def plain_scan(items: list[str], questions: list[str]) -> float:
    """Seconds for the sample, without building the index."""
    grams = {gram for text in items for gram in _grams(text)}
    start = time.perf_counter()
    sum(not grams.isdisjoint(_grams(text)) for text in questions)
    return time.perf_counter() - start


def _grams(text: str) -> set[str]:
    parts = words(text)
    return {" ".join(parts[place : place + 13]) for place in range(len(parts) - 12)}
