"""Mutation campaign: reference solutions of HumanEval and MBPP, as they are and with one planted bug each.

    python tests/sandbox/mutants.py --data ../shared/data
    python tests/sandbox/mutants.py --data ../shared/data --step 12 --bugs 4   # every 12th task, four mutants each

Proves: the sandbox accepts every reference solution, and judges every mutant as a bare run judges it: the
solution and one test as a plain Python script, in a process of its own, in a container where none of the
sandbox's supervisor and judge runs. Accepted there and here, timed out there and here. Exits 1 when not so.
Not covered: why a program failed (a bare run only knows an exit status), and bugs of more than one place.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast

from sandbox import Limits, Sandbox, SolutionVerdict, TestCase
from sandbox.verdict import MIB

KINDS = ("operator", "constant", "off_by_one", "early_return", "negated_condition")
LIMITS = Limits(time_s=4.0, wall_s=60.0, memory_bytes=512 * MIB, max_tests=None)
THREADS = 2
# Seed of a mutant: why a bare run judges it otherwise, and wrongly.
EXPLAINED = {"MBPP/264#2": "it calls exit() before the assert, which a bare run takes for a pass by its exit status 0"}


@dataclass(frozen=True)
class Task:
    """One reference solution and its tests. `entry_point` is what HumanEval's check() is called with."""

    id: str
    code: str
    tests: tuple[TestCase, ...]
    entry_point: str | None = None

    def scripts(self, code: str) -> list[str]:
        """`code` and each test as a plain script, which ends with exit status 0 when the test passes."""
        call = f"\ncheck({self.entry_point})\n" if self.entry_point else "\n"
        return [f"{code}\n{test.code}{call}" for test in self.tests]


def tasks(data: Path) -> list[Task]:
    """The 164 tasks of HumanEval and the 974 of MBPP."""
    humaneval = [json.loads(line) for line in (data / "humaneval.jsonl").open()]
    mbpp = [json.loads(line) for line in (data / "mbpp.jsonl").open()]
    return [
        Task(
            row["task_id"],
            row["prompt"] + row["canonical_solution"],
            (TestCase("assert", code=row["test"]),),
            row["entry_point"],
        )
        for row in humaneval
    ] + [
        Task(
            f"MBPP/{row['task_id']}",
            row["code"],
            tuple(TestCase("assert", code=f"{row['test_setup_code']}\n{test}".strip()) for test in row["test_list"]),
        )
        for row in mbpp
    ]


# -- the mutator

SWAPS = """Add/Sub Add/Mult Mult/FloorDiv Mult/Div Mult/Pow FloorDiv/Mod BitAnd/BitOr BitOr/BitXor LShift/RShift
           Lt/LtE Lt/Gt Gt/GtE Eq/NotEq In/NotIn Is/IsNot And/Or"""  # either way


@dataclass(frozen=True)
class Mutant:
    """A program with one bug; `change` is the line before and after."""

    seed: str
    kind: str
    code: str
    change: str


@dataclass(frozen=True)
class Site:
    """A place for a bug; `plant` changes the tree that the site was found in."""

    kind: str
    plant: Callable[[], object]


def mutate(code: str, seed: str) -> Mutant | None:
    """Plant one bug, drawn by `seed` first among the kinds, then among places; None when there is no place."""
    draw = random.Random(seed)
    plain = ast.unparse(ast.parse(code))
    kinds = [site.kind for site in sites(ast.parse(code))]
    preferred = draw.sample(KINDS, len(KINDS))
    order = draw.sample(range(len(kinds)), len(kinds))
    for number in sorted(order, key=lambda number: preferred.index(kinds[number])):
        tree = ast.parse(code)
        site = sites(tree)[number]
        site.plant()
        changed = ast.unparse(ast.fix_missing_locations(tree))
        if changed != plain and compiles(changed):
            return Mutant(seed, site.kind, changed, difference(plain, changed))
    return None


def compiles(code: str) -> bool:
    try:
        compile(code, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def difference(before: str, after: str) -> str:
    """The one line that differs, before and after."""
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    removed = [line[2:].strip() for line in lines if line.startswith("- ")]
    added = [line[2:].strip() for line in lines if line.startswith("+ ")]
    return f"{' | '.join(removed) or '(nothing)'}  ->  {' | '.join(added) or '(nothing)'}"


def sites(tree: ast.Module) -> list[Site]:
    """Every place for a bug, in a fixed order."""
    found: list[Site] = []
    for node in running_nodes(tree):
        found += operator_sites(node)
        found += off_by_one_sites(node)
        if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
            found.append(Site("constant", partial(setattr, node, "value", other_constant(node.value))))
        if isinstance(node, ast.If | ast.While | ast.IfExp):
            found.append(Site("negated_condition", partial(setattr, node, "test", negated(node.test))))
        if isinstance(node, ast.comprehension):
            found += [
                Site("negated_condition", partial(node.ifs.__setitem__, index, negated(condition)))
                for index, condition in enumerate(node.ifs)
            ]
    functions = [node for node in running_nodes(tree) if isinstance(node, ast.FunctionDef)]
    found += [site for function in functions for site in early_return_sites(function, 1)]
    # First in a function, a return leaves nothing of it: only where there is no other place.
    return found or [site for function in functions for site in early_return_sites(function, 0)]


def running_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that matter when the program runs: no docstrings, no annotations, no pieces of f-strings."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns") or isinstance(node, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not is_text(child):
                yield from running_nodes(child)


def is_text(node: ast.AST) -> bool:
    """A docstring, or another string that stands alone."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def operator_sites(node: ast.AST) -> list[Site]:
    if isinstance(node, ast.Compare):
        return [
            Site("operator", partial(node.ops.__setitem__, index, cast("ast.cmpop", other)))
            for index, operator in enumerate(node.ops)
            for other in others(operator)
        ]
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp):
        return [Site("operator", partial(setattr, node, "op", other)) for other in others(node.op)]
    return []


def others(operator: ast.AST) -> list[ast.AST]:
    """The operators that may stand in the place of this one."""
    pairs = [swap.split("/") for swap in SWAPS.split()]
    ways = [way for pair in pairs for way in (pair, pair[::-1])]
    return [getattr(ast, new)() for old, new in ways if type(operator).__name__ == old]


def other_constant(value: bool | int | float | str) -> bool | int | float | str:
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value[:-1] if value else "x"
    return value + 1


def off_by_one_sites(node: ast.AST) -> list[Site]:
    """Bounds of range(), indices, and slices, of which a missing end counts as well."""
    found: list[Callable[[], object]] = []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        for index, bound in enumerate(node.args):
            found += [partial(node.args.__setitem__, index, shifted(bound, by)) for by in (1, -1)]
    elif isinstance(node, ast.Slice):
        lower = [shifted(node.lower, by) for by in (1, -1)] if node.lower else [ast.Constant(1)]
        upper = [shifted(node.upper, by) for by in (1, -1)] if node.upper else [ast.Constant(-1)]
        found += [partial(setattr, node, "lower", bound) for bound in lower]
        found += [partial(setattr, node, "upper", bound) for bound in upper]
    elif isinstance(node, ast.Subscript) and is_index(node.slice):
        found += [partial(setattr, node, "slice", shifted(node.slice, by)) for by in (1, -1)]
    return [Site("off_by_one", plant) for plant in found]


def is_index(node: ast.expr) -> bool:
    text = isinstance(node, ast.Constant) and not isinstance(node.value, int)
    return not text and not isinstance(node, ast.Slice | ast.Tuple)


def shifted(node: ast.expr, by: int) -> ast.expr:
    operator = ast.Add() if by > 0 else ast.Sub()
    return ast.BinOp(left=node, op=operator, right=ast.Constant(abs(by)))


def negated(node: ast.expr) -> ast.expr:
    return ast.UnaryOp(op=ast.Not(), operand=node)


def early_return_sites(function: ast.FunctionDef, start: int) -> list[Site]:
    """`return x` before a statement, in a nested block before its first as well; x is what was assigned last."""
    parameters = function.args.posonlyargs + function.args.args
    docstring = is_text(function.body[0])
    return list(block_sites(function.body, start + docstring, parameters[0].arg if parameters else None))


def block_sites(block: list[ast.stmt], start: int, name: str | None) -> Iterator[Site]:
    for position, statement in enumerate(block):
        if position >= start:
            value = ast.Name(name, ast.Load()) if name else None
            if ast.dump(statement) != ast.dump(planted := ast.Return(value)):
                yield Site("early_return", partial(block.insert, position, planted))
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            continue
        name = assigned(statement) or name
        for part in ("body", "orelse", "finalbody"):
            inner: list[ast.stmt] = getattr(statement, part, [])
            alone = part == "orelse" and len(inner) == 1 and isinstance(inner[0], ast.If)  # `elif`
            yield from block_sites(inner, 1 if alone else 0, name)


def assigned(statement: ast.stmt) -> str | None:
    """The simple name that a statement assigns, if it does."""
    targets: Sequence[ast.expr] = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
    return targets[-1].id if isinstance(targets[-1], ast.Name) else None


# -- the bare run

Outcome = Literal["passed", "failed", "timed out"]
LOOP = """
import json, subprocess, sys, tempfile
from concurrent.futures import ThreadPoolExecutor

def run(line):
    task = json.loads(line)
    outcome, text = "passed", ""
    for script in task["scripts"]:
        with tempfile.NamedTemporaryFile("w", suffix=".py") as file, tempfile.TemporaryFile() as output:
            file.write(script)
            file.flush()
            command = ["prlimit", *task["limits"], "python3", "-s", "-B", file.name]
            try:
                status = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=task["wall_s"]
                ).returncode
            except subprocess.TimeoutExpired:
                status = -24
            output.seek(max(0, output.seek(0, 2) - 500))
            text = output.read().decode("utf-8", "replace")
        outcome = {0: "passed", -24: "timed out"}.get(status, "failed")
        if status != 0:
            break
    last = text.strip().rpartition("\\n")[2]
    return json.dumps({"id": task["id"], "outcome": outcome, "text": last})

with ThreadPoolExecutor(int(sys.argv[1])) as pool:
    for answer in pool.map(run, sys.stdin):
        print(answer, flush=True)
"""


@dataclass(frozen=True)
class Bare:
    """How a bare run of all tests ended: at the first that did not pass, with the last line it printed."""

    outcome: Outcome
    text: str


def bare_run(image: str, programs: Sequence[tuple[Task, str]], limits: Limits) -> list[Bare]:
    """Run each program's tests as plain scripts in one container of `image`; the same limits, nothing of ours."""
    soft = int(limits.time_s)
    prlimit = [f"--cpu={soft}:{soft + 2}", f"--data={limits.memory_bytes}", f"--fsize={limits.output_bytes}"]
    lines = [
        json.dumps({"id": task.id, "scripts": task.scripts(code), "limits": prlimit, "wall_s": limits.wall})
        for task, code in programs
    ]
    memory = f"{THREADS * limits.memory_bytes + 256 * MIB}"
    command = ["docker", "run", "--rm", "--interactive", "--network=none", "--read-only", "--cap-drop=ALL"]
    command += ["--user=65534:65534", "--tmpfs=/tmp:mode=1777,size=256m", "--pids-limit=64"]
    command += [f"--memory={memory}", f"--memory-swap={memory}", "--env=PYTHONPATH=", "--env=PYTHONHASHSEED=0"]
    command += ["--entrypoint=python3", image, "-c", LOOP, str(THREADS)]
    done = subprocess.run(command, input="\n".join(lines), stdout=subprocess.PIPE, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    if [answer["id"] for answer in answers] != [task.id for task, _ in programs]:
        raise RuntimeError(f"{len(programs)} programs went into the bare run, {len(answers)} outcomes came out")
    return [Bare(answer["outcome"], answer["text"]) for answer in answers]


# -- the comparison


@dataclass(frozen=True)
class Comparison:
    """One program, judged by both."""

    task: Task
    mutant: Mutant | None  # None: the reference solution as it is
    bare: Bare
    verdict: SolutionVerdict

    @property
    def agree(self) -> bool:
        status = self.verdict.status
        return (
            status != "infra_error"
            and (status == "accepted") == (self.bare.outcome == "passed")
            and (status == "time_limit") == (self.bare.outcome == "timed out")
        )

    def __str__(self) -> str:
        mutant = self.mutant
        what = f"{mutant.seed}, {mutant.kind}: {mutant.change}" if mutant else f"{self.task.id} as it is"
        ours = f"{self.verdict.status} ({self.verdict.detail})"
        return f"{what}\n    bare: {self.bare.outcome} ({self.bare.text})\n    ours: {ours}"


def compare(sandbox: Sandbox, planted: Sequence[tuple[Task, Mutant | None]], limits: Limits) -> list[Comparison]:
    """Run and judge each task's mutant, or its reference solution where there is none."""
    programs = [(task, mutant.code if mutant else task.code) for task, mutant in planted]

    def judge(program: tuple[Task, str]) -> SolutionVerdict:
        task, code = program
        return sandbox.judge(code, task.tests, entry_point=task.entry_point, limits=limits)

    with ThreadPoolExecutor(2 * THREADS) as pool:
        verdicts = list(pool.map(judge, programs))
    bare = bare_run(sandbox.image_id, programs, limits)
    return [Comparison(*row) for row in zip(*zip(*planted, strict=True), bare, verdicts, strict=True)]


def count(words: Iterable[str]) -> str:
    return ", ".join(f"{number} {word}" for word, number in Counter(words).most_common())


def check(title: str, compared: Sequence[Comparison]) -> bool:
    """Print counts, and every comparison that is not as it should be; whether nothing is left unexplained."""
    print(f"{title}: {len(compared)}")
    print(f"  bare: {count(one.bare.outcome for one in compared)}")
    print(f"  ours: {count(one.verdict.status for one in compared)}", flush=True)
    odd = [one for one in compared if not one.agree or (one.mutant is None and one.verdict.status != "accepted")]
    reasons = [EXPLAINED.get(one.mutant.seed) if one.mutant else None for one in odd]
    for one, reason in zip(odd, reasons, strict=True):
        print(f"  {f'explained ({reason})' if reason else 'FAILED'}: {one}", flush=True)
    return all(reasons)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with humaneval.jsonl and mbpp.jsonl")
    parser.add_argument("--step", type=int, default=1, help="every N-th task")
    parser.add_argument("--bugs", type=int, default=1, help="mutants of a task, each with one bug")
    given = parser.parse_args()
    chosen = tasks(given.data)[:: given.step]
    with Sandbox(limits=LIMITS, containers=THREADS) as sandbox:
        sound = check("reference solutions", compare(sandbox, [(task, None) for task in chosen], LIMITS))
        for number in range(given.bugs):
            mutants = [(task, mutate(task.code, f"{task.id}#{number}")) for task in chosen]
            planted = [(task, mutant) for task, mutant in mutants if mutant]
            kinds = count(mutant.kind for _, mutant in planted if mutant)
            print(f"bug {number}: {kinds}; tasks without a place for one: {len(mutants) - len(planted)}")
            sound &= check("mutants", compare(sandbox, planted, LIMITS))
    sys.exit(not sound)


if __name__ == "__main__":
    main()
