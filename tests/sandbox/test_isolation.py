"""Each test adversarially checks one wall of the sandbox: what a program can reach, and what it leaves behind."""

# ruff: noqa: E501  (programs as they are)

from __future__ import annotations

import platform
from collections.abc import Iterator

import pytest

from sandbox import Limits, Sandbox, TestCase
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


def test_a_large_program_is_read(sandbox: Sandbox) -> None:
    code = "#" + "x" * 10_000_000 + "\nprint(1)"
    assert sandbox.judge(code, [TestCase("stdin", "", "1")]).status == "accepted"


LEFT = {
    "files": """
for folder in FOLDERS:
    os.makedirs(folder + '/a/b/.c')
    open(folder + '/a/left', 'w').write('secret')
    open(folder + '/new\\nline -rf *', 'w').close()
    os.mkfifo(folder + '/fifo', 0)
    os.symlink('/etc', folder + '/link')
    os.symlink('a', folder + '/a/loop')
    os.link(folder + '/a/left', folder + '/hard')
    socket.socket(socket.AF_UNIX).bind(folder + '/socket')
    os.chmod(folder + '/a', 0)
    os.chmod(folder, 0)
""",
    "a deep tree": "for i in range(3000): os.mkdir('d'); os.chdir('d')\nos.chmod('.', 0)",
    "access lists": """
for folder in FOLDERS:  # what is made here belongs to nobody, the next owner included
    os.setxattr(folder, 'system.posix_acl_default', struct.pack('<I', 2) + b''.join(struct.pack('<HHi', tag, 0, -1) for tag in (1, 4, 32)))
""",
    "attributes": "for folder in FOLDERS: os.setxattr(folder, 'user.left', b'secret')",
    "times": "for folder in FOLDERS: os.utime(folder, (4711, 4711))",
    "mode": "for folder in FOLDERS: os.chmod(folder, 0o7777)",
    "a daemon with an abstract socket": """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        s = socket.socket(socket.AF_UNIX); s.bind(chr(0) + 'abstract'); s.listen()
        time.sleep(600)
""",
    "a port": """
server = socket.create_server(('127.0.0.1', 8000))
client = socket.create_connection(('127.0.0.1', 8000))
server.accept()[0].close()
""",
    "modules": """
for name in ('sitecustomize', 'usercustomize', 'json', 'statistics', 'csv', 'encodings'):
    open(f'/work/{name}.py', 'w').write('print("owned")')
os.makedirs('/work/.local/lib/python3.11/site-packages')
open('/work/.local/lib/python3.11/site-packages/usercustomize.py', 'w').write('print("owned")')
os.environ['PYTHONPATH'] = os.environ['LD_PRELOAD'] = os.environ['PYTHONSTARTUP'] = '/work'
import builtins, json
builtins.print = json.dumps = None
""",
    "programs that the supervisor runs": """
for folder in FOLDERS:
    for name in ('sh', 'find', 'chmod', 'python3', '.profile', '.bashrc', 'ld.so.preload', 'libc.so.6'):
        open(f'{folder}/{name}', 'w').write('#!/bin/sh\\necho owned > /dev/shm/owned\\n')
        os.chmod(f'{folder}/{name}', 0o755)
os.environ['PATH'] = os.environ['LD_LIBRARY_PATH'] = os.environ['ENV'] = '/work'
""",
}
PREPARE = "import os, socket, struct, time\nFOLDERS = ('/work', '/tmp', '/dev/shm')\n"
LOOK = """
import json, os, socket, statistics, subprocess, sys
print(subprocess.check_output([sys.executable, '-c', 'import csv; print(csv.__file__)']))
for folder in ('/work', '/tmp', '/dev/shm'):
    seen = os.stat(folder)
    print(folder, os.listdir(folder), oct(seen.st_mode), seen.st_uid == os.getuid(), os.listxattr(folder), 4711 in (seen.st_atime, seen.st_mtime))
    open(folder + '/x', 'w').write('x')
    print(open(folder + '/x').read(), oct(os.stat(folder + '/x').st_mode))
print(len([p for p in os.listdir('/proc') if p.isdigit()]))
try: socket.socket(socket.AF_UNIX).connect(chr(0) + 'abstract'); print('socket')
except ConnectionRefusedError: pass
socket.socket().bind(('127.0.0.1', 8000))
print(json.dumps(dict(os.environ), sort_keys=True))
"""


@pytest.mark.parametrize("leave", LEFT.values(), ids=LEFT)
def test_nothing_is_left_for_the_next_solution(leave: str) -> None:
    with Sandbox(limits=SMALL, containers=1) as one:
        output(one, "pass")
        containers = set(one._solutions.known)
        clean = output(one, LOOK)
        assert "/work [] 0o40700 True [] False\nx 0o100640\n" in clean and "\n3\n{" in clean
        output(one, PREPARE + leave)
        assert output(one, LOOK) == clean
        assert containers == one._solutions.known  # it was cleaned, not thrown away


def test_no_two_solutions_have_a_uid_in_common(one: Sandbox) -> None:
    uids = [output(one, "import os; print(os.getuid(), os.getgid(), os.geteuid())") for _ in range(3)]
    assert len(set(uids)) == 3


def test_system_v_ipc_and_message_queues_are_off(sandbox: Sandbox) -> None:
    code = """
import ctypes, os
libc = ctypes.CDLL(None)
print(libc.shmget(1234, 4096, 0o1666), libc.semget(1234, 1, 0o1666), libc.msgget(1234, 0o1666))
try: print(ctypes.CDLL('librt.so.1').mq_open(b'/q', os.O_CREAT | os.O_RDWR, 0o666, None))
except (OSError, AttributeError): print(libc.mq_open(b'/q', os.O_CREAT | os.O_RDWR, 0o666, None))
"""
    assert output(sandbox, code) == "-1 -1 -1\n-1"


SECRET = "s3cr3t" + "x1y2"
# By address, because /proc/self/mem is closed to a process that changed its user. The pattern is not its own match.
HUNT = """
import ctypes, os, re
pattern = re.compile(rb's3cr3[t]x1y2')
def hunt(*given):
    seen, found = 0, []
    for line in open('/proc/self/maps'):  # frames, locals, garbage, freed memory: all of it
        m = re.match(r'([0-9a-f]+)-([0-9a-f]+) r', line)
        if m and 'vvar' not in line and 'vsyscall' not in line:
            start, end = int(m[1], 16), int(m[2], 16)
            seen += end - start
            if pattern.search(ctypes.string_at(start, end - start)): found.append('memory')
    for fd in range(256):
        try:
            if pattern.search(os.pread(fd, 1 << 20, 0)): found.append(f'descriptor {fd}')
        except OSError: pass
    paths = [f'/proc/{pid}/{name}' for pid in os.listdir('/proc') if pid.isdigit() for name in ('environ', 'cmdline', 'comm')]
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try: paths += [f'/proc/{pid}/fd/{fd}' for fd in os.listdir(f'/proc/{pid}/fd')]
        except OSError: pass
    for top in ('/build', '/dev/shm', '/etc', '/home', '/opt', '/root', '/run', '/tmp', '/var', '/work'):
        paths += [os.path.join(root, name) for root, _, names in os.walk(top) for name in names]
    for path in paths:
        try:
            if pattern.search(open(path, 'rb').read(1 << 20)): found.append(path)
        except OSError: pass
    print(seen > 10_000_000, len(paths) > 30, found, flush=True)
"""
KNOWS = f"""
import os
open('/work/{SECRET}', 'w').write('{SECRET}')
if os.fork() == 0: os.execve('/bin/sleep', ['{SECRET}', '600'], {{'A': '{SECRET}'}})
print('{SECRET}')
"""


@pytest.mark.parametrize(
    "test",
    [
        TestCase("stdin", "", SECRET),
        TestCase("call", "[1]", f'"{SECRET}"'),
        TestCase("assert", code=f"assert hunt(1) == '{SECRET}'"),
        TestCase("assert", code=f"secret = '{SECRET}'\nassert hunt(lambda x: secret) == secret"),
    ],
    ids=["stdin", "call", "literal", "referee"],
)
def test_expected_output_and_other_programs_are_not_to_be_found(one: Sandbox, test: TestCase) -> None:
    limits = Limits(time_s=5, memory_bytes=512 * MIB)
    assert one.judge(KNOWS, [TestCase("stdin", SECRET, SECRET)]).status == "accepted"
    hunter = HUNT + ("hunt()" if test.kind == "stdin" else "")
    verdict = one.judge(hunter, [test], limits=limits, entry_point="hunt")
    assert (verdict.status, verdict.tests[0].stdout) == ("wrong_answer", "True True []\n"), verdict


def test_the_hunt_finds_what_is_there(one: Sandbox) -> None:
    hunter = HUNT + f"kept, file = '{SECRET}', open('known', 'w').write('{SECRET}')\nhunt()"
    verdict = one.judge(hunter, [TestCase("stdin", SECRET, "")], limits=Limits(time_s=5, memory_bytes=512 * MIB))
    assert all(place in verdict.tests[0].stdout for place in ("'memory'", "'descriptor 0'", "'/work/known'")), verdict


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are of x86-64")
def test_what_would_lead_out_of_the_container_is_refused(sandbox: Sandbox) -> None:
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
calls = {
    'unshare users': (272, 0x10000000), 'unshare mounts': (272, 0x20000), 'clone into new users': (56, 0x10000000 | 17, 0, 0, 0, 0),
    'setns': (308, os.open('/proc/self/ns/net', 0), 0), 'mount': (165, b'none', b'/tmp', b'tmpfs', 0, 0), 'chroot': (161, b'/tmp'),
    'pivot_root': (155, b'/tmp', b'/tmp'), 'fsopen': (430, b'tmpfs', 0), 'mknod': (133, b'/tmp/mem', 0o20666, 0x101),
    'add_key': (248, b'user', b'k', b'v', 1, -2), 'keyctl': (250, 0, -3, 1), 'bpf': (321, 0, 0, 0), 'perf': (298, 0, 0, -1, -1, 0),
    'userfaultfd': (323, 0), 'io_uring': (425, 8, ctypes.create_string_buffer(256)), 'open by handle': (304, 3, 0, 0),
    'syslog': (103, 3, ctypes.create_string_buffer(64), 64), 'settimeofday': (164, ctypes.create_string_buffer(16), 0),
    'sethostname': (170, b'x', 1), 'reboot': (169, 0xfee1dead, 672274793, 0, 0), 'acct': (163, b'/tmp/acct'), 'swapon': (167, b'/tmp/x', 0),
    'iopl': (172, 3), 'kexec': (246, 0, 0, 0, 0), 'init_module': (175, 0, 0, b''), 'ptrace init': (101, 16, 1, 0, 0),
    'read the memory of init': (310, 1, 0, 0, 0, 0, 0), 'take a descriptor of init': (438, libc.syscall(434, 1, 0), 1, 0),
}
for name, (number, *arguments) in calls.items():
    pid = os.getpid()
    if libc.syscall(number, *arguments) != -1: print('done', name)
    if os.getpid() != pid: os._exit(0)
"""
    assert output(sandbox, code) == ""


def test_no_crash_reaches_a_core_handler(sandbox: Sandbox) -> None:
    """A handler that core_pattern pipes to runs on the host, whatever the limit, unless that is 1 byte."""
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))"
    assert output(sandbox, code) == "(1, 1)"
