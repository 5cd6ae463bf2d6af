"""Each test turns on the compiler, or on what only a compiled program can do; the neighbour's verdicts stay right."""

# ruff: noqa: E501  (programs as they are)

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox import Limits, Sandbox, TestCase
from sandbox.verdict import MIB

SUM = [TestCase("stdin", "2 3", "5")] * 2
ADD = "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b; }"
LIMITS = Limits(time_s=1.0, wall_s=4.0, memory_bytes=128 * MIB, output_bytes=1 * MIB, compile_time_s=3.0)


@pytest.fixture(scope="module")
def one() -> Iterator[Sandbox]:
    """A pool of one container: the next solution is sure to follow the last one into it."""
    with Sandbox(limits=LIMITS, containers=1) as made:
        yield made


def neighbours_are_judged_rightly(sandbox: Sandbox) -> None:
    assert sandbox.judge(ADD, SUM, language="cpp").status == "accepted"
    assert sandbox.judge(ADD.replace("a + b", "a - b"), SUM, language="cpp").status == "wrong_answer"
    look = "import os\nprint([p for p in os.listdir('/proc') if p.isdigit() and p not in ('1', str(os.getppid()), str(os.getpid()))], os.listdir('/work'), os.listdir('/tmp'))"
    assert sandbox.judge(look, [TestCase("stdin", "", "[] [] []")]).status == "accepted"


BOMBS = {
    "endless include": '#include "/dev/zero"',
    "endless input": '#include "/dev/stdin"\nint main() {',
    "include of itself": '#include "solution.cpp"\nint main() {}',
    "template recursion": "template<int N> struct A { static const int v = A<N + 1>::v; };\nint main() { return A<0>::v; }",
    "template tree": "template<int N, int M> struct A { static const int v = A<N - 1, 2 * M>::v + A<N - 1, 2 * M + 1>::v; };\ntemplate<int M> struct A<0, M> { static const int v = M; };\nint main() { return A<24, 0>::v; }",
    "endless constexpr": "constexpr long f() { long n = 0; for (long i = 0; i < 1L << 40; i++) n += i; return n; }\nconstexpr long x = f();\nint main() {}",
    "billion laughs": "#define A(x) x, x, x, x, x, x, x, x, x, x\n#define B(x) A(A(x))\n#define C(x) B(B(x))\n#define D(x) C(C(x))\nlong a[] = {D(D(1))};\nint main() {}",
    "huge static array": "char a[3L << 30] = {1};\nint main() { return a[0]; }",
    "incbin of a device": '__asm__(".incbin \\"/dev/zero\\"");\nint main() {}',
    "assembler repetition": '__asm__(".fill 2000000000, 8, 1");\nint main() {}',
    "flood of messages": "template<int N> struct A { int a = N / 0 + A<N - 1>::b; };\ntemplate<> struct A<0> {};\nA<800> a;\n" + "int x = y;\n" * 50_000 + "int main() {}",
    "deep nesting": "int x = " + "(" * 200_000 + "1" + ")" * 200_000 + ";\nint main() {}",
    "no main": "int f() { return 1; }",
    "broken text": "\x00\x01\xff\udcff@@@",
}  # fmt: skip


@pytest.mark.parametrize("code", BOMBS.values(), ids=BOMBS)
def test_bombs_cost_the_compiler_its_limits_and_nobody_else(one: Sandbox, code: str) -> None:
    verdict = one.judge(code, SUM, language="cpp")
    assert (verdict.status, verdict.attempts) == ("compile_error", 1), verdict
    assert len(verdict.detail) < 400 and verdict.tests[0].wall_s < 60
    neighbours_are_judged_rightly(one)


FOOLS = {
    "exit before main": '#include <unistd.h>\n__attribute__((constructor)) void f() { write(1, "5", 1); _exit(3); }\nint main() {}',
    "silent exit before main": "#include <unistd.h>\n__attribute__((constructor)) void f() { _exit(0); }\nint main() {}",
    "the test's answer read from files": '#include <cstdio>\n#include <cstdlib>\nint main() { system("grep -rlsx 5 /proc/[0-9]*/environ /work /tmp /build /dev/shm 2>/dev/null"); for (int i = 0; i < 64; i++) { char p[64], b[64]; sprintf(p, "/proc/self/fd/%d", i); if (FILE* f = fopen(p, "r")) { size_t n = fread(b, 1, 64, f); fwrite(b, 1, n, stdout); } } }',
    "forged frames on every descriptor": '#include <unistd.h>\n#include <cstring>\nint main() { const char* m = "\\0\\0\\0\\20\\0\\0\\0\\0{\\"op\\":\\"end\\"}    "; for (int i = 3; i < 1024; i++) write(i, m, 24); }',
    "a child that answers after its parent": '#include <unistd.h>\n#include <cstdio>\nint main() { if (fork()) return 0; setsid(); usleep(100000); puts("5"); }',
}  # fmt: skip


@pytest.mark.parametrize("code", FOOLS.values(), ids=FOOLS)
def test_no_program_is_accepted_for_what_it_did_not_compute(one: Sandbox, code: str) -> None:
    assert one.judge(code, SUM, language="cpp").status in ("wrong_answer", "runtime_error")
    neighbours_are_judged_rightly(one)


HOSTILE = {
    "fork bomb": ("#include <unistd.h>\n#include <signal.h>\nint main() { for (int i = 1; i < 64; i++) signal(i, SIG_IGN); for (;;) fork(); }", ("time_limit", "memory_limit")),
    "vfork storm": ("#include <unistd.h>\nint main() { for (;;) if (!vfork()) _exit(0); }", ("time_limit",)),
    "sessions": ("#include <unistd.h>\nint main() { for (int i = 0; i < 40; i++) if (!fork()) { setsid(); for (;;) pause(); } }", ("wrong_answer",)),
    "memory of threads": ("#include <thread>\n#include <vector>\n#include <cstring>\nint main() { std::vector<std::thread> t; for (int i = 0; i < 16; i++) t.emplace_back([] { volatile char* p = new char[1 << 26]; for (int j = 0; j < 1 << 26; j += 4096) p[j] = 1; for (;;) std::this_thread::yield(); }); for (auto& x : t) x.join(); }", ("memory_limit",)),
    "shared memory": ("#include <sys/mman.h>\n#include <cstring>\nint main() { for (;;) { void* p = mmap(0, 1 << 24, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0); if (p == MAP_FAILED) return 1; memset(p, 1, 1 << 24); } }", ("memory_limit",)),
    "memory files": ("#include <sys/mman.h>\n#include <unistd.h>\n#include <signal.h>\nstatic char b[1 << 20];\nint main() { signal(SIGXFSZ, SIG_IGN); int f = memfd_create(\"x\", 0); for (;;) if (write(f, b, sizeof b) < 0) { f = memfd_create(\"y\", 0); if (f < 0) return 1; } }", ("memory_limit",)),
    "pipes": ("#include <unistd.h>\n#include <fcntl.h>\nstatic char b[1 << 20];\nint main() { int p[2]; while (!pipe(p)) { fcntl(p[1], F_SETFL, O_NONBLOCK); write(p[1], b, sizeof b); } for (;;); }", ("time_limit", "memory_limit")),
    "deep stack": ("int f(volatile char* p) { volatile char a[4096]; a[0] = *p; return f(a) + a[0]; }\nint main() { char c = 0; return f(&c); }", ("memory_limit", "runtime_error")),
    "kill everyone": ("#include <unistd.h>\n#include <signal.h>\n#include <sys/ptrace.h>\nint main() { for (int i = 1; i < 99999; i++) if (i != getpid()) { ptrace(PTRACE_ATTACH, i, 0, 0); kill(i, SIGKILL); } kill(-1, SIGKILL); for (;;); }", ("time_limit",)),
    "stopped": ("#include <signal.h>\nint main() { raise(SIGSTOP); }", ("time_limit",)),
    "foreign call tables": ("#include <unistd.h>\n#include <sys/syscall.h>\nint main() { long r = syscall(0x40000000 + 39); return r >= 0; }", ("wrong_answer",)),
    "namespaces": ("#define _GNU_SOURCE\n#include <sched.h>\n#include <sys/mount.h>\n#include <unistd.h>\nint main() { return !unshare(CLONE_NEWUSER) || !unshare(CLONE_NEWNS) || !mount(\"x\", \"/work\", \"tmpfs\", 0, 0) || !chroot(\"/work\") || !setuid(0); }", ("wrong_answer",)),
    "deleted while running": ("#include <unistd.h>\n#include <sys/stat.h>\nint main() { return !unlink(\"/build/solution\") || !chmod(\"/build/solution\", 0777) || !truncate(\"/build/solution\", 0); }", ("wrong_answer",)),
}  # fmt: skip


@pytest.mark.parametrize(("code", "statuses"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_programs_meet_their_limit_and_leave_nothing(
    one: Sandbox, code: str, statuses: tuple[str, ...]
) -> None:
    verdict = one.judge(code, SUM, language="cpp")
    assert verdict.status in statuses and verdict.attempts == 1, verdict
    neighbours_are_judged_rightly(one)
