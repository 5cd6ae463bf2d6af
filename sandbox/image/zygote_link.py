"""The supervisor's end of the zygote: starts the warm interpreter and holds its control socket."""

from __future__ import annotations

import os
import resource
import socket
import sys

STACK = 512 << 20  # the main thread's stack: recursion to 10^5 must fit; touched pages count as memory
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/work", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}


class HostGone(Exception):
    """stdin closed or the host spoke out of turn: end the container."""


class Zygote:
    """The warm interpreter and its control socket."""

    def __init__(self, uid: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            _, highest = resource.getrlimit(resource.RLIMIT_STACK)
            resource.setrlimit(resource.RLIMIT_STACK, (STACK, highest))  # many programs ask for all there is
            os.dup2(os.open("/dev/null", os.O_RDWR), 0)
            os.dup2(os.open("/dev/null", os.O_RDWR), 1)
            os.dup2(theirs.fileno(), 3, inheritable=True)
            os.closerange(4, 64)
            environment = {**ENVIRONMENT, "PYTHONPATH": "/opt/stillhouse"}
            python = [sys.executable, "-s", "-B", "-X", "utf8", "-m", "sandbox.image.zygote", str(uid)]
            os.execve(sys.executable, python, environment)
        theirs.close()
        self.pid = pid
        self.socket = ours
        if ours.recv(16) != b"ready":
            raise RuntimeError("the zygote did not start")
