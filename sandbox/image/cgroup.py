"""This container's own counters, from cgroup v1 or v2 (State.OOMKilled of the engine is not reliable).

Under a runtime that shows no cgroup (gVisor) the counters stay 0: then rlimits, the wall clock and the
rusage of ended processes decide alone.
"""

# ruff: noqa: PTH123, PTH207  (plain os calls: this runs with every test)
from __future__ import annotations

import glob
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


class Cgroup:
    """Memory in bytes, CPU in seconds, and how often the kernel killed for memory."""

    def __init__(self, root: str = "/sys/fs/cgroup") -> None:
        self.version = 2 if Path(root, "cgroup.controllers").exists() else 1
        files = (
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "cpuacct/cpuacct.usage",
            "memory/memory.oom_control",
        )
        if self.version == 2:
            files = ("memory.current", "memory.stat", "cpu.stat", "memory.events")
        self._used, self._memory, self._cpu, self._oom = 0, 0, 0, 0
        try:
            self._used, self._memory, self._cpu, self._oom = (os.open(f"{root}/{file}", os.O_RDONLY) for file in files)
        except FileNotFoundError:
            self.version = 0

    def memory(self) -> int:
        """All but page cache, which whoever reads a file first would pay for. So memory files count, and what the
        kernel holds for a program: pipes, socket buffers, page tables."""
        if not self.version:
            return 0
        text = os.pread(self._memory, 8192, 0)
        cached = _field(text, b"file" if self.version == 2 else b"cache") - _field(text, b"shmem")
        return int(os.pread(self._used, 32, 0)) - cached

    def cpu(self) -> float:
        if not self.version:
            return 0.0
        text = os.pread(self._cpu, 4096, 0)
        return _field(text, b"usage_usec") / 1e6 if self.version == 2 else int(text) / 1e9

    def oom_kills(self) -> int:
        return _field(os.pread(self._oom, 4096, 0), b"oom_kill") if self.version else 0


@dataclass(frozen=True)
class Threads:
    """What the threads of a program have done: seconds run by all; seconds that the one which waited longest was
    ready to run and had no processor; whether one is running or ready now (then its present wait is not yet in
    `waited`); whether all have ended."""

    ran: float
    waited: float
    ready: bool
    ended: bool


def threads(ours: set[int]) -> Threads:
    """All threads but those of `ours`; zeros where the kernel doesn't tell (gVisor)."""
    ran, waited, states = 0, 0, set()
    for path in glob.glob("/proc/[0-9]*/task/[0-9]*"):
        if int(path.split("/")[2]) in ours:
            continue
        with suppress(OSError, ValueError):  # it has ended
            with open(f"{path}/schedstat") as file:
                times = file.read().split()
            with open(f"{path}/stat") as file:
                states.add(file.read().rpartition(")")[2].split()[0])
            ran, waited = ran + int(times[0]), max(waited, int(times[1]))
    return Threads(ran / 1e9, waited / 1e9, "R" in states, states <= {"Z", "X"})


def _field(text: bytes, name: bytes) -> int:
    for line in text.splitlines():
        key, _, value = line.partition(b" ")
        if key == name:
            return int(value)
    return 0
