"""Benchmark: selection over 3.34 M grades and 40 M outcomes, as columns against row by row.

    python tests/bench/select_scale [--questions 3340000] [--memory-mb 4096] [--folder /data]

A workspace is synthesised as tests/bench/grade does it (three teachers, four samples, `curated` and outcomes), and
graded. Then `select` runs in a process of its own, its peak RSS sampled: first with rules within shards (verified,
best two of a question), then with rules on the whole data set as well (quotas, mix, budget, matched difficulty). The
alternative is the row-by-row choice that the stage made before (group the outcomes by question, sort, take),
over a few shards in one process, without its ledger and commits, extrapolated. Nothing is asserted on time.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "grade"))

import paper_scale as bench_grade

from flows.run import ranges, run_range
from storage.workspace import Workspace, shard_bits
from tasks.select import SelectSettings, select_steps
from tasks.step import Context, Heads, pending_work

SAMPLE_QUESTIONS = 20_000
LOCAL = SelectSettings(max_per_question=2, trace=None)


def whole(questions: int) -> SelectSettings:
    """Rules on the whole data set that each leave something out."""
    return SelectSettings(
        max_per_question=2, trace=None, categories={"code": questions // 10}, sources={"made": questions},
        mix={"r1": 2, "qwen_7b": 1}, budget={"examples": questions // 3}, prefer="matched",
    )  # fmt: skip


def select(root: Path, memory_mb: int, kind: str, questions: int) -> dict[str, Any]:
    """Run the steps of a selection; seconds by step, peak RSS and spill in MiB, and what came of the responses."""
    workspace = Workspace.open(root)
    settings = LOCAL if kind == "rules within shards" else whole(questions)
    made = select_steps(settings, bench_grade.TEACHERS)
    by_key = {step.key: step for step in [*bench_grade.steps(), *made]}
    context = Context(workspace, "bench", memory_mb=memory_mb)
    seconds = {}
    before = time.process_time()
    with bench_grade.sampled(root / "tmp") as peaks:
        for step in made:
            step = replace(step, lanes=bench_grade.LANES if step.scope == "shard" else 1)
            started = time.perf_counter()
            work = pending_work(step, by_key, Heads(workspace), {}, redo=True)
            assert work
            with ThreadPoolExecutor(bench_grade.LANES) as pool:
                list(pool.map(lambda one: run_range(context, one), ranges(step, work)))
            seconds[step.key] = time.perf_counter() - started
    heads = [workspace.need("select", shard) for shard in workspace.shards]
    books = [book for head in heads for book in head.books if book.unit == "response"]
    came, went = sum(one.units_in for one in books), sum(one.units_out for one in books)
    return {"seconds": seconds, "cpu": time.process_time() - before, "came": came, "went": went} | peaks


def by_rows(root: Path, questions: int) -> dict[str, Any]:
    """The choice of LOCAL row by row over about so many questions; its seconds, and how many rows differ."""
    workspace = Workspace.open(root)
    done, differing, seconds = 0, 0, 0.0
    columns = ["response_id", "question_id", "verifier", "verify_score", "passed"]
    for shard in workspace.shards:
        started = time.perf_counter()
        grades = workspace.read("grade", shard, "grades", ["question_id", "n", "passes", "basis"]).to_pylist()
        found: dict[str, list[dict[str, Any]]] = {}
        for teacher in bench_grade.TEACHERS:
            rows = workspace.read(f"verify.{teacher}", shard, "verdicts", columns)
            for row in rows.filter(pc.field("verifier") == "outcome").to_pylist():
                found.setdefault(row["question_id"], []).append(row)
        chosen = set()
        for grade in grades:
            if grade["n"] and grade["passes"] and grade["basis"] == "verifiers":
                ranked = sorted(found[grade["question_id"]], key=lambda row: (-(row["verify_score"] or 0),
                                                                              row["response_id"]))  # fmt: skip
                chosen |= {row["response_id"] for row in [one for one in ranked if one["passed"]][:2]}
        seconds += time.perf_counter() - started
        rows = workspace.read("select", shard, "selection", ["response_id", "basis"]).to_pylist()
        differing += len(chosen ^ {row["response_id"] for row in rows if row["basis"] == "verifiers"})
        done += len(grades)
        if done >= questions:
            break
    return {"questions": done, "seconds": seconds, "differing": differing}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--questions", type=int, default=3_340_000)
    arguments.add_argument("--memory-mb", type=int, default=4096)
    arguments.add_argument("--folder", type=Path, help="where the workspace is made and removed; default: the system's")
    given = arguments.parse_args()
    console = Console(highlight=False, width=140)
    folder = Path(tempfile.mkdtemp(prefix="bench-select-", dir=given.folder))
    root = folder / "workspace"
    try:
        bench_grade.apart(bench_grade.make, root, given.questions, shard_bits(given.questions))
        bench_grade.apart(bench_grade.grade, root, given.memory_mb)
        report(console, root, given.questions, given.memory_mb)
    finally:
        shutil.rmtree(folder)


def report(console: Console, root: Path, questions: int, memory_mb: int) -> None:
    table = Table("way", "allot s", "select s", "CPU s", "peak RSS MiB", "peak spill MiB", "chosen of", "ratio")
    rows = None
    for kind in ("rules within shards", "rules on the whole as well"):
        found = bench_grade.apart(select, root, memory_mb, kind, questions)
        rows = rows or bench_grade.apart(by_rows, root, SAMPLE_QUESTIONS)
        alone = rows["seconds"] / rows["questions"] * questions
        total = sum(found["seconds"].values())
        seconds = [f"{found['seconds'][key]:.1f}" if key in found["seconds"] else "–" for key in ("allot", "select")]
        share = f"{found['went']:,} of {found['came']:,}"
        peaks = [f"{found[name]:,.0f}" for name in ("rss", "spill")]
        table.add_row(f"columns, {kind}", *seconds, f"{found['cpu']:.1f}", *peaks, share, f"{alone / total:.1f}")
    assert rows
    table.add_row(
        f"row by row, {rows['questions']:,} questions", "", f"{alone:,.0f} (extrapolated)", "", "", "", "", "1"
    )
    console.print(table)
    console.print(f"{rows['differing']} responses chosen differently row by row")
