"""Grading at the paper's scale: 3.34 M questions × 12 verdicts (three teachers × 4), by the real steps.

    python tests/bench/grade [--questions 3340000] [--bits N] [--memory-mb 4096 2048] [--folder /tmp]

Made first: `curated` and one `verdicts` table a teacher, as Parquet committed shard by shard; then `weigh` and `grade`
run on them as the factory runs them, planning, books and commits included, once for each memory limit (DuckDB's;
two lanes share it). Each run is a process of its own, its peak RSS sampled every 20 ms together with what lies in
spill folders. The alternative is grading row by row in Python, as the stage did before (tests/tasks/grade_by_rows.py),
on a few shards in one process, without its commits, extrapolated; its rows are checked against the SQL's.

By default the number of shards is that which a recipe for so many questions gets; few bits make shards that don't fit
in the memory limit. The files lie in the page cache, if that is large enough for them. Nothing is asserted on time.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pyarrow as pa
from rich.console import Console
from rich.progress import track
from rich.table import Table

from flows.run import ranges, run_range
from storage.manifest import Book, Inputs
from storage.workspace import ALL, Workspace, shard_bits
from tasks.grade import GradeSettings, grade_steps
from tasks.grade_standards import committed_standards
from tasks.step import Context, Heads, Step, pending_work

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.tasks.grade_by_rows import grade_by_rows

TEACHERS = ("r1", "qwen_7b", "qwen_1_5b")
SAMPLES = 4
LANES = 2
SAMPLE_QUESTIONS = 12_000
SETTINGS = GradeSettings(vote_from=0.7, bands="quantile")

# Of 1,000 questions about 40 have a wrong reference, 30 none, and 1 waits for a verdict. Code and instructions are
# scored in tenths, the rest with 0 or 1. A wrong answer is one of five.
QUESTIONS = """
    create or replace temp table made as
    select printf('%08x', $first + (hash(i, $shard) % $ids)::bigint) || md5(concat($shard, '-', i))[:24] as question_id,
        ['math', 'code', 'science', 'instruction', 'chat'][(hash(i, $shard, 1) % 5)::bigint + 1] as category,
        hash(i, $shard, 2) % 1000 as difficulty, hash(i, $shard, 3) % 1000 as kind, hash(i, $shard, 4) % 9973 as answer
    from range($questions) as r(i)
"""

CURATED = """
    select question_id, [{'role': 'user', 'content': 'A question'}] as messages, category, null as difficulty_label,
        'made' as question_source, question_id as source_id, 'MIT' as license, answer::varchar as ground_truth,
        null as test_cases, null as checker, null as time_limit_s, null as memory_limit_mb, null as language,
        null as entry_point, null as instruction_constraints, '{}' as metadata, 'train' as split
    from made
"""

VERDICTS = """
    with asked as (
        select *, hash(question_id, sample, $teacher) as draw,
            draw % 1000 >= difficulty * (0.5 + 0.25 * $seat) as right_
        from made, range($samples) as s(sample)
    ), scored as (
        select *, case
                when kind >= 999 and sample = 0 then 'infra_error'
                when kind >= 970 then 'unverifiable'
                when right_ and kind >= 40 then 'accepted'
                else 'wrong_answer'
            end as status,
            if(category in ('code', 'instruction'), (draw // 1000) % 10 / 10, 0.0) as partial
        from asked
    )
    select md5(concat(question_id, $teacher, sample)) as response_id, question_id, $teacher as teacher,
        sample as sample_index, 'outcome' as verifier, 'math-verify 0.9.0; rules 1; means 0123456789abcdef' as
        verifier_version,
        case status when 'accepted' then 1.0 when 'wrong_answer' then partial end as verify_score,
        case status when 'accepted' then true when 'wrong_answer' then false end as passed, status,
        if(status = 'infra_error', null, (answer + if(right_, 0, 1 + draw % 5))::varchar) as answer,
        '{}' as evidence, '{"seconds": 0.01}' as timing
    from scored
"""


def make(root: Path, questions: int, bits: int) -> None:
    """A workspace with `curated` and the verdicts of all teachers committed."""
    workspace = Workspace.create(root, bits=bits)
    inputs = Inputs("made", {}, {})
    share, rest = divmod(questions, len(workspace.shards))

    def one(number: int) -> None:
        shard = workspace.shards[number]
        with duckdb.connect(config={"threads": 1}) as connection:
            count = share + (number < rest)
            ids = 1 << (32 - bits)  # first 32 bits of question_id in this shard
            given = {"shard": number, "first": number * ids, "ids": ids, "questions": count}
            connection.execute(QUESTIONS, given)
            curated = connection.sql(CURATED).to_arrow_table()
            book = Book("question", count, count)
            workspace.begin("curate", shard, inputs, run_id="made").commit("curated", curated, [], [book])
            for seat, teacher in enumerate(TEACHERS):
                given = {"teacher": teacher, "seat": seat, "samples": SAMPLES}
                rows = connection.sql(VERDICTS, params=given).to_arrow_table()
                waiting = rows.filter(pa.compute.field("status") == "infra_error").num_rows
                book = Book("response", rows.num_rows, rows.num_rows - waiting, {}, waiting)
                begun = workspace.begin(f"verify.{teacher}", shard, inputs, run_id="made")
                begun.commit("verdicts", rows, [], [book])

    with ThreadPoolExecutor(LANES) as pool:
        numbers = range(len(workspace.shards))
        for _ in track(pool.map(one, numbers), "making verdicts", len(numbers), console=Console(stderr=True)):
            pass


def steps() -> list[Step]:
    """`weigh` and `grade` as flows/steps.py makes them, behind steps that are there already."""
    before = [
        Step(key, key, "shard", "", {}, (), lambda *_: None) for key in ("curate", *map("verify.{}".format, TEACHERS))
    ]
    weigh, grade = grade_steps(SETTINGS, TEACHERS)
    return [*before, weigh, replace(grade, lanes=LANES)]


def grade(root: Path, memory_mb: int) -> dict[str, Any]:
    """Run both steps; seconds by step, CPU seconds, peak RSS and peak spill in MiB."""
    workspace = Workspace.open(root)
    by_key = {step.key: step for step in steps()}
    context = Context(workspace, "bench", memory_mb=memory_mb)
    seconds = {}
    before = time.process_time()
    with sampled(root / "tmp") as peaks:
        for key in ("weigh", "grade"):
            started = time.perf_counter()
            work = pending_work(by_key[key], by_key, Heads(workspace), {}, redo=True)
            assert work
            with ThreadPoolExecutor(LANES) as pool:
                list(pool.map(lambda one: run_range(context, one), ranges(by_key[key], work)))
            seconds[key] = time.perf_counter() - started
    return {"seconds": seconds, "cpu": time.process_time() - before} | peaks


@contextlib.contextmanager
def sampled(spill: Path) -> Iterator[dict[str, float]]:
    """Peaks in MiB of this process's RSS and of the files under `spill`, while the block runs."""
    peaks = {"rss": 0.0, "spill": 0.0}
    done = threading.Event()
    process = psutil.Process()

    def watch() -> None:
        while not done.wait(0.02):
            peaks["rss"] = max(peaks["rss"], process.memory_info().rss / 2**20)
            peaks["spill"] = max(peaks["spill"], sum(map(_size, spill.glob("*/*"))) / 2**20)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        done.set()
        watcher.join()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def grade_rows(root: Path, questions: int) -> dict[str, Any]:
    """Grade about so many questions row by row; the rate, and how many rows differ from the committed grades."""
    workspace = Workspace.open(root)
    standards = committed_standards(workspace)
    done, differing, seconds = 0, 0, 0.0
    for shard in workspace.shards:
        started = time.perf_counter()
        curated = workspace.read("curate", shard, "curated", ["question_id", "category", "split"])
        asked = curated[:questions].to_pylist()
        outcomes: dict[str, list[dict[str, Any]]] = {row["question_id"]: [] for row in asked}
        columns = ["question_id", "teacher", "verifier", "verify_score", "passed", "status", "answer"]
        verdicts = [workspace.read(f"verify.{teacher}", shard, "verdicts", columns) for teacher in TEACHERS]
        if len(asked) < curated.num_rows:  # of a large shard's reading the sample bears its share only
            wanted = pa.array(outcomes)
            verdicts = [rows.filter(pa.compute.is_in(rows["question_id"], wanted)) for rows in verdicts]
        seconds += (time.perf_counter() - started) * len(asked) / curated.num_rows
        started = time.perf_counter()
        for rows in verdicts:
            for row in rows.to_pylist():
                if row["verifier"] == "outcome":
                    outcomes[row["question_id"]].append(row)
        made = [grade_by_rows(row, outcomes[row["question_id"]], SETTINGS, TEACHERS, standards) for row in asked]
        seconds += time.perf_counter() - started
        committed = workspace.read("grade", shard, "grades").to_pylist()
        differing += differences({row["question_id"]: row for row in made if row}, committed,
                                 whole=len(asked) == curated.num_rows)  # fmt: skip
        done += len(asked)
        if done >= questions:
            break
    return {"questions": done, "seconds": seconds, "differing": differing}


def differences(made: dict[str, Any], committed: list[dict[str, Any]], *, whole: bool) -> int:
    """Questions that the two graded differently; `whole` if the sample is the whole shard."""
    graded = {row["question_id"]: row for row in committed}
    both = made.keys() | graded.keys() if whole else made.keys()
    return sum(_rounded(made.get(one)) != _rounded(graded.get(one)) for one in both)


def _rounded(value: Any) -> Any:
    """Floats to 6 digits: the SQL counts scores in billionths, the rows are added up as floats."""
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in sorted(value.items())}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return round(value, 6) if isinstance(value, float) else value


def apart(function: Any, *arguments: Any) -> Any:
    """The result of a function in a fresh process, so that its memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def books(root: Path) -> list[str]:
    """Added up over the shards: units in = out + dropped + pending, and what the tables say."""
    workspace = Workspace.open(root)
    found = []
    for key, shards in (("weigh", [ALL]), ("grade", workspace.shards)):
        all_books = [book for shard in shards for book in workspace.need(key, shard).books]
        came, went = sum(book.units_in for book in all_books), sum(book.units_out for book in all_books)
        dropped, pending = sum(sum(book.dropped.values()) for book in all_books), sum(one.pending for one in all_books)
        balance = "balances" if came == went + dropped + pending else "DOES NOT BALANCE"
        unit = all_books[0].unit
        found.append(
            f"{key}: {came:,} {unit}s in = {went:,} out + {dropped:,} dropped + {pending:,} pending: {balance}"
        )
    return found


def profile_of(root: Path) -> list[tuple[Any, ...]]:
    """How many questions of which basis, suspect references among them, and the mean agreement."""
    workspace = Workspace.open(root)
    paths = [str(root / part.path) for shard in workspace.shards for part in workspace.need("grade", shard).data()]
    return duckdb.sql(f"""
        select basis, count(*), count_if(reference_suspect), round(avg(agreement), 4)
        from read_parquet({paths})
        group by basis
        order by basis
    """).fetchall()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--questions", type=int, default=3_340_000)
    arguments.add_argument("--bits", type=int, help="2^bits shards; default: what a recipe gets")
    arguments.add_argument("--memory-mb", type=int, nargs="+", default=[4096, 2048])
    arguments.add_argument("--folder", type=Path, help="where the workspace is made and removed; default: the system's")
    given = arguments.parse_args()
    bits = shard_bits(given.questions) if given.bits is None else given.bits
    console = Console(highlight=False)
    console.width = max(console.width, 140)
    folder = Path(tempfile.mkdtemp(prefix="bench-grade-", dir=given.folder))
    try:
        report(console, folder / "workspace", given.questions, bits, given.memory_mb)
    finally:
        shutil.rmtree(folder)


def report(console: Console, root: Path, questions: int, bits: int, limits: list[int]) -> None:
    verdicts = questions * len(TEACHERS) * SAMPLES
    apart(make, root, questions, bits)
    size = sum(path.stat().st_size for path in root.glob("tables/**/*.parquet")) / 2**30
    console.print(f"{questions:,} questions, {verdicts:,} verdicts, {1 << bits:,} shards, {size:.1f} GiB of Parquet; "
                  f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")  # fmt: skip
    table = Table(
        "way", "weigh s", "grade s", "sum s", "CPU s", "verdicts/s", "peak RSS MiB", "peak spill MiB", "ratio"
    )
    runs = []
    for limit in limits:
        found = apart(grade, root, limit)
        total = sum(found["seconds"].values())
        runs.append((f"SQL, {LANES} lanes, limit {limit} MiB", found, total))
    rows = apart(grade_rows, root, SAMPLE_QUESTIONS)
    extrapolated = rows["seconds"] / rows["questions"] * questions
    for name, found, total in runs:
        parts = [f"{found['seconds'][key]:.1f}" for key in ("weigh", "grade")]
        parts += [f"{total:.1f}", f"{found['cpu']:.1f}", f"{verdicts / total:,.0f}"]
        parts += [f"{found['rss']:,.0f}", f"{found['spill']:,.0f}", f"{extrapolated / total:.1f}"]
        table.add_row(name, *parts)
    name = f"row by row, 1 process, {rows['questions']:,} questions"
    parts = [
        "–",
        f"{rows['seconds']:.1f}",
        f"{extrapolated:,.0f} (extrapolated)",
        "",
        f"{verdicts / extrapolated:,.0f}",
    ]
    table.add_row(name, *parts, "", "", "1")
    console.print(table)
    console.print(f"{rows['differing']} of {rows['questions']:,} sampled questions graded differently")
    for line in (*books(root), *(f"{basis}: {n:,} questions, {suspect:,} suspect references, mean agreement {agreement}"
                                 for basis, n, suspect, agreement in profile_of(root))):  # fmt: skip
        console.print(line)
