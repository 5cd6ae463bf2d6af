"""One program per verdict, and one per language that the image speaks.

What `stillhouse doctor` runs to know that the sandbox judges as it should.
"""

# ruff: noqa: E501  (programs as they are)

from __future__ import annotations

from dataclasses import dataclass

from sandbox.pool import Sandbox
from sandbox.verdict import MIB, Limits, Status, TestCase

_LIMITS = Limits(time_s=0.5, wall_s=4.0, memory_bytes=128 * MIB, output_bytes=1 * MIB)
_TEST = TestCase("stdin", input="2 3\n", output="5\n")
_PROGRAMS: dict[Status, str | None] = {
    "accepted": "print(sum(map(int, input().split())))",
    "wrong_answer": "print(6)",
    "time_limit": "while True: pass",
    "memory_limit": "kept = []\nwhile True: kept.append(bytearray(b'x') * 4_000_000)",
    "output_limit": "while True: print('x' * 4096)",
    "runtime_error": "print(5); raise SystemExit(3)",
    "compile_error": "print(5",
    "no_code": None,
}  # by Python

RIGHT = {
    "python": "a, b = map(int, input().split())\nprint(a + b)",
    "c": '#include <stdio.h>\nint main(void) { int a, b; if (scanf("%d %d", &a, &b) != 2) return 1; printf("%d\\n", a + b); }',
    "cpp": "#include <bits/stdc++.h>\nusing namespace std;\nint main() { int a, b; cin >> a >> b; cout << a + b << endl; }",
    "javascript": "const [a, b] = require('fs').readFileSync(0, 'utf8').split(/\\s+/).map(Number);\nconsole.log(a + b);",
    "java": "import java.util.*;\npublic class Solution { public static void main(String[] args) { Scanner in = new Scanner(System.in); System.out.println(in.nextInt() + in.nextInt()); } }",
    "go": 'package main\nimport "fmt"\nfunc main() { var a, b int; fmt.Scan(&a, &b); fmt.Println(a + b) }',
    "rust": 'use std::io::Read;\nfn main() { let mut s = String::new(); std::io::stdin().read_to_string(&mut s).unwrap(); let v: Vec<i64> = s.split_whitespace().map(|x| x.parse().unwrap()).collect(); println!("{}", v[0] + v[1]); }',
    "bash": "read a b\necho $((a + b))",
}
"""A right program for _TEST in every language."""


@dataclass(frozen=True)
class SelfTest:
    """What one program should get and got."""

    language: str
    expected: Status
    got: Status
    detail: str

    @property
    def passed(self) -> bool:
        """Whether the sandbox judged as it should."""
        return self.expected == self.got


def self_test(sandbox: Sandbox) -> tuple[SelfTest, ...]:
    """Judge them (about 2 s; 5 s with all languages)."""
    programs = [("python", expected, code) for expected, code in _PROGRAMS.items()]
    programs += [(language, "accepted", RIGHT[language]) for language in sandbox.languages()]
    results = []
    for language, expected, code in programs:
        limits = _LIMITS if expected != "accepted" else Limits()
        verdict = sandbox.judge(code, [_TEST], language=language, limits=limits)
        results.append(SelfTest(language, expected, verdict.status, verdict.detail))
    return tuple(results)
