"""Proves that assert code judges rightly and can't be passed by exit, monkeypatching, always-equal or forgery."""

# ruff: noqa: E501  (programs as they are)

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sandbox import Limits, Sandbox, TestCase
from sandbox.asserts import LiteralCall, Referee, plan

LITERAL = TestCase("assert", code="assert f(2) == 4")
GENERAL = TestCase("assert", code="for x in [2, 3]:\n    assert abs(f(x) - 2 * x) < 1e-6")
CHECK = TestCase("assert", code="def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(3) == 6\n")
DATA = Path(__file__).parents[3] / "shared" / "data"

CHEATS = [
    "import os; os._exit(0)",
    "import sys; sys.exit(0)",
    "raise SystemExit(0)",
    "def f(x):\n    import os; os._exit(0)",
    "def f(x): raise SystemExit(0)",
    "class A:\n    def __eq__(s, o): return True\n    def __sub__(s, o): return 0\n    def __abs__(s): return 0\n"
    "    def __lt__(s, o): return True\ndef f(x): return A()",
    "class A(int):\n    def __eq__(s, o): return True\n    def __rsub__(s, o): return 0\n    __sub__ = __rsub__\n"
    "    def __hash__(s): return 0\ndef f(x): return A(1)",
    "class A(float):\n    def __eq__(s, o): return True\n    def __float__(s): return 4.0\ndef f(x): return A(1)",
    "class A(str):\n    def __eq__(s, o): return True\n    def __hash__(s): return 0\ndef f(x): return A('q')",
    "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.AssertionError = SystemExit\ndef f(x): return 1",
    "import sys, atexit\natexit.register(lambda: __import__('os')._exit(0))\ndef f(x): assert False",
    "import os, json, struct\nfor op in ({'op': 'done'}, {'op': 'value', 'v': True}):\n    m = json.dumps(op).encode()\n"
    "    for fd in range(64):\n        try: os.write(fd, struct.pack('>I', len(m)) + m)\n        except OSError: pass\n"
    "def f(x): return 1",
    "import os\nfor fd in range(64):\n    try: os.write(fd, b'\\xff' * 100)\n    except OSError: pass\ndef f(x): return 1",
    "import os\nos.closerange(0, 256)\ndef f(x): return 1",
    "import gc, sys\ndef f(x):\n    f_ = sys._getframe()\n    while f_:\n        for v in list(f_.f_locals.values()):\n"
    "            if isinstance(v, dict) and 'expected' in v: return v['expected']\n        f_ = f_.f_back\n    return None",
    "import sandbox.image.values as v\nv.encode = lambda *a: 4\ndef f(x): return 1",
    "def f(x):\n    while True: pass",
    "def f(x): raise StopIteration",
    "def f(x): raise AssertionError",
    "def f(x): return None",
    "def f(x): return [4, 6]",
]


@pytest.mark.parametrize("test", [LITERAL, GENERAL, CHECK], ids=["literal", "general", "check"])
@pytest.mark.parametrize("code", CHEATS)
def test_cheats_do_not_pass(sandbox: Sandbox, code: str, test: TestCase) -> None:
    verdict = sandbox.judge(code, [test], entry_point="f", limits=Limits(time_s=0.5))
    assert verdict.status not in ("accepted", "infra_error"), verdict


@pytest.mark.parametrize("test", [LITERAL, GENERAL, CHECK], ids=["literal", "general", "check"])
def test_right_and_wrong(sandbox: Sandbox, test: TestCase) -> None:
    assert sandbox.judge("def f(x): return 2 * x", [test], entry_point="f").status == "accepted"
    assert sandbox.judge("def f(x): return x * x * x", [test], entry_point="f").status == "wrong_answer"
    assert sandbox.judge("def f(x) return", [test], entry_point="f").status == "compile_error"
    assert sandbox.judge("def f(x): raise KeyError(x)", [test], entry_point="f").status == "runtime_error"
    assert sandbox.judge("def g(x): return x", [test], entry_point="f").status == "runtime_error"


@pytest.mark.parametrize(
    ("code", "test"),
    [
        ("def f(x): x.sort()", "a = [3, 1, 2]\nf(a)\nassert a == [1, 2, 3]"),
        ("def f(x): x['k'] = 1", "d = {}\nf(d)\nassert d == {'k': 1}"),
        ("def f(g, xs): return [g(x) for x in xs]", "assert f(lambda x: x + 1, [1, 2]) == [2, 3]"),
        ("def f(n):\n    for i in range(n): yield i", "assert list(f(3)) == [0, 1, 2]"),
        ("def f(x): raise ValueError('no')", "try:\n    f(1)\n    assert False\nexcept ValueError: pass"),
        (
            "class Node:\n    def __init__(s, v): s.v = v; s.left = None\ndef f(n): return n.v + n.left.v",
            "a = Node(1)\na.left = Node(2)\nassert f(a) == 3\nassert a.left.v == 2",
        ),
        (
            "class Stack:\n    def __init__(s): s.x = []\n    def push(s, v): s.x.append(v)\n    def pop(s): return s.x.pop()",
            "s = Stack()\ns.push(1)\ns.push(2)\nassert s.pop() == 2 and s.pop() == 1",
        ),
        ("import collections\ndef f(x): return collections.Counter(x)", "assert f('aab') == {'a': 2, 'b': 1}"),
        ("def f(): return {(1, 2): {3}}, None, 1j, b'x'", "assert f() == ({(1, 2): {3}}, None, 1j, b'x')"),
        ("import math\ndef f(x): return math.pi * x", "assert math.isclose(f(2), 6.2831, rel_tol=1e-3)"),
        ("def f(x): return x + 1", "from solution import f\nassert f(1) == 2"),
        ("def sum(a, b): return a - b", "assert sum(5, 3) == 2"),
        ("def f(x, t): return [i for i in x if type(i) is not t]", "assert f((1, 'a'), str) == [1]"),
        ("def f(): print('noise' * 1000); return 1", "assert f() == 1\nassert f() == 1"),
    ],
)
def test_what_assert_code_may_do(sandbox: Sandbox, code: str, test: str) -> None:
    verdict = sandbox.judge(code, [TestCase("assert", code=test)])
    assert (verdict.status, verdict.detail) == ("accepted", "")


CALLBACK = TestCase("assert", code="secret = 4711\nassert f(lambda x: x + secret, 1) == 4712\nassert f(None, 2) == 99")


@pytest.mark.parametrize(
    "cheat",
    [
        "f = g.__globals__['secret'] and g.__globals__['__builtins__']",
        "g._peer",
        "getattr(g, 'gi_frame')",
        "object.__getattribute__(g, '_peer').value({'op': 'get', 'ref': object.__getattribute__(g, '_id'), 'attribute': '__globals__'})",
        "object.__getattribute__(g, '_peer').value({'op': 'get', 'ref': object.__getattribute__(g, '_id'), 'attribute': '__code__'})",
    ],
)
def test_a_callback_does_not_open_the_referee(sandbox: Sandbox, cheat: str) -> None:
    code = f"def f(g, x):\n    if g is None: return 98\n    try: print('OPEN', {cheat})\n    except BaseException as e: print(type(e))\n    return g(x)"
    verdict = sandbox.judge(code, [CALLBACK])
    assert verdict.status == "wrong_answer"
    assert "4711" not in verdict.tests[0].stdout and "__builtins__" not in verdict.tests[0].stdout
    assert sandbox.judge("def f(g, x): return g(x) if g else 99", [CALLBACK]).status == "accepted"


def test_a_solution_must_load_even_if_nothing_is_asked_of_it(sandbox: Sandbox) -> None:
    test = TestCase("assert", code="assert True")
    assert sandbox.judge("def f(:", [test]).status == "compile_error"
    assert sandbox.judge("import os; os._exit(0)", [test]).status == "runtime_error"


def test_where_assert_code_is_judged() -> None:
    assert plan("assert f(1, [2], k='x') == (3,)") == LiteralCall("f", (1, [2]), {"k": "x"}, (3,))
    general = plan("import random\nfor i in range(3):\n    assert math.isclose(f(i), poly(i))")
    assert isinstance(general, Referee)
    assert (general.names, general.modules) == (("f", "poly"), ("math",))


def humaneval() -> list[tuple[str, list[TestCase], str | None]]:
    rows = [json.loads(line) for line in (DATA / "humaneval.jsonl").open()]
    return [
        (row["prompt"] + row["canonical_solution"], [TestCase("assert", code=row["test"])], row["entry_point"])
        for row in rows
    ]


def mbpp() -> list[tuple[str, list[TestCase], str | None]]:
    rows = [json.loads(line) for line in (DATA / "mbpp.jsonl").open()]
    return [
        (
            row["code"],
            [TestCase("assert", code=f"{row['test_setup_code']}\n{test}".strip()) for test in row["test_list"]],
            None,
        )
        for row in rows
    ]


@pytest.mark.skipif(not DATA.exists(), reason="the public data sets are not beside this checkout")
@pytest.mark.parametrize(("load", "step"), [(humaneval, 5), (mbpp, 30)], ids=["humaneval", "mbpp"])
def test_reference_solutions_are_accepted(sandbox: Sandbox, load: object, step: int) -> None:
    rows = load()[::step]  # type: ignore[operator]
    verdicts = [sandbox.judge(code, tests, entry_point=entry, limits=Limits(time_s=10)) for code, tests, entry in rows]
    assert len(rows) >= 30
    assert [verdict for verdict in verdicts if verdict.status != "accepted"] == []
