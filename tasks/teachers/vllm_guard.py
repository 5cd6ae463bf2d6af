"""Stands between Stillhouse and one vLLM server, so that no server outlives the run that started it.

A server is several processes, which start and leave sessions as they like; what they inherit is an environment
variable with the server's tag (which `SPT_NOENV` keeps readable: vLLM's processes rename themselves). This file runs
as a small process of its own (`python vllm_guard.py PARENT -- COMMAND`): it starts the command, and when that ends, or
when SIGTERM comes, or when the process PARENT is gone (killed with SIGKILL, say), it ends every process with the tag
or in its own process group. If the guard itself is killed, the server's first process gets SIGKILL from the kernel,
and the rest falls to `sweep`, at the next start. Nothing is ever found by its name.

Only the standard library: the guard starts in 20 ms and stays small. Linux only; elsewhere the process group is all.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TAG = "STILLHOUSE_SERVER"
"""Environment variable that all processes of a server carry."""
GRACE_S = 10.0
"""How long a server may take to leave after SIGTERM; then SIGKILL."""
POLL_S = 0.2
_PR_SET_PDEATHSIG = 1


def tagged(tag: str) -> list[int]:
    """The running processes of this user that carry the tag, this one left out."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        if pid != os.getpid() and _carries(pid, tag):
            found.append(pid)
    return found


def end_tagged(tag: str, patience_s: float = 10.0) -> list[int]:
    """SIGKILL to every process with the tag until none is left; returns those that are still there after all."""
    until = time.monotonic() + patience_s
    while (left := tagged(tag)) and time.monotonic() < until:
        for pid in left:
            _kill_if_tagged(pid, tag)
        time.sleep(0.05)
    return left


def write_note(file: Path, tag: str) -> None:
    """The note beside a server's log, by which a later start finds what a dead run left behind."""
    owner = os.getpid()
    note = {"tag": tag, "host": socket.gethostname(), "machine": _machine(), "owner": owner, "started": _started(owner)}
    file.write_text(json.dumps(note))


def sweep(folder: Path) -> int:
    """End the servers of runs on this machine that are dead; returns how many processes that were.

    `folder` holds the notes. A note is believed only as far as this: its run is dead if no process has its number
    and its start time, and only processes that carry its tag are ended.
    """
    ended = 0
    for file in folder.glob("*.json"):
        try:
            note: dict[str, Any] = json.loads(file.read_text())
            tag, host, machine = str(note["tag"]), note["host"], note["machine"]
            owner, started = int(note["owner"]), note["started"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # being written, or not ours
        if host != socket.gethostname():
            continue  # a folder that machines share
        if machine == _machine():
            if started is not None and _started(owner) == started:
                continue
            before = tagged(tag)
            if end_tagged(tag):
                continue
            ended += len(before)
        file.unlink(missing_ok=True)
    return ended


def _carries(pid: int, tag: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False  # gone, or another user's
    return f"{TAG}={tag}".encode() in environment.split(b"\0")


def _kill_if_tagged(pid: int, tag: str) -> None:
    """By a handle on the process, so that its number can't pass to another one between look and kill."""
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            if _carries(pid, tag):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)


def _started(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot; None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before may hold blanks and brackets
    return None if fields[0] == "Z" else fields[19]


def _machine() -> str:
    """Boot and process namespace: process numbers mean something only within both."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _die_with_guard() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_group() -> None:
    """SIGKILL to all others in the guard's process group: also to those whose environment can't be read."""
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        with contextlib.suppress(OSError):
            if pid != os.getpid() and os.getpgid(pid) == os.getpgrp():
                os.kill(pid, signal.SIGKILL)


def _guard(parent: int, command: Sequence[str]) -> int:
    """Run the command until it ends or must end; its exit status, 128 + n for signal n."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_guard)
    while server.poll() is None and not told and os.getppid() == parent:
        time.sleep(POLL_S)
    if server.poll() is None:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(GRACE_S)
        server.kill()
        server.wait()
    _end_group()
    end_tagged(os.environ[TAG])
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


if __name__ == "__main__":
    sys.exit(_guard(int(sys.argv[1]), sys.argv[3:]))
