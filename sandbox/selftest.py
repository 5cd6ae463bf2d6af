"""One program per verdict: what `stillhouse doctor` runs to know that the sandbox judges as it should."""

from __future__ import annotations

from dataclasses import dataclass

from sandbox.pool import Sandbox
from sandbox.verdict import MIB, Limits, Status, TestCase

_LIMITS = Limits(time_s=0.5, wall_s=4.0, memory_bytes=128 * MIB, output_bytes=1 * MIB)
_TEST = TestCase("stdin", input="2\n3\n", output="5\n")
_PROGRAMS: dict[Status, str | None] = {
    "accepted": "print(int(input()) + int(input()))",
    "wrong_answer": "print(6)",
    "time_limit": "while True: pass",
    "memory_limit": "kept = []\nwhile True: kept.append(bytearray(b'x') * 4_000_000)",
    "output_limit": "while True: print('x' * 4096)",
    "runtime_error": "print(5); raise SystemExit(3)",
    "compile_error": "print(5",
    "no_code": None,
}


@dataclass(frozen=True)
class SelfTest:
    """What one program should get and got."""

    expected: Status
    got: Status
    detail: str

    @property
    def passed(self) -> bool:
        """Whether the sandbox judged as it should."""
        return self.expected == self.got


def self_test(sandbox: Sandbox) -> tuple[SelfTest, ...]:
    """Judge one program per verdict (about 2 s)."""
    results = []
    for expected, code in _PROGRAMS.items():
        verdict = sandbox.judge(code, [_TEST], limits=_LIMITS)
        results.append(SelfTest(expected, verdict.status, verdict.detail))
    return tuple(results)
