"""Near-duplicate pairs against NumPy, faiss, USearch and semhash, in one run.

    python tests/bench/dedup [--rows 100000]        all methods: pairs, recall, seconds, peak memory, ratios
    python tests/bench/dedup --growth               ours at 50k, 100k, 200k, 400k
    python tests/bench/dedup --million [--add 1000] a million rows, recall by a sampled exact check; then rows added
    python tests/bench/dedup --crowd 100000         so many vectors all alike, and so many all equal

Data: f16 unit vectors of 384 dimensions; every tenth row is another's near copy with a cosine from 0.8 to 1 (threshold
0.9). By default they lie as embeddings of texts do, with a common part and a few hundred topics; `--spread` draws
them evenly from the sphere. Each method runs in a process of its own, on all cores, and is given the vectors in a file;
making its index counts, reading the file doesn't. Columns whose library isn't installed are left out: `pip install
stillhouse[bench]`. semhash answers with rows that go, not with pairs;
its recall is the share of pairs of which a row goes.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

PROJECT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(PROJECT))

THRESHOLD, DIMENSIONS, CHUNK = 0.9, 384, 65_536
NEEDS = {"faiss": "faiss", "usearch": "usearch", "semhash": "semhash"}


def make_file(path: Path, rows: int, even: bool, seed: int = 0) -> None:
    """Write the vectors; a near copy's original is anywhere among the rows before it in its chunk."""
    random = np.random.default_rng(seed)
    common = random.normal(size=DIMENSIONS)
    topics = random.normal(size=(400, DIMENSIONS))
    out = np.memmap(path, np.float16, "w+", shape=(rows, DIMENSIONS))
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        piece = random.normal(size=(count, DIMENSIONS)).astype(np.float32)
        if not even:
            piece += 0.5 * common + 0.8 * topics[random.integers(len(topics), size=count)]
        piece /= np.linalg.norm(piece, axis=1, keepdims=True)
        copies = np.arange(9, count, 10)
        noise = random.normal(size=(len(copies), DIMENSIONS)) / DIMENSIONS**0.5
        strength = random.uniform(0, 0.75, (len(copies), 1))
        piece[copies] = piece[(random.random(len(copies)) * (copies - 1)).astype(int)] + noise * strength
        out[start : start + count] = piece / np.linalg.norm(piece, axis=1, keepdims=True)
    out.flush()


def read(path: Path, rows: int) -> Any:
    return np.memmap(path, np.float16, "r", shape=(rows, DIMENSIONS))


def ours(vectors: Any) -> Any:
    from tasks.similarity import similar_pairs

    found = similar_pairs(vectors, THRESHOLD)
    return found.left, found.right


def numpy_product(vectors: Any) -> Any:
    """The bare blocked product of the upper triangle, and the least that can be done with it."""
    wide, block = vectors.astype(np.float32), 2048
    left, right = [], []
    for top in range(0, len(wide), block):
        for start in range(top, len(wide), block):
            products = wide[top : top + block] @ wide[start : start + block].T
            row, column = np.nonzero(products >= THRESHOLD)
            left.append(row + top)
            right.append(column + start)
    one, other = np.concatenate(left), np.concatenate(right)
    return one[one < other], other[one < other]


def faiss(vectors: Any) -> Any:
    import faiss

    index = faiss.IndexFlatIP(DIMENSIONS)
    wide = vectors.astype(np.float32)
    index.add(wide)
    left, right = [], []
    for start in range(0, len(wide), 8192):
        limits, _, labels = index.range_search(wide[start : start + 8192], THRESHOLD)
        one = np.repeat(np.arange(len(limits) - 1), np.diff(limits).astype(int)) + start
        left.append(one[one < labels])
        right.append(labels[one < labels])
    return np.concatenate(left), np.concatenate(right)


def usearch(vectors: Any) -> Any:
    from usearch.index import Index

    index = Index(ndim=DIMENSIONS, metric="cos", dtype="f16")
    index.add(np.arange(len(vectors)), np.asarray(vectors))
    left, right = [], []
    for start in range(0, len(vectors), 8192):
        matches = index.search(np.asarray(vectors[start : start + 8192]), 32)
        near = matches.distances <= 1 - THRESHOLD
        one = np.repeat(np.arange(len(near)), near.sum(axis=1)) + start
        left.append(one)
        right.append(matches.keys[near].astype(np.int64))
    one, other = np.concatenate(left), np.concatenate(right)
    codes = np.unique(np.minimum(one, other)[one != other] * len(vectors) + np.maximum(one, other)[one != other])
    return codes // len(vectors), codes % len(vectors)


def semhash(vectors: Any) -> Any:
    """The rows that go, each with the one that stays for it."""
    from semhash import SemHash

    class Ready:
        def encode(self, texts: Any, **more: Any) -> Any:
            return wide[[int(text) for text in texts]]

    wide = vectors.astype(np.float32)
    texts = [str(number) for number in range(len(wide))]
    found = SemHash.from_embeddings(wide, texts, model=Ready()).self_deduplicate(threshold=THRESHOLD)
    pairs = [(int(one.record), int(one.duplicate_of)) for one in found.filtered if one.duplicate_of is not None]
    left, right = np.array(pairs, np.int64).reshape(-1, 2).T
    return left, right


METHODS = {"stillhouse": ours, "numpy": numpy_product, "faiss": faiss, "usearch": usearch, "semhash": semhash}


def alone(options: list[str]) -> dict[str, Any]:
    """One method in a process of its own, so that its peak memory is its own."""
    with subprocess.Popen([sys.executable, str(Path(__file__).parent), *options], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        text = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{options[1]} ended with {process.returncode}; is there memory for it?")
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found


def only(method: str, path: Path, rows: int) -> None:
    vectors = read(path, rows)
    for start in range(0, rows, CHUNK):  # into the page cache
        vectors[start : start + CHUNK].max()
    if method in NEEDS or method == "stillhouse":
        importlib.import_module(NEEDS.get(method, "tasks.similarity"))  # libraries are loaded before the clock starts
    before = status("VmRSS")
    start = time.perf_counter()
    left, right = METHODS[method](vectors)
    seconds = time.perf_counter() - start
    np.save(path.with_suffix(f".{method}.npy"), left.astype(np.int64) * rows + right)
    anonymous = status("VmHWM") - status("RssFile")
    print(json.dumps({"seconds": seconds, "pairs": len(left), "peak": status("VmHWM"), "own": anonymous,
                      "before": before}))  # fmt: skip


def status(name: str) -> float:
    """A line of this process's status, in MB."""
    return float(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) / 1024


def compare(folder: Path, rows: int, even: bool, methods: list[str]) -> None:
    path = folder / "vectors.f16"
    make_file(path, rows, even)
    print(f"{rows:,} × {DIMENSIONS}, cosine ≥ {THRESHOLD}, {'even on the sphere' if even else 'in topics'}")
    print(f"{'':<12}{'seconds':>9}{'pairs':>10}{'recall':>9}{'peak MB':>9}{'times ours':>12}")
    truth: Any = None
    first = 0.0
    for method in methods:
        if method in NEEDS and importlib.util.find_spec(NEEDS[method]) is None:
            print(f"{method:<12}not installed: pip install stillhouse[bench]")
            continue
        found = alone(["--only", method, "--rows", str(rows), "--file", str(path)])
        codes = np.load(path.with_suffix(f".{method}.npy"))
        if truth is None:
            truth, first = exact_codes(path, rows, codes), found["seconds"]
        dropped = codes // rows
        hit = np.isin(truth // rows, dropped) | np.isin(truth % rows, dropped)
        recall = float((hit if method == "semhash" else np.isin(truth, codes)).mean())
        print(f"{method:<12}{found['seconds']:>9.1f}{found['pairs']:>10,}{recall:>9.4f}{found['peak']:>9,.0f}"
              f"{found['seconds'] / first:>12.2f}", flush=True)  # fmt: skip


def exact_codes(path: Path, rows: int, codes: Any) -> Any:
    """All pairs by NumPy in float32, decided in float64: what recall is measured against."""
    vectors = read(path, rows)
    wide, found = vectors.astype(np.float32), []
    for top in range(0, rows, 2048):
        products = wide[top : top + 2048] @ wide[top:].T
        row, column = np.nonzero(products >= THRESHOLD - 1e-3)
        one, other = row + top, column + top
        one, other = one[one < other], other[one < other]
        left, right = vectors[one].astype(np.float64), vectors[other].astype(np.float64)
        values = (left * right).sum(1) / np.sqrt((left**2).sum(1) * (right**2).sum(1))
        good = values.astype(np.float32) >= np.float32(THRESHOLD)
        found.append(one[good] * rows + other[good])
    truth = np.concatenate(found)
    print(f"exact: {len(truth):,} pairs; of ours {int((~np.isin(codes, truth)).sum())} are not among them")
    return truth


def growth(folder: Path, even: bool) -> None:
    print(f"{'rows':>9}{'seconds':>9}{'s per 1e9 pairs':>17}{'pairs':>10}{'own peak MB':>13}{'bytes a row':>13}")
    smallest: dict[str, Any] = {}
    for rows in (50_000, 100_000, 200_000, 400_000):
        path = folder / "vectors.f16"
        make_file(path, rows, even)
        found = alone(["--only", "stillhouse", "--rows", str(rows), "--file", str(path)])
        smallest = smallest or {"rows": rows} | found
        more = rows - smallest["rows"]
        each = f"{(found['own'] - smallest['own']) * 2**20 / more:>13,.0f}" if more else f"{'–':>13}"
        print(f"{rows:>9,}{found['seconds']:>9.1f}{found['seconds'] / (rows**2 / 2e9):>17.2f}{found['pairs']:>10,}"
              f"{found['own']:>13,.0f}{each}", flush=True)  # fmt: skip


def million(folder: Path, rows: int, add: int, even: bool) -> None:
    from tasks.similarity import similar_pairs

    path = folder / "vectors.f16"
    make_file(path, rows + add, even)
    found = alone(["--only", "stillhouse", "--rows", str(rows), "--file", str(path)])
    codes = np.load(path.with_suffix(".stillhouse.npy"))
    vectors = read(path, rows + add)
    print(f"{rows:,} rows: {found['seconds']:.0f} s, {found['pairs']:,} pairs, peak {found['peak']:,.0f} MB, of which "
          f"its own {found['own']:,.0f} (the rest is the file's pages)", flush=True)  # fmt: skip
    sample = np.sort(np.random.default_rng(1).choice(rows, min(2000, rows), replace=False))
    true, ours_too = 0, 0
    for start in range(0, rows, CHUNK):
        stop = min(start + CHUNK, rows)
        products = vectors[sample].astype(np.float32) @ vectors[start:stop].astype(np.float32).T
        row, column = np.nonzero(products >= THRESHOLD + 1e-4)  # what NumPy's own rounding can't have made
        one, other = sample[row], column + start
        one, other = one[one != other], other[one != other]
        true += len(one)
        ours_too += int(np.isin(np.minimum(one, other) * rows + np.maximum(one, other), codes).sum())
    print(f"recall on {len(sample):,} random rows × all, by NumPy: {ours_too:,} of {true:,} = {ours_too / true:.5f}")
    if add:
        new = np.arange(rows + add) >= rows
        start_at = time.perf_counter()
        more = similar_pairs(vectors, THRESHOLD, new=new)
        print(f"{add:,} more × all: {time.perf_counter() - start_at:.1f} s, {len(more.left):,} pairs")


def crowd(rows: int) -> None:
    from tasks.similarity import similar_pairs

    random = np.random.default_rng(0)
    for noise, what in ((0.0, "equal"), (0.02, "alike")):
        vectors = random.normal(size=DIMENSIONS) + random.normal(size=(rows, DIMENSIONS)) * noise
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
        start = time.perf_counter()
        found = similar_pairs(vectors, THRESHOLD)
        print(f"{rows:,} vectors all {what}: {found.found:,} pairs, {len(found.left):,} kept, "
              f"{time.perf_counter() - start:.1f} s, peak {status('VmHWM'):,.0f} MB", flush=True)  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int)
    options.add_argument("--spread", action="store_true")
    options.add_argument("--growth", action="store_true")
    options.add_argument("--million", action="store_true")
    options.add_argument("--add", type=int, default=0)
    options.add_argument("--crowd", type=int, metavar="ROWS")
    options.add_argument("--methods", default=",".join(METHODS), help="default: %(default)s; the first is the measure")
    options.add_argument("--only", choices=METHODS, help=argparse.SUPPRESS)
    options.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.only:
        return only(given.only, given.file, given.rows)
    if given.crowd:
        return crowd(given.crowd)
    with tempfile.TemporaryDirectory() as folder:
        if given.growth:
            return growth(Path(folder), given.spread)
        if given.million:
            return million(Path(folder), given.rows or 1_000_000, given.add, given.spread)
        return compare(Path(folder), given.rows or 100_000, given.spread, given.methods.split(","))


if __name__ == "__main__":
    main()
