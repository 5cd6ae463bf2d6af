"""How fast runs of 20 words are counted over a corpus, against one DuckDB query that does the same.

    python tests/bench/repeats [--responses 1000000] [--per-question 4] [--lines 8] [--sample 20000] [--folder DIR]

Made first: `curated`, responses and outcomes of one teacher as a workspace holds them. Responses are lines of GSM8K's
model solutions where ../shared/data exists (else of numbers), every tenth word a number of its own, and every hundredth
response with the same 25 words in front. Then the step `repeats` runs as the factory runs it, both passes and commits
included, in a process of its own whose peak RSS is read at its end. The query runs on the responses of a first part,
and both must find the same runs there.
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import duckdb
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from storage.fingerprint import hash_text
from storage.manifest import Book, Inputs
from storage.schemas import CURATED, RESPONSES, VERDICTS
from storage.workspace import Workspace, shard_bits
from tasks.repeats import repeats_step
from tasks.step import Context, Work
from tasks.teachers.settings import ReplayTeacherSettings
from tests.bench.traces.__main__ import sentences

TEACHER = ReplayTeacherSettings(name="t", engine="replay", path="none.jsonl")
LIMIT, NGRAM = 20, 20
OPENER = (
    "Okay, let me think about this problem one step at a time and write down everything that I know before I start to "
    "solve it properly."
)


def numbered(line: str, draw: random.Random) -> str:
    words = line.split()
    words[::10] = [str(draw.randrange(10**6)) for _ in words[::10]]
    return " ".join(words)


def make(root: Path, responses: int, per_question: int, lines: int) -> float:
    """The workspace; returns the megabytes of its texts."""
    questions = responses // per_question
    workspace = Workspace.create(root, bits=shard_bits(questions))
    draw, known, size = random.Random(0), sentences(), 0
    share = -(-questions // len(workspace.shards))
    for number, shard in enumerate(workspace.shards):
        first = number << (32 - workspace.bits)
        ids = [f"{first + place:08x}{hash_text(shard, str(place))[:24]}" for place in range(share)]
        rows = []
        for identity in ids:
            for index in range(per_question):
                text = "\n".join(numbered(line, draw) for line in draw.choices(known, k=lines))
                text = f"{OPENER} {text}" if draw.random() < 0.01 else text
                size += len(text.encode())
                rows.append((hash_text(identity, str(index)), identity, index, text))
        _commit(workspace, shard, ids, rows)
    return size / 1e6


def _commit(workspace: Workspace, shard: str, ids: list[str], rows: list[tuple[str, str, int, str]]) -> None:
    def table(schema: pa.Schema, columns: dict[str, list[object]], number: int) -> pa.Table:
        missing = {field.name: pa.nulls(number, field.type) for field in schema if field.name not in columns}
        return pa.table(columns | missing).select(schema.names)

    questions = table(CURATED, {
        "question_id": ids, "messages": [[{"role": "user", "content": f"What is asked in {one}?"}] for one in ids],
        "category": ["math"] * len(ids), "question_source": ["made"] * len(ids), "source_id": ids,
        "metadata": ["{}"] * len(ids), "split": ["train"] * len(ids),
    }, len(ids))  # fmt: skip
    count = len(rows)
    common = {
        "response_id": [row[0] for row in rows], "question_id": [row[1] for row in rows], "teacher": ["t"] * count,
        "sample_index": [row[2] for row in rows],
    }  # fmt: skip
    responses = table(RESPONSES, common | {
        "model_revision": ["r"] * count, "round": [0] * count, "answer_content": [row[3] for row in rows],
        "sampling": ["{}"] * count,
    }, count)  # fmt: skip
    verdicts = table(VERDICTS, common | {
        "verifier": ["outcome"] * count, "verifier_version": ["1"] * count, "verify_score": [1.0] * count,
        "passed": [True] * count, "status": ["accepted"] * count, "evidence": ["{}"] * count, "timing": ["{}"] * count,
    }, count)  # fmt: skip
    for step, name, made, unit in (("curate", "curated", questions, "question"),
                                   ("generate.t", "responses", responses, "request"),
                                   ("verify.t", "verdicts", verdicts, "response")):  # fmt: skip
        book = Book(unit, made.num_rows, made.num_rows)
        workspace.begin(step, shard, Inputs("made", {}, {}), run_id="bench").commit(name, made, [], [book])


def count(root: Path) -> tuple[float, float, float, dict[str, int]]:
    """Run the step: seconds, CPU seconds, peak MiB, what it says of itself."""
    workspace = Workspace.open(root)
    step = repeats_step([TEACHER], NGRAM, LIMIT)
    work = [Work(shard, Inputs("bench", {}, {}), "bench") for shard in workspace.shards]
    started = time.perf_counter()
    step.run(Context(workspace, "bench"), step, work)
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    said = workspace.need("repeats", workspace.shards[0]).extra
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, said


def found_by_step(root: Path) -> int:
    workspace = Workspace.open(root)
    return sum(workspace.read("repeats", shard, "repeats").num_rows for shard in workspace.shards)


def query(root: Path) -> tuple[float, int]:
    """The same by DuckDB, on the whole workspace at `root`: seconds, responses with a frequent run."""
    started = time.perf_counter()
    with duckdb.connect(config={"memory_limit": "4GiB", "temp_directory": str(root / "tmp" / "duckdb")}) as connection:
        ((number,),) = connection.execute(
            f"""
            with words as (
                select response_id, question_id, string_split_regex(trim(answer_content), '\\s+') as words
                from read_parquet('{root}/tables/responses/*/*.parquet', hive_partitioning = false)
            ), runs as (
                select response_id, question_id,
                    unnest(list_transform(range(1, len(words) - {NGRAM - 2}),
                        lambda i: hash(list_slice(words, i, i + {NGRAM - 1})))) as run
                from words
            ), frequent as (
                select run from runs group by run having count(distinct question_id) > {LIMIT}
            )
            select count(distinct response_id) from runs semi join frequent using (run)
            """
        ).fetchall()
    return time.perf_counter() - started, number


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--responses", type=int, default=1_000_000)
    options.add_argument("--per-question", type=int, default=4)
    options.add_argument("--lines", type=int, default=8)
    options.add_argument("--sample", type=int, default=20_000)
    options.add_argument("--folder", type=Path)
    chosen = options.parse_args()
    folder = Path(tempfile.mkdtemp(dir=chosen.folder))
    try:
        rates = {}
        for name, responses in (("sample", min(chosen.sample, chosen.responses)), ("all", chosen.responses)):
            root = folder / name
            megabytes = make(root, responses, chosen.per_question, chosen.lines)
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                seconds, cpu, peak, said = process.submit(count, root).result()
            rates[name] = megabytes / seconds
            print(f"{responses:,} responses, {megabytes:,.0f} MB: {seconds:.1f} s, {rates[name]:.1f} MB/s (both passes "
                  f"and commits), CPU {cpu:.1f} s, peak {peak:,.0f} MiB; {said['runs']:,} runs on disk, 1 of "
                  f"{said['rate']} hashes, {said['frequent']:,} of them frequent, {found_by_step(root):,} responses",
                  flush=True)  # fmt: skip
            if name == "sample":
                seconds, number = query(root)
                assert number == found_by_step(root), f"DuckDB finds {number} responses, the step {found_by_step(root)}"
                rates["query"] = megabytes / seconds
                print(f"the same by one DuckDB query: {seconds:.1f} s, {rates['query']:.1f} MB/s", flush=True)
        print(f"ratio on the sample {rates['sample'] / rates['query']:.1f}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
