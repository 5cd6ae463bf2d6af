"""Proves that right programs stay right: each does something that a plain interpreter, fed by a pipe, allows.

A program's end is where sandboxes lose output: what is unflushed, replaced or closed must come out as it would from
`python3 solution.py`. Not the same here, and not tested: `__file__` names no file that can be opened (so no spawn of
multiprocessing), stdin and stdout are files (asyncio's pipe transports refuse them, and opening /dev/stdout for
writing empties it).
"""

# ruff: noqa: E501  (programs as they are)

from __future__ import annotations

import pytest

from sandbox import Limits, Sandbox, TestCase
from sandbox.verdict import MIB

LIMITS = Limits(time_s=5.0, memory_bytes=256 * MIB)

INPUT = [
    ("import sys\nfor line in sys.stdin: print(line.strip())", "a\nb", "a\nb"),
    ("import sys\nprint(len(sys.stdin.buffer.read()))", "é" * 10, "20"),
    ("import sys\nprint(len(sys.stdin.read()), repr(sys.stdin.read()), repr(sys.stdin.readline()))", "abc", "3 '' ''"),
    ("import sys\nit = iter(sys.stdin)\nprint(next(it).strip(), input())", "a\nb", "a b"),
    ("import os\nprint(os.read(0, 100))", "a\n", "b'a\\n'"),
    ("print('not read')", "z" * (5 << 20), "not read"),
    ("import sys\nprint(sum(map(len, sys.stdin.read().split())))", "12345678 " * 500_000, "4000000"),
    ("print(open('/dev/stdin').read())", "via dev", "via dev"),
    ("print(open(0).read())", "via 0", "via 0"),
    ("import fileinput\nfor line in fileinput.input(): print(line.strip())", "a\nb", "a\nb"),
    ("import subprocess\nsubprocess.run(['cat'])", "through a child", "through a child"),
    ("import select, sys\nprint(bool(select.select([sys.stdin], [], [], 1)[0]), input())", "a", "True a"),
    ("print(input(), input())", "a\r\nb", "a b"),
    ("print(input('prompt '), end='')", "a\n", "prompt a"),
    ("try: input()\nexcept EOFError: print('end')", "", "end"),
    ("while True:\n    try: print(input())\n    except EOFError: break", "a\nb", "a\nb"),
    ("import sys\nsys.stdin = open(0, encoding='utf-8-sig'); print(input())", "\ufeffa", "a"),
    ("print(input()[::-1])", "héllo 漢🎉", "🎉漢 olléh"),
    ("import sys\nsys.stdin.close(); print(1)", "unread", "1"),
]
OUTPUT = [
    ("print('y' * 300_000)", "", "y" * 300_000),
    ("for i in range(500_000): print('0123456789')", "", "0123456789\n" * 500_000),
    ("print('ünïcödé 漢字 🎉')", "", "ünïcödé 漢字 🎉"),
    ("print(1, end='\\r\\n'); print(2, end='')", "", "1\n2"),
    ("import sys\nprint('error', file=sys.stderr); print(1)", "", "1"),
    ("import sys\nsys.stdout.buffer.write(b'a\\n'); print('b')", "", "a\nb"),
    ("import os\nprint(1, flush=True); os.write(1, b'2\\n'); print(3)", "", "1\n2\n3"),
    (
        "import subprocess, os\nprint(1, flush=True); subprocess.run(['echo', '2']); os.system('echo 3'); print(4)",
        "",
        "1\n2\n3\n4",
    ),
    (
        "import os\nprint('both')\nif os.fork() == 0: raise SystemExit\nos.wait()",
        "",
        "both\nboth",
    ),  # the buffer is forked too
    ("import sys\nsys.stdout = open('/dev/stdout', 'w'); print(1)", "", "1"),
    (
        "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.detach(), 'utf-8', line_buffering=True); print('é')",
        "",
        "é",
    ),
    (
        "import io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()) as f: print('in')\nprint(f.getvalue() + 'out')",
        "",
        "in\nout",
    ),
]
END = [
    ("import sys\nprint(5); sys.exit(0)", "", "5"),
    ("print(5); exit()", "", "5"),
    ("print(5); quit(0)", "", "5"),
    ("import sys\nsys.stdout.write('no newline'); sys.exit()", "", "no newline"),
    ("import atexit\natexit.register(print, 'bye'); atexit.register(print, 'good')\nprint('hi')", "", "hi\ngood\nbye"),
    (
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.05), print('late'))).start()\nprint('main')",
        "",
        "main\nlate",
    ),
    ("import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start(); print(1)", "", "1"),
    ("import threading\nt = threading.Thread(target=lambda: 1 / 0); t.start(); t.join(); print(1)", "", "1"),
    ("out = open(1, 'w')\nout.write('5\\n')", "", "5"),
    ("import os\nout = os.fdopen(os.dup(1), 'wb')\nout.write(b'5\\n')", "", "5"),
    ("import io, sys\nprint(5)\nsys.stdout = io.StringIO()\nprint(6)", "", "5"),
    ("import io, sys\nsys.stdout = text = io.StringIO()\nprint(5)\nsys.__stdout__.write(text.getvalue())", "", "5"),
    ("import sys\nprint(5)\nsys.stdout.close()", "", "5"),
    ("import sys\nprint(5)\nsys.stdout.flush(); sys.stdout = None; print(6)", "", "5"),
    ("import sys\nsys.stderr.close(); print(5)", "", "5"),
    ("class A:\n    def __del__(self): print(5)\na = A()", "", "5"),
    ("class A:\n    def __del__(self): print(5)\na = A(); a.a = a", "", "5"),
    ("def f():\n    try: yield\n    finally: print(5)\nx = f(); next(x)", "", "5"),
    ("import weakref\nclass A: pass\na = A(); weakref.finalize(a, print, 5)", "", "5"),
]
DEPTH = [
    ("f = lambda n: n and f(n - 1) + 1\nprint(f(990))", "", "990"),
    ("import sys\nsys.setrecursionlimit(10**6)\nf = lambda n: n and f(n - 1) + 1\nprint(f(100_000))", "", "100000"),
    (
        "import sys, functools\nsys.setrecursionlimit(10**6)\n@functools.lru_cache(None)\ndef f(n): return n and f(n - 1) + 1\nprint(f(50_000))",
        "",
        "50000",
    ),
    *(
        (
            f"import sys, threading\ndef f(n): return n and f(n - 1) + 1\ndef main():\n    sys.setrecursionlimit(10**6)\n    print(f(50_000))\n"
            f"threading.stack_size({size})\nt = threading.Thread(target=main); t.start(); t.join()",
            "",
            "50000",
        )
        for size in ("1 << 27", "512 * 1024 * 1024")
    ),
    *(
        (f"import resource\nresource.setrlimit(resource.RLIMIT_STACK, ({soft}, {hard})); print(1)", "", "1")
        for soft, hard in (("1 << 28", "-1"), ("-1", "-1"), ("1 << 29", "1 << 29"), ("-1", "resource.getrlimit(3)[1]"))
    ),
]
LANGUAGE = [
    ("x = 0\ndef f():\n    global x\n    x += 1\nf()\nprint(x)", "", "1"),
    ("if __name__ == '__main__': print('main')", "", "main"),
    ("import __main__\nx = 4\nprint(__main__.x)", "", "4"),
    ("\ufeffprint('mark')", "", "mark"),
    ("# -*- coding: latin-1 -*-\nprint(1)", "", "1"),
    ("x = 1\r\nif x:\r\n    print('carriage')\r\n", "", "carriage"),
    ("if 1:\n\tprint('tab')", "", "tab"),
    (
        "from __future__ import annotations\nfrom typing import *\ndef f(x: List[int]) -> Optional[int]: return x[0]\nprint(f([1]), get_type_hints(f)['x'])",
        "",
        "1 typing.List[int]",
    ),
    ("print('\\d')  # an invalid escape is a warning", "", "\\d"),
    (
        "try: str(10**4300)\nexcept ValueError: print('limit')\nimport sys\nsys.set_int_max_str_digits(0); print(len(str(10**5000)))",
        "",
        "limit\n5001",
    ),
    ("print(int(input()) + 1)", "9" * 4000, "1" + "0" * 4000),
    ("import random\nrandom.seed(1); print(random.randint(1, 10**6))", "", "140892"),
    (
        "import os, sys\nprint(os.getcwd(), len(sys.argv), sys.stdin.isatty(), sys.stdout.encoding)",
        "",
        "/work 1 False utf-8",
    ),
    ("print(copyright is not None and callable(exit) and callable(help))", "", "True"),
    ("exec('x = 3'); print(eval('x + 1'))", "", "4"),
    (
        "import sys\ncalls = []\nsys.settrace(lambda *a: calls.append(a))\n(lambda: 0)()\nsys.settrace(None); print(len(calls))",
        "",
        "1",
    ),
]
LIBRARY = [
    ("from dataclasses import dataclass, field\n@dataclass(order=True)\nclass A:\n    x: 'int'\n    y: list[int] = field(default_factory=list)\nprint(A(1) < A(2), A(3))", "", "True A(x=3, y=[])"),
    ("import inspect\ndef f():\n    return 1\nclass C:\n    def g(self): return 2\nprint(inspect.getsource(f) + inspect.getsource(C))", "", "def f():\n    return 1\nclass C:\n    def g(self): return 2"),
    ("import pickle\nclass A: pass\na = A(); a.x = 3\ndef f(): pass\nprint(pickle.loads(pickle.dumps(a)).x, pickle.loads(pickle.dumps(f)) is f)", "", "3 True"),
    ("import doctest\ndef f(x):\n    '''\n    >>> f(1)\n    2\n    '''\n    return x + 1\nprint(doctest.testmod())", "", "TestResults(failed=0, attempted=1)"),
    ("import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(1, 1)\nif __name__ == '__main__':\n    print(5)\n    unittest.main()", "", "5"),
    ("import faulthandler\nfaulthandler.enable(); faulthandler.dump_traceback(); print(1)", "", "1"),
    ("import signal\ndef stop(*_): print('alarm'); raise SystemExit\nsignal.signal(signal.SIGALRM, stop); signal.setitimer(signal.ITIMER_REAL, 0.02)\nwhile True: pass", "", "alarm"),
    ("import os, signal, time\ntry: os.kill(os.getpid(), signal.SIGINT); time.sleep(9)\nexcept KeyboardInterrupt: print('interrupt')", "", "interrupt"),
    ("import time\ntime.sleep(0.1); print(1)", "", "1"),
    ("import threading\nout = []\nts = [threading.Thread(target=out.append, args=(i,)) for i in range(30)]\n[t.start() for t in ts]; [t.join() for t in ts]\nprint(len(out))", "", "30"),
    ("from concurrent.futures import ThreadPoolExecutor as P\nwith P(8) as p: print(sum(p.map(int, '12345')))", "", "15"),
    ("from concurrent.futures import ProcessPoolExecutor as P\nwith P(2) as p: print(sum(p.map(abs, [-1, -2])))", "", "3"),
    ("import multiprocessing as mp\ndef square(x): return x * x\nif __name__ == '__main__':\n    with mp.Pool(2) as pool: print(sum(pool.map(square, range(10))))", "", "285"),
    ("import multiprocessing as mp\ndef put(q): q.put(7)\nq = mp.Queue(); p = mp.Process(target=put, args=(q,)); p.start(); print(q.get()); p.join()", "", "7"),
    ("import multiprocessing as mp\nwith mp.Manager() as m: d = m.dict(a=1); print(d['a'])", "", "1"),
    ("from multiprocessing.shared_memory import SharedMemory\nm = SharedMemory(create=True, size=100); m.buf[0] = 5; print(m.buf[0]); m.close(); m.unlink()", "", "5"),
    ("import asyncio\nasync def main():\n    await asyncio.sleep(0.01)\n    p = await asyncio.create_subprocess_exec('echo', 'hi', stdout=-1)\n    print((await p.communicate())[0].decode(), end='')\nasyncio.run(main())", "", "hi"),
    ("import subprocess, sys\nprint(subprocess.check_output([sys.executable, '-c', 'print(7)'], text=True))", "", "7"),
    ("import subprocess\nprint(subprocess.run('yes | head -1', shell=True, capture_output=True, text=True).stdout)", "", "y"),
    ("import socket, threading\ns = socket.create_server(('127.0.0.1', 0))\nthreading.Thread(target=lambda: s.accept()[0].sendall(b'hi')).start()\nprint(socket.create_connection(s.getsockname()).recv(9).decode())", "", "hi"),
    ("import tempfile\nwith tempfile.TemporaryFile() as f: print(f.write(b'abc'))", "", "3"),
    ("open('/tmp/x', 'w').write('1'); open('y', 'w').write('2')\nimport os\nprint(open('/tmp/x').read(), os.listdir())", "", "1 ['y']"),
    ("open('module.py', 'w').write('y = 3')\nimport module\nprint(module.y)", "", "3"),
    ("from pathlib import Path\nPath('d').mkdir(); (Path('d') / 'f').write_text('é', encoding='utf-8'); print(Path('d/f').stat().st_size, Path.home())", "", "2 /work"),
    ("import sqlite3\nc = sqlite3.connect('x.db'); c.execute('create table t(a)'); c.execute('insert into t values (3)'); c.commit(); print(*c.execute('select a from t').fetchone())", "", "3"),
    ("import bz2, ctypes, hashlib, lzma, ssl, uuid, zlib, zoneinfo, unicodedata, xml.etree.ElementTree\nprint(zlib.crc32(b'a'), ctypes.CDLL(None).abs(-3), unicodedata.name('é'))", "", "3904355907 3 LATIN SMALL LETTER E WITH ACUTE"),
    ("from decimal import *\ngetcontext().prec = 5000\nprint(str(Decimal(2).sqrt())[-5:])", "", "06265"),
    ("from fractions import Fraction\nprint(sum(Fraction(1, i) for i in range(1, 800)).numerator % 1000)", "", "719"),
    ("import heapq, bisect, itertools, collections\nprint(collections.Counter('aab').most_common(1), heapq.nsmallest(1, [2, 1]), bisect.bisect([1, 2], 1))", "", "[('a', 2)] [1] 1"),
    ("fs = [open('/dev/null') for _ in range(200)]; print(len(fs))", "", "200"),
    ("d = {i: str(i) for i in range(1_000_000)}; print(len(d))", "", "1000000"),
    ("x = bytearray(b'x') * (225 << 20); print(len(x) >> 20)", "", "225"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "given", "expected"), INPUT + OUTPUT + END + DEPTH + LANGUAGE + LIBRARY)
def test_right_programs_stay_right(sandbox: Sandbox, code: str, given: str, expected: str) -> None:
    verdict = sandbox.judge(code, [TestCase("stdin", given, expected)], limits=LIMITS)
    assert (verdict.status, verdict.detail) == ("accepted", "")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("input()", "runtime_error"),
        ("print(5); 1 / 0", "runtime_error"),
        ("print(5); exit(3)", "runtime_error"),
        ("import sys\nprint(5); sys.exit(10**20)", "runtime_error"),
        ("import sys\nprint(5); sys.exit('five')", "runtime_error"),
        ("print(5); raise KeyboardInterrupt", "runtime_error"),
        ("import sys\nprint(5); sys.stdout.flush(); sys.stdout.buffer.raw.close(); print(6)", "runtime_error"),
        ("print('\\ud800')", "runtime_error"),
        ("import threading\nprint(5)\nthreading.Thread(target=lambda: 1 / 0).start()\nraise SystemExit(1)", "runtime_error"),
        ("f = lambda n: n and f(n - 1) + 1\nprint(f(1010) and 5)", "runtime_error"),
        ("out = open(1, 'w')\nout.write('6\\n')", "wrong_answer"),
        ("class A:\n    def __del__(self): print(6)\na = A(); print(5)", "wrong_answer"),
    ],
)  # fmt: skip
def test_wrong_ends_stay_wrong(sandbox: Sandbox, code: str, status: str) -> None:
    assert sandbox.judge(code, [TestCase("stdin", "", "5")], limits=LIMITS).status == status


@pytest.mark.parametrize(("share", "status"), [(0.8, "accepted"), (1.3, "time_limit")])
def test_a_heavy_loop_may_use_most_of_the_limit(sandbox: Sandbox, share: float, status: str) -> None:
    code = f"import time\nwhile time.process_time() < {share}: sum(range(1000))\nprint(5)"
    verdict = sandbox.judge(code, [TestCase("stdin", "", "5")], limits=Limits(time_s=1.0, wall_s=20.0))
    assert verdict.status == status, verdict
