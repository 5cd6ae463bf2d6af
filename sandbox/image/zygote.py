"""A warm interpreter that forks one clean child per program run. Other languages' programs are executed from there.

It never sees a program, an input or an output: those travel in memory files whose descriptors it only passes
on, so a child inherits nothing of an earlier solution. It asks for a request, forks, waits, reports how the
child ended, and asks again. The modules below are imported once so that a child need not. The hash seed is
fixed, so that a program gives the same output twice.
"""

# ruff: noqa: F401  (imported to be warm)
from __future__ import annotations

import array
import bisect
import collections.abc
import copy
import datetime
import decimal
import fractions
import functools
import gc
import heapq
import io
import itertools
import json
import linecache
import math
import operator
import os
import random
import re
import resource
import signal
import socket
import string
import struct
import sys
import threading
import time
import traceback
import types
import typing
from typing import Any

from sandbox.image import child, seccomp

CONTROL_FD = 3
FRAMES = 10  # of ours, below a script's first
STOPPED = 0x137F
RESULT_FD = 5  # where a child finds its message channel
SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT)  # which Python handles its own way; exec would keep that


def drop_privileges(request: dict[str, Any]) -> None:
    """Turn this fresh child into the solution's user, with its limits, in its own session and folder."""
    os.setsid()
    os.write(os.open("/proc/self/oom_score_adj", os.O_WRONLY), b"1000")  # the kernel takes it before the supervisor
    os.nice(19)  # a crowd of processes must not keep the supervisor from looking
    for name, value in request["rlimits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    uid = request["uid"]
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.umask(0o027)
    os.chdir("/work")


def become_program(request: dict[str, Any], fds: list[int]) -> None:
    """Give the child its descriptors and run the program; never returns."""
    job, stdin, stdout, stderr, messages = fds
    content = os.pread(job, os.fstat(job).st_size, 0)
    high = [os.dup(fd) for fd in (stdin, stdout, stderr, messages)]
    for target, fd in zip((0, 1, 2, RESULT_FD), high, strict=True):
        if fd <= RESULT_FD:
            raise RuntimeError(f"descriptor {fd} is in the way")
        os.dup2(fd, target)
    drop_privileges(request)
    command = request["command"]
    if command:  # a compiler, or another language's program
        os.closerange(3, 256)
        for name in SIGNALS:
            signal.signal(name, signal.SIG_DFL)
        os.chdir(command["folder"])
        os.execvpe(command["argv"][0], command["argv"], dict(os.environ) | command["environment"])
    os.closerange(3, RESULT_FD)
    os.closerange(RESULT_FD + 1, 256)
    child.run(request["mode"], content, RESULT_FD)


def main() -> None:
    own = int(sys.argv[1])  # real and saved uid that no other process has: kill(-1) for a solution spares us
    os.setresuid(own, 0, own)
    seccomp.install()
    # The fixed descriptor numbers must be free of surprises: keep 3..15 occupied by the control socket.
    control = socket.socket(fileno=CONTROL_FD)
    for target in range(CONTROL_FD + 1, 16):
        os.dup2(CONTROL_FD, target, inheritable=False)
    threading.stack_size(8 << 20)  # the main thread's own limit is far higher, for deep recursion
    sys.setrecursionlimit(1000 + FRAMES)
    # A program shall find the interpreter as it would find its own. (Done here, not in each child: every
    # page that a child touches is copied, and that is most of what a run costs.)
    for name in [name for name in sys.modules if name.split(".")[0] == "sandbox"]:
        del sys.modules[name]
    sys.path[:] = ["/work"] + [path for path in sys.path[1:] if path != "/opt/stillhouse"]
    os.environ.pop("PYTHONPATH")
    gc.collect()
    gc.freeze()
    control.send(b"ready")
    while True:
        raw, fds, _, _ = socket.recv_fds(control, 1 << 16, 5)
        if not raw:
            return
        request = json.loads(raw)
        pid = os.fork()
        if pid == 0:
            try:
                become_program(request, fds)
            except BaseException:  # noqa: BLE001
                traceback.print_exc()
                os._exit(99)
        for fd in fds:
            os.close(fd)
        status = STOPPED
        while os.WIFSTOPPED(status):  # a child may have itself traced by its parent: a stop is not its end
            _, status, usage = os.wait4(pid, 0)
        report = {
            "status": status,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "peak": usage.ru_maxrss * 1024,
        }
        control.send(json.dumps(report).encode())


if __name__ == "__main__":
    main()
