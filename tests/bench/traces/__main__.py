"""How fast traces are checked, against the plain way to count runs of 20 words: a dictionary of tuples.

    python tests/bench/traces [--traces 60] [--words 20000] [--processes 2]

Traces are made of the words of GSM8K's model solutions where ../shared/data exists (else of numbers), with a tenth of
them looping at the end. One process, then the pool of the verify step, its processes started before; the extrapolation
is to a million such traces.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tasks.verifiers.bench import Subject
from tasks.verifiers.settings import TraceSettings
from tasks.verifiers.trace import TraceVerifier
from tasks.verifiers.trace_pool import TracePool

SOLUTIONS = Path(__file__).resolve().parents[4] / "shared" / "data" / "gsm8k_model_solutions.jsonl"


def sentences() -> list[str]:
    if not SOLUTIONS.exists():
        return [f"So {n} and {n * 7 % 1009} make {n * 3}." for n in range(5000)]
    rows = [json.loads(line) for line in SOLUTIONS.read_text().splitlines()]
    return [line for row in rows for line in row["175b_verification"]["solution"].splitlines()]


def make_traces(number: int, words: int) -> list[str]:
    draw, lines = random.Random(0), sentences()
    found = []
    for index in range(number):
        length, parts = 0, []
        while length < words:
            parts.append(draw.choice(lines))
            length += len(parts[-1].split())
        text = "\n".join(parts)
        if index % 10 == 0:
            text = text[: len(text) // 2] + " Wait, let me check that again." * (words // 12)
        found.append(text)
    return found


def plain(text: str) -> int:
    words = text.split()
    return max(Counter(tuple(words[start : start + 20]) for start in range(len(words) - 19)).values(), default=0)


def timed(work: Callable[[str], object], traces: list[str]) -> float:
    """Megabytes a second."""
    started = time.perf_counter()
    for text in traces:
        work(text)
    return sum(len(text.encode()) for text in traces) / 1e6 / (time.perf_counter() - started)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--traces", type=int, default=60)
    options.add_argument("--words", type=int, default=20_000)
    options.add_argument("--processes", type=int, default=2)
    chosen = options.parse_args()
    traces = make_traces(chosen.traces, chosen.words)
    verifier = TraceVerifier(TraceSettings())
    question = {"messages": [{"role": "user", "content": "How many apples are left?"}]}

    def subject(text: str) -> Subject:
        return Subject("r", question, {"think_content": text, "answer_content": "It is 4.", "finish_reason": "stop",
                                       "turns": None})  # fmt: skip

    def check(text: str) -> int:
        found = verifier.judge([subject(text)])[0].evidence["checks"]["repeated_run"]["value"]  # type: ignore[index]
        return int(found)

    assert all(check(text) == plain(text) for text in traces[:10]), "both ways count the same"
    ours, theirs = timed(check, traces), timed(plain, traces)
    megabytes = sum(len(text.encode()) for text in traces) / 1e6 / len(traces)
    print(f"{len(traces)} traces of {chosen.words:,} words, {megabytes:.3f} MB each")
    print(f"all checks           {ours:8.1f} MB/s   a million such traces: {1e6 * megabytes / ours / 3600:.1f} h")
    print(f"tuples in a counter  {theirs:8.1f} MB/s   (the run count alone)")
    print(f"ratio                {ours / theirs:8.1f}")
    subjects = [subject(text) for text in traces]
    with TracePool(TraceSettings(), chosen.processes) as pool:
        pool.judge(subjects)
        started = time.perf_counter()
        pool.judge(subjects)
        shared = megabytes * len(traces) / (time.perf_counter() - started)
    print(f"{chosen.processes} processes          {shared:8.1f} MB/s   ratio to one {shared / ours:.1f}")


if __name__ == "__main__":
    main()
