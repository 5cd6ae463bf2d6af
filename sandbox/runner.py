"""Judging one test in a container: what is sent in, what the outcome means.

Python programs are run by the container's warm interpreter, others by the commands of their language, after a
compilation that all tests of the solution share. Each test is a fresh process in emptied folders, so no test
sees what an earlier one left. Order of blame when several things went wrong: a limit, a compile error, how the
process ended, what it answered.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sandbox import asserts, judge
from sandbox.container import RUNTIME_MEMORY, Container
from sandbox.errors import BadTestCase
from sandbox.image.frames import TooLarge
from sandbox.image.languages import BUILD, LANGUAGES, commands
from sandbox.image.values import NotPlain, encode
from sandbox.process import GRACE_S, Command, End, Process
from sandbox.verdict import MIB, Limits, Status, TestCase, TestVerdict

MAX_TURNS = 100_000  # calls that one assert test may make
MAX_INPUT = 12 << 20  # characters: 48 MiB at most, as UTF-8
COMPILER_PROCESSES = 200  # threads included
TALK = ("value", "raise", "too_large", "call", "get", "set", "iterate")  # the rest ends the conversation
Verdict = Callable[[End, Any], TestVerdict]


@dataclass(frozen=True)
class Solution:
    """A program and how its answers are compared."""

    code: str
    language: str = "python"
    entry_point: str | None = None
    checker: str | None = None
    exact: bool = False

    @property
    def content(self) -> bytes:
        """The source as it is sent."""
        return self.code.encode("utf-8", "surrogatepass")


class Session:
    """One solution in one container. `borrow_referee` hands out the container for assert code and checkers."""

    def __init__(
        self, container: Container, solution: Solution, limits: Limits, borrow_referee: Callable[[], Container]
    ) -> None:
        """Opens the container for the solution and compiles it. Raises ContainerLost."""
        self.container = container
        self.solution = solution
        self.limits = limits
        self.borrow_referee = borrow_referee
        self.dirty: set[Container] = set()  # must not be used again
        self.unbuilt: TestVerdict | None = None
        """The compile_error, if it is one."""
        self._language = LANGUAGES[solution.language]
        open_for_solution(container)
        if solution.language != "python":
            self._build()

    def _build(self) -> None:
        self._commands = commands(self._language, self.solution.code, self.limits.memory_bytes)
        deadline = time.monotonic() + GRACE_S
        self.container.ask(deadline, {"op": "place", "name": self._commands.source}, self.solution.content)
        if not self._commands.compile:
            return
        limits = dataclasses.replace(
            self.limits,
            time_s=self.limits.compile_time_s,
            wall_s=None,
            memory_bytes=self.container.memory_bytes + RUNTIME_MEMORY,
            processes=COMPILER_PROCESSES,
        )
        command = Command(self._commands.compile, self._commands.environment, BUILD, seal=True)
        end = self._note(self.container, Process(self.container, "exec", b"", limits, command=command).run(b""))
        if fault := end.fault(limits):
            said = (end.stderr or end.stdout).decode("utf-8", "replace").splitlines()
            line = next((line for line in said if "error" in line.lower()), "")
            detail = fault.detail if fault.exit_code is None or not line else line.replace(f"{BUILD}/", "")[:300]
            self.unbuilt = dataclasses.replace(fault, status="compile_error", detail=f"compiler: {detail}")

    def judge(self, test: TestCase) -> TestVerdict:
        """The verdict on one test that `check_test` let through. Raises ContainerLost and BadTestCase."""
        if self.unbuilt:
            return self.unbuilt
        if test.kind == "stdin":
            return self._stdin(test)
        entry_point = self.solution.entry_point
        if test.kind == "call":
            args, kwargs, expected = read_call(test)
            checker, given = self.solution.checker, {"args": args, "kwargs": kwargs} if kwargs else args

            def verdict(end: End, got: Any) -> TestVerdict:
                if checker:
                    return self._checked(end, checker, given, expected, got)
                return _as_verdict(end, judge.compare_result(expected, got))

            return self._call(entry_point or "", args, kwargs, verdict)
        plan = asserts.plan(test.code, entry_point)
        if isinstance(plan, asserts.LiteralCall):
            want = plan.expected
            return self._call(
                plan.name,
                plan.args,
                plan.kwargs,
                lambda end, got: _as_verdict(end, judge.compare_python(want, got)),
            )
        return self._assert(plan)

    def _stdin(self, test: TestCase) -> TestVerdict:
        end = self._note(self.container, self._program().run(test.input.encode("utf-8", "surrogatepass")))
        if fault := end.fault(self.limits, self._language.out_of_memory):
            return fault
        output = end.stdout.decode("utf-8", "replace")
        if self.solution.checker:
            return self._checked(end, self.solution.checker, test.input, test.output, output)
        compare = judge.compare_exact if self.solution.exact else judge.compare_output
        return _as_verdict(end, compare(test.output, output))

    def _program(self) -> Process:
        if self.solution.language == "python":
            return Process(self.container, "script", self.solution.content, self.limits)
        memory = self.limits.memory_bytes + self._language.runtime_mb * MIB
        limits = dataclasses.replace(self.limits, memory_bytes=memory)
        command = Command(self._commands.run, self._commands.environment)
        return Process(self.container, "exec", b"", limits, command=command)

    def _checked(self, end: End, checker: str, given: Any, expected: Any, output: Any) -> TestVerdict:
        """What the checker says, in a container that no solution enters. Its own failure is the output's."""
        box = self.borrow_referee()
        open_for_solution(box)
        process = Process(box, "serve", checker.encode(), self.limits)
        values = {"input": given, "expected": expected, "output": output}
        try:
            kwargs = {name: encode(value) for name, value in values.items()}
            process.start({"op": "call", "name": "check", "args": [], "kwargs": kwargs}, final=True)
        except TooLarge:
            return end.verdict("output_limit", "the output is too large for the checker")
        check_end = self._note(box, process.ended())
        if fault := check_end.fault(self.limits) or no_value(check_end):
            return end.verdict("wrong_answer", f"checker: {fault.detail}")
        said = check_end.said.get("v")
        if said is True:
            return end.verdict("accepted")
        return end.verdict("wrong_answer", said[:300] if isinstance(said, str) else f"the checker says {said!r:.80}")

    def _call(self, name: str, args: Any, kwargs: dict[str, Any], verdict: Verdict) -> TestVerdict:
        process = Process(self.container, "serve", self.solution.content, self.limits)
        try:
            forms = {key: encode(value) for key, value in kwargs.items()}
            question = {"op": "call", "name": name, "args": [encode(arg) for arg in args], "kwargs": forms}
            process.start(question, final=True)
        except (TooLarge, RecursionError) as error:
            raise BadTestCase(f"the arguments of a call: {error}") from None
        end = self._note(self.container, process.ended())
        if fault := end.fault(self.limits) or no_value(end):
            return fault
        try:
            return verdict(end, judge.read_result(end.said.get("v")))
        except NotPlain as reason:
            return _as_verdict(end, f"result: {reason}")

    def _assert(self, plan: asserts.Referee) -> TestVerdict:
        """Referee and solution take turns; whoever ends first decides."""
        box = self.borrow_referee()
        open_for_solution(box)
        job = {"names": plan.names, "modules": plan.modules}
        referee = Process(box, "referee", plan.code.encode(), self.limits, job)
        solution = Process(self.container, "serve", self.solution.content, self.limits)
        referee.start()
        calls, unspeakable = 0, False
        while referee.end is None and referee.said.get("op") not in ("done", "failed") and calls < MAX_TURNS:
            _turn(solution, referee.said, calls)
            calls += 1
            if solution.end is not None or solution.said.get("op") not in TALK:
                break
            try:
                referee.talk(solution.said)
            except (TooLarge, RecursionError):
                unspeakable = True
                break
        if calls == 0:  # the test asks nothing of the solution, which must load all the same
            _turn(solution, {"op": "get", "name": "__name__", "attribute": ""}, calls)
        died = solution.end is not None or solution.said.get("op") not in TALK
        end = self._note(self.container, solution.stop())
        test_end = self._note(box, referee.stop())
        if fault := end.fault(self.limits) or (end.verdict("runtime_error", _EARLY) if died else None):
            return fault
        if unspeakable:
            return end.verdict("output_limit", "the value is too large to be sent")
        status, detail = _referee_says(referee.said, test_end, self.limits)
        return end.verdict(status, detail)

    def _note(self, container: Container, end: End) -> End:
        if end.dirty:
            self.dirty.add(container)
        return end


_EARLY = "the program ended before it answered"


def open_for_solution(container: Container) -> None:
    """A new uid and empty folders in the container."""
    container.solutions += 1
    container.ask(time.monotonic() + GRACE_S, {"op": "open"})


def _turn(solution: Process, question: dict[str, Any], calls: int) -> None:
    if calls == 0:
        solution.start(question)
    else:
        solution.talk(question)


def no_value(end: End) -> TestVerdict | None:
    """A call that gave no value: it raised, or its process ended."""
    if end.said.get("op") == "value":
        return None
    if end.said.get("op") == "raise":
        text = f"{end.said.get('type')}: {end.said.get('text')}"
        return end.verdict("runtime_error", text[:500])
    if end.said.get("op") == "too_large":
        return end.verdict("output_limit", "the value is too large to be sent")
    return end.verdict("runtime_error", _EARLY)


def _as_verdict(end: End, reason: str | None) -> TestVerdict:
    return end.verdict("wrong_answer", reason) if reason else end.verdict("accepted")


def _referee_says(said: dict[str, Any], end: End, limits: Limits) -> tuple[Status, str]:
    text = str(said.get("text", ""))
    if said.get("op") == "done":
        return "accepted", ""
    if said.get("op") == "failed" and said.get("kind") == "too_large":
        raise BadTestCase(f"assert code calls the solution with too much: {text}")
    if said.get("op") == "failed":
        return ("runtime_error", text) if said.get("kind") == "solution" else ("wrong_answer", text)
    fault = end.fault(limits)
    if fault and fault.status == "compile_error":
        raise BadTestCase(f"assert code does not compile: {fault.detail}")
    if fault:
        return fault.status, f"in the test code: {fault.detail}"
    return "runtime_error", "the test code did not come to an end"


def read_call(test: TestCase) -> tuple[list[Any], dict[str, Any], Any]:
    """(args, kwargs, expected) of a call test."""
    try:
        given = json.loads(test.input)
        expected = judge.read_expected(test.output)
    except (ValueError, RecursionError, TypeError) as error:
        raise BadTestCase(f"a call test holds JSON in input and output: {error}") from None
    if isinstance(given, list):
        return given, {}, expected
    if isinstance(given, dict) and set(given) <= {"args", "kwargs"}:
        return list(given.get("args", [])), dict(given.get("kwargs", {})), expected
    raise BadTestCase(f'input of a call test must be [...] or {{"args": [...], "kwargs": {{}}}}: {test.input[:80]}')


def check_test(test: TestCase, solution: Solution) -> None:
    """Raise BadTestCase for a test that cannot be run, before a container is taken for it."""
    entry_point = solution.entry_point
    if test.kind in ("call", "assert") and solution.language != "python":
        raise BadTestCase(f"{test.kind} tests are for Python; a {solution.language} program is judged by stdin tests")
    if len(test.input) > MAX_INPUT:
        raise BadTestCase(f"a test's input holds at most {MAX_INPUT:,} characters, got {len(test.input):,}")
    if test.kind == "call":
        if not entry_point:
            raise BadTestCase("a call test needs an entry_point, e.g. 'solve' or 'Solution.solve'")
        read_call(test)
    elif test.kind == "assert":
        asserts.plan(test.code, entry_point)
    elif test.kind != "stdin":
        raise BadTestCase(f"kind must be stdin, call or assert, got {test.kind!r}")


def check_checker(checker: str) -> None:
    """Raise BadTestCase for a checker that cannot be one."""
    try:
        tree = ast.parse(checker)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise BadTestCase(f"the checker does not parse: {error}") from None
    if not any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body):
        raise BadTestCase("the checker defines no function check(input, expected, output)")


def infra_verdict(detail: str) -> TestVerdict:
    """The verdict when every container failed us."""
    return dataclasses.replace(TestVerdict("infra_error"), detail=detail)
