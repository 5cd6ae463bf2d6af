"""Proves that trace checks shared out over processes are those of one process, in the same order."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tasks.verifiers import trace_pool
from tasks.verifiers.bench import Subject
from tasks.verifiers.settings import TraceSettings
from tasks.verifiers.trace import TraceVerifier
from tasks.verifiers.trace_pool import TracePool

SETTINGS = TraceSettings(ngram=3)


def subjects(number):
    question = {"messages": [{"role": "user", "content": "How many?"}]}
    parts = {"think_content": None, "finish_reason": "stop", "turns": None}
    return [Subject(str(n), question, parts | {"answer_content": f"a{n} b c " * (n % 9 + 1)}) for n in range(number)]


def without_time(judgements):
    return [replace(one, seconds=0.0) for one in judgements]


@pytest.mark.parametrize("number", [0, 1, 50])
def test_the_number_of_processes_changes_no_judgement(monkeypatch, number):
    monkeypatch.setattr(trace_pool, "LITTLE_CHARS", 1)
    monkeypatch.setattr(trace_pool, "PIECE_CHARS", 200)
    asked = subjects(number)
    with TracePool(SETTINGS, 2) as pool:
        shared = pool.judge(asked)
        assert (pool._pool is not None) == (number > 0)
        assert without_time(pool.judge(asked)) == without_time(shared)
    assert without_time(shared) == without_time(TraceVerifier(SETTINGS).judge(asked))


def test_little_text_starts_no_process():
    with TracePool(SETTINGS, 2) as pool:
        assert len(pool.judge(subjects(50))) == 50
        assert pool._pool is None


def test_the_processes_of_a_killed_run_end_too(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, time\n"
        "from tasks.verifiers import trace_pool\n"
        "from tests.tasks.verifiers.test_trace_pool import SETTINGS, TracePool, subjects\n"
        "if __name__ == '__main__':\n"
        "    trace_pool.LITTLE_CHARS = trace_pool.PIECE_CHARS = 1\n"
        "    with TracePool(SETTINGS, 2) as pool:\n"
        "        pool.judge(subjects(9))\n"
        "        print(*pool._pool._processes, flush=True)\n"
        "        time.sleep(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as run:
        children = [psutil.Process(int(number)) for number in run.stdout.readline().split()]
        run.kill()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert len(children) == 2 and alive == []


def test_a_killed_process_costs_its_batch_only_time(monkeypatch, caplog):
    monkeypatch.setattr(trace_pool, "LITTLE_CHARS", 1)
    monkeypatch.setattr(trace_pool, "PIECE_CHARS", 200)
    asked = subjects(50)
    with TracePool(SETTINGS, 2) as pool:
        whole = pool.judge(asked)
        for process in psutil.Process(os.getpid()).children():
            if "spawn_main" in " ".join(process.cmdline()):
                process.kill()
        assert without_time(pool.judge(asked)) == without_time(whole)
    assert caplog.text.count("a process that checks traces was killed") == 1
