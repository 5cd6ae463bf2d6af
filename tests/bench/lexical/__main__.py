"""Lexical near-copies against datasketch's MinHashLSH, in one run, on questions made from real ones.

    python tests/bench/lexical [--rows 100000] [--datasketch-rows 20000] [--exact-rows 20000]

Questions are GSM8K's and MATH's, each rewritten with words of others until there are enough; every tenth is followed
by a near-copy of it. Printed: seconds, pairs, peak memory of each, recall against all pairs compared on the first
`--exact-rows`, and how many times datasketch's seconds ours are. datasketch gets the same n-gram sets, ready made, and
answers with candidates only; its own recheck is left out. Needs `pip install datasketch` and ../shared/data.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix

PROJECT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(PROJECT))

from tasks.lexical import LexicalSettings, band_shape, expected_recall, find_lexical_pairs  # noqa: E402
from tasks.lexical_sets import ngram_sets  # noqa: E402

DATA = PROJECT.parent / "shared" / "data"
BLOCK = 500
SETTINGS = LexicalSettings(threshold=0.8)


def questions(count: int) -> Iterator[str]:
    """The same for the same count; word order of a new question is that of a real one, a third of its words others'."""
    source = random.Random(20250424)
    real = [json.loads(line)["question"] for line in (DATA / "gsm8k_test.jsonl").read_text().splitlines()]
    real += [json.loads(line)["problem"] for line in (DATA / "math_test.json").read_text().splitlines()]
    words = [text.split() for text in real]
    vocabulary = [word for text in words for word in text]
    for number in range(count):
        if number % 10 != 9:
            text = list(source.choice(words)) if number >= len(words) else list(words[number])
            if number >= len(words):
                text = [source.choice(vocabulary) if source.random() < 0.33 else word for word in text]
            last = text
        else:  # a near-copy: up to two words differ
            text = list(last)
            for _ in range(source.randrange(3)):
                text[source.randrange(len(text))] = source.choice(vocabulary)
        yield " ".join(text)


def ours(count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "questions.parquet"
        with pq.ParquetWriter(path, pa.schema([("question", pa.string())])) as file:
            texts = questions(count)
            while batch := list(islice(texts, 50_000)):
                file.write_table(pa.table({"question": batch}))
        start = time.perf_counter()
        found = find_lexical_pairs(path, SETTINGS)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "pairs": len(found.left), "compared": found.compared,
            "left": found.left.tolist(), "right": found.right.tolist()}  # fmt: skip


def datasketch(count: int) -> dict[str, Any]:
    from datasketch import MinHash, MinHashLSH

    flat, offsets = ngram_sets(list(questions(count)), SETTINGS.ngram)
    sets = [flat[one:end] for one, end in pairwise(offsets)]
    start = time.perf_counter()
    lsh = MinHashLSH(threshold=SETTINGS.threshold, num_perm=128, params=band_shape(SETTINGS.threshold))
    pairs = 0
    for number, hashes in enumerate(sets):
        sketch = MinHash(num_perm=128, hashfunc=lambda value: value & 0xFFFFFFFF)
        sketch.update_batch(hashes.tolist())
        pairs += len(lsh.query(sketch))
        lsh.insert(number, sketch, check_duplication=False)
    return {"seconds": time.perf_counter() - start, "pairs": pairs}


def exact(count: int) -> dict[str, Any]:
    """All pairs of the first `count` questions, by blocks of a sparse product; `same`: for each row the first row with
    the same set."""
    flat, offsets = ngram_sets(list(questions(count)), SETTINGS.ngram)
    names, columns = np.unique(flat, return_inverse=True)
    sets = csr_matrix((np.ones(len(flat), np.int32), columns, offsets), shape=(count, len(names)))
    sizes = np.diff(offsets)
    left, right = [np.zeros(0, int)], [np.zeros(0, int)]
    for start in range(0, count, BLOCK):
        common = (sets[start : start + BLOCK] @ sets[start:].T).tocoo()
        one, other = common.row + start, common.col + start
        good = (one < other) & (common.data >= SETTINGS.threshold * (sizes[one] + sizes[other] - common.data))
        left.append(one[good])
        right.append(other[good])
    first: dict[bytes, int] = {}
    same = [first.setdefault(flat[one:end].tobytes(), row) for row, (one, end) in enumerate(pairwise(offsets))]
    return {"left": np.concatenate(left).tolist(), "right": np.concatenate(right).tolist(), "same": same}


def between_sets(found: dict[str, Any], same: list[int]) -> set[frozenset[int]]:
    """Pairs of different sets: of copies ours pairs each with one of them only."""
    pairs = zip(found["left"], found["right"], strict=True)
    return {frozenset((same[one], same[other])) for one, other in pairs if other < len(same)}


def alone(what: str, count: int) -> dict[str, Any]:
    """One contestant in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, str(Path(__file__).parent), "--only", what, "--rows", str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{what} ended with {process.returncode}; is there memory, and `pip install datasketch`?")
    found: dict[str, Any] = json.loads(line)
    return found


def only(what: str, count: int) -> None:
    if what == "exact":
        found = exact(count)
    else:
        found = ours(count) if what == "ours" else datasketch(count)
    found["peak_mb"] = _peak_mb()
    print(json.dumps(found))


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return float(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=100_000)
    options.add_argument("--datasketch-rows", type=int, default=20_000)
    options.add_argument("--exact-rows", type=int, default=20_000)
    options.add_argument("--only", choices=("ours", "datasketch", "exact"), help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.only:
        return only(given.only, given.rows)
    bands, rows = band_shape(SETTINGS.threshold)
    print(f"threshold {SETTINGS.threshold}, {SETTINGS.ngram}-grams, {bands} bands of {rows} rows: expected recall "
          f"{expected_recall(SETTINGS.threshold, bands, rows):.4f} at the threshold, more above it")  # fmt: skip
    mine = alone("ours", given.rows)
    print(f"stillhouse  {given.rows:>9,} rows  {mine['seconds']:8.1f} s  {mine['pairs']:>9,} pairs  "
          f"{mine['compared']:>11,} compared  peak {mine['peak_mb']:,.0f} MB")  # fmt: skip
    truth = alone("exact", min(given.exact_rows, given.rows))
    wanted, got = between_sets(truth, truth["same"]), between_sets(mine, truth["same"])
    print(f"of {len(wanted):,} pairs of different sets among the first {len(truth['same']):,} rows: recall "
          f"{len(wanted & got) / len(wanted):.4f}, false {len(got - wanted)}")  # fmt: skip
    if given.datasketch_rows:
        other = alone("datasketch", given.datasketch_rows)
        same = mine if given.datasketch_rows == given.rows else alone("ours", given.datasketch_rows)
        print(f"datasketch  {given.datasketch_rows:>9,} rows  {other['seconds']:8.1f} s  {other['pairs']:>9,} candidate"
              f"s  peak {other['peak_mb']:,.0f} MB")  # fmt: skip
        print(f"on {given.datasketch_rows:,} rows datasketch takes {other['seconds'] / same['seconds']:.1f} times the "
              f"seconds of stillhouse ({same['seconds']:.1f} s), whose n-grams are made within the time")  # fmt: skip
    return None


if __name__ == "__main__":
    main()
