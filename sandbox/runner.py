"""Judging one test in a container: what is sent in, what the outcome means.

Each test is a fresh process in emptied folders, so no test sees what an earlier one left. Order of blame when
several things went wrong: a limit, a compile error, how the process ended, what it answered.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

from sandbox import asserts, judge
from sandbox.container import Container
from sandbox.errors import BadTestCase
from sandbox.image.values import NotPlain, encode
from sandbox.process import GRACE_S, End, Process
from sandbox.verdict import Limits, Status, TestCase, TestVerdict

MAX_TURNS = 100_000  # calls that one assert test may make
TALK = ("value", "raise", "too_large", "call", "get", "set", "iterate")  # the rest ends the conversation
Compare = Callable[[Any], str | None]


class Session:
    """One solution in one container. `borrow_referee` hands out the container for assert code."""

    def __init__(
        self, container: Container, code: str, limits: Limits, borrow_referee: Callable[[], Container]
    ) -> None:
        self.container = container
        self.code = code.encode("utf-8", "surrogatepass")
        self.limits = limits
        self.borrow_referee = borrow_referee
        self.dirty: set[Container] = set()  # must not be used again
        open_for_solution(container)

    def judge(self, test: TestCase, entry_point: str | None, exact: bool = False) -> TestVerdict:
        """The verdict on one test that `check_test` let through. Raises ContainerLost and BadTestCase."""
        if test.kind == "stdin":
            return self._stdin(test, exact)
        if test.kind == "call":
            args, kwargs, expected = read_call(test)
            return self._call(entry_point or "", args, kwargs, lambda got: judge.compare_result(expected, got))
        plan = asserts.plan(test.code, entry_point)
        if isinstance(plan, asserts.LiteralCall):
            want = plan.expected
            return self._call(plan.name, plan.args, plan.kwargs, lambda got: judge.compare_python(want, got))
        return self._assert(plan)

    def _stdin(self, test: TestCase, exact: bool) -> TestVerdict:
        process = Process(self.container, "script", self.code, self.limits)
        end = self._note(self.container, process.run(test.input.encode("utf-8", "surrogatepass")))
        if fault := end.fault(self.limits):
            return fault
        compare = judge.compare_exact if exact else judge.compare_output
        return _as_verdict(end, compare(test.output, end.stdout.decode("utf-8", "replace")))

    def _call(self, name: str, args: Any, kwargs: dict[str, Any], compare: Compare) -> TestVerdict:
        process = Process(self.container, "serve", self.code, self.limits)
        process.start(
            {
                "op": "call",
                "name": name,
                "args": [encode(arg) for arg in args],
                "kwargs": {key: encode(value) for key, value in kwargs.items()},
            },
            final=True,
        )
        end = self._note(self.container, process.ended())
        if fault := end.fault(self.limits) or no_value(end):
            return fault
        try:
            return _as_verdict(end, compare(judge.read_result(end.said.get("v"))))
        except NotPlain as reason:
            return _as_verdict(end, f"result: {reason}")

    def _assert(self, plan: asserts.Referee) -> TestVerdict:
        """Referee and solution take turns; whoever ends first decides."""
        box = self.borrow_referee()
        open_for_solution(box)
        job = {"names": plan.names, "modules": plan.modules}
        referee = Process(box, "referee", plan.code.encode(), self.limits, job)
        solution = Process(self.container, "serve", self.code, self.limits)
        referee.start()
        calls = 0
        while referee.end is None and referee.said.get("op") not in ("done", "failed") and calls < MAX_TURNS:
            _turn(solution, referee.said, calls)
            calls += 1
            if solution.end is not None or solution.said.get("op") not in TALK:
                break
            referee.talk(solution.said)
        if calls == 0:  # the test asks nothing of the solution, which must load all the same
            _turn(solution, {"op": "get", "name": "__name__", "attribute": ""}, calls)
        died = solution.end is not None or solution.said.get("op") not in TALK
        end = self._note(self.container, solution.stop())
        test_end = self._note(box, referee.stop())
        if fault := end.fault(self.limits) or (end.verdict("runtime_error", _EARLY) if died else None):
            return fault
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


def check_test(test: TestCase, entry_point: str | None) -> None:
    """Raise BadTestCase for a test that cannot be run, before a container is taken for it."""
    if test.kind == "call":
        if not entry_point:
            raise BadTestCase("a call test needs an entry_point, e.g. 'solve' or 'Solution.solve'")
        read_call(test)
    elif test.kind == "assert":
        asserts.plan(test.code, entry_point)
    elif test.kind != "stdin":
        raise BadTestCase(f"kind must be stdin, call or assert, got {test.kind!r}")


def infra_verdict(detail: str) -> TestVerdict:
    """The verdict when every container failed us."""
    return dataclasses.replace(TestVerdict("infra_error"), detail=detail)
