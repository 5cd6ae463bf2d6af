"""Hostile programs: each gets the right verdict, leaves no process behind, and changes no neighbour's verdict.

Every attack runs in a pool of one container; right and wrong programs are judged there before and after it, and in
a second pool all the while. After it, a program looks at what is left: three processes (supervisor, zygote, itself)
and empty folders. Not covered here: what a program can reach and leave for the next
one (test_isolation.py), forged asserts (test_asserts.py), attacks in C and C++ (test_attacks_compiled.py).
"""

# ruff: noqa: E501  (programs as they are)

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox import BadTestCase, Limits, Sandbox, SolutionVerdict, TestCase, extract_code
from sandbox.judge import compare_output, compare_result, read_expected
from sandbox.verdict import MIB

# What an attack uses up is the limit that stops it: the others are far away, however loaded the machine is.
AMPLE = Limits(time_s=5.0, wall_s=15.0, memory_bytes=96 * MIB, output_bytes=1 * MIB)
LITTLE_TIME = replace(AMPLE, time_s=0.3)
LITTLE_PATIENCE = replace(AMPLE, wall_s=0.4)
QUIET = TestCase("stdin", "", "")
FIVE = TestCase("stdin", "2 3", "5")
CALL = TestCase("call", "[2, 3]", "5")
AS_EVER = ("accepted", "wrong_answer", "accepted", "wrong_answer")
LOOK = """
import os
print(len([p for p in os.listdir('/proc') if p.isdigit()]), [os.listdir(f) for f in ('/work', '/tmp', '/dev/shm')])
"""


@pytest.fixture(scope="module")
def one() -> Iterator[Sandbox]:
    """A pool of one container: what follows an attack runs where it ran, unless that was thrown away."""
    with Sandbox(limits=AMPLE, containers=1) as made:
        assert neighbours(made) == AS_EVER
        yield made


def neighbours(pool: Sandbox) -> tuple[str, ...]:
    """The verdicts on a right and a wrong program of two kinds."""
    jobs = (
        ("print(sum(map(int, input().split())))", FIVE),
        ("print(input())", FIVE),
        ("def f(a, b): return a + b", CALL),
        ("def f(a, b): return a * b", CALL),
    )
    return tuple(pool.judge(code, [test], entry_point="f", limits=AMPLE).status for code, test in jobs)


@contextmanager
def neighbours_beside(pool: Sandbox) -> Iterator[None]:
    """Judge neighbours in another pool until the block ends, and at least once."""
    over, seen = threading.Event(), set[tuple[str, ...]]()

    def judge() -> None:
        while True:
            seen.add(neighbours(pool))
            if over.wait(0.05):
                return

    thread = threading.Thread(target=judge)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert seen == {AS_EVER}


def attack(one: Sandbox, beside: Sandbox, code: str, limits: Limits = AMPLE, test: TestCase = QUIET) -> SolutionVerdict:
    """Judge a hostile program among its neighbours; what it left is looked for before anything else is judged."""
    containers = set(one._solutions.known)
    with neighbours_beside(beside):
        verdict = one.judge(code, [test], limits=limits, entry_point="f")
    assert verdict.attempts == 1, verdict  # it broke no container
    # It was cleaned, not thrown away, unless the kernel had to kill for memory.
    assert containers <= one._solutions.known or verdict.status == "memory_limit"
    assert one.judge(LOOK, [QUIET]).tests[0].stdout == "3 [[], [], []]\n"
    assert neighbours(one) == AS_EVER
    return verdict


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("x = []\nwhile True: x.append(bytearray(b'x') * (1 << 20))", "memory_limit"),
        ("x = [0] * (1 << 40)", "memory_limit"),
        ("x = 'x' * (1 << 20)\nwhile True: x += x", "memory_limit"),
        (
            "import os\nx = []\nfor _ in range(3): os.fork()\nwhile True: x.append(bytearray(b'x') * (1 << 20))",
            "memory_limit",
        ),
        (
            "import mmap\nkept = []\nwhile True:\n    kept.append(mmap.mmap(-1, 1 << 20))\n    kept[-1].write(b'x' * (1 << 20))",
            "memory_limit",
        ),
        (
            "import os\nwhile True:\n    fd = os.memfd_create('m')\n    for _ in range(40): os.write(fd, b'x' * (1 << 20))",
            "memory_limit",
        ),
        (
            "import ctypes, time\nfor i in range(60): ctypes.CDLL(None).fallocate(1, 1, i << 20, 1 << 20)  # beyond the end of stdout\n"
            "x = bytearray(b'x') * (50 << 20)\ntime.sleep(99)",
            "memory_limit",
        ),
        (
            "import time\nfor name in ('/tmp/big', '/work/big'):\n    f = open(name, 'wb')\n    for _ in range(60): f.write(b'x' * (1 << 20))\ntime.sleep(99)",
            "memory_limit",
        ),
        ("import sys\nsys.setrecursionlimit(10**9)\ndef f(x): f([x] * 1000)\nf(0)", "memory_limit"),
        ("x = 1\n" * 1_700_000, "memory_limit"),  # 10 MB of program
        ("while True: print('x' * 1000)", "output_limit"),
        ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "output_limit"),
        ("import os\nwhile True: os.write(1, b'x' * 100000)", "output_limit"),
        (
            "import os, time\nif os.fork() == 0:\n    os.setsid()\n    while True: os.write(2, b'x' * 4096)\ntime.sleep(99)",
            "output_limit",
        ),
        ("import os\nos.ftruncate(1, 60 << 20)", "output_limit"),
        ("import os\nwhile True: os.write(5, bytes(4096))  # the message channel", "output_limit"),
        ("f = open('big', 'wb')\nwhile True: f.write(b'x' * 100000)", "runtime_error"),
        ("f = open('/dev/shm/big', 'wb')\nwhile True: f.write(b'x' * 100000)", "runtime_error"),
        ("i = 0\nwhile True: open(str(i), 'w'); i += 1", "runtime_error"),
        ("kept = []\nwhile True: kept.append(open('/dev/null'))", "runtime_error"),
        ("import subprocess\nkept = []\nwhile True: kept.append(subprocess.Popen(['sleep', '99']))", "runtime_error"),
        (
            "import threading\nwhile True: threading.Thread(target=threading.Event().wait, daemon=True).start()",
            "runtime_error",
        ),
        ("import ctypes; ctypes.string_at(0)", "runtime_error"),
        ("x = " + "(" * 1000 + ")" * 1000, "compile_error"),
        ("x = " + "-" * 100_000 + "1", "compile_error"),
        ("print(1)\x00", "compile_error"),
        ("print('\ud800')", "compile_error"),
    ],
)
def test_who_takes_too_much_meets_its_limit(one: Sandbox, sandbox: Sandbox, code: str, status: str) -> None:
    verdict = attack(one, sandbox, code)
    assert verdict.status == status, verdict


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import signal\n[signal.signal(s, signal.SIG_IGN) for s in range(1, 32) if s not in (9, 19)]\nwhile True: pass",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "import os\nwhile True:\n    try: os.posix_spawn('/bin/true', ['true'], {})\n    except OSError: pass",
        "import ctypes\nclone = ctypes.CDLL(None).syscall\nwhile True: clone(58) or ctypes.CDLL(None)._exit(0)  # vfork",
        "import os, time\nif os.fork() == 0:\n    if os.fork() == 0:\n        os.setsid()\n        while True: pass\n    os._exit(0)\ntime.sleep(99)",
        "import threading\ndef f():\n    while True: pass\n[threading.Thread(target=f).start() for _ in range(20)]",
        "while True: open('/proc/self/status').read()",
        "x = ((((2 ** 62) ** 62) ** 62) ** 62) ** 61",
        "import time\ntime.time = time.monotonic = time.process_time = lambda: 0\nwhile True: pass",
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True: pass",
        "import os, sys, signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"
        "os.execv(sys.executable, [sys.executable, '-c', 'while True: pass'])",
    ],
)
def test_who_takes_too_much_cpu_is_over_time(one: Sandbox, sandbox: Sandbox, code: str) -> None:
    verdict = attack(one, sandbox, code, LITTLE_TIME)
    assert verdict.status == "time_limit", verdict


@pytest.mark.parametrize(
    "code",
    [
        "import time\nwhile True: time.sleep(9)",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        "import os, signal\npid = os.fork()\nif pid == 0: os.kill(os.getpid(), signal.SIGSTOP)\nos.waitpid(pid, 0)",
        "import ctypes, threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()\nctypes.CDLL(None).pthread_exit(0)",
        "import os, signal\n[signal.signal(s, signal.SIG_IGN) for s in range(1, 32) if s not in (9, 19)]\n"
        "for _ in range(20):\n    if os.fork() == 0: os.setsid(); break\nsignal.pause()",
        "import fcntl, os\nr, w = os.pipe()\nos.read(r, 1)",
    ],
)
def test_who_takes_too_long_is_over_time(one: Sandbox, sandbox: Sandbox, code: str) -> None:
    verdict = attack(one, sandbox, code, LITTLE_PATIENCE)
    assert verdict.status == "time_limit", verdict


ADD = "print(sum(map(int, input().split())), flush=True)\n"


@pytest.mark.parametrize(
    "code",
    [
        # Daemons: deaf, in sessions and groups of their own, holding every descriptor, forking on.
        "import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        import time; time.sleep(99)\n    os._exit(0)",
        "import os, signal, time\nfor _ in range(30):\n    if os.fork() == 0:\n        os.setsid()\n"
        "        [signal.signal(s, signal.SIG_IGN) for s in range(1, 32) if s not in (9, 19)]\n        time.sleep(99)",
        "import os\nif os.fork() == 0:\n    os.setsid()\n    while True:\n        try: os.fork()\n        except OSError: pass",
        "import os\nfor _ in range(40):\n    if os.fork() == 0: os._exit(0)  # nobody waits for them",
        "import os, signal\nif os.fork() == 0:\n    os.setpgid(0, 0)\n    os.kill(os.getpid(), signal.SIGSTOP)",
        "import subprocess\nsubprocess.Popen('nohup setsid sleep 99 & nohup setsid cat /dev/zero > /dev/null &', shell=True)",
        "import ctypes, os\nif os.fork() == 0:\n    if os.fork() == 0: ctypes.CDLL(None).pause()\n    ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)\n    os._exit(0)",
        # Signals: to all, to the groups, to the parent and to process 1.
        "import os, signal\nos.kill(-1, signal.SIGKILL)",
        "import os, signal\nfor pid in (1, os.getppid(), -os.getppid()):\n    for s in (9, 15, 19, 2, 1, 18):\n        try: os.kill(pid, s); print('signalled', pid)\n        except OSError: pass",
        # Other processes' priorities and limits, and its own beyond what it was given.
        "import os, resource\nme = os.getpid()\nfor pid in (1, os.getppid()):\n"
        "    for act in (lambda: os.setpriority(os.PRIO_PROCESS, pid, 19), lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, 0)),\n"
        "                lambda: os.sched_setaffinity(pid, {0}), lambda: os.sched_setscheduler(me, os.SCHED_FIFO, os.sched_param(1)),\n"
        "                lambda: os.setpriority(os.PRIO_PROCESS, me, -1)):\n"
        "        try: act(); print('done')\n        except OSError: pass",
        "import resource as r\nfor n in ('CPU', 'NPROC', 'FSIZE', 'NOFILE', 'CORE', 'MEMLOCK', 'DATA'):\n    name = getattr(r, 'RLIMIT_' + n)\n"
        "    for top in (r.getrlimit(name)[1] + 1, r.RLIM_INFINITY):\n        try: r.setrlimit(name, (top, top)); print('raised', n)\n        except (ValueError, OSError): pass",
        # Its own input and output, after the answer.
        "import os\nos.pwrite(0, b'9 9', 0)\nos.ftruncate(0, 0)",
        "import ctypes, os\nif os.fork() == 0:\n    import mmap, time\n    m = mmap.mmap(1, 2)\n    while True: m[:1] = b'5'",
    ],
)
def test_who_answers_rightly_and_attacks_is_accepted_and_gone(one: Sandbox, sandbox: Sandbox, code: str) -> None:
    verdict = attack(one, sandbox, ADD + code, test=FIVE)
    assert (verdict.status, verdict.detail) == ("accepted", "")


SOCKETS = """
import socket
kept, data = [], b'x' * 200_000
def fill():
    for _ in range(110):
        a, b = socket.socketpair()
        kept.extend((a, b))
        for end in (a, b):
            end.setblocking(False)
            try:
                while True: end.send(data)
            except BlockingIOError: pass
"""


@pytest.mark.parametrize(
    "code",
    [
        SOCKETS + "import os, time\nfor _ in range(5):\n    if os.fork() == 0: fill(); time.sleep(99)\ntime.sleep(99)",
        "import fcntl, os, time\nfor _ in range(50):\n    r, w = os.pipe()\n    fcntl.fcntl(w, fcntl.F_SETPIPE_SZ, 1 << 20)\n"
        "    os.write(w, bytes(1 << 20))\nx = bytearray(b'x') * (30 << 20)\ntime.sleep(99)",
    ],
    ids=["sockets", "pipes"],
)
def test_memory_that_the_kernel_holds_for_a_program_is_its_own(one: Sandbox, sandbox: Sandbox, code: str) -> None:
    verdict = attack(one, sandbox, code, replace(AMPLE, memory_bytes=64 * MIB, wall_s=3.0))
    assert verdict.status == "memory_limit", verdict


def test_the_kernel_never_kills_the_supervisor_for_a_programs_memory(one: Sandbox, sandbox: Sandbox) -> None:
    """Tiny processes, as unlikely to be killed as the supervisor, hold the container's whole memory in sockets."""
    holders = (
        "open('/proc/self/oom_score_adj', 'w').write('0')\n"
        + SOCKETS.replace("end.setblocking", "os.set_inheritable(end.fileno(), True); end.setblocking")
        + "for _ in range(60):\n    if os.fork() == 0: fill(); os.execvp('sleep', ['sleep', '99'])\ntime.sleep(99)"
    )
    code = f"import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'import os, time\\n' + {holders!r}])"
    verdict = attack(one, sandbox, code)
    assert verdict.status == "memory_limit", verdict


@pytest.mark.parametrize(
    "code",
    [
        "import ctypes, os, signal\nctypes.CDLL(None).ptrace(0, 0, 0, 0)  # be traced by the zygote\nos.kill(os.getpid(), signal.SIGTRAP)",
        "import ctypes, os, time\nif ctypes.CDLL(None).syscall(56, 0x8000 | 17, 0, 0, 0, 0) == 0: time.sleep(99)  # CLONE_PARENT\nos.abort()",
    ],
    ids=["traced", "sibling"],
)
def test_the_zygote_is_not_confused_by_its_children(one: Sandbox, sandbox: Sandbox, code: str) -> None:
    verdict = attack(one, sandbox, ADD + code, LITTLE_PATIENCE, FIVE)
    assert verdict.status in ("time_limit", "runtime_error"), verdict


def test_many_short_turns_are_not_free(one: Sandbox, sandbox: Sandbox) -> None:
    """Each turn between solution and assert code is far shorter than the time between two looks."""
    test = TestCase("assert", code="assert f(lambda x: x + 1, 1) == 2")
    code = "def f(g, x):\n    for _ in range(2000): g(x); sum(range(30_000))\n    return g(x)"
    verdict = attack(one, sandbox, code, LITTLE_TIME, test)
    assert verdict.status == "time_limit", verdict


EQUAL = "class A({base}):\n    def __eq__(s, o): return True\n    def __hash__(s): return 0\n"
WRITE = """
import json, os, struct
def send(fd, message):
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    for data in (struct.pack('>I', len(data)) + data, struct.pack('>II', len(data), 0) + data, data):
        try: os.write(fd, data)
        except OSError: pass
"""
FORGED = (
    WRITE
    + """
for fd in range(256):
    for text in (b'accepted', b'OK\\n', b'5\\n'):
        send(fd if fd not in (1, 2) else 255, text)
    for op in ('done', 'value', 'end', 'ok', 'passed'):
        if fd not in (1, 2): send(fd, {'op': op, 'v': True, 'status': 'accepted', 'exit_code': 0, 'limit': None, 'blobs': []})
"""
)


@pytest.mark.parametrize(
    "code",
    [
        "print(6)",
        "print('5x')",
        "print(5, 5)",
        "print('5\\n5')",
        "print('5\\0')",
        "print('5\\x1c')",
        "print('\\u00a05')",
        "print('٥')",
        "print('5.0')",
        "print('nan')",
        "print(5); raise SystemExit(1)",
        "print(5); import os; os.abort()",
        "print(5, flush=True); import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os; os._exit(0)",
        "print(5); import os; os._exit(0)",
        "raise SystemExit(0)",
        "import sys; sys.stdout.close = sys.stdout.write = lambda *a: None; print(5)",
        "import sys; print(5, file=sys.stderr)",
        FORGED + "print(6)",
        FORGED + "print(5)\nos._exit(3)",
    ],
)
def test_no_wrong_output_is_accepted(one: Sandbox, sandbox: Sandbox, code: str) -> None:
    verdict = attack(one, sandbox, code, test=FIVE)
    assert verdict.status not in ("accepted", "infra_error"), verdict


@pytest.mark.parametrize(
    "test", [CALL, TestCase("call", "[2, 3]", "[5]"), TestCase("call", "[2, 3]", '{"5": {"__set__": [5]}}')]
)
@pytest.mark.parametrize(
    "code",
    [
        "import os; os._exit(0)",
        "raise SystemExit(0)",
        "def f(a, b): import os; os._exit(0)",
        "def f(a, b): raise SystemExit(0)",
        "def f(a, b): return None",
        "def f(a, b): return True",
        "def f(a, b): return '5'",
        "def f(a, b): return float('nan')",
        "def f(a, b): return 5.00001",
        "def f(a, b): return 10**5000",
        "def f(a, b): return {10**5000: 5}",
        "def f(a, b): return {(10**5000,): 5}",
        "def f(a, b): return lambda: 5",
        "def f(a, b): yield 5",
        EQUAL.format(base="") + "def f(a, b): return A()",
        EQUAL.format(base="int") + "def f(a, b): return A(6)",
        EQUAL.format(base="float") + "def f(a, b): return A(6)",
        EQUAL.format(base="str") + "def f(a, b): return {A('6'): {A('6')}}",
        EQUAL.format(base="list")
        + "    def __len__(s): return 1\n    def __iter__(s): return iter([5])\ndef f(a, b): return A()",
        EQUAL.format(base="dict")
        + "    def items(s): return [('5', {5})]\n    def __len__(s): return 1\ndef f(a, b): return A()",
        EQUAL.format(base="") + "    __class__ = int\n    def __index__(s): return 5\ndef f(a, b): return A()",
        FORGED + "def f(a, b): return 6",
        FORGED + "def f(a, b): os._exit(0)",
        "import builtins, json\njson.dumps = json.loads = builtins.isinstance = lambda *a, **k: True\ndef f(a, b): return 6",
        "import os\nos.closerange(0, 256)\ndef f(a, b): return 5",
        "import os\nos.dup2(os.open('/dev/null', os.O_RDWR), 5)\ndef f(a, b): return 5",
        "import socket\nsocket.socket(fileno=5).shutdown(socket.SHUT_RDWR)\ndef f(a, b): return 5",
    ],
)
def test_no_wrong_result_is_accepted(one: Sandbox, sandbox: Sandbox, code: str, test: TestCase) -> None:
    verdict = one.judge(code, [test], entry_point="f", limits=LITTLE_PATIENCE)
    assert verdict.status not in ("accepted", "infra_error"), verdict
    assert verdict.attempts == 1
    assert one.judge(LOOK, [QUIET]).tests[0].stdout == "3 [[], [], []]\n"


MESSAGES = {
    "nothing": ("b''", "runtime_error"),
    "no JSON": ("b'{'", "runtime_error"),
    "no object": ("b'[5]'", "runtime_error"),
    "no UTF-8": ('b\'{"op":"value","v":"\\xff"}\'', "runtime_error"),
    "an op that is no text": ('b\'{"op":["value"],"v":5}\'', "runtime_error"),
    "brackets": ("b'[' * 1_000_000", "runtime_error"),
    "a number of 5000 digits": ("b'{\"op\":\"value\",\"v\":' + b'5' * 5000 + b'}'", "runtime_error"),
    "half a surrogate": ('b\'{"op":"raise","type":"E","text":"\\\\ud800"}\'', "runtime_error"),
    "a nest as deep as can be read": ("b'{\"op\":\"value\",\"v\":' + b'[' * 960 + b']' * 960 + b'}'", "wrong_answer"),
    "NaN": ('b\'{"op":"value","v":NaN}\'', "wrong_answer"),
    "infinity": ('b\'{"op":"value","v":1e999}\'', "wrong_answer"),
    "4 MB of hexadecimal digits": (
        'b\'{"op":"value","v":{"$":"int","v":"0x\' + b\'f\' * 4_190_000 + b\'"}}\'',
        "wrong_answer",
    ),
    "a million lists": ("b'{\"op\":\"value\",\"v\":[[]' + b',[]' * 1_390_000 + b']}'", "wrong_answer"),
    "a set of keys that share one hash": (
        "json.dumps({'op': 'value', 'v': {'$': 'set', 'v': [k * (2**61 - 1) for k in range(150_000)]}}).encode()",
        "wrong_answer",
    ),
    "the same, and as many equal keys": (
        'b\'{"op":"value","v":{"$":"set","v":[0\' + b\',0\' * 150_000 + b\'\'.join(b\',%d\' % (k * (2**61 - 1)) for k in range(150_000)) + b\']}}\'',
        "wrong_answer",
    ),
    "decimals beyond every range": (
        "json.dumps({'op': 'value', 'v': {'$': 'set', 'v': [{'$': 'decimal', 'v': x} for x in ('sNaN', '1e999999999999999999', '-1e-99999999')]}}).encode()",
        "wrong_answer",
    ),
    "a builtin that is no type": ('b\'{"op":"value","v":{"$":"type","v":"eval"}}\'', "wrong_answer"),
    "a reference": ('b\'{"op":"value","v":{"$":"yours","v":1}}\'', "wrong_answer"),
    "text that grows when it is written again": (
        '(\'{"op":"value","v":[1,"\' + \'é\' * 1_500_000 + \'"]}\').encode()',
        "wrong_answer",
    ),
    "numbers that grow when they are written again": (
        "b'{\"op\":\"value\",\"v\":[1e9' + b',1e9' * 1_000_000 + b']}'",
        "wrong_answer",
    ),
}


@pytest.mark.parametrize(
    "test", [CALL, TestCase("assert", code="total = f(2, 3)\nassert total == 5 and total != 4")], ids=["call", "assert"]
)
@pytest.mark.parametrize(("message", "status"), MESSAGES.values(), ids=MESSAGES)
def test_a_hostile_message_is_judged_like_any_other(one: Sandbox, message: str, status: str, test: TestCase) -> None:
    code = f"import json, os, struct, time\nm = {message}\nm = struct.pack('>I', len(m)) + m\nwhile m: m = m[os.write(5, m):]\ntime.sleep(0.1)"
    verdict = one.judge(code, [test], limits=LITTLE_PATIENCE, entry_point="f")
    assert verdict.status in (status, "runtime_error", "output_limit"), verdict
    assert verdict.attempts == 1
    json.dumps([verdict.detail, verdict.tests[0].stderr], ensure_ascii=False).encode()  # as the stages write it


def test_a_deep_value_is_refused_before_it_is_handed_on(one: Sandbox) -> None:
    """Whoever reads a value has less stack left than who read it before: the bound must be the value's own."""
    checker = "def check(input, expected, output): return str(output).count('[') == 250"
    for depth in [*range(250, 500, 50), *range(480, 500)]:
        code = f"def f():\n    x = []\n    for _ in range({depth - 1}): x = [x]\n    return x"
        verdict = one.judge(code, [TestCase("call", "[]", "[]")], entry_point="f", checker=checker)
        assert verdict.status in (("accepted",) if depth == 250 else ("wrong_answer", "runtime_error")), verdict


@pytest.mark.parametrize(
    "code",
    [
        "import os\nwhile True: os.write(1, bytes(65536))",
        "import os\nwhile True: os.write(2, bytes(65536))",
        "print('ab\\n' * 2_700_000)",  # within the limit, but 2.7 million lines
        "print('ab ' * 2_700_000)",
        "print('1' * 8_000_000 + 'x')",
    ],
    ids=["stdout", "stderr", "lines", "tokens", "digits"],
)
def test_output_costs_the_host_a_few_times_its_limit(one: Sandbox, code: str) -> None:
    limits = replace(AMPLE, output_bytes=8 * MIB, memory_bytes=256 * MIB)
    test = TestCase("stdin", "", "0.5")
    status, peak = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    one.judge(code, [test], limits=limits)  # what is set up once is not counted
    peak.write_text("5")  # the peak is measured from here
    before = memory(status)
    assert one.judge(code, [test], limits=limits).status in ("output_limit", "wrong_answer")
    assert memory(status) - before < 8 * limits.output_bytes


def memory(status: Path) -> int:
    """This process's highest resident memory in bytes since the mark was set."""
    lines = status.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) << 10


@pytest.mark.timeout(20)  # a pattern that tries a text in many ways would not come back
@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ("0.5", "1" * 5_000_000 + "x"),
        ("0.5", "." * 5_000_000),
        ("0.5", "0.5" + " " * 5_000_000 + "x"),
        ("1e5", "1e" + "1" * 5_000_000),
        ("1e400", "1e9999999"),
        ("1e400", "1e99999999999999999999"),
        ("1 2", "1\x1c2"),
        ("1 2", "1\u00a02"),
        ("nan", "nan"),
    ],
)
def test_no_token_holds_the_comparison_up(expected: str, got: str) -> None:
    assert compare_output(expected, got)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("mark", ["```", "~~~", "~" * 50_000])
def test_no_line_of_an_answer_holds_the_search_for_code_up(mark: str) -> None:
    assert extract_code(mark + " " * 50_000 + "`") is None


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ("1000000", 1000000.9),
        ("[3]", [3.1]),
        ("0", 1e-5),
        ('{"a": 1}', {1 << 20_000: 1}),
        ('{"a": 1}', {(1 << 20_000,): 1}),
    ],
)
def test_no_odd_number_is_taken_for_another(expected: str, got: object) -> None:
    assert compare_result(read_expected(expected), got)


@pytest.mark.parametrize(
    "code",
    [
        "from solution import f\n\ndef test_f():\n    assert f(2) == 4",
        "def test_f():\n    if f(2) != 4: raise ValueError\n\ndef helper(x):\n    assert x",
        "def check(candidate):\n    assert candidate(2) == 4",
    ],
)
def test_asserts_in_functions_that_nothing_calls_are_run(one: Sandbox, code: str) -> None:
    test = TestCase("assert", code=code)
    assert one.judge("def f(x): return x + x", [test], entry_point="f").status == "accepted"
    assert one.judge("def f(x): return x", [test], entry_point="f").status == "wrong_answer"


@pytest.mark.parametrize(
    "code",
    [
        "def verify():\n    assert f(2) == 4",
        "import unittest\nclass Case(unittest.TestCase):\n    def test(self):\n        assert f(2) == 4",
        "def test_f(fixture):\n    assert f(2) == 4",
        "assert f(" + "-" * 100_000 + "2) == 4",
    ],
)
def test_asserts_that_would_never_run_are_refused(one: Sandbox, code: str) -> None:
    with pytest.raises(BadTestCase):
        one.judge("def f(x): return x", [TestCase("assert", code=code)], entry_point="f")
