"""One running program, from the supervisor's side: descriptors, limits, counters, and how it ended.

Input and outputs are memory files, not pipes: unread input blocks nobody, a program may re-open /dev/stdin,
a daemonised child that keeps stdout open holds nothing up, and a flood stops at RLIMIT_FSIZE or at the next
look, whichever comes first.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import time
from typing import Any

from sandbox.image import frames
from sandbox.image.cgroup import Cgroup, Threads, threads
from sandbox.image.cleanup import kill_all, only_we_are_left, reap
from sandbox.image.zygote_link import HostGone, Zygote

HEAD = 8192  # bytes of stdout/stderr that are evidence
PATIENCE = 5  # times the wall-clock limit, for a program that no processor was free for
TICK = (0.002, 0.02)  # seconds between looks at a running program: first, longest


class Program:
    """One running program, from the supervisor's side: its descriptors, limits and counters."""

    def __init__(self, zygote: Zygote, cgroup: Cgroup, uid: int, header: dict[str, Any], blobs: list[bytes]) -> None:
        self.zygote, self.cgroup, self.uid = zygote, cgroup, uid
        self.limits = header["limits"]
        code, stdin = blobs[0], blobs[1]
        job = memory_file("job", json.dumps(header["job"]).encode() + b"\n" + code)
        self.stdin = memory_file("stdin", stdin)
        self.out, self.err = memory_file("stdout", b""), memory_file("stderr", b"")
        self.messages, theirs = socket.socketpair()
        self.messages.setblocking(False)
        self.buffer = bytearray()
        self.outgoing = bytes((header.get("first") and blobs[2]) or b"")
        self.message: bytes | None = None
        self.exit: dict[str, Any] | None = None
        self.limit: str | None = None
        self.wall_s = 0.0
        self.looked, self.tick = time.monotonic(), TICK[0]
        self.peak = 0
        self.threads: Threads | None = None
        self.memory0, self.cpu0, self.oom0 = cgroup.memory(), self.cpu_now(), cgroup.oom_kills()
        limits = self.limits
        rlimits = {
            "RLIMIT_CPU": int(limits["time_s"]) + 2,
            "RLIMIT_NPROC": limits["processes"],
            "RLIMIT_FSIZE": max(limits["output"] + 1, 64 << 20),
            "RLIMIT_NOFILE": 256,
            "RLIMIT_CORE": 1,  # 0 would still start a handler on the host that core_pattern pipes to
            "RLIMIT_MEMLOCK": 0,
        }
        command = header.get("command")
        if not command:  # the warm interpreter: refuse one huge request at once; the look below is finer
            rlimits["RLIMIT_DATA"] = limits["memory"] + (640 << 20)
        request = {"mode": header["mode"], "uid": uid, "rlimits": rlimits, "command": command}
        fds = [job, self.stdin, self.out, self.err, theirs.fileno()]
        socket.send_fds(zygote.socket, [json.dumps(request).encode()], fds)
        theirs.close()
        os.close(job)

    def cpu_now(self) -> float:
        own = os.times()
        return self.cgroup.cpu() - own.user - own.system

    def wait(self, until: str) -> None:
        """Wait for a message or the end of the main process, whichever `until` names; stop at a limit."""
        started = time.monotonic()
        poll = select.poll()
        poll.register(self.zygote.socket, select.POLLIN)
        poll.register(0, select.POLLIN)
        while self.exit is None and self.limit is None and not (until == "message" and self.message is not None):
            open_ = self.messages.fileno() >= 0
            if open_:
                poll.register(self.messages, select.POLLIN | (select.POLLOUT if self.outgoing else 0))
            ready = dict(poll.poll(self.tick * 1000))
            if 0 in ready:
                raise HostGone
            if open_ and self.messages.fileno() in ready:
                self.exchange(poll, ready[self.messages.fileno()])
            if self.zygote.socket.fileno() in ready:
                self.note_exit()
                break
            now = time.monotonic()
            if not ready or now - self.looked > self.tick:  # since the last look, which may be many turns ago
                self.look(self.wall_s + now - started)
                self.looked, self.tick = now, min(self.tick * 1.5, TICK[1])
        self.wall_s += time.monotonic() - started

    def exchange(self, poll: select.poll, events: int) -> None:
        """Move bytes of the message channel; a program that breaks it only loses its channel."""
        try:
            if events & select.POLLOUT:
                self.outgoing = self.outgoing[self.messages.send(self.outgoing[: 1 << 18]) :]
        except BlockingIOError:
            pass
        except OSError:
            self.outgoing = b""  # it has ended without reading that; what it said before is still to be read
        try:
            if events & (select.POLLIN | select.POLLHUP):
                part = self.messages.recv(1 << 18)
                self.buffer += part
                if not part:
                    raise ConnectionError
            if len(self.buffer) >= 4 and self.message is None:
                size = struct.unpack_from(">I", self.buffer)[0]
                if size > frames.MAX_MESSAGE:
                    self.limit = "output"
                elif len(self.buffer) >= 4 + size:
                    self.message = bytes(self.buffer[4 : 4 + size])
                    del self.buffer[: 4 + size]
            if len(self.buffer) > 2 * frames.MAX_MESSAGE:
                self.limit = "output"
        except BlockingIOError:
            pass
        except OSError:
            poll.unregister(self.messages)
            self.messages.close()

    def look(self, wall: float) -> None:
        """Compare what the program has used with its limits."""
        limits = self.limits
        used = self.cgroup.memory() - self.memory0
        self.peak = max(self.peak, used)
        if max(os.fstat(self.out).st_size, os.fstat(self.err).st_size) > limits["output"]:
            self.limit = "output"
        elif self.cgroup.oom_kills() > self.oom0 or used > limits["memory"]:
            self.limit = "memory"
        elif self.cpu_now() - self.cpu0 > limits["time_s"]:
            self.limit = "time"
        elif wall > limits["wall_s"]:
            # On a busy machine a program may have waited for a processor all the while: that is not its own doing.
            # (It can't feign it: who is ready to run and gets a processor runs into the limit of CPU time.)
            before, now = self.threads, threads({1, self.zygote.pid})
            self.threads = now
            waiting_now = now.ended or (now.ready and (before is None or now.ran == before.ran))
            if wall - now.waited > limits["wall_s"] and not waiting_now:
                self.limit = "wall"
            elif wall > PATIENCE * limits["wall_s"]:
                self.limit = "starved"

    def note_exit(self) -> None:
        raw = self.zygote.socket.recv(1 << 16)
        if not raw:
            raise RuntimeError("the zygote died")
        self.exit = json.loads(raw)

    def end(self) -> dict[str, Any]:
        """Kill what is left of the program and return its report; `dirty` when something survived."""
        finished = self.exit is not None
        extra_cpu, clean = 0.0, False
        deadline = time.monotonic() + 3
        while not clean and time.monotonic() < deadline:
            kill_all(self.uid)
            if self.exit is None and select.select([self.zygote.socket], [], [], 0.5)[0]:
                self.note_exit()
            extra_cpu += reap(self.zygote.pid)
            clean = self.exit is not None and only_we_are_left(self.zygote.pid)
            if not clean:
                time.sleep(0.0005)
        report = self.exit or {"status": 9, "cpu_s": 0.0, "peak": 0}
        if self.messages.fileno() >= 0:
            self.last_message()
        oom = self.cgroup.oom_kills() > self.oom0
        if max(os.fstat(self.out).st_size, os.fstat(self.err).st_size) > self.limits["output"]:
            self.limit = self.limit or "output"
        peak = max(report["peak"], self.peak)
        cpu = report["cpu_s"] + extra_cpu
        if self.limit != "output" and (oom or peak > self.limits["memory"]):
            self.limit = "memory"
        elif cpu > self.limits["time_s"] and finished:
            self.limit = self.limit or "time"
        status = report["status"]
        return {
            "limit": self.limit,
            "finished": finished,
            "exit_code": os.WEXITSTATUS(status) if finished and os.WIFEXITED(status) else None,
            "signal": os.WTERMSIG(status) if finished and os.WIFSIGNALED(status) else None,
            "cpu_s": cpu,
            "wall_s": self.wall_s,
            "peak": peak,
            "dirty": oom or not clean,
        }

    def last_message(self) -> None:
        """A program may say something and end at once: read what is still in its channel."""
        try:
            while self.message is None and len(self.buffer) < frames.MAX_MESSAGE:
                part = self.messages.recv(1 << 18)
                if not part:
                    break
                self.buffer += part
            if self.message is None and len(self.buffer) >= 4:
                size = struct.unpack_from(">I", self.buffer)[0]
                if len(self.buffer) >= 4 + size:
                    self.message = bytes(self.buffer[4 : 4 + size])
        except OSError:
            pass

    def close(self) -> None:
        self.messages.close()
        for fd in (self.stdin, self.out, self.err):
            os.close(fd)


def memory_file(name: str, content: bytes) -> int:
    """A memory file positioned at its start: programs may re-open it as /dev/stdin, and nothing is on disk."""
    fd = os.memfd_create(name)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def read_file(fd: int, size: int) -> bytes:
    return os.pread(fd, min(size, os.fstat(fd).st_size), 0)
