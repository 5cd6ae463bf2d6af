"""Proves that every verdict is given where it is due, with its numbers. (test_right_programs.py: right ones stay right.)"""

# ruff: noqa: E501  (programs as they are)

from __future__ import annotations

import time

import pytest

from sandbox import STATUSES, BadTestCase, Limits, Sandbox, TestCase, self_test
from sandbox.verdict import MIB

SUM = TestCase("stdin", input="2\n3\n", output="5\n")


def test_one_program_per_verdict_and_language(sandbox: Sandbox) -> None:
    results = self_test(sandbox)
    assert {result.expected for result in results} == set(STATUSES) - {"infra_error"}
    assert {result.language for result in results} == set(sandbox.languages())
    assert [result for result in results if not result.passed] == []


def test_numbers_of_a_verdict(sandbox: Sandbox) -> None:
    code = "import sys\nx = bytearray(b'x') * (60 << 20)\nprint('out')\nprint('err', file=sys.stderr)\nsys.exit(7)"
    test = sandbox.judge(code, [SUM]).tests[0]
    assert (test.status, test.exit_code, test.signal) == ("runtime_error", 7, None)
    assert test.peak_memory_bytes > 60 << 20
    assert 0 < test.cpu_s < 1 and 0 < test.wall_s < 5
    assert (test.stdout, test.stderr) == ("out\n", "err\n")
    test = sandbox.judge("import os; os.abort()", [SUM]).tests[0]
    assert (test.status, test.signal) == ("runtime_error", 6)


def test_right_output_with_a_bad_exit_is_a_runtime_error(sandbox: Sandbox) -> None:
    assert sandbox.judge("print(5); raise ValueError('late')", [SUM]).status == "runtime_error"
    assert sandbox.judge("print(5); import sys; sys.exit(0)", [SUM]).status == "accepted"


def test_a_sleeper_is_over_time(sandbox: Sandbox) -> None:
    started = time.monotonic()
    verdict = sandbox.judge("import time; time.sleep(60)", [SUM], limits=Limits(time_s=1, wall_s=0.5))
    assert verdict.status == "time_limit" and verdict.tests[0].cpu_s < 0.3
    assert time.monotonic() - started < 10


def test_first_tests_first_failure_and_score(sandbox: Sandbox) -> None:
    tests = [TestCase("stdin", str(i), str(i)) for i in range(12)]
    verdict = sandbox.judge("print(input())", tests)
    assert (verdict.status, verdict.passed, verdict.run, verdict.skipped, verdict.score) == ("accepted", 10, 10, 2, 1.0)
    code = "x = int(input()); print(x if x != 1 else 'no')"
    verdict = sandbox.judge(code, tests)
    assert (verdict.status, verdict.run, verdict.skipped) == ("wrong_answer", 2, 10)
    verdict = sandbox.judge(code, tests, limits=Limits(max_tests=None, stop_at_first_failure=False))
    assert (verdict.passed, verdict.run, verdict.skipped) == (11, 12, 0)
    assert verdict.status == "wrong_answer" and verdict.score == pytest.approx(11 / 12)


def test_tests_that_cannot_be_run_are_the_callers_fault(sandbox: Sandbox) -> None:
    for tests in (
        [],
        [TestCase("call", "[1]", "1")],
        [TestCase("assert", code="assert f(")],
        [TestCase("assert", code="f(1)")],
    ):
        with pytest.raises(BadTestCase):
            sandbox.judge("def f(x): return x", tests)
    with pytest.raises(BadTestCase):
        sandbox.judge("def f(x): return x", [TestCase("call", "[1", "1")], entry_point="f")
    with pytest.raises(ValueError, match="max_memory_bytes"):
        sandbox.judge("x", [SUM], limits=Limits(memory_bytes=1 << 40))


@pytest.mark.parametrize(
    ("code", "entry_point", "given", "expected", "status"),
    [
        ("def f(a, b=2): return a + b", "f", "[1]", "3", "accepted"),
        ("def f(a, b=2): return a + b", "f", '{"args": [1], "kwargs": {"b": 5}}', "6", "accepted"),
        (
            "class Solution:\n    def f(self, x): return (x, {1: 'a'})",
            "Solution.f",
            "[4]",
            '[4, {"1": "a"}]',
            "accepted",
        ),
        ("def f(): return {3, 1}", "f", "[]", '{"__set__": [1, 3]}', "accepted"),
        ("def f(): print('[1, 2]'); return 0.30000001", "f", "[]", "0.3", "accepted"),
        ("def f(): return 1 << 100_000", "f", "[]", "1", "wrong_answer"),
        ("def f(): return lambda: 1", "f", "[]", "1", "wrong_answer"),
        ("def f():\n    x = []; x.append(x); return x", "f", "[]", "[]", "runtime_error"),
        ("def f(): return [0] * 10_000_000", "f", "[]", "[]", "output_limit"),
        ("def g(): return 1", "f", "[]", "1", "runtime_error"),
        ("def f(): raise KeyError('k')", "f", "[]", "1", "runtime_error"),
        ("def f(): import os; os._exit(0)", "f", "[]", "1", "runtime_error"),
        ("def f(): raise SystemExit(0)", "f", "[]", "1", "runtime_error"),
        ("def f(:", "f", "[]", "1", "compile_error"),
        ("def f():\n    while True: pass", "f", "[]", "1", "time_limit"),
        ("if __name__ == '__main__': raise SystemExit(1)\ndef f(): return 1", "f", "[]", "1", "accepted"),
    ],
)
def test_calls(sandbox: Sandbox, code: str, entry_point: str, given: str, expected: str, status: str) -> None:
    verdict = sandbox.judge(code, [TestCase("call", given, expected)], entry_point=entry_point)
    assert verdict.status == status, verdict


def test_each_test_is_a_fresh_process_in_empty_folders(sandbox: Sandbox) -> None:
    code = "import os\nn = 0\ndef f():\n    global n\n    n += 1\n    open('kept', 'a').write('x')\n    return n * os.path.getsize('kept')"
    tests = [TestCase("call", "[]", "1")] * 3
    assert sandbox.judge(code, tests, entry_point="f").status == "accepted"


def test_memory_limit_per_call(sandbox: Sandbox) -> None:
    code = "x = bytearray(b'x') * (100 << 20)\nprint(5)"
    assert sandbox.judge(code, [SUM], limits=Limits(memory_bytes=64 * MIB)).status == "memory_limit"
    assert sandbox.judge(code, [SUM], limits=Limits(memory_bytes=256 * MIB)).status == "accepted"


def test_what_is_too_large_is_said_so(sandbox: Sandbox) -> None:
    large = TestCase("call", f"[[{'1,' * 3_000_000}1]]", "1")
    with pytest.raises(BadTestCase, match="the arguments of a call: "):
        sandbox.judge("def f(x): return 1", [large], entry_point="f")
    deep = TestCase("call", f"[{'[' * 900}{']' * 900}]", "1")
    with pytest.raises(BadTestCase, match="the arguments of a call: "):
        sandbox.judge("def f(x): return 1", [deep], entry_point="f")
    with pytest.raises(BadTestCase, match="calls the solution with too much"):
        sandbox.judge("def f(x): return 1", [TestCase("assert", code="x = [1] * 3_000_000\nassert f(x) == 1")])
    with pytest.raises(BadTestCase, match="input holds at most"):
        sandbox.judge("print(1)", [TestCase("stdin", "x" * 20_000_000, "1")])
    verdict = sandbox.judge("#" * (17 << 20), [SUM])
    assert verdict.status == "compile_error" and "16 MiB" in verdict.detail


def test_a_value_that_grows_when_it_is_sent_on_is_over_the_limit(sandbox: Sandbox) -> None:
    code = """
import sys
frame = sys._getframe()
while frame.f_code.co_name != 'serve': frame = frame.f_back
channel = frame.f_locals['channel']
import os, struct
def f(x):
    raw = b'{"op": "value", "v": "' + b'\\xc3\\xa9' * 1_900_000 + b'"}'
    raw = struct.pack('>I', len(raw)) + raw
    while raw: raw = raw[os.write(channel.fd, raw):]
    while True: pass
"""
    test = TestCase("assert", code="for x in [1, 2]:\n    assert f(x) == 1")
    assert sandbox.judge(code, [test]).status == "output_limit"
    assert sandbox.judge("def f(x): return 1", [test]).status == "accepted"


def test_what_a_program_said_counts_though_it_did_not_hear_us_out(sandbox: Sandbox) -> None:
    much = TestCase("call", f'["{"x" * 3_000_000}"]', "1")  # more than its channel holds
    verdicts = [sandbox.judge("def f(x) return 1", [much], entry_point="f") for _ in range(5)]
    assert [verdict.status for verdict in verdicts] == ["compile_error"] * 5
