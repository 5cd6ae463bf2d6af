"""Speed of the sandbox against the two obvious ways to run the same programs, in one run on one machine.

    python tests/bench/sandbox [--programs 500] [--containers 2] [--rounds 5]

Every program has five small tests. (a) is one container per program under the same limits: create, start,
five runs, wait, remove. (b) is bare subprocesses in warm containers of the same image and limits, nothing
judged. All have the same concurrency. The ways take turns in short rounds, in an order that rotates, so that
other load on the machine hits all alike; a rate is the median over rounds, a ratio the median of the ratios
within a round.

Not covered: start of the pool (all containers are warm), hostile programs (soak.py), large outputs.
Nothing is asserted on time; a program that does not end as it should stops the benchmark.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import docker
from docker.utils.socket import frames_iter
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from sandbox import Sandbox, TestCase
from sandbox.container import engine, options

TESTS = 5
GOALS = {"(a)": 30.0, "(b)": 0.5}  # for stdin tests in Python

RUN_TESTS = """
import json, os, subprocess, sys, time

def run_tests(language, code, inputs):
    started = time.perf_counter()
    name, run = "/work/solution." + language, ["python3", "/work/solution.python"]
    with open(name, "w") as file:
        file.write(code)
    if language == "cpp":
        run = ["/work/program"]
        subprocess.run(["g++", "-O2", "-o", run[0], name], check=True)
    for text in inputs:
        subprocess.run(run, input=text.encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True)
    return time.perf_counter() - started

os.environ["TMPDIR"] = "/tmp"
"""
ONCE = RUN_TESTS + "run_tests(*json.loads(sys.argv[1]))"
LOOP = RUN_TESTS + "for line in sys.stdin: print(json.dumps([run_tests(*one) for one in json.loads(line)]), flush=True)"


@dataclass(frozen=True)
class Program:
    """A right program with its tests; `number` makes each one's code different."""

    language: str
    code: str
    tests: tuple[TestCase, ...]

    @property
    def bare(self) -> tuple[str, str, list[str]]:
        """What the alternatives get."""
        return self.language, self.code, [test.input for test in self.tests]


def stdin_program(number: int) -> Program:
    code = (
        "import sys\nrows = [list(map(int, line.split())) for line in sys.stdin]\n"
        f"for row in rows:\n    print(sum(x * x for x in row) + {number}, *sorted(row))\n"
    )
    return Program("python", code, _stdin_tests(number))


def cpp_program(number: int) -> Program:
    code = (
        "#include <algorithm>\n#include <iostream>\n#include <sstream>\n#include <string>\n#include <vector>\n"
        "int main() {\n    std::string line;\n    while (std::getline(std::cin, line)) {\n"
        f"        std::istringstream in(line);\n        std::vector<long> row;\n        long x, sum = {number};\n"
        "        while (in >> x) { row.push_back(x); sum += x * x; }\n"
        "        std::sort(row.begin(), row.end());\n        std::cout << sum;\n"
        "        for (long y : row) std::cout << ' ' << y;\n        std::cout << '\\n';\n    }\n}\n"
    )
    return Program("cpp", code, _stdin_tests(number))


def _stdin_tests(number: int) -> tuple[TestCase, ...]:
    tests = []
    for test in range(TESTS):
        rows = [[(7 * number + 3 * i + test * j) % 1000 for i in range(8)] for j in range(4)]
        want = [" ".join(map(str, [sum(x * x for x in row) + number, *sorted(row)])) for row in rows]
        tests.append(TestCase("stdin", "\n".join(" ".join(map(str, row)) for row in rows) + "\n", "\n".join(want)))
    return tuple(tests)


FUNCTION = (
    "def solve(words, k):\n    seen = sorted(set(words), key=lambda w: (len(w), w))\n    return seen[:k] + [{}]\n"
)


def _calls(number: int) -> Iterator[tuple[list[str], int, list[Any]]]:
    for test in range(TESTS):
        words = [chr(97 + (number + i * test) % 26) * (1 + i % 3) for i in range(6)]
        yield words, 3, [*sorted(set(words), key=lambda w: (len(w), w))[:3], number]


def call_program(number: int) -> Program:
    tests = tuple(TestCase("call", json.dumps([words, k]), json.dumps(want)) for words, k, want in _calls(number))
    return Program("python", FUNCTION.format(number), tests)


def assert_program(number: int) -> Program:
    """Asserts as MBPP has them: the host compares the value."""
    tests = tuple(TestCase("assert", code=f"assert solve({words}, {k}) == {want}") for words, k, want in _calls(number))
    return Program("python", FUNCTION.format(number), tests)


def referee_program(number: int) -> Program:
    """Asserts that must run as code, in a referee container."""
    code = "got = solve({}, {})\nassert got[0] == {!r} and len(got) == {}"
    tests = tuple(
        TestCase("assert", code=code.format(words, k, want[0], len(want))) for words, k, want in _calls(number)
    )
    return Program("python", FUNCTION.format(number), tests)


class Loop:
    """Alternative (b): a warm container in which a loop runs programs, and the socket to it."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.client = docker.from_env()
        chosen = options(sandbox.max_memory_bytes) | {"entrypoint": ["python3", "-c", LOOP], "command": []}
        self.container = self.client.containers.create(sandbox.image_id, **chosen)
        self.socket: Any = self.container.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        self.answers = frames_iter(self.socket, tty=False)
        self.container.start()

    def run(self, programs: Sequence[Program]) -> list[float]:
        """Seconds of each program, taken inside."""
        self.socket._sock.sendall(json.dumps([program.bare for program in programs]).encode() + b"\n")
        line = b""
        for stream, part in self.answers:
            if stream != 1:
                raise RuntimeError(f"the bare loop failed: {part.decode(errors='replace')}")
            line += part
            if line.endswith(b"\n"):
                return [float(seconds) for seconds in json.loads(line)]
        raise RuntimeError("the bare loop ended")

    def close(self) -> None:
        self.socket.close()
        with suppress(docker.errors.APIError):  # the loop has ended, and the engine is removing it already
            self.container.remove(force=True)
        self.client.close()


def run_in_new_container(sandbox: Sandbox, program: Program) -> float:
    """Alternative (a), by docker-py; seconds."""
    started = time.perf_counter()
    chosen = options(sandbox.max_memory_bytes) | {"auto_remove": False, "stdin_open": False}
    chosen |= {"entrypoint": ["python3", "-c", ONCE], "command": [json.dumps(program.bare)]}
    with engine() as client:
        container = client.containers.create(sandbox.image_id, **chosen)
        try:
            container.start()
            status = container.wait()["StatusCode"]
        finally:
            container.remove(force=True)
    if status != 0:
        raise RuntimeError(f"a program in a container of its own ended with status {status}")
    return time.perf_counter() - started


def judge(sandbox: Sandbox, program: Program) -> float:
    """Our way; seconds of the whole judge() call."""
    started = time.perf_counter()
    verdict = sandbox.judge(program.code, program.tests, language=program.language, entry_point="solve")
    if verdict.status != "accepted" or verdict.run != TESTS:
        raise RuntimeError(f"expected accepted, got {verdict}")
    return time.perf_counter() - started


@dataclass
class Way:
    """One row of the table. `run` runs programs `threads` at a time and returns each one's seconds."""

    name: str
    make: Callable[[int], Program]
    per_round: int
    run: Callable[[Sequence[Program]], list[float]]
    against: tuple[str, ...] = ()
    rates: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def round(self, numbers: Iterator[int]) -> None:
        programs = [self.make(next(numbers)) for _ in range(self.per_round)]
        started = time.perf_counter()
        seconds = self.run(programs)
        self.rates.append(len(programs) / (time.perf_counter() - started))
        self.seconds += seconds


def ways(sandbox: Sandbox, loops: Sequence[Loop], threads: ThreadPoolExecutor, per_round: int) -> list[Way]:
    def ours(programs: Sequence[Program]) -> list[float]:
        return list(threads.map(lambda program: judge(sandbox, program), programs))

    def new_containers(programs: Sequence[Program]) -> list[float]:
        return list(threads.map(lambda program: run_in_new_container(sandbox, program), programs))

    def bare(programs: Sequence[Program]) -> list[float]:
        shares = [programs[place :: len(loops)] for place in range(len(loops))]
        return [one for part in threads.map(lambda loop, share: loop.run(share), loops, shares) for one in part]

    few = max(len(loops), per_round // 15 // len(loops) * len(loops))
    both = ("(a)", "(b)")
    found = [
        Way("stdin tests", stdin_program, per_round, ours, both),
        Way("call tests", call_program, per_round, ours, both),
        Way("assert tests, literal", assert_program, per_round, ours, both),
        Way("assert tests, by a referee", referee_program, per_round, ours, both),
        Way("(a) a container per program", stdin_program, few, new_containers),
        Way("(b) bare subprocesses", stdin_program, max(len(loops), per_round // 2), bare),
    ]
    try:
        sandbox.judge(cpp_program(0).code, cpp_program(0).tests, language="cpp")
    except ValueError as error:
        print(f"C++ is left out: {error}")
        return found
    compiled = max(len(loops), per_round // 10)
    return [
        *found,
        Way("C++, stdin tests", cpp_program, compiled, ours, ("(c)",)),
        Way("(c) g++ and bare subprocesses", cpp_program, compiled, bare),
    ]


def ratio(way: Way, other: Way) -> float:
    return statistics.median(mine / theirs for mine, theirs in zip(way.rates, other.rates, strict=True))


def table(found: Sequence[Way]) -> Table:
    drawn = Table(title=f"{TESTS} tests per program")
    drawn.add_column("way")
    for name in ("programs", "per second", "slowest .. fastest", "p50 ms", "p99 ms", "x (a)", "x (b) (c)"):
        drawn.add_column(name, justify="right")
    for way in found:
        ratios = {name: ratio(way, next(o for o in found if o.name.startswith(name))) for name in way.against}
        cuts = statistics.quantiles(way.seconds, n=100, method="inclusive")
        drawn.add_row(
            way.name,
            str(len(way.seconds)),
            f"{statistics.median(way.rates):.1f}",
            f"{min(way.rates):.1f} .. {max(way.rates):.1f}",
            f"{1000 * cuts[49]:.1f}",
            f"{1000 * cuts[98]:.1f}",
            *(
                " ".join(f"{ratios[name]:.2f}" for name in names if name in ratios) or "-"
                for names in (("(a)",), ("(b)", "(c)"))
            ),
        )
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=500, help="for each of our ways; the slow ways get fewer")
    parser.add_argument("--containers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    console, numbers = Console(width=None if sys.stdout.isatty() else 120), count(1)
    before = os.getloadavg()
    with ExitStack() as stack:
        sandbox = stack.enter_context(Sandbox(containers=given.containers))
        loops = [stack.enter_context(closing(Loop(sandbox))) for _ in range(given.containers)]
        threads = stack.enter_context(ThreadPoolExecutor(given.containers))
        found = ways(sandbox, loops, threads, max(given.containers, given.programs // given.rounds))
        for way in found:  # warm: every container is up and has run a program of each kind
            way.run([way.make(next(numbers)) for _ in range(2 * given.containers)])
        progress = stack.enter_context(Progress(console=console, transient=True))
        task = progress.add_task("rounds", total=given.rounds * len(found))
        for number in range(given.rounds):
            for place in range(len(found)):
                found[(place + number) % len(found)].round(numbers)
                progress.advance(task)
        version = sandbox.version()
    console.print(table(found))
    for name, goal in GOALS.items():
        got = ratio(found[0], next(way for way in found if way.name.startswith(name)))
        print(f"stdin tests: {got:.2f} x {name}, goal {goal:g}: {'reached' if got >= goal else 'MISSED'}")
    load = f"{before[0]:.2f}, {os.getloadavg()[0]:.2f}"
    cores = len(os.sched_getaffinity(0))
    print(f"{given.containers} containers on {cores} cores; load average before and after: {load}; {version}")


if __name__ == "__main__":
    main()
