"""This container's own counters, from cgroup v1 or v2 (State.OOMKilled of the engine is not reliable).

Under a runtime that shows no cgroup (gVisor) the counters stay 0: then rlimits, the wall clock and the
rusage of ended processes decide alone.
"""

from __future__ import annotations

import os
from pathlib import Path


class Cgroup:
    """Memory in bytes, CPU in seconds, and how often the kernel killed for memory."""

    def __init__(self, root: str = "/sys/fs/cgroup") -> None:
        self.version = 2 if Path(root, "cgroup.controllers").exists() else 1
        files = ("memory/memory.stat", "cpuacct/cpuacct.usage", "memory/memory.oom_control")
        if self.version == 2:
            files = ("memory.stat", "cpu.stat", "memory.events")
        self._memory, self._cpu, self._oom = 0, 0, 0
        try:
            self._memory, self._cpu, self._oom = (os.open(f"{root}/{file}", os.O_RDONLY) for file in files)
        except FileNotFoundError:
            self.version = 0

    def memory(self) -> int:
        """Anonymous memory and memory files; not page cache, which whoever reads a file first would pay for."""
        if not self.version:
            return 0
        text = os.pread(self._memory, 8192, 0)
        return _field(text, b"anon" if self.version == 2 else b"rss") + _field(text, b"shmem")

    def cpu(self) -> float:
        if not self.version:
            return 0.0
        text = os.pread(self._cpu, 4096, 0)
        return _field(text, b"usage_usec") / 1e6 if self.version == 2 else int(text) / 1e9

    def oom_kills(self) -> int:
        return _field(os.pread(self._oom, 4096, 0), b"oom_kill") if self.version else 0


def _field(text: bytes, name: bytes) -> int:
    for line in text.splitlines():
        key, _, value = line.partition(b" ")
        if key == name:
            return int(value)
    return 0
