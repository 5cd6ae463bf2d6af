"""`python tests/bench/generate`: the whole generate step against a bare asyncio client on the same server.

    python tests/bench/generate                                          an instant stub server: requests/s, rows
    python tests/bench/generate --base-url http://host:8000/v1 --model M    a real one: tokens/s

Both send the same bodies with the same number in flight, by turns, in pairs; the ratio of each pair is printed, and
their median. The factory's time is that of the step: planning, asking, logging, and committing rows as Parquet. With
the stub, client and server share this machine's cores. `--shards` and `--questions` set how many of each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(PROJECT))

import aiohttp  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.compute as pc  # noqa: E402

from storage.fingerprint import hash_text  # noqa: E402
from storage.manifest import Book, Inputs  # noqa: E402
from storage.schemas import CURATED  # noqa: E402
from storage.workspace import Workspace  # noqa: E402
from tasks.generate import generate_step  # noqa: E402
from tasks.step import Context, Work  # noqa: E402
from tasks.teachers.chat import chat_body  # noqa: E402
from tasks.teachers.settings import OpenAITeacherSettings, Sampling  # noqa: E402
from tasks.teachers.teacher import Request  # noqa: E402


@dataclass(frozen=True)
class Run:
    seconds: float
    answered: int
    tokens: int


def sampling(given: argparse.Namespace) -> dict[str, Any]:
    return {"temperature": 0.8, "max_tokens": given.max_tokens}


def extra_body(given: argparse.Namespace) -> dict[str, Any]:
    return {"ignore_eos": True} if given.ignore_eos else {}


def question(number: int) -> str:
    return f"What is {number} + {7 * number}? Think step by step, then put the answer into \\boxed{{}}."


def factory(given: argparse.Namespace, url: str, folder: Path) -> Run:
    """The generate step in a fresh workspace, whose questions are curated before the clock starts."""
    workspace = Workspace.create(folder, bits=given.shards.bit_length() - 1)
    contents = curated(workspace, given.questions)
    teacher = OpenAITeacherSettings(
        name="t", engine="openai", model=given.model, base_url=url, samples=given.samples, seeds=False,
        concurrency=given.concurrency, sampling=Sampling(**sampling(given)),
        extra_body=extra_body(given),
    )  # fmt: skip
    step = generate_step(teacher, folder)
    work = [
        Work(shard, Inputs(step.version, step.settings, {"curate": contents[shard]}), "bench") for shard in contents
    ]
    start = time.perf_counter()
    step.run(Context(workspace, "bench"), step, work)
    took = time.perf_counter() - start
    shards = [workspace.read(step.key, shard, "responses") for shard in workspace.shards]
    answered = sum(rows.column("error_kind").null_count for rows in shards)
    tokens = sum(pc.sum(rows.column("completion_tokens")).as_py() or 0 for rows in shards)
    return Run(took, answered, tokens)


def curated(workspace: Workspace, number: int) -> dict[str, str]:
    """Commit the questions; the content of each shard."""
    by_shard: dict[str, list[dict[str, Any]]] = {shard: [] for shard in workspace.shards}
    for one in range(number):
        row: dict[str, Any] = dict.fromkeys(CURATED.names) | {
            "question_id": hash_text(question(one)), "messages": [{"role": "user", "content": question(one)}],
            "category": "math", "question_source": "sums", "source_id": str(one), "metadata": "{}", "split": "train",
        }  # fmt: skip
        by_shard[workspace.shard_of(row["question_id"])].append(row)
    contents = {}
    for shard, rows in by_shard.items():
        transaction = workspace.begin("curate", shard, Inputs("1", {}, {}), run_id="bench")
        table = pa.Table.from_pylist(rows, schema=CURATED)
        contents[shard] = transaction.commit("curated", table, [], [Book("question", len(rows), len(rows))]).content
    return contents


def bare(given: argparse.Namespace, url: str) -> Run:
    """The least that a client can do: send the same bodies, decode the answers, count."""
    bodies = []
    for number in range(given.questions):
        request = Request("", "", 0, ({"role": "user", "content": question(number)},), sampling(given), None)
        bodies += [chat_body(given.model, request, extra_body(given), None, False)] * given.samples
    start = time.perf_counter()
    answered, tokens = asyncio.run(_bare(bodies, f"{url}/chat/completions", given.concurrency))
    return Run(time.perf_counter() - start, answered, tokens)


async def _bare(bodies: list[bytes], url: str, concurrency: int) -> tuple[int, int]:
    todo, answered, tokens = iter(bodies), 0, 0
    timeout = aiohttp.ClientTimeout(total=None)
    headers = {"Content-Type": "application/json"}

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:

        async def worker() -> None:
            nonlocal answered, tokens
            for body in todo:
                async with session.post(url, data=body, headers=headers) as response:
                    answer = json.loads(await response.read())
                answered += 1
                tokens += answer["usage"]["completion_tokens"]

        await asyncio.gather(*(worker() for _ in range(concurrency)))
    return answered, tokens


def compare(given: argparse.Namespace, url: str, unit: str) -> None:
    ratios = []
    for pair in range(given.pairs):
        folder = Path(tempfile.mkdtemp(prefix="stillhouse-bench-"))
        try:
            if pair % 2:
                ours, theirs = factory(given, url, folder), bare(given, url)
            else:
                theirs, ours = bare(given, url), factory(given, url, folder)
        finally:
            shutil.rmtree(folder)
        rates = [(run.tokens if unit == "tokens" else run.answered) / run.seconds for run in (ours, theirs)]
        ratios.append(rates[0] / rates[1])
        print(
            f"pair {pair + 1}: factory {rates[0]:,.0f} {unit}/s ({ours.answered:,} rows written in "
            f"{ours.seconds:.1f} s), bare client {rates[1]:,.0f} {unit}/s, ratio {ratios[-1]:.3f}",
            flush=True,
        )
    print(f"median ratio {statistics.median(ratios):.3f} of {len(ratios)} pairs, {given.concurrency} in flight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", help="a real server, up to /v1; without it the stub is asked")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--questions", type=int, default=5000)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--shards", type=int, default=4, help="a power of two")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--ignore-eos", action="store_true", help="all responses max_tokens long (vLLM's ignore_eos)")
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    if given.base_url:
        compare(given, given.base_url.rstrip("/"), "tokens")
        return
    command = [sys.executable, str(Path(__file__).with_name("stub.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stub:
        assert stub.stdout is not None
        port = int(stub.stdout.readline())
        try:
            compare(given, f"http://127.0.0.1:{port}/v1", "requests")
        finally:
            stub.communicate()


if __name__ == "__main__":
    main()
