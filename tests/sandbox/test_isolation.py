"""Each test adversarially checks one wall of the sandbox: what a program can reach, and what it leaves behind."""

# ruff: noqa: E501  (programs as they are)

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from sandbox import Limits, Sandbox, SolutionVerdict, TestCase
from sandbox.verdict import MIB

SMALL = Limits(time_s=1.0, wall_s=4.0, memory_bytes=128 * MIB, output_bytes=1 * MIB)
NOTHING = TestCase("stdin", "", "")


def output(sandbox: Sandbox, code: str, limits: Limits = SMALL) -> str:
    """What a program prints, as evidence."""
    verdict = sandbox.judge(code, [NOTHING], limits=limits)
    assert verdict.status in ("accepted", "wrong_answer"), verdict
    return verdict.tests[0].stdout.strip()


@pytest.fixture(scope="module")
def one() -> Iterator[Sandbox]:
    """A pool of one container: the next solution is sure to follow the last one into it."""
    with Sandbox(limits=SMALL, containers=1) as made:
        yield made


def test_only_the_loopback_interface(sandbox: Sandbox) -> None:
    assert output(sandbox, "import os; print(os.listdir('/sys/class/net'))") == "['lo']"


def test_sockets_that_no_network_namespace_holds_are_refused(sandbox: Sandbox) -> None:
    code = """
import ctypes, socket
for family in (40, 17, 38, 31):  # vsock, packet, alg, bluetooth
    try: socket.socket(family, socket.SOCK_STREAM); print('open', family)
    except OSError: pass
print(ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(256)))  # io_uring_setup
for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6): socket.socket(family).close()
"""
    assert output(sandbox, code) == "-1"


def test_nothing_is_writable_but_the_work_folders(sandbox: Sandbox) -> None:
    code = """
import os
found = []
for root, folders, files in os.walk('/'):
    folders[:] = [f for f in folders if os.path.join(root, f) not in ('/proc', '/sys')]
    if os.access(root, os.W_OK): found.append(root)
    found += [os.path.join(root, f) for f in files if os.access(os.path.join(root, f), os.W_OK) and not os.path.islink(os.path.join(root, f))]
print(sorted(found))
"""
    found = output(sandbox, code)
    allowed = {
        "/work",
        "/tmp",
        "/dev/shm",
        "/dev/mqueue",
        "/dev/null",
        "/dev/zero",
        "/dev/full",
        "/dev/random",
        "/dev/urandom",
        "/dev/tty",
        "/dev/ptmx",
        "/dev/pts/ptmx",
    }
    assert set(eval(found)) <= allowed and {"/work", "/tmp", "/dev/shm"} <= set(eval(found))


def test_no_privilege_is_left(sandbox: Sandbox) -> None:
    text = output(sandbox, "print(open('/proc/self/status').read())")
    fields = dict(line.split(":\t") for line in text.splitlines() if ":\t" in line)
    assert fields["CapEff"] == fields["CapPrm"] == "0" * 16
    assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2"
    assert "0" not in fields["Uid"].split() and fields["Groups"].strip() in ("", fields["Gid"].split()[0])


def test_setuid_back_to_root_fails(sandbox: Sandbox) -> None:
    code = "import os\nfor f in (os.setuid, os.seteuid, os.setgid):\n    try: f(0); print('root')\n    except PermissionError: pass"
    assert output(sandbox, code) == ""


def test_the_supervisor_cannot_be_touched(sandbox: Sandbox) -> None:
    code = """
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
for pid in [p for p in map(int, filter(str.isdigit, os.listdir('/proc'))) if p not in (os.getpid(),)]:
    for name in ('mem', 'environ', 'fd', 'maps', 'cwd/x', 'root/x', 'fd/0', 'fd/1'):
        try:
            path = f'/proc/{pid}/{name}'
            os.listdir(path) if name == 'fd' else open(path, 'rb+').read(1)
            print('reached', path)
        except OSError: pass
    if libc.ptrace(16, pid, 0, 0) == 0: print('traced', pid)
    for s in (signal.SIGSTOP, signal.SIGKILL, signal.SIGINT):
        try: os.kill(pid, s); print('signalled', pid)
        except PermissionError: pass
"""
    assert output(sandbox, code) == ""
    assert sandbox.judge("print(1)", [TestCase("stdin", "", "1")]).attempts == 1


def test_a_fork_bomb_is_contained_and_its_neighbour_unaffected(sandbox: Sandbox) -> None:
    bombs: list[SolutionVerdict] = []
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    thread = threading.Thread(target=lambda: bombs.append(sandbox.judge(bomb, [NOTHING], limits=SMALL)))
    thread.start()
    good = [sandbox.judge("print(int(input()) + 1)", [TestCase("stdin", "1", "2")]) for _ in range(5)]
    thread.join()
    assert bombs[0].status == "time_limit" and bombs[0].attempts == 1
    assert {verdict.status for verdict in good} == {"accepted"}


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
        ("while True: pass", "time_limit"),
        (
            "import signal\n[signal.signal(s, signal.SIG_IGN) for s in range(1, 32) if s not in (9, 19)]\nwhile True: pass",
            "time_limit",
        ),
        ("import time\nwhile True: time.sleep(9)", "time_limit"),
        ("while True: print('x' * 1000)", "output_limit"),
        ("import sys\nwhile True: sys.stderr.write('x' * 1000)", "output_limit"),
        ("import os\nwhile True: os.write(1, b'x' * 100000)", "output_limit"),
        ("f = open('big', 'wb')\nwhile True: f.write(b'x' * 100000)", "runtime_error"),
        ("i = 0\nwhile True: open(str(i), 'w'); i += 1", "runtime_error"),
        ("import os\nfor i in range(3000): os.mkdir('d'); os.chdir('d')\nos.chmod('.', 0)", "accepted"),
        ("import ctypes; ctypes.string_at(0)", "runtime_error"),
        ("x = " + "(" * 1000 + ")" * 1000, "compile_error"),
        ("x = " + "-" * 100_000 + "1", "compile_error"),
        ("print(1)\x00", "compile_error"),
        ("import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()", "memory_limit"),
        (
            "import os\nos.setsid() if os.fork() == 0 and os.fork() == 0 else os._exit(0)\nwhile True: print('x')",
            "accepted",
        ),
    ],
)
def test_greedy_programs_meet_their_limit(one: Sandbox, code: str, status: str) -> None:
    verdict = one.judge(code, [NOTHING], limits=SMALL)
    assert (verdict.status, verdict.attempts) == (status, 1), verdict
    after = "import os; print([p for p in os.listdir('/proc') if p.isdigit()].__len__(), os.listdir('.'), os.listdir('/tmp'))"
    assert output(one, after) == "3 [] []"


def test_a_large_program_is_read(sandbox: Sandbox) -> None:
    code = "#" + "x" * 10_000_000 + "\nprint(1)"
    assert sandbox.judge(code, [TestCase("stdin", "", "1")]).status == "accepted"


LEAVE = """
import os, socket, subprocess, sys
for folder in ('/work', '/tmp', '/dev/shm'):
    os.makedirs(folder + '/a/b/.c')
    open(folder + '/a/left', 'w').write('secret')
    os.symlink('/etc/passwd', folder + '/link')
    os.chmod(folder + '/a', 0)
    os.chmod(folder, 0)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        s = socket.socket(socket.AF_UNIX); s.bind(chr(0) + 'abstract'); s.listen()
        import time; time.sleep(600)
"""
LOOK = """
import os, socket
print([os.listdir(f) for f in ('/work', '/tmp', '/dev/shm')])
print(len([p for p in os.listdir('/proc') if p.isdigit()]))
try: socket.socket(socket.AF_UNIX).connect(chr(0) + 'abstract'); print('socket')
except OSError: pass
print(oct(os.stat('/work').st_mode), os.stat('/work').st_uid == os.getuid())
"""


def test_nothing_is_left_for_the_next_solution(one: Sandbox) -> None:
    before = one.version()
    first = output(one, "import os; print(os.getuid())")
    output(one, LEAVE)
    assert output(one, LOOK).splitlines() == ["[[], [], []]", "3", "0o40700 True"]
    assert output(one, "import os; print(os.getuid())") != first
    assert one.version() == before


def test_system_v_ipc_and_message_queues_are_off(sandbox: Sandbox) -> None:
    code = """
import ctypes, os
libc = ctypes.CDLL(None)
print(libc.shmget(1234, 4096, 0o1666), libc.semget(1234, 1, 0o1666), libc.msgget(1234, 0o1666))
try: print(ctypes.CDLL('librt.so.1').mq_open(b'/q', os.O_CREAT | os.O_RDWR, 0o666, None))
except (OSError, AttributeError): print(libc.mq_open(b'/q', os.O_CREAT | os.O_RDWR, 0o666, None))
"""
    assert output(sandbox, code) == "-1 -1 -1\n-1"


def test_interpreter_tricks_do_not_outlive_a_test(one: Sandbox) -> None:
    code = """
import os
for name in ('sitecustomize.py', 'usercustomize.py', 'random.py', 'json.py', 'encodings.py'):
    open('/work/' + name, 'w').write('print("owned")')
os.environ['PYTHONPATH'] = os.environ['LD_PRELOAD'] = '/work'
import builtins, json
builtins.print = json.dumps = None
"""
    output(one, code)
    assert output(one, "import random, json, os; print(json.dumps(1), os.environ.get('LD_PRELOAD'))") == "1 None"


def test_expected_output_and_other_programs_are_not_to_be_found(one: Sandbox) -> None:
    secret = "s3cr3t" + "x1y2"
    one.judge(f"print('{secret}')", [TestCase("stdin", secret, secret)], limits=SMALL)
    # By address, because /proc/self/mem is closed to a process that changed its user. The pattern is not its own match.
    hunt = """
import ctypes, re
seen, found = 0, 0
for line in open('/proc/self/maps'):
    m = re.match(r'([0-9a-f]+)-([0-9a-f]+) r', line)
    if m and 'vvar' not in line and 'vsyscall' not in line:
        start, end = int(m[1], 16), int(m[2], 16)
        seen += end - start
        found += sum(1 for _ in re.finditer(rb's3cr3[t]x1y2', ctypes.string_at(start, end - start)))
print(seen > 10_000_000, found)
"""
    limits = Limits(time_s=5, memory_bytes=512 * MIB)
    verdict = one.judge(hunt, [TestCase("stdin", "", secret)], limits=limits)
    assert verdict.tests[0].stdout == "True 0\n", verdict
    verdict = one.judge(
        hunt.replace("seen, found", f"seen, known, found = 0, '{secret}', 0 #"), [NOTHING], limits=limits
    )
    assert verdict.tests[0].stdout != "True 0\n"  # the hunt does find what is there
