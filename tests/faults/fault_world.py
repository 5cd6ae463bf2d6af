"""What the fault tests break: a recipe of sums and small programs, its teacher, and runs that can be killed.

The teacher (sure_teacher.py) gives the same answer to the same request whenever it is asked, so that the tables of two
runs are equal row by row, whatever happened in between.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import closing
from pathlib import Path

import psutil
import yaml

from flows.status import workspace_status
from storage.compare import differences
from storage.database import open_views
from storage.workspace import Workspace
from tests.faults.worker_pool import free_port, wait_until

PROJECT = Path(__file__).resolve().parents[2]
MARK = "STILLHOUSE_FAULTS"
KEYS = {
    "questions": "question_id", "curated": "question_id", "responses": "response_id", "grades": "question_id",
    "verdicts": "response_id, verifier",
}  # fmt: skip
"""what must stand once in each table"""


class Teacher:
    """The server process; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.port, self.log = free_port(), folder / "delivered"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("sure_teacher.py")), str(self.port), str(self.log)]
        self.process = process = subprocess.Popen(command)
        wait_until(lambda: self._answers() or process.poll() is not None, what="the teacher starts")
        assert process.poll() is None, "the teacher did not start"

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self.url, timeout=5).close()
        except urllib.error.HTTPError:
            return True  # 404: it lives
        except OSError:
            return False
        return True

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def delivered(self) -> Counter[str]:
        return Counter(self.log.read_text().split()) if self.log.exists() else Counter()

    def __enter__(self) -> Teacher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def write_recipe(folder: Path, url: str, *, sums: int = 400, programs: int = 60) -> Path:
    """`sums` + `programs` questions in 16 shards, two samples each."""
    rows = [
        {"question": f"What is {n + 3} + {n % 17}?", "ground_truth": str(n + 3 + n % 17), "category": "math"}
        for n in range(sums)
    ]
    for n in range(programs):
        more, name = n % 7 + 1, f"add_{n}_{n % 7 + 1}"
        tests = [{"kind": "call", "input": f"[{given}]", "output": str(given + n + more)} for given in (0, 5, 90)]
        question = f"Write a Python function `{name}` that returns its argument plus {n} plus {more}."
        rows.append({"question": question, "category": "code", "language": "python", "entry_point": name,
                     "test_cases": tests})  # type: ignore[dict-item]  # fmt: skip
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "faults",
        "expected_questions": 60_000,
        "sources": [{"name": "made", "kind": "file", "path": "questions.jsonl", "license": "MIT"}],
        "curate": {"near_duplicates": None},
        "teachers": [{"name": "sure", "engine": "openai", "model": "sure", "base_url": url, "samples": 2,
                      "concurrency": 8, "attempts": 8, "license": "MIT"}],
    }  # fmt: skip
    path = folder / "faults.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


class Run:
    """`stillhouse run` as a process group; every process of it carries the mark of this test in its environment."""

    def __init__(self, recipe: Path, workspace: Path, log: Path, **environment: str) -> None:
        self.log, self.mark = log, f"faults-{os.getpid()}"
        command = [sys.executable, "-m", "flows.cli", "run", str(recipe), "--workspace", str(workspace)]
        more = {MARK: self.mark, "PREFECT_HOME": str(log.parent / "prefect"), "COLUMNS": "200"} | environment
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command, cwd=PROJECT, env=os.environ | more, stdout=out, stderr=out, start_new_session=True
            )

    def children(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait(self, seconds: float = 240) -> tuple[int, str]:
        """Exit status and all output of this and earlier runs with the same log."""
        code = self.process.wait(seconds)
        return code, self.log.read_text(errors="replace")

    def left(self, seconds: float = 30) -> list[str]:
        """Command lines of processes that outlive the run, after the time that helpers have to notice."""
        deadline = time.monotonic() + seconds
        while (found := _marked(self.mark)) and time.monotonic() < deadline:
            psutil.wait_procs(found, timeout=0.5)
        return [_command(one) for one in found]


def command(*arguments: str | Path, home: Path, code: int = 0) -> str:
    """All output of another command of `stillhouse`, which must end with `code`."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, arguments)], cwd=PROJECT, capture_output=True, text=True,
        env=os.environ | {"PREFECT_HOME": str(home), "COLUMNS": "200"}, timeout=280, check=False,
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert done.returncode == code, f"exit status {done.returncode}, expected {code}:\n{text}"
    return text


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for one in psutil.process_iter():
        try:
            if one.environ().get(MARK) == mark and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
        except psutil.Error:
            continue
    return found


def _command(one: psutil.Process) -> str:
    try:
        return " ".join(one.cmdline())[:200]
    except psutil.Error:
        return f"pid {one.pid}"


def faults_found(whole: Path, broken: Path) -> tuple[int, int, list[str]]:
    """Rows lost, rows twice, and all else in which `broken` differs from the workspace of an unbroken run."""
    one, other = Workspace.open(whole), Workspace.open(broken)
    said = [f"{status.step}: balanced {status.balanced}, pending {status.pending}" for status in workspace_status(other)
            if not status.balanced or status.pending]  # fmt: skip
    counts = [_counts(place) for place in (one, other)]
    lost = sum(max(0, rows - counts[1][table][1]) for table, (_, rows) in counts[0].items())
    twice = sum(rows - distinct for rows, distinct in counts[1].values())
    return lost, twice, said + differences(one, other, skip=("report",))


def _counts(place: Workspace) -> dict[str, tuple[int, int]]:
    """Rows and distinct keys of each table."""
    with closing(open_views(place)) as views:
        return {
            table: views.execute(f"select count(*), count(distinct ({key})) from {table}").fetchall()[0]
            for table, key in KEYS.items()
        }
