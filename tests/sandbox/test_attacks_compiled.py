"""Hostile programs in Bash, and tricks of C that test_compile_attacks.py has not: the right verdict, nothing left.

After each, a program looks at what is left (three processes, empty folders, nothing built), and a right and a wrong
program in the same container are judged as ever.
"""

# ruff: noqa: E501  (programs as they are)

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox import Limits, Sandbox, SolutionVerdict, TestCase
from sandbox.verdict import MIB

LIMITS = Limits(time_s=1.0, wall_s=4.0, memory_bytes=96 * MIB, output_bytes=1 * MIB, compile_time_s=1.5)
FIVE = TestCase("stdin", "2 3", "5")
LOOK = """
import os
print(len([p for p in os.listdir('/proc') if p.isdigit()]), [os.listdir(f) for f in ('/work', '/tmp', '/dev/shm', '/build') if os.access(f, os.R_OK)])
"""
C_ADD = '#include <stdio.h>\nint main(void) { int a, b; scanf("%d %d", &a, &b); printf("%d\\n", a + b); }'


@pytest.fixture(scope="module")
def one() -> Iterator[Sandbox]:
    with Sandbox(limits=LIMITS, containers=1) as made:
        yield made


def attack(one: Sandbox, language: str, code: str) -> SolutionVerdict:
    verdict = one.judge(code, [FIVE], language=language)
    look = one.judge(LOOK, [FIVE]).tests[0]
    assert look.stdout == "3 [[], [], [], []]\n", look
    assert one.judge(C_ADD, [FIVE], language="c").status == "accepted"
    assert one.judge(C_ADD.replace("+", "*"), [FIVE], language="c").status == "wrong_answer"
    assert verdict.attempts == 1, verdict  # no container was lost to it
    return verdict


@pytest.mark.parametrize(
    ("language", "code", "status"),
    [
        ("c", "#include <stdio.h>\n#include <unistd.h>\nint main(void) { printf(\"5\\n\"); _exit(0); }", "wrong_answer"),
        ("cpp", "#include <cstdio>\nstruct A { ~A() { puts(\"6\"); } } a;\nint main() { puts(\"5\"); }", "wrong_answer"),
        ("c", "#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\nint main(void) { puts(\"5\"); fflush(stdout); if (getenv(\"LD_PRELOAD\")) return 0; FILE *f = fopen(\"/work/x.so\", \"w\"); fputs(\"x\", f); fclose(f); setenv(\"LD_PRELOAD\", \"/work/x.so\", 1); execl(\"/bin/false\", \"false\", NULL); }", "runtime_error"),
        ("c", "#include <fcntl.h>\n#include <stdio.h>\n#include <unistd.h>\nint main(void) { puts(\"5\"); int fd = open(\"/proc/1/oom_score_adj\", O_WRONLY); if (fd >= 0) puts(\"reached\"); fd = open(\"/proc/self/oom_score_adj\", O_WRONLY); if (write(fd, \"-1\", 2) > 0) puts(\"protected\"); }", "accepted"),
        ("bash", "if true; then echo 5", "compile_error"),
        ("bash", "echo 5; (setsid sleep 99 &); trap '' TERM HUP INT", "accepted"),
        ("bash", "f() { f | f & }; f; while true; do true; done", "time_limit"),
        ("bash", "echo 5; kill -9 -1 1 $PPID 2>/dev/null; exit 0", "accepted"),
        ("bash", "echo 5; rm -rf --no-preserve-root / 2>/dev/null; ls /build/solution.sh >/dev/null", "accepted"),
        ("bash", "cat /dev/zero", "output_limit"),
        ("bash", "cat /dev/zero > big", "runtime_error"),
        ("bash", "for fd in {3..60}; do echo 5 >&$fd; done 2>/dev/null; echo 6", "wrong_answer"),
        ("bash", "PATH=/work; printf '#!/bin/sh\\necho owned' > sh; echo 5", "accepted"),
    ],
)  # fmt: skip
def test_hostile_native_programs(one: Sandbox, language: str, code: str, status: str) -> None:
    verdict = attack(one, language, code)
    assert verdict.status == status, verdict
