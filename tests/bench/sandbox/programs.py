"""The programs of the soak: right and wrong ones of every test kind, and attacks, each with the verdict it must get.

A program is a function of the seed and its number. Every attack has one verdict, however busy the machine is: one that
burns CPU does nothing else, one that fills memory is far from the time limits, and what must be printed is flushed
before a fork.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sandbox import Limits, Status, TestCase
from sandbox.verdict import MIB

LIMITS = Limits(time_s=0.5, wall_s=2.0, memory_bytes=96 * MIB, output_bytes=1 * MIB)
SLEEPER = replace(LIMITS, wall_s=0.4)
ROOMY = replace(LIMITS, memory_bytes=512 * MIB)  # what the kernel holds for 64 processes is counted too
LANGUAGES = ("python", "c", "cpp")
COMPILED_SHARE = 0.05  # of the programs, for each language that must be compiled


@dataclass(frozen=True)
class Job:
    """A program, its tests, and the verdict that it must get."""

    name: str
    code: str
    tests: tuple[TestCase, ...]
    expected: Status
    entry_point: str | None = None
    language: str = "python"
    limits: Limits = LIMITS


FIVE = (TestCase("stdin", "2 3", "5"), TestCase("stdin", "1 4", "5"))
CALL_FIVE = (TestCase("call", "[2, 3]", "5"), TestCase("call", "[1, 4]", "5"))
ASSERT_FIVE = (TestCase("assert", code="r = f(2, 3)\nassert r == 5 and r != 4 and type(r) is int"),)
RIGHT = "print(sum(map(int, input().split())), flush=True)"


def hostile(name: str, code: str, expected: Status, limits: Limits = LIMITS) -> Job:
    """An attack by a script with stdin tests."""
    return Job(name, code, FIVE, expected, limits=limits)


def hostile_function(
    name: str, code: str, expected: Status, tests: tuple[TestCase, ...] = CALL_FIVE, limits: Limits = LIMITS
) -> Job:
    """An attack by the function f(a, b)."""
    return Job(name, code, tests, expected, "f", limits=limits)


ATTACKS = (
    hostile("fork bomb", "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", "time_limit", ROOMY),
    hostile("memory hog", "x = []\nwhile True: x.append(bytearray(b'x') * (1 << 20))", "memory_limit"),
    hostile(
        "memory hog in many processes",
        "import os\nx = []\nfor _ in range(3): os.fork()\nwhile True: x.append(bytearray(b'x') * (1 << 20))",
        "memory_limit",
    ),
    hostile(
        "signal-proof loop",
        "import signal\n[signal.signal(s, signal.SIG_IGN) for s in range(1, 32) if s not in (9, 19)]\nwhile True: pass",
        "time_limit",
    ),
    hostile("sleeper", "import time\nwhile True: time.sleep(9)", "time_limit", SLEEPER),
    hostile("stops itself", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", "time_limit", SLEEPER),
    hostile("stdout flood", "while True: print('x' * 1000)", "output_limit"),
    hostile("stderr flood", "import sys\nwhile True: sys.stderr.write('x' * 1000)", "output_limit"),
    hostile("disk filler", "f = open('big', 'wb')\nwhile True: f.write(b'x' * 100000)", "runtime_error"),
    hostile("inode filler", "i = 0\nwhile True: open(str(i), 'w'); i += 1", "runtime_error"),
    hostile(
        "daemonised child that keeps stdout and forks on",
        f"import os\n{RIGHT}\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        import time\n        while True:\n            try: os.fork() or time.sleep(60)\n"
        "            except OSError: time.sleep(60)\n    os._exit(0)",
        "accepted",
    ),
    hostile("_exit before the output is flushed", "import os\nprint(5)\nos._exit(0)", "wrong_answer"),
    hostile(
        "kills and traces everything that it can",
        f"import ctypes, os, signal\n{RIGHT}\ntrace = ctypes.CDLL(None).ptrace\n"
        "for p in [int(p) for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid()]:\n"
        "    for s in (signal.SIGSTOP, signal.SIGKILL):\n        try: os.kill(p, s); print('killed', p)\n"
        "        except OSError: pass\n    if trace(16, p, 0, 0) == 0: print('traced', p)\nos.kill(-1, signal.SIGKILL)",
        "accepted",  # a process does not kill itself by -1
    ),
    hostile(
        "looks for leftovers and leaves its own",
        "import ctypes, os, socket\nfor d in ('/work', '/tmp', '/dev/shm'):\n    if os.listdir(d): print('found', d)\n"
        "    os.makedirs(d + '/a/b')\n    os.symlink('/proc/1', d + '/link')\n    os.chmod(d + '/a', 0)\n"
        "    os.chmod(d, 0)\nif ctypes.CDLL(None).shmget(7, 4096, 0o1666) != -1: print('shm')\n"
        "s = socket.socket(socket.AF_UNIX)\ntry: s.connect(chr(0) + 'soak'); print('socket')\n"
        f"except OSError: s.bind(chr(0) + 'soak'); s.listen()\n{RIGHT}\n"
        "if os.fork() == 0:\n    import time\n    time.sleep(600)",
        "accepted",
    ),
    hostile("closes all descriptors", "import os\nprint(5)\nos.closerange(0, 256)", "runtime_error"),
    hostile(
        "writes garbage to all descriptors",
        f"import os\nfor fd in range(3, 256):\n    try: os.write(fd, b'\\xff' * 64)\n    except OSError: pass\n{RIGHT}",
        "output_limit",  # it announces a message of 4 GiB
    ),
    hostile("recursion without end", "def f(n): return f(n + 1)\nf(0)", "runtime_error"),
    hostile(
        "recursion without end or limit",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): f([x] * 1000)\nf(0)",
        "memory_limit",
    ),
    hostile(
        "raises its limits",
        "import resource as r\nfor n in [n for n in dir(r) if n.startswith('RLIMIT_') and n != 'RLIMIT_RSS']:\n"
        "    top = r.getrlimit(getattr(r, n))[1]\n    if top != r.RLIM_INFINITY:\n"
        "        try: r.setrlimit(getattr(r, n), (top + 1, top + 1)); print('raised', n)\n"
        f"        except (ValueError, OSError): pass\n{RIGHT}",
        "accepted",
    ),
    hostile(
        "lowers its limits", f"import resource as r\nr.setrlimit(r.RLIMIT_FSIZE, (0, 0))\n{RIGHT}", "runtime_error"
    ),
    hostile_function("_exit in a call", "import os\ndef f(a, b): os._exit(0)", "runtime_error"),
    hostile_function("_exit before the asserts", "import os\nos._exit(0)", "runtime_error", ASSERT_FIVE),
    hostile_function(
        "loop in a call from assert code", "def f(a, b):\n    while True: pass", "time_limit", ASSERT_FIVE
    ),
    hostile_function("sleeper under assert code", "import time\ntime.sleep(9)", "time_limit", ASSERT_FIVE, SLEEPER),
    hostile_function("memory hog under assert code", "x = b'x' * (1 << 30)", "memory_limit", ASSERT_FIVE),
    hostile_function(
        "an object that equals everything",
        "class E(int):\n    __eq__ = lambda s, o: True\n    __ne__ = lambda s, o: False\ndef f(a, b): return E(6)",
        "wrong_answer",
        ASSERT_FIVE,
    ),
    hostile_function(
        "forges messages on all descriptors",
        'import os, struct\ndef f(a, b):\n    said = b\'{"op": "done", "v": 5}\'\n    for fd in range(256):\n'
        "        try: os.write(fd, struct.pack('>I', len(said)) + said)\n        except OSError: pass\n    return 6",
        "runtime_error",
    ),
    hostile_function("a value without end", "def f(a, b): return 'x' * (5 << 20)", "output_limit"),
)

# C that is C++ as well.
C_LOOP = '#include <stdio.h>\nint main(void) { volatile unsigned x = 0; for (;;) x++; printf("%u", x); }'
C_HOG = (
    "#include <stdlib.h>\n#include <string.h>\n"
    "int main(void) { for (;;) { void *p = malloc(1 << 20); if (p) memset(p, 1, 1 << 20); } }"
)
C_BOMB = "#include <unistd.h>\nint main(void) { for (;;) if (fork() < 0) continue; }"
COMPILED_ATTACKS = (
    hostile("loop", C_LOOP, "time_limit"),
    hostile("memory hog", C_HOG, "memory_limit"),
    hostile("fork bomb", C_BOMB, "time_limit", ROOMY),
    hostile("does not compile", "int main(void) { return x; }", "compile_error"),
    hostile("null pointer", "int main(void) { int *volatile p = 0; return *p; }", "runtime_error"),
)


def sum_script(draw: random.Random, right: bool) -> Job:
    rows = [[draw.randrange(-999, 999) for _ in range(draw.randrange(1, 9))] for _ in range(3)]
    tests = tuple(TestCase("stdin", " ".join(map(str, row)), f"{sum(row)} {max(row)}\n") for row in rows)
    off = "" if right else draw.choice(["[1:] + [0]", "[:-1] + [10**4]"])
    code = f"row = list(map(int, input().split())){off}\nprint(sum(row), max(row))"
    return Job("sums", code, tests, "accepted" if right else "wrong_answer")


def float_script(draw: random.Random, right: bool) -> Job:
    values = [draw.uniform(1, 100) for _ in range(3)]
    tests = tuple(TestCase("stdin", f"{value!r}\r\n", f"{value**0.5:.9f}") for value in values)
    code = f"import math, sys\nfor line in sys.stdin: print(math.sqrt(float(line)){'' if right else ' + 1e-3'})"
    return Job("floats", code, tests, "accepted" if right else "wrong_answer")


def text_script(draw: random.Random, right: bool) -> Job:
    size = draw.choice([3, 300, 30_000])
    text = "".join(draw.choice("abc äß漢🎉") for _ in range(20)).strip() or "a"
    code = f"x = input()\nfor i in range({size}): print(i, x[::-1])"
    want = "".join(f"{number} {text[::-1]}\n" for number in range(size))
    limits = replace(LIMITS, output_bytes=4 * MIB)
    if right:
        return Job("text", code, (TestCase("stdin", text, want),), "accepted", limits=limits)
    return Job("text", code, (TestCase("stdin", text, want[:-2]),), "wrong_answer", limits=limits)


def list_call(draw: random.Random, right: bool) -> Job:
    lists = [[draw.randrange(50) for _ in range(draw.randrange(2, 20))] for _ in range(3)]
    tests = tuple(TestCase("call", json.dumps([row, 2]), json.dumps([x * 2 for x in sorted(row)])) for row in lists)
    code = f"def f(row, k):\n    return {'tuple' if right else 'set'}(x * k for x in sorted(row))"
    return Job("lists", code, tests, "accepted" if right else "wrong_answer", "f")


def dict_call(draw: random.Random, right: bool) -> Job:
    words = [draw.choice(["a", "bb", "ccc"]) for _ in range(9)]
    want = {word: words.count(word) / 9 for word in words}
    code = (
        "from collections import Counter\nclass Solution:\n    def f(self, words):\n"
        f"        return {{w: n / {9 if right else 8} for w, n in Counter(words).items()}}"
    )
    test = TestCase("call", json.dumps([words]), json.dumps(want))
    return Job("dicts", code, (test,), "accepted" if right else "wrong_answer", "Solution.f")


def literal_assert(draw: random.Random, right: bool) -> Job:
    numbers = [draw.randrange(100) for _ in range(3)]
    tests = tuple(TestCase("assert", code=f"assert f({n}) == ({n * n}, '{n:x}')") for n in numbers)
    code = f"def f(n): return n * n{'' if right else ' + 1'}, f'{{n:x}}'"
    return Job("literal asserts", code, tests, "accepted" if right else "wrong_answer")


def referee_assert(draw: random.Random, right: bool) -> Job:
    numbers = sorted(draw.sample(range(100), 5))
    code = f"def f(row):\n    for x in row: yield x{'' if right else ' or 1'} * 2\n    yield {0 if right else 1}"
    body = f"    assert sum(candidate({numbers})) == {2 * sum(numbers)}\n    assert list(candidate([])) == [0]"
    test = TestCase("assert", code=f"def check(candidate):\n{body}\n")
    return Job("check(candidate)", code, (test,), "accepted" if right else "wrong_answer", "f")


def broken_program(draw: random.Random, right: bool) -> Job:
    code, expected = draw.choice(
        [
            ("def f(a, b) return a + b", "compile_error"),
            ("def f(a, b): return a / (b - b)", "runtime_error"),
            ("def g(a, b): return a + b", "runtime_error"),
            ("def f(a, b): return a - b", "wrong_answer"),
        ]
    )
    if right:
        code, expected = "def f(a, b): return a + b", "accepted"
    return Job("broken", code, draw.choice([CALL_FIVE, ASSERT_FIVE]), expected, "f")


TASKS: tuple[Callable[[random.Random, bool], Job], ...] = (
    sum_script,
    float_script,
    text_script,
    list_call,
    dict_call,
    literal_assert,
    referee_assert,
    broken_program,
)


def compiled_script(draw: random.Random, right: bool) -> Job:
    rows = [[draw.randrange(1000) for _ in range(draw.randrange(1, 9))] for _ in range(3)]
    tests = tuple(TestCase("stdin", " ".join(map(str, row)), str(sum(row))) for row in rows)
    code = (
        f"#include <stdio.h>\nint main(void) {{ long x, sum = {0 if right else 1};\n"
        '  while (scanf("%ld", &x) == 1) sum += x;\n  printf("%ld\\n", sum);\n  return 0; }'
    )
    return Job("compiled sums", code, tests, "accepted" if right else "wrong_answer")


def job(seed: int, number: int, hostile_share: float, languages: Sequence[str] = ("python",)) -> Job:
    """The program of this number, the same every time."""
    draw = random.Random(f"{seed}:{number}")
    others = [language for language in languages if language != "python"]
    place = int(draw.random() / COMPILED_SHARE)
    language = others[place] if place < len(others) else "python"
    if draw.random() < hostile_share:
        chosen = draw.choice(ATTACKS if language == "python" else COMPILED_ATTACKS)
    else:
        task = draw.choice(TASKS) if language == "python" else compiled_script
        chosen = task(draw, draw.random() < 0.6)
    # One program of two that are alike is still another program, so that nothing can be kept from the first.
    code = f"# {number}\n{chosen.code}" if language == "python" else f"// {number}\n{chosen.code}"
    return replace(chosen, code=code, language=language)
