"""Proves that a checker decides, that it runs where no solution is, and that an output can't fool or stop the judging."""

# ruff: noqa: E501  (programs as they are)

from __future__ import annotations

import pytest

from sandbox import BadTestCase, Limits, Sandbox, TestCase

NEAR = """
def check(input, expected, output):
    return abs(float(output) - float(expected)) < 0.1 or f"{output.strip()} is far from {expected}"
"""
ANY = [TestCase("stdin", "", "3")]
LIMITS = Limits(time_s=0.5, wall_s=4.0)


@pytest.mark.parametrize(
    ("printed", "status", "detail"),
    [
        ("3.05", "accepted", ""),
        ("3.5", "wrong_answer", "3.5 is far from 3"),
        ("three", "wrong_answer", "checker: ValueError"),
        ("nan", "wrong_answer", "nan is far from 3"),
        ("", "wrong_answer", "checker: ValueError"),
    ],
)
def test_a_checker_decides(sandbox: Sandbox, printed: str, status: str, detail: str) -> None:
    verdict = sandbox.judge(f"print({printed!r})", ANY, checker=NEAR, limits=LIMITS)
    assert verdict.status == status and verdict.detail.startswith(detail)


def test_a_checker_of_calls_sees_values(sandbox: Sandbox) -> None:
    checker = "def check(input, expected, output):\n    return sorted(output) == sorted(expected) and input == [2]"
    tests = [TestCase("call", "[2]", "[1, 2]")]
    assert sandbox.judge("def f(n): return (2, 1)", tests, entry_point="f", checker=checker).status == "accepted"
    assert sandbox.judge("def f(n): return [2, 2]", tests, entry_point="f", checker=checker).status == "wrong_answer"
    always = "class A(list):\n    def __eq__(s, o): return True\n    def __iter__(s): return iter([1, 2])\ndef f(n): return A([7])"
    assert sandbox.judge(always, tests, entry_point="f", checker=checker).status == "wrong_answer"


@pytest.mark.parametrize(
    "checker",
    [
        "def check(input, expected, output):\n    while True: pass",
        "def check(input, expected, output):\n    import os; os._exit(0)",
        "def check(input, expected, output): return 'x' * 10_000_000",
        "def check(input, expected, output): return 1",
        "def check(input, expected, output): return None",
        "def check(output): return True",
    ],
)
def test_a_checker_that_fails_accepts_nothing(sandbox: Sandbox, checker: str) -> None:
    verdict = sandbox.judge("print(3)", ANY, checker=checker, limits=LIMITS)
    assert verdict.status == "wrong_answer" and "checker" in verdict.detail
    assert sandbox.judge("print(3)", ANY).status == "accepted"


def test_a_program_is_judged_before_its_checker(sandbox: Sandbox) -> None:
    accept = "def check(input, expected, output): return True"
    for code, status in (("print(3); raise SystemExit(1)", "runtime_error"), ("while True: pass", "time_limit")):
        assert sandbox.judge(code, ANY, checker=accept, limits=LIMITS).status == status
    assert sandbox.judge("print('x' * 6_000_000)", ANY, checker=accept).status == "output_limit"


def test_no_solution_meets_a_checker(sandbox: Sandbox) -> None:
    leave = "import os\nfor d in ('/work', '/tmp', '/dev/shm'):\n    open(d + '/trap', 'w').write('x')\nprint(os.listdir('/work'))"
    look = "import os\ndef check(input, expected, output): return not any(os.listdir(d) for d in ('/work', '/tmp', '/dev/shm')) and 'trap' in output"
    assert sandbox.judge(leave, ANY, checker=look).status == "accepted"


@pytest.mark.parametrize("checker", ["def check(", "check = 1", "class check: pass"])
def test_what_is_no_checker_is_the_callers_fault(sandbox: Sandbox, checker: str) -> None:
    with pytest.raises(BadTestCase, match="checker"):
        sandbox.judge("print(3)", ANY, checker=checker)
