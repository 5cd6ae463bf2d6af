"""The viewer's pages on a large workspace, by real requests to `stillhouse view`.

    python tests/bench/view [--questions 87500] [--samples 4] [--repeats 5] [--folder /tmp] [--keep]

Made first: questions, three teachers' responses of about 1.8 kB each, outcomes, grades, a selection and drops,
committed shard by shard with as many shards as a recipe for so many questions gets; 87,500 questions make 1 M
responses. Then the command is started as a user starts it and asked for pages over loopback; the first request of each
kind is told apart from the later ones, whose median is shown. The alternative is one query over the views of
`stillhouse sql` with the same filter, order and limit. The files lie in the page cache, if that is large enough.
"""

from __future__ import annotations

import argparse
import http.client
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pyarrow as pa
from rich.console import Console
from rich.progress import track
from rich.table import Table

from storage.database import live_heads, open_views
from storage.manifest import Book, Head, Inputs
from storage.schemas import LEDGER, TABLES
from storage.workspace import Workspace, shard_bits

TEACHERS = ("r1", "qwen_7b", "qwen_1_5b")
LANES = 2
WORDS = 4_000
SENTENCES = 3_000

QUESTIONS = """
    create or replace temp table made as
    select printf('%08x', $first + (hash(i, $shard) % $ids)::bigint) || md5(concat($shard, '-', i))[:24] as question_id,
        i, ['math', 'code', 'science', 'instruction', 'chat'][(hash(i, $shard, 1) % 5)::bigint + 1] as category,
        hash(i, $shard, 2) % 1000 as difficulty
    from range($questions) as r(i)
"""
INGESTED = """
    select question_id, [{'role': 'user', 'content': concat('Question ', i, ' of shard ', $shard, '. ',
            texts[i % 3000 + 1], ' ', texts[i % 2999 + 1])}] as messages,
        category, null as difficulty_label, 'made' as question_source, question_id as source_id, 'MIT' as license,
        i::varchar as ground_truth, null as test_cases, null as checker, null as time_limit_s,
        null as memory_limit_mb, null as language, null as entry_point, null as instruction_constraints,
        '{}' as metadata
    from made, texts
"""
RESPONSES = """
    with asked as (
        select *, hash(question_id, sample, $teacher) as draw
        from made, range($samples) as s(sample)
        where difficulty < 950
    )
    select md5(concat(question_id, $teacher, sample)) as response_id, question_id, $teacher as teacher,
        'm@1' as model_revision, 0 as round, sample as sample_index,
        array_to_string(list_transform(range(16), lambda k: texts[(hash(draw, k) % 3000)::bigint + 1]), ' ')
            as think_content,
        concat('So the answer is \\boxed{', draw % 1000, '}.', if(draw % 16384 = 7, ' A needle in the hay.', '')) as
            answer_content,
        null as turns, if(draw % 50 = 0, 'length', 'stop') as finish_reason, 100 as prompt_tokens,
        400 + (draw % 1000)::bigint as completion_tokens, null as mean_logprob, '{"temperature": 0.7}' as sampling,
        1.0 as latency_s, null as error, null as error_kind
    from asked, texts
"""
VERDICTS = """
    with judged as (
        select *, hash(question_id, sample_index, $teacher, 'v') % 1000 as luck
        from responses
        join made using (question_id)
    )
    select response_id, question_id, teacher, sample_index, 'outcome' as verifier, 'math 1' as verifier_version,
        if(luck >= difficulty, 1.0, 0.0) as verify_score, luck >= difficulty as passed,
        case when luck >= difficulty then 'accepted' when luck = 3 then 'memory_limit' else 'wrong_answer' end as
            status,
        luck::varchar as answer, '{"gold": "1"}' as evidence, '{}' as timing
    from judged
"""
GRADES = """
    select question_id, category, 'train' as split, [] as teachers, 12 as n, (12 - difficulty // 100)::bigint as passes,
        0.5 as pass_rate, null as pass_at_2, null as pass_at_4, null as pass_at_8, null as pass_at_16,
        0.5 as mean_score, null as cv, 1.0 as best_score,
        case when difficulty < 300 then 'easy' when difficulty < 700 then 'medium' when difficulty < 940 then 'hard'
            else 'unsolved' end as difficulty,
        'verifiers' as basis, null as majority_answer, null as agreement, null as vote_share,
        false as reference_suspect, null as votes
    from made
    where difficulty < 950
"""
DROPPED = """
    select 'curate' as stage, 'question' as unit, question_id as unit_id,
        if(difficulty >= 990, 'benchmark_ngram', 'near_duplicate') as rule, 0.95 as value, 0.9 as threshold,
        concat('{"kept": "', question_id, '"}') as evidence, 'made' as run_id
    from made
    where difficulty >= 950
"""


def sentences() -> pa.Table:
    """Sentences of random words of a fixed list, so that Parquet can't squeeze them to nothing."""
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 10))) for _ in range(WORDS)]
    texts = [" ".join(draw.choices(words, k=16)).capitalize() + "." for _ in range(SENTENCES)]
    return pa.table({"texts": [texts]})


def make(root: Path, questions: int, samples: int) -> Workspace:
    bits = shard_bits(questions)
    workspace = Workspace.create(root, bits=bits)
    texts = sentences()
    share, rest = divmod(questions, len(workspace.shards))

    def one(number: int) -> None:
        with duckdb.connect(config={"threads": 1}) as connection:
            connection.register("texts", texts)
            ids = 1 << (32 - bits)
            given = {"shard": number, "first": number * ids, "ids": ids, "questions": share + (number < rest)}
            connection.execute(QUESTIONS, given)
            _make_shard(connection, workspace, number, samples)

    with ThreadPoolExecutor(LANES) as pool:
        numbers = range(len(workspace.shards))
        for _ in track(pool.map(one, numbers), "making rows", len(numbers), console=Console(stderr=True)):
            pass
    return workspace


def _make_shard(connection: duckdb.DuckDBPyConnection, workspace: Workspace, number: int, samples: int) -> None:
    shard, inputs = workspace.shards[number], Inputs("made", {}, {})

    def commit(step: str, table: str, unit: str, rows: pa.Table, dropped: pa.Table | None = None) -> None:
        for field in TABLES[table].schema:
            if field.name not in rows.column_names:  # a column that matters to nothing here
                rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
        gone = {} if dropped is None else _counts(dropped)
        book = Book(unit, rows.num_rows + sum(gone.values()), rows.num_rows, gone)
        begun = workspace.begin(step, shard, inputs, run_id="made")
        begun.commit(table, rows, LEDGER.empty_table() if dropped is None else dropped, [book])

    ingested = connection.sql(INGESTED, params={"shard": number}).to_arrow_table()
    commit("ingest", "questions", "record", ingested)
    connection.register("ingested", ingested)
    kept = connection.sql("select *, 'train' as split from ingested semi join (select question_id from made where "
                          "difficulty < 950) using (question_id)").to_arrow_table()  # fmt: skip
    commit("curate", "curated", "question", kept, connection.sql(DROPPED).to_arrow_table().cast(LEDGER))
    for teacher in TEACHERS:
        responses = connection.sql(RESPONSES, params={"teacher": teacher, "samples": samples}).to_arrow_table()
        commit(f"generate.{teacher}", "responses", "request", responses)
        connection.register("responses", responses)
        verdicts = connection.sql(VERDICTS, params={"teacher": teacher}).to_arrow_table()
        commit(f"verify.{teacher}", "verdicts", "response", verdicts)
    commit("grade", "grades", "question", connection.sql(GRADES).to_arrow_table())
    connection.register("verdicts", verdicts)
    chosen = connection.sql("""
        select question_id, response_id, teacher, 'best' as rule, 1.0 as verify_score, 0.5 as pass_rate, null as cv,
            'easy' as difficulty, 'verifiers' as basis
        from verdicts
        where passed and sample_index = 0
    """).to_arrow_table()  # fmt: skip
    commit("select", "selection", "response", chosen)


def _counts(dropped: pa.Table) -> dict[str, int]:
    rows = dropped.group_by("rule").aggregate([([], "count_all")]).to_pylist()
    return {row["rule"]: row["count_all"] for row in rows}


class Viewer:
    """The running command."""

    def __init__(self, root: Path) -> None:
        started = time.perf_counter()
        command = [sys.executable, "-m", "flows.cli", "view", str(root), "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"})
        assert self.process.stdout
        found = re.search(r"http://([\d.]+):(\d+)/", self.process.stdout.readline())
        assert found, "the viewer did not start"
        self.host, self.port = found[1], int(found[2])
        self.start_s = time.perf_counter() - started

    def seconds(self, path: str) -> tuple[float, str]:
        """Of one request, and the page."""
        started = time.perf_counter()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=120)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        assert answer.status == 200, (answer.status, body[:2000])
        return time.perf_counter() - started, body

    def memory_mb(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 2**20

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


PAGES: list[tuple[str, str, float, str | None]] = [
    ("overview", "/", 1, "select step, unit, sum(units_in), sum(units_out), sum(dropped) from books group by all"),
    ("questions, first page", "/questions", 1, "select question_id, messages from questions order by 1 limit 51"),
    ("responses, first page", "/responses", 1,
     "select question_id, response_id, answer_content from responses order by 1, 2 limit 51"),
    ("verdicts, first page", "/verdicts", 1, "select * from verdicts order by question_id, response_id limit 51"),
    ("drops, first page", "/drops", 1, "select * from ledger order by stage, unit_id limit 51"),
    ("questions of a category and difficulty", "/questions?category=code&difficulty=hard", 2,
     "select q.question_id, q.messages from questions q join grades g using (question_id) "
     "where g.category = 'code' and g.difficulty = 'hard' order by 1 limit 51"),
    ("responses of a teacher and status", "/responses?teacher=qwen_7b&status=wrong_answer", 2,
     "select r.question_id, r.response_id, r.answer_content from responses r join verdicts v using (response_id) "
     "where r.teacher = 'qwen_7b' and v.status = 'wrong_answer' order by 1, 2 limit 51"),
    ("responses of a rare status", "/responses?status=memory_limit&finish=length", 2,
     "select r.question_id, r.response_id, r.answer_content from responses r join verdicts v using (response_id) "
     "where v.status = 'memory_limit' and finish_reason = 'length' order by 1, 2 limit 51"),
    ("questions that no filter passes", "/questions?status=compile_error", 2,
     "select question_id from questions where question_id in (select question_id from verdicts "
     "where status = 'compile_error') order by 1 limit 51"),
    ("drops by rule", "/drops?rule=benchmark_ngram", 2,
     "select * from ledger where rule = 'benchmark_ngram' order by stage, unit_id limit 51"),
    ("text in responses, common", "/responses?text=answer+is+%5Cboxed%7B1", 2,
     r"select question_id, response_id from responses where answer_content ilike '%answer is \boxed{1%' "
     r"or think_content ilike '%answer is \boxed{1%' order by 1, 2 limit 51"),
    ("text in responses, 60 hits", "/responses?text=NEEDLE+in+the", 2,
     "select question_id, response_id from responses where answer_content ilike '%needle in the%' "
     "or think_content ilike '%needle in the%' order by 1, 2 limit 51"),
    ("text in responses, no hit", "/responses?text=nowhere+to+be+found", 2,
     "select question_id, response_id from responses where answer_content ilike '%nowhere to be found%' "
     "or think_content ilike '%nowhere to be found%' order by 1, 2 limit 51"),
    ("text in questions, one hit", "/questions?text=Question+17+of+shard+3.", 2,
     "select question_id from questions where messages[1].content ilike '%Question 17 of shard 3.%' limit 51"),
]  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--questions", type=int, default=87_500)
    arguments.add_argument("--samples", type=int, default=4, help="of each of three teachers")
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--folder", type=Path, help="where the workspace is made; default: the system's")
    arguments.add_argument("--keep", action="store_true", help="keep it as FOLDER/viewed, and use one that is there")
    given = arguments.parse_args()
    base = given.folder or Path(tempfile.gettempdir())
    folder = base / "viewed" if given.keep else Path(tempfile.mkdtemp(prefix="bench-view-", dir=base))
    try:
        root = folder / "workspace"
        there = given.keep and root.exists()
        workspace = Workspace.open(root) if there else make(root, given.questions, given.samples)
        report(workspace, given.repeats)
    finally:
        if not given.keep:
            shutil.rmtree(folder)


def report(workspace: Workspace, repeats: int) -> None:
    console = Console(highlight=False)
    console.width = max(console.width, 150)
    heads = live_heads(workspace)
    counts = {name: _rows(heads, name) for name in ("questions", "responses", "verdicts", "ledger")}
    size = sum(path.stat().st_size for path in workspace.root.glob("tables/**/*.parquet")) / 2**30
    console.print(", ".join(f"{number:,} {name}" for name, number in counts.items())
                  + f"; {len(workspace.shards)} shards, {size:.1f} GiB of Parquet; {os.cpu_count()} cores, "
                  f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    table = Table("page", "goal s", "first s", "median s", "rows", "looked", "one query s", "ratio")
    started = time.perf_counter()
    with closing(open_views(workspace, memory_mb=1024)) as views, closing(Viewer(workspace.root)) as viewer:
        views_s = time.perf_counter() - started - viewer.start_s
        for name, path, goal, query in PAGES:
            first, body = viewer.seconds(path)
            median = statistics.median(viewer.seconds(path)[0] for _ in range(repeats))
            rows = max(body.count("<tr>") - 1, 0)  # without the head
            looked = re.search(r"first (\S+) of (\S+) \w+ from here", body)
            other = timed(lambda query=query: views.execute(query).fetchall())
            late = "[red]" if first > goal else ""
            table.add_row(name, f"< {goal:g}", f"{late}{first:.3f}", f"{median:.3f}", str(rows),
                          f"{looked[1]} of {looked[2]}" if looked else "enough", f"{other:.3f}",
                          f"{other / median:.1f}")  # fmt: skip
        identity = re.findall(r'/question/([0-9a-f]{32})"', viewer.seconds("/questions?fate=selected")[1])[7]
        for name, path in (("one question", f"/question/{identity}"), ("an id's beginning", f"/find?id={'0' * 12}")):
            first = timed(lambda path=path: _any_status(viewer, path))
            table.add_row(name, "< 1", f"{first:.3f}", "", "", "", "", "")
        console.print(table)
        console.print(f"the command was ready after {viewer.start_s:.1f} s; opening the views took {views_s:.1f} s; "
                      f"the viewer's memory was {viewer.memory_mb():,.0f} MiB in the end")  # fmt: skip


def _any_status(viewer: Viewer, path: str) -> None:
    connection = http.client.HTTPConnection(viewer.host, viewer.port, timeout=120)
    connection.request("GET", path)
    connection.getresponse().read()
    connection.close()


def _rows(heads: Sequence[Head], table: str) -> int:
    kind = "ledger" if table == "ledger" else "data"
    parts = [part for head in heads for part in head.parts if part.kind == kind]
    return sum(part.rows for part in parts if table in ("ledger", part.table))


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
