"""What goes in and what comes out: limits, test cases, verdicts. Frozen data, no behaviour.

Every status but `infra_error` is a statement about the program. `infra_error` is a statement about us: the
unit has no verdict and must be tried again later; it never stands for a wrong answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Status = Literal[
    "accepted",
    "wrong_answer",
    "time_limit",
    "memory_limit",
    "output_limit",
    "runtime_error",
    "compile_error",
    "no_code",
    "infra_error",
]
STATUSES: tuple[str, ...] = get_args(Status)
Kind = Literal["stdin", "call", "assert"]

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Limits of one program run (one test), and how many tests count.

    `time_s` is CPU time of all processes together; `wall_s` (default 2 * time_s + 3) catches sleepers.
    `memory_bytes` bounds resident memory plus files in the work folder. `output_bytes` bounds stdout and
    stderr each. `compile_time_s` is CPU time for a compiler. `max_tests` takes the first N tests (None: all;
    10 as in the AM-DeepSeek-Distilled paper).
    """

    time_s: float = 6.0
    wall_s: float | None = None
    memory_bytes: int = 512 * MIB
    output_bytes: int = 16 * MIB
    processes: int = 64
    compile_time_s: float = 30.0
    max_tests: int | None = 10
    stop_at_first_failure: bool = True

    def __post_init__(self) -> None:
        if self.time_s <= 0 or (self.wall_s is not None and self.wall_s <= 0) or self.compile_time_s <= 0:
            times = f"{self.time_s}, {self.wall_s} and {self.compile_time_s}"
            raise ValueError(f"time_s, wall_s and compile_time_s must be positive, got {times}")
        if not self.memory_bytes >= 32 * MIB:
            raise ValueError(f"memory_bytes must be at least 32 MiB, got {self.memory_bytes}")
        if not 1 <= self.output_bytes <= 32 * MIB:
            raise ValueError(f"output_bytes must be 1 .. 32 MiB, got {self.output_bytes}")
        if not 1 <= self.processes <= 256:
            raise ValueError(f"processes must be 1 .. 256, got {self.processes}")
        if self.max_tests is not None and self.max_tests < 1:
            raise ValueError(f"max_tests must be at least 1 or None, got {self.max_tests}")

    @property
    def wall(self) -> float:
        """The wall-clock limit in seconds."""
        return self.wall_s if self.wall_s is not None else 2 * self.time_s + 3


@dataclass(frozen=True)
class TestCase:
    """One test, in the columns of `test_cases` (DESIGN.md).

    stdin: `input` is fed to the program, `output` is what it should print.
    call: `input` is a JSON list of arguments or {"args": [...], "kwargs": {...}}, `output` the JSON result.
    assert: `code` is assert code; free names in it are the solution's. `input` and `output` are not used.
    """

    __test__ = False  # not a pytest class

    kind: Kind
    input: str = ""
    output: str = ""
    code: str = ""


@dataclass(frozen=True)
class TestVerdict:
    """The verdict on one test. Seconds, bytes; `stdout` and `stderr` are the first bytes only."""

    __test__ = False

    status: Status
    detail: str = ""
    cpu_s: float = 0.0
    wall_s: float = 0.0
    peak_memory_bytes: int = 0
    exit_code: int | None = None
    signal: int | None = None
    stdout: str = ""
    stderr: str = ""


@dataclass(frozen=True)
class SolutionVerdict:
    """The verdict on one solution: the status of its first failing test, or accepted.

    `score` = passed / run (0.0 when nothing ran). `skipped` counts tests beyond `max_tests` or after the
    first failure, so that nothing is silently capped.
    """

    status: Status
    score: float = 0.0
    passed: int = 0
    run: int = 0
    skipped: int = 0
    detail: str = ""
    tests: tuple[TestVerdict, ...] = ()
    attempts: int = 1

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all tests together."""
        return sum(test.cpu_s for test in self.tests)

    @property
    def wall_s(self) -> float:
        """Wall seconds of all tests together."""
        return sum(test.wall_s for test in self.tests)

    @property
    def peak_memory_bytes(self) -> int:
        """The highest peak of any test."""
        return max((test.peak_memory_bytes for test in self.tests), default=0)
