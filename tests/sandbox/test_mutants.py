"""Proves that reference solutions and mutants of them are judged as a bare run judges them (a sample of the campaign).

And that the campaign can tell: its mutator plants one bug of every kind, its bare run knows the three outcomes,
and its check fails on what it must not let pass. The whole data sets: `python tests/sandbox/mutants.py`.
"""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox import Sandbox, SolutionVerdict, Status, TestCase
from tests.sandbox import mutants
from tests.sandbox.mutants import KINDS, LIMITS, Bare, Comparison, Mutant, Outcome, Task, bare_run, compare, mutate

PROJECT = Path(__file__).parents[2]
DATA = PROJECT.parent / "shared" / "data"
ENDLESS = ("MBPP/543", "MBPP/683")  # their first bug makes a loop without end

PROGRAM = '''
import math

def weigh(items: list = [1], unit: str = "kg") -> str:
    """Not a place for a bug: 1 + 1."""
    total = 0
    for index in range(1, len(items)):
        if items[index] > 10 and unit != "g":
            total += items[index - 1] * 2
        elif items[index:] == items[:3]:
            total -= math.floor(1.5)
        else:
            total = [x for x in items if x][0]
    while not total % 2:
        total = total // 2 if total else 1
    return f"{total} {unit}"
'''
TASK = Task("t", "", (TestCase("assert", code="assert f(1) == 2"), TestCase("assert", code="assert f(2) == 3")))


def places(one: object, other: object) -> int:
    """In how many places two trees differ; a statement more is one place, an operand wrapped or moved is one."""
    if isinstance(one, list) and isinstance(other, list):
        if len(one) == len(other):
            return sum(places(a, b) for a, b in zip(one, other, strict=True))
        without = [other[:index] + other[index + 1 :] for index in range(len(other))]
        return 1 if any(places(one, rest) == 0 for rest in without) else 99
    if isinstance(one, ast.AST) and isinstance(other, ast.AST):
        if any(ast.dump(one) == ast.dump(child) for child in ast.iter_child_nodes(other)):
            return 1  # `x` has become `x + 1` or `not x`
        if type(one) is type(other):
            return sum(places(getattr(one, name, None), getattr(other, name, None)) for name in one._fields)
    return int(one != other)


@functools.cache
def many(code: str = PROGRAM, draws: int = 300) -> list[Mutant]:
    found = [mutate(code, f"seed {number}") for number in range(draws)]
    return [mutant for mutant in found if mutant]


def test_a_mutant_differs_in_exactly_one_place_and_compiles() -> None:
    assert len(many()) == 300
    assert {places(ast.parse(PROGRAM), ast.parse(mutant.code)) for mutant in many()} == {1}
    for mutant in many():
        compile(mutant.code, "mutant", "exec")
        assert mutant.change.count("  ->  ") == 1


def test_every_kind_of_bug_is_planted_and_in_many_places() -> None:
    for kind in KINDS:
        assert len({mutant.code for mutant in many() if mutant.kind == kind}) >= 5, kind


def test_a_mutant_depends_on_the_seed_and_on_nothing_else() -> None:
    code = "from tests.sandbox.test_mutants import many; print([m.code for m in many(draws=50)])"
    outputs = {
        subprocess.check_output([sys.executable, "-c", code], cwd=PROJECT, env=os.environ | {"PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert len({mutant.code for mutant in many(draws=50)}) > 20


def test_texts_and_annotations_are_no_places_for_a_bug() -> None:
    code = 'x: "a" = y\ndef f(a: "int", b: 1 = z) -> "str":\n    "doc"\n    return f"{a}b"\n'
    assert {mutant.change for mutant in many(code)} == {"(nothing)  ->  return a"}  # what is left where nothing else is
    assert mutate("x = y", "seed") is None


@pytest.mark.parametrize(
    ("status", "outcome", "agree"),
    [
        ("accepted", "passed", True),
        ("wrong_answer", "failed", True),
        ("runtime_error", "failed", True),
        ("time_limit", "timed out", True),
        ("accepted", "failed", False),
        ("accepted", "timed out", False),
        ("wrong_answer", "passed", False),
        ("wrong_answer", "timed out", False),
        ("memory_limit", "timed out", False),
        ("time_limit", "failed", False),
        ("time_limit", "passed", False),
        ("infra_error", "failed", False),
    ],
)
def test_what_counts_as_agreement(status: Status, outcome: Outcome, agree: bool) -> None:
    mutant = Mutant("t#0", "constant", "", "1  ->  2")
    compared = Comparison(TASK, mutant, Bare(outcome, ""), SolutionVerdict(status))
    assert compared.agree is agree
    assert mutants.check("mutants", [compared]) is agree


def test_only_an_explained_mutant_may_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mutants.EXPLAINED, "t#0", "a reason")
    mutant = Mutant("t#0", "constant", "", "1  ->  2")
    assert mutants.check("mutants", [Comparison(TASK, mutant, Bare("passed", ""), SolutionVerdict("wrong_answer"))])
    refused = Comparison(TASK, None, Bare("failed", ""), SolutionVerdict("wrong_answer"))
    assert not mutants.check("reference solutions", [refused])


def test_the_bare_run_knows_what_passes_fails_and_does_not_end(sandbox: Sandbox) -> None:
    expected: dict[str, Outcome] = {
        "def f(x): return x + 1": "passed",
        "def f(x): return 2": "failed",  # in the second test
        "def f(x: return 2": "failed",
        "def f(x):\n    while True: pass": "timed out",
        "kept = []\nwhile True: kept.append(bytearray(1 << 24))": "failed",
        "import sandbox.image\ndef f(x): return x + 1": "failed",  # nothing of ours is at hand
    }
    ran = bare_run(sandbox.image_id, [(TASK, code) for code in expected], LIMITS)
    assert [one.outcome for one in ran] == list(expected.values())
    assert "SyntaxError" in ran[2].text and "MemoryError" in ran[4].text and "No module" in ran[5].text


@pytest.mark.skipif(not DATA.exists(), reason="the public data sets are not beside this checkout")
def test_a_sample_is_judged_as_a_bare_run_judges_it(sandbox: Sandbox) -> None:
    everything = mutants.tasks(DATA)
    assert len(everything) == 164 + 974
    sample = [task for number, task in enumerate(everything) if number % 12 == 0 or task.id in ENDLESS]
    planted = [(task, mutate(task.code, f"{task.id}#0")) for task in sample]
    assert all(mutant for _, mutant in planted)
    compared = compare(sandbox, [*planted, *((task, None) for task in sample)], LIMITS)
    assert [str(one) for one in compared if not one.agree] == []
    assert [str(one) for one in compared if one.mutant is None and one.verdict.status != "accepted"] == []
    assert {one.bare.outcome for one in compared if one.mutant} == {"passed", "failed", "timed out"}
